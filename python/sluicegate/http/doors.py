"""What the HTTP doors check before they believe a request: who could have sent it, and how much it is.

On loopback the SNS endpoint and the API let programs without credentials publish, unless `local_access` says less or
more (contract section 8), because whoever reaches loopback runs on this machine. A web page in this machine's browser
reaches loopback too, in two ways, and neither may send packets:

- *Cross-site request*: a page posts a form or a `fetch` to 127.0.0.1. Browsers put `Origin` (and
  `Sec-Fetch-Site`) on those, boto3, curl and other programs do not: a state-changing request that carries
  them is refused. That holds for POST only, which is why nothing that changes anything answers to GET.
- *DNS rebinding*: a page's own name is made to resolve to 127.0.0.1, so that the request is same-origin to
  the browser. Its `Host` header is then that name: on a loopback connection only IP literals and `localhost`
  are accepted, with or without a port, in one header.
"""

import contextlib
import ipaddress
import re
from collections.abc import Iterable
from functools import lru_cache

from starlette.types import Receive, Scope

DISCARD_LIMIT = 16 << 20


class BodyTooLarge(Exception):
    """The request's body is beyond the limit; it was not kept."""


class Disconnected(Exception):
    """The client went away before its body was complete: nobody is left to answer."""


def header(scope: Scope, name: bytes) -> bytes | None:
    """The first header of this (lower case) name."""
    headers: Iterable[tuple[bytes, bytes]] = scope["headers"]
    for key, value in headers:
        if key == name:
            return value
    return None


def refused_host(scope: Scope) -> str | None:
    """Why the `Host` of this request is not believed, or None."""
    server = scope.get("server")
    if not server or not _is_loopback(server[0]):
        return None
    hosts = [value for name, value in scope["headers"] if name == b"host"]
    host = b", ".join(hosts)  # several are believed as little as none
    if _is_local_name(host):
        return None
    shown = host[:100].decode("latin-1")
    return f"Host {shown!r} is refused on loopback: use an IP address or localhost in the URL"


def refused_origin(scope: Scope) -> str | None:
    """Why this request looks like a web page's, or None. For requests that change or send something."""
    site = header(scope, b"sec-fetch-site")
    if header(scope, b"origin") is not None or site not in (None, b"none"):
        return "requests of web pages are refused: this endpoint is for programs on this machine"
    return None


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """The whole body; `BodyTooLarge` when it is beyond `limit` bytes, without ever holding more than that.

    What is beyond the limit is read and thrown away, up to 16 MiB: a client that is still writing its body
    would otherwise see a broken connection in place of the answer.
    """
    length = header(scope, b"content-length")
    announced = int(length) if length is not None and length.isdigit() and len(length) < 19 else 0
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise Disconnected
        part: bytes = message.get("body", b"")
        size += len(part)
        if max(size, announced) <= limit:
            parts.append(part)
        else:
            parts.clear()
        if not message.get("more_body", False):
            break
        if size > DISCARD_LIMIT or announced > DISCARD_LIMIT:
            raise BodyTooLarge
    if max(size, announced) > limit:
        raise BodyTooLarge
    return parts[0] if len(parts) == 1 else b"".join(parts)


async def discard_body(scope: Scope, receive: Receive) -> None:
    """Read the body and keep nothing, so that the client sees the answer and no broken connection."""
    with contextlib.suppress(BodyTooLarge, Disconnected):
        await read_body(scope, receive, 0)


@lru_cache(maxsize=64)
def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([0-9a-z.]+))(?::[0-9]{1,5})?", re.ASCII)
"""An IP literal or a name, and perhaps a port. User information, empty ports and zones have no place here."""


@lru_cache(maxsize=256)
def _is_local_name(host: bytes) -> bool:
    found = _HOST.fullmatch(host.decode("latin-1").lower())
    if found is None:
        return False
    v6, name = found.groups()
    if name == "localhost":
        return True
    try:
        address = ipaddress.IPv6Address(v6) if v6 else ipaddress.IPv4Address(name)
    except ValueError:
        return False
    # Browsers take 0.0.0.0 for this machine, so that pages of others reach us under it.
    return not (getattr(address, "ipv4_mapped", None) or address).is_unspecified
