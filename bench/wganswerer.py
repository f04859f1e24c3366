"""`python -m bench.wganswerer PORT PRIVATE_KEY FILE`: a WireGuard Listener at 127.0.0.1:PORT for the peers whose
public keys FILE has. Prints `ready`; at SIGTERM the handshakes that it has answered, and the processor time since.
"""

import json
import signal
import sys
import time
from pathlib import Path

from .feeder import dataplane, listener_spec
from .wgfeeder import counters


def main() -> None:
    port, private, keys = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]).read_text().split()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    plane = dataplane()
    tunnel = {"PrivateKey": private, "Peers": [{"PublicKey": key} for key in keys]}
    listener = plane.open(json.dumps(listener_spec() | {"Bind": f"127.0.0.1:{port}", "WireGuard": tunnel}))
    counters(listener)
    used = time.process_time()
    print("ready", flush=True)
    signal.sigwait({signal.SIGTERM})
    used = time.process_time() - used
    counted = counters(listener)
    done = {
        "answered": counted["ResponsesSent"],
        "sessions": counted["Sessions"],
        "cookies": counted["CookiesSent"],
    }
    print(json.dumps(done | {"cpu_seconds": used}))
    listener.close(0.0)
    plane.close()


if __name__ == "__main__":
    main()
