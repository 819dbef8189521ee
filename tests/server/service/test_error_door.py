"""The one door from exceptions to what a client is told, and the methods that go through it."""

import logging
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_proto.open_inference_pb2 import ModelReadyRequest, ModelReadyResponse
from penstock_server.errors import (
    DeadlineExceeded,
    Failure,
    InvalidRequest,
    LoadError,
    ModelError,
    NotFound,
    NotReady,
    PenstockError,
    Unsupported,
    failure_of,
)
from penstock_server.service.calls import simple, unimplemented
from penstock_server.service.dialect import PENSTOCK
from penstock_server.service.seam import Parts, RequestHead, Unary
from penstock_server.status import Status

EXPECTED: dict[type[PenstockError], Status] = {
    InvalidRequest: Status.INVALID_ARGUMENT,
    NotFound: Status.NOT_FOUND,
    NotReady: Status.UNAVAILABLE,
    DeadlineExceeded: Status.DEADLINE_EXCEEDED,
    Unsupported: Status.UNIMPLEMENTED,
}

secrets = st.text(min_size=4, max_size=30).map(lambda text: f"secret-{text}-secret")


class Unspeakable(Exception):
    """Not even its text can be had."""

    def __str__(self) -> str:
        raise RuntimeError("no text for you")

    __repr__ = __str__


UNFORESEEN: list[Callable[[str], BaseException]] = [
    ValueError,
    KeyError,
    lambda text: OSError(2, text, f"/srv/{text}"),
    lambda text: UnicodeDecodeError("utf-8", text.encode("utf-8", "replace"), 0, 1, text),
    lambda text: LoadError(text, file=text),
    lambda text: ExceptionGroup(text, [ValueError(text)]),
    SystemExit,
    KeyboardInterrupt,
    AssertionError,
]


def answer(method: Unary, message: bytes = b"") -> Parts | Failure:
    """What a method replies."""
    outcomes: list[Parts | Failure] = []
    cancel = method.call(RequestHead("/method"), message, lambda outcome, trailers=(): outcomes.append(outcome))
    cancel()
    (outcome,) = outcomes
    return outcome


@pytest.mark.parametrize("kind", EXPECTED)
def test_expected_errors_say_what_they_mean(kind: type[PenstockError], caplog: pytest.LogCaptureFixture) -> None:
    """Their message is for the client, and nothing for the log."""
    error = kind("in words", trailers=(("k", "v"),))
    assert failure_of(error, during="x") == Failure(EXPECTED[kind], "in words", (("k", "v"),))
    assert failure_of(ModelError(Status.ABORTED, "in words"), during="x") == Failure(Status.ABORTED, "in words")
    assert caplog.records == []


@given(secrets, st.sampled_from(UNFORESEEN))
def test_the_text_of_an_unforeseen_error_never_reaches_the_client(
    secret: str, make: Callable[[str], BaseException]
) -> None:
    """Only an error id does, whatever was raised and wherever its text is."""
    failure = failure_of(make(secret), during=secret)
    assert (failure.status, failure.unforeseen, failure.trailers) == (Status.INTERNAL, True, ())
    assert secret not in failure.message
    assert failure.message.startswith("internal error (error id ")
    assert len(failure.message) < 50


def test_the_log_has_the_error_under_its_id(caplog: pytest.LogCaptureFixture) -> None:
    """With what was being done and the traceback; each error has an id of its own."""
    with caplog.at_level(logging.ERROR):
        failures = [failure_of(ValueError("why"), during="the making of tea") for _ in range(2)]
    assert len({failure.message for failure in failures}) == 2
    for failure, record in zip(failures, caplog.records, strict=True):
        assert failure.message == f"internal error (error id {record.__dict__['error_id']})"
        assert record.getMessage() == "unforeseen error during the making of tea"
        assert record.exc_info is not None
    assert "ValueError: why" in caplog.text


def test_an_error_without_a_text_is_told_all_the_same() -> None:
    """Not even its repr can be had."""
    assert failure_of(Unspeakable(), during="x").unforeseen


# ── simple methods ────────────────────────────────────────────────────────────────────────────────


def ready(method: Callable[[ModelReadyRequest], ModelReadyResponse]) -> Unary:
    return simple(method, ModelReadyRequest, PENSTOCK.malformed)


def test_a_simple_method_is_parsed_and_serialised() -> None:
    """It sees a request and gives a response."""
    outcome = answer(
        ready(lambda request: ModelReadyResponse(ready=request.name == "m")),
        ModelReadyRequest(name="m").SerializeToString(),
    )
    assert not isinstance(outcome, Failure)
    assert ModelReadyResponse.FromString(b"".join(outcome)).ready


@given(secrets, st.sampled_from([*UNFORESEEN[:6], AssertionError]))
def test_what_a_simple_method_raises_is_its_reply(secret: str, make: Callable[[str], BaseException]) -> None:
    """No exception leaves it."""

    def fail(request: ModelReadyRequest) -> ModelReadyResponse:
        raise make(secret)

    outcome = answer(ready(fail))
    assert isinstance(outcome, Failure)
    assert outcome.unforeseen
    assert secret not in outcome.message


def test_an_expected_error_of_a_simple_method_is_its_reply() -> None:
    """In its own words."""

    def fail(request: ModelReadyRequest) -> ModelReadyResponse:
        raise NotReady("Server exiting")

    assert answer(ready(fail)) == Failure(Status.UNAVAILABLE, "Server exiting")


def test_what_cannot_be_parsed_does_not_reach_the_method() -> None:
    """Neither does its parser's complaint reach the client."""

    def never(request: ModelReadyRequest) -> ModelReadyResponse:
        raise AssertionError

    assert answer(ready(never), b"\xff") == PENSTOCK.malformed


def test_a_method_that_is_not_there_says_so() -> None:
    """Whatever it is sent."""
    assert answer(unimplemented("not yet"), b"\xff") == Failure(Status.UNIMPLEMENTED, "not yet")
