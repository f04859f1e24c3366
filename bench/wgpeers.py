"""`python -m bench.wgpeers PORT PEERS GATEWAY_KEY FILE`: WireGuard peers, each a Listener of ours at a loopback address
of its own. Writes their public keys into FILE, one a line, prints `ready`, and answers handshakes until SIGTERM.
"""

import json
import signal
import sys
from pathlib import Path

from sluicegate import _native

from .feeder import address_of, dataplane, listener_spec


def main() -> None:
    port, peers = map(int, sys.argv[1:3])
    gateway, keys = {"PublicKey": sys.argv[3]}, []
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    plane = dataplane()
    for number in range(peers):
        private = _native.generate_private_key()
        spec = listener_spec() | {
            "Id": number + 1,
            "Bind": f"{address_of(number, peers)}:{port}",
            "WireGuard": {"PrivateKey": private, "Peers": [gateway]},
        }
        plane.open(json.dumps(spec))
        keys.append(_native.public_key(private))
    Path(sys.argv[4]).write_text("\n".join(keys))
    print("ready", flush=True)
    signal.sigwait({signal.SIGTERM})
    plane.close()


if __name__ == "__main__":
    main()
