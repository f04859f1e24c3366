"""More than the gateway can take, in and out: memory stays bounded, and every packet is accounted for.

A few seconds by default; SLUICEGATE_FLOOD_SECONDS=60 for a long run. The bounds are those of `gateway.py`.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from harness import Client, Gateway, Metrics, until

from conftest import StartGateway
from sluicegate import _native
from sluicegate.running.spec import DESTINATION_QUEUE_BYTES, RING_BYTES

SECONDS = float(os.environ.get("SLUICEGATE_FLOOD_SECONDS", "3"))
RESIDENT_AT_REST = 120 << 20  # interpreter, libraries, session table

STUCK = """
import time

def handler(event, context):
    time.sleep(3600)
"""

FLOOD = """
import socket, sys, time
address, port, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.connect((address, port))
payload, sent, until = b"x" * 200, 0, time.monotonic() + seconds
while time.monotonic() < until:
    for _ in range(1000):
        sock.send(payload)
    sent += 1000
print(sent)
"""


def resident(pid: int) -> int:
    """Bytes of physical memory that a process holds."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) << 10
    raise AssertionError("no VmRSS")


def settled(gateway: Gateway) -> Metrics:
    """The counters, once two looks at them are alike."""
    seen: list[str] = [""]

    def unchanged() -> bool:
        now = gateway.metrics()
        shown = str([now.value("received_packets"), now.value("destination_delivered_packets")])
        same = shown == seen[0]
        seen[0] = shown
        time.sleep(0.2)
        return same

    until(unchanged, "the flood has been worked off")
    return gateway.metrics()


def test_a_flood_with_one_destination_stopped(gateway: StartGateway) -> None:
    one = gateway(
        """
listeners:
  - name: decoder
    bind: 127.0.0.1
    destinations:
      - name: fast
        destination_arn: file:packets.ndjson
        batching: { count: 1000, timeout_in_seconds: 0.05 }
      - name: stuck
        destination_arn: function:stuck.py:handler
        batching: { count: 1000, timeout_in_seconds: 0.05 }
        arguments: { TimeoutInSeconds: 900, Concurrency: 1 }
""",
        {"stuck": STUCK},
    )
    address, port = one.address()
    flood = subprocess.Popen(
        [sys.executable, "-c", FLOOD, address, str(port), str(SECONDS)], stdout=subprocess.PIPE, text=True
    )
    try:
        largest = 0
        while flood.poll() is None:
            largest = max(largest, resident(one.process.pid))
            time.sleep(0.05)
        assert flood.stdout is not None
        sent = int(flood.stdout.read())
    finally:
        flood.kill()
        flood.wait()
    metrics = settled(one)
    received, lost = metrics.value("received_packets"), metrics.value("kernel_dropped_packets")
    assert sent == received + lost, "every packet was received, or counted by the kernel"

    # One queue may be full; the other one's batches leave as they come. Each may hold a batch beyond its bound.
    bound = RESIDENT_AT_REST + RING_BYTES + 2 * DESTINATION_QUEUE_BYTES
    assert largest < bound, f"{largest >> 20} MiB resident"

    assert one.stop(signal.SIGTERM) == 0
    totals = one.event("ListenerStopped")["Totals"]
    assert totals["ReceivedPackets"] == received
    for destination in totals["Destinations"]:
        delivery = one.event("ListenerStopped")["Deliveries"][destination["Name"]]
        dropped = sum(destination["Dropped"].values())
        assert destination["Packets"] == received
        assert received == delivery["PacketsDelivered"] + delivery["PacketsFailed"] + dropped
        assert destination["QueuedPackets"] == 0
    deliveries = one.event("ListenerStopped")["Deliveries"]
    assert deliveries["stuck"]["PacketsDelivered"] == 0
    with (one.directory / "packets.ndjson").open("rb") as lines:
        assert sum(1 for _ in lines) == deliveries["fast"]["PacketsDelivered"]


def test_ten_times_more_to_send_than_can_leave() -> None:
    dataplane = _native.Dataplane(
        json.dumps(
            {
                "Node": 1,
                "Region": "us-east-1",
                "TagKeys": [{"Id": 0, "Key": _native.format_tag_key()}],
                "TagSeconds": 60,
            }
        )
    )
    port = dataplane.open(
        json.dumps(
            {
                "Id": 1,
                "Name": "decoder",
                "Domain": "ingress-1",
                "Bind": "127.0.0.1:0",
                "ClientNetworks": ["0.0.0.0/0"],
                "SessionIdleSeconds": 300,
                "SessionLimit": 1000,
                "RingBytes": RING_BYTES,
                "Sources": [
                    {
                        "Name": "replies",
                        "EgressNetworks": ["127.0.0.0/8"],
                        "HoldSeconds": 60,
                        "DedupSeconds": 600,
                        "DedupLimit": 1000,
                    }
                ],
            }
        )
    )
    with Client() as client:
        entry = {"Data": "eHh4eA==", "Remote": {"IP": client.address[0], "Port": client.address[1]}}
        count = 3_000
        body = json.dumps({"Messages": [entry] * count}).encode()
        before = resident(os.getpid())
        offered = taken = ended = sent = failed = 0
        largest = before
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline or offered < 10 * taken:
            offered += 1
            taken += port.submit([(str(offered), None, 0, body, None)])
            if offered % 100 == 0:
                for completion in port.completions():
                    assert completion.entries == completion.sent + len(completion.failures) == count
                    ended, sent = ended + 1, sent + completion.sent
                    failed += len(completion.failures)
                largest = max(largest, resident(os.getpid()))
        port.close(60.0)
        for completion in port.completions():
            ended, sent = ended + 1, sent + completion.sent
            failed += len(completion.failures)
    dataplane.close()
    assert offered >= 10 * taken
    assert ended == taken
    assert sent + failed == taken * count
    # What waits as text, and what is parsed: at most one message's entries and a queue.
    assert largest - before < 2 * RING_BYTES, f"{(largest - before) >> 20} MiB more than at rest"
