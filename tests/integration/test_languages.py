"""The same echo in Python, Node.js, Go and Rust (examples/languages): same packets, same replies.

Go and Rust take the public runtime libraries. Their builds take a minute when nothing is cached, so that `make test`
runs what `make test-languages` has built.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from harness import Client

from conftest import StartGateway

PROJECT = Path(__file__).parents[2]
EXAMPLE = PROJECT / "examples/languages"
BUILT = PROJECT / "target/languages"
TOOLS = {"node": "node", "go": "go", "rust": "cargo"}
BUILD_SECONDS = 900.0
PACKETS = [b"hello", bytes(range(256)), b"x" * 1200, b"\0", b"a" * 1199 + b"\xff"]


def program(language: str) -> Path:
    """The built program; skips with the reason where there is none."""
    made = BUILT / language / "bootstrap"
    sources = [file for file in (EXAMPLE / language).rglob("*") if file.is_file()]
    if "SLUICEGATE_TEST_LANGUAGES" not in os.environ:
        if not made.is_file() or made.stat().st_mtime < max(file.stat().st_mtime for file in sources):
            pytest.skip(f"{language} is not built: `make test-languages` builds and runs it")
        return made
    command = [EXAMPLE / "build.sh", language, BUILT / language]
    result = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_SECONDS)
    if result.returncode and any(
        word in result.stderr for word in ("dial tcp", "Could not resolve", "download")
    ):
        pytest.skip(f"the packages of {language} cannot be downloaded: {result.stderr.strip()[-200:]}")
    assert result.returncode == 0, result.stderr
    return made


def exchanged(address: tuple[str, int]) -> list[bytes]:
    """The replies to the packets, one after the other and then all at once."""
    with Client() as client:
        replies = []
        for packet in PACKETS:
            client.send(packet, address)
            replies.append(client.receive()[0])
        for packet in PACKETS:
            client.send(packet, address)
        return replies + sorted(client.receive()[0] for _ in PACKETS)


@pytest.mark.timeout(BUILD_SECONDS + 120)
@pytest.mark.parametrize("language", ["node", "go", "rust"])
def test_the_same_packets_get_the_same_replies(language: str, gateway: StartGateway) -> None:
    if shutil.which(TOOLS[language]) is None:
        pytest.skip(f"needs {TOOLS[language]}")
    text = (EXAMPLE / "sluicegate.yaml").read_text()
    listeners = text[text.index("listeners:") : text.index("# Programs")]
    # Of a test: assigned ports, and code where it lies.
    for part in ("node", "python"):
        listeners = listeners.replace(f"function:{part}/", f"function:{EXAMPLE / part}/")
    listeners = listeners.replace("127.0.0.1:2048", "127.0.0.1").replace("127.0.0.1:2049", "127.0.0.1")
    if language != "node":
        assert listeners.count("node/echo.mjs:handler") == 1
        listeners = listeners.replace(f"{EXAMPLE / 'node'}/echo.mjs:handler", str(program(language)))
    one = gateway(listeners)
    expected = PACKETS + sorted(PACKETS)
    assert exchanged(one.address("python")) == expected
    assert exchanged(one.address("node")) == expected
