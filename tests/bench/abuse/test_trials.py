"""What an attacker is told, as words; and when a trial has gone wrong."""

import msgspec
import pytest
from hpack import Encoder

from penstock_bench.abuse.attacker import Reading
from penstock_bench.abuse.attacks import ATTACKS, MEMORY, named
from penstock_bench.abuse.command import AbuseReport, markdown, told
from penstock_bench.abuse.trial import Trial, p99
from penstock_bench.cli import run
from penstock_bench.load import frames
from penstock_bench.machine import this_machine

MIB = 1 << 20


def trial(**changes: object) -> Trial:
    """One that went well."""
    good = Trial(
        attack="pings",
        what="PING",
        seconds=5.0,
        frames=10,
        connections=1,
        answers={"RST_STREAM CANCEL": 9, "GOAWAY ENHANCE_YOUR_CALM (why)": 2},
        expected="GOAWAY ENHANCE_YOUR_CALM",
        due=True,
        healthy_before=5,
        healthy=5,
        failures={},
        p99_before=0.001,
        p99=0.002,
        memory_before=100 * MIB,
        memory_peak=110 * MIB,
        memory_after=101 * MIB,
        growth_bound=20 * MIB,
        alive=True,
        accounts={"penstock_calls_in_flight": 3.0},
    )
    return msgspec.structs.replace(good, **changes)


@pytest.mark.parametrize("cut", [1, 5, 1000])
def test_a_servers_words(cut: int) -> None:
    """GOAWAY with its reason, resets, and statuses, in whatever pieces they come."""
    said = b"".join(
        (
            frames.settings({}),
            frames.frame(frames.HEADERS, frames.END_HEADERS, 1, Encoder().encode([(b"grpc-status", b"8")])),
            frames.frame(frames.RST_STREAM, 0, 3, frames.REFUSED_STREAM.to_bytes(4, "big")),
            frames.frame(frames.GOAWAY, 0, 0, bytes(4) + frames.ENHANCE_YOUR_CALM.to_bytes(4, "big") + b"calm"),
        )
    )
    reading = Reading()
    for at in range(0, len(said), cut):
        assert not reading.over
        reading.receive(said[at : at + cut])
    assert reading.told == {"grpc-status 8": 1, "RST_STREAM REFUSED_STREAM": 1, "GOAWAY ENHANCE_YOUR_CALM (calm)": 1}
    assert reading.over
    assert reading.has("GOAWAY ENHANCE_YOUR_CALM")
    assert not reading.has("GOAWAY NO_ERROR")


def test_an_answer_in_http1() -> None:
    """Is read as one."""
    reading = Reading()
    reading.receive(b"HTTP/1.1 400 Bad Re")
    assert not reading.over
    reading.receive(b"quest\r\ncontent-length: 0\r\n\r\n")
    assert (reading.told, reading.over) == ({"HTTP/1.1 400": 1}, True)


def test_a_good_trial_has_no_faults() -> None:
    """Nor one whose answer was not waited for."""
    assert trial().faults() == []
    assert trial(answers={}, due=False).faults() == []
    assert trial(answers={}, expected="").faults() == []


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"alive": False}, "the server has ended"),
        ({"failures": {"UNAVAILABLE: gone": 1}}, "the healthy client saw UNAVAILABLE: gone"),
        ({"healthy": 0}, "the healthy client got no answer"),
        ({"answers": {"closed": 1}}, "the attacker was not told GOAWAY ENHANCE_YOUR_CALM"),
        ({"memory_peak": 121 * MIB}, "the server grew by 21 MiB, and may by 20"),
    ],
)
def test_a_fault_is_said_in_a_sentence(changes: dict[str, object], fault: str) -> None:
    """Each of the things that must not happen."""
    assert trial(**changes).faults() == [fault]


def test_what_had_to_be_told_stands_first() -> None:
    """Although other words came more often."""
    assert told(trial()) == "2 x GOAWAY ENHANCE_YOUR_CALM (why)"
    assert told(trial(), most=2).endswith("9 x RST_STREAM CANCEL")
    assert told(trial(answers={})) == "nothing"


def test_the_page_marks_what_is_wrong() -> None:
    """In bold, beside what was done."""
    report = AbuseReport(
        title="T", command="c", started="now", machine=this_machine(), options=["--x", "1"], trials=[trial(healthy=0)]
    )
    text = markdown(report, memory=False)
    assert "| pings | 10 | 2 x GOAWAY ENHANCE_YOUR_CALM (why) | 0 | 0 | 1ms | 2ms | 100 | 110 | 101 |" in text
    assert "**the healthy client got no answer**" in text


def test_percentiles() -> None:
    """Of few values the largest, of none nothing."""
    assert p99([]) == 0
    assert p99([3.0, 1.0, 2.0]) == 3.0
    assert p99([float(number) for number in range(1000)]) == 990.0


def test_attacks_have_names_of_their_own() -> None:
    """By which they are found."""
    names = [attack.name for attack in (*ATTACKS, *MEMORY)]
    assert len(set(names)) == len(names)
    assert [named(name).name for name in names] == names
    with pytest.raises(ValueError, match="there is no attack 'kindness': there are rapid-reset"):
        named("kindness")


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        (["--only", "kindness"], "there is no attack 'kindness'"),
        (["--seconds", "0s"], "an attack goes on for 0.1 s to an hour"),
    ],
)
def test_what_makes_no_sense_is_refused(typed: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    """In one line, before a server is started."""
    assert run(["abuse", *typed]) == 2
    assert sentence in capsys.readouterr().err
