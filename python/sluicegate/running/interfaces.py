"""Interfaces of this machine, as users name them: by name, by index, or by one of their addresses."""

import fcntl
import ipaddress
import socket
import struct
from contextlib import suppress
from pathlib import Path

SIOCGIFADDR = 0x8915  # linux/sockios.h
IFREQ = "16s24x"  # linux/if.h
ADDRESS = slice(20, 24)


def index_of(interface: str) -> int | None:
    """The index of an interface; None if this machine has none of this name, index or address. Blocks."""
    with suppress(OSError):
        return socket.if_nametoindex(interface)
    present = dict(socket.if_nameindex())
    if interface.isascii() and interface.isdecimal():
        return int(interface) if int(interface) in present else None
    try:
        address = ipaddress.ip_address(interface.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        return _with_v6(address)
    return next((index for index, name in present.items() if _v4_of(name) == address), None)


def names() -> str:
    """The interfaces of this machine, for a sentence."""
    return ", ".join(name for _, name in socket.if_nameindex())


def _with_v6(address: ipaddress.IPv6Address) -> int | None:
    with suppress(OSError):
        for line in Path("/proc/net/if_inet6").read_text().splitlines():
            digits, index, *_ = line.split()
            if int(digits, 16) == int(address):
                return int(index, 16)
    return None


def _v4_of(name: str) -> ipaddress.IPv4Address | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked, suppress(OSError):
        answer = fcntl.ioctl(asked, SIOCGIFADDR, struct.pack(IFREQ, name.encode()))
        return ipaddress.IPv4Address(answer[ADDRESS])
    return None
