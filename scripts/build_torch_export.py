"""Builds the model that the tests take for "what PyTorch exports": `tests/data/torch_mlp.onnx`, and its answers.

The tests make their other models while they run. This one is committed, because PyTorch is too large to install for
a few hundred bytes. Its answers are PyTorch's own, from before the export, so they tell whether what a user exports
and serves gives the same numbers. The weights are seeded.

    pip install torch==2.13.0 onnxscript onnx       # in an environment of its own
    python scripts/build_torch_export.py
"""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

DATA = Path(__file__).resolve().parent.parent / "tests" / "data"
SEED = 20
ROWS, FEATURES, CLASSES = 5, 4, 3

# By name: Penstock's own environment, in which this file is type-checked, has no torch.
torch: Any = import_module("torch")
onnx: Any = import_module("onnx")


def main() -> None:
    torch.manual_seed(SEED)
    nn = torch.nn
    model = nn.Sequential(nn.Linear(FEATURES, 8), nn.ReLU(), nn.Linear(8, CLASSES), nn.Softmax(dim=1)).eval()
    x = torch.randn(ROWS, FEATURES)
    file = DATA / "torch_mlp.onnx"
    torch.onnx.export(
        model,
        (x,),
        file,
        input_names=["x"],
        output_names=["probabilities"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        dynamo=True,
        external_data=False,
    )
    onnx.save(without_traces(onnx.load(file)), file)
    with torch.no_grad():
        answers = {"x": x.tolist(), "probabilities": model(x).tolist()}
    file.with_suffix(".json").write_text(json.dumps(answers, indent=1) + "\n", encoding="utf-8")


def without_traces(model: Any) -> Any:
    """The model without the exporter's notes, which quote source files of the machine that exported it."""
    graph = model.graph
    for noted in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        noted.doc_string = ""
        del noted.metadata_props[:]
    return model


if __name__ == "__main__":
    main()
