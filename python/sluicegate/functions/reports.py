"""What a runtime reports of an error: a JSON object with `errorType`, `errorMessage` and a trace."""

from __future__ import annotations

import re

import orjson

# Of a frame as the `traceback` module writes it: the file's name and the line.
_PLACE = re.compile(r'^  File "(?:[^"\n]*/)?([^"/\n]+)", line ([0-9]+)', re.MULTILINE)
# Of a frame as Node.js writes it, or of the line before a syntax error: the file's name and the line.
_NODE_PLACE = re.compile(
    r"(?:^|[ (])(?:file://)?/(?:[^()\n]*/)?([^()/:\n]+):([0-9]+)(?::[0-9]+\)?)?$", re.MULTILINE
)


def place_of(report: bytes | None) -> str:
    """` (main.py, line 3)`, the innermost place of a reported error; empty where the message has it already."""
    try:
        document = orjson.loads(report or b"")
        places = _PLACE.findall("\n".join(document.get("stackTrace") or ()))
        place = places[-1] if places else _NODE_PLACE.findall("\n".join(document.get("trace") or ()))[0]
    except (orjson.JSONDecodeError, AttributeError, IndexError, TypeError):
        return ""
    return f" ({place[0][:200]}, line {place[1][:9]})"


def error_of(report: bytes | None, kind: str = "") -> tuple[str, str]:
    """`(errorType, errorMessage)` as reported. The report may be anything; `kind` names the type then."""
    try:
        document = orjson.loads(report or b"")
    except orjson.JSONDecodeError:
        document = {}
    if not isinstance(document, dict):
        document = {}
    return str(document.get("errorType") or kind or "Unhandled"), str(document.get("errorMessage") or "")
