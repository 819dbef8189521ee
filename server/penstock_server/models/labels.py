"""Labels: the names of the classes of an output, one a line, for the classification extension."""

from pathlib import Path

from penstock_proto.model_config_pb2 import ModelConfig
from penstock_server.models.paths import read_text_inside
from penstock_server.models.problems import Problem, refuse

MAX_BYTES = 16 << 20
"""No label file is larger."""


def load_labels(config: ModelConfig, model_dir: Path) -> dict[str, tuple[str, ...]]:
    """The labels of each output that has a `label_filename`, by the output's name.

    The file lies in the model's directory. LoadError names every file that cannot be read.
    """
    labels: dict[str, tuple[str, ...]] = {}
    problems: list[Problem] = []
    for index, output in enumerate(config.output):
        if not output.label_filename:
            continue
        try:
            labels[output.name] = parse_labels(read_text_inside(model_dir, output.label_filename, MAX_BYTES))
        except ValueError as error:
            problems.append(Problem(f"output[{index}].label_filename", str(error)))
    refuse(problems, model=config.name, file=f"{model_dir.name}/config.pbtxt")
    return labels


def parse_labels(text: str) -> tuple[str, ...]:
    """One label a line. Only newlines end a line; an empty line in between is an empty label."""
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return tuple(lines[:-1] if lines[-1] == "" else lines)
