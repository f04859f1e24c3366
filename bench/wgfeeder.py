"""`python -m bench.wgfeeder PORT PEERS SIZE COUNT PRIVATE_KEY FILE`: what `bench.feeder` does, to WireGuard peers.

FILE has their public keys, one a line; each is at its loopback address at PORT. When all of them have a session it
prints how fast that went, waits for SIGUSR1, and then feeds.
"""

import base64
import json
import signal
import sys
import time
from pathlib import Path

from .feeder import address_of, bodies_of, dataplane, feed, listener_spec


def main() -> None:
    port, peers, size, count = map(int, sys.argv[1:5])
    private, keys = sys.argv[5], Path(sys.argv[6]).read_text().split()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    plane = dataplane()
    known = [
        {"PublicKey": key, "Remote": f"{address_of(number, peers)}:{port}"} for number, key in enumerate(keys)
    ]
    tunnel = {"PrivateKey": private, "Peers": [{"PublicKey": key} for key in keys], "Known": known}
    listener = plane.open(json.dumps(listener_spec() | {"WireGuard": tunnel}))
    start = time.monotonic()
    hello = [_entry(b"hello", key) for key in keys]
    done = feed(listener, bodies_of(hello), peers)
    if done["failed"]:
        raise SystemExit(f"{done['failed']} of {peers} peers have no session")
    rate = peers / (time.monotonic() - start)
    bodies = bodies_of(
        [
            _entry(number.to_bytes(8, sys.byteorder).ljust(size, b"x"), keys[number % peers])
            for number in range(count)
        ]
    )
    print(json.dumps({"handshakes": rate}), flush=True)
    signal.sigwait({signal.SIGUSR1})
    print(json.dumps(feed(listener, bodies, count)))
    listener.close(0.0)
    plane.close()


def _entry(data: bytes, key: str) -> str:
    return f'{{"Data":"{base64.b64encode(data).decode()}","Remote":{{"PeerKey":"{key}"}}}}'


if __name__ == "__main__":
    main()
