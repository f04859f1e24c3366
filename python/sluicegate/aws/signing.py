"""Signature version 4 for the one kind of request that the hot operations make: POST of AWS's JSON to a fixed URL.

The same headers and signatures as botocore's (tests compare them), at a fraction of the work: nothing is parsed or
sorted, and the signing key is derived once a day.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from dataclasses import dataclass
from urllib.parse import SplitResult, quote, urlsplit

from sluicegate.aws.credentials import Keys

_ALGORITHM = "AWS4-HMAC-SHA256"


@dataclass(frozen=True)
class Protocol:
    """How a service is spoken to: its name, the prefix of x-amz-target, the version of AWS's JSON, and whether it once
    spoke another protocol and, asked for it, names its errors as it did there."""

    service: str
    target: str
    version: str
    query_mode: bool = False


SQS = Protocol("sqs", "AmazonSQS", "1.0", query_mode=True)
LOGS = Protocol("logs", "Logs_20140328", "1.1")


class Signer:
    """Signs operations of a service at `url`."""

    def __init__(self, url: str, region: str, protocol: Protocol) -> None:
        parts = urlsplit(url)
        content_type = f"application/x-amz-json-{protocol.version}"
        host = _authority(parts)
        self._fixed = {"Host": host, "Content-Type": content_type}
        self._tail, self._signed_tail = "", "x-amz-target"
        if protocol.query_mode:
            self._fixed["x-amzn-query-mode"] = "true"
            self._tail, self._signed_tail = "x-amzn-query-mode:true\n", "x-amz-target;x-amzn-query-mode"
        path = quote(parts.path or "/", safe="/~")
        self._head = f"POST\n{path}\n\ncontent-type:{content_type}\nhost:{host}\n"
        self._target = protocol.target
        self._scope = (region, protocol.service, "aws4_request")
        self._second, self._stamp = -1, ""
        self._key_of: tuple[Keys, str] | None = None
        self._key = b""

    def headers(self, operation: str, body: bytes, keys: Keys, now: float) -> dict[str, str]:
        """The headers of a request, signature included, without Content-Length. `now` is Unix time."""
        stamp = self._time(int(now))
        target = f"{self._target}.{operation}"
        headers = {**self._fixed, "X-Amz-Date": stamp, "X-Amz-Target": target}
        token, signed = "", f"content-type;host;x-amz-date;{self._signed_tail}"
        if keys.token:
            headers["X-Amz-Security-Token"] = keys.token
            token = f"x-amz-security-token:{keys.token}\n"
            signed = f"content-type;host;x-amz-date;x-amz-security-token;{self._signed_tail}"
        request = (
            f"{self._head}x-amz-date:{stamp}\n{token}x-amz-target:{target}\n{self._tail}"
            f"\n{signed}\n{hashlib.sha256(body).hexdigest()}"
        )
        scope = "/".join((stamp[:8], *self._scope))
        to_sign = f"{_ALGORITHM}\n{stamp}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
        signature = hmac.digest(self._signing_key(keys, stamp[:8]), to_sign.encode(), "sha256").hex()
        headers["Authorization"] = (
            f"{_ALGORITHM} Credential={keys.access_key}/{scope}, SignedHeaders={signed}, Signature={signature}"
        )
        return headers

    def _time(self, second: int) -> str:
        if second != self._second:
            self._second, self._stamp = second, time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(second))
        return self._stamp

    def _signing_key(self, keys: Keys, day: str) -> bytes:
        if self._key_of != (keys, day):
            key = f"AWS4{keys.secret_key}".encode()
            for part in (day, *self._scope):
                key = hmac.digest(key, part.encode(), "sha256")
            self._key_of, self._key = (keys, day), key
        return self._key


def _authority(url: SplitResult) -> str:
    """Host and, unless it is the scheme's own, port."""
    name = f"[{url.hostname}]" if ":" in (url.hostname or "") else url.hostname
    return f"{name}" if url.port in (None, {"http": 80, "https": 443}[url.scheme]) else f"{name}:{url.port}"
