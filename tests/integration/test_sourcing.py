"""The rules of sourcing, at a real gateway (contract sections 1.3, 4.1, 4.3, 4.5)."""

import json
import signal
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from harness import PROGRAM, Client, Gateway, run_program, source_of, until

from conftest import StartGateway

KEY = "D2ke7vUT1bwb0YjGpe6hqbSVOKBeqR0871LocHYlt0Y="
LISTENER = """
listeners:
  - name: decoder
    bind: 127.0.0.1
    destinations: [{ name: sink, destination_arn: "file:packets.ndjson" }]
"""


def source(extra: str) -> str:
    return f"{LISTENER}{source_of('decoder')}{extra}"


def entry(client: Client, text: str, **fields: Any) -> dict[str, Any]:
    return {"Data": text, "Formatter": "utf8", "Remote": client.remote, **fields}


def letters(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_bytes().splitlines() if line] if file.exists() else []


def replay(gateway: Gateway, file: Path, *options: str) -> dict[str, Any]:
    command: Sequence[str | Path] = [
        PROGRAM, "replay", file, "--api", gateway.api_url, "--output", "json", *options
    ]  # fmt: skip
    done = run_program(command)
    assert done.returncode in (0, 1), done.stderr
    counts: dict[str, Any] = json.loads(done.stdout)
    return counts


def test_ten_thousand_entries_behind_a_rate_limit(gateway: StartGateway) -> None:
    one = gateway(
        source(
            "    default_ttl_seconds: 1\n"
            "    rate_limit: { packets_per_second: 1000 }\n"
            "    dead_letter_queue_arn: file:dead.ndjson\n"
        )
    )
    client = Client()
    begun = time.monotonic()
    for start in range(0, 10_000, 1_000):
        one.publish({"Messages": [entry(client, f"{n:05}") for n in range(start, start + 1_000)]})
    spread = time.monotonic() - begun  # the last message may live so much longer than the first
    sent = 0

    def ended() -> bool:
        nonlocal sent
        metrics = one.metrics()
        sent = metrics.value("source_sent_packets")
        return sent + metrics.value("source_failed_entries") == 10_000

    received: list[str] = []

    def collected() -> bool:
        received.extend(data.decode() for data in client.waiting())  # or the socket's buffer would overflow
        return ended()

    until(collected, "each of 10,000 entries ended")
    received.extend(data.decode() for data in client.receive_data(sent - len(received)))
    assert received == sorted(received), "packets for one remote keep their order"
    # 1,000 a second for as long as a TTL lasts; fewer where the machine was busy, never more.
    assert 500 <= sent <= 1_000 * (1 + spread) + 1
    failed = Counter(one.metrics().by("reason", "source_failed_entries"))
    assert set(failed) <= {"RateLimited", "Expired"}
    assert sent + failed.total() == 10_000
    file = one.directory / "dead.ndjson"
    dead = letters(file)
    assert Counter(letter["Reason"] for letter in dead) == failed
    assert dead[0].keys() == {
        "PacketSource", "Listener", "MessageId", "Index", "Reason", "Detail", "At", "Entry"
    }  # fmt: skip

    # Replayed at a rate below the limit, each leaves once; by reason, in two goes.
    counts = replay(one, file, "--reason", "Nothing")
    assert counts == {"Replayed": 0, "Failed": 0, "Expired": 0, "NotAsked": len(dead), "Unusable": 0}
    assert len(letters(file)) == len(dead)
    some = letters(file)[:200]
    rest = letters(file)[200:]
    file.write_text("".join(json.dumps(letter) + "\n" for letter in some))
    (one.directory / "later.ndjson").write_text("".join(json.dumps(letter) + "\n" for letter in rest))
    counts = replay(one, file, "--rate", "500")
    assert counts["Replayed"] == 200
    again = [client.socket.recv(100).decode() for _ in range(200)]
    assert again == [letter["Entry"]["Data"] for letter in some]
    assert letters(file) == []


def test_replay_moves_each_letter_once_and_keeps_what_it_may_not_send(gateway: StartGateway) -> None:
    one = gateway(source("    dead_letter_queue_arn: file:dead.ndjson\n"))
    client = Client()
    one.post(
        {
            "Messages": [
                entry(client, "expired", ExpiresAt="2020-01-01T00:00:00Z"),
                {"Data": "AA==", "Remote": {"Address": "10.0.0.1", "Port": 9}},
                "not an object",
            ]
        }
    )
    file = one.directory / "dead.ndjson"
    assert [letter["Reason"] for letter in letters(file)] == ["Expired", "RemoteDenied", "MalformedMessage"]
    counts = replay(one, file)
    ended = {"Replayed": 0, "Failed": 1, "Expired": 1, "NotAsked": 0, "Unusable": 1}
    assert counts == ended | {"Reasons": {"RemoteDenied": 1}}
    again = [PROGRAM, "replay", file, "--api", one.api_url]
    said = run_program(again)
    assert (said.returncode, "1 failed again" in said.stdout) == (1, True)
    assert "RemoteDenied (1): 10.0.0.1 is a private address" in said.stderr
    assert Counter(letter["Reason"] for letter in letters(file)) == Counter(
        ["Expired", "RemoteDenied", "MalformedMessage"]
    )
    counts = replay(one, file, "--reason", "Expired", "--ignore-expiry")
    assert counts["Replayed"] == 1
    assert client.socket.recv(100) == b"expired"
    assert sorted(letter["Reason"] for letter in letters(file)) == ["MalformedMessage", "RemoteDenied"]


def test_a_publisher_that_retries_with_ids_across_a_restart(gateway: StartGateway) -> None:
    one = gateway(source(""))
    client = Client()
    ids = [f"fw-17/{n}" for n in range(60)]

    def publish(chosen: Sequence[str]) -> None:
        for start in range(0, len(chosen), 20):
            part = chosen[start : start + 20]
            one.publish({"Messages": [entry(client, name, Id=name) for name in part]})

    def ended() -> int:
        metrics = one.metrics()
        return metrics.value("source_sent_packets") + metrics.value("source_duplicates")

    for _ in range(3):
        publish(ids[:40])
    until(lambda: ended() == 120, "every entry ended")
    assert one.metrics().value("source_duplicates") == 80
    one.kill()
    one.start()
    for _ in range(3):
        publish(ids)
    until(lambda: ended() == 180, "every entry ended")
    received = [client.socket.recv(100).decode() for _ in range(60)]
    assert sorted(received) == sorted(ids)
    client.socket.settimeout(0.3)
    try:
        extra = client.socket.recv(100)
    except TimeoutError:
        extra = None
    assert extra is None, "each arrives once"


@pytest.mark.parametrize("rate", [100, 1000])
def test_of_a_message_that_a_crash_interrupts_only_the_last_turn_is_sent_again(
    gateway: StartGateway, rate: int
) -> None:
    one = gateway(source(f"    rate_limit: {{ packets_per_second: {rate}, burst: 1 }}\n"))
    client = Client()
    ids = [f"fw-17/{n}" for n in range(2 * rate)]
    message = {"Messages": [entry(client, name, Id=name) for name in ids]}
    one.publish(message)
    received = client.receive_data(rate // 2)
    one.kill()
    received += client.waiting()
    assert len(received) < len(ids), "it was interrupted"
    one.start()
    one.publish(message)
    until(
        lambda: (
            one.metrics().value("source_duplicates") + one.metrics().value("source_sent_packets") == len(ids)
        ),
        "each entry ended",
    )
    sent = one.metrics().value("source_sent_packets")
    received += client.receive_data(sent)
    repeated = Counter(received).total() - len(ids)
    assert {data.decode() for data in received} == set(ids), "none is lost"
    # Between a packet and its line in the journal lies one turn of the event loop.
    assert repeated <= max(1, rate // 20), f"{repeated} were sent again"


def test_a_source_may_require_a_session(gateway: StartGateway) -> None:
    one = gateway(source("    require_session: true\n"))
    client = Client()
    assert one.post(entry(client, "x"))["Failures"][0]["Reason"] == "NoSession"
    client.socket.sendto(b"hi", one.address())
    until(lambda: one.metrics().value("received_packets") == 1, "the packet was received")
    assert one.post(entry(client, "x"))["Sent"] == 1
    assert client.socket.recv(100) == b"x"
    for remote in (client.remote | {"PeerKey": KEY}, {"PeerKey": KEY}):
        failure = one.post(entry(client, "x") | {"Remote": remote})["Failures"][0]
        assert (failure["Reason"], failure["Index"]) == ("UnknownPeer", 0), "a plain Listener has no peers"


def test_what_waits_for_its_pace_ends_with_the_gateway_and_is_kept(gateway: StartGateway) -> None:
    one = gateway(
        source(
            "    rate_limit: { packets_per_second: 0.01 }\n"
            "    hold_seconds: 3600\n"
            "    dead_letter_queue_arn: file:d.ndjson\n"
        )
    )
    client = Client()
    one.publish({"Messages": [entry(client, str(n)) for n in range(3)]})
    assert client.socket.recv(100) == b"0"
    assert one.stop(signal.SIGTERM) == 0
    assert [letter["Entry"]["Data"] for letter in letters(one.directory / "d.ndjson")] == ["1", "2"]
    assert len(one.named("SourceFailed", Reason="SendFailed")) == 2
