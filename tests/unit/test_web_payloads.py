"""What web hooks and NATS get of a packet, to the byte: `golden/NAME.txt`, which the reference shows too."""

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sluicegate.destinations.base import delivery_id
from sluicegate.destinations.http import HttpsDestination
from sluicegate.destinations.nats import NatsDestination
from sluicegate.destinations.web.link import Connection, Link
from sluicegate.httpclient import Answer, Host
from sluicegate.testing import destination_context, packet, packet_batch

GOLDEN = Path(__file__).parent / "golden"
BATCH = packet_batch(packet("hi") | {"Tag": "2A7hQ", "Formatter": "base64", "Data": "aGk="})


def golden(name: str, head: str, headers: Mapping[str, str], body: bytes) -> None:
    fields = "".join(f"{key}: {value}\n" for key, value in headers.items())
    assert f"{head}\n{fields}\n{body.decode()}\n" == (GOLDEN / f"{name}.txt").read_text()


@pytest.mark.shows("request", service="http", against="golden file")
async def test_a_request_of_a_web_hook(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sent: list[tuple[Mapping[str, str], bytes]] = []

    async def post(self: Host, headers: Mapping[str, str], body: bytes, seconds: float) -> Answer:
        sent.append((headers, body))
        return Answer(204, b"")

    monkeypatch.setattr(Host, "post", post)
    monkeypatch.setattr(time, "time", lambda: 1_780_999_200.5)
    delivery_id.set("00000000-0000-4000-8000-000000000000")
    (tmp_path / "hook.key").write_text("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    hook = HttpsDestination.from_spec(
        "orders", "//hooks.example/packets", {"SecretFile": "hook.key"}, destination_context(tmp_path)
    )
    await hook.deliver(BATCH)
    golden("http", "POST https://hooks.example/packets", *sent[0])


@pytest.mark.shows("request", service="nats", against="golden file")
async def test_a_message_of_a_stream(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sent: list[tuple[str, bytes, Mapping[str, str]]] = []

    async def publish(subject: str, payload: bytes, reply: str, headers: Mapping[str, str]) -> None:
        sent.append((subject, payload, headers))
        await connection._take(SimpleNamespace(subject=reply, headers=None, data=b'{"stream":"s","seq":1}'))  # type: ignore[arg-type]

    client: Any = SimpleNamespace(publish=publish, max_payload=1 << 20)
    connection = Connection(client)

    async def connected(self: Link) -> Connection:
        return connection

    monkeypatch.setattr(Link, "connection", connected)
    stream = NatsDestination.from_spec("orders", "//nats.example/packets", {}, destination_context(tmp_path))
    async with asyncio.timeout(60):
        await stream.deliver(BATCH)
    subject, payload, headers = sent[0]
    golden("nats", f"PUB {subject}", headers, payload)
