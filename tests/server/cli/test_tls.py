"""TLS from the command line, on both ends: whom the client trusts, and whom the server does."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from penstock_client import NO_RETRIES, Client, InferenceError, Tls
from penstock_server.cli import main
from tests.server.cli.conftest import Ear, copy_of
from tests.server.cli.processes import Server, serving

ASK = ("infer", "iris", "--input", "X=5.1,3.5,1.4,0.2", "--timeout", "60")


class Pems:
    """An authority and what it has issued, as files."""

    def __init__(self, folder: Path, name: str) -> None:
        authority = trustme.CA()
        issued = authority.issue_cert(name)
        self.ca, self.cert, self.key = (folder / f"{name}.{kind}.pem" for kind in ("ca", "cert", "key"))
        authority.cert_pem.write_to_path(self.ca)
        issued.private_key_pem.write_to_path(self.key)
        for pem in issued.cert_chain_pems:
            pem.write_to_path(self.cert, append=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def servers(folder: Path) -> Pems:
    """The server's certificate, for the address it is reached at."""
    return Pems(folder, "127.0.0.1")


@pytest.fixture(scope="module")
def clients(folder: Path) -> Pems:
    """A client's certificate, of another authority."""
    return Pems(folder, "client.example")


@pytest.fixture(scope="module")
def models(folder: Path) -> Path:
    (folder / "models").mkdir()
    return copy_of("iris", folder / "models")


@pytest.fixture(scope="module")
def secure(models: Path, servers: Pems) -> Iterator[Server]:
    """A server that shows a certificate."""
    with serving(models, "--tls-cert", servers.cert, "--tls-key", servers.key) as server:
        yield server


@pytest.fixture(scope="module")
def strict(models: Path, servers: Pems, clients: Pems) -> Iterator[Server]:
    """A server that wants to see one, too."""
    options = ("--tls-cert", servers.cert, "--tls-key", servers.key, "--tls-client-ca", clients.ca)
    with serving(models, *options) as server:
        yield server


def ask(server: Server, *options: object) -> int:
    return main.run([*ASK, "--url", server.target, *map(str, options)])


def test_a_client_that_trusts_the_authority_is_answered(secure: Server, servers: Pems, said: Ear) -> None:
    """The log says that there is TLS."""
    assert ask(secure, "--tls-ca", servers.ca) == 0
    assert said().out.startswith("iris version 1\n")
    assert secure.until("grpc_port")["message"].startswith("gRPC with TLS on 127.0.0.1:")


def test_a_simulation_asks_as_a_client_does(secure: Server, servers: Pems, clients: Pems, said: Ear) -> None:
    """With the same options, and the same words for what is no good."""
    row = "[5.1,3.5,1.4,0.2]"
    for rows in (1, 3):
        one = ("infer", "iris", "--input", f"X=[{','.join([row] * rows)}]", "--url", secure.target)
        assert main.run([*one, "--tls-ca", str(servers.ca)]) == 0
    asked = ("simulate", "--url", secure.target, "--model", "iris", "--seconds", "0.01", "--loads", "0.5")
    assert main.run([*asked, "--tls-ca", str(servers.ca)]) == 0
    assert main.run([*asked]) == 2
    assert main.run([*asked, "--tls-ca", str(clients.ca)]) == 2
    said()
    assert main.run([*asked, "--tls-ca", str(servers.ca), "--tls-cert", str(clients.cert)]) == 2
    assert said().err == "penstock: a certificate of ours needs both --tls-cert and --tls-key\n"


def test_a_client_that_trusts_another_authority_is_told(secure: Server, clients: Pems, said: Ear) -> None:
    """It sends nothing to a server that it does not know; nor to one that public authorities do not know."""
    for option in (["--tls-ca", clients.ca], ["--tls"]):
        assert ask(secure, *option) == 1
        (line,) = said().err.splitlines()[-1:]
        assert line.startswith(f"penstock: nobody answers at {secure.target}: ")


def test_a_client_in_plain_text_is_not_answered(secure: Server) -> None:
    """Nothing is served without TLS beside it."""
    with Client(secure.target, timeout=5.0, retries=NO_RETRIES) as client:
        assert not client.is_ready()


def test_a_client_without_a_certificate_is_refused(strict: Server, servers: Pems, clients: Pems, said: Ear) -> None:
    """With --tls-client-ca only its clients come in; one with a certificate of another authority does not."""
    assert ask(strict, "--tls-ca", servers.ca) == 1
    assert "UNAVAILABLE" in said().err
    wrong = Tls(ca=servers.ca, cert=servers.cert, key=servers.key)
    with Client(strict.target, tls=wrong, timeout=5.0, retries=NO_RETRIES) as client, pytest.raises(InferenceError):
        client.server_metadata()


def test_a_client_with_a_certificate_is_answered(strict: Server, servers: Pems, clients: Pems, said: Ear) -> None:
    """Given to `infer` like to the server."""
    assert ask(strict, "--tls-ca", servers.ca, "--tls-cert", clients.cert, "--tls-key", clients.key) == 0
    assert said().out.startswith("iris version 1\n")
