"""The SNS query API's wire format: form-encoded requests in, XML out (API version 2010-03-31).

Forms are parsed here and not by `urllib.parse`, because a JSON message is mostly quotes and colons, each of
them percent-encoded: for a message of 1,000 entries `parse_qsl` takes 9.4 ms, this 0.45 ms. A percent-encoded
string is quoted-printable with another escape character, and `binascii` decodes that natively. Escapes that are
broken (`%` without two hexadecimal digits) stand for themselves, but only some of them: no client sends any, and
4 MB of `%` took 1.4 s.
"""

import re
from binascii import a2b_qp
from collections.abc import Iterable, Mapping

NAMESPACE = "http://sns.amazonaws.com/doc/2010-03-31/"
FIELD_LIMIT = 5000
BROKEN_LIMIT = 1000
"""Broken escapes in a form."""

_BROKEN = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_ILLEGAL_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class SnsError(Exception):
    """An error answer: `code` and `status` as in SNS's service model, `message` in SNS's words where it has
    them."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status


def invalid_parameter(message: str) -> SnsError:
    """`InvalidParameter`, worded as SNS does."""
    return SnsError("InvalidParameter", f"Invalid parameter: {message}")


def parse_form(body: bytes) -> dict[str, bytes]:
    """Fields of an `application/x-www-form-urlencoded` body, values as bytes; of a repeated name the last
    counts."""
    if body.count(b"&") > FIELD_LIMIT:
        raise invalid_parameter(f"more than {FIELD_LIMIT} fields in one request")
    fields: dict[str, bytes] = {}
    unquote = _Unquote()
    try:
        for pair in body.split(b"&"):
            name, _, value = pair.partition(b"=")
            if name:
                plain = b"%" not in name and b"+" not in name
                fields[(name if plain else unquote(name)).decode()] = unquote(value)
    except UnicodeDecodeError:
        raise invalid_parameter("a field's name is not UTF-8") from None
    return fields


def unquote_plus(value: bytes) -> bytes:
    """`%41` and `+` decoded. The same result as `urllib.parse.unquote_to_bytes`, also for broken escapes, of which
    there may be `BROKEN_LIMIT`."""
    return _Unquote()(value)


class _Unquote:
    """Decodes the parts of one form, whose broken escapes it counts."""

    def __init__(self) -> None:
        self._broken = 0

    def __call__(self, value: bytes) -> bytes:
        value = value.replace(b"+", b" ")
        escapes = value.count(b"%")
        if not escapes:
            return value
        decoded = _unescape(value)
        # Each good escape shrinks by two; a broken one shrinks less, and then the lengths differ.
        if len(decoded) == len(value) - 2 * escapes:
            return decoded
        whole, found = _BROKEN.subn(b"%25", value, count=BROKEN_LIMIT + 1 - self._broken)
        self._broken += found
        if self._broken > BROKEN_LIMIT:
            raise invalid_parameter("the form is not percent-encoded: % without two hexadecimal digits")
        return _unescape(whole)


def _unescape(value: bytes) -> bytes:
    """Escapes decoded, of which each should be good."""
    quoted = value.replace(b"=", b"=3D").replace(b"%", b"=")
    if b"\n" in value or b"\r" in value:  # raw line ends would read as quoted-printable's soft breaks
        quoted = quoted.replace(b"\r", b"=0D").replace(b"\n", b"=0A")
    return a2b_qp(quoted)


def text(fields: Mapping[str, bytes], name: str) -> str | None:
    """A field as text; None when absent. `InvalidParameter` when it is not UTF-8."""
    value = fields.get(name)
    if value is None:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise invalid_parameter(f"{name} Reason: not valid UTF-8") from None


def group(fields: Mapping[str, bytes], prefix: str) -> dict[int, dict[str, bytes]]:
    """The elements of a list or map: `prefix.N.rest` → `{N: {rest: value}}`, in the order of N."""
    start = prefix + "."
    grouped: dict[int, dict[str, bytes]] = {}
    for name, value in fields.items():
        if name.startswith(start):
            number, _, rest = name[len(start) :].partition(".")
            if number.isascii() and number.isdigit() and len(number) < 7:
                grouped.setdefault(int(number), {})[rest] = value
    return dict(sorted(grouped.items())) if len(grouped) > 1 else grouped


def escape(value: str) -> str:
    """Text content: markup escaped, characters that XML cannot hold replaced."""
    if _ILLEGAL_IN_XML.search(value):
        value = _ILLEGAL_IN_XML.sub("\ufffd", value)
    return value.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\r", "&#13;")


def element(name: str, content: str) -> str:
    """`<name>content</name>`, `content` escaped."""
    return f"<{name}>{escape(content)}</{name}>"


def members(name: str, items: Iterable[str]) -> str:
    """A list: each of `items` (XML already) in a `<member>`."""
    return f"<{name}>" + "".join(f"<member>{item}</member>" for item in items) + f"</{name}>"


def entries(name: str, items: Mapping[str, str]) -> str:
    """A map of text to text."""
    inner = "".join(
        f"<entry>{element('key', key)}{element('value', value)}</entry>" for key, value in items.items()
    )
    return f"<{name}>{inner}</{name}>"


def response(action: str, result: str | None, request_id: str) -> bytes:
    """The answer of an action; `result` is the XML inside its result element, None for an action without
    one."""
    inner = "" if result is None else f"<{action}Result>{result}</{action}Result>"
    return (
        f'<{action}Response xmlns="{NAMESPACE}">{inner}'
        f"<ResponseMetadata><RequestId>{request_id}</RequestId></ResponseMetadata></{action}Response>"
    ).encode()


def error_response(error: SnsError, request_id: str) -> bytes:
    """The answer for an error."""
    kind = "Sender" if error.status < 500 else "Receiver"
    return (
        f'<ErrorResponse xmlns="{NAMESPACE}"><Error><Type>{kind}</Type>{element("Code", error.code)}'
        f"{element('Message', error.message)}</Error><RequestId>{request_id}</RequestId></ErrorResponse>"
    ).encode()
