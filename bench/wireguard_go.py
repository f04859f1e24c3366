"""wireguard-go moving the same datagrams: a C loop sends them into its interface, it seals them for the same peers.

All of it in a network namespace of its own. The loop runs beside the sink and not beside wireguard-go, and what its
interface's queue cannot hold is dropped there: the rate is that of what arrives.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

from sluicegate import _native

from .feeder import address_of
from .gateway import free_port
from .processes import (
    HANG_SECONDS,
    LOAD_CORE,
    TESTED_CORE,
    BenchError,
    Process,
    baseline,
    module,
    scratch,
    settle,
    sink,
)
from .results import Sample

NAME = f"wgbench{os.getpid()}"
FIRST_INNER = int(IPv4Address("10.64.0.0"))


def missing() -> str | None:
    """Why it cannot be measured here."""
    absent = [tool for tool in ("ip", "wg", "wireguard-go") if shutil.which(tool) is None]
    if absent:
        return f"there is no {', '.join(absent)}"
    if os.geteuid() != 0 or not Path("/dev/net/tun").exists():
        return "it needs root and /dev/net/tun"
    return None


def moved(peers: int, size: int, count: int) -> Sample:
    """What arrives of `count` datagrams."""
    port = free_port(socket.SOCK_DGRAM)
    private = _native.generate_private_key()
    with scratch() as directory, _namespace() as inside:
        keys = directory / "keys"
        ending = [*inside, *module("wgpeers", port, peers, _native.public_key(private), keys)]
        program = [*inside, "wireguard-go", "-f", NAME]
        with Process(ending, LOAD_CORE) as others, Process(program, TESTED_CORE) as tunnel:
            others.wait_ready()
            _configure(directory / "tunnel.conf", private, keys.read_text().split(), port)
            _connect(inside, port, peers)
            others.end()
            with sink(port, 1, inside=inside) as counter:
                used = tunnel.cpu_seconds()
                send = [*inside, *baseline("send", "sendto", port, peers, size, count, 1)]
                with Process(send, LOAD_CORE) as sender:
                    sent = sender.result()["sent"]
                settle()
                used = tunnel.cpu_seconds() - used
                seen = counter.stop()
    if not seen["total"]:
        raise BenchError("nothing came out of wireguard-go")
    return Sample(
        seen["total"] / seen["seconds"], max(0.0, 1 - seen["total"] / sent), used / seen["total"] * 1e6
    )


@contextlib.contextmanager
def _namespace() -> Iterator[list[str]]:
    _run("ip", "netns", "add", NAME)
    try:
        _run("ip", "-n", NAME, "link", "set", "lo", "up")
        yield ["ip", "netns", "exec", NAME]
    finally:
        _run("ip", "netns", "del", NAME)


def _configure(file: Path, private: str, keys: list[str], port: int) -> None:
    lines = ["[Interface]", f"PrivateKey = {private}"]
    for number, key in enumerate(keys):
        lines += [
            "[Peer]",
            f"PublicKey = {key}",
            f"Endpoint = {address_of(number, len(keys))}:{port}",
            f"AllowedIPs = {IPv4Address(FIRST_INNER + number)}/32",
        ]
    file.write_text("\n".join(lines))
    deadline = time.monotonic() + HANG_SECONDS
    while not Path(f"/var/run/wireguard/{NAME}.sock").exists():
        if time.monotonic() > deadline:
            raise BenchError("wireguard-go does not start")
        time.sleep(0.05)
    _run("wg", "setconf", NAME, str(file))
    _run("ip", "-n", NAME, "address", "add", "10.63.0.1/32", "dev", NAME)
    _run("ip", "-n", NAME, "link", "set", NAME, "up")
    _run("ip", "-n", NAME, "route", "add", "10.64.0.0/10", "dev", NAME)


def _connect(inside: list[str], port: int, peers: int) -> None:
    """A packet to each peer begins its handshake; some are lost in the interface's queue, so again and again."""
    deadline = time.monotonic() + HANG_SECONDS
    shown = ""
    while not shown or "\t0\n" in shown:
        if time.monotonic() > deadline:
            raise BenchError("not every peer of wireguard-go has a session")
        with Process(
            [*inside, *baseline("send", "sendto", port, peers, 64, peers, 1)], LOAD_CORE
        ) as knocking:
            knocking.result()
        time.sleep(1.0)
        shown = _run("wg", "show", NAME, "latest-handshakes")


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)  # noqa: S603
    if done.returncode != 0:
        raise BenchError(f"{' '.join(command[:4])} failed: {done.stderr.strip()}")
    return done.stdout
