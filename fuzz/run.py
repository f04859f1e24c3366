"""Runs every fuzz target for a while, one after the other; stops at the first that fails.

    python fuzz/run.py [--seconds N] [TARGET ...]

Rust targets need cargo-fuzz and a nightly toolchain, Python targets atheris in this interpreter; what is missing is
said, and its targets are skipped. What a run finds stays in fuzz/corpus, inputs that fail in fuzz/artifacts.
"""

import argparse
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

FUZZ = Path(__file__).resolve().parent
RUST = ("message", "replies", "tag", "datagram", "brex", "coap", "time", "handshake", "tunnel", "inner")
PYTHON = ("config", "sns", "entries", "framing")
RSS_LIMIT_MB = 2048
INPUT_SECONDS = 10  # one input that takes longer has failed
MAX_LENGTH = {
    "message": 4096,
    "replies": 4096,
    "tag": 256,
    "datagram": 4096,
    "brex": 1024,
    "coap": 1500,
    "time": 64,
    "handshake": 256,
    "tunnel": 1500,
    "inner": 1500,
}
TAIL_LINES = 40


def main() -> int:
    """0: every target that could run held."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--seconds", type=int, default=60, help="for each target (60)")
    options.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join((*RUST, *PYTHON)))
    chosen = options.parse_args()
    unknown = set(chosen.targets) - {*RUST, *PYTHON}
    if unknown:
        options.error(f"unknown: {', '.join(sorted(unknown))}; the targets are {', '.join((*RUST, *PYTHON))}")
    groups = ((RUST, _rust_missing, _rust_command), (PYTHON, _python_missing, _python_command))
    for targets, missing, command in groups:
        wanted = [target for target in targets if target in (chosen.targets or targets)]
        if not wanted:
            continue
        reason = missing()
        if reason is not None:
            for target in wanted:
                _say(target, f"skipped: {reason}")
            continue
        for target in wanted:
            if not _run(target, command, chosen.seconds):
                return 1
    return 0


def _rust_missing() -> str | None:
    if shutil.which("cargo-fuzz") is None:
        return "needs cargo-fuzz (cargo install cargo-fuzz --locked)"
    if not _works("cargo", "+nightly", "--version"):
        return "needs a nightly toolchain (rustup toolchain install nightly --profile minimal)"
    if shutil.which("c++") is None:
        return "needs a C++ compiler, for libFuzzer (apt-get install g++)"
    return None


def _python_missing() -> str | None:
    if importlib.util.find_spec("atheris") is None:
        return f"needs atheris ({sys.executable} -m pip install atheris)"
    return None


def _rust_command(target: str) -> list[str]:
    return ["cargo", "+nightly", "fuzz", "run", "--fuzz-dir", str(FUZZ), target]


def _python_command(target: str) -> list[str]:
    return [sys.executable, str(FUZZ / "python"), target]


def _run(target: str, command: Callable[[str], list[str]], seconds: int) -> bool:
    """True when the target held."""
    corpus, artifacts = FUZZ / "corpus" / target, FUZZ / "artifacts" / target
    for place in (corpus, artifacts):
        place.mkdir(parents=True, exist_ok=True)
    flags = [
        f"-max_total_time={seconds}",
        f"-rss_limit_mb={RSS_LIMIT_MB}",
        f"-timeout={INPUT_SECONDS}",
        f"-max_len={MAX_LENGTH.get(target, 4096)}",
        f"-artifact_prefix={artifacts}/",
        "-print_final_stats=1",
    ]
    arguments = [*command(target), str(corpus), str(FUZZ / "seeds" / target)]
    if command is _rust_command:
        arguments.append("--")
    arguments += flags
    with tempfile.TemporaryFile() as output:
        ended = subprocess.run(arguments, stdout=output, stderr=subprocess.STDOUT)  # noqa: S603
        log = _text(output)
    growth = re.findall(r"cov: (\d+) ft: (\d+) corp: (\d+)", log)
    runs = re.search(r"stat::number_of_executed_units: (\d+)", log)
    done = f"{runs[1] if runs else 0} runs"
    if growth:
        (first, *_), (last, features, inputs) = growth[0], growth[-1]
        done += f", coverage {first} -> {last}, {features} features, {inputs} inputs"
    if ended.returncode == 0:
        _say(target, f"ok: {done}")
        return True
    _say(
        target,
        f"FAILED (exit {ended.returncode}): {done}; the input is in {artifacts.relative_to(FUZZ.parent)}",
    )
    print("\n".join(log.splitlines()[-TAIL_LINES:]), file=sys.stderr)
    return False


def _works(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0  # noqa: S603
    except OSError:
        return False


def _text(output: IO[bytes]) -> str:
    output.seek(0)
    return output.read().decode("utf-8", "replace")


def _say(target: str, what: str) -> None:
    print(f"{target:9} {what}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
