"""More packets than a gateway's Destinations take, and what becomes of each."""

import signal
import socket
from collections.abc import Sequence

from harness import Gateway

SIZE, RUN = 1_200, 50  # bytes of a datagram, datagrams of one call
UDP_SEGMENT = 103  # linux/udp.h


class Segmenter:
    """Sends runs of datagrams that the kernel hands over as one buffer each (UDP_SEGMENT)."""

    def __init__(self, to: tuple[str, int]) -> None:
        self.sent = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, SIZE)
        self._socket.connect(to)

    def send(self, datagrams: int) -> None:
        for _ in range(datagrams // RUN):
            self._socket.send(bytes(SIZE * RUN))
            self.sent += RUN

    def __enter__(self) -> "Segmenter":
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.close()


def check_accounts(one: Gateway, names: Sequence[str]) -> dict[str, int]:
    """Stop it; every packet that it received is delivered, given up or dropped. What each Destination dropped."""
    assert one.stop(signal.SIGTERM) == 0
    stopped = one.event("ListenerStopped")
    totals, deliveries = stopped["Totals"], stopped["Deliveries"]
    dropped = {}
    for destination in totals["Destinations"]:
        name = destination["Name"]
        dropped[name] = destination["Dropped"].get("QueueFull", 0)
        ended = deliveries[name]["PacketsDelivered"] + deliveries[name]["PacketsFailed"]
        assert destination["Packets"] == totals["ReceivedPackets"] == ended + dropped[name]
    assert list(dropped) == list(names)
    return dropped
