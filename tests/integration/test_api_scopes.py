"""The API of a real gateway against its own description: asked with every key, and searched for secrets."""

from collections.abc import Iterator

import httpx
import pytest
from harness import HANG_SECONDS, Gateway
from test_api_keys import key
from test_api_keys import public as public

KNOWN = {"Name": "known", "Bind": "127.0.0.1"}
SCOPES = ("read", "publish", "admin")


@pytest.fixture
def keys(public: Gateway) -> dict[str, str]:
    return {scope: key(public, scope)["Key"] for scope in SCOPES}


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
        place = path.format(name="replies", key="x", kind="Listener", number="1")
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
            names = call == "get /v1/packet-sources"  # a key that may publish sees to what
            allowed = (wanted, "publish") if names else (wanted,)
            assert security == [{}, *({"key": [one]} for one in allowed)], call
            seen.add(wanted)
            assert status(None) == 401, call
            assert status(keys["admin"][:-2] + "xx") == 401, call
            for scope in SCOPES:
                if scope in (*allowed, "admin"):
                    assert status(keys[scope]) not in (401, 403), (call, scope)
                else:
                    assert status(keys[scope]) == 403, (call, scope)
    assert seen == set(SCOPES)


def test_keys_that_are_presented_show_nowhere(
    public: Gateway, keys: dict[str, str], http: httpx.Client
) -> None:
    marked = dict(keys) | {"unknown": "sg_0123456789_marked-marked-marked"}
    answers = []
    for one in marked.values():
        for method, place in (("GET", "/v1/listeners"), ("GET", "/metrics"), ("POST", "/v1/listeners")):
            body = KNOWN if method == "POST" else None
            answers.append(http.request(method, place, json=body, headers=bearer(one)))
            answers.append(http.request(method, place, content=one, headers={"X-Api-Key": one}))
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
        for name, one in marked.items():
            secret = one.split("_", 2)[2]
            assert secret not in text, f"the key {name} shows in {place}"
