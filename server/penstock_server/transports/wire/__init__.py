"""The transport of our own: HTTP/2 and gRPC in plain Python on the event loop, without a task for a call."""

from penstock_server.transports.wire.server import WireTransport

__all__ = ["WireTransport"]
