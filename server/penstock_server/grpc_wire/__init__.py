"""gRPC's own part of the wire, on top of HTTP/2: bytes and header lists in, messages and field lists out.

Like `http2` it knows no asyncio and no clock, and imports nothing of the other layers. It does not know `http2` either:
what it is given are lists of fields and pieces of a body, and what it makes are lists of fields and prefixes.

* `head`: what a request's header list says. * `framing`: the prefix of a message, and messages out of pieces.
* `call`: the receiving half of a call, unary or stream: framing, decompression, and what is given back when.
* `timeouts`, `status`, `metadata`, `compression`: one field or format each.

Source of it all: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""
