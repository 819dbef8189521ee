"""An HTTP/2 server connection as a pure machine: bytes in, calls to a handler, bytes out.

It knows no asyncio, no clock and no gRPC, and imports nothing of the other layers. `connection` is the door; its
docstring is the contract. Around it, by concern: `frames` (the wire format), `headers` (header blocks, their cache, and
what RFC 9113 says about fields), `flow` (windows), `streams` (the states of a stream, as a table), `limits` (what a
peer may cost), `errors` (codes).
"""
