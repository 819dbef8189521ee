"""Times as they are typed: `20ms`, `1.5s`, `2m`, and ranges of them, `1s..3s`."""

import re

_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "": 1.0}
_TIME = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s|m|)")


def seconds_of(text: str) -> float:
    """A time in seconds; without a unit it is seconds. Raises ValueError with a sentence."""
    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"a time is a number and us, ms, s or m, such as 20ms, not '{text}'")
    return float(match[1]) * _UNITS[match[2]]


def range_of(text: str) -> tuple[float, float]:
    """Two times in seconds; a single one is both. Raises ValueError with a sentence."""
    low, dots, high = text.partition("..")
    return seconds_of(low), seconds_of(high if dots else low)


def show(seconds: float) -> str:
    """A time to read: three digits and a fitting unit."""
    if seconds < 0.9995e-3:
        return f"{seconds * 1e6:.0f}us"
    if seconds < 0.9995:
        return f"{seconds * 1e3:.3g}ms"
    return f"{seconds:.3g}s"
