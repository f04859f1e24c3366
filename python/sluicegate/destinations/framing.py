"""Documents of replies out of a stream of bytes (contract section 3), wherever the stream is cut.

Example: `{"Tag": "a", "Data": ""}{"Replies": [` and then `]}` are one ResponsePacket and one document of replies. They
may follow each other directly or with white space between them, each on one line or on many. `null` asks for nothing.

Nothing here knows where the bytes come from. What is no document is a `Malformed` with its place, and is read past:

- Text that begins no document, and a string that is cut by the end of its line: up to the end of that line.
- A document that is too large, too deep, or no JSON after all: up to its end, without being kept.

The memory in use is at most `DOCUMENT_LIMIT`, whatever comes. How the bytes are split changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import orjson

DOCUMENT_LIMIT = 6 * 1024 * 1024
"""Bytes of one document: those of a whole answer that is not streamed."""
DEPTH_LIMIT = 64
"""Objects and lists inside each other."""

_SPACE = b" \t\r\n\0"  # NUL: Lambda's runtimes for HTTP put 8 of them behind the head of an answer
_NULL = b"null"
_SOME = re.compile(rb"[^ \t\r\n\0]")
_STRUCTURE = re.compile(rb'["{}\[\]]')
_IN_STRING = re.compile(rb'["\\\n]')


@dataclass(frozen=True, slots=True)
class Malformed:
    """What is no document: `offset` is its first byte in the stream, from 0. `detail` is a sentence without it."""

    offset: int
    detail: str


Found = bytes | Malformed
"""`{"Replies": [...]}`, as a handler's answer has it, or what is none."""


class Framing:
    """Reads one stream, in order: `feed` for each piece, `end` once.

    >>> framing = Framing()
    >>> framing.feed(b'{"Tag": "a", "Data"'), framing.feed(b': ""} null {"Replies": []}{"Tag"')
    ([], [b'{"Replies":[{"Tag": "a", "Data": ""}]}', b'{"Replies": []}'])
    >>> framing.end()
    [Malformed(offset=45, detail='a document without an end, 6 bytes long')]
    """

    def __init__(self) -> None:
        self._read: Callable[[bytes, int], int] = self._between
        """Reads on at an index of a piece, and returns where the next one does."""
        self._found: list[Found] = []
        self._offset = 0  # of the piece that is read now
        self._first = True
        self._begun = 0
        self._matched = 0
        self._parts: list[bytes] = []
        self._size = 0
        self._depth = 0
        self._in_string = self._escaped = False
        self._wrong = ""

    def feed(self, piece: bytes) -> list[Found]:
        """What the stream has up to the end of this piece."""
        index = 0
        while index < len(piece):
            index = self._read(piece, index)
        self._offset += len(piece)
        return self._take()

    def end(self) -> list[Found]:
        """The stream is complete: what is still to say about it."""
        if self._read == self._document:
            self._malformed(self._wrong or f"a document without an end, {self._size} bytes long")
        elif self._read == self._literal:
            self._stray()
        self._read = self._between
        return self._take()

    def _take(self) -> list[Found]:
        found, self._found = self._found, []
        return found

    def _malformed(self, detail: str) -> None:
        self._found.append(Malformed(self._begun, detail))

    def _stray(self) -> None:
        self._malformed("text that begins no document")
        self._read = self._line

    def _between(self, piece: bytes, index: int) -> int:
        """Between documents."""
        some = _SOME.search(piece, index)
        if some is None:
            return len(piece)
        index = some.start()
        self._begun = self._offset + index
        if piece[index] in b"{[":
            self._read = self._document
            self._size = self._depth = 0
            self._wrong = ""
        elif piece[index] == _NULL[0]:
            self._read, self._matched = self._literal, 0
        else:
            self._stray()
        return index

    def _literal(self, piece: bytes, index: int) -> int:
        """In what may become `null`."""
        while index < len(piece) and self._matched < len(_NULL):
            if piece[index] != _NULL[self._matched]:
                self._stray()
                return index
            self._matched += 1
            index += 1
        if self._matched == len(_NULL):
            self._read = self._between
        return index

    def _line(self, piece: bytes, index: int) -> int:
        """In text that is no document: the next one begins on another line at the earliest."""
        end = piece.find(b"\n", index)
        if end < 0:
            return len(piece)
        self._read = self._between
        return end + 1

    def _document(self, piece: bytes, index: int) -> int:
        """In an object or a list."""
        start = index
        while index < len(piece):
            if self._escaped:
                self._escaped = False
                if piece[index : index + 1] != b"\n":
                    index += 1
                    continue
            found = (_IN_STRING if self._in_string else _STRUCTURE).search(piece, index)
            if found is None:
                break
            index = found.end()
            match found[0]:
                case b'"':
                    self._in_string = not self._in_string
                case b"\\":
                    self._escaped = True
                case b"\n":
                    return self._broken(index - 1)
                case b"{" | b"[":
                    self._depth += 1
                    if self._depth > DEPTH_LIMIT:
                        self._drop(
                            f"a document deeper than {DEPTH_LIMIT} objects and lists inside each other"
                        )
                case _:
                    self._depth -= 1
                    if self._depth == 0:
                        self._keep(piece[start:index])
                        self._complete()
                        return index
        self._keep(piece[start:])
        return len(piece)

    def _keep(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > DOCUMENT_LIMIT:
            self._drop(f"a document of more than {DOCUMENT_LIMIT} bytes")
        if not self._wrong:
            self._parts.append(part)

    def _drop(self, why: str) -> None:
        self._wrong = self._wrong or why
        self._parts.clear()

    def _broken(self, end: int) -> int:
        """A line has ended inside a string, where JSON has no line break."""
        self._malformed(self._wrong or "a document with a line that ends inside a string")
        self._parts.clear()
        self._in_string = self._escaped = False
        self._read = self._between
        return end

    def _complete(self) -> None:
        document = b"".join(self._parts)
        self._parts.clear()
        self._read = self._between
        first, self._first = self._first, False
        if self._wrong:
            return self._malformed(self._wrong)
        try:
            value = orjson.loads(document)
        except orjson.JSONDecodeError as error:
            where = f"line {error.lineno}, column {error.colno} of it"
            return self._malformed(f"a document that is not JSON ({where})")
        if not isinstance(value, dict):
            return self._malformed('a list; each document is {"Replies": [...]} or one reply')
        if "Replies" in value:
            self._found.append(document)
        elif "Tag" in value or "Data" in value:
            self._found.append(b'{"Replies":[%b]}' % document)
        elif not (
            first and "statusCode" in value
        ):  # the head that runtimes write in front of a stream for HTTP
            self._found.append(document)
