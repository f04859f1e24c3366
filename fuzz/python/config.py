"""The configuration file: any bytes are a configuration, or a `ConfigError` whose problems lie in the file."""

import re
import tempfile
from functools import cache
from pathlib import Path

from sluicegate.config import ConfigError, load
from sluicegate.model import Finding

HANDLER = "def handler(event, context):\n    return None\n"
# What ends a line: to the reader of bytes, to everybody, and to YAML 1.1.
BREAKS = (
    re.compile("\n"),
    re.compile("\r\n|[\n\r]"),
    re.compile("\r\n|[\n\r\x85\u2028\u2029]"),
)


def check(data: bytes) -> None:
    """Any bytes as the file."""
    path = _directory() / "gateway.yaml"
    path.write_bytes(data)
    try:
        config = load(path)
    except ConfigError as error:
        if not error.findings:
            raise AssertionError("refused without a problem") from None
        problems = error.findings
    else:
        problems = config.warnings
        config.gateway.dump()
    for problem in problems:
        _check(problem, path, data)


@cache
def _directory() -> Path:
    # A place of its own: `file:` and `function:` of an input are relative to it. Kept for the whole run.
    made = Path(tempfile.mkdtemp(prefix="sluicegate-fuzz-"))
    (made / "handlers").mkdir()
    (made / "handlers" / "echo.py").write_text(HANDLER)
    return made


def _check(problem: Finding, path: Path, data: bytes) -> None:
    text = data.decode("utf-8-sig", "replace")
    if problem.file != str(path) or not any(_inside(problem, breaks.split(text)) for breaks in BREAKS):
        raise AssertionError(f"not in the file: {problem}")
    if not problem.cause or not problem.fix:
        raise AssertionError(f"says nothing: {problem}")


def _inside(problem: Finding, lines: list[str]) -> bool:
    if not 1 <= problem.line <= len(lines):
        return False
    # Where a byte is no text the column counts bytes.
    return 1 <= problem.col <= len(lines[problem.line - 1].encode()) + 1
