"""What the shell hears: exit statuses, one line on standard error, help that teaches, and the environment's part.

Commands run in this process; none of them gets as far as opening a port.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import pytest
import trustme
import typer

from penstock_server.app.logs import LogFormat, LogLevel
from penstock_server.app.server import PenstockServer
from penstock_server.app.settings import Compat, ServerSettings, TransportName
from penstock_server.cli import main, serve
from penstock_server.cli.output import complain
from penstock_server.examples import REPOSITORY
from penstock_server.transports.base import DEFAULT_MAX_MESSAGE_BYTES, LARGEST_MESSAGE_BYTES, TlsSettings
from tests.server.cli.conftest import Ear

COMMANDS = ("serve", "check", "infer", "simulate", "demo", "version")


@pytest.fixture
def complaint(said: Ear) -> Callable[..., tuple[int, str]]:
    """Runs a command that must fail. Its exit status and its one line on standard error."""

    def complaint(*arguments: object) -> tuple[int, str]:
        status = main.run([str(argument) for argument in arguments])
        heard = said()
        assert heard.out == ""
        (line,) = heard.err.splitlines()
        assert line.startswith("penstock: ")
        return status, line.removeprefix("penstock: ")

    return complaint


@dataclass(frozen=True, slots=True)
class Pems:
    """Files for TLS."""

    certificate: Path
    key: Path
    other_key: Path
    encrypted_key: Path
    authority: Path


@pytest.fixture(scope="module")
def pems(tmp_path_factory: pytest.TempPathFactory) -> Pems:
    folder = tmp_path_factory.mktemp("pems")
    authority = trustme.CA()
    ours, other = (authority.issue_cert("localhost") for _ in range(2))
    files = Pems(*(folder / f"{name}.pem" for name in ("cert", "key", "other", "encrypted", "ca")))
    ours.cert_chain_pems[0].write_to_path(files.certificate)
    ours.private_key_pem.write_to_path(files.key)
    other.private_key_pem.write_to_path(files.other_key)
    authority.cert_pem.write_to_path(files.authority)
    lines = ours.private_key_pem.bytes().decode().splitlines()
    lines.insert(1, "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00112233445566778899AABBCCDDEEFF\n")
    files.encrypted_key.write_text("\n".join(lines))
    return files


# ── wrong calls ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bogus"], "No such command 'bogus' (see penstock --help)"),
        (["--bogus"], "No such option: --bogus (see penstock --help)"),
        (["serve"], "Missing argument 'MODEL_OR_REPOSITORY' (see penstock serve --help)"),
        (["check"], "Missing argument 'MODEL_OR_REPOSITORY' (see penstock check --help)"),
        (["infer"], "Missing argument 'MODEL' (see penstock infer --help)"),
        (["serve", "a", "b"], "Got unexpected extra argument(s) (b) (see penstock serve --help)"),
        (["serve", "a", "--host"], "Option '--host' requires an argument (see penstock --help)"),
        (["version", "--bogus"], "No such option: --bogus (see penstock version --help)"),
    ],
)  # fmt: skip
def test_a_wrong_call_is_told_in_one_line(
    complaint: Callable[..., tuple[int, str]], arguments: list[str], message: str
) -> None:
    """What is wrong, and which --help has the remedy; the status is 2."""
    assert complaint(*arguments) == (2, message)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--grpc-port", "grpc"),
        ("--grpc-port", "65536"),
        ("--metrics-port", "-1"),
        ("--transport", "carrier-pigeon"),
        ("--max-batch-size", "-1"),
        ("--max-queue-rows", "0"),
        ("--max-message-bytes", "2147483648"),
        ("--max-inflight-bytes", "lots"),
        ("--workers", "0"),
        ("--workers", "-1"),
        ("--workers", "1.5"),
        ("--workers", "many"),
        ("--workers", "1025"),
        ("--drain-seconds", "-1"),
        ("--drain-seconds", "nan"),
        ("--drain-seconds", "inf"),
        ("--record-limit", "0"),
        ("--compat", "Triton 3"),
        ("--log-level", "loud"),
        ("--log-format", "xml"),
        ("--tls-cert", "nowhere.pem"),
        ("--tls-key", "nowhere.pem"),
        ("--tls-client-ca", "nowhere.pem"),
    ],
)
def test_a_wrong_value_names_its_option(
    complaint: Callable[..., tuple[int, str]], option: str, value: str, tmp_path: Path
) -> None:
    """Before anything else is looked at: the repository need not exist."""
    status, line = complaint("serve", tmp_path / "nowhere", option, value)
    assert status == 2
    assert line.startswith(f"Invalid value for '{option}': ")
    assert line.endswith(" (see penstock serve --help)")


def test_a_similar_option_is_suggested(complaint: Callable[..., tuple[int, str]]) -> None:
    """A typing mistake should cost no look into the manual."""
    assert "--grpc-port" in complaint("serve", "x", "--gprc-port", "1")[1]


def test_a_wrong_variable_is_named(complaint: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody typed it, so nobody would find it by the option's name; typing a value is a way out."""
    monkeypatch.setenv("PENSTOCK_GRPC_PORT", "tcp://10.0.0.1:8001")
    status, line = complaint("serve", "nowhere")
    assert status == 2
    assert line.startswith("Invalid value for '--grpc-port': ")
    assert line.endswith("(from the environment, PENSTOCK_GRPC_PORT; see penstock serve --help)")
    assert complaint("serve", "nowhere", "--grpc-port", "0")[1].startswith("nowhere: ")


@pytest.mark.parametrize("command", ["serve", "check"])
def test_a_missing_folder_is_told_in_one_line(complaint: Callable[..., tuple[int, str]], command: str) -> None:
    """The path as it was typed, and what the system says."""
    expected = "no/such/models: cannot read the model repository: No such file or directory"
    assert complaint(command, "no/such/models") == (2, expected)


@pytest.mark.parametrize("command", ["serve", "check"])
def test_a_folder_without_models_is_told_in_one_line(
    complaint: Callable[..., tuple[int, str]], command: str, tmp_path: Path
) -> None:
    """Nothing to serve is a mistake in the call, such as the wrong folder."""
    assert complaint(command, tmp_path) == (2, f"{tmp_path}: there is no model in this folder")


@pytest.mark.parametrize("command", ["serve", "check"])
def test_a_file_that_is_no_onnx_is_told_in_one_line(
    complaint: Callable[..., tuple[int, str]], command: str, tmp_path: Path
) -> None:
    """A single file is an ONNX model, and its name says so."""
    file = tmp_path / "model.pt"
    file.touch()
    assert complaint(command, file) == (2, f"{file}: a single model file is an ONNX model, *.onnx")


def test_two_servers_on_one_port_are_told_before_models_load(complaint: Callable[..., tuple[int, str]]) -> None:
    """gRPC and HTTP need a port each; free ones are never the same."""
    line = "--grpc-port and --metrics-port are both 9000: give them different ports"
    assert complaint("serve", REPOSITORY, "--grpc-port", 9000, "--metrics-port", 9000) == (2, line)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "example.org", ""])
def test_no_port_is_opened_beyond_this_machine_without_tls(
    complaint: Callable[..., tuple[int, str]], host: str
) -> None:
    """Both ways out are told."""
    line = f"will not listen on {host} without TLS: give --tls-cert and --tls-key, or --insecure-ok"
    assert complaint("serve", REPOSITORY, "--host", host) == (2, line)


def test_an_address_that_is_not_ours_is_told_in_one_line(complaint: Callable[..., tuple[int, str]]) -> None:
    """192.0.2.1 is nobody's: documentation uses it."""
    line = "cannot listen on 192.0.2.1:8001: Cannot assign requested address"
    assert complaint("serve", REPOSITORY, "--host", "192.0.2.1", "--insecure-ok") == (2, line)


def test_a_complaint_is_one_line_whatever_it_quotes(said: Ear) -> None:
    """Lines become one, and what would move a terminal's cursor is written out: servers and files are quoted."""
    complain("2 problems:\n  one\x1b[2J\n\n  two [bold]\n")
    assert said().err == "penstock: 2 problems:; one\\x1b[2J; two [bold]\n"


def test_an_interrupted_command_ends_as_shells_expect(said: Ear, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C before the server listens for signals: 130, and no traceback."""

    def interrupt(settings: ServerSettings, on_started: Callable[[PenstockServer], None]) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(serve, "run_until_signal", interrupt)
    assert main.run(["serve", "models"]) == 130
    assert said().err == ""


# ── TLS files ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("given", ["--tls-cert", "--tls-key", "--tls-client-ca"])
def test_half_of_tls_is_none(complaint: Callable[..., tuple[int, str]], pems: Pems, given: str) -> None:
    """Whichever is given alone: the server would listen in plain text."""
    assert complaint("serve", REPOSITORY, given, pems.certificate) == (2, "TLS needs both --tls-cert and --tls-key")


def test_a_key_of_another_certificate_is_told_before_models_load(
    complaint: Callable[..., tuple[int, str]], pems: Pems
) -> None:
    """Also a key that is locked, and files that hold something else: never a question on the terminal."""
    for certificate, key in (
        (pems.certificate, pems.other_key),
        (pems.certificate, pems.encrypted_key),
        (pems.certificate, Path(__file__)),
        (Path(__file__), pems.key),
    ):
        status, line = complaint("serve", REPOSITORY, "--tls-cert", certificate, "--tls-key", key)
        assert status == 2
        assert line.startswith(f"--tls-cert {certificate} and --tls-key {key} are no certificate and its key (PEM): ")


def test_an_authority_without_a_certificate_is_told(complaint: Callable[..., tuple[int, str]], pems: Pems) -> None:
    """Else no client could ever come in, or be sure of the server."""
    tls = ("--tls-cert", pems.certificate, "--tls-key", pems.key)
    status, line = complaint("serve", REPOSITORY, *tls, "--tls-client-ca", __file__)
    assert (status, line.partition(": ")[0]) == (2, f"--tls-client-ca {__file__} holds no certificate (PEM)")
    status, line = complaint("infer", "iris", "--tls-ca", pems.key)
    assert (status, line.partition(": ")[0]) == (2, f"--tls-ca {pems.key} holds no certificate (PEM)")


def test_half_of_a_clients_certificate_is_none(complaint: Callable[..., tuple[int, str]], pems: Pems) -> None:
    """`infer` needs both halves as well."""
    expected = (2, "a certificate of ours needs both --tls-cert and --tls-key")
    assert complaint("infer", "iris", "--tls-cert", pems.certificate) == expected
    assert complaint("infer", "iris", "--tls-key", pems.key) == expected


# ── options and the environment ───────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class Served:
    """What `serve` would have run with."""

    settings: list[ServerSettings] = field(default_factory=list[ServerSettings])
    logging: list[tuple[LogLevel, LogFormat]] = field(default_factory=list[tuple[LogLevel, LogFormat]])

    def run(self, settings: ServerSettings, on_started: Callable[[PenstockServer], None]) -> bool:
        self.settings.append(settings)
        return True

    def supervise(self, settings: ServerSettings, level: LogLevel, form: LogFormat) -> NoReturn:
        self.settings.append(settings)
        raise typer.Exit(0)  # it never returns, and ends with the status of the whole

    def configure(self, level: LogLevel, form: LogFormat) -> None:
        self.logging.append((level, form))


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Served:
    """Catches the settings where a server would be started with them."""
    served = Served()
    monkeypatch.setattr(serve, "run_until_signal", served.run)
    monkeypatch.setattr(serve, "become_supervisor", served.supervise)
    monkeypatch.setattr(serve, "configure_logging", served.configure)
    return served


def serve_parameters() -> Mapping[str, Any]:
    """The parameters of `serve` as the library sees them, by name."""
    group: Any = typer.main.get_command(main.app)
    return {parameter.name: parameter for parameter in group.commands["serve"].params if parameter.name != "help"}


OPTIONS: Mapping[str, tuple[str, Callable[[ServerSettings], object], object]] = {
    "host": ("::1", lambda s: s.transport.host, "::1"),
    "grpc_port": ("1234", lambda s: s.transport.port, 1234),
    "metrics_port": ("1235", lambda s: s.metrics_port, 1235),
    "metrics": ("false", lambda s: s.metrics_port, None),
    "transport": ("grpcio", lambda s: s.transport_name, TransportName.GRPCIO),
    "workers": ("3", lambda s: s.workers, 3),
    "insecure_ok": ("true", lambda s: s.transport.tls, None),
    "max_batch_size": ("7", lambda s: s.max_batch_size, 7),
    "compat": ("triton", lambda s: (s.compat, s.transport.max_message_bytes), (Compat.TRITON, LARGEST_MESSAGE_BYTES)),
    "reflection": ("true", lambda s: s.reflection, True),
    "max_queue_rows": ("77", lambda s: s.max_queued_rows, 77),
    "max_queue_bytes": ("8192", lambda s: s.max_queued_bytes, 8192),
    "max_total_queue_rows": ("99", lambda s: s.max_total_queued_rows, 99),
    "max_running": ("2", lambda s: s.max_running, 2),
    "awake_microseconds": ("70", lambda s: s.transport.busy_poll, 70e-6),
    "inline_microseconds": ("150", lambda s: s.inline_below, 150e-6),
    "tenant_key": ("X-Tenant", lambda s: s.tenant_key, "x-tenant"),
    "max_message_bytes": ("2048", lambda s: s.transport.max_message_bytes, 2048),
    "max_inflight_bytes": ("4096", lambda s: s.max_inflight_bytes, 4096),
    "max_connections": ("9", lambda s: s.transport.max_connections, 9),
    "max_held_bytes": ("9999999", lambda s: s.transport.max_held_bytes, 9999999),
    "drain_seconds": ("1.5", lambda s: s.drain_seconds, 1.5),
    "record_trace": ("t.jsonl", lambda s: s.record_trace, Path("t.jsonl")),
    "record_limit": ("99", lambda s: s.record_limit, 99),
}
"""For each option of `serve`: a value, where it shows in the settings, and as what. TLS and logs are apart."""

APART = {"source", "tls_cert", "tls_key", "tls_client_ca", "log_level", "log_format"}


def test_every_option_is_in_the_table() -> None:
    """A new option of `serve` must be added to what is tested below."""
    assert serve_parameters().keys() == OPTIONS.keys() | APART


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_is_also_a_variable(served: Served, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """PENSTOCK_ and the option's name; typed or set, it arrives at the same setting."""
    text, look, expected = OPTIONS[name]
    parameter = serve_parameters()[name]
    if parameter.is_flag:
        typed = [parameter.secondary_opts[0] if text == "false" else parameter.opts[0]]
    else:
        typed = [parameter.opts[0], text]
    assert main.run(["serve", "models", *typed]) == 0
    variable = parameter.opts[0].removeprefix("--").replace("-", "_").upper()
    monkeypatch.setenv(f"PENSTOCK_{variable}", text)
    if name == "insecure_ok":
        monkeypatch.setenv("PENSTOCK_HOST", "0.0.0.0")
    assert main.run(["serve", "models"]) == 0
    assert [look(settings) for settings in served.settings] == [expected, expected]


def test_what_is_typed_wins_over_the_environment(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in every other program."""
    monkeypatch.setenv("PENSTOCK_GRPC_PORT", "1")
    monkeypatch.setenv("PENSTOCK_SOURCE", "elsewhere")
    assert main.run(["serve", "models", "--grpc-port", "2"]) == 0
    assert served.settings[0].transport.port == 2
    assert served.settings[0].source == Path("models")


def test_workers_may_be_as_many_as_there_are_cores(served: Served) -> None:
    """Those that this process may use, which are not all of the machine's in a container."""
    assert main.run(["serve", "models", "--workers", "auto"]) == 0
    assert served.settings[0].workers == len(os.sched_getaffinity(0))


def test_a_trace_is_of_one_process(complaint: Callable[..., tuple[int, str]]) -> None:
    """With workers each would see a part of the requests, and all would write one file."""
    line = "--record-trace writes what one process sees: use it with --workers 1"
    assert complaint("serve", REPOSITORY, "--workers", "2", "--record-trace", "t.jsonl") == (2, line)


def test_a_container_needs_no_arguments(served: Served, pems: Pems, monkeypatch: pytest.MonkeyPatch) -> None:
    """The source, TLS and logs come from the environment too."""
    for name, value in {
        "SOURCE": "/models",
        "HOST": "0.0.0.0",
        "TLS_CERT": pems.certificate,
        "TLS_KEY": pems.key,
        "TLS_CLIENT_CA": pems.authority,
        "LOG_LEVEL": "debug",
        "LOG_FORMAT": "json",
    }.items():
        monkeypatch.setenv(f"PENSTOCK_{name}", str(value))
    assert main.run(["serve"]) == 0
    (settings,) = served.settings
    assert settings.source == Path("/models")
    assert settings.transport.tls == TlsSettings(pems.certificate, pems.key, pems.authority)
    assert served.logging == [(LogLevel.DEBUG, LogFormat.JSON)]


def test_the_defaults_are_those_of_the_settings(served: Served) -> None:
    """`penstock serve models` and `ServerSettings(source=models)` are the same server."""
    assert main.run(["serve", "models"]) == 0
    assert served.settings == [ServerSettings(source=Path("models"))]
    assert served.settings[0].transport.max_message_bytes == DEFAULT_MAX_MESSAGE_BYTES
    assert served.logging == [(LogLevel.INFO, LogFormat.TEXT)]


# ── help ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def help_of(said: Ear, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Help as a terminal of 80 columns shows it, without colours."""
    monkeypatch.setenv("COLUMNS", "80")

    def help_of(*command: str) -> str:
        assert main.run([*command, "--help"]) == 0
        return said().out

    return help_of


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(help_of: Callable[..., str], command: str) -> None:
    """Each command is shown as it is typed, besides its synopsis."""
    usage, text = help_of(command).split("[OPTIONS]")
    assert f"penstock {command}" in usage
    assert re.search(rf"penstock\s+{command}\b", text)


@pytest.mark.parametrize("command", [(), *((each,) for each in COMMANDS)])
def test_help_fits_80_columns(help_of: Callable[..., str], command: tuple[str, ...]) -> None:
    """No line is longer, and nothing is cut off."""
    text = help_of(*command)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text


def test_help_shows_every_option_and_its_default(help_of: Callable[..., str]) -> None:
    """Options under their full names; what a user gets who says nothing stands beside each."""
    text = " ".join(help_of("serve").replace("│", " ").split())
    for parameter in serve_parameters().values():
        if parameter.name != "source":
            assert f"{parameter.opts[0]} " in text
    for default in ("127.0.0.1", "8001", "8002", "4096", "30.0", "info", "text", "wire", "none"):
        assert f"[default: {default}]" in text
    assert "[default: (64 for a single file, 4 in a repository)]" in text
    assert "[default: (64 MiB; 2 GiB with --compat triton)]" in text
    assert "PENSTOCK_GRPC_PORT" in text


def test_no_command_is_a_question_for_help(said: Ear) -> None:
    """`penstock` alone lists the commands."""
    assert main.run([]) == 0
    heard = said()
    assert all(f" {command} " in heard.out for command in COMMANDS)
    assert heard.err == ""
