"""The API of a real gateway against its own description: whatever is asked, nothing fails inside and each answer is one
that the description names."""

import base64
import time
from collections.abc import Iterator
from typing import Any

import httpx
import hypothesis
import pytest
import schemathesis
from harness import HANG_SECONDS, TOPIC, Gateway, source_of
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, status_code_conformance

from sluicegate.api.openapi import document

CONFIG = f"""
listeners: [{{ name: filed, bind: 127.0.0.1 }}]
{source_of("filed")}
"""
EXAMPLES = 20
PEER = {"PublicKey": base64.b64encode(bytes(range(32))).decode()}
LISTENER = {"Name": "known", "Bind": "127.0.0.1", "Destinations": [{"Name": "sink"}]}
BOUND = {"Destination": "sink", "IngressRegionKey": "*", "Arn": "console:"}
PUSHED = {"Name": "pushed", "ListenerName": "known", "SnsTopicSource": {"TopicArn": TOPIC}}
SEEDS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/listeners", LISTENER),
    ("/v1/listeners", {"Name": "tunnel", "Bind": "127.0.0.1", "Protocols": ["wg"]}),
    ("/v1/listeners", {"Name": "spare", "Bind": "127.0.0.1"}),
    ("/v1/listeners/tunnel/peers", PEER),
    ("/v1/packet-sources", PUSHED),
    ("/v1/destination-arns", BOUND),
]
"""What there is when an operation is asked."""
NAMES = {
    "DELETE /v1/listeners/{name}": "spare",
    "POST /v1/packet-sources/{name}/messages": "replies",
    "/v1/listeners/{name}/": "tunnel",
    "/v1/listeners/": "known",
    "/v1/packet-sources/": "pushed",
    "/v1/topics/": TOPIC,
}
"""The name of what exists, by a part of the operation; the first that fits. DestinationArns have ids of their own."""
BODIES = {
    "/v1/listeners": {"Name": "another", "Bind": "127.0.0.1"},
    "/v1/listeners/{name}": LISTENER | {"Description": "changed"},
    "/v1/listeners/{name}/peers": {"PublicKey": base64.b64encode(bytes(range(1, 33))).decode()},
    "/v1/packet-sources": PUSHED | {"Name": "another"},
    "/v1/packet-sources/{name}": PUSHED | {"Description": "changed"},
    "/v1/packet-sources/{name}/messages": {"Data": "AQID", "Remote": {"Address": "127.0.0.1", "Port": 9}},
    "/v1/topics": {"Name": "another"},
    "/v1/destination-arns": BOUND | {"IngressRegionKey": "eu-west-1"},
    "/v1/destination-arns/{name}": BOUND | {"Arn": "file:sink.ndjson"},
}
"""A body that is taken."""

described = document()
SCHEMA = schemathesis.openapi.from_dict(
    # The answer of /v1/events does not end.
    described | {"paths": {path: one for path, one in described["paths"].items() if path != "/v1/events"}}
)
OPERATIONS = [operation.ok() for operation in SCHEMA.get_all_operations()]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    gateway = Gateway(tmp_path_factory.mktemp("fuzz"), CONFIG).start()
    try:
        yield gateway
    finally:
        gateway.close()


@pytest.fixture(scope="module")
def http(api: Gateway) -> Iterator[httpx.Client]:
    with httpx.Client(
        base_url=api.api_url, headers=api.credentials, timeout=HANG_SECONDS, trust_env=False
    ) as client:
        yield client


@pytest.mark.parametrize("operation", OPERATIONS, ids=[operation.label for operation in OPERATIONS])
def test_whatever_is_asked_nothing_fails_inside(api: Gateway, http: httpx.Client, operation: Any) -> None:
    seed(http)
    path, removes = operation.path, operation.method.upper() == "DELETE"
    name = next((name for part, name in NAMES.items() if part in operation.label), None)
    statuses = set()

    @hypothesis.settings(
        max_examples=EXAMPLES,
        database=None,
        derandomize=True,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(case=operation.as_strategy(), existing=st.booleans(), taken=st.booleans())
    def ask(case: Any, existing: bool, taken: bool) -> None:
        if removes:
            seed(http)
        if existing and "name" in case.path_parameters:
            case.path_parameters["name"] = name or bound(http)
        if existing and "number" in case.path_parameters:
            case.path_parameters["number"] = scheduled(http)
        if existing and "key" in case.path_parameters:
            case.path_parameters["key"] = PEER["PublicKey"].replace("/", "%2F")
        if existing and taken:
            case.headers, case.query, case.body = {}, {}, BODIES.get(path, case.body)
        response = case.call(base_url=api.api_url, headers=api.credentials, timeout=HANG_SECONDS)
        statuses.add(response.status_code)
        case.validate_response(
            response, checks=[not_a_server_error, status_code_conformance, content_type_conformance]
        )

    ask()
    # It has also met what exists: done, or in conflict with it. Without AWS nothing drains.
    assert "/v1/draining/" in operation.label or any(status < 300 or status == 409 for status in statuses), (
        statuses
    )
    assert http.get("/healthz").status_code == 200
    assert "Traceback" not in api.process.stderr.text


def seed(http: httpx.Client) -> None:
    for path, body in SEEDS:
        made = http.post(path, json=body)
        assert made.status_code in (201, 409), (path, made.text)


def scheduled(http: httpx.Client) -> str:
    """The number of an entry that waits."""
    entry = {"Data": "AQID", "Remote": {"Address": "127.0.0.1", "Port": 9}, "SendAt": time.time() + 3_600}
    done = http.post("/v1/packet-sources/replies/messages", json={"Messages": [entry]}).json()
    query = {"MessageId": done["MessageId"]}
    return str(http.get("/v1/scheduled", params=query).json()["Items"][0]["ScheduledId"])


def bound(http: httpx.Client) -> str:
    """The DestinationArn's id, as a part of a path."""
    ids = [
        one["Id"]
        for one in http.get("/v1/destination-arns").json()["Items"]
        if one["IngressRegionKey"] == "*"
    ]
    return str(ids[0]).replace("/", "%2F")
