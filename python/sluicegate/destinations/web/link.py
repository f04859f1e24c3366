"""A connection to a NATS server, opened when it is used and after it was lost.

nats-py's own reconnecting is off: it would go to addresses that a server names, and keep messages whose senders have
given up. Here the next attempt of a delivery opens the next connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sluicegate.destinations.base import DeliveryError
from sluicegate.httpclient import CONNECT_SECONDS, Advice, no_connection

if TYPE_CHECKING:  # an optional package, imported where it is used
    from nats.aio.client import Client
    from nats.aio.msg import Msg

CLOSE_SECONDS = 1.0
_ADVICE = Advice("check the name in the URL, and DNS", "name its authority with CaFile")


class NotEncrypted(OSError):
    """TLS is required here, and the server does not require it."""


@dataclass(frozen=True)
class Server:
    """Where a server is, and how to log in. `tls`: TLS has to be spoken. `login`: options of nats-py's `connect`."""

    host: str
    port: int
    tls: ssl.SSLContext | None
    login: Mapping[str, Any]
    forbids: Callable[[str], str | None]


class Connection:
    """An open connection. `lost` gets the reason when it is of no more use."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._inbox = ""
        self._numbers = itertools.count()
        self._asked: dict[str, asyncio.Future[Msg]] = {}
        self.lost: asyncio.Future[DeliveryError] = asyncio.get_running_loop().create_future()

    @property
    def payload_limit(self) -> int:
        """Bytes of a message, headers included."""
        return self._client.max_payload

    async def listen(self) -> None:
        """Take answers from now on."""
        self._inbox = self._client.new_inbox()
        await self._client.subscribe(f"{self._inbox}.*", cb=self._take)

    async def ask(
        self, subject: str, payload: bytes, headers: Mapping[str, str] | None = None
    ) -> asyncio.Future[Msg]:
        """Send a message; the future gets its answer. Messages keep their order."""
        name = str(next(self._numbers))
        future = self._asked[name] = asyncio.get_running_loop().create_future()
        future.add_done_callback(lambda _: self._asked.pop(name, None))
        try:
            await self._client.publish(subject, payload, f"{self._inbox}.{name}", dict(headers or {}))
        except Exception:  # of nats-py: the connection is closed
            self.lose(DeliveryError("NoAnswer", "the connection was closed", retryable=True))
        return future

    async def answers(
        self, asked: Sequence[asyncio.Future[Msg]], seconds: float
    ) -> list[Msg | DeliveryError]:
        """The answer to each; a `DeliveryError` where none came before the connection was lost, or in `seconds`."""
        every = asyncio.gather(*asked)
        try:
            either: list[asyncio.Future[Any]] = [every, self.lost]
            await asyncio.wait(either, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            why = DeliveryError("TimedOut", f"no answer came within {seconds:g} s", retryable=True)
            why = self.lost.result() if self.lost.done() else why
            return [one.result() if one.done() else why for one in asked]
        finally:
            every.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await every

    def lose(self, error: DeliveryError) -> None:
        if not self.lost.done():
            self.lost.set_result(error)

    async def close(self) -> None:
        with contextlib.suppress(Exception):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._client.close()

    async def _take(self, message: Msg) -> None:
        future = self._asked.get(message.subject.rpartition(".")[2])
        if future is not None and not future.done():
            future.set_result(message)


class Link:
    """The way to a server for one Destination: `connection()` is open."""

    def __init__(self, name: str, server: Server) -> None:
        self._name = name
        self._server = server
        self._opening = asyncio.Lock()
        self._connection: Connection | None = None

    async def connection(self) -> Connection:
        """Raises `DeliveryError`."""
        async with self._opening:
            if self._connection is None or self._connection.lost.done():
                await self.close()
                self._connection = await self._open()
            return self._connection

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _open(self) -> Connection:
        server, error = self._server, DeliveryError("NoAnswer", f"{self._server.host} has no address", True)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                found = await loop.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM)
        except OSError as failed:
            raise self._failure(failed) from failed
        for address in dict.fromkeys(one[4][0] for one in found):
            if (why := server.forbids(str(address))) is not None:
                error = DeliveryError("AddressForbidden", f"no connection to {server.host}: it is {why}")
                continue
            try:
                return await self._connect(str(address))
            except DeliveryError as failed:
                error = failed
        raise error

    async def _connect(self, address: str) -> Connection:
        from nats.aio.client import RawCredentials

        client = _client(self._server.tls is not None)
        connection = Connection(client)
        causes: list[Exception] = []

        async def failed(error: Exception) -> None:
            causes.append(error)
            if "permissions violation" in str(error).lower():
                detail = (
                    f"{self._server.host} does not let this user publish there, and subscribe to _INBOX.>"
                )
                connection.lose(DeliveryError("AccessDenied", detail))

        async def closed() -> None:
            detail = f"{self._server.host} closed the connection"
            connection.lose(DeliveryError("NoAnswer", detail, retryable=True))

        numeric = f"[{address}]" if ":" in address else address
        options = dict(self._server.login)
        if self._server.tls:
            options["tls"] = self._server.tls
        if "user_credentials" in options:
            options["user_credentials"] = RawCredentials(options["user_credentials"])
        try:
            await client.connect(
                f"nats://{numeric}:{self._server.port}",
                tls_hostname=self._server.host,
                name=f"sluicegate {self._name}",
                error_cb=failed,
                closed_cb=closed,
                disconnected_cb=closed,
                allow_reconnect=False,
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                connect_timeout=int(CONNECT_SECONDS),
                ping_interval=20,
                **options,
            )
            await connection.listen()
        except Exception as error:  # of nats-py, asyncio, ssl
            await connection.close()
            raise self._failure(causes[-1] if causes else error) from error
        return connection

    def _failure(self, error: Exception) -> DeliveryError:
        host = self._server.host
        if isinstance(error, NotEncrypted):
            cause = f"{host} does not require TLS, and nothing is sent to it in the clear"
            return DeliveryError("NotEncrypted", cause)
        if "authorization" in str(error).lower() or "authentication" in str(error).lower():
            return DeliveryError("AccessDenied", f"{host} does not let this user in; check its credentials")
        if isinstance(error, OSError | TimeoutError):
            return DeliveryError("NoAnswer", str(no_connection(error, host, host, _ADVICE)), retryable=True)
        return DeliveryError("NoAnswer", f"{host} does not answer as a NATS server", retryable=True)


def _client(secure: bool) -> Client:
    from nats.aio.client import Client

    class Strict(Client):
        def _connect_command(self) -> bytes:
            """The first thing that is sent, with the credentials."""
            if secure and not self._server_info.get("tls_required"):
                raise NotEncrypted
            command: bytes = super()._connect_command()
            # Have nats-py read an answer before it writes more. A server that lets nobody in closes the connection, and
            # a write to it would fail before its reason is read.
            self.options["verbose"] = True
            return command + b"PING\r\n"

        async def _process_connect_init(self) -> None:
            await super()._process_connect_init()
            # The server has answered that PING; news of it (INFO) may stand before its answer to nats-py's own one.
            self._status = Client.CONNECTED

    return Strict()
