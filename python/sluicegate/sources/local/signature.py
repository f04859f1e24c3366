"""AWS Signature Version 4, checked as SNS checks it: with its error codes, its words, and its five minutes.

The signature covers method, path, query, the headers that it names and the whole body, under a key that is derived
from the secret for one day, region and service. What is not covered is not believed: `Host`, every `x-amz-` header and
the time must be among the signed ones, and the body is hashed here whatever the request says of it. A request that is
sent again within the five minutes passes, as it does in AWS: two equal publishes within a second are one signature.
"""

import hashlib
import hmac
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from urllib.parse import quote

from starlette.types import Scope

from sluicegate.sources.local.xml import SnsError
from sluicegate.state.keys import AccessKey, KeyScope, KeysError, KeyStore

SKEW_SECONDS = 300  # SNS's
SERVICE = "sns"
_ALGORITHM = "AWS4-HMAC-SHA256"
_TIME = "%Y%m%dT%H%M%SZ"
_READING = ("GetTopicAttributes", "ListTopics")
_PUBLISHING = ("Publish", "PublishBatch")
_PART = re.compile(r"(Credential|SignedHeaders|Signature)=([^,\s]+)")

_MISMATCH = (
    "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key "
    "and signing method. Consult the service documentation for details."
)


class SigV4:
    """Checks requests against access keys. Called as `endpoint.Authorize`: who may do what, or an `SnsError`."""

    def __init__(self, keys: KeyStore, *, clock: Callable[[], float] = time.time) -> None:
        self._keys = keys
        self._clock = clock

    def __call__(self, scope: Scope) -> Callable[[bytes], Callable[[str], bool]]:
        """Check what a request says of its signature. The answer checks the signature itself, with the body, and tells
        of each action whether its signer may do it. Both raise `SnsError`."""
        check = self._claim(scope)

        def may(body: bytes) -> Callable[[str], bool]:
            key = check(body)
            return lambda action: _may(key, action)

        return may

    def verify(self, scope: Scope, body: bytes) -> AccessKey:
        """The key that signed this request. Raises `SnsError`."""
        return self._claim(scope)(body)

    def _claim(self, scope: Scope) -> Callable[[bytes], AccessKey]:
        headers = _headers(scope)
        credential, signed, signature = _authorization(headers)
        key_id, day, region, service = _credential(credential)
        key = self._key(key_id)
        sent = self._time(headers, signed)
        if day != sent[:8]:
            raise _refused(
                f"Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: "
                f"'{day}' != '{sent[:8]}', from '{sent}'."
            )
        if service != SERVICE:
            raise _refused(f"Credential should be scoped to correct service: '{SERVICE}'.")
        _check_signed(headers, signed)

        def check(body: bytes) -> AccessKey:
            digest = _body_digest(headers, body)
            request = _canonical_request(scope, headers, signed, digest)
            text = "\n".join(
                (_ALGORITHM, sent, f"{day}/{region}/{SERVICE}/aws4_request", _sha256(request.encode()))
            )
            expected = _hmac(_signing_key(key.secret, day, region), text).hex()
            if not hmac.compare_digest(expected.encode(), signature.encode()):
                raise _refused(_MISMATCH)
            return key

        return check

    def _key(self, key_id: str) -> AccessKey:
        try:
            key = self._keys.access_key(key_id)
        except KeysError as error:
            raise SnsError("InternalError", str(error), 500) from None
        if key is None:
            raise SnsError(
                "InvalidClientTokenId", "The security token included in the request is invalid.", 403
            )
        return key

    def _time(self, headers: dict[str, str], signed: list[str]) -> str:
        """When the request was signed, in the basic ISO form."""
        sent = headers.get("x-amz-date")
        if sent is None and "date" in signed:
            sent = _from_http_date(headers.get("date", ""))
        at = _parse_time(sent or "")
        if sent is None or at is None:
            raise SnsError(
                "IncompleteSignature",
                "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header.",
            )
        now = self._clock()
        shown = datetime.fromtimestamp(now, UTC).strftime(_TIME)
        if at < now - SKEW_SECONDS:
            raise _refused(
                f"Signature expired: {sent} is now earlier than 5 min. before {shown}; set the clock"
            )
        if at > now + SKEW_SECONDS:
            raise _refused(
                f"Signature not yet current: {sent} is still later than 5 min. after {shown}; set the clock"
            )
        return sent


def action_scope(action: str) -> KeyScope:
    """The scope of the access key that an action needs."""
    if action in _PUBLISHING:
        return "publish"
    return "read" if action in _READING else "admin"


def _may(key: AccessKey, action: str) -> bool:
    scope = action_scope(action)
    return key.may(scope) or (scope == "read" and key.may("publish"))


def _headers(scope: Scope) -> dict[str, str]:
    """Lower-case name → value; several of one name are joined as they are signed."""
    joined: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1"), " ".join(raw_value.decode("latin-1").split())
        joined[name] = f"{joined[name]},{value}" if name in joined else value
    return joined


def _authorization(headers: dict[str, str]) -> tuple[str, list[str], str]:
    """`(credential, signed header names, signature)`."""
    text = headers.get("authorization", "")
    if not text.startswith(_ALGORITHM):
        raise SnsError("MissingAuthenticationToken", "Request is missing Authentication Token", 403)
    parts = dict(_PART.findall(text))
    for name in ("Credential", "SignedHeaders", "Signature"):
        if name not in parts:
            raise SnsError("IncompleteSignature", f"Authorization header requires '{name}' parameter.")
    return parts["Credential"], parts["SignedHeaders"].split(";"), parts["Signature"]


def _credential(text: str) -> tuple[str, str, str, str]:
    parts = text.split("/")
    if len(parts) != 5 or parts[4] != "aws4_request":
        message = (
            "Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term"
        )
        raise SnsError("IncompleteSignature", f"{message}, got a malformed one.")
    return parts[0], parts[1], parts[2], parts[3]


def _check_signed(headers: dict[str, str], signed: list[str]) -> None:
    if "host" not in signed:
        raise _refused("'Host' or ':authority' must be a 'SignedHeader' in the AWS Authorization.")
    loose = sorted(name for name in headers if name.startswith("x-amz-") and name not in signed)
    if loose:
        raise _refused(
            f"There were headers present in the request which were not signed: {', '.join(loose)[:300]}"
        )
    absent = [name for name in signed if name not in headers]
    if absent or signed != sorted(set(signed)):
        raise _refused(_MISMATCH)


def _body_digest(headers: dict[str, str], body: bytes) -> str:
    """The body's own hash: what the request says of it counts only if it is the same."""
    digest = _sha256(body)
    stated = headers.get("x-amz-content-sha256")
    if stated is not None and not hmac.compare_digest(stated.encode(), digest.encode()):
        raise _refused("The provided 'x-amz-content-sha256' header does not match what was computed.")
    return digest


def _canonical_request(scope: Scope, headers: dict[str, str], signed: list[str], digest: str) -> str:
    raw_path: bytes = scope.get("raw_path") or scope["path"].encode()
    query: bytes = scope.get("query_string", b"")
    pairs = sorted(tuple(pair.partition("=")[::2]) for pair in query.decode("latin-1").split("&") if pair)
    return "\n".join(
        (
            scope["method"],
            quote(_normalized(raw_path.decode("latin-1")), safe="/~"),
            "&".join(f"{name}={value}" for name, value in pairs),
            *(f"{name}:{headers[name]}" for name in signed),
            "",
            ";".join(signed),
            digest,
        )
    )


def _normalized(path: str) -> str:
    """Without `.`, `..` and empty segments (RFC 3986, 5.2.4), as it is signed for every service but S3."""
    kept: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del kept[-1:]
        elif part not in ("", "."):
            kept.append(part)
    ending = "/" if kept and path.endswith("/") else ""
    return "/" + "/".join(kept) + ending


@lru_cache(maxsize=256)
def _signing_key(secret: str, day: str, region: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in (day, region, SERVICE, "aws4_request"):
        key = _hmac(key, part)
    return key


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _from_http_date(text: str) -> str | None:
    try:
        return parsedate_to_datetime(text).astimezone(UTC).strftime(_TIME)
    except (ValueError, TypeError):
        return None


def _parse_time(text: str) -> float | None:
    try:
        return datetime.strptime(text, _TIME).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None


def _refused(message: str) -> SnsError:
    return SnsError("SignatureDoesNotMatch", message, 403)
