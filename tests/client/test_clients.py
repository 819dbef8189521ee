"""What both clients do, held against a real server."""

import asyncio
import math
import pickle
import socket
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest
import trustme

from penstock_client import (
    NO_RETRIES,
    AsyncClient,
    Client,
    Deadline,
    Health,
    InferenceError,
    InputError,
    OutputRequest,
    RetryPolicy,
    Tensor,
    Tls,
)
from tests.client.conftest import Connect
from tests.client.echo import Echo, Failure, serving

UNAVAILABLE, EXHAUSTED = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED
X = np.array([[1.5, -2.5]], np.float32)


def pushback(milliseconds: str) -> tuple[tuple[str, str], ...]:
    return (("grpc-retry-pushback-ms", milliseconds),)


@pytest.fixture
def nobody() -> str:
    """An address where nobody answers."""
    with socket.socket() as once:
        once.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{once.getsockname()[1]}"


class TestCalls:
    async def test_arrays_come_back(self, client: AsyncClient) -> None:
        """An inference carries each array there and back, with the model's and the request's names."""
        result = await client.infer("m", {"x": X, "s": np.array(["é", b"\0"], object)}, version="3", request_id="7")
        assert (result.model_name, result.model_version, result.id, result.outputs) == ("m", "3", "7", ("x", "s"))
        np.testing.assert_array_equal(result["x"], X)
        assert result["x"].dtype == np.float32
        assert result["s"].tolist() == ["é".encode(), b"\0"]
        assert result.text("s").tolist() == ["é", "\0"]

    async def test_the_request_says_what_was_asked(self, client: AsyncClient, echo: Echo) -> None:
        """Outputs, classes and parameters reach the server as the protocol has them."""
        result = await client.infer(
            "m",
            {"x": X},
            outputs=["a", OutputRequest("b", classes=3)],
            parameters={"priority": 2, "note": "n", "on": True},
        )
        request = echo.requests[0]
        assert [one.name for one in request.outputs] == ["a", "b"]
        assert not request.outputs[0].parameters
        assert request.outputs[1].parameters["classification"].int64_param == 3
        assert request.parameters["priority"].int64_param == 2
        assert result.parameters == {"priority": 2, "note": "n", "on": True}

    async def test_questions_about_the_server(self, client: AsyncClient) -> None:
        """Each question is put to the method of its name and its answer is handed on."""
        assert await client.is_live()
        assert await client.is_ready()
        assert (await client.server_metadata()).name == "echo"
        assert [one.name for one in await client.repository_index()] == ["echo", "old"]
        assert [one.name for one in await client.repository_index(ready=True)] == ["echo"]
        assert await client.health() is Health.SERVING

    async def test_questions_about_a_model(self, client: AsyncClient) -> None:
        """Name and version reach the server."""
        assert await client.is_model_ready("m")
        assert not await client.is_model_ready("m", "2")
        assert (await client.model_metadata("m")).platform == "echo"
        assert (await client.model_config("m")).max_batch_size == 8
        assert [one.name for one in await client.statistics("m")] == ["m"]
        assert [one.name for one in await client.statistics()] == ["all"]

    async def test_large_messages_pass(self, client: AsyncClient) -> None:
        """gRPC's limit of 4 MiB is lifted in both directions."""
        large = np.arange(2_000_000, dtype=np.float32)
        np.testing.assert_array_equal((await client.infer("m", {"x": large}))["x"], large)

    async def test_metadata_of_client_and_call(self, connect: Connect, target: str, echo: Echo) -> None:
        """A client's metadata goes with each call; the call's own wins."""
        client = connect(target, metadata={"authorization": "Bearer a", "tenant": "t"})
        await client.infer("m", {"x": X}, metadata={"authorization": "Bearer b", "trace-bin": b"\1"})
        sent = echo.tries[0].metadata
        assert (sent["authorization"], sent["tenant"], sent["trace-bin"]) == ("Bearer b", "t", b"\1")


class TestPlainValues:
    async def test_become_what_the_model_expects(self, client: AsyncClient, echo: Echo) -> None:
        """A list of Python floats reaches an FP32 model as FP32; its metadata is asked for once."""
        for _ in range(3):
            result = await client.infer("m", {"x": [[1, 2.5]]})
            assert result.datatypes["x"] == "FP32"
            assert result["x"].tolist() == [[1.0, 2.5]]
        assert echo.metadata_calls == 1

    async def test_are_cached_by_model_and_version(self, client: AsyncClient, echo: Echo) -> None:
        """Another version may expect something else, so it is asked about too."""
        await client.infer("m", {"x": [1]})
        await client.infer("m", {"x": [1]}, version="2")
        await client.infer("n", {"x": [1]})
        assert echo.metadata_calls == 3

    async def test_arrays_and_tensors_need_no_metadata(self, client: AsyncClient, echo: Echo) -> None:
        """What states its datatype is sent as stated, also where the model expects something else."""
        result = await client.infer("m", {"x": np.array([1.5]), "y": Tensor([1.5], "BF16")})
        assert result.datatypes == {"x": "FP64", "y": "BF16"}
        assert echo.metadata_calls == 0

    async def test_that_do_not_fit_are_not_sent(self, client: AsyncClient, echo: Echo) -> None:
        """The error names the input, what it got and what the model expects, and nothing is sent."""
        echo.datatype = "INT32"
        with pytest.raises(InputError, match=r"^input 'x' of model 'm': got float64, but INT32 is expected"):
            await client.infer("m", {"x": [1.5]})
        with pytest.raises(InputError, match=r"^model 'm' has no input 'y'; it has 'x'$"):
            await client.infer("m", {"y": [1.5]})
        assert echo.requests == []

    async def test_a_refused_request_renews_the_metadata(self, client: AsyncClient, echo: Echo) -> None:
        """After INVALID_ARGUMENT, which a reloaded model may give, the next call asks anew."""
        await client.infer("m", {"x": [1]})
        echo.datatype = "INT8"
        echo.failures.append(Failure(grpc.StatusCode.INVALID_ARGUMENT))
        with pytest.raises(InferenceError):
            await client.infer("m", {"x": [1]})
        assert (await client.infer("m", {"x": [1]})).datatypes["x"] == "INT8"


class TestErrors:
    @pytest.mark.parametrize("status", [status for status in grpc.StatusCode if status is not grpc.StatusCode.OK])
    async def test_each_status_arrives(
        self, connect: Connect, target: str, echo: Echo, status: grpc.StatusCode
    ) -> None:
        """Status, text and trailers of a failure arrive as sent, with gRPC's own error as the cause."""
        echo.failures.append(Failure(status, "internal error (error id 01ab)", (("reason", "r"),)))
        with pytest.raises(InferenceError) as caught:
            await connect(target, retries=NO_RETRIES).infer("m", {"x": X})
        error = caught.value
        assert (error.status, error.message) == (status, "internal error (error id 01ab)")
        assert ("reason", "r") in error.trailers
        assert isinstance(error.__cause__, grpc.RpcError)
        assert str(error) == f"{status.name}: internal error (error id 01ab)"

    async def test_errors_travel_between_processes(self, client: AsyncClient, echo: Echo) -> None:
        """An error survives pickling, which `multiprocessing` does to it."""
        echo.failures.append(Failure(grpc.StatusCode.NOT_FOUND, "no", (("reason-bin", b"r"),)))
        with pytest.raises(InferenceError) as caught:
            await client.infer("m", {"x": X})
        copy = pickle.loads(pickle.dumps(caught.value))
        assert (copy.status, copy.message, copy.trailers) == (
            caught.value.status,
            caught.value.message,
            caught.value.trailers,
        )

    async def test_nobody_there(self, connect: Connect, nobody: str) -> None:
        """A server that is not there is not live, not ready, and UNAVAILABLE to everything else."""
        client = connect(nobody, retries=RetryPolicy(attempts=2, initial_backoff=0.001))
        assert not await client.is_live()
        assert not await client.is_ready()
        assert not await client.is_model_ready("m")
        with pytest.raises(InferenceError) as caught:
            await client.infer("m", {"x": X})
        assert caught.value.status is UNAVAILABLE

    async def test_a_question_about_readiness_is_not_retried(self, client: AsyncClient, echo: Echo) -> None:
        """A probe asks about now: one UNAVAILABLE is a no, other failures are failures."""
        echo.failures.extend([Failure(UNAVAILABLE), Failure(grpc.StatusCode.PERMISSION_DENIED)])
        assert not await client.is_ready()
        with pytest.raises(InferenceError, match="PERMISSION_DENIED"):
            await client.is_ready()
        assert await client.is_ready()

    async def test_an_unknown_model_is_not_ready(self, client: AsyncClient) -> None:
        """Recent Tritons answer NOT_FOUND where older ones say false; to the caller both are false."""
        assert not await client.is_model_ready("unknown")

    async def test_an_unknown_service_has_no_health(self, client: AsyncClient) -> None:
        """`health` hands on NOT_FOUND."""
        with pytest.raises(InferenceError, match="NOT_FOUND"):
            await client.health("unheard-of")

    async def test_closing_ends_what_is_under_way(self, client: AsyncClient, echo: Echo) -> None:
        """A call whose client is closed by others fails with CANCELLED; later calls are refused."""
        call = asyncio.ensure_future(client.infer("hang", {"x": X}))
        await echo.hanging.wait()
        await client.close()
        with pytest.raises(InferenceError) as caught:
            await call
        assert caught.value.status is grpc.StatusCode.CANCELLED
        await echo.abandoned.wait()
        with pytest.raises(RuntimeError, match="closed"):
            await client.is_live()


class TestRetries:
    async def test_unavailable_is_retried(self, connect: Connect, target: str, echo: Echo) -> None:
        """UNAVAILABLE is tried again, with the same request, until the attempts are used up."""
        client = connect(target, retries=RetryPolicy(attempts=3, initial_backoff=0.001))
        echo.failures.extend([Failure(UNAVAILABLE)] * 2)
        assert (await client.infer("m", {"x": X}, request_id="a")).id == "a"
        assert echo.requests == [echo.requests[0]] * 3
        echo.failures.extend([Failure(UNAVAILABLE, "first"), Failure(UNAVAILABLE), Failure(UNAVAILABLE, "last")])
        with pytest.raises(InferenceError, match="UNAVAILABLE: last"):
            await client.infer("m", {"x": X})
        assert len(echo.tries) == 6

    async def test_pushback_is_obeyed(self, client: AsyncClient, echo: Echo) -> None:
        """After a pushback of 60 ms the next try comes 60 ms later or more, not at the back-off's 50."""
        echo.failures.append(Failure(EXHAUSTED, trailers=pushback("60")))
        await client.infer("m", {"x": X})
        first, second = echo.tries
        assert second.at - first.at >= 0.060

    @pytest.mark.parametrize("trailers", [(), pushback("-1"), pushback("soon")])
    async def test_no_retry_without_a_pushback_to_that_effect(
        self, client: AsyncClient, echo: Echo, trailers: tuple[tuple[str, str], ...]
    ) -> None:
        """RESOURCE_EXHAUSTED without pushback, or with one that says no, is final."""
        echo.failures.append(Failure(EXHAUSTED, trailers=trailers))
        with pytest.raises(InferenceError, match="RESOURCE_EXHAUSTED"):
            await client.infer("m", {"x": X})
        assert len(echo.tries) == 1

    async def test_other_failures_are_final(self, client: AsyncClient, echo: Echo) -> None:
        """An invalid request does not become valid."""
        echo.failures.append(Failure(grpc.StatusCode.INVALID_ARGUMENT))
        with pytest.raises(InferenceError):
            await client.infer("m", {"x": X})
        assert len(echo.tries) == 1

    async def test_a_step_of_a_sequence_is_tried_once(self, client: AsyncClient, echo: Echo) -> None:
        """It may have been done although its answer was lost, and twice would be another sequence."""
        echo.failures.append(Failure(UNAVAILABLE))
        with pytest.raises(InferenceError):
            await client.infer("m", {"x": X}, parameters={"sequence_id": 5, "sequence_start": True})
        assert len(echo.tries) == 1

    async def test_a_restarted_server_is_found_again(self, connect: Connect, echo: Echo) -> None:
        """A call made while the server restarts succeeds once it is back."""
        async with serving(echo) as target:
            client = connect(target, retries=RetryPolicy(attempts=1000, max_backoff=0.05))
            await client.infer("m", {"x": X})
        call = asyncio.ensure_future(client.infer("m", {"x": X}, request_id="again"))
        async with serving(echo, target):
            assert (await call).id == "again"


class TestDeadlines:
    async def test_the_timeout_is_the_deadline(self, client: AsyncClient, echo: Echo) -> None:
        """The server is told how long the client waits, and the client waits no longer."""
        timeout = 0.1
        while not echo.tries:  # until one came as far as the server
            timeout *= 3
            with pytest.raises(InferenceError) as caught:
                await client.infer("hang", {"x": X}, timeout=timeout)
            assert caught.value.status is grpc.StatusCode.DEADLINE_EXCEEDED
        remaining = echo.tries[0].remaining
        assert remaining is not None
        assert remaining < 1.1 * timeout  # gRPC rounds up

    async def test_tries_share_the_deadline(self, client: AsyncClient, echo: Echo) -> None:
        """The second try has what the first and the wait have left."""
        echo.failures.append(Failure(EXHAUSTED, trailers=pushback("600")))
        await client.infer("m", {"x": X}, timeout=8)
        first, second = (one.remaining for one in echo.tries)
        assert first is not None
        assert second is not None
        # gRPC sends a timeout it has sent before if that is longer by less than three parts in a hundred.
        assert second <= first - 0.3

    async def test_no_wait_beyond_the_deadline(self, client: AsyncClient, echo: Echo) -> None:
        """If the wait would pass the deadline, the failure at hand is raised at once."""
        echo.failures.append(Failure(EXHAUSTED, trailers=pushback("3000000")))
        start = time.monotonic()
        with pytest.raises(InferenceError, match="RESOURCE_EXHAUSTED"):
            await client.infer("m", {"x": X}, timeout=2000)
        assert time.monotonic() - start < 1000

    async def test_a_point_in_time_is_a_timeout_too(self, client: AsyncClient, echo: Echo) -> None:
        """A `Deadline` does not begin anew with each call: what is left counts, and once it passed nothing is sent."""
        await client.infer("m", {"x": X}, timeout=Deadline(time.monotonic() + 5))
        remaining = echo.tries[0].remaining
        assert remaining is not None
        assert remaining < 5.2  # and not the client's own 60
        with pytest.raises(InferenceError, match="DEADLINE_EXCEEDED"):
            await client.infer("m", {"x": X}, timeout=Deadline(time.monotonic()))
        assert len(echo.tries) == 1

    async def test_infinity_lifts_the_clients_timeout(self, client: AsyncClient, echo: Echo) -> None:
        """A call may have no deadline although the client has one by default."""
        await client.infer("m", {"x": X}, timeout=math.inf)
        assert echo.tries[0].remaining is None

    async def test_asking_for_metadata_is_part_of_the_call(self, client: AsyncClient, echo: Echo) -> None:
        """A deadline that has passed stops also the question that a plain value needs."""
        with pytest.raises(InferenceError, match="DEADLINE_EXCEEDED"):
            await client.infer("m", {"x": [1.0]}, timeout=0)
        assert echo.requests == []


class TestAbandonedCalls:
    async def test_a_cancelled_task_cancels_its_call(self, target: str, echo: Echo) -> None:
        """The server hears of it at once, not at the deadline."""
        async with AsyncClient(target) as client:
            task = asyncio.create_task(client.infer("hang", {"x": X}))
            await echo.hanging.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await echo.abandoned.wait()

    async def test_a_forgotten_coroutine_cancels_its_call(self, target: str, echo: Echo) -> None:
        """Closing a coroutine half way, as the garbage collector does, leaves no call open either."""
        async with AsyncClient(target) as client:
            coroutine = client.infer("hang", {"x": X})
            coroutine.send(None)
            await echo.hanging.wait()
            coroutine.close()
            await echo.abandoned.wait()


class TestTls:
    @pytest.fixture
    def authority(self) -> trustme.CA:
        return trustme.CA()

    def server(self, authority: trustme.CA, name: str, client_ca: bytes | None = None) -> grpc.ServerCredentials:
        issued = authority.issue_cert(name)
        pair = (issued.private_key_pem.bytes(), b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        return grpc.ssl_server_credentials([pair], client_ca, client_ca is not None)

    async def test_a_trusted_server(self, connect: Connect, echo: Echo, authority: trustme.CA) -> None:
        """Roots are given as PEM; a server that they do not vouch for is UNAVAILABLE."""
        async with serving(echo, credentials=self.server(authority, "127.0.0.1")) as target:
            assert await connect(target, tls=Tls(ca=authority.cert_pem.bytes())).is_live()
            stranger = trustme.CA().cert_pem.bytes()
            with pytest.raises(InferenceError, match="UNAVAILABLE"):
                await connect(target, tls=Tls(ca=stranger), retries=NO_RETRIES).server_metadata()

    async def test_mutual_trust_from_files(
        self, connect: Connect, echo: Echo, authority: trustme.CA, tmp_path: Path
    ) -> None:
        """Certificate and key, all read from files, make the client known to a server that asks."""
        root = authority.cert_pem.bytes()
        mine = authority.issue_cert("client.test")
        ca, cert, key = tmp_path / "ca.pem", tmp_path / "cert.pem", tmp_path / "key.pem"
        ca.write_bytes(root)
        cert.write_bytes(b"".join(blob.bytes() for blob in mine.cert_chain_pems))
        key.write_bytes(mine.private_key_pem.bytes())
        async with serving(echo, credentials=self.server(authority, "127.0.0.1", root)) as target:
            assert await connect(target, tls=Tls(ca=ca, cert=cert, key=str(key))).is_live()
            assert not await connect(target, tls=Tls(ca=ca)).is_live()

    async def test_another_name(self, connect: Connect, echo: Echo, authority: trustme.CA) -> None:
        """The certificate is checked against `server_name` where that is given, else against the target."""
        root = authority.cert_pem.bytes()
        async with serving(echo, credentials=self.server(authority, "penstock.test")) as target:
            assert await connect(target, tls=Tls(ca=root, server_name="penstock.test")).is_live()
            assert not await connect(target, tls=Tls(ca=root)).is_live()


class TestConstruction:
    @pytest.mark.parametrize("make", [Client, AsyncClient])
    def test_a_url_is_not_a_target(self, make: Callable[[str], object]) -> None:
        """gRPC would look up a host called `http`; the error says what to write instead."""
        with pytest.raises(ValueError, match="write 'localhost:8001'"):
            make("http://localhost:8001")

    def test_a_certificate_needs_its_key(self) -> None:
        """Half a pair is refused where it is given, not at the first call."""
        with pytest.raises(ValueError, match="key"):
            Tls(cert=b"c")

    def test_an_async_client_needs_no_loop_yet(self, nobody: str) -> None:
        """It may be made at import time, or anywhere outside a loop."""
        assert repr(AsyncClient(nobody)) == f"<AsyncClient of {nobody}>"

    def test_a_client_closes_itself(self, nobody: str) -> None:
        """Leaving the `with` block closes it, and its repr tells."""
        with Client(nobody) as client:
            pass
        assert repr(client) == f"<Client of {nobody}, closed>"
