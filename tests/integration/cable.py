"""Two namespaces with a cable between them, and packets with any source address."""

import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness import TOPIC, Client, Netns, until

GATEWAY, GATEWAY6 = "10.7.0.1", "fd00:7::1"
NEIGHBOUR, NEIGHBOUR6 = "10.7.0.2", "fd00:7::2"
PORT = 2048


def echo_config(networks: str, bind: str = f"[::]:{PORT}", more: str = "") -> str:
    """A Listener that answers and writes each packet, and its PacketSource `replies`; `more` goes into the Listener."""
    return f"""
listeners:
  - name: decoder
    bind: "{bind}"
    {more}
    destinations:
      - {{ name: echo, destination_arn: "function:echo.py:handler", batching: {{ count: 1 }} }}
      - {{ name: packets, destination_arn: "file:packets.ndjson", batching: {{ count: 1 }} }}
packet_sources:
  - name: replies
    listener_name: decoder
    egress_networks: {networks}
    sns_topic_source: {{ topic_arn: "{TOPIC}" }}
"""


def link_local(place: Netns, interface: str = "cable") -> str:
    """The link-local address of an interface, once it can be used."""

    def usable() -> str:
        lines = place.run(Path("/proc/thread-self/net/if_inet6").read_text).splitlines()
        for digits, _, _, _, flags, name in map(str.split, lines):
            tentative = int(flags, 16) & 0x40  # IFA_F_TENTATIVE
            if digits.startswith("fe80") and name == interface and not tentative:
                return socket.inet_ntop(socket.AF_INET6, bytes.fromhex(digits))
        return ""

    found: str = until(usable, "the link-local address is usable")
    return found


@dataclass(frozen=True)
class Cable:
    """A gateway's namespace and a neighbour's. All that the gateway sends anywhere goes to the neighbour."""

    gateway: Netns
    neighbour: Netns

    def client(self, host: str) -> Client:
        return Client(host, place=self.neighbour)

    def forge(self, source: str, payload: bytes, port: int = 4000) -> None:
        """One UDP datagram "from" `source`, by the cable."""
        family = socket.AF_INET6 if ":" in source else socket.AF_INET
        to = GATEWAY6 if ":" in source else GATEWAY
        packet = udp_packet(source, port, to, PORT, payload)
        raw = self.neighbour.run(lambda: socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW))
        with raw:
            raw.sendto(packet, (to, 0))


def udp_packet(source: str, port: int, to: str, to_port: int, payload: bytes) -> bytes:
    """An IP packet with UDP (RFC 791, RFC 8200, RFC 768)."""
    v6 = ":" in source
    family = socket.AF_INET6 if v6 else socket.AF_INET
    addresses = socket.inet_pton(family, source) + socket.inet_pton(family, to)
    length = 8 + len(payload)
    head = struct.pack(">HHH", port, to_port, length)
    pseudo = addresses + struct.pack(">IxxxB", length, socket.IPPROTO_UDP)
    udp = head + struct.pack(">H", _checksum(pseudo + head + b"\0\0" + payload)) + payload
    if v6:
        return struct.pack(">IHBB", 6 << 28, length, socket.IPPROTO_UDP, 64) + addresses + udp
    start = struct.pack(">BBHHHBBH", 0x45, 0, 20 + length, 0, 0, 64, socket.IPPROTO_UDP, 0) + addresses
    return start[:10] + struct.pack(">H", _checksum(start)) + start[12:] + udp


def _checksum(data: bytes) -> int:
    words = struct.unpack(f">{(len(data) + 1) // 2}H", data + bytes(len(data) % 2))
    total = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF or 0xFFFF


@contextmanager
def laid_cable() -> Iterator[Cable]:
    """A cable for the length of the block; the test is skipped where there can be none."""
    missing = Netns.missing()
    if missing:
        pytest.skip(missing)
    with ExitStack() as stack:
        sides = Cable(Netns(), Netns())
        stack.callback(sides.gateway.close)
        stack.callback(sides.neighbour.close)
        sides.gateway.ip(
            "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", sides.neighbour.name
        )
        for side, v4, v6 in (
            (sides.gateway, GATEWAY, GATEWAY6),
            (sides.neighbour, NEIGHBOUR, NEIGHBOUR6),
        ):
            side.ip("link", "set", "cable", "up")
            side.ip("address", "add", f"{v4}/24", "brd", "+", "dev", "cable")
            side.ip("address", "add", f"{v6}/64", "dev", "cable", "nodad")
        sides.gateway.ip("route", "add", "default", "via", NEIGHBOUR)
        sides.gateway.ip("-6", "route", "add", "default", "via", NEIGHBOUR6)
        yield sides
