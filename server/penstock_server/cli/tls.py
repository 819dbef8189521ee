"""Options of the commands that call a server with TLS, and what they make together."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from penstock_server.cli.output import fail
from penstock_server.cli.pems import check_authority, check_pair

if TYPE_CHECKING:
    from penstock_client import Tls

_PANEL = "The server"

TlsWanted: TypeAlias = Annotated[
    bool, typer.Option("--tls", help="Use TLS and trust the public authorities.", rich_help_panel=_PANEL)
]
TlsAuthority: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        help="Use TLS and trust this authority.",
        metavar="PEM",
        exists=True,
        dir_okay=False,
        readable=True,
        envvar="PENSTOCK_TLS_CA",
        rich_help_panel=_PANEL,
    ),
]
TlsCertificate: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        help="Our certificate, where the server asks for one.",
        metavar="PEM",
        exists=True,
        dir_okay=False,
        readable=True,
        rich_help_panel=_PANEL,
    ),
]
TlsKey: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        help="Its private key.", metavar="PEM", exists=True, dir_okay=False, readable=True, rich_help_panel=_PANEL
    ),
]


def tls_credentials(wanted: bool, ca: Path | None, certificate: Path | None, key: Path | None) -> "Tls | None":
    """What was typed, once it was looked at; None: no TLS. Ends the command with status 2 if it is no good."""
    from penstock_client import Tls

    if not wanted and ca is None and certificate is None and key is None:
        return None
    if (certificate is None) != (key is None):
        fail("a certificate of ours needs both --tls-cert and --tls-key", 2)
    if certificate is not None and key is not None:
        check_pair(certificate, key)
    if ca is not None:
        check_authority(ca, "--tls-ca")
    return Tls(ca=ca, cert=certificate, key=key)
