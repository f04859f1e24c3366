"""Whose name the calls are made in: where it comes from, how long it lasts, and that its secrets stay secret."""

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aws_server import ACCOUNT, EMPTY, SECRET, TOKEN, Server, answer, failure, hang_up, refusal

from sluicegate.aws import Aws, Role
from sluicegate.aws import credentials as aws_credentials

pytestmark = pytest.mark.usefixtures("aws_keys")
ROLE = f"arn:aws:iam::{ACCOUNT}:role"


def issue(tmp_path: Path, key: str) -> None:
    """Let the profile's program give out `key` from now on."""
    found = {"Version": 1, "AccessKeyId": key, "SecretAccessKey": SECRET, "SessionToken": TOKEN}
    (tmp_path / "issued.json").write_text(json.dumps({**found, "Expiration": "2999-01-01T00:00:00Z"}))
    command = f"{sys.executable} -c \"print(open('{tmp_path}/issued.json').read())\""
    (tmp_path / "config").write_text(f"[default]\ncredential_process = {command}\n")


@pytest.fixture
def no_keys(aws_keys: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)


@pytest.mark.usefixtures("no_keys")
async def test_expired_credentials_are_replaced_at_once(aws_server: Server, tmp_path: Path) -> None:
    issue(tmp_path, "AKIDONE")
    aws_server.answers = [answer(200, EMPTY)]
    queue = aws_server.queue()
    await queue.receive()
    issue(tmp_path, "AKIDTWO")
    await queue.receive()
    aws_server.answers = [
        refusal("ExpiredTokenException", "The security token has expired"),
        answer(200, EMPTY),
    ]
    assert await queue.receive() == []
    used = [
        re.findall(r"Credential=(\w+)/", headers["authorization"])[0] for _, headers, _ in aws_server.requests
    ]
    assert used == ["AKIDONE", "AKIDONE", "AKIDONE", "AKIDTWO"]


async def test_credentials_that_stay_expired(aws_server: Server) -> None:
    aws_server.answers = [refusal("ExpiredTokenException", "The security token has expired")]
    error = await failure(aws_server.queue().receive())
    assert error.code == "ExpiredTokenException"
    assert len(aws_server.requests) == 2


@pytest.fixture
async def elsewhere(no_keys: None, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Server]:
    """Where every request goes that does not go to the configured endpoint: a proxy that only records."""
    made = await Server().start()
    made.answers = [hang_up]
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, made.url)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    yield made
    await made.stop()


def web_identity(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "token").write_text("a.web.identity")
    return {"AWS_WEB_IDENTITY_TOKEN_FILE": str(tmp_path / "token"), "AWS_ROLE_ARN": f"{ROLE}/web"}


def profile_with_source(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "credentials").write_text(
        f"[keys]\naws_access_key_id=AKIDKEYS\naws_secret_access_key={SECRET}\n"
    )
    (tmp_path / "config").write_text(f"[profile role]\nrole_arn={ROLE}/profile\nsource_profile=keys\n")
    return {"AWS_PROFILE": "role"}


def profile_of_a_container(tmp_path: Path) -> dict[str, str]:
    described = f"role_arn={ROLE}/profile\ncredential_source=EcsContainer\n"
    (tmp_path / "config").write_text(f"[profile role]\n{described}")
    return {"AWS_PROFILE": "role"}


def profile_over_a_web_identity(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "token").write_text("a.web.identity")
    web = f"[profile web]\nrole_arn={ROLE}/web\nweb_identity_token_file={tmp_path}/token\n"
    (tmp_path / "config").write_text(f"{web}[profile role]\nrole_arn={ROLE}/second\nsource_profile=web\n")
    return {"AWS_PROFILE": "role"}


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        (web_identity, ["AssumeRoleWithWebIdentity"]),
        (profile_with_source, ["AssumeRole"]),
        (profile_of_a_container, ["AssumeRole"]),
        (profile_over_a_web_identity, ["AssumeRoleWithWebIdentity", "AssumeRole"]),
    ],
)
async def test_sts_behind_credentials_is_asked_at_the_configured_endpoint(
    aws_server: Server,
    elsewhere: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: Callable[[Path], dict[str, str]],
    asked: list[str],
) -> None:
    for name, value in given(tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{aws_server.url}/credentials")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line, _, body = aws_server.requests[-1]
        if line.startswith("GET"):  # the container's
            keys = {"AccessKeyId": "AKIDBOX", "SecretAccessKey": SECRET, "Token": TOKEN}
            writer.write(answer(200, json.dumps({**keys, "Expiration": "2999-01-01T00:00:00Z"}).encode()))
            return
        found = re.search(rb"Action=(\w+)", body)
        said = assumed("ROLEKEY", 3600, found[1].decode()) if found else answer(200, EMPTY)
        writer.write(said)

    aws_server.answers = [serve]
    assert await aws_server.queue().receive() == []
    assert elsewhere.requests == []
    actions = [re.search(rb"Action=(\w+)", body) for _, _, body in aws_server.requests]
    assert [found[1].decode() for found in actions if found] == asked
    assert "Credential=ROLEKEY/" in aws_server.requests[-1][1]["authorization"]


async def test_a_refusal_behind_credentials_names_the_call_that_was_refused(
    aws_server: Server, elsewhere: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in web_identity(tmp_path).items():
        monkeypatch.setenv(name, value)
    body = (
        b"<ErrorResponse><Error><Code>AccessDenied</Code><Message>not yours</Message></Error></ErrorResponse>"
    )
    aws_server.answers = [answer(403, body, "Content-Type: text/xml")]
    error = await failure(aws_server.queue().receive())
    assert (error.service, error.operation) == ("sts", "AssumeRoleWithWebIdentity")
    assert elsewhere.requests == []


def assumed(key: str, seconds: float, action: str = "AssumeRole") -> bytes:
    """STS's answer: a session with this key, which lasts so long."""
    end = datetime.now(UTC) + timedelta(seconds=seconds)
    return answer(
        200,
        f"<{action}Response><{action}Result><Credentials><AccessKeyId>{key}</AccessKeyId>"
        f"<SecretAccessKey>{SECRET}</SecretAccessKey><SessionToken>{TOKEN}</SessionToken>"
        f"<Expiration>{end.isoformat()}</Expiration></Credentials></{action}Result></{action}Response>".encode(),
        "Content-Type: text/xml",
    )


async def test_a_session_of_a_role_is_kept_and_replaced_before_it_expires(
    aws_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aws_credentials, "CHECK_SECONDS", 0.0)
    sessions = [assumed("ROLEONE", 300), assumed("ROLETWO", 3600)]
    bodies: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, headers, body = aws_server.requests[-1]
        if b"Action=AssumeRole" in body:
            assert "Credential=AKIDEXAMPLE/" in headers["authorization"]
            bodies.append(body.decode())
            writer.write(sessions.pop(0))
        else:
            assert headers["x-amz-security-token"] == TOKEN
            writer.write(answer(200, EMPTY))

    aws_server.answers = [serve]
    name = "sluicegate-us-east-1@123456789012-src-replies"
    role = Role("arn:aws:iam::123456789012:role/replies", name, 1800)
    aws = Aws("us-east-1", aws_server.url)
    queue = aws.queue(f"{aws_server.url}/{ACCOUNT}/replies", role=role)
    await queue.receive()
    assert "Credential=ROLEONE/" in aws_server.requests[-1][1]["authorization"]
    while "Credential=ROLETWO/" not in aws_server.requests[-1][1]["authorization"]:
        await queue.receive()
    for _ in range(5):
        await queue.receive()
    assert len(bodies) == 2
    assert "RoleSessionName=sluicegate-us-east-1%40123456789012-src-replies" in bodies[0]
    assert "DurationSeconds=1800" in bodies[0]
    await aws.close()


async def test_the_shortest_session_is_not_opened_again_with_every_call(
    aws_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lasts for the 15 minutes that botocore would begin to renew it in."""
    monkeypatch.setattr(aws_credentials, "CHECK_SECONDS", 0.0)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sts = b"Action=AssumeRole" in aws_server.requests[-1][2]
        writer.write(assumed("ROLEONE", 900) if sts else answer(200, EMPTY))

    aws_server.answers = [serve]
    aws = Aws("us-east-1", aws_server.url)
    queue = aws.queue(f"{aws_server.url}/1/q", role=Role("arn:aws:iam::123456789012:role/r", "session", 900))
    for _ in range(5):
        await queue.receive()
    assert sum(b"Action=AssumeRole" in body for _, _, body in aws_server.requests) == 1
    await aws.close()


async def test_a_session_outlives_an_outage_of_sts(
    aws_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aws_credentials, "CHECK_SECONDS", 0.0)
    answers = [assumed("ROLEONE", 300), refusal("ServiceUnavailable", "later", 503)]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sts = b"Action=AssumeRole" in aws_server.requests[-1][2]
        writer.write((answers.pop(0) if len(answers) > 1 else answers[0]) if sts else answer(200, EMPTY))

    aws_server.answers = [serve]
    aws = Aws("us-east-1", aws_server.url)
    queue = aws.queue(f"{aws_server.url}/1/q", role=Role("arn:aws:iam::123456789012:role/r", "session"))
    for _ in range(5):
        assert await queue.receive() == []
        await asyncio.sleep(0.05)
    assert sum(b"Action=AssumeRole" in body for _, _, body in aws_server.requests) > 1
    await aws.close()


@pytest.mark.usefixtures("no_keys")
async def test_no_credentials(aws_server: Server, tmp_path: Path) -> None:
    queue = aws_server.queue()
    error = await failure(queue.receive())
    assert error.code == "NoCredentials"
    assert "no AWS credentials were found; give the gateway" in str(error)
    assert not aws_server.requests
    issue(tmp_path, "AKIDLATE")
    aws_server.answers = [answer(200, EMPTY)]
    assert await queue.receive() == []


async def test_credentials_with_a_line_break(aws_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", f"{TOKEN}\n")
    error = await failure(aws_server.queue().receive())
    assert "the AWS credentials from env contain white space" in str(error)
    assert not aws_server.requests


async def test_a_refusal_that_quotes_the_request(aws_server: Server) -> None:
    quoted = f"The Canonical String should have been 'POST\\n/\\nx-amz-security-token:{TOKEN}'"
    aws_server.answers = [refusal("InvalidSignatureException", quoted, 403)]
    assert "the signature is wrong" in str(await failure(aws_server.queue().receive()))
    aws_server.answers = [refusal("SomethingElse", f"{quoted} {SECRET}", 403)]
    assert "***" in str(await failure(aws_server.queue().receive()))
