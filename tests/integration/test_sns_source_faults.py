"""Nothing is lost: crashes of the gateway, outages of the queue service (contract section 4.3)."""

import json
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from aws_sources import Network, Served, Topic, entry, received, wait_until_empty
from aws_sources import brisk as brisk
from aws_sources import network as network
from aws_sources import topic as topic
from harness import Client, Gateway, until
from ministack import Ministack

MESSAGES = int(os.environ.get("SLUICEGATE_KILL_MESSAGES", "2000"))
KILLS = 10 if MESSAGES >= 20_000 else 3
DOWN_SECONDS = float(os.environ.get("SLUICEGATE_DOWN_SECONDS", "6"))


class Collector:
    """Everything that a device receives, while gateways come and go."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._seen: Counter[bytes] = Counter()
        client.socket.settimeout(0.1)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                data, _ = self._client.receive()
            except TimeoutError:
                continue
            with self._lock:
                self._seen[data] += 1

    @property
    def seen(self) -> Counter[bytes]:
        with self._lock:
            return self._seen.copy()

    def close(self) -> None:
        self._ended.set()
        self._thread.join()


@contextmanager
def collecting(client: Client) -> Iterator[Collector]:
    made = Collector(client)
    try:
        yield made
    finally:
        made.close()


@contextmanager
def publishing(topic: Topic, client: Client, count: int) -> Iterator[threading.Thread]:
    """`count` messages, published ten at a time beside what the test does."""

    def run() -> None:
        for start in range(0, count, 10):
            topic.publish_batch([entry(client, f"{n}") for n in range(start, min(start + 10, count))])
            time.sleep(0.02)  # or most would be sent before the test begins

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield thread
    finally:
        thread.join()


def cpu_seconds(one: Gateway) -> float:
    """What the process has used of a CPU so far."""
    fields = Path(f"/proc/{one.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wait_for_all(collector: Collector, count: int) -> None:
    """Patience for what a crash made invisible for half a minute, as often as it takes."""
    deadline = time.monotonic() + 100 + count / 50
    while len(collector.seen) < count:
        assert time.monotonic() < deadline, f"{count - len(collector.seen)} of {count} are lost"
        time.sleep(0.1)


@pytest.mark.timeout(300 + MESSAGES // 20)
def test_killed_at_random_moments(ministack: Ministack, brisk: Served, topic: Topic) -> None:
    one = brisk(topic, ministack.url)
    one.event("SourceSubscribed")
    queue = topic.queue()
    in_flight = 0
    with Client() as client, collecting(client) as collector, publishing(topic, client, MESSAGES):
        for _ in range(KILLS):
            before = len(collector.seen)
            until(
                lambda before=before: len(collector.seen) > before or len(collector.seen) == MESSAGES,  # type: ignore[misc]
                "something is sent",
            )
            time.sleep(random.uniform(0, 1))
            one.kill()
            in_flight += queue.in_flight()
            one.start()
        wait_for_all(collector, MESSAGES)
        wait_until_empty(queue)
        seen = collector.seen
    repeats = seen.total() - MESSAGES
    print(f"{MESSAGES} messages, {KILLS} kills: {in_flight} in flight at the kills, {repeats} repeats")
    assert len(seen) == MESSAGES
    assert repeats <= in_flight


@pytest.mark.timeout(300)
def test_the_queue_service_is_down_then_slow_then_throttling(
    ministack: Ministack, brisk: Served, topic: Topic, network: Network
) -> None:
    one = brisk(topic, network.url, reconcile_seconds=3600)
    one.event("SourceSubscribed")
    count = 600
    with Client() as client, collecting(client) as collector, publishing(topic, client, count):
        until(lambda: collector.seen, "messages come")
        network.refuse()
        down = one.event("SourcePollFailed")
        assert str(network.port) in down["Detail"]
        used = cpu_seconds(one)
        time.sleep(DOWN_SECONDS)
        assert cpu_seconds(one) - used < DOWN_SECONDS / 5
        network.delay()
        one.event("SourceRecovered", Detail="ReceiveMessage")
        some = len(collector.seen)
        until(lambda: len(collector.seen) > some or some == count, "slow answers are answers")
        network.throttle()
        one.event("SourcePollFailed", Reason="RequestThrottled")
        used = cpu_seconds(one)
        time.sleep(DOWN_SECONDS)
        assert cpu_seconds(one) - used < DOWN_SECONDS / 5
        network.open()
        wait_for_all(collector, count)
        wait_until_empty(topic.queue())
        seen = collector.seen
    assert seen == Counter({f"{n}".encode(): 1 for n in range(count)})
    assert received(one, "poll_errors") >= 2
    until(lambda: received(one, "in_flight") == 0, "nothing is in flight")


@pytest.mark.timeout(200)
def test_a_message_that_waits_for_its_pace_stays_ours(
    ministack: Ministack, brisk: Served, topic: Topic
) -> None:
    """12 s at one packet a second: longer than the visibility, which is 4 s here."""
    one = brisk(topic, ministack.url, source="    rate_limit: { packets_per_second: 1, burst: 1 }")
    one.event("SourceSubscribed")
    with Client() as client:
        topic.publish({"Messages": [entry(client, f"{n}") for n in range(12)]})
        assert client.receive_data(12) == [f"{n}".encode() for n in range(12)]
        wait_until_empty(topic.queue())
        assert client.waiting() == []
    assert received(one, "received") == 1
    assert received(one, "extended") >= 1


@pytest.mark.timeout(200)
def test_a_stop_gives_back_what_it_could_not_send(ministack: Ministack, brisk: Served, topic: Topic) -> None:
    one = brisk(topic, ministack.url, source="    rate_limit: { packets_per_second: 1, burst: 1 }")
    one.event("SourceSubscribed")
    with Client() as client, collecting(client) as collector:
        for number in range(15):
            topic.publish(json.dumps(entry(client, f"{number}")))
        until(lambda: collector.seen, "the first leaves")
        assert one.stop() == 0
        # Invisible ones too: the long poll that the stop broke off may have taken what was given back.
        found = topic.queue().attributes()
        left = sum(int(found[f"ApproximateNumberOfMessages{what}"]) for what in ("", "NotVisible"))
        assert left >= 15 - len(collector.seen)
        one.start()
        until(lambda: len(collector.seen) == 15, "all of them leave in the end")
