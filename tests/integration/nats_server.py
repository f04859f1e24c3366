"""A real nats-server with JetStream, and what stands at its other end: a stream that is read, a responder."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import nats
import pytest
from harness import until
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import StreamConfig

PROGRAM = Path(sys.executable).with_name("nats-server")
T = TypeVar("T")


class NatsServer:
    """Listens on loopback; `settings` are lines of its configuration. `login` is how the tests themselves log in."""

    def __init__(self, directory: Path, settings: str = "", **login: Any) -> None:
        self.directory = directory
        self.port = -1
        self.settings = settings
        self.login = login
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> "NatsServer":
        ports = self.directory / "ports"
        ports.mkdir(exist_ok=True)
        file = self.directory / "nats.conf"
        file.write_text(
            f"host: 127.0.0.1\nport: {self.port}\nports_file_dir: '{ports}'\n"
            f"jetstream {{ store_dir: '{self.directory / 'store'}' }}\n{self.settings}\n"
        )
        log = (self.directory / "log").open("ab")
        process = subprocess.Popen([PROGRAM, "-c", file], stdout=log, stderr=log)
        log.close()
        self._process = process
        found = ports / f"nats-server_{process.pid}.ports"

        def listens() -> bool:
            assert process.poll() is None, (self.directory / "log").read_text()
            return found.exists() and bool(found.read_text())

        until(listens, "nats-server listens")
        self.port = int(json.loads(found.read_text())["nats"][0].rpartition(":")[2])
        return self

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        if number == signal.SIGSTOP:  # until then its threads go on
            os.waitpid(self._process.pid, os.WUNTRACED)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def run(self, work: Callable[[Client], Awaitable[T]]) -> T:
        """The result of `work` with a connection of its own."""

        async def connected() -> T:
            client = await nats.connect(f"nats://127.0.0.1:{self.port}", **self.login)
            try:
                return await work(client)
            finally:
                await client.close()

        return asyncio.run(connected())

    def add_stream(self, name: str, **settings: Any) -> None:
        """A stream for the subject of its name."""
        config = StreamConfig(name=name, subjects=[name], **settings)
        self.run(lambda client: client.jetstream().add_stream(config))

    def delete_stream(self, name: str) -> None:
        self.run(lambda client: client.jetstream().delete_stream(name))

    def stored(self, name: str, after: int = 0) -> list[Any]:
        """The messages of a stream, from the number `after` + 1 on."""

        async def read(client: Client) -> list[Any]:
            stream = client.jetstream()
            last = (await stream.stream_info(name)).state.last_seq
            return [await stream.get_msg(name, number) for number in range(after + 1, last + 1)]

        return self.run(read)


class Responder:
    """Answers the requests of a subject from `start` to `stop`; `respond` gets each."""

    def __init__(self, server: NatsServer, subject: str, respond: Callable[[Msg], Awaitable[None]]) -> None:
        self._server = server
        self._subject = subject
        self._respond = respond
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._done = asyncio.Event()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._run()))

    async def _run(self) -> None:
        client = await nats.connect(f"nats://127.0.0.1:{self._server.port}", **self._server.login)
        await client.subscribe(self._subject, cb=self._respond)
        await client.flush()
        self._ready.set()
        await self._done.wait()
        with contextlib.suppress(Exception):
            await client.close()

    def start(self) -> "Responder":
        self._thread.start()
        until(self._ready.is_set, "the responder listens")
        return self

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._done.set)
        self._thread.join()
        self._loop.close()


@pytest.fixture(scope="module")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    made = NatsServer(tmp_path_factory.mktemp("nats")).start()
    yield made
    made.stop()
