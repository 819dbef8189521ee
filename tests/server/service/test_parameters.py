"""Request parameters: each one the protocol knows in each type that a client may send it in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_proto.open_inference_pb2 import InferParameter
from penstock_server.backends.base import ParameterValue
from penstock_server.errors import InvalidRequest, PenstockError, Unsupported
from penstock_server.service.dialect import Limits
from penstock_server.service.parameters import RequestParameters, read_parameters
from tests.server.service.requests import names, parameters

KINDS = {
    "bool": InferParameter(bool_param=True),
    "int64": InferParameter(int64_param=3),
    "string": InferParameter(string_param="s"),
    "double": InferParameter(double_param=1.5),
    "uint64": InferParameter(uint64_param=4),
    "nothing": InferParameter(),
}
VALUES: dict[str, ParameterValue] = {"bool": True, "int64": 3, "string": "s", "double": 1.5, "uint64": 4}

TABLE: dict[str, tuple[str, str, str]] = {
    "sequence_id": ("correlation_id", "int64 string", "int64_param or string_param."),
    "sequence_start": ("sequence_start", "bool", "bool_param."),
    "sequence_end": ("sequence_end", "bool", "bool_param."),
    "priority": ("priority", "int64 uint64", "int64_param or uint64_param."),
    "timeout": ("timeout_us", "int64", "int64_param."),
    "triton_enable_empty_final_response": ("empty_final_response", "bool", "bool_param."),
}
"""By parameter: the field it is read into, the types it may have, and how the types are told."""


def read(key: str, value: InferParameter, limits: Limits | None = None) -> RequestParameters:
    return read_parameters({key: value}, limits)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("key", TABLE)
def test_the_parameters_of_the_protocol(key: str, kind: str) -> None:
    """In the types that the protocol has for them, and in no others; never handed to the model."""
    field, allowed, told = TABLE[key]
    if kind in allowed.split():
        assert read(key, KINDS[kind]) == RequestParameters(**{field: VALUES[kind]})  # type: ignore[arg-type]
    else:
        with pytest.raises(InvalidRequest) as caught:
            read(key, KINDS[kind])
        assert caught.value.message == f"invalid value type for '{key}' parameter, expected {told}"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("key", ["threshold", "", "sequence", "Priority", "triton", "shared_memory_region"])
def test_all_others_are_the_models(key: str, kind: str) -> None:
    """With their values as they are; only unsigned numbers are not taken, as with Triton."""
    if kind in ("uint64", "nothing"):
        with pytest.raises(InvalidRequest, match=r"expected int64_param, bool_param, or string_param\."):
            read(key, KINDS[kind])
    else:
        assert read(key, KINDS[kind]) == RequestParameters(custom={key: VALUES[kind]})


@pytest.mark.parametrize("key", ["triton_", "triton_anything", "triton_enable_empty_final_responses"])
def test_keys_that_triton_keeps_for_itself(key: str) -> None:
    """Whatever their type."""
    for value in KINDS.values():
        with pytest.raises(InvalidRequest, match="parameter keys starting with 'triton_' are reserved"):
            read(key, value)


@pytest.mark.parametrize(("sent", "read_as"), [(0, 0), (7, 7), (-1, (1 << 64) - 1), (-(1 << 63), 1 << 63)])
def test_numbers_that_are_unsigned_and_travel_signed(sent: int, read_as: int) -> None:
    """Sequence ids and timeouts."""
    value = InferParameter(int64_param=sent)
    assert read("sequence_id", value).correlation_id == read_as
    assert read("timeout", value).timeout_us == read_as


def test_a_priority_is_not_negative() -> None:
    """Large ones are: what is no level of the model means its default."""
    with pytest.raises(InvalidRequest, match=r"invalid value for 'priority', expected value >= 0\."):
        read("priority", InferParameter(int64_param=-1))
    assert read("priority", InferParameter(uint64_param=(1 << 64) - 1)).priority == (1 << 64) - 1


def test_a_string_sequence_id_is_not_longer_than_128_bytes() -> None:
    """Bytes, not characters."""
    for good in ("x" * 128, "ä" * 64):
        assert read("sequence_id", InferParameter(string_param=good)).correlation_id == good
    for bad in ("x" * 129, "ä" * 65):
        with pytest.raises(Unsupported, match="string correlation ID cannot be longer than 128 characters"):
            read("sequence_id", InferParameter(string_param=bad))


def test_all_at_once() -> None:
    """One request may have any of them together."""
    everything = {key: KINDS[allowed.split()[0]] for key, (_, allowed, _) in TABLE.items()}
    assert read_parameters(everything | {"k": KINDS["double"]}, None) == RequestParameters(
        {"k": 1.5}, 3, True, True, 3, 3, True
    )
    assert read_parameters({}, None) == RequestParameters()


@given(st.dictionaries(names, parameters()), st.sampled_from([None, Limits(key_length=2, string_length=2)]))
def test_any_parameters_are_read_or_refused(given_ones: dict[str, InferParameter], limits: Limits | None) -> None:
    """In bounded words."""
    told = ""
    try:
        read_parameters(given_ones, limits)
    except PenstockError as error:
        told = error.message
    assert len(told) < 400
