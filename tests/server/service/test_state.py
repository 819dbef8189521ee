"""What the server as a whole is doing, what it holds in memory, and which methods it has."""

import pytest

from penstock_proto.pool import POOL
from penstock_server.engine.versions import Models, ServedModel
from penstock_server.errors import Failure
from penstock_server.service.budget import ByteBudget
from penstock_server.service.decode import Decoder
from penstock_server.service.dialect import PENSTOCK, TRITON, Dialect
from penstock_server.service.health import HealthService
from penstock_server.service.inference import Inference
from penstock_server.service.reflection import ReflectionService
from penstock_server.service.seam import Methods, Parts, RequestHead, Stream, Unary
from penstock_server.service.state import ServerState
from penstock_server.service.streaming import StreamInference
from penstock_server.service.v2 import V2Service
from penstock_server.status import Status
from tests.server.service.fakes import FakeSink


def test_a_server_starts_serves_and_exits() -> None:
    """Live until it exits, ready while it serves all that it should; its repr says where it is."""
    models = Models()
    state = ServerState(models)
    assert (state.live, state.ready, state.exiting) == (True, False, False)
    assert repr(state) == "<ServerState starting, 0 watchers>"
    state.start()
    assert (state.live, state.ready) == (True, True)
    assert repr(state) == "<ServerState ready, 0 watchers>"
    models.add(ServedModel("m", failure="broken"))
    assert (state.live, state.ready) == (True, False)
    assert repr(state) == "<ServerState not ready, 0 watchers>"
    state.exit()
    assert (state.live, state.ready, state.exiting) == (False, False, True)
    assert repr(state) == "<ServerState exiting, 0 watchers>"


def test_watchers_are_told_of_changes_until_they_leave() -> None:
    """They may leave while they are told."""
    state = ServerState(Models())
    told: list[str] = []

    def leave() -> None:
        told.append("leaves")
        state.unwatch("leaves")

    state.watch("leaves", leave)
    state.watch("stays", lambda: told.append("stays"))
    assert state.watchers == 2
    state.start()
    state.exit()
    assert told == ["leaves", "stays", "stays"]
    state.unwatch("never came")
    assert state.watchers == 1


def test_a_budget_is_taken_and_given_back() -> None:
    """To the byte."""
    budget = ByteBudget(100)
    assert budget.take(60)
    assert budget.take(40)
    assert not budget.take(1)
    assert repr(budget) == "<ByteBudget 100 of 100 bytes>"
    budget.give(40)
    assert not budget.take(41)
    assert budget.take(40)
    assert (budget.taken, budget.refused) == (100, 2)


def test_a_request_alone_always_fits() -> None:
    """One that is larger than the budget would else never be served."""
    budget = ByteBudget(100)
    assert budget.take(1000)
    assert not budget.take(1)
    budget.give(1000)
    assert budget.take(1)


# ── the table of methods ──────────────────────────────────────────────────────────────────────────


def methods(dialect: Dialect) -> Methods:
    models = Models()
    state = ServerState(models)
    state.start()
    decoder, budget = Decoder(models, dialect), ByteBudget(1000)
    inference = Inference(decoder, dialect, budget, 1000)
    streaming = StreamInference(decoder, dialect, budget, 1000)
    return {
        **V2Service(models, state, dialect, inference, streaming, "0").methods(),
        **HealthService(state, dialect).methods(),
        **ReflectionService([], dialect.malformed).methods(),
    }


SERVICES = [
    "inference.GRPCInferenceService",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
]
both_dialects = pytest.mark.parametrize("dialect", [PENSTOCK, TRITON], ids=lambda dialect: dialect.server_name)


@both_dialects
def test_every_method_of_the_services_has_an_answer(dialect: Dialect) -> None:
    """None is forgotten, none is made up, and streams are streams."""
    table = methods(dialect)
    described = {
        f"/{service}/{method.name}": method
        for service in SERVICES
        for method in POOL.FindServiceByName(service).methods
    }
    assert table.keys() == described.keys()
    for path, method in described.items():
        is_stream = method.client_streaming or method.server_streaming
        assert isinstance(table[path], Stream if is_stream else Unary), path


@both_dialects
def test_every_method_takes_any_bytes(dialect: Dialect) -> None:
    """One reply or one end for each call, and never the status UNKNOWN."""
    for path, method in methods(dialect).items():
        for message in (b"", b"\xff\xff", b"\x0a\x01x", b"\x12\x01x\x0a\x02\xff\xff"):
            outcomes: list[Parts | Failure] = []
            if isinstance(method, Unary):
                method.call(RequestHead(path), message, lambda o, trailers=(), to=outcomes: to.append(o))
            else:
                sink = FakeSink()
                handler = method.open(RequestHead(path), sink)
                if not sink.ends:
                    handler.on_message(message)
                if not sink.ends:
                    handler.on_end()
                outcomes = [end for end in sink.ends if end is not None] or [[]]
            (outcome,) = outcomes
            if isinstance(outcome, Failure):
                assert outcome.status not in (Status.OK, Status.UNKNOWN), path
                assert not outcome.unforeseen, path
