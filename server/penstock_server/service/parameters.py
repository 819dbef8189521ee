"""Request parameters: which ones the protocol gives a meaning, and which go to the model."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from penstock_proto.open_inference_pb2 import InferParameter
from penstock_server.backends.base import ParameterValue
from penstock_server.errors import InvalidRequest, Unsupported
from penstock_server.service.dialect import Limits

_EMPTY_FINAL = "triton_enable_empty_final_response"
_RESERVED = "triton_"
_LONGEST_SEQUENCE_ID = 128
"""In bytes of UTF-8."""


@dataclass(slots=True)
class RequestParameters:
    """The parameters of a request, read."""

    custom: dict[str, ParameterValue] = field(default_factory=dict[str, ParameterValue])
    """Those without a meaning in the protocol: the model's."""
    correlation_id: int | str = 0
    sequence_start: bool = False
    sequence_end: bool = False
    priority: int = 0
    timeout_us: int = 0
    """0: none."""
    empty_final_response: bool = False


def read_parameters(parameters: Mapping[str, InferParameter], limits: Limits | None) -> RequestParameters:
    """Read a request's parameters. InvalidRequest if a type or a value is not what the protocol says."""
    read = RequestParameters()
    for key, value in parameters.items():
        if limits is not None:
            _check_length(key, value, limits)
        kind = value.WhichOneof("parameter_choice")
        match key:
            case "sequence_id":
                read.correlation_id = _sequence_id(value, kind)
            case "sequence_start":
                read.sequence_start = _bool(key, value, kind)
            case "sequence_end":
                read.sequence_end = _bool(key, value, kind)
            case "priority":
                read.priority = _priority(value, kind)
            case "timeout":
                if kind != "int64_param":
                    raise _wrong_type(key, "int64_param.")
                read.timeout_us = _unsigned(value.int64_param)
            case _ if key.startswith(_RESERVED):
                read.empty_final_response = _reserved(key, value, kind)
            case _:
                read.custom[key] = _custom(key, value, kind)
    return read


def _sequence_id(value: InferParameter, kind: str | None) -> int | str:
    if kind == "int64_param":
        return _unsigned(value.int64_param)
    if kind != "string_param":
        raise _wrong_type("sequence_id", "int64_param or string_param.")
    if len(value.string_param.encode()) > _LONGEST_SEQUENCE_ID:
        raise Unsupported(f"string correlation ID cannot be longer than {_LONGEST_SEQUENCE_ID} characters")
    return value.string_param


def _unsigned(value: int) -> int:
    """Sequence ids and timeouts are unsigned numbers that travel as signed ones: -1 is the largest."""
    return value % (1 << 64)


def _priority(value: InferParameter, kind: str | None) -> int:
    # Triton's own Python client sends a uint64.
    priority = value.int64_param if kind == "int64_param" else value.uint64_param
    if kind not in ("int64_param", "uint64_param"):
        raise _wrong_type("priority", "int64_param or uint64_param.")
    if priority < 0:
        raise InvalidRequest("invalid value for 'priority', expected value >= 0.")
    return priority


def _bool(key: str, value: InferParameter, kind: str | None) -> bool:
    if kind != "bool_param":
        raise _wrong_type(key, "bool_param.")
    return value.bool_param


def _reserved(key: str, value: InferParameter, kind: str | None) -> bool:
    if key != _EMPTY_FINAL:
        raise InvalidRequest(
            "parameter keys starting with 'triton_' are reserved for Triton usage. Only the following keys "
            f"starting with 'triton_' are allowed: {_EMPTY_FINAL}"
        )
    return _bool(key, value, kind)


def _custom(key: str, value: InferParameter, kind: str | None) -> ParameterValue:
    match kind:
        case "int64_param":
            return value.int64_param
        case "bool_param":
            return value.bool_param
        case "string_param":
            return value.string_param
        case "double_param":
            return value.double_param
        case _:
            # A double is taken too, though the text, which is Triton's, does not say so.
            raise _wrong_type(key, "int64_param, bool_param, or string_param.")


def _wrong_type(key: str, expected: str) -> InvalidRequest:
    return InvalidRequest(f"invalid value type for '{key[:128]}' parameter, expected {expected}")


def _check_length(key: str, value: InferParameter, limits: Limits) -> None:
    if len(key) > limits.key_length:
        raise InvalidRequest(f"a parameter's key has {len(key)} characters, more than the limit of {limits.key_length}")
    if len(value.string_param) > limits.string_length:
        raise InvalidRequest(
            f"the value of parameter '{key}' has {len(value.string_param)} characters, "
            f"more than the limit of {limits.string_length}"
        )
