"""`python -m bench.feeder SINK_PORT REMOTES SIZE COUNT [EACH]`: feeds `Port.submit`, the call that the gateway's
egress makes, with sourced messages of up to 256 KiB that were prepared before. Prints what became of them.

The spec of the Listener is the gateway's own, with loopback allowed. Entries are numbered as the C loop numbers its
datagrams; with EACH, a message is one entry with as many `Remotes`, and the messages are numbered.
"""

import base64
import json
import resource
import select
import sys
import time
from ipaddress import IPv4Address

from sluicegate import _native
from sluicegate.running.spec import DEDUP_LIMIT, DEDUP_SECONDS, RING_BYTES, SESSION_LIMIT

NUMBERS = 100_000
BODY_BYTES = 256 << 10
FIRST_REMOTE = int(IPv4Address("127.64.0.0"))


def main() -> None:
    port, remotes, size, count = map(int, sys.argv[1:5])
    numbers = min(count, max(remotes, NUMBERS))
    if len(sys.argv) > 5:
        bodies = prepare_remotes(port, remotes, size, numbers, int(sys.argv[5]))
    else:
        bodies = prepare(port, remotes, size, numbers)
    plane = dataplane()
    listener = plane.open(json.dumps(listener_spec()))
    print(json.dumps(feed(plane, listener, bodies, count)))
    listener.close(0.0)
    plane.close()


def dataplane() -> _native.Dataplane:
    """One for a benchmark."""
    keys = [{"Id": 0, "Key": _native.format_tag_key()}]
    return _native.Dataplane(
        json.dumps({"Node": 1, "Region": "us-east-1", "TagKeys": keys, "TagSeconds": 3600})
    )


def address_of(number: int, remotes: int) -> IPv4Address:
    """Where the entry with this number goes."""
    return IPv4Address(FIRST_REMOTE + number % remotes)


def prepare(port: int, remotes: int, size: int, count: int) -> list[tuple[bytes, int]]:
    """Messages with entries 0 to `count`."""
    entries = []
    for number in range(count):
        data = base64.b64encode(number.to_bytes(8, sys.byteorder).ljust(size, b"x")).decode()
        where = f'{{"Address":"{address_of(number, remotes)}","Port":{port}}}'
        entries.append(f'{{"Data":"{data}","Remote":{where}}}')
    return bodies_of(entries)


def prepare_remotes(port: int, remotes: int, size: int, count: int, each: int) -> list[tuple[bytes, int]]:
    """The same to as many remotes, `each` of a message."""
    bodies = []
    for number in range(count // each):
        data = base64.b64encode(number.to_bytes(8, sys.byteorder).ljust(size, b"x")).decode()
        places = range(number * each, (number + 1) * each)
        where = ",".join(f'{{"Address":"{address_of(place, remotes)}","Port":{port}}}' for place in places)
        body = f'{{"Data":"{data}","Remotes":[{where}]}}'.encode()
        if len(body) > BODY_BYTES:
            raise SystemExit(f"{each} remotes take {len(body)} bytes, a message at most {BODY_BYTES}")
        bodies.append((body, each))
    return bodies


def bodies_of(entries: list[str]) -> list[tuple[bytes, int]]:
    """Messages of at most 256 KiB, and the number of entries in each."""
    bodies: list[tuple[bytes, int]] = []
    parts: list[str] = []
    length = 0
    for part in entries:
        if parts and length + len(part) + 16 > BODY_BYTES:
            bodies.append((_body(parts), len(parts)))
            parts, length = [], 0
        parts.append(part)
        length += len(part) + 1
    bodies.append((_body(parts), len(parts)))
    return bodies


def feed(
    plane: _native.Dataplane, listener: _native.Port, bodies: list[tuple[bytes, int]], count: int
) -> dict[str, float]:
    """Submits the bodies over and over until `count` entries are in; returns when each has ended."""
    cpu = _cpu_seconds()
    start = time.monotonic()
    given = sent = failed = place = 0
    listener.on_completions(int)  # makes the data plane readable; they are taken below
    while sent + failed < count:
        if given < count:
            body, entries = bodies[place % len(bodies)]
            if listener.submit([(f"message-{place}", time.time(), 0, body, None)]):
                given += entries
                place += 1
                continue
        select.select([plane], [], [], 1.0)
        for ended in listener.completions():
            sent += ended.sent
            failed += len(ended.failures)
    elapsed = time.monotonic() - start
    listener.on_completions(None)
    return {"sent": sent, "failed": failed, "seconds": elapsed, "cpu_seconds": _cpu_seconds() - cpu}


def listener_spec() -> dict[str, object]:
    """The gateway's own, with loopback allowed."""
    return {
        "Id": 1,
        "Name": "bench",
        "Domain": "localhost",
        "Bind": "127.0.0.1:0",
        "DualStack": False,
        "ClientNetworks": ["0.0.0.0/0", "::/0"],
        "SessionIdleSeconds": 300.0,
        "SessionLimit": SESSION_LIMIT,
        "RingBytes": RING_BYTES,
        "Destinations": [],
        "Sources": [
            {
                "Name": "bench",
                "EgressNetworks": ["127.0.0.0/8"],
                "DefaultTtlSeconds": None,
                "HoldSeconds": 60.0,
                "RateLimit": None,
                "RequireSession": False,
                "DedupSeconds": DEDUP_SECONDS,
                "DedupLimit": DEDUP_LIMIT,
            }
        ],
    }


def _body(parts: list[str]) -> bytes:
    return ('{"Messages":[' + ",".join(parts) + "]}").encode()


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
