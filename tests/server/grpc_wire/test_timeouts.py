"""`grpc-timeout` both ways."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_server.grpc_wire.timeouts import format_timeout, parse_timeout

SECONDS = {"n": 1e-9, "u": 1e-6, "m": 1e-3, "S": 1, "M": 60, "H": 3600}


@given(st.integers(0, 99_999_999), st.sampled_from("numSMH"), st.integers(0, 8))
def test_every_timeout_is_read(number: int, unit: str, width: int) -> None:
    """One to eight digits, leading zeros among them, and a unit."""
    text = f"{number:0{width}d}{unit}".encode()
    assert parse_timeout(text) == pytest.approx(number * SECONDS[unit])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "S",
        "1",
        "123456789S",
        "-1S",
        "+1S",
        "1.5S",
        " 1S",
        "1S ",
        "1s",
        "1h",
        "1 S",
        "0x1S",
        "1_0S",
        "\u0661S",
        "1SS",
    ],
)
def test_what_is_no_timeout(text: str) -> None:
    """Nothing is guessed."""
    with pytest.raises(ValueError, match="not a timeout"):
        parse_timeout(text.encode())


@given(st.floats(0, 3e11))
def test_a_timeout_is_rounded_up_by_little(seconds: float) -> None:
    """There and back: never earlier, and later by less than a millionth, or a nanosecond."""
    there = parse_timeout(format_timeout(seconds))
    assert seconds * (1 - 1e-9) <= there
    assert there <= seconds * (1 + 1e-4) + 1e-9


def test_the_ends() -> None:
    """No time at all, and more than there is."""
    assert format_timeout(0) == format_timeout(-1) == b"0n"
    assert format_timeout(1e15) == b"99999999H"
    assert format_timeout(float("inf")) == b"99999999H"
