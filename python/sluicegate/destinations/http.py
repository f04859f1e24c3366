"""`http://HOST/PATH`, `https://HOST/PATH`: a web hook, to which each batch is POSTed; it may answer with Replies."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

from sluicegate.destinations.base import (
    Arguments,
    Destination,
    DestinationContext,
    PacketBatch,
    delivery_id,
)
from sluicegate.destinations.web.answers import REASONS, refusal, replies, unanswered
from sluicegate.destinations.web.halves import TooLarge, deliver_in_halves
from sluicegate.destinations.web.headers import read_headers, read_signing_keys
from sluicegate.destinations.web.remote import forbids, is_local, read_tls, read_url
from sluicegate.destinations.web.signature import sign
from sluicegate.httpclient import Advice, Answer, Host, NoAnswer, environment_proxy

_ADVICE = Advice("check the name in the URL, and DNS", "name its authority with CaFile")


class HttpDestination(Destination):
    """POSTs each batch as `{"Messages": […]}`; Replies are read from the answer's body, if it is JSON.

    A batch that the server finds too large (413) goes in halves. Redirects are not followed. The proxy is that of the
    environment (`HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`).
    """

    scheme: ClassVar[str] = "http"
    usage = "http://HOST[:PORT]/PATH or https://HOST[:PORT]/PATH"
    reasons = REASONS
    arguments: ClassVar[Sequence[tuple[str, str]]] = (
        ("TimeoutInSeconds", "for an answer, connection included: 10 by default, 0.1 to 900"),
        ("Concurrency", "requests at the same time: 4 by default; 1 keeps the order of batches"),
        ("Headers", "map of further headers, no secrets: whoever may read the configuration sees them"),
        (
            "HeadersFile",
            "file with secret headers, one `NAME: VALUE` a line, such as `Authorization: Bearer …`",
        ),
        (
            "SecretFile",
            "file with the secret of the signature, `whsec_…`; a second line for a second signature",
        ),
        ("CaFile", "PEM file with the authorities that are trusted, instead of those of the system"),
        ("CertificateFile", "PEM file with the client's certificate"),
        (
            "KeyFile",
            "PEM file with its private key, without a password; left out: it is in `CertificateFile`",
        ),
    )
    limits = (
        "one batch, of the size that `batching` says. After 413 (too large) halves of it, down to one packet."
    )

    def __init__(
        self,
        name: str,
        context: DestinationContext,
        host: Host,
        headers: Mapping[str, str],
        keys: Sequence[bytes],
        seconds: float,
        concurrency: int,
    ) -> None:
        super().__init__(name, context)
        self._host = host
        self._headers = {"content-type": "application/json", "accept-encoding": "identity", **headers}
        self._keys = keys
        self._seconds = seconds
        self._concurrency = concurrency

    @classmethod
    def from_spec(
        cls, name: str, target: str, arguments: Mapping[str, Any], context: DestinationContext
    ) -> Self:
        url = read_url(name, f"{cls.scheme}:{target}", cls.usage, context)
        secure = cls.scheme == "https"
        reader = Arguments(arguments, f"destination {name}")
        seconds = reader.number("TimeoutInSeconds", 10.0, 0.1, 900.0)
        concurrency = reader.integer("Concurrency", 4, 1, 1000)
        headers = read_headers(reader, context, private=secure or is_local(url.hostname or ""))
        keys = read_signing_keys(reader, context)
        tls = read_tls(reader, context, secure=secure)
        reader.finish()
        proxy = environment_proxy(url.geturl())
        # A proxy is the operator's word, and it is what connections lead to.
        forbid = forbids(context if proxy is None else None)
        host = Host(url.geturl(), tls, proxy, _ADVICE, forbid)
        return cls(name, context, host, headers, keys, seconds, concurrency)

    async def provision(self) -> None:
        """Nothing: a server that is not there yet fails deliveries, and not the start."""

    async def deliver(self, batch: PacketBatch) -> bytes | None:
        return await deliver_in_halves(batch, self._post)

    async def close(self) -> None:
        await self._host.close()

    @property
    def concurrency(self) -> int:
        return self._concurrency

    async def _post(self, batch: PacketBatch) -> bytes | None:
        body = batch.body()
        # The same for every attempt, and another one for each part of a batch.
        digest = hashlib.blake2b(body, digest_size=8).hexdigest()
        headers = self._headers | {"webhook-id": f"{delivery_id.get() or 'batch'}-{digest}"}
        headers["webhook-timestamp"] = str(now := int(time.time()))
        if self._keys:
            headers["webhook-signature"] = sign(self._keys, headers["webhook-id"], now, body)
        try:
            answer = await self._call(headers, body)
        except NoAnswer as error:
            raise unanswered(error) from error
        if 200 <= answer.status < 300:
            return replies(answer)
        if answer.status == 413:
            raise TooLarge(f"{self._host.name} finds it too large (413)")
        raise refusal(self._host.name, answer)

    async def _call(self, headers: Mapping[str, str], body: bytes) -> Answer:
        try:
            return await self._host.post(headers, body, self._seconds)
        except NoAnswer as error:
            if not error.stale:
                raise
        return await self._host.post(headers, body, self._seconds)


class HttpsDestination(HttpDestination):
    """The same over TLS. The certificate and the name of the server are always checked."""

    scheme = "https"
