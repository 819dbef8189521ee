"""How long peers may take, and how much they may make us hold. What one connection may do is in http2.limits."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WireLimits:
    """All times in seconds."""

    half_frame: float = 10.0
    """For the rest of a preface, a first SETTINGS, a frame or a header block; also for the TLS handshake."""
    silence: float = 30.0
    """After which a peer is pinged."""
    pong: float = 10.0
    """For anything at all to come after that ping."""
    blocked: float = 60.0
    """For a peer to read anything of what is written to it."""
    message: float = 30.0
    """For a message that has begun to come in whole; and a second more for each `message_rate` bytes of it."""
    message_rate: int = 64 * 1024
    early_end: float = 0.02
    """How long a call's end waits for the end of its request. A client that hears that its call has ended while it
    still sends may take the wrong thing for the reason: grpc.aio's says INTERNAL, `Internal error from Core`."""
    goaway: float = 1.0
    """For a peer to answer the first GOAWAY, whose answer says that it knows."""
    linger: float = 1.0
    """For a peer to close its side once everything was said: whoever closes first loses what is on its way."""
    look: float = 1.0
    """How often peers are looked at for the times above."""
    deadline_slack: float = 0.005
    """How long after a call's deadline it is cut off: the service knows better words, and is let go first."""
    stream_window: int = 1 << 20
    connection_window: int = 4 << 20
    window_messages: int = 16
    """Messages that a stream's handler may have that it has not given back."""
    turn_messages: int = 64
    """Messages that a stream may send before others have their turn."""
