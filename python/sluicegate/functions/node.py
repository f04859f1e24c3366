"""How Node.js is found and started for a worker that runs `_worker_main.cjs`.

The heap gets limits of its own below `MemoryInMb`: V8 collects garbage when its heap is nearly full and not when the
machine is, so that without them a function with little to keep would grow beyond its limit.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

MAIN = Path(__file__).with_name("_worker_main.cjs")
MISSING = "no program node is in the gateway's PATH"
INSTALL = "install Node.js 18 or newer (apt-get install nodejs), or add the folder that has it to that PATH"
HEAP_FULL = "JavaScript heap out of memory"
"""V8 says so, and aborts."""

_HEAP_SHARE = 0.75  # of the memory; the rest is for what is young, and for Node.js itself: some 20 MB
_YOUNG_SHARE = 1 / 32
_YOUNG_MB = 16  # V8's own choice for a large machine


class NodeMissing(Exception):
    """There is no Node.js. The text says what to do."""


def program() -> str | None:
    """The path of `node`, from the gateway's own PATH."""
    return shutil.which("node")


def command(memory_mb: int, environment: Mapping[str, str]) -> list[str]:
    """What starts a worker's program, without its arguments. `memory_mb` is the limit in MiB, 0 for none; a heap size
    in the `NODE_OPTIONS` of `environment` counts more. Raises `NodeMissing`."""
    node = program()
    if node is None:
        raise NodeMissing(f"{MISSING}: {INSTALL}")
    if not memory_mb or "-old-space-size" in environment.get("NODE_OPTIONS", "").replace("_", "-"):
        return [node, str(MAIN)]
    old, young = int(memory_mb * _HEAP_SHARE), min(max(1, int(memory_mb * _YOUNG_SHARE)), _YOUNG_MB)
    return [node, f"--max-old-space-size={old}", f"--max-semi-space-size={young}", str(MAIN)]
