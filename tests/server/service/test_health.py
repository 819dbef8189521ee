"""grpc.health.v1 through the seam."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_proto import health_pb2 as pb
from penstock_server.engine.versions import Models, ServedModel
from penstock_server.errors import Failure
from penstock_server.service.dialect import PENSTOCK, TRITON, Dialect
from penstock_server.service.health import HealthService
from penstock_server.service.seam import Parts, RequestHead, Stream, StreamHandler, Unary
from penstock_server.service.state import ServerState
from penstock_server.status import Status
from tests.server.service.fakes import FakeSink

CHECK, WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"
SERVING, NOT_SERVING, SERVICE_UNKNOWN = (
    pb.HealthCheckResponse.SERVING, pb.HealthCheckResponse.NOT_SERVING, pb.HealthCheckResponse.SERVICE_UNKNOWN,
)  # fmt: skip

KNOWN = ["", "grpc.health.v1.Health", "inference.GRPCInferenceService"]


class Clinic:
    """A server's state and its health service."""

    def __init__(self, dialect: Dialect = PENSTOCK, *, started: bool = True) -> None:
        self.models = Models()
        self.state = ServerState(self.models)
        if started:
            self.state.start()
        self.methods = HealthService(self.state, dialect).methods()

    def fall_ill(self) -> None:
        """One of its models fails."""
        self.models.add(ServedModel("ill", failure="broken"))
        self.state.changed()

    def recover(self) -> None:
        self.models.add(ServedModel("ill"))
        self.state.changed()

    def check(self, message: bytes) -> Parts | Failure:
        method = self.methods[CHECK]
        assert isinstance(method, Unary)
        outcomes: list[Parts | Failure] = []
        cancel = method.call(RequestHead(CHECK), message, lambda outcome, trailers=(): outcomes.append(outcome))
        cancel()
        (outcome,) = outcomes
        return outcome

    def status(self, service: str = "") -> int:
        outcome = self.check(pb.HealthCheckRequest(service=service).SerializeToString())
        assert not isinstance(outcome, Failure), outcome
        return pb.HealthCheckResponse.FromString(b"".join(outcome)).status

    def watch(self, service: str | None = "", room: int = 1 << 30) -> tuple[FakeSink, StreamHandler]:
        method = self.methods[WATCH]
        assert isinstance(method, Stream)
        sink = FakeSink(room)
        handler = method.open(RequestHead(WATCH), sink)
        if service is not None:
            handler.on_message(pb.HealthCheckRequest(service=service).SerializeToString())
        return sink, handler


def statuses(sink: FakeSink) -> list[int]:
    return [pb.HealthCheckResponse.FromString(message).status for message in sink.sent]


# ── Check ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("service", KNOWN)
def test_a_server_is_healthy_if_it_is_ready(service: str) -> None:
    """Not before it has started, and not while one of its models fails."""
    assert Clinic(started=False).status(service) == NOT_SERVING
    clinic = Clinic()
    assert clinic.status(service) == SERVING
    clinic.fall_ill()
    assert clinic.status(service) == NOT_SERVING
    clinic.recover()
    assert clinic.status(service) == SERVING


def test_an_unknown_service_is_not_found() -> None:
    """Its name is cut; in Triton's dialect any name means the server."""
    assert Clinic().check(pb.HealthCheckRequest(service="x" * 500).SerializeToString()) == Failure(
        Status.NOT_FOUND, f"unknown service '{'x' * 128}'"
    )
    assert Clinic(TRITON).status("x") == SERVING


def test_a_server_on_its_way_out_is_unavailable() -> None:
    """It answers, but not with a health."""
    clinic = Clinic()
    clinic.state.exit()
    assert clinic.check(b"") == Failure(Status.UNAVAILABLE, "Server exiting")


@given(st.binary(max_size=20))
def test_any_bytes_are_checked_or_malformed(message: bytes) -> None:
    """Nothing else comes out."""
    outcome = Clinic().check(message)
    if isinstance(outcome, Failure) and outcome.status is not Status.NOT_FOUND:
        assert outcome == PENSTOCK.malformed


def test_all_services_can_be_listed() -> None:
    """Each with the health of the server."""
    clinic = Clinic()
    clinic.fall_ill()
    for dialect_has_it in (True, False):
        method = (clinic if dialect_has_it else Clinic(TRITON)).methods["/grpc.health.v1.Health/List"]
        assert isinstance(method, Unary)
        outcomes: list[Parts | Failure] = []
        method.call(RequestHead("List"), b"", lambda outcome, trailers=(), to=outcomes: to.append(outcome))
        (outcome,) = outcomes
        if isinstance(outcome, Failure):
            assert (outcome.status, dialect_has_it) == (Status.UNIMPLEMENTED, False)
        else:
            statuses = pb.HealthListResponse.FromString(b"".join(outcome)).statuses
            assert {name: health.status for name, health in statuses.items()} == dict.fromkeys(KNOWN, NOT_SERVING)


# ── Watch ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("service", KNOWN)
def test_a_watcher_hears_the_status_now_and_at_each_change(service: str) -> None:
    """And not again if nothing has changed."""
    clinic = Clinic()
    sink, _ = clinic.watch(service)
    assert statuses(sink) == [SERVING]
    assert sink.given_back == 1
    clinic.state.changed()
    clinic.fall_ill()
    clinic.state.changed()
    clinic.recover()
    assert statuses(sink) == [SERVING, NOT_SERVING, SERVING]
    assert sink.ends == []


def test_a_service_that_does_not_exist_may_be_watched() -> None:
    """It might come; that is what the health protocol says."""
    clinic = Clinic()
    sink, _ = clinic.watch("nobody")
    clinic.fall_ill()
    assert statuses(sink) == [SERVICE_UNKNOWN]
    assert sink.ends == []


def test_every_watcher_hears_that_the_server_stops() -> None:
    """Then its stream ends well: one that stayed open would hold up the drain."""
    clinic = Clinic()
    sinks = [clinic.watch()[0] for _ in range(5)]
    clinic.state.exit()
    for sink in sinks:
        assert statuses(sink) == [SERVING, NOT_SERVING]
        assert sink.ends == [None]
    assert clinic.state.watchers == 0
    late, _ = clinic.watch()
    assert statuses(late) == [NOT_SERVING]
    assert late.ends == [None]


def test_one_watcher_that_leaves_does_not_take_the_others_along() -> None:
    """A client that goes away is forgotten, and nobody else is."""
    clinic = Clinic()
    (first, handler), (second, _) = clinic.watch(), clinic.watch()
    handler.on_cancel()
    assert clinic.state.watchers == 1
    clinic.fall_ill()
    assert statuses(first) == [SERVING]
    assert statuses(second) == [SERVING, NOT_SERVING]


def test_a_slow_watcher_hears_the_latest() -> None:
    """While it does not read nothing is kept for it; then it hears how things are, not how they were."""
    clinic = Clinic()
    sink, handler = clinic.watch(room=1)
    clinic.fall_ill()
    clinic.recover()
    clinic.fall_ill()
    assert statuses(sink) == [SERVING]
    sink.room = 1
    handler.on_writable()
    assert statuses(sink) == [SERVING, NOT_SERVING]
    clinic.recover()
    clinic.fall_ill()
    sink.room = 5
    handler.on_writable()
    assert statuses(sink) == [SERVING, NOT_SERVING], "nothing has changed for it"


def test_a_slow_watcher_does_not_hold_up_the_end() -> None:
    """Its stream ends, read or not."""
    clinic = Clinic()
    sink, _ = clinic.watch(room=1)
    clinic.state.exit()
    assert sink.ends == [None]


def test_a_watcher_may_stop_sending() -> None:
    """Clients half-close after their one request; they still want to hear."""
    clinic = Clinic()
    sink, handler = clinic.watch()
    handler.on_end()
    clinic.fall_ill()
    assert statuses(sink) == [SERVING, NOT_SERVING]
    assert sink.ends == []


@pytest.mark.parametrize("case", ["none", "two", "malformed"])
def test_watch_takes_one_request(case: str) -> None:
    """No request, a second one, or one that is none: the stream ends with an error, and nothing is left."""
    clinic = Clinic()
    sink, handler = clinic.watch(None if case != "two" else "")
    match case:
        case "none":
            handler.on_end()
        case "two":
            handler.on_message(b"")
        case _:
            handler.on_message(b"\xff")
    (end,) = sink.ends
    assert end is not None
    assert end.status is Status.INVALID_ARGUMENT
    assert clinic.state.watchers == 0
    clinic.fall_ill()


def test_watchers_have_a_bound() -> None:
    """64 of them; those who leave make room."""
    clinic = Clinic()
    watchers = [clinic.watch() for _ in range(64)]
    refused, _ = clinic.watch()
    assert refused.ends == [Failure(Status.RESOURCE_EXHAUSTED, "too many health watchers")]
    watchers[0][1].on_cancel()
    assert statuses(clinic.watch()[0]) == [SERVING]


def test_triton_has_no_watch() -> None:
    """Neither has its dialect."""
    sink, _ = Clinic(TRITON).watch(None)
    assert [end and end.status for end in sink.ends] == [Status.UNIMPLEMENTED]
