"""WireGuard tunnels for benchmarks: a feeder with its peers, what it sends, and a flood that it has to bear."""

import contextlib
import hashlib
import os
import signal
import socket
import time
from base64 import b64decode
from collections.abc import Iterator
from typing import Any

from sluicegate import _native

from .gateway import free_port
from .processes import LOAD_CORE, TESTED_CORE, BenchError, Process, baseline, module, scratch, settle, sink
from .results import Sample

FLOOD_RATE = 20_000
FLOOD_ADDRESSES = 60_000
_MESSAGES = 4_096
_INITIATION = 148


class Tunnels:
    """Sessions with peers that have given way to the sink. `begun`: `rate` of the handshakes before, their `cpu` in us
    each, `memory` in bytes of a session, and the `port` of the feeder's Listener."""

    def __init__(
        self, feeder: Process, public_key: str, port: int, count: int, begun: dict[str, Any]
    ) -> None:
        self.begun = begun
        self.public_key = public_key
        self._feeder, self._port, self._count = feeder, port, count

    def feed(self) -> tuple[Sample, int]:
        """Sealed datagrams a second, and the cookies that were sent so far."""
        with sink(self._port, 1) as counter:
            os.kill(self._feeder.pid, signal.SIGUSR1)
            done = self._feeder.report()
            settle()
            seen = counter.stop()
        if done["failed"] or done["sent"] < self._count or seen["total"] < self._count * 0.5:
            raise BenchError(f"{self._count} to send, the sender reports {done}, the sink {seen}")
        seconds = max(seen["seconds"], done["seconds"])
        loss = max(0.0, 1 - seen["total"] / done["sent"])
        return Sample(seen["total"] / seconds, loss, done["cpu_seconds"] / done["sent"] * 1e6), done[
            "cookies"
        ]

    def busy(self, seconds: float) -> float:
        """The part of a core that it takes now."""
        used, begun = self._feeder.cpu_seconds(), time.monotonic()
        time.sleep(seconds)
        return (self._feeder.cpu_seconds() - used) / (time.monotonic() - begun)

    @contextlib.contextmanager
    def flooded(self) -> Iterator[None]:
        """Initiations with a valid mac1 arrive at the Listener, and nobody takes the answers."""
        key = hashlib.blake2s(b"mac1----" + b64decode(self.public_key)).digest()
        with scratch() as directory:
            file = directory / "flood"
            file.write_bytes(b"".join(_initiation(key) for _ in range(_MESSAGES)))
            arguments = self.begun["port"], file, _INITIATION, FLOOD_RATE, FLOOD_ADDRESSES
            with Process(baseline("flood", *arguments), LOAD_CORE) as flood:
                flood.wait_ready()
                settle()  # until the guard has noticed
                yield
                done = flood.stop()
        rate = done["sent"] / done["seconds"]
        if done["refused"] or rate < FLOOD_RATE * 0.95:
            raise BenchError(f"a flood of {FLOOD_RATE:,}/s became {rate:,.0f}/s: {done}")


@contextlib.contextmanager
def tunnels(peers: int, size: int, count: int) -> Iterator[Tunnels]:
    """A feeder of `count` datagrams for `peers`, each with a session that the feeder has begun."""
    port = free_port(socket.SOCK_DGRAM)
    private = _native.generate_private_key()
    public = _native.public_key(private)
    with scratch() as directory:
        keys = directory / "keys"
        with Process(module("wgpeers", port, peers, public, keys), LOAD_CORE) as others:
            others.wait_ready()
            command = module("wgfeeder", port, peers, size, count, private, keys)
            with Process(command, TESTED_CORE) as feeder:
                began = feeder.report()
                others.end()
                yield Tunnels(feeder, public, port, count, began)


def _initiation(mac1_key: bytes) -> bytes:
    """As far as anybody can tell who has not the private key: type, sender, noise, mac1, no cookie."""
    body = b"\x01\0\0\0" + os.urandom(_INITIATION - 36)
    return body + hashlib.blake2s(body, digest_size=16, key=mac1_key).digest() + bytes(16)
