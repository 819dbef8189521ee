"""The V2 service: everything but inference itself. Questions about the server and its models."""

from penstock_proto import open_inference_pb2 as pb
from penstock_server.engine.statistics import Duration, VersionStatistics
from penstock_server.engine.versions import LATEST, Models, ServedVersion, VersionState
from penstock_server.errors import InvalidRequest, NotReady, Unsupported
from penstock_server.models.spec import ModelSpec
from penstock_server.service.calls import simple, unimplemented
from penstock_server.service.decode import parse_version
from penstock_server.service.dialect import Dialect
from penstock_server.service.inference import Inference
from penstock_server.service.seam import Methods, Stream, Unary
from penstock_server.service.state import ServerState
from penstock_server.service.streaming import StreamInference
from penstock_server.tensors.spec import TensorSpec

SERVICE = "inference.GRPCInferenceService"

EXTENSIONS = ("binary_tensor_data", "classification", "model_configuration", "parameters", "statistics")
"""The extensions of the protocol that this server has; clients look into this list."""

_NOT_YET = {
    "RepositoryModelLoad": "loading models on request is not supported by this server yet",
    "RepositoryModelUnload": "unloading models on request is not supported by this server yet",
    "SystemSharedMemoryStatus": "shared memory is not supported by this server",
    "SystemSharedMemoryRegister": "shared memory is not supported by this server",
    "SystemSharedMemoryUnregister": "shared memory is not supported by this server",
    "CudaSharedMemoryStatus": "CUDA shared memory is not supported by this server",
    "CudaSharedMemoryRegister": "CUDA shared memory is not supported by this server",
    "CudaSharedMemoryUnregister": "CUDA shared memory is not supported by this server",
    "TraceSetting": "trace settings are not supported by this server",
    "LogSettings": "log settings cannot be changed by request: start the server with --log-level",
}


class V2Service:
    """Answers the RPCs of `GRPCInferenceService`."""

    def __init__(
        self,
        models: Models,
        state: ServerState,
        dialect: Dialect,
        inference: Inference,
        streaming: StreamInference,
        server_version: str,
    ) -> None:
        self._models = models
        self._state = state
        self._dialect = dialect
        self._inference = inference
        self._streaming = streaming
        self._server_version = server_version

    def methods(self) -> Methods:
        """The methods by full path."""
        malformed = self._dialect.malformed
        table: dict[str, Unary | Stream] = {
            "ServerLive": simple(self.server_live, pb.ServerLiveRequest, malformed),
            "ServerReady": simple(self.server_ready, pb.ServerReadyRequest, malformed),
            "ModelReady": simple(self.model_ready, pb.ModelReadyRequest, malformed),
            "ServerMetadata": simple(self.server_metadata, pb.ServerMetadataRequest, malformed),
            "ModelMetadata": simple(self.model_metadata, pb.ModelMetadataRequest, malformed),
            "ModelConfig": simple(self.model_config, pb.ModelConfigRequest, malformed),
            "ModelStatistics": simple(self.model_statistics, pb.ModelStatisticsRequest, malformed),
            "RepositoryIndex": simple(self.repository_index, pb.RepositoryIndexRequest, malformed),
            "ModelInfer": self._inference.unary,
        }
        table |= {name: unimplemented(sentence) for name, sentence in _NOT_YET.items()}
        table["ModelStreamInfer"] = self._streaming.stream
        return {f"/{SERVICE}/{name}": method for name, method in table.items()}

    # The server.

    def server_live(self, request: pb.ServerLiveRequest) -> pb.ServerLiveResponse:
        self._refuse_on_exit()
        return pb.ServerLiveResponse(live=self._state.live)

    def server_ready(self, request: pb.ServerReadyRequest) -> pb.ServerReadyResponse:
        self._refuse_on_exit()
        return pb.ServerReadyResponse(ready=self._state.ready)

    def server_metadata(self, request: pb.ServerMetadataRequest) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(
            name=self._dialect.server_name, version=self._server_version, extensions=EXTENSIONS
        )

    def _refuse_on_exit(self, text: str = "Server exiting") -> None:
        if self._state.exiting:
            raise NotReady(text)

    # The models.

    def model_ready(self, request: pb.ModelReadyRequest) -> pb.ModelReadyResponse:
        self._refuse_on_exit("Server not ready")
        wanted = parse_version(request.version, self._dialect)
        model = self._models.get(request.name)
        ready = model is not None and (bool(model.served) if wanted == LATEST else wanted in model.served)
        return pb.ModelReadyResponse(ready=ready)

    def model_metadata(self, request: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:
        version = self._find(request.name, request.version)
        spec = version.spec
        model = self._models.get(request.name)
        # Who asks for a version is told of that one, who asks for the model of all that are served.
        versions = [version.version] if request.version or model is None else list(model.served)
        response = pb.ModelMetadataResponse(
            name=spec.name,
            versions=[str(number) for number in versions],
            platform=version.config.platform or version.config.backend,
        )
        for tensor in spec.inputs:
            response.inputs.append(_tensor_metadata(tensor, spec))
        for tensor in spec.outputs:
            response.outputs.append(_tensor_metadata(tensor, spec))
        return response

    def model_config(self, request: pb.ModelConfigRequest) -> pb.ModelConfigResponse:
        return pb.ModelConfigResponse(config=self._find(request.name, request.version).config)

    def _find(self, name: str, version: str) -> ServedVersion:
        return self._models.find(name, parse_version(version, self._dialect))

    def repository_index(self, request: pb.RepositoryIndexRequest) -> pb.RepositoryIndexResponse:
        self._refuse_on_exit("Server not ready")
        if request.repository_name:
            raise Unsupported("'repository_name' specification is not supported")
        response = pb.RepositoryIndexResponse()
        for model in self._models:
            if not model.states and not request.ready:
                response.models.add(
                    name=model.name, state=VersionState.UNAVAILABLE.value, reason=_reason(model.failure)
                )
            for number, (state, reason) in model.states.items():
                if not request.ready or state is VersionState.READY:
                    response.models.add(name=model.name, version=str(number), state=state.value, reason=_reason(reason))
        return response

    def model_statistics(self, request: pb.ModelStatisticsRequest) -> pb.ModelStatisticsResponse:
        wanted = parse_version(request.version, self._dialect)
        response = pb.ModelStatisticsResponse()
        for version in self._statistics_of(request.name, wanted):
            response.model_stats.append(_statistics(version))
        return response

    def _statistics_of(self, name: str, wanted: int) -> list[ServedVersion]:
        if not name:
            return list(self._models.versions())
        model = self._models.get(name)
        if model is None or not model.served:
            raise InvalidRequest(f"requested model '{name[:128]}' is not available")
        if wanted == LATEST:
            return list(model.served.values())
        if wanted not in model.served:
            raise InvalidRequest(f"requested model version is not available for model '{name[:128]}'")
        return [model.served[wanted]]


def _reason(failure: str) -> str:
    """What a client may know of a failed load: the reason itself names files."""
    return "the model failed to load; the server's log has the reason" if failure else ""


def _tensor_metadata(tensor: TensorSpec, spec: ModelSpec) -> pb.ModelMetadataResponse.TensorMetadata:
    shape = (-1, *tensor.shape) if spec.max_batch_size else tensor.shape
    return pb.ModelMetadataResponse.TensorMetadata(name=tensor.name, datatype=tensor.datatype.name, shape=shape)


def _statistics(version: ServedVersion) -> pb.ModelStatistics:
    counters: VersionStatistics = version.driver.counters
    statistics = pb.ModelStatistics(
        name=version.spec.name,
        version=str(version.version),
        last_inference=counters.last_inference_ms,
        inference_count=counters.inference_count,
        execution_count=counters.execution_count,
        inference_stats=pb.InferStatistics(
            success=_duration(counters.success),
            fail=_duration(counters.fail),
            queue=_duration(counters.queue),
            compute_input=_duration(counters.compute_input),
            compute_infer=_duration(counters.compute_infer),
            compute_output=_duration(counters.compute_output),
            cache_hit=pb.StatisticDuration(),
            cache_miss=pb.StatisticDuration(),
        ),
    )
    for rows, batch in sorted(counters.batches.items()):
        statistics.batch_stats.add(
            batch_size=rows,
            compute_input=_duration(batch.compute_input),
            compute_infer=_duration(batch.compute_infer),
            compute_output=_duration(batch.compute_output),
        )
    return statistics


def _duration(duration: Duration) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=duration.count, ns=duration.ns)
