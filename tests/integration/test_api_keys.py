"""An API and an SNS endpoint that others can reach ask everybody for a key, and the audit says whose it was."""

import json
import os
import subprocess
from collections.abc import Callable

import boto3  # type: ignore[import-untyped]
import httpx
import pytest
from botocore.config import Config  # type: ignore[import-untyped]
from botocore.exceptions import ClientError  # type: ignore[import-untyped]
from harness import HANG_SECONDS, PROGRAM, TOPIC, Client, Gateway, Process, source_of

from conftest import StartGateway

CONFIG = f"listeners: [{{ name: decoder, bind: 127.0.0.1 }}]{source_of('decoder')}"
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
    sent = subprocess.run(
        [PROGRAM, "send", "--api", public.api_url, "--to", "127.0.0.1:9", "--data", "x"],
        cwd="/", env=variables, capture_output=True, text=True, timeout=HANG_SECONDS, check=False,
    )  # fmt: skip
    assert "by replies" in sent.stdout, sent.stderr
    actors = {event["Actor"] for event in public.named("ResourceChanged")}
    assert len(actors) == 1
    assert "(admin)" in actors.pop()
    told = public.process.stdout.text + public.process.stderr.text
    assert not [secret for secret in keys.values() if secret in told]


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
