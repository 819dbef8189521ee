"""Writes the model repository that the golden answers were recorded with, for Penstock's own backends.

A table of models: a configuration, a file of `models/` that is copied into each version's folder, and the versions.
With `onnx=True` the models that are plain arithmetic become ONNX graphs (see graphs.py) with the same configuration;
the others stay in Python, so that either repository has every name.

Two models of the contract are left out of `SERVED`: a server with a model that does not load is, rightly, not ready,
and the recorded one was. They are in `UNSERVABLE`. `asleep` was in the repository but loaded by nobody; Penstock loads
everything it finds, so `asleep` is not written at all and stays as unknown to clients as it was.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent, indent

from penstock_proto.datatypes import DATATYPES
from tests.golden.graphs import GRAPHS, save

CODE = Path(__file__).parent / "models"


@dataclass(frozen=True, slots=True)
class Model:
    """One model of the repository."""

    name: str
    code: str
    """The file of `models/` without its suffix."""
    config: str
    """`config.pbtxt`, but for name and backend."""
    versions: tuple[int, ...] = (1,)
    files: Mapping[str, str] = field(default_factory=dict[str, str])
    """Further files of the model's folder, by name."""

    def write(self, root: Path, *, onnx: bool = False) -> None:
        """Write the model's folder."""
        as_graph = onnx and self.code in GRAPHS
        folder = root / self.name
        folder.mkdir(parents=True)
        backend = "onnxruntime" if as_graph else "python"
        (folder / "config.pbtxt").write_text(f'name: "{self.name}"\nbackend: "{backend}"\n{self.config}')
        for name, text in self.files.items():
            (folder / name).write_text(text)
        for version in self.versions:
            directory = folder / str(version)
            directory.mkdir()
            if as_graph:
                save(GRAPHS[self.code](self.name, version), directory / "model.onnx")
            else:
                (directory / "model.py").write_text((CODE / f"{self.code}.py").read_text())


def write_repository(root: Path, models: tuple[Model, ...], *, onnx: bool = False) -> Path:
    """Write these models under `root`, and return it."""
    for model in models:
        model.write(root, onnx=onnx)
    return root


# ── the parts of a configuration ──────────────────────────────────────────────────────────────────


def _inputs(*tensors: str) -> str:
    return "".join(f"input {{ {tensor} }}\n" for tensor in tensors)


def _outputs(*tensors: str) -> str:
    return "".join(f"output {{ {tensor} }}\n" for tensor in tensors)


def _tensor(name: str, datatype: str, *dims: int, more: str = "") -> str:
    """`datatype` as the V2 protocol writes it."""
    return f'name: "{name}" data_type: {DATATYPES[datatype].config_name} dims: {list(dims)} {more}'


def _batch(rows: int) -> str:
    return f"max_batch_size: {rows}\n"


def _block(text: str) -> str:
    return dedent(text).lstrip("\n")


# ── the models ────────────────────────────────────────────────────────────────────────────────────

_ADDSUB = Model(
    "addsub",
    "addsub",
    _batch(8)
    + _inputs(_tensor("A", "FP32", 4), _tensor("B", "FP32", 4))
    + _outputs(_tensor("SUM", "FP32", 4), _tensor("DIFF", "FP32", 4))
    + _block("""
        version_policy { specific { versions: [1, 2] } }
        dynamic_batching { preferred_batch_size: [4, 8] max_queue_delay_microseconds: 500 }
    """),
    versions=(1, 2, 3),
)

_INTSUM = Model(
    "intsum",
    "intsum",
    _inputs(_tensor("X", "INT32", 2, 3), _tensor("Y", "INT32", 2, 3), _tensor("Z", "INT32", 1))
    + _outputs(_tensor("SUM", "INT32", 2, 3), _tensor("TOTAL", "INT32", 1)),
)

_PASS = tuple(
    Model(
        f"pass_{datatype}",
        "passthrough",
        _inputs(_tensor("IN", datatype, -1)) + _outputs(_tensor("OUT", datatype, -1)),
    )
    for datatype in DATATYPES
)

ALLTYPES = (
    "BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64", "FP16", "FP32", "FP64", "BYTES",
)  # fmt: skip
"""The datatypes of `alltypes`, in the order of its inputs and outputs."""

_ALLTYPES = Model(
    "alltypes",
    "passthrough",
    _inputs(*(_tensor(f"IN_{datatype}", datatype, -1) for datatype in ALLTYPES))
    + _outputs(*(_tensor(f"OUT_{datatype}", datatype, -1) for datatype in ALLTYPES)),
)

_STRINGS = Model(
    "strings",
    "strings",
    _batch(4)
    + _inputs(_tensor("TEXT", "BYTES", 2))
    + _outputs(_tensor("UPPER", "BYTES", 2), _tensor("LENGTH", "INT32", 2)),
)

_OPTIONAL = Model(
    "optional",
    "optional",
    _inputs(
        _tensor("X", "FP32", 2),
        _tensor("SCALE", "FP32", 1, more="optional: true"),
        _tensor("BIAS", "FP32", 1, more="optional: true"),
    )
    + _outputs(_tensor("Y", "FP32", 2)),
)

_CLASSIFIER = Model(
    "classifier",
    "classifier",
    _batch(8)
    + _inputs(_tensor("IN", "FP32", 4))
    + _outputs(_tensor("SCORES", "FP32", 4, more='label_filename: "labels.txt"'), _tensor("RANKS", "INT32", 4)),
    files={"labels.txt": "cat\ndog\nemu\nfox\n"},
)

_SLEEPS = _inputs(_tensor("MS", "INT32", 1)) + _outputs(_tensor("MS_OUT", "INT32", 1))

_SLOW = Model("slow", "sleeper", _SLEEPS + "instance_group { count: 2 kind: KIND_CPU }\n")

_FAIL = Model(
    "fail",
    "fail",
    _inputs(_tensor("TEXT", "BYTES", 1), _tensor("CODE", "INT32", 1)) + _outputs(_tensor("NEVER", "INT32", 1)),
)

_PARAMETERS = Model(
    "parameters", "parameters", _inputs(_tensor("IN", "INT32", 1)) + _outputs(_tensor("SEEN", "BYTES", 1))
)

_QUEUED = Model(
    "queued",
    "sleeper",
    _batch(1)
    + _SLEEPS
    + _block("""
        dynamic_batching {
          default_queue_policy {
            max_queue_size: 2
            timeout_action: REJECT
            default_timeout_microseconds: 3000000
            allow_timeout_override: true
          }
        }
    """),
)

_PRIORITY = Model(
    "priority", "sleeper", _batch(1) + _SLEEPS + "dynamic_batching { priority_levels: 2 default_priority_level: 2 }\n"
)

_BATCHER = Model(
    "batcher",
    "batcher",
    _batch(4)
    + _inputs(_tensor("X", "INT32", -1))
    + _outputs(_tensor("X_OUT", "INT32", -1), _tensor("ROWS", "INT32", 1))
    + "dynamic_batching { preferred_batch_size: [4] max_queue_delay_microseconds: 300000 }\n",
)


def _accum(name: str, *controls: str) -> Model:
    """An accumulator with these controls besides START, END and READY."""
    flags = tuple(
        f'name: "{flag}" control [{{ kind: CONTROL_SEQUENCE_{flag} int32_false_true: [0, 1] }}]'
        for flag in ("START", "END", "READY")
    )
    blocks = "".join(f"control_input {{ {control} }}\n" for control in (*flags, *controls))
    return Model(
        name,
        "accum",
        _batch(2)
        + _inputs(_tensor("X", "INT32", 1))
        + _outputs(_tensor("SUM", "INT32", 1), _tensor("COUNT", "INT32", 1))
        + "sequence_batching {\n"
        + indent(f"max_sequence_idle_microseconds: 2000000\n{blocks}", "  ")
        + "}\n",
    )


_ACCUM = _accum("accum", 'name: "CORRID" control [{ kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 }]')
_ACCUM_STR = _accum("accum_str")

_REPEAT = Model(
    "repeat",
    "repeat",
    _inputs(_tensor("N", "INT32", 1), _tensor("DELAY_MS", "INT32", 1), _tensor("FAIL_AFTER", "INT32", 1))
    + _outputs(_tensor("I", "INT32", 1), _tensor("LEFT", "INT32", 1))
    + "model_transaction_policy { decoupled: true }\n",
)

_INT_TO_INT = _inputs(_tensor("IN", "INT32", 1)) + _outputs(_tensor("OUT", "INT32", 1))

_SPARE = Model("spare", "spare", _INT_TO_INT + "version_policy { all {} }\n", versions=(1, 2))

_BROKEN = Model("broken", "broken", _INT_TO_INT)
_UNVERSIONED = Model("unversioned", "spare", _INT_TO_INT, versions=())

SERVED = (
    _ADDSUB, _INTSUM, *_PASS, _ALLTYPES, _STRINGS, _OPTIONAL, _CLASSIFIER, _SLOW, _FAIL, _PARAMETERS,
    _QUEUED, _PRIORITY, _BATCHER, _ACCUM, _ACCUM_STR, _REPEAT, _SPARE,
)  # fmt: skip
"""The models of a server that is ready."""

UNSERVABLE = (_BROKEN, _UNVERSIONED)
"""Those that keep a server from being ready."""
