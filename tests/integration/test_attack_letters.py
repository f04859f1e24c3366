"""Dead letters under attack: messages of many failures, a lock that is held, a pipe in place of the file."""

import fcntl
import json
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from harness import PROGRAM, Client, Gateway, records, run_program, source_of, until

from conftest import StartGateway

pytestmark = pytest.mark.attack

LETTERS = (
    """
listeners:
  - { name: decoder, bind: "127.0.0.1:0" }
"""
    + source_of("decoder")
    + "    dead_letter_queue_arn: file:dead.ndjson\n"
)


def failed_entries(file: Path) -> list[tuple[str, int | None]]:
    """`(message, index)` of each entry that a letter is for."""
    return [
        (one["MessageId"], index) for one in records(file) for index in one.get("Indexes", [one.get("Index")])
    ]


def message(entry: str, count: int) -> bytes:
    return ('{"Messages":[' + ",".join([entry] * count) + "]}").encode()


def post(one: Gateway, body: bytes) -> dict[str, Any]:
    answer: dict[str, Any] = one.post(json.loads(body))
    return answer


def test_a_message_of_more_entries_than_can_be_is_one_failure(gateway: StartGateway) -> None:
    one = gateway(LETTERS)
    body = message("1", 131_000)
    answer = post(one, body)
    (failure,) = answer["Failures"]
    assert (failure["Index"], failure["Reason"]) == (None, "MalformedMessage")
    assert "131000 entries" in failure["Detail"]
    assert answer["Settled"]
    (letter,) = records(one.directory / "dead.ndjson")
    assert json.loads(letter["Entry"]) == json.loads(body)
    assert (one.directory / "dead.ndjson").stat().st_size < 1.5 * len(json.dumps(json.loads(body)))


@pytest.mark.parametrize("entry", ["1", "{}", '{"Tag":"x"}', '"\\ud800"'])
def test_many_failures_hold_nobody_up_and_fill_no_disk(gateway: StartGateway, entry: str) -> None:
    one = gateway(LETTERS)
    body = message(entry, 10_000)
    messages = 30
    with ThreadPoolExecutor(8) as publishers:
        for done in [
            publishers.submit(
                one.sns.publish, TopicArn="arn:aws:sns:us-east-1:000000000000:replies", Message=body.decode()
            )
            for _ in range(messages)
        ]:
            done.result()
        until(
            lambda: one.metrics().value("dead_letters_kept") == messages * 10_000, "every letter is written"
        )
    dead = one.directory / "dead.ndjson"
    found = failed_entries(dead)
    assert len(found) == len(set(found)) == messages * 10_000
    assert dead.stat().st_size < messages * (10 * len(body) + 65_536)
    assert not one.named("LoopBlocked")


def test_a_lock_that_somebody_holds_holds_up_letters_alone(gateway: StartGateway) -> None:
    one = gateway(LETTERS)
    dead = one.directory / "dead.ndjson"
    refused = {"Data": "AA==", "Remote": {"Address": "10.0.0.1", "Port": 9}}
    with Client() as client, dead.open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        one.publish({"Messages": [refused]})
        one.wait_for("SourceFailed", 1)
        sent = {"Data": "AQ==", "Remote": client.remote}
        for _ in range(20):
            one.publish(sent)
        assert client.receive_data(20) == [b"\1"] * 20
        told = one.event("DeadLetterFailed", Reason="WriteFailed")
        assert "another program holds its lock" in told["Detail"]
        assert one.post({"Messages": [refused, sent]})["Settled"] is False
        assert dead.read_bytes() == b""
        held.close()
        until(lambda: len(failed_entries(dead)) == 2, "the letters are written")
    assert not one.named("LoopBlocked")


def test_replay_does_not_wait_for_ever_for_a_lock(gateway: StartGateway) -> None:
    one = gateway(LETTERS)
    dead = one.directory / "dead.ndjson"
    with dead.open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = run_program([PROGRAM, "replay", dead, "--api", one.api_url])
    assert done.returncode == 1
    assert "another program holds its lock" in done.stderr


@pytest.mark.parametrize("what", ["letters", "events", "destination"])
@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_a_pipe_or_socket_in_place_of_a_file_is_refused_with_a_sentence(
    tmp_path: Path, what: str, kind: str
) -> None:
    if kind == "pipe":
        os.mkfifo(tmp_path / "dead.ndjson")
    else:
        socket.socket(socket.AF_UNIX).bind(str(tmp_path / "dead.ndjson"))
    text = {
        "letters": LETTERS,
        "events": LETTERS.replace("dead.ndjson", "x") + "events: { file: dead.ndjson }\n",
        "destination": LETTERS.replace("dead.ndjson", "x").replace(
            '"127.0.0.1:0" }', '"127.0.0.1:0", destinations: [{ destination_arn: "file:dead.ndjson" }] }'
        ),
    }[what]
    one = Gateway(tmp_path, text)
    process = one.spawn()
    try:
        assert process.wait() != 0
        assert "not a regular file" in process.stderr.text
    finally:
        one.close()
