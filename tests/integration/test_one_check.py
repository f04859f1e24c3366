"""What one way in refuses, every other refuses too, with the place and in the same words.

The ways in are `validate`, `run`, a reload, the API, `apply` and `apply --dry-run`. The same Listener goes through all.
"""

import base64
import json
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from harness import ECHO, PROGRAM, TOPIC, Gateway, free_port, in_process, run_program

from conftest import StartGateway
from sluicegate.cli import main


@dataclass(frozen=True)
class Case:
    """A Listener with one mistake, at `pointer`: at the first `written` of the file, at `key` of a template."""

    listener: dict[str, Any]
    pointer: str
    words: str
    key: str
    written: str


def destination(pointer: str, words: str, key: str, written: str, **fields: Any) -> Case:
    """A Listener with this Destination, and its mistake at `pointer` in it."""
    listener = {"Destinations": [{"Name": "d", "DestinationArn": "console:", **fields}]}
    return Case(listener, f"/Destinations/0{pointer}", words, key, written)


FUNCTION = "function:echo.py:handler"
CASES = {
    "misspelt argument": destination(
        "/Arguments/TimeoutInSecond",
        "destination d has no argument TimeoutInSecond",
        key='"TimeoutInSecond"',
        written='"TimeoutInSecond"',
        DestinationArn=FUNCTION,
        Arguments={"TimeoutInSecond": 5},
    ),
    "mistyped argument": destination(
        "/Arguments/concurrency",
        "Concurrency is 'many', use a whole number from 1 to 1000",
        key='"concurrency"',
        written='"many"',
        DestinationArn={"us-east-1": FUNCTION, "*": FUNCTION},
        Arguments={"concurrency": "many"},
    ),
    "argument of console:": destination(
        "/Arguments/Colour", "it takes none", key='"Colour"', written='"Colour"', Arguments={"Colour": "red"}
    ),
    "argument of file:": destination(
        "/Arguments/Colour",
        "it takes none",
        key='"Colour"',
        written='"Colour"',
        DestinationArn="file:a.ndjson",
        Arguments={"Colour": "red"},
    ),
    "variable of Lambda": destination(
        "/Arguments/Environment/AWS_LAMBDA_RUNTIME_API",
        "AWS_LAMBDA_RUNTIME_API is set by the gateway",
        key='"AWS_LAMBDA_RUNTIME_API"',
        written='"s3cret"',
        DestinationArn=FUNCTION,
        Arguments={"Environment": {"AWS_LAMBDA_RUNTIME_API": "s3cret"}},
    ),
    "no such handler": destination(
        "/DestinationArn",
        "has no `other` at its top level",
        key='"DestinationArn"',
        written='"function:',
        DestinationArn="function:echo.py:other",
    ),
    "directory": destination(
        "/DestinationArn", "is a directory", key='"DestinationArn"', written='"file:', DestinationArn="file:."
    ),
    "unknown scheme": destination(
        "/DestinationArn",
        "known are console:, file:, function:",
        key='"DestinationArn"',
        written='"pigeon:',
        DestinationArn="pigeon:loft",
    ),
    "service of AWS": destination(
        "/DestinationArn/*",
        "timestream of AWS is no Destination",
        key='"*"',
        written='"arn:',
        DestinationArn={"us-east-1": "console:", "*": "arn:aws:timestream:us-east-1:123456789012:q"},
    ),
    "role": destination(
        "/Role/Arn", "is not a role ARN", key='"Arn"', written='"admin"', Role={"Arn": "admin"}
    ),
    "formatter": destination(
        "/Formatter", "COAP", key='"Formatter"', written='"COAP"', Formatter="COAP"
    ),
    **{
        protocol: Case(
            {"Protocols": [protocol]},
            "/Protocols",
            f"the protocol {protocol}: this version cannot do it yet",
            key='"Protocols"',
            written="[",
        )
        for protocol in ("dtls", "webrtc")
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    made = Gateway(tmp_path_factory.mktemp("one-check"), "listeners: []", {"echo": ECHO})
    yield made.start()
    made.close()


def place(text: str, name: str, what: str) -> str:
    """`:line:col:` of the first `what` after the Listener's name."""
    at = text.index(what, text.index(f'"{name}"'))
    return f":{text[:at].count(chr(10)) + 1}:{at - text.rfind(chr(10), 0, at)}:"


def sluicegate(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    if arguments[0] != "run":
        return in_process(*arguments)
    return run_program([PROGRAM, *arguments])


def document(name: str) -> dict[str, Any]:
    """The Listener of a case; its name is `wrong-N`."""
    number = list(CASES).index(name)
    return {"Name": f"wrong-{number}", "Bind": "127.0.0.1", **CASES[name].listener}


@pytest.fixture(scope="module")
def told(running: Gateway) -> tuple[str, dict[str, str]]:
    """A file with all the mistakes at once: its text, and what each way in says of it."""
    good = running.file.read_text()
    lines = "".join(f"  - {json.dumps(document(name))}\n" for name in CASES)
    text = good.replace("listeners: []", f"listeners:\n{lines}")
    said = {}
    try:
        running.file.write_text(text)
        for command in ("validate", "run"):
            result = sluicegate(command, running.file)
            assert result.returncode == 1
            said[command] = result.stdout + result.stderr
        running.process.signal(signal.SIGHUP)
        said["reload"] = running.event("ReloadRefused")["Detail"]
    finally:
        running.file.write_text(good)
    return text, said


@pytest.mark.parametrize("name", CASES)
def test_every_way_in_refuses_it_at_its_place(
    name: str, running: Gateway, told: tuple[str, dict[str, str]], tmp_path: Path
) -> None:
    case, listener = CASES[name], document(name)
    text, said = told
    expected = f"{running.file}{place(text, listener['Name'], case.written)} "
    for refused in said.values():
        line = refused.partition(expected)[2].partition(str(running.file))[0]
        assert case.words in line
        assert "Traceback" not in refused

    answer = running.api("POST", "/v1/listeners", listener)
    assert answer.status_code == 422
    (error,) = answer.json()["Errors"]
    assert (error["Resource"], error["Pointer"]) == (f"Listener {listener['Name']}", case.pointer)
    assert case.words in f"{error['Cause']}, {error['Fix']}"

    template = tmp_path / "t.json"
    resource = {"Type": "Custom::SluicegateListener", "Properties": {"ServiceToken": "x", **listener}}
    template.write_text(json.dumps({"Resources": {"Entry": resource}}, indent=1))
    at = place(template.read_text(), listener["Name"], case.key)
    allowed = ["--use-aws"] if name == "service of AWS" else []  # without it the gateway gets no such ARN
    for options in (allowed, [*allowed, "--dry-run"]):
        result = CliRunner().invoke(main, ["apply", str(template), "--api", running.api_url, *options])
        assert result.exit_code == 1
        assert f"{template}{at} Entry cannot be made: " in result.stderr
        assert case.words in result.stderr
        assert "s3cret" not in result.output + str(said) + str(error)
    assert running.api("GET", "/v1/listeners").json()["Items"] == []


def test_a_fifo_topic_is_refused_where_topics_are_local(running: Gateway, tmp_path: Path) -> None:
    source = {"Name": "ordered", "ListenerName": "entry", "SnsTopicSource": {"TopicArn": f"{TOPIC}.fifo"}}
    good = running.file.read_text()
    text = good.replace("listeners: []", 'listeners: [{ name: entry, bind: "127.0.0.1" }]')
    text += f"packet_sources:\n  - {json.dumps(source)}\n"
    at = len(text.split("\n")[-2]) - len(text.split("\n")[-2].partition('"arn:')[2]) - len('"arn:') + 1
    expected = f"{running.file}:{text.count(chr(10))}:{at}: the gateway's own SNS endpoint (`sns`) has no FIFO topics"
    try:
        running.file.write_text(text)
        for command in ("validate", "run"):
            assert (
                expected
                in "".join(sluicegate(command, running.file).stdout)
                + sluicegate(command, running.file).stderr
            )
    finally:
        running.file.write_text(good)
    listener = {"Name": "entry", "Bind": "127.0.0.1"}
    assert running.api("POST", "/v1/listeners", listener).status_code == 201
    try:
        answer = running.api("POST", "/v1/packet-sources", source)
        assert answer.status_code == 409
        assert answer.json()["Errors"][0]["Pointer"] == "/SnsTopicSource/TopicArn"
        template = tmp_path / "t.json"
        resource = {"Type": "Custom::SluicegatePacketSource", "Properties": source}
        template.write_text(json.dumps({"Resources": {"Out": resource}}, indent=1))
        for options in ([], ["--dry-run"]):
            result = sluicegate("apply", template, "--api", running.api_url, *options)
            assert result.returncode == 1
            assert "has no FIFO topics" in result.stderr
    finally:
        running.api("DELETE", "/v1/listeners/entry")


def test_a_fifo_topic_of_a_template_is_refused_dry_too(running: Gateway, tmp_path: Path) -> None:
    template = tmp_path / "t.json"
    topic = {"Type": "AWS::SNS::Topic", "Properties": {"TopicName": "a.fifo"}}
    template.write_text(json.dumps({"Resources": {"T": topic}}))
    for options in ([], ["--dry-run"]):
        result = sluicegate("apply", template, "--api", running.api_url, *options)
        assert result.returncode == 1
        assert "FIFO topics are not supported here" in result.stderr


@pytest.mark.parametrize("other", ["127.0.0.1", "0.0.0.0", '"[::]"'])
def test_one_port_for_two_servers(other: str, gateway: StartGateway) -> None:
    one = gateway("listeners: []", start=False)
    port = one.api_url.rpartition(":")[2]
    old = one.sns_url.removeprefix("http://")
    wanted = f"'{other.strip(chr(34))}:{port}'"
    one.edit(old, wanted)
    for command in ("validate", "run"):
        result = sluicegate(command, one.file)
        assert result.returncode == 1
        assert f"{one.file}:4:14: port {port} is also bound by the API" in result.stdout + result.stderr
    one.edit(wanted, old)
    one.start()
    one.edit(old, wanted)
    one.process.signal(signal.SIGHUP)
    assert f"port {port} is also bound by the API" in one.event("ReloadRefused")["Detail"]


def test_a_binding_is_judged_together_with_its_destination(running: Gateway, tmp_path: Path) -> None:
    """The ARN comes with a document of its own, and the arguments with another one."""
    listener = {
        "Name": "entry",
        "Bind": "127.0.0.1",
        "Destinations": [{"Name": "late", "Arguments": {"Colour": 1}}],
    }
    assert running.api("POST", "/v1/listeners", listener).status_code == 201
    try:
        binding = {"Destination": "late", "IngressRegionKey": "eu-west-1", "Arn": "console:"}
        answer = running.api("POST", "/v1/destination-arns", binding)
        assert answer.status_code == 422
        (error,) = answer.json()["Errors"]
        assert (error["Resource"], error["Pointer"]) == ("Listener entry", "/Destinations/0/Arguments/Colour")
        answer = running.api("POST", "/v1/destination-arns", {**binding, "Arn": "pigeon:loft"})
        assert answer.json()["Errors"][0]["Pointer"] == "/Arn"
        template = tmp_path / "t.json"
        resource = {"Type": "Custom::SluicegateDestinationArn", "Properties": binding}
        template.write_text(json.dumps({"Resources": {"Late": resource}}))
        for options in ([], ["--dry-run"]):
            result = sluicegate("apply", template, "--api", running.api_url, *options)
            assert (result.returncode, "it takes none" in result.stderr) == (1, True)
    finally:
        running.api("DELETE", "/v1/listeners/entry")


def test_a_dry_run_takes_inline_code_that_is_not_written_yet(running: Gateway, tmp_path: Path) -> None:
    template = tmp_path / "t.json"

    def written(handler: str) -> None:
        resources = {
            "Code": {
                "Type": "AWS::Lambda::Function",
                "Properties": {"Runtime": "python3.12", "Handler": handler, "Code": {"ZipFile": ECHO}},
            },
            "Entry": {
                "Type": "Custom::SluicegateListener",
                "Properties": {
                    "Destinations": [{"DestinationArn": {"Fn::GetAtt": ["Code", "Arn"]}}],
                    "ClientRestrictions": {"Networks": ["127.0.0.0/8"]},
                },
            },
        }
        template.write_text(json.dumps({"Resources": resources}))

    written("index.other")
    refusals = []
    for options in (["--dry-run"], []):
        result = sluicegate("apply", template, "--api", running.api_url, *options)
        assert (result.returncode, "has no `other` at its top level" in result.stderr) == (1, True)
        refusals.append(result.stderr)
    assert refusals[0] == refusals[1]
    written("index.handler")
    result = sluicegate("apply", template, "--api", running.api_url, "--dry-run")
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("state: ./occupied/sluicegate.db", "occupied"),
        ("state: ./missing/sluicegate.db", "missing"),
        ("events: { file: occupied/events.ndjson }", "which is not a directory"),
        (
            "listeners: [{ name: a, bind: 127.0.0.1 }]\npacket_sources: [{ name: s, listener_name: a, "
            f'sns_topic_source: {{ topic_arn: "{TOPIC}" }}, dead_letter_queue_arn: "file:occupied/x.ndjson" }}]',
            "which is not a directory",
        ),
        (
            "listeners: [{ destinations: [{ destination_arn: file:occupied/x.ndjson }] }]",
            "which is not a directory",
        ),
    ],
)
def test_a_start_that_fails_says_where_and_why(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "occupied").write_text("a file where a directory should be")
    (tmp_path / "gateway.yaml").write_text(f"api: null\nsns: {{ bind: 127.0.0.1:{free_port()} }}\n{text}\n")
    result = sluicegate("run", tmp_path / "gateway.yaml")
    assert result.returncode == 1
    assert f"{tmp_path / 'gateway.yaml'}:" in result.stderr
    assert words in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("key", ["", "zz", "00"])
def test_a_broken_key_of_the_state_ends_the_start_with_a_sentence(key: str, gateway: StartGateway) -> None:
    text = "listeners: []"
    one = gateway(text)
    made = {"Name": "w", "Bind": "127.0.0.1", "Protocols": ["wg"], "AllowUnknownPeers": True}
    assert one.api("POST", "/v1/listeners", made).status_code == 201
    one.stop()
    found = [path for path in one.directory.iterdir() if path.name.endswith(".key")]
    for path in found:
        path.write_text(key)
    assert found
    result = sluicegate("run", one.file)
    assert result.returncode == 4
    assert f"{one.file}:2:8: " in result.stderr
    assert "64 hex digits" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_peer_that_the_api_added_is_not_declared_again_dry_or_not(running: Gateway, tmp_path: Path) -> None:
    key = base64.b64encode(bytes(range(32))).decode()
    template = tmp_path / "t.json"

    def applied(peers: list[dict[str, str]], *options: str) -> Result:
        listener = {"Protocols": ["wg"], "Bind": "127.0.0.1", "AllowUnknownPeers": True, "Peers": peers}
        resource = {"Type": "Custom::SluicegateListener", "Properties": listener}
        template.write_text(json.dumps({"Resources": {"Tunnel": resource}}))
        return CliRunner().invoke(main, ["apply", str(template), "--api", running.api_url, *options])

    assert applied([]).exit_code == 0
    try:
        assert running.api("POST", "/v1/listeners/t-Tunnel/peers", {"PublicKey": key}).status_code == 201
        for options in (["--dry-run"], []):
            result = applied([{"PublicKey": key}], *options)
            assert (result.exit_code, f"has a peer with the key {key}" in result.stderr) == (1, True)
    finally:
        running.api("DELETE", "/v1/listeners/t-Tunnel")


def test_one_name_of_two_resources_of_a_stack_is_refused_before_too(
    gateway: StartGateway, tmp_path: Path
) -> None:
    running = gateway("listeners: []")
    one = {"Type": "Custom::SluicegateListener", "Properties": {"Name": "same"}}
    template = tmp_path / "t.json"
    template.write_text(json.dumps({"Resources": {"A": one, "B": one}}))
    for options in (["--dry-run"], []):
        result = in_process("apply", template, "--api", running.api_url, *options)
        assert (result.returncode, "same" in result.stderr) == (1, True)


def test_a_name_of_a_later_listener_is_refused_dry_or_not(running: Gateway, tmp_path: Path) -> None:
    """Resources are made in the order of the template, unless one depends on another."""
    template = tmp_path / "t.json"
    networks = {"ClientRestrictions": {"Networks": ["127.0.0.0/8"]}, "Bind": "127.0.0.1"}
    declares = {"Destinations": [{"Name": "late", "DestinationArn": "console:"}], **networks}
    first: dict[str, Any] = {
        "Type": "Custom::SluicegateListener",
        "Properties": {"Destinations": ["late"], **networks},
    }
    second = {"Type": "Custom::SluicegateListener", "Properties": declares}
    template.write_text(json.dumps({"Resources": {"First": first, "Second": second}}))
    refusals = []
    for options in (["--dry-run"], []):
        result = CliRunner().invoke(main, ["apply", str(template), "--api", running.api_url, *options])
        assert (result.exit_code, "late" in result.stderr) == (1, True)
        refusals.append(result.stderr)
    assert refusals[0] == refusals[1]
    first["DependsOn"] = "Second"
    template.write_text(json.dumps({"Resources": {"First": first, "Second": second}}))
    result = CliRunner().invoke(main, ["apply", str(template), "--api", running.api_url, "--dry-run"])
    assert (result.exit_code, result.stderr) == (0, "")
