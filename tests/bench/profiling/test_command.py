"""`penstock bench profile` as it is typed, and the parts of it that look at a real process."""

import os
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from penstock_bench.cli import run
from penstock_bench.load.plan import LoadError
from penstock_bench.profiling.results import Hot, Profile, read_profile, write_profile
from penstock_bench.profiling.sampling import permission_complaint, thread_times
from penstock_bench.profiling.show import show_profile
from penstock_bench.results import write_report
from penstock_bench.server import serving
from tests.bench.report.reports import MACHINE, point, report

MODELS = Path(__file__).parents[3] / "server/penstock_server/examples/models"
PROFILE = Profile(
    server="Penstock",
    model="iris",
    load="closed loop, 4 connections x 16",
    command="penstock bench profile models",
    started="2026-01-02T03:04:05+00:00",
    machine=MACHINE,
    seed=0,
    point=point(server_cpu=0.0004),
    cpu=0.0004,
    kernel=0.25,
    layers={"transport": 0.0001, "service": 0.0003},
    ranges={"service": (0.0002, 0.00032)},
    samples=1000,
    hottest=[Hot(function="scan (penstock_server/service/scan.py)", layer="service", share=0.1)],
    warnings=["odd"],
)


@pytest.mark.parametrize(
    ("typed", "status", "complaint"),
    [
        ([], 2, "Give a model or a repository, or --pid and --url"),
        (["models", "--pid", "1", "--url", "127.0.0.1:1"], 2, "Give a model or a repository, or --pid and --url"),
        (["--pid", "1"], 2, "--pid needs --url"),
        (["--pid", "999999999", "--url", "127.0.0.1:1"], 2, "there is no process 999999999"),
        (["--pid", "1", "--url", "127.0.0.1:1", "--transport", "x"], 2, "--transport is for a server"),
        (["--pid", "1", "--url", "nowhere"], 2, "HOST:PORT without a scheme"),
        (["models", "--url", "127.0.0.1:1"], 2, "--url goes with --pid"),
        (["models", "--seconds", "soon"], 2, "such as 20ms, not 'soon'"),
        (["models", "--compare", "nowhere.json"], 2, "cannot read nowhere.json: No such file or directory"),
        (["models", "--compare", __file__], 2, "is no profile of penstock bench"),
        (["--pid", str(os.getpid()), "--url", "127.0.0.1:1", "-m", "x"], 1, "nobody answers at 127.0.0.1:1"),
        (["--pid", str(os.getpid()), "--url", "127.0.0.1:1"], 1, "which model? Give --model"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    typed: list[str], status: int, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the exit status of its kind, and nothing on standard output."""
    assert run(["profile", *typed]) == status
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("penstock: ")
    assert complaint in printed.err
    assert printed.err.count("\n") == 1


@pytest.mark.slow
def test_a_request_is_taken_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A server is started, loaded twice, and its layers add up to what a request costs."""
    found, flame = tmp_path / "out.json", tmp_path / "flame.svg"
    typed = [
        "profile",
        str(MODELS),
        "-m",
        "iris",
        "--seconds",
        "2s",
        "--warmup",
        "200ms",
        "--rounds",
        "1",
        "--flame",
        str(flame),
    ]
    status = run([*typed, "--json", str(found)])
    printed = capsys.readouterr()
    if "may not look into" in printed.err:
        assert status == 2
        pytest.skip("this machine does not let a process look into another one")
    assert status == 0
    profile = read_profile(found)
    assert sum(profile.layers.values()) == pytest.approx(profile.cpu)
    # Which of them were seen depends on how much of a processor server and sampler got.
    assert {"event loop", "service", "transport", "http2", "socket", "engine"} & set(profile.layers)
    assert profile.samples > 0
    assert f"flame graph: {flame}" in printed.out
    assert flame.read_text(encoding="utf-8").startswith("<svg")


@pytest.mark.slow
def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    """In the server's own words."""
    with pytest.raises(LoadError, match=r"the server did not start: .*nowhere"), serving(tmp_path / "nowhere", ()):
        pass


def test_several_models_are_a_choice(capsys: pytest.CaptureFixture[str]) -> None:
    """They are named."""
    assert run(["profile", str(MODELS)]) == 1
    assert "which model? Give --model: there are digits, iris, language" in capsys.readouterr().err


def shown(before: Profile | None = None) -> str:
    console = Console(width=100, color_system=None)
    with console.capture() as capture:
        show_profile(PROFILE, console, before)
    return capture.get()


def test_a_profile_is_a_table_of_layers() -> None:
    """With shares, and the sum."""
    lines = [line.split() for line in shown().splitlines()]
    assert ["transport", "100us", "25.0%", "0", "to", "0%", "████████"] in lines
    assert ["service", "300us", "75.0%", "50", "to", "80%", "██████████████████████"] in lines
    assert ["all", "400us", "100%"] in lines


def test_a_profile_beside_an_earlier_one() -> None:
    """Also of layers that were only there before."""
    before = msgspec.structs.replace(PROFILE, cpu=0.0005, layers={"service": 0.0004, "response": 0.0001})
    lines = [" ".join(line.split()) for line in shown(before).splitlines()]
    assert any(line.startswith("service 300us 75.0% 50 to 80% 400us -100us (-25%)") for line in lines)
    assert any(line.startswith("transport 100us 25.0% 0 to 0% 0us +100us") for line in lines)
    assert any(line.startswith("response 0us 0.0% 0 to 0% 100us -100us (-100%)") for line in lines)
    assert "all 400us 100% 500us -100us (-20%)" in lines


def test_a_profile_is_kept_as_json(tmp_path: Path) -> None:
    """And no report is taken for one."""
    write_profile(PROFILE, tmp_path / "a.json")
    found = read_profile(tmp_path / "a.json")
    assert msgspec.json.encode(found) == msgspec.json.encode(PROFILE)
    write_report(report([]), tmp_path / "b.json")
    with pytest.raises(ValueError, match="is no profile"):
        read_profile(tmp_path / "b.json")


def test_a_missing_permission_is_explained() -> None:
    """py-spy's own words name neither the setting nor the capability."""
    complaint = permission_complaint("Error: Permission Denied: Try running again with elevated permissions\n")
    assert "ptrace_scope=0" in complaint
    assert "SYS_PTRACE" in complaint
    assert permission_complaint("Error: Failed to find python version from target process") == ""


def test_threads_have_names_and_times() -> None:
    """Of this process, at least of its first thread; of one that is gone, nothing."""
    mine = thread_times(os.getpid())
    assert mine[os.getpid()].name
    assert mine[os.getpid()].user > 0
    assert thread_times(999_999_999) == {}
