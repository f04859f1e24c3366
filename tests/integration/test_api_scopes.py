"""The API of a real gateway against its own description: asked with every key, and searched for secrets."""

import json
from collections.abc import Iterator

import httpx
import pytest
from harness import HANG_SECONDS, LOOPBACK, PROGRAM, TOPIC, Gateway, Process

from conftest import StartGateway

CONFIG = f"""
listeners: [{{ name: filed, bind: 127.0.0.1 }}]
packet_sources:
  - name: replies
    listener_name: filed
    sns_topic_source: {{ topic_arn: "{TOPIC}" }}
    egress_networks: {LOOPBACK}
"""
KNOWN = {"Name": "known", "Bind": "127.0.0.1"}
SCOPES = ("read", "publish", "admin")


def make_key(gateway: Gateway, scope: str) -> str:
    command = [PROGRAM, "keys", "create", gateway.file, "--name", scope, "--scope", scope, "--output", "json"]
    process = Process(command, gateway.directory)
    try:
        assert process.wait() == 0, process.stderr.text
        return str(json.loads(process.stdout.text)["Key"])
    finally:
        process.close()


@pytest.fixture
def public(gateway: StartGateway) -> Gateway:
    """A gateway that asks for keys."""
    one = gateway(CONFIG, start=False)
    address = one.api_url.removeprefix("http://")
    text = one.file.read_text()
    one.file.write_text(
        text.replace(f"bind: {address} ", f"bind: {address.replace('127.0.0.1', '0.0.0.0')} ")
    )
    return one.start()


@pytest.fixture
def keys(public: Gateway) -> dict[str, str]:
    return {scope: make_key(public, scope) for scope in SCOPES}


@pytest.fixture
def http(public: Gateway) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=public.api_url, timeout=HANG_SECONDS, trust_env=False) as client:
        yield client


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_every_operation_refuses_without_the_scope_that_it_names(
    public: Gateway, keys: dict[str, str], http: httpx.Client
) -> None:
    document = http.get("/v1/openapi.json", headers=bearer(keys["admin"])).json()
    seen = set()
    for path, operations in document["paths"].items():
        place = path.format(name="replies", key="x", kind="Listener")
        for method in operations.keys() - {"parameters"}:
            call = f"{method} {path}"

            def status(key: str | None, method: str = method, place: str = place) -> int:
                headers = bearer(key) if key else {}
                # Not JSON: who may ask is answered 400 at most, and nothing changes.
                content = b"?" if method in ("post", "put") else None
                with http.stream(method.upper(), place, headers=headers, content=content) as answer:
                    return answer.status_code

            security = operations[method]["security"]
            if path == "/healthz":
                assert (security, status(None)) == ([], 200)
                continue
            wanted = "publish" if path.endswith("/messages") else "read" if method == "get" else "admin"
            assert security == [{}, {"key": [wanted]}], call
            seen.add(wanted)
            assert status(None) == 401, call
            assert status(keys["admin"][:-2] + "xx") == 401, call
            for scope in SCOPES:
                if scope in (wanted, "admin"):
                    assert status(keys[scope]) not in (401, 403), (call, scope)
                else:
                    assert status(keys[scope]) == 403, (call, scope)
    assert seen == set(SCOPES)


def test_keys_that_are_presented_show_nowhere(
    public: Gateway, keys: dict[str, str], http: httpx.Client
) -> None:
    marked = dict(keys) | {"unknown": "sg_0123456789_marked-marked-marked"}
    answers = []
    for key in marked.values():
        for method, place in (("GET", "/v1/listeners"), ("GET", "/metrics"), ("POST", "/v1/listeners")):
            body = KNOWN if method == "POST" else None
            answers.append(http.request(method, place, json=body, headers=bearer(key)))
            answers.append(http.request(method, place, content=key, headers={"X-Api-Key": key}))
    assert {answer.status_code for answer in answers} >= {200, 201, 400, 401, 403}
    public.stop()
    places = {
        "an answer": "".join(answer.text + str(answer.headers) for answer in answers),
        "the events": public.process.stdout.text,
        "the log": public.process.stderr.text,
        **{
            path.name: path.read_bytes().decode("latin-1")
            for path in public.directory.iterdir()
            if path.is_file()
        },
    }
    assert "sluicegate.db.keys" in places
    for place, text in places.items():
        for name, key in marked.items():
            secret = key.split("_", 2)[2]
            assert secret not in text, f"the key {name} shows in {place}"
