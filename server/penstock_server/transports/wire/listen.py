"""Sockets that listen, and the TLS on them."""

import socket
import ssl

from penstock_server.errors import BindError
from penstock_server.transports.base import TlsSettings, check_tls

BACKLOG = 1024


def bind(host: str, port: int, *, reuse_port: bool = False) -> list[socket.socket]:
    """A bound socket for every address that the host has, all with one port. Raises BindError.

    `reuse_port` is for several processes that share it.

    `localhost` is two addresses on most machines, and a client takes the first that it likes.
    """
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    bound: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in dict.fromkeys(found):
            listener = socket.socket(family, kind, protocol)
            bound.append(listener)
            # A port whose last connections are still dying can be listened on; one that another server has cannot.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                # `::` takes IPv4 too, as gRPC has it; `localhost` has a socket for each.
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(host != "::"))
            where = (address[0], port, *address[2:])
            listener.bind(where)
            listener.listen(BACKLOG)
            port = listener.getsockname()[1]
    except OSError as error:
        for listener in bound:
            listener.close()
        raise BindError(f"cannot listen on {shown}: {error.strerror}") from None
    return bound


def tls_context(tls: TlsSettings) -> ssl.SSLContext:
    """TLS 1.2 and up, `h2` by ALPN; with a `client_ca` only clients that it has signed. Raises BindError."""
    check_tls(tls)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(tls.certificate, tls.key)
    context.set_alpn_protocols(["h2"])
    # RFC 9113, section 9.2: no compression, no renegotiation; and of TLS 1.2 only what has forward secrecy.
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")
    if tls.client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(tls.client_ca)
    return context
