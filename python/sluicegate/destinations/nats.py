"""`nats://HOST[:PORT]/SUBJECT`: a stream of NATS JetStream, or a responder, which may answer with Replies."""

from __future__ import annotations

import importlib.util
import re
import ssl
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

from sluicegate.destinations.base import (
    Arguments,
    DeliveryError,
    Destination,
    DestinationContext,
    DestinationError,
    PacketBatch,
)
from sluicegate.destinations.batch import content_id
from sluicegate.destinations.web.halves import TooLarge, deliver_in_halves
from sluicegate.destinations.web.link import Connection, Link, Server
from sluicegate.destinations.web.login import read_choice, read_login
from sluicegate.destinations.web.nats_errors import REASONS, not_stored, refusal
from sluicegate.destinations.web.remote import forbids, is_local, read_tls, read_url
from sluicegate.threads import Threads

HEADERS = 128
"""Bytes of a message that its headers may take."""
_SUBJECT = re.compile(r"(?!\$)[^\s.*>?/]+(\.[^\s.*>?/]+)*")  # `$JS.API.…` commands the server


class NatsDestination(Destination):
    """Publishes each packet to a stream as one message, or asks a responder with each batch (`Mode: request`).

    A message of a stream counts as delivered when the server has stored it. Its `Nats-Msg-Id` is the same in every
    attempt, so that a repeated message is stored once. A responder gets `{"Messages": […]}`.
    """

    usage = "nats://HOST[:PORT]/SUBJECT"
    batch_bytes_limit = 1 << 20  # max_payload of a server as it comes
    reasons = REASONS
    arguments: ClassVar[Sequence[tuple[str, str]]] = (
        ("Mode", "`stream` (default): each packet is a message; `request`: a responder answers each batch"),
        ("TimeoutInSeconds", "for an answer: 10 by default, 0.1 to 900"),
        (
            "Concurrency",
            "batches at the same time: 1 by default, which keeps their order; 4 with `Mode: request`",
        ),
        ("Tls", "`required`: nothing is sent in the clear; `optional` (default): as the server wants it"),
        ("CaFile", "PEM file with the authorities that are trusted, instead of those of the system"),
        ("CertificateFile", "PEM file with the client's certificate"),
        (
            "KeyFile",
            "PEM file with its private key, without a password; left out: it is in `CertificateFile`",
        ),
        ("CredentialsFile", "a `.creds` file: JWT and seed"),
        ("PasswordFile", "file with `USER:PASSWORD`, or with a token alone"),
    )
    limits = "`max_payload` of the server, 1 MiB as it comes. A stream may take less (`max_msg_size`)."

    def __init__(
        self,
        name: str,
        context: DestinationContext,
        server: Server,
        subject: str,
        seconds: float,
        concurrency: int,
        *,
        asks: bool,
    ) -> None:
        super().__init__(name, context)
        self._link = Link(name, server)
        self._subject = subject
        self._seconds = seconds
        self._concurrency = concurrency
        self._asks = asks

    @classmethod
    def from_spec(
        cls, name: str, target: str, arguments: Mapping[str, Any], context: DestinationContext
    ) -> Self:
        url = read_url(name, f"nats:{target}", cls.usage, context)
        host, subject = url.hostname or "", url.path[1:]
        if url.query or not _SUBJECT.fullmatch(subject):
            cause = f"destination {name}: the URL names no subject to publish to"
            raise DestinationError(cause, f"write it as {cls.usage}, without wildcards")
        reader = Arguments(arguments, f"destination {name}")
        asks = read_choice(reader, "Mode", "stream", "request") == "request"
        seconds = reader.number("TimeoutInSeconds", 10.0, 0.1, 900.0)
        concurrency = reader.integer("Concurrency", 4 if asks else 1, 1, 1000)
        tls = read_tls(reader, context, secure=True)
        if read_choice(reader, "Tls", "optional", "required") == "required":
            tls = tls or ssl.create_default_context()
        login = read_login(reader, context, private=tls is not None or is_local(host))
        reader.finish()
        if importlib.util.find_spec("nats") is None:
            cause = f"destination {name}: the package for NATS is not installed"
            raise DestinationError(cause, "install it: pip install 'sluicegate[nats]'")
        server = Server(host, url.port or 4222, tls, login, forbids(context))
        return cls(name, context, server, subject, seconds, concurrency, asks=asks)

    async def provision(self) -> None:
        """No connection yet: a server that is not there fails deliveries, and not the start."""
        await Threads("nats", 1).call(lambda: importlib.import_module("nats.aio.client"))

    async def deliver(self, batch: PacketBatch) -> bytes | None:
        return await deliver_in_halves(batch, self._ask if self._asks else self._store)

    async def close(self) -> None:
        await self._link.close()

    @property
    def concurrency(self) -> int:
        return self._concurrency

    async def _store(self, batch: PacketBatch) -> None:
        connection = await self._link.connection()
        failed: dict[int, DeliveryError] = {}
        asked = {}
        for index, record in enumerate(batch.records()):
            if len(record) + HEADERS > connection.payload_limit:
                failed[index] = DeliveryError("PacketTooLarge", _limit(connection))
                continue
            headers = {"Nats-Msg-Id": content_id(record)}
            asked[index] = await connection.ask(self._subject, record, headers)
        answers = await connection.answers(list(asked.values()), self._seconds)
        for index, answer in zip(asked, answers, strict=True):
            error = answer if isinstance(answer, DeliveryError) else not_stored(answer, self._subject)
            if error is not None:
                failed[index] = error
        if failed:
            raise DeliveryError.of_packets(failed)

    async def _ask(self, batch: PacketBatch) -> bytes | None:
        connection, body = await self._link.connection(), batch.body()
        if len(body) + HEADERS > connection.payload_limit:
            raise TooLarge(_limit(connection))
        asked = await connection.ask(self._subject, body)
        (answer,) = await connection.answers([asked], self._seconds)
        if isinstance(answer, DeliveryError):
            raise answer
        if (error := refusal(answer, self._subject)) is not None:
            raise error
        return answer.data or None


def _limit(connection: Connection) -> str:
    return f"the server takes messages of {connection.payload_limit} bytes (max_payload)"
