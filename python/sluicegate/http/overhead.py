"""What a request has beside its body, and how much of it a server takes.

httptools sets no limits, and hands on whatever it parses: header lines, and after the body of a chunked request also
its trailers (RFC 9112, 7.1.2), a value without end among them. So the servers count here.
"""

HEAD_LIMIT = 65_536
"""Bytes of a request's line and headers, and the bytes without any of a body that may come in a row."""
LINE_LIMIT = 200
"""Header lines. Each of them is an object, however short it is."""


class Excess(Exception):
    """A request has more beside its body than is taken."""


class Overhead:
    """Counts for one connection, one request after the other. The parser's callbacks say what they got; `received` says
    how many bytes that was in all.

    A chunk has a line of its own: `5;name=value` (RFC 9112, 7.1.1). Such lines may be as long in all as the body, and
    128 KiB more.
    """

    _in_head: bool
    _lines: int
    _head: int
    _beside: int
    """Bytes that are no body, head and chunks' lines alike; `_row`: those since the last of the body."""
    _row: int
    _body: int
    _body_now: int
    """Bytes of the body in this read."""

    def __init__(self) -> None:
        self._completed = False
        """Whether the last read had the end of a request in it."""
        self._start()

    def target(self, size: int) -> None:
        """A part of the request's target has come. Raises `Excess`."""
        self._head += size
        if self._head > HEAD_LIMIT:
            raise Excess

    def keeps(self, size: int) -> bool:
        """Whether a header line of this size is one of the head. Trailers are not: nothing here uses them, and they
        could be taken for headers. Raises `Excess`."""
        if not self._in_head:
            return False
        self._lines += 1
        self._head += size
        if self._lines > LINE_LIMIT or self._head > HEAD_LIMIT:
            raise Excess
        return True

    def head_complete(self) -> None:
        """The body follows, if there is one."""
        self._in_head = False

    def body(self, size: int) -> None:
        """A part of the body has come."""
        self._body += size
        self._body_now += size

    def complete(self) -> None:
        """The request is complete. What follows it in the same read belongs to the next one, and is not counted."""
        self._start()
        self._completed = True

    def received(self, size: int) -> None:
        """The parser has read as many bytes. Raises `Excess`."""
        if self._completed:
            self._completed = False
        else:
            beside = size - self._body_now
            self._beside += beside
            self._row = 0 if self._body_now else self._row + beside
        self._body_now = 0
        if self._row > HEAD_LIMIT or self._beside > 2 * HEAD_LIMIT + self._body:
            raise Excess

    def _start(self) -> None:
        self._in_head = True
        self._lines = 0
        self._head = 0
        self._beside = 0
        self._row = 0
        self._body = 0
        self._body_now = 0
