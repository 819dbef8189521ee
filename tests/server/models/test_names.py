"""Names of models, backends and model files."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_proto.model_config_pb2 import ModelConfig
from penstock_server.models.names import NAME, fitting_name, guess_backend, name_backend


@given(st.text(max_size=200))
def test_a_fitting_name_is_always_allowed(text: str) -> None:
    """Whatever a file is called, its model has a name that passes, and a name that passes is kept."""
    fitted = fitting_name(text)
    assert NAME.fullmatch(fitted)
    assert not NAME.fullmatch(text) or fitted == text


def test_a_fitting_name_stays_readable() -> None:
    """What does not fit is replaced, not dropped."""
    assert fitting_name("my model (v2)") == "my_model_v2_"
    assert fitting_name("...") == "model"


@pytest.mark.parametrize(
    ("config", "files", "backend"),
    [
        (ModelConfig(backend="python"), ["model.onnx"], "python"),
        (ModelConfig(backend="identity"), [], "identity"),
        (ModelConfig(platform="onnxruntime_onnx"), [], "onnxruntime"),
        (ModelConfig(platform="tensorrt_plan"), ["model.onnx"], ""),
        (ModelConfig(default_model_filename="net.onnx"), [], "onnxruntime"),
        (ModelConfig(default_model_filename="code.py"), ["model.onnx"], "python"),
        (ModelConfig(default_model_filename="model.plan"), ["model.onnx"], ""),
        (ModelConfig(), ["model.onnx"], "onnxruntime"),
        (ModelConfig(), ["model.py", "labels.txt"], "python"),
        (ModelConfig(), ["model.onnx", "model.py"], "onnxruntime"),
        (ModelConfig(), ["net.onnx"], ""),
        (ModelConfig(), [], ""),
    ],
)
def test_the_backend_is_told_by_the_configuration_before_the_files(
    config: ModelConfig, files: list[str], backend: str
) -> None:
    """Backend, platform and file name come first, in this order; the files are asked only if all are silent."""
    assert guess_backend(config, files) == backend


def test_backend_platform_and_file_name_are_made_to_agree() -> None:
    """Whichever of them was written, the others follow; what was written stays."""
    onnx = ModelConfig(platform="onnxruntime_onnx", default_model_filename="net.onnx")
    name_backend(onnx)
    assert (onnx.backend, onnx.platform, onnx.default_model_filename) == ("onnxruntime", "onnxruntime_onnx", "net.onnx")
    python = ModelConfig()
    name_backend(python, ["model.py"])
    assert (python.backend, python.platform, python.default_model_filename) == ("python", "", "model.py")
    other = ModelConfig(backend="identity")
    name_backend(other)
    assert other == ModelConfig(backend="identity")
