"""Looks at TLS files before they are used: gRPC would say late, or never, that they are no good."""

import ssl
from pathlib import Path

from penstock_server.cli.output import fail


def check_pair(certificate: Path, key: Path) -> None:
    """End with status 2 if these are no certificate and its key. They come from --tls-cert and --tls-key."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # An encrypted key is refused like a broken one, instead of asking the terminal for its password.
        context.load_cert_chain(certificate, key, password="")
    except (OSError, ValueError) as error:
        fail(f"--tls-cert {certificate} and --tls-key {key} are no certificate and its key (PEM): {_reason(error)}", 2)


def check_authority(file: Path, option: str) -> None:
    """End with status 2 if this file holds no certificate. It comes from that option."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)
    except (OSError, ValueError) as error:
        fail(f"{option} {file} holds no certificate (PEM): {_reason(error)}", 2)


def _reason(error: Exception) -> str:
    return getattr(error, "reason", "") or str(error)
