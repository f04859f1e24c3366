"""Templates from strangers, applied by an operator with credentials: AWS is not called unless the operator says so."""

import json
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import HANG_SECONDS, PROGRAM, Client, Gateway, run_program, until

pytestmark = pytest.mark.attack

THEIRS = "111122223333"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/dev/null",
    "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
}

PARTS = {
    "LogGroupName": "/theirs/log",
    "Role": {"Arn": f"arn:aws:iam::{THEIRS}:role/theirs"},
    "MetricsEnabled": "true",
}


def template(target: str = f"arn:aws:sqs:us-east-1:{THEIRS}:theirs") -> dict[str, Any]:
    """Everything that leads to AWS, in one template."""
    batching = {"Count": "1", "TimeoutInSeconds": "0.01"}
    destination = {"Name": "d", "DestinationArn": target, "Batching": batching, **PARTS}
    listener = {
        "ClientRestrictions": {"Networks": ["127.0.0.0/8"]},
        "Destinations": [destination],
        **PARTS,
    }
    source = {
        "ListenerName": {"Ref": "Entry"},
        "SnsTopicSource": {
            "TopicArn": f"arn:aws:sns:us-east-1:{THEIRS}:commands",
            "Role": PARTS["Role"],
        },
        "DeadLetterQueueArn": f"arn:aws:sqs:us-east-1:{THEIRS}:dead",
    }
    return {
        "Resources": {
            "Entry": {"Type": "Custom::SluicegateListener", "Properties": listener},
            "Source": {"Type": "Custom::SluicegatePacketSource", "Properties": source},
        },
        "Outputs": {"Port": {"Value": {"Fn::GetAtt": ["Entry", "Port"]}}},
    }


class Trap:
    """Notes the first line of whatever comes, and answers nothing useful: a proxy, or an endpoint of every service."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._server.accept()
            with connection:
                connection.settimeout(HANG_SECONDS)
                line = connection.recv(65_536).partition(b"\r\n")[0].decode()
                if line == "END":
                    return
                self.seen.append(line)
                connection.sendall(
                    b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                )

    def close(self) -> None:
        with socket.create_connection(self._server.getsockname()) as last:
            last.sendall(b"END")
        self._thread.join()
        self._server.close()


@pytest.fixture
def trap() -> Iterator[Trap]:
    made = Trap()
    yield made
    made.close()


@pytest.fixture(params=["proxy", "endpoint"])
def environment(request: pytest.FixtureRequest, trap: Trap) -> dict[str, str]:
    """An operator's, with every way out leading into the trap."""
    names = ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY", "all_proxy")
    ways = names if request.param == "proxy" else ("AWS_ENDPOINT_URL",)
    cleared = dict.fromkeys((*names, "NO_PROXY", "no_proxy"), "")
    return {**CREDENTIALS, **cleared, **dict.fromkeys(ways, trap.url)}


@pytest.fixture(params=["sns", "no sns"])
def operated(
    request: pytest.FixtureRequest, tmp_path: Path, environment: dict[str, str]
) -> Iterator[Gateway]:
    made = Gateway(tmp_path, "listeners: []", environment=environment)
    if request.param == "no sns":
        made.edit(f"sns: {{ bind: {made.sns_url.removeprefix('http://')} }}\n", "")
    made.start()
    yield made
    made.close()


def apply(gateway: Gateway, document: dict[str, Any], *options: str) -> "subprocess.CompletedProcess[str]":
    file = gateway.directory / "theirs.json"
    file.write_text(json.dumps(document))
    command = [PROGRAM, "apply", file, "--api", gateway.api_url, "--output", "json", *options]
    environment = {**os.environ, **gateway.environment}
    return run_program(command, env=environment)


def knock(gateway: Gateway) -> None:
    """A packet that nobody takes: it is a failure, which a log group would get."""
    before = gateway.metrics().value("received_packets")
    (one,) = gateway.api("GET", "/v1/listeners").json()["Items"]
    with Client() as client:
        client.send(b"knock", ("127.0.0.1", one["Port"]))
        until(lambda: gateway.metrics().value("received_packets") > before, "the packet is received")


def test_nothing_leaves(operated: Gateway, trap: Trap) -> None:
    """Not by the check, the apply, packets, a restart or a reload; a stop writes out what would wait."""
    for option in ("--dry-run", "--overwrite"):
        result = apply(operated, template(), option)
        assert result.returncode == 0, result.stderr
        notes = [note["Text"] for note in json.loads(result.stdout)["Notes"]]
        assert len([text for text in notes if "--use-aws" in text]) >= 6, notes
    assert THEIRS not in json.dumps([one.json() for one in shown(operated)])
    knock(operated)
    operated.stop()
    operated.start()
    knock(operated)
    assert operated.api("POST", "/v1/reload").status_code == 200
    operated.edit("listeners: []", "listeners: [{ name: more, bind: 127.0.0.1 }]")
    assert operated.api("POST", "/v1/reload").status_code == 200
    operated.stop()
    assert trap.seen == []


def shown(gateway: Gateway) -> list[Any]:
    return [gateway.api("GET", f"/v1/{kind}") for kind in ("listeners", "packet-sources", "destination-arns")]


@pytest.mark.parametrize(
    "environment", ["proxy"], indirect=True
)  # an endpoint of the operator's may be an emulator
def test_what_was_applied_locally_stays_local_without_the_sns_endpoint(
    tmp_path: Path, environment: dict[str, str], trap: Trap
) -> None:
    """The endpoint goes from the configuration later: the topic of the stack is not looked for at AWS then."""
    gateway = Gateway(tmp_path, "listeners: []", environment=environment)
    line = f"sns: {{ bind: {gateway.sns_url.removeprefix('http://')} }}\n"
    try:
        gateway.start()
        assert apply(gateway, template()).returncode == 0
        gateway.stop()
        gateway.edit(line, "")
        gateway.start()
        failed = gateway.event("SourceProvisionFailed")
        assert "AWS has no account 000000000000; set `sns`" in failed["Detail"]
        knock(gateway)
        gateway.stop()
    finally:
        gateway.close()
    assert trap.seen == []


def test_with_the_option_aws_is_called(tmp_path: Path, environment: dict[str, str], trap: Trap) -> None:
    gateway = Gateway(tmp_path, "listeners: []", environment=environment)
    gateway.edit(f"sns: {{ bind: {gateway.sns_url.removeprefix('http://')} }}\n", "")
    try:
        gateway.start()
        result = apply(gateway, template("console:"), "--use-aws")
        assert result.returncode == 0, result.stderr
        assert "--use-aws" not in result.stdout
        until(lambda: bool(trap.seen), "AWS is called")
        # Without the option it ends again, and stays so.
        assert apply(gateway, template("console:")).returncode == 0
        gateway.stop()
        trap.seen.clear()
        gateway.start()
        knock(gateway)
        gateway.stop()
        assert trap.seen == []
    finally:
        gateway.close()
