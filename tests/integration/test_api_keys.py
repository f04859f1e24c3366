"""An API and an SNS endpoint that others can reach ask everybody for a key, and the audit says whose it was."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import boto3  # type: ignore[import-untyped]
import httpx
import pytest
from botocore.config import Config  # type: ignore[import-untyped]
from botocore.exceptions import ClientError  # type: ignore[import-untyped]
from click.testing import CliRunner
from harness import HANG_SECONDS, PROGRAM, TOPIC, Client, Gateway, Process, run_program, source_of

from conftest import StartGateway
from sluicegate.cli import main

TUNNEL = "{ name: tunnel, protocol: wg, bind: 127.0.0.1, allow_unknown_peers: true }"
CONFIG = f"listeners: [{{ name: decoder, bind: 127.0.0.1 }}, {TUNNEL}]{source_of('decoder')}"
LISTENER = {"Name": "made", "Bind": "127.0.0.1"}


def key(gateway: Gateway, *scopes: str, sns: bool = False) -> dict[str, str]:
    options = [option for scope in scopes for option in ("--scope", scope)] + ["--sns"] * sns
    command = [
        PROGRAM,
        "keys",
        "create",
        gateway.file,
        "--name",
        "-".join(scopes),
        *options,
        "--output",
        "json",
    ]
    process = Process(command, gateway.directory)
    try:
        assert process.wait() == 0, process.stderr.text
        made: dict[str, str] = json.loads(process.stdout.text)
        return made
    finally:
        process.close()


@pytest.fixture
def public(gateway: StartGateway) -> Gateway:
    """A gateway whose API and SNS endpoint are bound to every address."""
    one = gateway(CONFIG, start=False)
    one.bind_to_all(one.api_url, one.sns_url)
    return one.start()


def test_every_endpoint_refuses_without_the_right_scope(public: Gateway) -> None:
    keys = {scope: key(public, scope)["Key"] for scope in ("read", "publish", "admin")}
    message = {"Messages": []}
    calls = {
        "read": [
            ("GET", f"/v1/{kind}", None)
            for kind in (
                "listeners",
                "listeners/decoder",
                "destination-arns",
                "openapi.json",
                "schemas/Listener",
            )
        ]
        + [("GET", "/metrics", None)],
        "publish": [("POST", "/v1/packet-sources/replies/messages", message)],
        "admin": [
            ("POST", "/v1/listeners", LISTENER),
            ("PUT", "/v1/listeners/made", LISTENER),
            ("DELETE", "/v1/listeners/made", None),
            ("POST", "/v1/packet-sources/replies/reject", None),
            ("POST", "/v1/packet-sources/replies/approve", None),
            ("POST", "/v1/reload", None),
        ],
    }
    with httpx.Client(base_url=public.api_url, timeout=HANG_SECONDS, trust_env=False) as http:

        def status(call: tuple[str, str, object], key: str | None) -> int:
            method, path, body = call
            headers = {"Authorization": f"Bearer {key}"} if key else {}
            return http.request(method, path, json=body, headers=headers).status_code

        for scope, wanted in calls.items():
            for call in wanted:
                assert status(call, None) == 401, call
                assert status(call, keys["read"][:-2] + "xx") == 401, call
                for other in {"read", "publish"} - {scope}:
                    assert status(call, keys[other]) == 403, (call, other)
                assert status(call, keys["admin"]) < 300, call
                assert scope == "admin" or status(call, keys[scope]) < 300, call
        assert http.get("/healthz").status_code == 200
        shown = http.get("/v1/packet-sources", headers={"Authorization": f"Bearer {keys['publish']}"}).json()[
            "Items"
        ]
        assert shown == [{"Name": "replies", "ListenerName": "decoder", "State": "Active"}]
        assert len(http.get("/v1/packet-sources", headers={"X-Api-Key": keys["read"]}).json()["Items"][0]) > 3
    variables = {**os.environ, "SLUICEGATE_API_KEY": keys["publish"]}
    command = [PROGRAM, "send", "--api", public.api_url, "--to", "127.0.0.1:9", "--data", "x"]
    sent = run_program(command, cwd="/", env=variables)
    assert "by replies" in sent.stdout, sent.stderr
    actors = {event["Actor"] for event in public.named("ResourceChanged")}
    assert len(actors) == 1
    assert "(admin)" in actors.pop()
    told = public.process.stdout.text + public.process.stderr.text
    assert not [secret for secret in keys.values() if secret in told]


LETTER = {
    "PacketSource": "replies",
    "Index": 0,
    "Reason": "NoSession",
    "At": "2026-06-09T10:00:00.123Z",
    "Entry": {"Data": "AQ==", "Remote": {"Address": "127.0.0.1", "Port": 9}},
}
TEMPLATE = {
    "Resources": {"Entry": {"Type": "Custom::SluicegateListener", "Properties": {"Protocols": ["udp"]}}}
}
COMMANDS = [
    ["send", "--to", "127.0.0.1:9", "--data", "x"],
    ["send", "--source", "replies", "--to", "127.0.0.1:9", "--data", "x"],
    ["tail", "--timeout", "30"],
    ["replay", "letters.ndjson"],
    ["apply", "template.json"],
    ["apply", "template.json", "--dry-run"],
    ["sources", "list"],
    ["sources", "approve", "replies"],
    ["sources", "reject", "replies"],
    ["sources", "remove", "replies"],
    ["peers", "list"],
    ["peers", "add", "phone", "--endpoint", "192.0.2.1"],
    ["peers", "remove", "phone"],
    ["peers", "reset", "phone"],
]
"""Every command that talks to the API."""


def test_each_command_without_a_key_is_told_where_it_is_taken_from(
    public: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "letters.ndjson").write_text(json.dumps(LETTER) + "\n")
    (tmp_path / "template.json").write_text(json.dumps(TEMPLATE))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))  # nothing of the gateway's own key is noted here
    scopes = {one: key(public, one)["Key"] for one in ("read", "publish")}
    unknown = scopes["read"][:-2] + "xx"

    def said(command: list[str], text: str | None) -> str:
        monkeypatch.setenv("SLUICEGATE_API_KEY", text or "")
        done = CliRunner().invoke(main, [*command, "--api", public.api_url])
        assert done.exit_code == 1, (command, done.output)
        assert done.stderr.startswith("error: "), (command, done.stderr)
        return done.stderr

    for command in COMMANDS:
        for text in (None, unknown):
            answer = said(command, text)
            assert "SLUICEGATE_API_KEY" in answer, (command, answer)
            assert "sluicegate keys create" in answer, (command, answer)
        # 403: the key is known, and which one would do is said.
        has = "publish" if command[-1] == "list" or command[0] in ("tail", "apply", "peers") else "read"
        answer = said(command, scopes[has])
        assert "this needs a key of the scope" in answer, (command, answer)
        assert f"and the key {has} has: {has}" in answer, (command, answer)


def test_warnings_of_a_start_and_of_a_reload_are_called_so(public: Gateway) -> None:
    def warned(lines: list[str]) -> list[str]:
        return [line for line in lines if "can be read on the way" in line]

    assert len(warned(public.process.stderr.all)) == 2  # of the API and of the SNS endpoint
    public.process.signal(signal.SIGHUP)
    found = public.process.stderr.wait(
        lambda lines: found if len(found := warned(lines)) == 4 else None, "warnings of the reload"
    )
    assert found is not None
    assert [line for line in found if not line.startswith("warning: ")] == []
    assert public.named("ReloadRefused") == []


def test_refusals_of_the_sns_endpoint_are_those_of_sns(public: Gateway) -> None:
    """Code and words, as boto3 shows them."""
    reads = key(public, "read", sns=True)
    wrong = [
        (
            "AKIAUNKNOWN",
            "secret",
            "InvalidClientTokenId",
            "security token included in the request is invalid",
        ),
        (reads["AccessKeyId"], "wrong", "SignatureDoesNotMatch", "Check your AWS Secret Access Key"),
        (
            reads["AccessKeyId"],
            reads["SecretAccessKey"],
            "AuthorizationError",
            "not authorized to perform: SNS:Publish",
        ),
    ]
    for key_id, secret, code, words in wrong:
        client = boto3.client(
            "sns", endpoint_url=public.sns_url, region_name="us-east-1",
            aws_access_key_id=key_id, aws_secret_access_key=secret,
        )  # fmt: skip
        with pytest.raises(ClientError) as refused:
            client.publish(TopicArn=TOPIC, Message="{}")
        assert refused.value.response["Error"]["Code"] == code
        assert words in refused.value.response["Error"]["Message"]


def test_the_sns_endpoint_takes_signed_requests_alone(public: Gateway) -> None:
    good = key(public, "publish", sns=True)

    def sns(key_id: str, secret: str) -> Callable[..., dict[str, str]]:
        client = boto3.client(
            "sns",
            endpoint_url=public.sns_url,
            region_name="us-east-1",
            aws_access_key_id=key_id,
            aws_secret_access_key=secret,
            config=Config(retries={"max_attempts": 1, "mode": "standard"}),
        )
        publish: Callable[..., dict[str, str]] = client.publish
        return publish

    with Client() as client:
        message = json.dumps({"Data": "AQ==", "Remote": client.remote})
        for key_id, secret in (("local", "local"), (good["AccessKeyId"], "wrong")):
            with pytest.raises(ClientError):
                sns(key_id, secret)(TopicArn=TOPIC, Message=message)
        sns(good["AccessKeyId"], good["SecretAccessKey"])(TopicArn=TOPIC, Message=message)
        assert client.receive()[0] == b"\x01"
        assert client.waiting() == []
