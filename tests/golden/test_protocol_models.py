"""What is told of models and of what they did, in both dialects: metadata, configurations, readiness, statistics."""

import json
from asyncio import AbstractEventLoop
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from penstock_proto import byte_tensors
from penstock_proto import open_inference_pb2 as pb
from penstock_server.app.settings import Compat, TransportName
from tests.golden.cases import SERVICE, Json
from tests.golden.messages import HEALTH, OK, answer, ask, end, failing, given, ints
from tests.golden.serving import Call, calling, running, settings_for

# ── what is told of models ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("version", "versions"), [("", ["1", "2"]), ("1", ["1"]), ("2", ["2"])])
def test_metadata(version: str, versions: list[str], either: Call) -> None:
    """Shapes with the batch axis; all versions that are served, or the one that was asked for."""
    request = pb.ModelMetadataRequest(name="addsub", version=version).SerializeToString()
    assert ask(either, "ModelMetadata", request) == {
        "name": "addsub",
        "versions": versions,
        "platform": "python",
        "inputs": [{"name": name, "datatype": "FP32", "shape": ["-1", "4"]} for name in ("A", "B")],
        "outputs": [{"name": name, "datatype": "FP32", "shape": ["-1", "4"]} for name in ("SUM", "DIFF")],
    }


def test_metadata_of_a_model_without_a_batch_axis(either: Call) -> None:
    """Shapes as they were configured."""
    metadata = ask(either, "ModelMetadata", pb.ModelMetadataRequest(name="intsum").SerializeToString())
    assert isinstance(metadata, dict)
    assert metadata["inputs"] == [
        {"name": "X", "datatype": "INT32", "shape": ["2", "3"]},
        {"name": "Y", "datatype": "INT32", "shape": ["2", "3"]},
        {"name": "Z", "datatype": "INT32", "shape": ["1"]},
    ]


def test_the_configuration_is_complete(either: Call) -> None:
    """Dims without the batch axis, and every default filled in, as clients that plan by it expect."""
    config = ask(either, "ModelConfig", pb.ModelConfigRequest(name="addsub").SerializeToString())
    assert config == {
        "config": {
            "name": "addsub",
            "backend": "python",
            "default_model_filename": "model.py",
            "version_policy": {"specific": {"versions": ["1", "2"]}},
            "max_batch_size": 8,
            "input": [{"name": name, "data_type": "TYPE_FP32", "dims": ["4"]} for name in ("A", "B")],
            "output": [{"name": name, "data_type": "TYPE_FP32", "dims": ["4"]} for name in ("SUM", "DIFF")],
            "dynamic_batching": {"preferred_batch_size": [4, 8], "max_queue_delay_microseconds": "500"},
            "instance_group": [{"name": "addsub", "kind": "KIND_CPU", "count": 1}],
            "optimization": {"input_pinned_memory": {"enable": True}, "output_pinned_memory": {"enable": True}},
        }
    }


def test_the_index_names_every_version(either: Call) -> None:
    """With its state; a name for the repository is refused, since there is one only."""
    index = ask(either, "RepositoryIndex")
    assert isinstance(index, dict)
    models = cast("list[Json]", index["models"])
    assert {"name": "addsub", "version": "2", "state": "READY"} in models
    assert {"name": "spare", "version": "1", "state": "READY"} in models
    request = pb.RepositoryIndexRequest(repository_name="mine").SerializeToString()
    reply = either(f"/{SERVICE}/RepositoryIndex", [request])
    assert (reply.status, reply.details) == ("UNIMPLEMENTED", "'repository_name' specification is not supported")


# ── statistics ────────────────────────────────────────────────────────────────────────────────────


def _counts(call: Call, model: str) -> tuple[int, int, int, int]:
    """Successes, failures, rows and executions of a model."""
    request = pb.ModelStatisticsRequest(name=model).SerializeToString()
    reply = call(f"/{SERVICE}/ModelStatistics", [request])
    (statistics,) = pb.ModelStatisticsResponse.FromString(reply.responses[0]).model_stats
    stats = statistics.inference_stats
    assert stats.queue.count == stats.compute_infer.count == stats.success.count
    return stats.success.count, stats.fail.count, statistics.inference_count, statistics.execution_count


def test_what_statistics_count(either: Call) -> None:
    """A deliberate error counts as a success, an unforeseen one as a failure, a request that was refused not at all."""
    before = _counts(either, "fail")
    end(either, failing(1, "meant"))
    end(either, failing(-1, "not meant"))
    refused = failing(1, "without a code")
    del refused.inputs[1]
    end(either, refused)
    after = _counts(either, "fail")
    assert tuple(now - then for now, then in zip(after, before, strict=True)) == (1, 1, 1, 1)


def test_statistics_count_rows_by_the_size_of_their_batch(either: Call) -> None:
    """Three rows in one request are three inferences in one execution of batch size 3."""
    request = pb.ModelStatisticsRequest(name="strings").SerializeToString()
    before = _counts(either, "strings")
    raw = byte_tensors.pack([b"a"] * 6)
    answer(
        either,
        pb.ModelInferRequest(model_name="strings", inputs=[given("TEXT", "BYTES", 3, 2)], raw_input_contents=[raw]),
    )
    after = _counts(either, "strings")
    assert tuple(now - then for now, then in zip(after, before, strict=True)) == (1, 0, 3, 1)
    statistics = pb.ModelStatisticsResponse.FromString(either(f"/{SERVICE}/ModelStatistics", [request]).responses[0])
    assert [batch.batch_size for batch in statistics.model_stats[0].batch_stats] == [3]
    assert statistics.model_stats[0].last_inference > 0


def test_statistics_of_every_model(either: Call) -> None:
    """An empty name asks for all of them: one entry for each version that is served."""
    reply = either(f"/{SERVICE}/ModelStatistics", [b""])
    entries = [
        (each.name, each.version) for each in pb.ModelStatisticsResponse.FromString(reply.responses[0]).model_stats
    ]
    assert [version for name, version in entries if name == "addsub"] == ["1", "2"]
    assert entries == sorted(entries)
    assert ("slow", "1") in entries


# ── models that do not load ───────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module", params=[Compat.TRITON, Compat.NONE], ids=["triton", "penstock"])
def not_ready(
    request: pytest.FixtureRequest, unservable_models: Path, transport: TransportName, loop: AbstractEventLoop
) -> Iterator[Call]:
    """A server whose models have not all come up."""
    settings = settings_for(unservable_models, transport, request.param)
    with running(settings, loop) as server, calling(server.port) as call:
        yield call


@pytest.mark.parametrize(
    ("model", "version", "outcome"),
    [
        ("spare", "", OK),
        ("broken", "", ("UNAVAILABLE", "Request for unknown model: 'broken' version 1 is not at ready state")),
        ("broken", "1", ("UNAVAILABLE", "Request for unknown model: 'broken' version 1 is not at ready state")),
        ("broken", "2", ("NOT_FOUND", "Request for unknown model: 'broken' version 2 is not found")),
        ("unversioned", "", ("NOT_FOUND", "Request for unknown model: 'unversioned' has no available versions")),
    ],
)
def test_models_that_cannot_answer(model: str, version: str, outcome: tuple[str, str], not_ready: Call) -> None:
    """A version that failed is there and unavailable; without any version there is nothing to find."""
    inputs = [given("IN", "INT32", 1)]
    request = pb.ModelInferRequest(model_name=model, model_version=version, inputs=inputs, raw_input_contents=[ints(1)])
    assert end(not_ready, request) == outcome


def test_readiness_is_of_all_models(not_ready: Call) -> None:
    """One that failed makes itself, the server and its health not ready; the server lives all the same."""
    assert ask(not_ready, "ServerLive") == {"live": True}
    assert ask(not_ready, "ServerReady") == {}
    assert ask(not_ready, HEALTH) == {"status": "NOT_SERVING"}
    ready = {
        model: ask(not_ready, "ModelReady", pb.ModelReadyRequest(name=model).SerializeToString())
        for model in ("spare", "broken", "unversioned", "nope")
    }
    assert ready == {"spare": {"ready": True}, "broken": {}, "unversioned": {}, "nope": {}}


def test_the_reason_of_a_failed_load_is_not_for_clients(not_ready: Call) -> None:
    """It may name files and hold a model's own words; the log has it."""
    index = json.dumps(ask(not_ready, "RepositoryIndex"))
    assert "UNAVAILABLE" in index
    assert "broken on purpose" not in index
