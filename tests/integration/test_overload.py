"""More than a Destination takes, and more than a receive buffer holds: what is refused, and what is said about it."""

import os
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
from flood import RUN, Segmenter, check_accounts
from harness import HOST, Gateway, Host, Metrics, Process, until

from conftest import StartGateway

STUCK = """\
import time


def handler(event, context):
    time.sleep(3600)
"""

pytestmark = pytest.mark.attack


def listener(destinations: str) -> str:
    return f"listeners:\n  - name: decoder\n    bind: 127.0.0.1\n    destinations:\n{destinations}"


FILE = "      - { name: file, destination_arn: 'file:packets.ndjson' }\n"
FUNCTION = """\
      - name: stuck
        destination_arn: function:stuck.py:handler
        batching: { count: 100, timeout_in_seconds: 1 }
        arguments: { TimeoutInSeconds: 900, Concurrency: 1 }
"""


def flood_until_refused(one: Gateway, sender: Segmenter) -> None:
    """Send until a Destination that takes nothing has most packets refused before they are put into batches."""
    for _ in range(100):
        before = one.metrics().value("destination_batches", destination="stuck")
        sender.send(4_000)

        def arrived() -> bool:
            metrics = one.metrics()
            received = metrics.value("received_packets") + metrics.value("kernel_dropped_packets")
            return received >= sender.sent * 0.95

        until(arrived, "the gateway has read what was sent")
        made = one.metrics().value("destination_batches", destination="stuck") - before
        if made < 20 and one.metrics().value("destination_dropped_packets", destination="stuck"):
            return
    pytest.fail("packets for a full queue are still rendered")


def test_a_full_destination_is_refused_packets_before_they_are_rendered(gateway: StartGateway) -> None:
    one = gateway(listener(FUNCTION), {"stuck": STUCK})
    with Segmenter(one.address()) as sender:
        flood_until_refused(one, sender)
    assert check_accounts(one, ["stuck"])["stuck"] > 0


def test_the_other_destination_of_a_full_one_gets_every_packet(gateway: StartGateway) -> None:
    one = gateway(listener(FUNCTION + FILE), {"stuck": STUCK})
    with Segmenter(one.address()) as sender:
        flood_until_refused(one, sender)
    dropped = check_accounts(one, ["stuck", "file"])
    assert dropped["stuck"] > 0
    assert dropped["file"] == 0


HELD = """\
import time
from pathlib import Path


def handler(event, context):
    while Path("{hold}").exists():
        time.sleep(0.01)
"""


def at_rest(one: Gateway, received: int) -> Metrics:
    """Once it has received so many packets, and every one has ended."""

    def ended() -> Metrics | None:
        metrics = one.metrics()
        delivered, dropped = (
            metrics.value(f"{name}_packets") for name in ("delivery", "destination_dropped")
        )
        now = metrics.value("received_packets")
        return metrics if now >= received and delivered + dropped == now else None

    return until(ended, "every packet has ended")


def test_what_comes_after_an_overload_is_delivered(gateway: StartGateway, tmp_path: Path) -> None:
    hold = tmp_path / "hold"
    hold.touch()
    destination = FUNCTION.replace("timeout_in_seconds: 1 ", "timeout_in_seconds: 0.05 ")
    one = gateway(listener(destination), {"stuck": HELD.format(hold=hold)})
    with Segmenter(one.address()) as sender:
        flood_until_refused(one, sender)
        hold.unlink()
        received = at_rest(one, 1).value("received_packets")
        wholly = 0
        for _ in range(100):  # a slow machine may need some before the Destination is believed to keep up
            before = at_rest(one, received).value("delivery_packets")
            sender.send(RUN)
            received += RUN
            wholly = wholly + 1 if at_rest(one, received).value("delivery_packets") - before == RUN else 0
            if wholly == 5:
                break
    assert wholly == 5
    check_accounts(one, ["stuck"])


def standing_still(process: Process) -> bool:
    tasks = Path(f"/proc/{process.pid}/task").iterdir()
    return all((task / "stat").read_text().rpartition(")")[2].split()[0] == "T" for task in tasks)


def overflow(one: Gateway, sender: Segmenter, datagrams: int) -> None:
    """Send while the gateway cannot read."""
    one.process.signal(signal.SIGSTOP)
    until(lambda: standing_still(one.process), "every thread of the gateway stands still")
    sender.send(datagrams)
    one.process.signal(signal.SIGCONT)


def test_coalesced_datagrams_that_the_kernel_drops_are_counted_and_told(gateway: StartGateway) -> None:
    one = gateway(listener(FILE))
    with Segmenter(one.address()) as sender:
        overflow(one, sender, 30_000)  # 36 MB
        told = until(lambda: one.named("KernelDropped"), "the drops are told")[0]
    metrics = one.metrics()
    received, dropped = metrics.value("received_packets"), metrics.value("kernel_dropped_packets")
    lost = sender.sent - received
    assert lost > 0
    assert lost / 1.1 <= dropped <= lost * 1.1
    assert (told["Listener"], told["Reason"], told["Packets"]) == ("decoder", "ReceiveBufferFull", dropped)
    assert "estimate" in told["Detail"]
    assert one.stop() == 0
    assert one.event("ListenerStopped")["Totals"]["KernelDrops"] == dropped


def test_what_is_dropped_just_before_the_end_is_told(gateway: StartGateway) -> None:
    one = gateway(listener(FILE))
    with Segmenter(one.address()) as sender:
        overflow(one, sender, 30_000)
    assert one.stop() == 0
    told = sum(event["Packets"] for event in one.named("KernelDropped"))
    totals = one.event("ListenerStopped")["Totals"]
    assert told == totals["KernelDrops"] > 0


class Unprivileged(Host):
    """Without CAP_NET_ADMIN, as a container is started."""

    def inside(self, command: Sequence[str | Path]) -> Sequence[str | Path]:
        return ["setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin", "--", *command]


def rmem_max() -> int:
    return int(Path("/proc/sys/net/core/rmem_max").read_text())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has capabilities to give up")
def test_a_smaller_receive_buffer_than_asked_for_is_told_once(gateway: StartGateway) -> None:
    asked = 8 << 20
    if rmem_max() >= asked:
        pytest.skip("this machine's net.core.rmem_max is large enough")
    two = listener(FILE) + listener(FILE).split("\n", 1)[1].replace("decoder", "second").replace(
        "packets.", "second."
    )
    one = gateway(two, place=Unprivileged())
    [told] = one.named("ReceiveBufferLimited")
    assert (told["Asked"], told["Given"]) == (asked, rmem_max())
    assert f"net.core.rmem_max={asked}" in told["Detail"]
    assert one.metrics().value("receive_buffer_bytes", listener="second") == rmem_max()


@pytest.mark.skipif(os.geteuid() != 0, reason="SO_RCVBUFFORCE needs CAP_NET_ADMIN")
def test_whoever_may_force_the_receive_buffer_gets_it_whole(gateway: StartGateway) -> None:
    one = gateway(listener(FILE), place=HOST)
    assert one.metrics().value("receive_buffer_bytes") == 8 << 20
    assert one.named("ReceiveBufferLimited") == []
