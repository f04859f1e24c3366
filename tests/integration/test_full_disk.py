"""A full disk under dead letters: a tmpfs of the gateway's own, filled and freed again (contract section 4.5)."""

import json
import os
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest
from aws_sources import Topic, configuration, wait_until_empty
from aws_sources import topic as topic
from harness import TOPIC, Gateway, source_of, until
from ministack import ENVIRONMENT, REGION, Ministack

pytestmark = pytest.mark.attack

SECONDS = float(os.environ.get("SLUICEGATE_FULL_DISK_SECONDS", "3"))
"""30 for the long form."""
SIZE = 64 << 20
LISTENER = 'listeners:\n  - { name: decoder, bind: "127.0.0.1:0" }\n'
DEAD = "    dead_letter_queue_arn: file:disk/dead.ndjson\n"

T = TypeVar("T")


class SmallDisk:
    """Processes of their own mount namespace, where `path` is a tmpfs. Seen from outside by `inside_of`."""

    def __init__(self, path: Path) -> None:
        path.mkdir()
        self.path = path

    def run(self, work: Callable[[], T]) -> T:
        return work()

    def inside(self, command: Sequence[str | Path]) -> Sequence[str | Path]:
        mount = f'mount -t tmpfs -o size={SIZE} none "$0" && exec "$@"'
        return ["unshare", "-Urm", "sh", "-c", mount, self.path, *command]

    def seen(self, one: Gateway) -> Path:
        """The tmpfs from outside."""
        return Path(f"/proc/{one.process.pid}/root{self.path}")


@pytest.fixture
def disk(tmp_path: Path) -> SmallDisk:
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-Urm", "true"], check=False).returncode:
        pytest.skip("mount namespaces of a user's own need `unshare` and the kernel's leave")
    return SmallDisk(tmp_path / "disk")


@pytest.fixture
def started(tmp_path: Path) -> Iterator[list[Gateway]]:
    made: list[Gateway] = []
    yield made
    for one in made:
        one.close()


def fill(disk: Path) -> Path:
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 16))
        except OSError:
            return filler


def refused(*ids: str) -> dict[str, Any]:
    remote = {"Address": "10.0.0.1", "Port": 9}
    return {"Messages": [{"Data": "AQIDBA==", "Remote": remote, "Id": one} for one in ids]}


def letters(file: Path) -> Counter[str]:
    """How many letters each entry has, by its `Id`."""
    documents = [json.loads(line) for line in file.read_bytes().splitlines()]
    return Counter(
        entry["Id"]
        for one in documents
        for entry in one.get("Entries", [one.get("Entry")])
        if entry is not None
    )


def names(kind: str, tick: int, count: int) -> list[str]:
    return [f"{kind}-{tick}-{number}" for number in range(count)]


def test_a_full_disk_loses_nothing_of_a_topic_and_nothing_of_rest_unsaid(
    ministack: Ministack, topic: Topic, disk: SmallDisk, tmp_path: Path, started: list[Gateway]
) -> None:
    one = Gateway(
        tmp_path, configuration(topic, DEAD), None, disk,
        region=REGION, aws=ministack.url, environment=ENVIRONMENT,
    )  # fmt: skip
    started.append(one.start())
    one.event("SourceSubscribed")
    dead = disk.seen(one) / "dead.ndjson"
    filler = fill(disk.seen(one))
    wanted: set[str] = set()
    answers = []
    with ThreadPoolExecutor(90) as publishers:
        for tick in range(int(SECONDS * 10)):  # 100 entries each
            begun = time.monotonic()
            sns = [names(f"sns-{part}", tick, 5) for part in range(10)]
            rest = names("rest", tick, 50)
            wanted.update(*sns, rest)
            topic.publish_batch([refused(*ids) for ids in sns])
            answers.append(publishers.submit(one.post, refused(*rest)))
            time.sleep(max(0.0, 0.1 - (time.monotonic() - begun)))
        told = one.event("DeadLetterFailed", Reason="WriteFailed")
        assert "No space left on device" in told["Detail"]
        one.wait_for("SourceFailed", 1)
        assert not topic.queue().is_empty(), "messages stay until their letters are written"
        assert letters(dead).total() == 0
        first = answers[0].result()
        assert (len(first["Failures"]), first["Settled"]) == (50, False), "REST is told"
        filler.unlink()
        wait_until_empty(topic.queue())
        settled = [answer.result()["Settled"] for answer in answers]
    until(lambda: one.metrics().value("dead_letters_waiting") == 0, "every letter is written")
    found = letters(dead)
    assert set(found) == wanted, "nothing is lost"
    assert set(found.values()) == {1}, "nothing comes twice"
    assert one.metrics().value("dead_letters_lost") == 0
    assert not all(settled)
    assert not one.named("DeadLetterFailed", Reason="QueueFull")
    assert not one.named("LoopBlocked")


def test_a_publisher_to_the_sns_endpoint_is_throttled_before_letters_are_lost(
    disk: SmallDisk, tmp_path: Path, started: list[Gateway]
) -> None:
    one = Gateway(tmp_path, LISTENER + source_of("decoder") + DEAD, None, disk)
    started.append(one.start())
    dead = disk.seen(one) / "dead.ndjson"
    filler = fill(disk.seen(one))
    padding = "A" * 200_000
    accepted = 0
    refusal = ""
    while not refusal:
        assert accepted < 1_000, "nobody was told"
        message = refused(f"sns-{accepted}") | {"padding": padding}
        try:
            one.publish(message)
        except one.sns.exceptions.ClientError as error:
            refusal = error.response["Error"]["Code"]
        else:
            accepted += 1
        until(lambda count=accepted: one.metrics().value("source_failed_entries") == count, "it failed")
    assert refusal == "Throttled"
    assert one.post(refused("rest"))["Settled"] is False
    filler.unlink()
    until(lambda: letters(dead).total() >= accepted, "the letters are written")
    until(lambda: one.metrics().value("dead_letters_waiting") == 0, "every letter is written")
    one.publish(refused("after"), TOPIC)
    until(lambda: letters(dead)["after"] == 1, "what comes then is taken")
    assert letters(dead) >= Counter(f"sns-{number}" for number in range(accepted))
