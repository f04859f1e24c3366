"""A YAML file whose every key and value knows its place.

ruamel's node tree is kept beside the data: a path of the model leads through the nodes to a line and a
column. Every way in which a file can fail to be one YAML mapping is a `Finding` with a next step.
"""

import dataclasses
import errno
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.reader import ReaderError

from sluicegate.config.nodes import (
    DEEPEST,
    MOST_BYTES,
    Absurd,
    Malformed,
    compose,
    construct,
    is_list,
    is_mapping,
    is_scalar,
)
from sluicegate.model import Finding, FindingsError, GatewayConfig, Resource
from sluicegate.regular import read_regular

Node = Any
"""A node of PyYAML or of ruamel (`config/nodes.py`)."""


LONGEST_KEY = 1024
"""Characters of a key, by the rules of YAML (section 7.4.2)."""


class YamlError(FindingsError):
    """The file is not one YAML mapping."""


class Document:
    """A mapping read from a YAML file: plain `data`, and the place of everything in it."""

    def __init__(self, file: str, root: Node, data: dict[Any, Any]) -> None:
        self.data = data
        self._file = file
        self._root = root
        self._keys: dict[int, dict[str, tuple[Node, Node]]] = {}
        """The first entry of each key, by the ids of mappings in which something was looked for."""

    def locate(self, found: Finding) -> Finding:
        """A finding with its place: its value, its key if that is wrong, else the nearest thing around it."""
        node: Node = self._root
        model: type[Resource] | None = GatewayConfig
        place = node
        for depth, part in enumerate(found.path):
            entry = self._step(node, part, model)
            if entry is None:
                break
            key, node = entry
            last = depth == len(found.path) - 1
            place = key if key is not None and last and found.on_key else node
            if isinstance(part, str) and model is not None:
                model = model.child(part)
        return self._at(place, found)

    def duplicate_keys(self) -> Iterator[Finding]:
        """Keys that stand twice in one mapping: YAML forbids it, and one of the two would be lost."""
        for mapping in _mappings(self._root, set()):
            seen: dict[str, Node] = {}
            for key, _ in mapping.value:
                if not is_scalar(key) or key.value == "<<":
                    continue
                first = seen.setdefault(key.value, key)
                if first is not key:
                    cause = f"the key `{key.value}` is already in line {first.start_mark.line + 1}"
                    yield self._at(key, Finding((), cause, "keep one of the two"))

    def _step(
        self, node: Node, part: str | int, model: type[Resource] | None
    ) -> tuple[Node | None, Node] | None:
        """One step of a path: `(key node or None, value node)`, None where the file has nothing there."""
        if is_list(node) and isinstance(part, int):
            return (None, node.value[part]) if part < len(node.value) else None
        if not is_mapping(node):
            return None
        keys = self._keys.get(id(node))
        if keys is None:
            keys = self._keys[id(node)] = _entries(node)
        means = model.spellings() if model else {}
        for written in [str(part), *(spelling for spelling, field in means.items() if field == part)]:
            if written in keys:
                return keys[written]
        # `<<: *defaults`: the key stands in the mapping that is merged.
        merged = (value for key, value in node.value if is_scalar(key) and key.value == "<<")
        return next((found for value in merged if (found := self._step(value, part, model))), None)

    def _at(self, node: Node, found: Finding) -> Finding:
        line, col = node.start_mark.line + 1, node.start_mark.column + 1
        return dataclasses.replace(found, file=self._file, line=line, col=col)


def read(path: Path) -> Document:
    """Read a YAML file whose root is a mapping. Raises `YamlError`."""
    file = str(path)
    text = read_text(path)
    try:
        root = compose(text)
        if root is None or (is_scalar(root) and root.value == ""):
            fix = "write a configuration: `sluicegate dev` makes one"
            raise YamlError(Finding.at(file, 1, 1, "the file is empty", fix))
        if not is_mapping(root):
            mark = root.start_mark
            kind = "list" if is_list(root) else "single value"
            cause = f"the file holds a {kind}, not a mapping"
            joined = re.match(r"([A-Za-z_]+):(\S+)", root.value) if is_scalar(root) else None
            fix = "begin with `listeners:`"
            if joined:
                fix = f"write a space after the colon: `{joined[1]}: {joined[2][:60]}`"
            raise YamlError(Finding.at(file, mark.line + 1, mark.column + 1, cause, fix))
        _refuse_halves(file, text, root)
        data = construct(root)
    except Absurd as error:
        raise YamlError(dataclasses.replace(error.finding, file=file)) from None
    except (YAMLError, Malformed, ValueError, RecursionError) as error:
        raise YamlError(syntax_finding(file, text, error)) from None
    return Document(file, root, data)


def read_text(path: Path) -> str:
    """The file as text; `YamlError` when it cannot be read or is not UTF-8."""
    file = str(path)
    try:
        raw = read_regular(path, MOST_BYTES + 1, piped=True)
    except OSError as error:
        cause, fix = {
            errno.ENOENT: ("the file does not exist", "correct the path"),
            errno.EISDIR: ("this is a directory", "name the file in it"),
            errno.EINVAL: (f"the file cannot be read: {error.strerror}", "name the file itself"),
            errno.EACCES: ("the file cannot be read: permission denied", "correct its permissions"),
        }.get(error.errno or 0, (f"the file cannot be read: {error.strerror}", "correct the path"))
        raise YamlError(Finding.at(file, 1, 1, cause, fix)) from None
    if len(raw) > MOST_BYTES:
        cause = f"the file is larger than {MOST_BYTES >> 20} MiB"
        raise YamlError(Finding.at(file, 1, 1, cause, "add what is so much through the API, such as peers"))
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        line, col = before.count(b"\n") + 1, error.start - (before.rfind(b"\n") + 1) + 1
        cause = f"the byte 0x{raw[error.start]:02x} is not UTF-8 text"
        raise YamlError(Finding.at(file, line, col, cause, "save the file as UTF-8")) from None


def _refuse_halves(file: str, text: str, root: Node) -> None:
    """`"\\ud800"` is half of a character, which no text may hold."""
    waiting, seen = [root] if "\\u" in text.lower() else [], set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if not is_scalar(node):
            waiting += [one for pair in node.value for one in pair] if is_mapping(node) else node.value
        elif any("\ud800" <= character <= "\udfff" for character in node.value):
            mark = node.start_mark
            cause = "an escape such as \\ud800 is half of a character"
            raise YamlError(
                Finding.at(file, mark.line + 1, mark.column + 1, cause, "write the character itself")
            )


def _entries(mapping: Node) -> dict[str, tuple[Node, Node]]:
    """The first entry of each key: `(key, value)`."""
    found: dict[str, tuple[Node, Node]] = {}
    for key, value in mapping.value:
        if is_scalar(key):
            found.setdefault(key.value, (key, value))
    return found


def _mappings(node: Node, seen: set[int]) -> Iterator[Node]:
    # Aliases make one node appear in several places, and may make it contain itself.
    if id(node) in seen:
        return
    seen.add(id(node))
    if is_mapping(node):
        yield node
        for _, value in node.value:
            yield from _mappings(value, seen)
    elif is_list(node):
        for value in node.value:
            yield from _mappings(value, seen)


def syntax_finding(file: str, text: str, error: Exception) -> Finding:
    """What ruamel found wrong in `text`, in our words and at its place."""
    if isinstance(error, ReaderError):
        before = text[: error.position]
        line, col = before.count("\n") + 1, error.position - (before.rfind("\n") + 1) + 1
        return Finding.at(file, line, col, "a control character stands here", "remove it")
    mark = None
    problem = ""
    if isinstance(error, MarkedYAMLError):
        mark, problem = error.problem_mark or error.context_mark, error.problem or error.context or ""
    line, col = (mark.line, mark.column) if mark else (0, 0)
    if isinstance(error, Malformed):
        line, col, problem = error.line, error.column, error.problem
    if isinstance(error, RecursionError):
        problem = f"lists and mappings lie in each other, more than {DEEPEST} deep"
    lines = text.splitlines()
    written = lines[line] if line < len(lines) else ""
    indentation = written[: len(written) - len(written.lstrip())]
    if "\t" in indentation or r"'\t'" in problem:
        col = written.find("\t") if "\t" in written else col
        return Finding.at(file, line + 1, col + 1, "a tab is used for indentation", "indent with spaces")
    if "mapping values are not allowed" in problem and _deeper(lines, line):
        cause = "this line is indented deeper than the one above it, which has a value of its own"
        return Finding.at(file, line + 1, len(indentation) + 1, cause, "indent both alike")
    if "{{" in written and ("unhashable" in problem or "expected" in problem):
        fix = "write the value itself, in quotes if it is text"
        return Finding.at(
            file, line + 1, written.find("{{") + 1, "placeholders such as `{{ name }}` are not replaced", fix
        )
    if "expected <block end>" in problem and (brackets := _ADDRESS.search(written)):
        cause, fix = "an address in brackets begins a list", f'put it in quotes: "{brackets[1]}"'
        return Finding.at(file, line + 1, brackets.start(1) + 1, cause, fix)
    if expression := _EXPRESSION.search(written):
        cause = "an expression that begins with a bracket, a quote or `!` is no text in YAML"
        fix = "put all of it in single quotes, and a text within it in double ones: '[0] == 0xFE'"
        return Finding.at(file, line + 1, expression.start(1) + 1, cause, fix)
    if "mapping values are not allowed" in problem and col > LONGEST_KEY:
        cause = f"this key has more than {LONGEST_KEY:,} characters"
        return Finding.at(file, line + 1, indentation.count(" ") + 1, cause, "write a shorter one")
    for words, cause, fix in _SYNTAX:
        if words in problem:
            return Finding.at(file, line + 1, col + 1, cause, fix)
    cause = "this is not valid YAML" + (f" ({problem})" if problem else "")
    fix = "check indentation, quotes, colons and brackets here and above"
    return Finding.at(file, line + 1, col + 1, cause, fix)


_ADDRESS = re.compile(r":\s+(\[[0-9a-fA-F.%]*:[0-9a-fA-F:.%]*\](?::\d+)?)\s*(?:#|$)")
"""An address in brackets without quotes, as the value of a key."""
_EXPRESSION = re.compile(r"""expression['"]?:\s+(\[|!|(["'])[^"']*\2\s*[^\s#,}])""", re.IGNORECASE)
"""A BREX expression without quotes around it, as the value of a key."""
_KEY_LINE = re.compile(r"(\s*(?:- +)*)[\w-]+:(\s+\S|\s*$)")


def _deeper(lines: list[str], line: int) -> bool:
    """True if a line with a key is indented deeper than the line above it, which has a key with a value."""
    above = next(
        (one for one in reversed(lines[:line]) if one.strip() and not one.lstrip().startswith("#")), ""
    )
    first, second = _KEY_LINE.match(above), _KEY_LINE.match(lines[line] if line < len(lines) else "")
    return bool(first and second and first[2].strip() and len(second[1]) > len(first[1]))


_SYNTAX = [
    (
        "mapping values are not allowed",
        "a second `:` in a plain value",
        'put a value that contains ": " or ends with ":" in quotes, or correct the indentation',
    ),
    ("but found '<stream end>'", "a bracket or brace is not closed", "close it"),
    ("could not find expected ':'", "a key without a `:`", "write `key: value`"),
    ("found another document", "a second document begins here", "keep one document per file"),
    (
        "found undefined alias",
        "this alias is not defined",
        "define it above with `&NAME`, or quote the value",
    ),
    ("could not determine a constructor", "tags such as `!name` are not supported", "remove the tag"),
    ("found unhashable key", "a list or mapping cannot be a key", "put the key in quotes"),
    ("found unexpected end of stream", "a quote or bracket is not closed", "close it"),
    (
        "expected <block end>",
        "this does not line up with what stands above",
        "indent it like its neighbours",
    ),
    ("expected ',' or ']'", "a list in brackets is not closed", "add `]`, or quote the value if it is text"),
    ("expected ',' or '}'", "a mapping in braces is not closed", "add `}`, or quote the value if it is text"),
    ("found character '@'", "a value cannot begin with `@`", "put it in quotes"),
    ("found character '`'", "a value cannot begin with a backquote", "put it in quotes"),
    ("found character '%'", "a value cannot begin with `%`", "put it in quotes"),
]
