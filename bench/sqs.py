"""Packet sourcing from AWS: receive from SQS, send, delete; each envelope has one message of one entry.

The queue is a canned one (`canned_sqs.py`) on the load's core, so that its client is the limit: the gateway with all
that it does besides (policy, memory of what has ended, accounts, deletes after the datagram has left), and next to it
what one would write instead (`sqs_baselines.py`). "own client alone" is the last of those with the gateway's client
of SQS: what is left is the gateway's own work.

What malformed messages cost is measured in one gateway, in blocks by turns: in one block every message is good, in
the next one each `EVERY`th cannot be sent, and both are of the same length. Two processes one after the other differ
by more than what is looked for. A block ends when each of its messages is deleted, the malformed ones as well, and
all that is good has arrived; afterwards each malformed one must have been counted and be a dead letter. Each
malformed block is compared with the mean of the good ones before and after it, and the median of those ratios counts:
what the machine gives changes from block to block by more than what is looked for. A block lasts for about two
seconds: of each second's failures the first hundred are lines in the log, so that shorter blocks would have more
lines for each failure than a rate that lasts; and the failures of its last 30 ms are told after their time.
"""

import collections
import contextlib
import itertools
import os
import signal
import time
from collections.abc import Iterator

from .canned_aws import KEYS
from .gateway import Gateway
from .plan import Plan
from .processes import LOAD_CORE, TESTED_CORE, BenchError, Process, module, scratch
from .results import Row, Sample, compare

SIZE = 64
PART = 10
"""Of `Plan.packets`: a message costs a hundred times as much as a packet."""
RATE = 1_000
BOTO3_GOAL, AIOBOTOCORE_GOAL = 4, 2
EVERY = 10
MALFORMED_GOAL = 0.95
BLOCKS = 13
"""An odd number: the first and the last are good ones."""
BLOCK = 2
"""As many times the messages of a run of its own."""
SETTLE_SECONDS = 0.5


def run(plan: Plan) -> Iterator[Row]:
    count = plan.packets // PART
    with credentials():
        samples: dict[str, list[Sample]] = collections.defaultdict(list)
        for _ in range(plan.rounds):
            samples["gateway"].append(_by_gateway(count))
            good, malformed = _by_turns(count * BLOCK)
            samples["good"] += good
            samples["malformed"] += malformed
            for how in ("own", "boto3", "aiobotocore"):
                samples[how].append(_by_baseline(how, count))
        yield compare("SQS to wire", samples["gateway"], "boto3 in threads", samples["boto3"], BOTO3_GOAL)
        yield compare(
            "SQS to wire", samples["gateway"], "aiobotocore", samples["aiobotocore"], AIOBOTOCORE_GOAL
        )
        yield compare("SQS to wire", samples["gateway"], "own client alone", samples["own"])
        name = f"SQS to wire, 1 in {EVERY} malformed"
        yield compare(name, samples["malformed"], "none malformed", samples["good"], MALFORMED_GOAL)
        yield from _latency(plan)


def _by_gateway(count: int) -> Sample:
    with (
        _queue(count, 0) as queue,
        scratch() as directory,
        Gateway(directory, aws=queue.line()) as gateway,
    ):
        return _sample(queue, gateway, count)


def _by_turns(count: int) -> tuple[list[Sample], list[Sample]]:
    """Blocks of `count` messages: around each with malformed ones the mean of its good neighbours, and itself."""
    malformed = count // EVERY
    blocks: tuple[list[Sample], list[Sample]] = ([], [])
    with (
        _queue(count, 0, BLOCKS, EVERY) as queue,
        scratch() as directory,
        Gateway(directory, aws=queue.line()) as gateway,
    ):
        _await_poll(queue, gateway)
        for block in range(BLOCKS):
            of_these = malformed * (block % 2)
            seen = _run(queue, gateway, count, count - of_these)
            blocks[block % 2].append(_measured(seen, count, count - of_these))
        counted = gateway.metrics().total("source_failed_entries")
        letters = (directory / "dead.ndjson").read_bytes().count(b"\n")
    if counted != letters or counted != malformed * (BLOCKS // 2):
        raise BenchError(f"{malformed * (BLOCKS // 2)} malformed: {counted} counted, {letters} dead letters")
    good, bad = blocks
    return [_mean(one, two) for one, two in itertools.pairwise(good)], bad


def _mean(one: Sample, two: Sample) -> Sample:
    """Of two blocks of one length, as if they were one."""
    return Sample(2 / (1 / one.rate + 1 / two.rate), 0, ((one.cpu or 0) + (two.cpu or 0)) / 2)


def _by_baseline(how: str, count: int) -> Sample:
    with (
        _queue(count, 0) as queue,
        Process(module("sqs_baselines", how, queue.line()), TESTED_CORE) as client,
    ):
        return _sample(queue, client, count)


def _latency(plan: Plan) -> Iterator[Row]:
    """From the moment at which a message may be fetched to the arrival of its datagram."""
    count = int(RATE * plan.seconds * 5)
    with (
        _queue(count, RATE) as queue,
        scratch() as directory,
        Gateway(directory, aws=queue.line()) as gateway,
    ):
        _await_poll(queue, gateway)
        seen = _run(queue, gateway, count, count)
    yield Row(f"SQS to wire at {RATE:,}/s, p50", seen["p50"], " ms")
    yield Row(f"SQS to wire at {RATE:,}/s, p99", seen["p99"], " ms")


def _queue(count: int, rate: int, blocks: int = 1, every: int = 0) -> Process:
    return Process(module("canned_sqs", SIZE, count, rate, blocks, every), LOAD_CORE)


def _sample(queue: Process, client: Process, count: int) -> Sample:
    _await_poll(queue, client)
    return _measured(_run(queue, client, count, count), count, count)


def _measured(seen: dict[str, float], count: int, good: int) -> Sample:
    return Sample(count / seen["seconds"], 1 - seen["arrived"] / good, seen["client_seconds"] / count * 1e6)


def _await_poll(queue: Process, client: Process) -> None:
    if queue.line() != "polled":
        raise BenchError(f"the canned queue failed: {queue.errors()}; its client: {client.errors()}")
    time.sleep(SETTLE_SECONDS)


def _run(queue: Process, client: Process, count: int, good: int) -> dict[str, float]:
    """Lets `client` empty the queue; what the queue saw, and the processor time of `client`."""
    before = client.cpu_seconds()
    os.kill(queue.pid, signal.SIGUSR1)
    seen = queue.report()
    seen["client_seconds"] = client.cpu_seconds() - before
    if seen["deleted"] != count or seen["arrived"] != good or seen["twice"]:
        raise BenchError(f"{count} messages, of which the queue saw {seen}; its client: {client.errors()}")
    return seen


@contextlib.contextmanager
def credentials() -> Iterator[None]:
    """The credentials that the gateway finds in its environment; the canned queue accepts any."""
    names = {"AWS_ACCESS_KEY_ID": KEYS[0], "AWS_SECRET_ACCESS_KEY": KEYS[1]}
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
