"""What the loopback HTTP doors check before they believe a request: who could have sent it, and how much it
is.

The SNS endpoint and the API ask for no credentials on loopback, because whoever reaches loopback runs on this
machine. A web page in this machine's browser reaches loopback too, in two ways, and neither may send packets:

- *Cross-site request*: a page posts a form or a `fetch` to 127.0.0.1. Browsers put `Origin` (and
  `Sec-Fetch-Site`) on those, boto3, curl and other programs do not: a state-changing request that carries
  them is refused. That holds for POST only, which is why nothing that changes anything answers to GET.
- *DNS rebinding*: a page's own name is made to resolve to 127.0.0.1, so that the request is same-origin to
  the browser. Its `Host` header is then that name: on a loopback connection only IP literals and `localhost`
  are accepted.
"""

import ipaddress
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
    host = header(scope, b"host") or b""
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


@lru_cache(maxsize=64)
def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


@lru_cache(maxsize=256)
def _is_local_name(host: bytes) -> bool:
    name = host.decode("latin-1").lower()
    if name.startswith("["):
        name = name[1:].partition("]")[0]
    elif name.count(":") == 1:
        name = name.partition(":")[0]
    if name == "localhost":
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
