"""What goes out by hand next to what botocore sends for the same call at the same moment."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlsplit

import botocore.auth  # type: ignore[import-untyped]
import botocore.session  # type: ignore[import-untyped]
import pytest
from botocore import xform_name
from botocore.awsrequest import AWSResponse  # type: ignore[import-untyped]
from botocore.config import Config  # type: ignore[import-untyped]
from botocore.parsers import ResponseParserError  # type: ignore[import-untyped]

from sluicegate.aws.credentials import Keys
from sluicegate.aws.http import DirectHost
from sluicegate.aws.service import Take
from sluicegate.httpclient import Answer, Host

KEYS = Keys("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", None)
SESSION = KEYS._replace(token="IQoJb3JpZ2luX2VjEXAMPLE//////////wEaCXVzLWVhc3QtMSJ" + "x+/=" * 40)


@dataclass
class Request:
    """What goes out. Header names are lower case."""

    method: str
    url: str
    headers: dict[str, str]
    body: bytes

    @property
    def signed(self) -> list[str]:
        return self.headers["authorization"].split("SignedHeaders=")[1].split(",")[0].split(";")


def record(monkeypatch: pytest.MonkeyPatch, answer: Callable[[Request], Answer]) -> list[Request]:
    """What goes out by hand, from now on, answered like this."""
    made: list[Request] = []

    async def post(
        host: Host | DirectHost, headers: Mapping[str, str], body: bytes, seconds: float
    ) -> Answer:
        return note("POST", host.url, headers, body)

    async def request(
        host: Host,
        method: str,
        headers: Mapping[str, str],
        body: bytes,
        seconds: float,
        *,
        path: str,
        take: Take | None = None,
    ) -> Answer:
        given = note(method, urlsplit(host.url)._replace(path=path).geturl(), headers, body)
        if take is not None:
            await take(given.body)
        return given

    def note(method: str, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        made.append(Request(method, url, {name.lower(): value for name, value in headers.items()}, body))
        return answer(made[-1])

    monkeypatch.setattr(DirectHost, "post", post)
    monkeypatch.setattr(Host, "request", request)
    return made


class Theirs:
    """botocore's requests, signed at the moment that its clock is set to."""

    def __init__(self, region: str, endpoint: str | None, **options: Any) -> None:
        self.region, self.endpoint, self.options = region, endpoint, options
        self.made: list[Request] = []
        self._clients: dict[str, Any] = {}

    def call(self, service: str, operation: str, params: Mapping[str, Any]) -> Request:
        if service not in self._clients:
            session = botocore.session.get_session()
            if service == "cloudwatch":  # botocore prefers a binary protocol, for this service alone
                model = session.get_component("data_loader").load_service_model(service, "service-2")
                model["metadata"]["protocols"] = ["json"]
            client = session.create_client(
                service,
                region_name=self.region,
                endpoint_url=self.endpoint,
                config=Config(proxies={}, **self.options),
            )
            client.meta.events.register("before-send", self._take)
            client.meta.events.register("before-call.apigatewaymanagementapi", _as_json)
            self._clients[service] = client
        with suppress(ResponseParserError):  # the answer is empty
            getattr(self._clients[service], xform_name(operation))(**params)
        return self.made[-1]

    def _take(self, request: Any, **_: Any) -> AWSResponse:
        headers = {name.lower(): _text(value) for name, value in request.headers.items()}
        headers["host"] = botocore.auth._host_from_url(request.url)
        body = request.body.encode() if isinstance(request.body, str) else request.body
        body = body if isinstance(body, bytes) else body.read()
        self.made.append(Request(request.method, request.url, headers, body))
        return AWSResponse(request.url, 200, {}, _Raw())


def _as_json(params: dict[str, Any], **_: Any) -> None:
    params["headers"].setdefault("Content-Type", "application/json")


class _Raw:
    def stream(self) -> list[bytes]:
        return [b""]


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def set_botocores_clock(monkeypatch: pytest.MonkeyPatch, stamp: str) -> None:
    moment = datetime.strptime(stamp, "%Y%m%dT%H%M%SZ")
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda: moment)


def assert_same(ours: Request, theirs: Request) -> None:
    """Method, URL as it goes out, and all that is signed."""
    assert ours.method == theirs.method
    assert quote(ours.url, safe="/%:@[]!$&'()*+,;=~").rstrip("/") == quote(
        theirs.url, safe="/%:@[]!$&'()*+,;=~"
    ).rstrip("/")
    assert ours.signed == theirs.signed
    assert all(ours.headers[name] == theirs.headers[name] for name in ours.signed)
