"""Dead letters in SQS and their replay, at a real gateway and an independent SQS (contract section 4.5)."""

import json
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from aws_sources import BRISK, LISTENER, Served, Topic, wait_until_empty
from aws_sources import served as served
from aws_sources import topic as topic
from harness import (
    PROGRAM,
    TOPIC,
    Client,
    Gateway,
    Process,
    free_port,
    in_process,
    run_program,
    source_of,
    until,
)
from ministack import ACCOUNT, REGION, Ministack, unique

import doubles
from conftest import StartGateway

FIELDS = {"PacketSource", "Listener", "MessageId", "Index", "Reason", "Detail", "At", "Entry"}
NOTHING = {
    "Replayed": 0, "Failed": 0, "Expired": 0, "NotAsked": 0, "Unusable": 0, "OtherRegion": 0, "Moved": 0
}  # fmt: skip


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in BRISK.items():
        monkeypatch.setenv(name, value)


class DeadQueue:
    """An SQS queue for dead letters, seen with boto3."""

    def __init__(self, ministack: Ministack, *, create: bool = True) -> None:
        self.endpoint = ministack.url
        self.name = unique("dead")
        self.arn = f"arn:aws:sqs:{REGION}:{ACCOUNT}:{self.name}"
        self._sqs = ministack.client("sqs")
        if create:
            self.create()

    def create(self, **attributes: str) -> None:
        self.url = self._sqs.create_queue(QueueName=self.name, Attributes=attributes)["QueueUrl"]

    def put(self, body: str) -> None:
        self._sqs.send_message(QueueUrl=self.url, MessageBody=body)

    def count(self) -> int:
        """Messages that somebody could receive now."""
        name = "ApproximateNumberOfMessages"
        found = self._sqs.get_queue_attributes(QueueUrl=self.url, AttributeNames=[name])
        return int(found["Attributes"][name])

    def bodies(self, count: int) -> list[str]:
        """All messages, once there are `count`; they stay visible."""
        until(lambda: self.count() >= count, f"{count} letters are in the queue")
        found: dict[str, dict[str, str]] = {}
        while more := self._sqs.receive_message(
            QueueUrl=self.url, MaxNumberOfMessages=10, VisibilityTimeout=60
        ).get("Messages"):
            found |= {message["MessageId"]: message for message in more}
        for message in found.values():
            self._sqs.change_message_visibility(
                QueueUrl=self.url, ReceiptHandle=message["ReceiptHandle"], VisibilityTimeout=0
            )
        assert len(found) == count
        return [message["Body"] for message in found.values()]

    def letters(self, count: int) -> list[dict[str, Any]]:
        return [json.loads(body) for body in self.bodies(count)]


@pytest.fixture
def dead(ministack: Ministack) -> DeadQueue:
    return DeadQueue(ministack)


def configuration(dead: DeadQueue, networks: str = "[203.0.113.0/24]", more: str = "") -> str:
    return f"""
aws: {{ endpoint_url: "{dead.endpoint}" }}
{LISTENER}{source_of("decoder", networks)}    dead_letter_queue_arn: {dead.arn}
{more}
"""


def fix_networks(one: Gateway) -> None:
    """Restart it with a configuration that allows what was refused."""
    one.stop()
    one.edit("[203.0.113.0/24]", "[127.0.0.0/8]")
    one.start()


def run_replay(one: Gateway, dead: DeadQueue, *options: str | Path) -> "subprocess.CompletedProcess[str]":
    return in_process("replay", dead.arn, "--endpoint-url", dead.endpoint, "--api", one.api_url, *options)


def replay(one: Gateway, dead: DeadQueue, *options: str | Path) -> dict[str, int]:
    done = run_replay(one, dead, "--output", "json", *options)
    assert done.returncode in (0, 1), done.stderr
    counts: dict[str, int] = json.loads(done.stdout)
    return counts


def entry(client: Client, text: str, **fields: Any) -> dict[str, Any]:
    return {"Data": text, "Formatter": "utf8", "Remote": client.remote, **fields}


def envelope(message: Any, region: str | None = None, topic: str = TOPIC) -> str:
    """What SNS puts into the dead-letter queue of a subscription."""
    named = {"EgressRegion": {"Type": "String", "Value": region}}
    more = {} if region is None else {"MessageAttributes": named}
    return doubles.envelope(
        "5f1e1f2c-0000-0000-0000-000000000001",
        message,
        topic=topic,
        Timestamp="2026-06-09T10:00:00.123Z",
        **more,
    )


def test_failures_are_in_the_queue_and_replay_delivers_them_after_the_fix(
    gateway: StartGateway, dead: DeadQueue
) -> None:
    one = gateway(configuration(dead))
    client = Client()
    for start in range(0, 250, 50):
        one.publish({"Messages": [entry(client, f"{n:03}", Id=f"fw/{n}") for n in range(start, start + 50)]})
    letters = dead.letters(250)
    assert {letter["Reason"] for letter in letters} == {"RemoteDenied"}
    assert all(letter.keys() == FIELDS for letter in letters)
    assert letters[0]["PacketSource"] == "replies"
    assert letters[0]["Listener"] == "decoder"
    assert sorted(letter["Entry"]["Data"] for letter in letters) == [f"{n:03}" for n in range(250)]
    metrics = one.metrics()
    assert metrics.value("dead_letters_kept", queue=dead.arn) == 250
    assert metrics.value("dead_letters_waiting") == 0

    # Replayed too early: what fails again is in the queue once, as a new letter.
    assert replay(one, dead) == NOTHING | {"Failed": 250, "Reasons": {"RemoteDenied": 250}}
    again = dead.letters(250)
    assert not {letter["MessageId"] for letter in again} & {letter["MessageId"] for letter in letters}

    fix_networks(one)
    assert replay(one, dead, "--dry-run") == NOTHING | {"Replayed": 250}
    assert dead.count() == 250
    done = run_replay(one, dead, "--rate", "500")
    assert (done.returncode, done.stdout) == (0, "250 sent\n"), done.stderr
    assert sorted(client.receive_data(250)) == [f"{n:03}".encode() for n in range(250)]
    assert dead.count() == 0
    assert client.waiting() == []


def test_what_is_not_asked_for_stays_as_it_was(gateway: StartGateway, dead: DeadQueue) -> None:
    one = gateway(configuration(dead, "[127.0.0.0/8]"))
    client = Client()
    one.post(
        {
            "Messages": [
                entry(client, "expired", ExpiresAt="2020-01-01T00:00:00Z"),
                entry(client, "paced", TtlSeconds=0.000001),
                {"Data": "AA==", "Remote": {"Address": "10.0.0.1", "Port": 9}},
                "not an object",
            ]
        }
    )
    dead.put("neither JSON nor a letter")
    before = dead.bodies(5)
    counts = replay(one, dead, "--reason", "Expired")
    # The TTL of "paced" begins anew, so it might leave; a millionth of a second is over too soon again.
    ended = {"Expired": 1, "Failed": 1, "NotAsked": 1, "Unusable": 2}
    assert counts == NOTHING | ended | {"Reasons": {"Expired": 1}}
    after = dead.bodies(5)
    assert len(set(before) & set(after)) == 4
    counts = replay(one, dead, "--reason", "Expired", "--ignore-expiry", "--source", "replies")
    assert client.receive_data(1) == [b"expired"]
    assert counts["Replayed"] == 1
    assert replay(one, dead, "--source", "other") == NOTHING | {"NotAsked": 2, "Unusable": 2}


def test_an_interrupted_replay_gives_back_what_it_did_not_send(
    gateway: StartGateway, dead: DeadQueue
) -> None:
    one = gateway(configuration(dead))
    client = Client()
    one.post({"Messages": [entry(client, f"{n:02}") for n in range(60)]})
    dead.letters(60)
    fix_networks(one)
    command: Sequence[str | Path] = [
        PROGRAM, "replay", dead.arn, "--endpoint-url", dead.endpoint, "--api", one.api_url, "--rate", "20"
    ]  # fmt: skip
    running = Process(command, one.directory)
    try:
        received = client.receive_data(10)
        running.signal(signal.SIGINT)
        assert running.wait() == 1, running.stderr.text
        assert "Traceback" not in running.stderr.text
    finally:
        running.close()
    received += client.waiting()
    assert dead.count() >= 60 - len(received)
    counts = replay(one, dead)
    received += client.receive_data(counts["Replayed"])
    assert set(received) == {f"{n:02}".encode() for n in range(60)}
    assert len(received) <= 62, "a request of two letters may be repeated"
    assert dead.count() == 0


def test_messages_that_sns_could_not_deliver_are_replayed_too(gateway: StartGateway, dead: DeadQueue) -> None:
    one = gateway(configuration(dead, "[127.0.0.0/8]"))
    client = Client()
    dead.put(envelope(entry(client, "flat")))
    dead.put(envelope({"Messages": [entry(client, "one"), entry(client, "two")]}, REGION))
    dead.put(envelope(entry(client, "elsewhere"), "eu-central-1"))
    dead.put(envelope(entry(client, "foreign"), topic=TOPIC + "-other"))
    dead.put(envelope("no JSON"))
    counts = replay(one, dead, "--reason", "SnsDeliveryFailed")
    assert counts == NOTHING | {"Replayed": 2, "OtherRegion": 1, "Unusable": 2}
    assert sorted(client.receive_data(3)) == [b"flat", b"one", b"two"]
    assert dead.count() == 3


def test_malformed_letters_are_moved_to_a_file_corrected_and_sent(
    gateway: StartGateway, dead: DeadQueue, tmp_path: Path
) -> None:
    one = gateway(configuration(dead, "[127.0.0.0/8]"))
    client = Client()
    good = json.dumps(entry(client, "mended"))
    one.sns.publish(TopicArn=TOPIC, Message=good.replace('"Port"', "Port"))
    file = tmp_path / "letters.ndjson"
    until(dead.count, "the letter is in the queue")
    assert replay(one, dead) == NOTHING | {"Unusable": 1}
    assert replay(one, dead, "--reason", "MalformedMessage", "--to", file) == NOTHING | {"Moved": 1}
    assert dead.count() == 0
    letter = json.loads(file.read_text())
    assert (letter["Reason"], letter["Index"]) == ("MalformedMessage", None)
    file.write_text(json.dumps(letter | {"Entry": letter["Entry"].replace("Port", '"Port"')}) + "\n")
    words = [PROGRAM, "replay", file, "--api", one.api_url]
    done = run_program(words)
    assert (done.returncode, done.stdout) == (0, "1 sent\n"), done.stderr
    assert client.receive_data(1) == [b"mended"]


def test_a_letter_larger_than_a_queue_takes_is_cut_and_says_so(
    gateway: StartGateway, ministack: Ministack
) -> None:
    dead = DeadQueue(ministack, create=False)
    dead.create(MaximumMessageSize="262144")
    one = gateway(configuration(dead))
    with Client() as client:
        remote = client.remote
    one.post({"Data": "x" * 261_950, "Formatter": "utf8", "Remote": remote, "Note": "\uffff"})
    one.post(['"\x01' * 30_000])  # the text of this body is twice as long as a string of JSON
    entries = {}
    for body in dead.bodies(2):
        assert 262_100 < len(body.encode()) <= 262_144
        letter = json.loads(body)
        assert letter.keys() == FIELDS | {"EntryBytes"}
        entries[letter["Reason"]] = letter
    assert entries["PayloadTooLarge"]["Entry"].startswith('{"Data":"xxx')
    assert entries["PayloadTooLarge"]["EntryBytes"] > 261_950
    assert entries["MalformedMessage"]["Entry"].startswith('["\\"\\u0001')
    assert replay(one, dead) == NOTHING | {"Unusable": 2}


def test_letters_wait_for_a_queue_that_is_not_there_yet(gateway: StartGateway, ministack: Ministack) -> None:
    dead = DeadQueue(ministack, create=False)
    one = gateway(configuration(dead))
    event = one.event("DeadLetterFailed")
    assert event["Reason"] == "NoSuchQueue"
    assert dead.name in event["Detail"]
    with Client() as client:
        one.publish({"Messages": [entry(client, str(n)) for n in range(3)]})
    one.wait_for("SourceFailed", 3)
    assert one.metrics().value("dead_letters_waiting", queue=dead.arn) == 3
    dead.create()
    assert sorted(letter["Entry"]["Data"] for letter in dead.letters(3)) == ["0", "1", "2"]


def test_a_message_of_sns_is_not_acknowledged_before_its_dead_letters_are_kept(
    ministack: Ministack, topic: Topic, served: Served
) -> None:
    dead = DeadQueue(ministack, create=False)
    one = served(topic, ministack.url, source=f"    dead_letter_queue_arn: {dead.arn}")
    one.event("SourceSubscribed")
    client = Client()
    refused = {"Data": "AA==", "Remote": {"Address": "10.0.0.1", "Port": 9}}
    for number in range(20):
        topic.publish({"Messages": [entry(client, str(number)), refused | {"Id": f"refused-{number}"}]})
    one.wait_for("SourceFailed", 20)
    assert len(client.receive_data(20)) == 20
    assert topic.queue().in_flight() == 20
    one.kill()
    dead.create()
    one.start()
    wait_until_empty(topic.queue())
    letters = dead.letters(dead.count())
    assert {letter["Entry"]["Id"] for letter in letters} == {f"refused-{number}" for number in range(20)}
    assert {letter["Reason"] for letter in letters} == {"RemoteDenied"}


def test_what_could_not_be_kept_at_the_end_is_told_with_its_number(
    gateway: StartGateway, dead: DeadQueue
) -> None:
    dead.endpoint = f"http://127.0.0.1:{free_port()}"
    one = gateway(configuration(dead))
    with Client() as client:
        one.publish({"Messages": [entry(client, str(n)) for n in range(7)]})
    one.wait_for("SourceFailed", 7)
    assert one.event("DeadLetterFailed", Reason="Unavailable")["Detail"].startswith("dead letters cannot be")
    assert one.stop() == 0
    (event,) = one.named("DeadLetterFailed", Reason="Shutdown")
    assert event["Letters"] == 7
    assert "7 are lost" in event["Detail"]


def test_replay_says_what_is_wrong_with_the_queue(gateway: StartGateway, dead: DeadQueue) -> None:
    one = gateway(configuration(dead))
    arn, dead.arn = dead.arn, "arn:aws:sns:us-east-1:000000000000:topic"
    assert "is no queue" in run_replay(one, dead).stderr
    dead.arn = arn + "-gone"
    done = run_replay(one, dead)
    assert done.returncode == 1
    assert "the queue cannot be opened" in done.stderr
    assert "-gone" in done.stderr
    dead.arn = arn
    dead.put(json.dumps({"PacketSource": "replies", "Reason": "Expired", "Entry": {"Data": "AA=="}}))
    one.stop()
    done = run_replay(one, dead)
    assert done.returncode == 3, done.stderr
    assert dead.count() == 1
    assert "Traceback" not in done.stderr
