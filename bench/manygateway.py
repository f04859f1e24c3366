"""`python -m bench.manygateway DIRECTORY LISTENERS SOURCES PUBLISHES`: one gateway with many resources, and what things
cost in it. It runs in this process, because how long its event loop is held can be seen from inside alone.

Prints one line of JSON: `start_cpu` in seconds, of the whole process from its beginning; `…_ms` of requests; and
`…_hold_ms`, the most processor time that the loop's thread used between two turns meanwhile."""

import asyncio
import http.client
import json
import resource
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import uvloop

from sluicegate.config import load
from sluicegate.events import EventLog
from sluicegate.gateway import Gateway

from .gateway import free_port

TOPIC = "arn:aws:sns:us-east-1:000000000000"
ADDED = 20
RELOADS = 3


def configuration(listeners: int, sources: int, port: int, api: int, changed: int = 0) -> str:
    """Listeners on one port, each at an address of its own; `changed` is a value of the first one."""
    lines = [
        "state: ./sluicegate.db",
        f"api: {{ bind: 127.0.0.1:{api} }}",
        f"sns: {{ bind: 127.0.0.1:{free_port()} }}",
        "events: { stdout: false }",
        "listeners:",
    ]
    for number in range(listeners):
        lines += [
            f"  - name: listener-{number}",
            f"    bind: {address(number)}:{port}",
            f"    session_idle_seconds: {300 + (changed if number == 0 else 0)}",
        ]
    lines += ["packet_sources:"] if sources else []
    for number in range(sources):
        lines += [
            f"  - name: source-{number}",
            "    listener_name: listener-0",
            f'    sns_topic_source: {{ topic_arn: "{TOPIC}:topic-{number}" }}',
        ]
    return "\n".join(lines) + "\n"


def address(number: int) -> str:
    return f"127.{1 + number // 62_500}.{number // 250 % 250}.{1 + number % 250}"


class Holds:
    """Watches the event loop. `longest()` is the longest hold since the last call, in milliseconds."""

    def __init__(self) -> None:
        self._longest = 0.0
        self._task = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        last = time.thread_time()
        while True:
            await asyncio.sleep(0)
            now = time.thread_time()
            self._longest = max(self._longest, now - last)
            last = time.thread_time()

    def longest(self) -> float:
        found, self._longest = self._longest * 1000, 0.0
        return found

    def close(self) -> None:
        self._task.cancel()


class Client:
    """A kept connection to the API, used from another thread than the loop's."""

    def __init__(self, api: int, key: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", api, timeout=60)
        self._headers = {"Authorization": f"Bearer {key}"}

    def send(self, method: str, path: str, body: object = None) -> bytes:
        text = None if body is None else json.dumps(body)
        self._connection.request(method, path, text, self._headers)
        answer = self._connection.getresponse()
        found = answer.read()
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {found[:500]!r}")
        return found


async def timed(function: Callable[[], object]) -> float:
    """The milliseconds that a blocking call takes in another thread."""
    begun = time.perf_counter()
    await asyncio.to_thread(function)
    return (time.perf_counter() - begun) * 1000


async def measure(directory: Path, listeners: int, sources: int, publishes: int) -> dict[str, Any]:
    api, port = free_port(), free_port()
    file = directory / "gateway.yaml"
    file.write_text(configuration(listeners, sources, port, api))
    gateway = Gateway(load(file), EventLog())
    await gateway.start()
    found = {"start_cpu": time.process_time()}
    client = Client(api, (directory / "sluicegate.db.admin-key").read_text().strip())
    if sources:
        found["publish_us"] = await publish(client, f"source-{sources - 1}", publishes)
    else:
        found |= await change(gateway, client, file, (listeners, sources, port, api))
    await gateway.stop(0.5)
    return found


async def publish(client: Client, source: str, times: int) -> float:
    """Microseconds of the loop's thread for one publish."""
    path, message = f"/v1/packet-sources/{source}/messages", {"Messages": []}
    await asyncio.to_thread(client.send, "POST", path, message)
    begun = time.thread_time()
    await asyncio.to_thread(lambda: [client.send("POST", path, message) for _ in range(times)])
    return (time.thread_time() - begun) / times * 1e6


async def change(
    gateway: Gateway, client: Client, file: Path, shape: tuple[int, int, int, int]
) -> dict[str, Any]:
    listeners, sources, port, api = shape
    binds = [f"{address(listeners + number)}:{port}" for number in range(ADDED)]
    added = [
        await timed(partial(client.send, "POST", "/v1/listeners", {"Name": f"more-{number}", "Bind": bind}))
        for number, bind in enumerate(binds)
    ]
    found = {"add_ms": sorted(added)[ADDED // 2]}
    holds = Holds()
    for name, path in (("scrape", "/metrics"), ("list", "/v1/listeners")):
        holds.longest()
        found[f"{name}_ms"] = await timed(partial(client.send, "GET", path))
        found[f"{name}_hold_ms"] = holds.longest()
    taken = []
    for number in range(RELOADS):
        await asyncio.to_thread(_rewrite, file, configuration(listeners, sources, port, api, number + 1))
        holds.longest()
        begun = time.perf_counter()
        await gateway.registry.reload("bench")
        taken.append(((time.perf_counter() - begun) * 1000, holds.longest()))
    found["reload_ms"], found["reload_hold_ms"] = sorted(taken)[RELOADS // 2]
    holds.close()
    return found


def _rewrite(file: Path, text: str) -> None:
    """Give the file the resources of `text`. Its head stays: a reload takes over resources alone."""
    file.write_text(file.read_text().partition("listeners:")[0] + "".join(text.partition("listeners:")[1:]))


def main() -> int:
    directory, *numbers = sys.argv[1:]
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(measure(Path(directory), *map(int, numbers)))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
