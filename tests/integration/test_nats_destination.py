"""`nats://…` against a real nats-server: streams of JetStream, and responders."""

import asyncio
import json
import signal
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from certificates import certificate
from nats.aio.msg import Msg
from nats_server import NatsServer, Responder
from nats_server import nats_server as nats_server

from sluicegate.destinations.base import DeliveryError, Destination, DestinationError
from sluicegate.destinations.nats import NatsDestination
from sluicegate.localcode import LocalCode
from sluicegate.testing import DestinationContract, destination_context, packet, packet_batch

NUMBERS = count()


def data_of(records: list[bytes]) -> list[str]:
    return [json.loads(record)["Data"] for record in records]


class TestStream(DestinationContract):
    kind = NatsDestination
    arguments = {"TimeoutInSeconds": 30.5, "Concurrency": 2, "Mode": "stream", "Tls": "optional"}
    bad_targets = (
        "",
        "//h.example",
        "//h.example/",
        "//h.example/a.*",
        "//h.example/a.>",
        "//h.example/a..b",
        "//h.example/a b",
        "//h.example/a?b=c",
        "//h.example/a\r\nPUB b 7",
        "//h.example/$JS.API.STREAM.DELETE.a",
        "//user:hunter2@h.example/a",
        "//hunter2@h.example/a",
    )
    bad_arguments = (
        {"TimeoutInSeconds": 0},
        {"Concurrency": 0},
        {"Mode": "push"},
        {"Tls": "never"},
        {"CredentialsFile": "password"},
        {"CredentialsFile": "absent"},
        {"PasswordFile": "absent"},
        {"CaFile": "password"},
    )
    secrets = ("hunter2",)

    @pytest.fixture(autouse=True)
    def _stream(self, nats_server: NatsServer, tmp_path: Path) -> Iterator[None]:
        self.server, self.name, self.seen = nats_server, f"s{next(NUMBERS)}", 0
        nats_server.add_stream(self.name, max_msg_size=2_000)
        self.target = f"//127.0.0.1:{nats_server.port}/{self.name}"
        (tmp_path / "password").write_text("user:hunter2\n")
        yield
        nats_server.signal(signal.SIGCONT)

    def delivered(self, destination: Destination) -> list[str]:
        found = self.server.stored(self.name, self.seen)
        self.seen += len(found)
        return data_of([one.data for one in found])

    def refuse(self, destination: Destination) -> None:
        self.server.delete_stream(self.name)

    def refuse_packets(self, destination: Destination) -> str:
        return "x" * 2_000

    def stall(self, destination: Destination) -> None:
        self.server.signal(signal.SIGSTOP)


class TestResponder(DestinationContract):
    kind = NatsDestination
    arguments = {"Mode": "request"}
    bad_targets = ("//h.example/",)

    @pytest.fixture(autouse=True)
    def _responder(self, nats_server: NatsServer) -> Iterator[None]:
        self.server, self.taken, self.silent, self.refuses = nats_server, list[bytes](), False, False
        subject = f"r{next(NUMBERS)}"
        self.target = f"//127.0.0.1:{nats_server.port}/{subject}"

        async def respond(message: Msg) -> None:
            if self.silent:
                return
            if self.refuses:
                headers = {"Nats-Service-Error-Code": "400", "Nats-Service-Error": "hunter2"}
                await message._client.publish(message.reply, b"", headers=headers)
                return
            self.taken.append(message.data)
            await message.respond(b'{"Replies": []}')

        responder = Responder(nats_server, subject, respond).start()
        yield
        responder.stop()

    def delivered(self, destination: Destination) -> list[str]:
        taken, self.taken = self.taken, []
        return [one["Data"] for body in taken for one in json.loads(body)["Messages"]]

    def refuse(self, destination: Destination) -> None:
        self.refuses = True

    def stall(self, destination: Destination) -> None:
        self.silent = True


@asynccontextmanager
async def made(
    server: NatsServer, subject: str, directory: Path, host: str = "127.0.0.1", **arguments: object
) -> AsyncIterator[Destination]:
    one = NatsDestination.from_spec(
        "bus", f"//{host}:{server.port}/{subject}", arguments, destination_context(directory)
    )
    await one.provision()
    try:
        yield one
    finally:
        await one.close()


async def failed(one: Destination, *data: str) -> DeliveryError:
    with pytest.raises(DeliveryError) as raised:
        await one.deliver(packet_batch(*data))
    assert raised.value.reason in one.reasons
    return raised.value


async def in_thread(work: Any, *arguments: Any, **more: Any) -> Any:
    return await asyncio.to_thread(work, *arguments, **more)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[NatsServer]:
    """A server of the test's own, that takes small messages alone."""
    one = NatsServer(tmp_path, "max_payload: 4096").start()
    yield one
    one.stop()


async def test_a_server_that_goes_away_and_comes_back_has_each_packet_once(
    small: NatsServer, tmp_path: Path
) -> None:
    await in_thread(small.add_stream, "s")
    batch = packet_batch("a", "b")
    async with made(small, "s", tmp_path, TimeoutInSeconds=5) as one:
        await one.deliver(batch)
        small.stop()
        error = await failed(one, "c")
        assert (error.reason, error.retryable) == ("NoAnswer", True)
        await in_thread(small.start)
        await one.deliver(batch)  # as if its acknowledgement had been lost
        await one.deliver(packet_batch("c"))
        # It is suspended in the middle of a delivery, and killed.
        small.signal(signal.SIGSTOP)
        delivery = asyncio.create_task(failed(one, "d"))
        await asyncio.wait({delivery}, timeout=0.1)
        small.stop()
        assert (await delivery).retryable
        await in_thread(small.start)
        await one.deliver(packet_batch("d"))
    found = await in_thread(small.stored, "s")
    assert data_of([message.data for message in found]) == ["a", "b", "c", "d"]
    assert len({message.headers["Nats-Msg-Id"] for message in found}) == 4


@pytest.mark.shows("oversize", service="nats")
async def test_what_is_too_large_is_refused_alone(small: NatsServer, tmp_path: Path) -> None:
    await in_thread(small.add_stream, "s")
    async with made(small, "s", tmp_path) as one:
        error = await failed(one, "a", "x" * 5_000, "c")
    assert error.packets is not None
    assert {index: (each.reason, each.retryable) for index, each in error.packets.items()} == {
        1: ("PacketTooLarge", False)
    }
    found = await in_thread(small.stored, "s")
    assert data_of([message.data for message in found]) == ["a", "c"]


async def test_a_batch_that_is_too_large_for_a_request_goes_in_parts(
    small: NatsServer, tmp_path: Path
) -> None:
    async def respond(message: Msg) -> None:
        packets = json.loads(message.data)["Messages"]
        replies = [{"Tag": one["Tag"], "Data": "r"} for one in packets]
        await message.respond(json.dumps({"Replies": replies}).encode())

    responder = await in_thread(Responder(small, "r", respond).start)
    try:
        async with made(small, "r", tmp_path, Mode="request") as one:
            large = [packet(f"p{number}") | {"Data": "x" * 1_000} for number in range(9)]
            whole = json.loads(await one.deliver(packet_batch(*large)) or b"")
            assert [reply["Tag"] for reply in whole["Replies"]] == [f"tag-p{number}" for number in range(9)]
            error = await failed(one, "a", "x" * 5_000)
            assert list(error.packets or ()) == [1]
            assert json.loads(error.answer or b"") == {"Replies": [{"Tag": "tag-a", "Data": "r"}]}
    finally:
        await in_thread(responder.stop)


async def test_nobody_there(nats_server: NatsServer, tmp_path: Path) -> None:
    async with made(nats_server, "nobody", tmp_path) as one:
        error = await failed(one, "a")
        assert (error.reason, error.retryable) == ("NoStream", True)
        assert "nats stream add" in error.detail
    async with made(nats_server, "nobody", tmp_path, Mode="request") as one:
        error = await failed(one, "a")
        assert (error.reason, error.retryable) == ("NoResponder", True)


@pytest.mark.shows("throttled", service="nats")
async def test_a_stream_that_is_full(nats_server: NatsServer, tmp_path: Path) -> None:
    await in_thread(nats_server.add_stream, "full", max_msgs=1, discard="new")
    async with made(nats_server, "full", tmp_path) as one:
        error = await failed(one, "a", "b")
    assert error.packets is not None
    assert {index: (each.reason, each.retryable) for index, each in error.packets.items()} == {
        1: ("StreamError", True)
    }


USERS = """
authorization {
  users = [
    { user: all, password: hunter2 }
    { user: some, password: hunter3, permissions: { publish: ["open"], subscribe: ["_INBOX.>"] } }
  ]
}
"""


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[NatsServer]:
    """A server with TLS and users."""
    cert, key = certificate(tmp_path)
    tls = ssl.create_default_context(cafile=str(cert))
    settings = f"tls {{ cert_file: '{cert}', key_file: '{key}' }}\n{USERS}"
    one = NatsServer(tmp_path, settings, user="all", password="hunter2", tls=tls).start()
    for user, password in (("all", "hunter2"), ("some", "hunter3"), ("wrong", "hunter4")):
        (tmp_path / user).write_text(f"{user}:{password}\n")
    yield one
    one.stop()


@pytest.mark.shows("denied", service="nats")
async def test_tls_and_users(guarded: NatsServer, tmp_path: Path) -> None:
    await in_thread(guarded.add_stream, "open")
    await in_thread(guarded.add_stream, "closed")
    ca = {"CaFile": "certificate.pem"}
    async with made(guarded, "open", tmp_path, PasswordFile="some", **ca) as one:
        await one.deliver(packet_batch("a"))
    cases: list[tuple[str, dict[str, object], str, str]] = [
        ("closed", {"PasswordFile": "some", **ca}, "AccessDenied", "does not let this user publish"),
        ("open", {"PasswordFile": "wrong", **ca}, "AccessDenied", "check its credentials"),
        ("open", ca, "AccessDenied", "check its credentials"),
        ("open", {"PasswordFile": "some"}, "NoAnswer", "CaFile"),
        ("open", {"PasswordFile": "some", "host": "localhost", **ca}, "NoAnswer", "localhost is not trusted"),
    ]
    for subject, arguments, reason, says in cases:
        async with made(guarded, subject, tmp_path, **arguments) as one:  # type: ignore[arg-type]
            error = await failed(one, "a")
        assert (error.reason, error.retryable) == (reason, reason == "NoAnswer"), error
        assert says in error.detail
        assert "hunter" not in f"{error} {error.__cause__}"
    found = await in_thread(guarded.stored, "open")
    assert data_of([message.data for message in found]) == ["a"]


@pytest.mark.attack
async def test_no_password_to_a_server_that_does_not_speak_tls(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    """Somebody on the way may take `tls_required` out of what the server says."""
    (tmp_path / "password").write_text("user:hunter2\n")
    async with made(nats_server, "s", tmp_path, Tls="required", PasswordFile="password") as one:
        error = await failed(one, "a")
    assert (error.reason, error.retryable) == ("NotEncrypted", False)
    context = destination_context(tmp_path)
    with pytest.raises(DestinationError, match="in the clear"):
        NatsDestination.from_spec("bus", "//nats.example/s", {"PasswordFile": "password"}, context)


@pytest.mark.attack
async def test_a_document_of_the_api_reaches_no_special_address_by_nats(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    bounds = LocalCode((str(tmp_path),), networks=())
    context = replace(destination_context(tmp_path), local_code=bounds)
    for host in ("127.0.0.1", "localhost", "0x7f.1", "[::ffff:127.0.0.1]"):
        with pytest.raises(DestinationError, match="local_networks"):
            NatsDestination.from_spec("bus", f"//{host}/s", {}, context)
    (tmp_path / "password").write_text("user:hunter2\n")
    with pytest.raises(DestinationError, match="may not"):
        NatsDestination.from_spec("bus", "//nats.example/s", {"PasswordFile": "password"}, context)
    one = NatsDestination.from_spec("bus", f"//{_name_of_this_machine()}:{nats_server.port}/s", {}, context)
    try:
        error = await failed(one, "a")
    finally:
        await one.close()
    assert (error.reason, error.retryable) == ("AddressForbidden", False)


def _name_of_this_machine() -> str:
    """A name, and not `localhost`, that leads to loopback or to a private address."""
    return next(
        (
            name
            for line in Path("/etc/hosts").read_text().splitlines()
            for name in line.partition("#")[0].split()[1:]
            if name != "localhost" and line.split()[0].startswith(("127.", "::1", "10.", "172.", "192.168."))
        ),
        "ip6-localhost",
    )


def test_without_the_package_the_user_is_told_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DestinationError, match=r"pip install 'sluicegate\[nats\]'"):
        NatsDestination.from_spec("bus", "//nats.example/s", {}, destination_context(tmp_path))
