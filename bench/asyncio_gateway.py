"""What a user would write instead: a UDP gateway of asyncio and boto3.

`python -m bench.asyncio_gateway PORT INVOKE`: batches of 100 (or what came within 20 ms) go to a handler, two at a
time, and its replies go back by address. INVOKE is the URL of a Lambda service, which boto3 calls in threads; or `-`:
the handler is called in this process, where it costs nothing to reach and one that hangs stops everything. Tags are
bare addresses, not sealed.
"""

import asyncio
import base64
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import boto3  # type: ignore[import-untyped]

BATCH, SECONDS, CONCURRENCY = 100, 0.02, 2


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    return {"Replies": [{"Tag": packet["Tag"], "Data": packet["Data"]} for packet in event["Messages"]]}


def packet(data: bytes, remote: tuple[str, int]) -> dict[str, Any]:
    """A datagram as a handler gets it."""
    return {
        "Tag": f"{remote[0]}:{remote[1]}",
        "Remote": {"IpAddress": remote[0], "Port": remote[1]},
        "ReceivedAt": datetime.now(UTC).isoformat(),
        "Formatter": "base64",
        "Data": base64.b64encode(data).decode(),
    }


class Gateway(asyncio.DatagramProtocol):
    def __init__(self, invoke: str) -> None:
        self.waiting: asyncio.Queue[dict[str, Any]] = asyncio.Queue(100_000)
        self.threads = ThreadPoolExecutor(CONCURRENCY)
        # No credentials are needed where nothing checks them; boto3 signs all the same.
        credentials = {"aws_access_key_id": "local", "aws_secret_access_key": "local"}
        self.service: Any = None
        if invoke != "-":
            self.service = boto3.client("lambda", endpoint_url=invoke, region_name="us-east-1", **credentials)

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self.transport = transport

    def datagram_received(self, data: bytes, remote: tuple[str, int]) -> None:
        received = packet(data, remote)
        if not self.waiting.full():
            self.waiting.put_nowait(received)

    async def work(self) -> None:
        while True:
            batch = [await self.waiting.get()]
            deadline = asyncio.get_running_loop().time() + SECONDS
            while len(batch) < BATCH:
                try:
                    async with asyncio.timeout_at(deadline):
                        batch.append(await self.waiting.get())
                except TimeoutError:
                    break
            for reply in (await self.invoke({"Messages": batch}))["Replies"]:
                host, _, port = reply["Tag"].rpartition(":")
                self.transport.sendto(base64.b64decode(reply["Data"]), (host, int(port)))

    async def invoke(self, event: dict[str, Any]) -> Any:
        if not self.service:
            return handler(event, None)
        call = {"FunctionName": "echo", "Payload": json.dumps(event)}
        loop = asyncio.get_running_loop()
        answer = await loop.run_in_executor(self.threads, lambda: self.service.invoke(**call))
        return json.loads(answer["Payload"].read())


async def main(port: int, invoke: str) -> None:
    loop = asyncio.get_running_loop()
    _, gateway = await loop.create_datagram_endpoint(lambda: Gateway(invoke), ("127.0.0.1", port))
    print("ready", flush=True)
    async with asyncio.TaskGroup() as workers:
        for _ in range(CONCURRENCY):
            workers.create_task(gateway.work())


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
