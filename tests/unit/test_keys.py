"""API keys: made once, kept as a hash, asked for by method and path; revoked at once."""

import json
import stat
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from sluicegate.cli import main
from sluicegate.http.auth import Access, Authenticated, Authenticator, caller
from sluicegate.state.keys import KeyFile, KeysError


async def seen(request: Request) -> PlainTextResponse:
    return PlainTextResponse(caller(request.scope).name)


def client(keys: KeyFile, *, anonymous: Access | None = None) -> httpx.AsyncClient:
    app = Starlette(
        routes=[Route("/{path:path}", seen, methods=["GET", "POST", "PUT", "DELETE"])],
        middleware=[Middleware(Authenticated, Authenticator(keys, anonymous=anonymous))],
    )
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://192.0.2.1")


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


ALLOWED = {
    "read": {("GET", "/v1/listeners"), ("GET", "/metrics")},
    "publish": {("POST", "/v1/packet-sources/replies/messages")},
}
EVERYTHING = [
    ("GET", "/v1/listeners"),
    ("GET", "/metrics"),
    ("POST", "/v1/packet-sources/replies/messages"),
    ("POST", "/v1/listeners"),
    ("PUT", "/v1/listeners/one"),
    ("DELETE", "/v1/packet-sources/replies"),
    ("POST", "/v1/packet-sources/replies/approve"),
]


@pytest.mark.parametrize("scope", ["read", "publish", "admin"])
async def test_a_scope_opens_its_own_doors_and_no_others(tmp_path: Path, scope: Any) -> None:
    keys = KeyFile(tmp_path / "keys")
    key, text = keys.create_api_key("ci", frozenset({scope}))
    async with client(keys) as http:
        for method, path in EVERYTHING:
            answer = await http.request(method, path, headers=bearer(text))
            may = scope == "admin" or (method, path) in ALLOWED[scope]
            assert answer.status_code == (200 if may else 403), (method, path)
            if may:
                assert answer.text == f"key {key.id} (ci)"
            else:
                assert answer.headers["content-type"] == "application/problem+json"
                assert f"the key ci has: {scope}" in answer.json()["detail"]


async def test_without_a_key_only_health_is_open(tmp_path: Path) -> None:
    keys = KeyFile(tmp_path / "keys")
    keys.create_api_key("ci", frozenset({"admin"}))
    async with client(keys) as http:
        assert (await http.get("/healthz")).status_code == 200
        for method, path in EVERYTHING:
            answer = await http.request(method, path)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
            assert "sluicegate keys create" in answer.json()["detail"]


async def test_loopback_asks_for_nothing(tmp_path: Path) -> None:
    async with client(KeyFile(tmp_path / "keys"), anonymous="admin") as http:
        assert (await http.delete("/v1/listeners/one")).text == "loopback"


async def test_both_headers_and_nothing_but_the_whole_key(tmp_path: Path) -> None:
    keys = KeyFile(tmp_path / "keys")
    _, text = keys.create_api_key("ci", frozenset({"read"}))
    other = keys.create_api_key("other", frozenset({"read"}))[1]
    async with client(keys) as http:
        assert (await http.get("/v1", headers={"X-Api-Key": text})).status_code == 200
        mixed = text[: text.index("_", 3) + 1] + other[other.index("_", 3) + 1 :]
        for wrong in (text[:-1], text + "x", mixed, text.upper(), "sg_", "", "x" * 10_000):
            answer = await http.get("/v1", headers=bearer(wrong))
            assert answer.status_code == 401, wrong
            assert wrong[-20:] not in answer.text or not wrong


async def test_a_key_that_another_process_revokes_is_refused_at_once(tmp_path: Path) -> None:
    gateway, operator = KeyFile(tmp_path / "keys"), KeyFile(tmp_path / "keys")
    async with client(gateway) as http:
        key, text = operator.create_api_key("ci", frozenset({"read"}))
        assert (await http.get("/v1", headers=bearer(text))).status_code == 200
        assert operator.revoke(key.id)
        assert (await http.get("/v1", headers=bearer(text))).status_code == 401
    assert not operator.revoke(key.id)


def test_the_file_holds_no_api_key_and_belongs_to_its_owner(tmp_path: Path) -> None:
    keys = KeyFile(tmp_path / "keys")
    _, text = keys.create_api_key("ci", frozenset({"admin"}))
    access = keys.create_access_key("boto", frozenset({"publish"}))
    kept = keys.path.read_text()
    assert text.split("_", 2)[2] not in kept
    assert stat.S_IMODE(keys.path.stat().st_mode) == 0o600
    assert access.secret not in repr(access)


async def test_a_damaged_file_opens_nothing(tmp_path: Path) -> None:
    keys = KeyFile(tmp_path / "keys")
    _, text = keys.create_api_key("ci", frozenset({"admin"}))
    keys.path.write_text("{")
    async with client(keys) as http:
        answer = await http.get("/v1", headers=bearer(text))
    assert answer.status_code == 503
    assert "is damaged" in answer.json()["detail"]
    with pytest.raises(KeysError, match="is damaged"):
        keys.create_api_key("another", frozenset({"admin"}))


def test_the_commands(tmp_path: Path) -> None:
    config = tmp_path / "gateway.yaml"
    config.write_text("listeners: []\n")
    run = CliRunner().invoke
    made = run(main, ["keys", "create", str(config), "--name", "ci", "--scope", "admin", "--output", "json"])
    assert made.exit_code == 0, made.output
    shown = json.loads(made.output)
    made = run(main, ["keys", "create", str(config), "--name", "boto", "--scope", "publish", "--sns"])
    lines = dict(line.split("=", 1) for line in made.output.splitlines())
    assert KeyFile(tmp_path / "sluicegate.db.keys").access_key(lines["AWS_ACCESS_KEY_ID"])
    listed = run(main, ["keys", "list", str(config)]).output
    assert [line.split()[1] for line in listed.splitlines()] == ["api", "sns"]
    for secret in (shown["Key"], lines["AWS_SECRET_ACCESS_KEY"]):
        assert secret not in listed
    assert run(main, ["keys", "revoke", str(config), shown["Id"]]).output == f"revoked {shown['Id']}\n"
    again = run(main, ["keys", "revoke", str(config), shown["Id"]])
    assert again.exit_code == 1
