"""Signatures that boto3 makes, and what is done to them on the way."""

import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3  # type: ignore[import-untyped]
import pytest
from botocore.auth import SigV4Auth  # type: ignore[import-untyped]
from botocore.awsrequest import AWSRequest  # type: ignore[import-untyped]
from botocore.credentials import Credentials  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.sources.local.signature import SigV4, _parse_time
from sluicegate.sources.local.xml import SnsError
from sluicegate.state.keys import AccessKey, KeyFile

KEY = AccessKey("SGAKEXAMPLE", "boto", frozenset({"publish"}), "2026-01-01T00:00:00Z", "the-secret")
URL = "http://192.0.2.1:4566/"
BODY = b"Action=Publish&Message=hello"


class One:
    """One access key."""

    def __init__(self, key: AccessKey = KEY) -> None:
        self._key = key

    def api_key(self, key_id: str) -> None:
        return None

    def access_key(self, key_id: str) -> AccessKey | None:
        return self._key if key_id == self._key.id else None


def signed(
    url: str = URL,
    body: bytes = BODY,
    *,
    secret: str = KEY.secret,
    key_id: str = KEY.id,
    service: str = "sns",
    headers: dict[str, str] | None = None,
) -> dict[str, Any]:
    """The ASGI scope of a request that botocore has signed."""
    request = AWSRequest("POST", url, headers=headers or {}, data=body)
    SigV4Auth(Credentials(key_id, secret), service, "us-east-1").add_auth(request)
    parts = urllib.parse.urlsplit(url)
    sent = {"host": parts.netloc, **{name.lower(): value for name, value in request.headers.items()}}
    return {
        "type": "http",
        "method": "POST",
        "path": urllib.parse.unquote(parts.path),
        "raw_path": parts.path.encode(),
        "query_string": parts.query.encode(),
        "headers": [(name.encode(), str(value).encode()) for name, value in sent.items()],
    }


def changed(scope: dict[str, Any], name: str, value: str | None) -> dict[str, Any]:
    """The scope with another value of a header, or without it."""
    headers = [(key, old) for key, old in scope["headers"] if key != name.encode()]
    return {**scope, "headers": headers + ([(name.encode(), value.encode())] if value is not None else [])}


def refusal(scope: dict[str, Any], body: bytes = BODY, *, later: float = 0.0) -> tuple[str, int, str]:
    at = _parse_time(dict(scope["headers"]).get(b"x-amz-date", b"").decode())
    with pytest.raises(SnsError) as caught:
        SigV4(One(), clock=lambda: (at or 0.0) + later).verify(scope, body)
    return caught.value.code, caught.value.status, caught.value.message


def test_what_botocore_signs_is_accepted() -> None:
    assert SigV4(One()).verify(signed(), BODY) is KEY
    headers = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8", "X-Amz-Target": " a   b "}
    assert SigV4(One()).verify(signed(headers=headers), BODY) is KEY


@given(
    path=st.text(st.sampled_from("ab/.%20~-é"), max_size=12),
    query=st.dictionaries(st.text("abc", min_size=1, max_size=3), st.text("xyz ~é", max_size=4), max_size=3),
    body=st.binary(max_size=64),
)
def test_any_url_and_body_that_botocore_signs(path: str, query: dict[str, str], body: bytes) -> None:
    url = URL + urllib.parse.quote(path, safe="/.~-")
    if query:
        url += "?" + urllib.parse.urlencode(query, quote_via=urllib.parse.quote)
    assert SigV4(One()).verify(signed(url, body), body) is KEY


def test_an_altered_body() -> None:
    assert refusal(signed(), BODY + b"!")[:2] == ("SignatureDoesNotMatch", 403)


@pytest.mark.parametrize(
    ("name", "value"), [("host", "other"), ("x-amz-date", "20200101T000000Z"), ("x-amz-added", "1")]
)
def test_an_altered_header(name: str, value: str) -> None:
    assert refusal(changed(signed(), name, value))[0] == "SignatureDoesNotMatch"


def test_an_altered_path_method_or_query() -> None:
    for change in ({"raw_path": b"/other"}, {"method": "GET"}, {"query_string": b"Action=DeleteTopic"}):
        assert refusal({**signed(), **change})[0] == "SignatureDoesNotMatch"


def test_a_wrong_secret_and_an_unknown_key() -> None:
    assert refusal(signed(secret="another"))[:2] == ("SignatureDoesNotMatch", 403)
    assert refusal(signed(key_id="SGAKOTHER"))[:2] == ("InvalidClientTokenId", 403)


def test_a_signature_for_another_service() -> None:
    assert "scoped to correct service" in refusal(signed(service="sqs"))[2]


@pytest.mark.parametrize("later", [-290.0, 290.0])
def test_a_clock_that_is_nearly_right(later: float) -> None:
    scope = signed()
    at = _parse_time(dict(scope["headers"])[b"x-amz-date"].decode())
    assert at is not None
    assert SigV4(One(), clock=lambda: at + later).verify(scope, BODY) is KEY


def test_a_request_that_is_replayed_later_or_comes_from_the_future() -> None:
    code, status, message = refusal(signed(), later=301)
    assert (code, status) == ("SignatureDoesNotMatch", 403)
    assert message.startswith("Signature expired: ")
    assert refusal(signed(), later=-301)[2].startswith("Signature not yet current: ")


def test_no_signature_at_all_and_half_of_one() -> None:
    scope = signed()
    assert refusal(changed(scope, "authorization", None))[:2] == ("MissingAuthenticationToken", 403)
    assert refusal(changed(scope, "authorization", "Bearer x"))[0] == "MissingAuthenticationToken"
    authorization = dict(scope["headers"])[b"authorization"].decode()
    for part in ("Credential", "SignedHeaders", "Signature"):
        broken = authorization.replace(part, "Else")
        assert refusal(changed(scope, "authorization", broken))[:2] == ("IncompleteSignature", 400)
    assert refusal(changed(scope, "authorization", authorization.replace("/aws4_request", "")))[1] == 400
    assert refusal(changed(scope, "x-amz-date", None))[:2] == ("IncompleteSignature", 400)


def test_the_host_must_be_signed() -> None:
    scope = signed()
    authorization = dict(scope["headers"])[b"authorization"].decode()
    without = changed(scope, "authorization", authorization.replace("host;", ""))
    assert "'Host' or ':authority' must be a 'SignedHeader'" in refusal(without)[2]


def test_the_payload_cannot_be_left_unsigned() -> None:
    scope = signed(headers={"X-Amz-Content-SHA256": "UNSIGNED-PAYLOAD"})
    assert refusal(scope)[0] == "SignatureDoesNotMatch"


@pytest.mark.parametrize(
    ("scopes", "allowed"),
    [
        ({"publish"}, {"Publish", "PublishBatch", "ListTopics", "GetTopicAttributes"}),
        ({"read"}, {"ListTopics", "GetTopicAttributes"}),
        (
            {"admin"},
            {"Publish", "PublishBatch", "ListTopics", "GetTopicAttributes", "CreateTopic", "DeleteTopic"},
        ),
    ],
)
def test_what_a_key_may_do(scopes: Any, allowed: set[str]) -> None:
    key = AccessKey(KEY.id, KEY.name, frozenset(scopes), KEY.created_at, KEY.secret)
    may = SigV4(One(key))(signed())(BODY)
    actions = {"Publish", "PublishBatch", "ListTopics", "GetTopicAttributes", "CreateTopic", "DeleteTopic"}
    assert {action for action in actions if may(action)} == allowed


@pytest.fixture
def keys(tmp_path: Path) -> Iterator[KeyFile]:
    return KeyFile(tmp_path / "keys")


def test_boto3_itself(keys: KeyFile) -> None:
    """What a client really sends, taken just before it would leave."""
    key = keys.create_access_key("boto", frozenset({"publish"}))
    sent: list[Any] = []
    sns = boto3.client(
        "sns",
        endpoint_url=URL,
        region_name="eu-west-1",
        aws_access_key_id=key.id,
        aws_secret_access_key=key.secret,
    )

    def take(request: Any, **_: Any) -> Any:
        sent.append(request)
        raise RuntimeError("taken")

    sns.meta.events.register("before-send", take)
    with pytest.raises(RuntimeError, match="taken"):
        sns.publish(TopicArn="arn:aws:sns:eu-west-1:000000000000:t", Message="naïve ☃ &=%")
    request = sent[0]
    headers = {
        "host": "192.0.2.1:4566",
        **{name.lower(): _text(value) for name, value in request.headers.items()},
    }
    scope = {
        "method": request.method,
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    body = request.body if isinstance(request.body, bytes) else request.body.encode()
    assert SigV4(keys).verify(scope, body).id == key.id


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
