"""The transport on grpc.aio: gRPC's own C core, one coroutine for each call."""

from penstock_server.transports.grpcio.server import GrpcioTransport

__all__ = ["GrpcioTransport"]
