"""Small Python models, written while the tests run."""

from pathlib import Path
from textwrap import dedent, indent

_TEMPLATE = """
import numpy as np
from penstock_server.backends.python import ModelContext, ModelError, PythonModel, Status


class Model(PythonModel):
    def load(self, context):
        self.context = context
{load}

    def infer(self, inputs, batch):
{infer}

    def close(self):
{close}
"""


def source(infer: str, *, load: str = "pass", close: str = "pass") -> str:
    """The text of a `model.py` whose methods have these bodies."""
    bodies = {"load": load, "infer": infer, "close": close}
    return _TEMPLATE.format(**{name: indent(dedent(body).strip(), " " * 8) for name, body in bodies.items()})


def write(path: Path, infer: str, *, load: str = "pass", close: str = "pass") -> Path:
    """Write such a `model.py`; the folders it lies in are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source(infer, load=load, close=close))
    return path


IDENTITY = 'return {"Y": inputs["X"]}'
