"""The field `grpc-timeout`: one to eight digits and a unit, relative to when it is received."""

from math import ceil

_UNITS = {b"n": 1e-9, b"u": 1e-6, b"m": 1e-3, b"S": 1.0, b"M": 60.0, b"H": 3600.0}
_MAX_DIGITS = 8
_LARGEST = 10**_MAX_DIGITS - 1


def parse_timeout(value: bytes) -> float:
    """The timeout in seconds. ValueError if it is none."""
    seconds = _UNITS.get(value[-1:])
    digits = value[:-1]
    if seconds is None or not digits.isdigit() or len(digits) > _MAX_DIGITS:  # of bytes: ASCII digits only
        raise ValueError("not a timeout")
    return int(digits) * seconds


def format_timeout(seconds: float) -> bytes:
    """The field's value: rounded up, in the finest unit that holds it. Beyond 11,000 years: the largest there is."""
    if seconds <= 0:
        return b"0n"
    for unit, size in _UNITS.items():
        if seconds <= _LARGEST * size:
            return b"%d%s" % (min(ceil(seconds / size), _LARGEST), unit)
    return b"%dH" % _LARGEST
