"""Delivery to every service: the gateway's Destinations on one core, the service on the other.

All deliver the same packets in batches of 500, eight at a time or as many as the Destination takes, to a service that
takes everything at once (`canned_services.py`; NATS is a real server whose stream is in memory). A row's name has the
requests that the service has counted. SQS and Kinesis are next to aiobotocore; `services_clients.py` has both.
"""

import asyncio
import contextlib
import json
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from .plan import Plan
from .processes import HANG_SECONDS, LOAD_CORE, TESTED_CORE, BenchError, Process, module, scratch
from .results import Row, Sample, compare, median
from .services_clients import BATCH, TARGETS
from .sqs import credentials

PART = 4
"""Of `Plan.seconds`: there are many services."""
GOAL = 2.5
COMPARED = ("sqs", "kinesis")
NATS_SERVER = Path(sys.executable).with_name("nats-server")

Count = Callable[[], int]
"""The number of requests that the service has got. It may end then."""


def run(plan: Plan) -> Iterator[Row]:
    with credentials():
        for service in TARGETS:
            if service == "nats" and not NATS_SERVER.exists():
                print("  nats: left out, there is no nats-server", file=sys.stderr)
                continue
            own, other, requests = [], [], 0.0
            for _ in range(plan.rounds):
                sample, requests = _sample(service, "own", plan.seconds / PART)
                own.append(sample)
                if service in COMPARED:
                    other.append(_sample(service, "aiobotocore", plan.seconds / PART)[0])
            name = f"delivery to {service}, {requests:.0f} requests for 1,000 packets"
            if other:
                yield compare(name, own, "aiobotocore", other, GOAL)
            else:
                yield Row(name, rate=median([one.rate for one in own]), cpu=median([one.cpu for one in own]))


def _sample(service: str, how: str, seconds: float) -> tuple[Sample, float]:
    """How it went, and the requests for 1,000 packets."""
    with (_nats if service == "nats" else _canned)() as (url, count):
        with Process(module("services_clients", service, how, url, seconds), TESTED_CORE) as client:
            seen = client.result()
        requests = count()
    packets = seen["packets"]
    sample = Sample(packets / seen["seconds"], cpu=seen["cpu_seconds"] / packets * 1e6)
    return sample, requests / (packets + BATCH) * 1000


@contextlib.contextmanager
def _canned() -> Iterator[tuple[str, Count]]:
    with Process(module("canned_services"), LOAD_CORE) as service:
        yield service.line(), lambda: int(service.stop()["requests"])


@contextlib.contextmanager
def _nats() -> Iterator[tuple[str, Count]]:
    """A stream `bench`, and what the server's own page says of messages."""
    with scratch() as directory:
        command = [NATS_SERVER, "-a", "127.0.0.1", "-p", "-1", "-m", "-1", "-js", "-sd", directory]
        with Process([*command, "--ports_file_dir", directory], LOAD_CORE) as server:
            ports = _ports(directory / f"nats-server_{server.pid}.ports")
            url, page = ports["nats"][0], f"{ports['monitoring'][0]}/varz"
            asyncio.run(_add_stream(url))
            before = _messages(page)
            yield url, lambda: _messages(page) - before


def _ports(file: Path) -> dict[str, list[str]]:
    """URLs of what the server listens for, once it does."""
    deadline = time.monotonic() + HANG_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, ValueError):
            found: dict[str, list[str]] = json.loads(file.read_text())
            return found
        time.sleep(0.02)
    raise BenchError("nats-server does not start")


def _messages(page: str) -> int:
    with urllib.request.urlopen(page, timeout=HANG_SECONDS) as answer:  # noqa: S310 it is http
        return int(json.load(answer)["in_msgs"])


async def _add_stream(url: str) -> None:
    import nats
    from nats.js.api import StorageType, StreamConfig

    client = await nats.connect(url)
    await client.jetstream().add_stream(
        StreamConfig(name="bench", subjects=["bench"], storage=StorageType.MEMORY)
    )
    await client.close()
