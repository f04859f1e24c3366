"""One payload, many remotes (contract section 4.1), through a running gateway."""

import base64
import json
import os
import socket
import threading
from collections import Counter
from ipaddress import IPv4Address
from typing import Any

import pytest
from harness import PROGRAM, TOPIC, Client, Gateway, records, run_program, source_of, until

from conftest import StartGateway

PAYLOAD = os.urandom(1_200)
FIRST = int(IPv4Address("127.64.0.0"))
COUNT = 5_000
SNS_BYTES = 256 << 10
LISTENER = """
listeners:
  - { name: decoder, bind: "127.0.0.1:0" }
"""


def source(more: str = "") -> str:
    return LISTENER + source_of("decoder") + more


IP_PKTINFO = 8  # linux/in.h


class Addresses:
    """Every address of 127.0.0.0/8 at one port; tells who was sent to."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self.socket.bind(("0.0.0.0", 0))
        self.port = self.socket.getsockname()[1]
        self.received: list[int] = []
        """The numbers of the remotes that got the payload, as they came."""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def remotes(self, count: int) -> list[dict[str, Any]]:
        return [{"IP": str(IPv4Address(FIRST + number)), "Port": self.port} for number in range(count)]

    def wait(self, count: int) -> None:
        until(lambda: len(self.received) >= count, f"{count} packets arrive")

    def _read(self) -> None:
        while True:
            data, control, _, _ = self.socket.recvmsg(2_048, 64)
            if data == PAYLOAD:
                self.received.append(int.from_bytes(control[0][2][8:12], "big") - FIRST)
            elif data == b"end":
                return

    def __enter__(self) -> "Addresses":
        return self

    def __exit__(self, *exc: object) -> None:
        self.socket.sendto(b"end", ("127.0.0.1", self.port))
        self._reader.join()
        self.socket.close()


def message(remotes: list[Any], **fields: Any) -> dict[str, Any]:
    return {"Data": base64.b64encode(PAYLOAD).decode(), "Remotes": remotes, **fields}


def publish(one: Gateway, body: dict[str, Any]) -> None:
    text = json.dumps(body, separators=(",", ":"))
    assert len(text) <= SNS_BYTES
    one.sns.publish(TopicArn=TOPIC, Message=text)


def test_thousands_of_remotes_by_one_publish_and_the_bad_ones_fail_alone(gateway: StartGateway) -> None:
    pace = "    rate_limit: { packets_per_second: 20000 }\n"
    one = gateway(source(pace + "    dead_letter_queue_arn: file:dead.ndjson\n"))
    with Addresses() as addresses:
        remotes: list[Any] = addresses.remotes(COUNT)
        good = dict(enumerate(remotes))
        bad = {17: None, 2_500: {"IP": "10.0.0.1", "Port": 9}, 4_999: {"Tag": "no"}}
        for place, wrong in bad.items():
            remotes[place] = wrong
        publish(one, message(remotes, Id="fw-18"))
        addresses.wait(COUNT - 3)
        assert sorted(addresses.received) == sorted(good.keys() - bad.keys())
        failed = one.wait_for("SourceFailed", 3)
        assert {(event["Index"], event["RemoteIndex"], event["Reason"]) for event in failed} == {
            (0, 17, "MalformedRemote"),
            (0, 2_500, "RemoteDenied"),
            (0, 4_999, "InvalidTag"),
        }
        metrics = one.metrics()
        assert metrics.value("source_entries") == COUNT
        assert metrics.value("source_sent_packets") == COUNT - 3
        assert metrics.by("reason", "source_failed_entries") == {
            "MalformedRemote": 1,
            "RemoteDenied": 1,
            "InvalidTag": 1,
        }
        until(lambda: len(records(one.directory / "dead.ndjson")) == 3, "each reason has a letter")
        letters = records(one.directory / "dead.ndjson")
        assert {tuple(letter["RemoteIndexes"]): letter["Entry"]["Remotes"] for letter in letters} == {
            (place,): [wrong] for place, wrong in bad.items()
        }


def test_of_remotes_that_a_crash_interrupts_only_the_last_turn_is_sent_again(gateway: StartGateway) -> None:
    rate = 1_000
    one = gateway(source(f"    rate_limit: {{ packets_per_second: {rate}, burst: 1 }}\n"))
    with Addresses() as addresses:
        body = message(addresses.remotes(COUNT), Id="fw-18")
        publish(one, body)
        addresses.wait(COUNT // 5)
        one.kill()
        assert len(addresses.received) < COUNT // 2, "it was interrupted"
        one.edit(f"packets_per_second: {rate}", "packets_per_second: 20000")
        one.start()
        publish(one, body)
        until(
            lambda: (
                one.metrics().value("source_duplicates") + one.metrics().value("source_sent_packets") == COUNT
            ),
            "each remote ended",
        )
        until(lambda: set(addresses.received) == set(range(COUNT)), "none is lost")
        times = Counter(addresses.received)
        assert max(times.values()) <= 2
        # Between a packet and its line in the journal lies one turn of the event loop.
        assert times.total() - COUNT <= rate // 20
        rest = message(addresses.remotes(COUNT)[-3:], Id="fw-18")
        assert one.post(rest)["Duplicates"] == 3


@pytest.mark.attack
def test_letters_of_thousands_of_unreachable_remotes_are_short_and_can_be_replayed(
    gateway: StartGateway,
) -> None:
    one = gateway(
        source("    dead_letter_queue_arn: file:dead.ndjson\n").replace(
            "127.0.0.0/8", "127.0.0.0/8, 2001:db8::/32"
        )
    )
    dead = one.directory / "dead.ndjson"
    with Client() as client:
        remotes = [{"IP": f"2001:db8::{number:x}", "Port": 5683} for number in range(COUNT)]
        publish(one, message(remotes))
        until(lambda: one.metrics().value("dead_letters_kept") == COUNT, "every letter is written")
        assert dead.stat().st_size <= 1 << 20
        letters = records(dead)
        assert {letter["Reason"] for letter in letters} == {"RemoteUnreachable"}
        assert [place for letter in letters for place in letter["RemoteIndexes"]] == list(range(COUNT))
        assert [one for letter in letters for one in letter["Entry"]["Remotes"]] == remotes

        letters[0]["Entry"]["Remotes"][1] = client.remote
        dead.write_text("".join(json.dumps(letter) + "\n" for letter in letters))
        done = run_program([PROGRAM, "replay", dead, "--api", one.api_url])
        assert client.receive_data(1) == [PAYLOAD], done
        until(lambda: one.metrics().value("dead_letters_kept") == 2 * COUNT - 1, "the others come back")
        again = [place for letter in records(dead) for place in letter["Entry"]["Remotes"]]
        assert again == [remotes[0], *remotes[2:]]


def test_each_way_in_takes_remotes(gateway: StartGateway) -> None:
    one = gateway(source())
    with Client() as first, Client() as second:
        answer = one.post({"Data": "AQ==", "Remotes": [first.remote, None, second.remote]})
        (failure,) = answer["Failures"]
        assert (answer["Entries"], answer["Sent"]) == (3, 2)
        assert (failure["Index"], failure["RemoteIndex"], failure["Reason"]) == (0, 1, "MalformedRemote")
        assert first.receive_data(1) == second.receive_data(1) == [b"\1"]
        command = [PROGRAM, "send", "--api", one.api_url, "--hex", "02"]
        for client in (first, second):
            command += ["--to", "{}:{}".format(*client.address)]
        done = run_program(command, check=True)
        assert done.stdout.startswith("sent 2 of 2")
        assert first.receive_data(1) == second.receive_data(1) == [b"\2"]
