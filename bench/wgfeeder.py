"""`python -m bench.wgfeeder PORT PEERS SIZE COUNT PRIVATE_KEY FILE`: what `bench.feeder` does, to WireGuard peers.

FILE has their public keys, one a line; each is at its loopback address at PORT. When all of them have a session it
prints what that took (of all but the first `FIRST`, which bring along what handshakes need besides), and where it
listens. Then it feeds at each SIGUSR1, and prints what became of it, until SIGTERM.
"""

import base64
import ctypes
import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

from sluicegate import _native

from .feeder import address_of, bodies_of, dataplane, feed, listener_spec

FIRST = 100


def main() -> None:
    port, peers, size, count = map(int, sys.argv[1:5])
    private, keys = sys.argv[5], Path(sys.argv[6]).read_text().split()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGTERM})
    plane = dataplane()
    known = [
        {"PublicKey": key, "Remote": f"{address_of(number, peers)}:{port}"} for number, key in enumerate(keys)
    ]
    tunnel = {"PrivateKey": private, "Peers": [{"PublicKey": key} for key in keys], "Known": known}
    listener = plane.open(json.dumps(listener_spec() | {"WireGuard": tunnel}))
    begin(plane, listener, keys[:FIRST])
    memory, start = allocated(), time.monotonic()
    used = begin(plane, listener, keys[FIRST:])
    others = peers - FIRST
    begun = {
        "rate": others / (time.monotonic() - start),
        "cpu": used / others * 1e6,
        "memory": (allocated() - memory) / others,
        "port": listener.local_address[1],
    }
    bodies = bodies_of(
        [
            entry_for(number.to_bytes(8, sys.byteorder).ljust(size, b"x"), keys[number % peers])
            for number in range(count)
        ]
    )
    print(json.dumps(begun), flush=True)
    while signal.sigwait({signal.SIGUSR1, signal.SIGTERM}) == signal.SIGUSR1:
        done = feed(plane, listener, bodies, count)
        print(json.dumps(done | {"cookies": counters(listener)["CookiesSent"]}), flush=True)
    listener.close(0.0)
    plane.close()


def begin(plane: _native.Dataplane, listener: _native.Port, keys: list[str]) -> float:
    """A packet to each, and with it a handshake; processor seconds."""
    done = feed(plane, listener, bodies_of([entry_for(b"hello", key) for key in keys]), len(keys))
    if done["failed"]:
        raise SystemExit(f"{done['failed']} of {len(keys)} peers have no session")
    return done["cpu_seconds"]


class _MallInfo(ctypes.Structure):
    """mallinfo(3): ten sizes; `mapped` is its hblkhd, `given` its uordblks."""

    _fields_ = [
        ("_before", ctypes.c_size_t * 4),
        ("mapped", ctypes.c_size_t),
        ("_between", ctypes.c_size_t * 2),
        ("given", ctypes.c_size_t),
        ("_behind", ctypes.c_size_t * 2),
    ]


def allocated() -> int:
    """Bytes that the allocator (glibc's) has given out, to the byte: pages and what was freed do not count."""
    ask = ctypes.CDLL(None).mallinfo2
    ask.restype = _MallInfo
    found = ask()
    return int(found.given + found.mapped)


def entry_for(data: bytes, key: str) -> str:
    """A sourced packet for a peer."""
    return f'{{"Data":"{base64.b64encode(data).decode()}","Remote":{{"PeerKey":"{key}"}}}}'


def counters(listener: _native.Port) -> dict[str, Any]:
    """What a Listener's tunnels have counted."""
    found: dict[str, Any] = json.loads(listener.stats())["WireGuard"]
    return found


if __name__ == "__main__":
    main()
