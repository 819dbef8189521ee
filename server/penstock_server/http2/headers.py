"""Header blocks: those we send, prebuilt; those we receive, by the hpack library and a cache."""

from collections.abc import Iterable

Headers = list[tuple[bytes, bytes]]


class HeaderBlock:
    """A header block to send, made once: `HeaderBlock([(b":status", b"200"), ...])`. It uses no dynamic table.

    Names are lower case, pseudo-header fields come first; nothing is checked.
    """

    def __init__(self, fields: Iterable[tuple[bytes, bytes]]) -> None:
        self.block = b"".join(fields_ for pair in fields for fields_ in pair)
