"""`python -m bench.wgpeers PORT PEERS GATEWAY_KEY FILE [GATEWAY_PORT]`: WireGuard peers, each a Listener of ours at a
loopback address of its own. Writes their public keys into FILE, one a line, prints `ready`, and answers handshakes
until SIGTERM. With GATEWAY_PORT: all of them begin one at SIGUSR1, and once they have a session it prints `begun`.
"""

import json
import select
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from sluicegate import _native

from .feeder import address_of, bodies_of, dataplane, listener_spec
from .processes import HANG_SECONDS
from .wgfeeder import entry_for


def main() -> None:
    port, peers = map(int, sys.argv[1:3])
    key, keys, ports = sys.argv[3], [], []
    known = [{"PublicKey": key, "Remote": f"127.0.0.1:{sys.argv[5]}"}] if len(sys.argv) > 5 else []
    signals = {signal.SIGTERM, signal.SIGUSR1}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    plane = dataplane()
    for number in range(peers):
        private = _native.generate_private_key()
        spec = listener_spec() | {
            "Id": number + 1,
            "Bind": f"{address_of(number, peers)}:{port}",
            "WireGuard": {"PrivateKey": private, "Peers": [{"PublicKey": key}], "Known": known},
        }
        ports.append(plane.open(json.dumps(spec)))
        keys.append(_native.public_key(private))
    Path(sys.argv[4]).write_text("\n".join(keys))
    print("ready", flush=True)
    while signal.sigwait(signals) == signal.SIGUSR1:
        _begin(plane, ports, key)
        print("begun", flush=True)
    plane.close()


def _begin(plane: _native.Dataplane, ports: Sequence[_native.Port], key: str) -> None:
    """Each says hello."""
    [(body, _)] = bodies_of([entry_for(b"hello", key)])
    for port in ports:
        port.submit([("hello", time.time(), 0, body, None)])
    for port in ports:
        port.on_completions(int)  # makes the data plane readable; they are taken below
        if not select.select([plane], [], [], HANG_SECONDS)[0] or [
            one.sent for one in port.completions()
        ] != [1]:
            raise SystemExit("a peer has no session with the gateway")
        port.on_completions(None)


if __name__ == "__main__":
    main()
