"""TLS and mutual TLS on every transport, with an authority that the test makes."""

from pathlib import Path

import grpc
import pytest
import trustme
from grpc import aio

from penstock_server.errors import BindError
from penstock_server.service.seam import Unary
from penstock_server.transports.base import TlsSettings, TransportSettings
from tests.server.transports.conftest import MakeTransport, Serve, channel_to
from tests.server.transports.methods import echo

ECHO = "/test.Test/Echo"


class Authority:
    """A certificate authority and the files it makes."""

    def __init__(self, folder: Path, name: str) -> None:
        self._ca = trustme.CA()
        self._folder = folder / name
        self._folder.mkdir()
        self.certificate = self._ca.cert_pem.bytes()
        self.file = self._folder / "ca.pem"
        self.file.write_bytes(self.certificate)

    def server(self, *, client_ca: Path | None = None) -> TlsSettings:
        """What a server on localhost needs."""
        issued = self._ca.issue_cert("localhost")
        certificate, key = self._folder / "server.pem", self._folder / "server.key"
        certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        key.write_bytes(issued.private_key_pem.bytes())
        return TlsSettings(certificate, key, client_ca)

    def client(self, *, trusts: "Authority") -> grpc.ChannelCredentials:
        """A client with a certificate of this authority."""
        issued = self._ca.issue_cert("client@test")
        chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
        return grpc.ssl_channel_credentials(trusts.certificate, issued.private_key_pem.bytes(), chain)

    def trusting_client(self) -> grpc.ChannelCredentials:
        """A client that trusts this authority, and has no certificate itself."""
        return grpc.ssl_channel_credentials(self.certificate)


@pytest.fixture
def good(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "good")


@pytest.fixture
def other(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "other")


def spoil(path: Path, content: bytes | None) -> None:
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)


async def attempt(port: int, credentials: grpc.ChannelCredentials | None) -> grpc.StatusCode:
    """One call: how it ends."""
    async with channel_to(port, credentials) as channel:
        call: aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(ECHO)
        try:
            assert await call(b"x", timeout=60) == b"x"
        except aio.AioRpcError as error:
            return error.code()
        return grpc.StatusCode.OK


async def test_tls(serve: Serve, good: Authority, other: Authority) -> None:
    """Whoever trusts the server's authority is served; who trusts another one is not, nor who speaks plainly."""
    served = await serve({ECHO: Unary(echo)}, tls=good.server())
    assert await attempt(served.port, good.trusting_client()) is grpc.StatusCode.OK
    assert await attempt(served.port, other.trusting_client()) is grpc.StatusCode.UNAVAILABLE
    assert await attempt(served.port, None) is grpc.StatusCode.UNAVAILABLE
    assert await attempt(served.port, good.trusting_client()) is grpc.StatusCode.OK


async def test_mutual_tls(serve: Serve, good: Authority, other: Authority) -> None:
    """Clients need a certificate of the authority that the server names, and of no other."""
    served = await serve({ECHO: Unary(echo)}, tls=good.server(client_ca=good.file))
    assert await attempt(served.port, good.client(trusts=good)) is grpc.StatusCode.OK
    assert await attempt(served.port, good.trusting_client()) is grpc.StatusCode.UNAVAILABLE
    assert await attempt(served.port, other.client(trusts=good)) is grpc.StatusCode.UNAVAILABLE
    assert await attempt(served.port, None) is grpc.StatusCode.UNAVAILABLE


async def test_the_clients_authority_may_be_another(serve: Serve, good: Authority, other: Authority) -> None:
    """Servers often have a public one, clients one of their own."""
    served = await serve({ECHO: Unary(echo)}, tls=good.server(client_ca=other.file))
    assert await attempt(served.port, other.client(trusts=good)) is grpc.StatusCode.OK
    assert await attempt(served.port, good.client(trusts=good)) is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("which", ["certificate", "key", "client_ca"])
@pytest.mark.parametrize("content", [None, b"", b"no certificate"], ids=["missing", "empty", "garbage"])
async def test_files_that_cannot_be_used(
    make_transport: MakeTransport, good: Authority, which: str, content: bytes | None
) -> None:
    """The error names the one that is wrong; nothing listens."""
    tls = good.server(client_ca=good.file)
    path: Path = getattr(tls, which)
    spoil(path, content)
    transport = make_transport({ECHO: Unary(echo)}, TransportSettings(port=0, tls=tls))
    with pytest.raises(BindError) as caught:
        await transport.start()
    assert str(path) in str(caught.value)
    await transport.stop(0)


async def test_a_key_that_does_not_belong_to_the_certificate(
    make_transport: MakeTransport, good: Authority, other: Authority
) -> None:
    """Each file is good, but not with the other."""
    tls = TlsSettings(good.server().certificate, other.server().key)
    transport = make_transport({ECHO: Unary(echo)}, TransportSettings(port=0, tls=tls))
    with pytest.raises(BindError) as caught:
        await transport.start()
    assert str(tls.certificate) in str(caught.value)
    assert str(tls.key) in str(caught.value)
    await transport.stop(0)
