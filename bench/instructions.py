"""`python -m bench.instructions [--keep]`: fails if the packet path takes a tenth more instructions than were kept.

callgrind counts the instructions of `crates/sluice-core/examples/counted.rs`: other processes and the clock change
nothing about them. The counts in `instructions.json` hold for one compiler, architecture and C library; where these or
valgrind are missing, nothing is checked, and the last line says so. `--keep` writes the counts of this tree there. It
refuses a case that costs a tenth more, unless CHANGELOG.md says "`NAME` costs more instructions", and why.
"""

import argparse
import json
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

from .processes import PROJECT, BenchError, example

KEPT = PROJECT / "bench" / "instructions.json"
LIMIT = 1.1
"""How much more than the kept count a case may take."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.instructions", description=__doc__)
    parser.add_argument(
        "--keep", action="store_true", help="write the counts of this tree to instructions.json"
    )
    given = parser.parse_args()
    if shutil.which("valgrind") is None:
        return _skipped("there is no valgrind; install it (apt-get install valgrind)")
    kept = json.loads(KEPT.read_text())
    here = _here()
    if here not in kept and not given.keep:
        return _skipped(f"no counts are kept for {here}; `python -m bench.instructions --keep` writes them")
    counts = _counts()
    dearer = _print(counts, kept.get(here, {}))
    if given.keep:
        changelog = (PROJECT / "CHANGELOG.md").read_text()
        if unsaid := [name for name in dearer if f"`{name}` costs more instructions" not in changelog]:
            return _failed(f"CHANGELOG.md does not say that `{unsaid[0]}` costs more instructions, and why")
        KEPT.write_text(json.dumps(kept | {here: counts}, indent=1) + "\n")
    elif dearer:
        return _failed(
            f"{', '.join(dearer)}: over {LIMIT:.0%} of the instructions that were kept; make it cheaper, or write into "
            f"CHANGELOG.md why `{dearer[0]}` costs more instructions, and run python -m bench.instructions --keep"
        )
    return 0


def _here() -> str:
    """What decides about the counts beside the sources."""
    said = subprocess.run(["rustc", "--version"], capture_output=True, text=True, check=True)  # noqa: S607
    flags = Path("/proc/cpuinfo").read_text()
    vector = "avx2" if re.search(r"\bavx2\b", flags) else "no avx2"  # libraries choose their loops by it
    return f"{' '.join(said.stdout.split()[:2])}, {platform.machine()} ({vector}), {' '.join(platform.libc_ver())}"


def _counts() -> dict[str, int]:
    """Instructions a packet or entry of each case."""
    command = example("counted")
    listed = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)  # noqa: S603
    return {one["case"]: round(_count([*command, one["case"]]) / one["units"]) for one in listed}


def _count(command: list[str]) -> int:
    tool = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=measured"]
    ran = subprocess.run([*tool, *command], capture_output=True, text=True)  # noqa: S603
    if ran.returncode != 0 or not (found := re.search(r"Collected : (\d+)", ran.stderr)):
        raise BenchError(f"{command[-1]} under callgrind: {ran.stderr[-2000:]}")
    return int(found[1])


def _print(counts: dict[str, int], kept: dict[str, int]) -> list[str]:
    """A line for each case. Those that are dearer than they may be."""
    for name, count in counts.items():
        before = kept.get(name)
        change = f"{count / before - 1:+7.1%} of {before}" if before else "    new"
        print(f"{name:22} {count:8} instructions {change}")
    return [name for name, count in counts.items() if count > LIMIT * kept.get(name, count)]


def _skipped(why: str) -> int:
    print(f"skipped: instruction counts: {why}", file=sys.stderr)
    return 0


def _failed(why: str) -> int:
    print(f"bench.instructions: {why}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (BenchError, subprocess.CalledProcessError, OSError) as error:
        sys.exit(f"bench.instructions: {error}")
