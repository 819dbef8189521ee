"""How many bytes of requests the server holds at once, over all models.

Queues are bounded in rows, but a row may be a few bytes or many megabytes. This bound keeps the
process within its memory whatever the rows are: a request that does not fit is refused before it is
parsed. It counts what has come in whole; what a transport has read of messages that are not whole yet is
the transport's to bound.
"""


class ByteBudget:
    """Bytes that may be in flight. Taken when a request comes in, given back when it was answered."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken = 0
        self.refused = 0
        """Requests that did not fit."""

    def __repr__(self) -> str:
        return f"<ByteBudget {self._taken} of {self._limit} bytes>"

    @property
    def taken(self) -> int:
        """Bytes in flight."""
        return self._taken

    def take(self, size: int) -> bool:
        """Whether there is room; if so it is taken. A request alone always has room."""
        if self._taken and self._taken + size > self._limit:
            self.refused += 1
            return False
        self._taken += size
        return True

    def give(self, size: int) -> None:
        self._taken -= size
