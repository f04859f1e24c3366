"""What tests of Destinations for AWS share: their contract against ministack, and a server with answers in store."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
from aws_server import Peer, Server
from ministack import ENVIRONMENT, REGION, Ministack

from sluicegate.aws import Aws, Role
from sluicegate.destinations.base import Destination, DestinationContext
from sluicegate.testing import DestinationContract, destination_context


@pytest.fixture
def ministack_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its credentials, and nothing of whoever runs the tests."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.mark.usefixtures("ministack_keys")
class AwsContract(DestinationContract):
    """The contract of Destinations for a service in ministack. `make` makes what the packets are delivered to."""

    def make(self, ministack: Ministack) -> None:
        raise NotImplementedError

    @pytest.fixture(autouse=True)
    def _made(self, ministack: Ministack) -> None:
        self.ministack = ministack
        self.make(ministack)

    @pytest.fixture
    def context(self, tmp_path: Path) -> DestinationContext:
        self.aws = Aws(REGION, self.ministack.url)
        return destination_context(tmp_path, region=REGION, aws=self.aws)

    def run(self, check: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async def closing() -> None:
            try:
                await check()
            finally:
                await self.aws.close()

        super().run(closing)


def data_of(bodies: Sequence[str | bytes]) -> list[str]:
    """`Data` of RequestPackets in JSON."""
    return [json.loads(body)["Data"] for body in bodies]


class Scripted:
    """A Destination and the server that it calls, which answers as a test says (`server.answers`)."""

    region: ClassVar[str] = REGION

    def __init__(self, server: Server, directory: Path) -> None:
        self.server = server
        self._directory = directory

    @asynccontextmanager
    async def destination(
        self, kind: type[Destination], target: str, role: Role | None = None, **arguments: object
    ) -> AsyncIterator[Destination]:
        aws = Aws(REGION, self.server.url)
        context = destination_context(self._directory, region=REGION, aws=aws, role=role)
        made = kind.from_spec("orders", target, arguments, context)
        await made.provision()
        try:
            yield made
        finally:
            await made.close()
            await aws.close()

    def peer(self, respond: Callable[[dict[str, str], bytes], bytes]) -> Peer:
        """Answers a request as `respond` says of its headers and its body."""

        async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            _, headers, body = self.server.requests[-1]
            writer.write(respond(headers, body))

        return peer

    @property
    def bodies(self) -> list[dict[str, Any]]:
        """The requests so far, as JSON."""
        return [json.loads(body) for _, _, body in self.server.requests]


@pytest.fixture
def scripted(aws_server: Server, aws_keys: None, tmp_path: Path) -> Scripted:
    return Scripted(aws_server, tmp_path)
