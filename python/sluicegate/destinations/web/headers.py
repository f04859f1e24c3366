"""Headers of a user's: those that everybody may see, and secrets, which stand in files."""

from __future__ import annotations

import re

from sluicegate.destinations.base import Arguments, DestinationContext
from sluicegate.destinations.web.remote import read_secret
from sluicegate.destinations.web.signature import read_keys

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2
_VALUE = re.compile(r"[!-~]([\t -~]*[!-~])?")
_OURS = re.compile(
    r"(?i)host|content-.*|transfer-encoding|connection|keep-alive|te|trailer|upgrade|expect|accept-encoding"
    r"|proxy-.*|webhook-.*"
)
_SECRET = re.compile(r"(?i)authorization|cookie|.*(api-?key|token|secret|password).*")


def read_headers(reader: Arguments, context: DestinationContext, *, private: bool) -> dict[str, str]:
    """What `Headers` and the file of `HeadersFile` say. `private`: nobody can read along. Raises `DestinationError`."""
    headers = list(reader.strings("Headers").items())
    _check(reader, "Headers", headers)
    text = read_secret(reader, "HeadersFile", context, leaves=True)
    if text and not private:
        raise reader.wrong("HeadersFile", "its secrets would go out in the clear", "use https:")
    lines = [line.partition(":") for line in text.splitlines() if line.strip()]
    secret = [(name.strip(), value.strip()) for name, _, value in lines]
    _check(reader, "HeadersFile", secret, secret=True)
    return dict(headers + secret)


def read_signing_keys(reader: Arguments, context: DestinationContext) -> list[bytes]:
    """The keys in the file of `SecretFile`; none without it. Raises `DestinationError`."""
    text = read_secret(reader, "SecretFile", context)
    if "SecretFile" not in reader:
        return []
    try:
        return read_keys(text)
    except ValueError:
        cause = "the file of SecretFile has something else than secrets of web hooks"
        fix = 'write whsec_ and then base64 of 24 to 64 bytes: `echo "whsec_$(openssl rand -base64 32)"` makes one'
        raise reader.wrong("SecretFile", cause, fix) from None


def _check(reader: Arguments, argument: str, headers: list[tuple[str, str]], *, secret: bool = False) -> None:
    """Raises `DestinationError`. No message shows a value."""
    for place, (name, value) in enumerate(headers, 1):
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            which = f"header {place}" if secret or not _NAME.fullmatch(name) else name
            raise reader.wrong(
                argument, f"{which} of {argument} is no header", "write NAME: VALUE in printable ASCII"
            )
        if _OURS.fullmatch(name):
            raise reader.wrong(argument, f"the header {name} is set by the gateway", "leave it out")
        if not secret and _SECRET.fullmatch(name):
            fix = "write it as a line NAME: VALUE of a file, and name the file with HeadersFile"
            raise reader.wrong(argument, f"the header {name} is a secret, and arguments are shown", fix)
