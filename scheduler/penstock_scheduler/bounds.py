"""Bounds on what is queued, in rows and bytes: one for each model, and one that all models may share.

What runs does not count: it is bounded by the instances, and it is on its way out.
"""


class Bounds:
    """How much may be queued, and how much is."""

    __slots__ = ("max_bytes", "max_rows", "nbytes", "rows")

    def __init__(self, max_rows: int, max_bytes: int) -> None:
        self.max_rows = max_rows
        self.max_bytes = max_bytes
        self.rows = 0
        self.nbytes = 0

    def __repr__(self) -> str:
        return f"<Bounds: {self.rows} of {self.max_rows} rows, {self.nbytes} of {self.max_bytes} bytes>"

    def take(self, rows: int, nbytes: int) -> None:
        self.rows += rows
        self.nbytes += nbytes

    def give_back(self, rows: int, nbytes: int) -> None:
        self.rows -= rows
        self.nbytes -= nbytes


UNBOUNDED = 1 << 62
