"""Adaptive batching, `timeout_in_seconds: 0`: a lone packet waits for nothing, and what waits forms one batch."""

from pathlib import Path

import pytest
from harness import Client, Gateway, wait_for_records

from waiting import wait_until

HANDLER = """
import json, os, time

def handler(event, context):
    with open("batches.ndjson", "a") as file:
        file.write(json.dumps([packet["Data"] for packet in event["Messages"]]) + "\\n")
    while not os.path.exists("go-on"):
        time.sleep(0.01)
    return {"Replies": event["Messages"]}
"""


def gateway_of(folder: Path, batching: str, formatter: str = "utf8") -> Gateway:
    text = (
        "listeners:\n  - name: adaptive\n    bind: 127.0.0.1\n    destinations:\n"
        f"      - {{ name: slow, formatter: {formatter}, destination_arn: 'function:slow.py:handler', "
        f"batching: {{ {batching} }}, arguments: {{ Concurrency: 1 }} }}\n"
    )
    return Gateway(folder, text, {"slow": HANDLER})


@pytest.mark.parametrize("count", [100, 1_000])
def test_what_waits_for_the_only_worker_is_one_batch(tmp_path: Path, count: int) -> None:
    gateway = gateway_of(tmp_path, f"timeout_in_seconds: 0, count: {count}").start()
    batches = tmp_path / "batches.ndjson"
    try:
        with Client() as client:
            client.send(b"first", gateway.address("adaptive"))
            wait_for_records(batches, 1)
            for number in range(250):
                client.send(b"%d" % number, gateway.address("adaptive"))
            wait_until(
                lambda: gateway.metrics().value("destination_queued_packets", destination="slow") == 250,
                "all to wait",
            )
            (tmp_path / "go-on").touch()
            expected = [
                [str(n) for n in range(start, min(start + count, 250))] for start in range(0, 250, count)
            ]
            assert wait_for_records(batches, 1 + len(expected)) == [["first"], *expected]
            answers = client.receive_data(251)
        assert answers == [b"first", *(b"%d" % number for number in range(250))]
        assert gateway.metrics().value("destination_batches", destination="slow") == 1 + len(expected)
        assert gateway.metrics().value("delivery_batches", destination="slow") == 1 + len(expected)
    finally:
        gateway.close()


def test_a_trickle_is_delivered_one_by_one(tmp_path: Path) -> None:
    (tmp_path / "go-on").touch()
    gateway = gateway_of(tmp_path, "timeout_in_seconds: 0").start()
    try:
        with Client() as client:
            for number in range(20):
                client.send(b"%d" % number, gateway.address("adaptive"))
                assert client.receive()[0] == b"%d" % number
        assert wait_for_records(tmp_path / "batches.ndjson", 20) == [[str(number)] for number in range(20)]
    finally:
        gateway.close()


def test_a_batch_stays_below_its_size(tmp_path: Path) -> None:
    gateway = gateway_of(tmp_path, "timeout_in_seconds: 0, size_in_mb: 0.02, count: 1000").start()
    batches = tmp_path / "batches.ndjson"
    try:
        with Client() as client:
            client.send(b"first", gateway.address("adaptive"))
            wait_for_records(batches, 1)
            for _ in range(30):
                client.send(b"x" * 1_000, gateway.address("adaptive"))
            wait_until(
                lambda: gateway.metrics().value("destination_queued_packets", destination="slow") == 30,
                "all to wait",
            )
            (tmp_path / "go-on").touch()
            client.receive_data(31)
        sizes = [len(batch) for batch in wait_for_records(batches, 2)]
        # A packet takes 1,000 characters and about 350 more; 0.02 MB are 20,971 bytes.
        assert sum(sizes) == 31
        assert max(sizes) <= 20
        assert len(sizes) <= 5
    finally:
        gateway.close()
