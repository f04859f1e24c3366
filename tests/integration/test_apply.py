"""`sluicegate apply`: an existing template's UDP part on this machine, with a real gateway, boto3 and UDP clients."""

import base64
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import PROGRAM, Client, Gateway, free_port, in_process, run_program, until

from conftest import StartGateway
from sluicegate.state.keys import KeyFile

EXAMPLE = Path(__file__).parents[2] / "examples/sam"
Apply = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def running(gateway: StartGateway) -> Gateway:
    return gateway("listeners: []")


@pytest.fixture
def apply(running: Gateway) -> Apply:
    """`sluicegate apply` against the running gateway."""

    def run(template: Path, *options: str, api: str = running.api_url) -> "subprocess.CompletedProcess[str]":
        return in_process("apply", template, "--api", api, *options)

    return run


@pytest.fixture
def template(tmp_path: Path) -> Path:
    """The example, where it may be written to."""
    return Path(shutil.copytree(EXAMPLE, tmp_path / "sam")) / "template.yaml"


def applied(result: "subprocess.CompletedProcess[str]") -> dict[str, Any]:
    assert result.returncode == 0, result.stderr
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def actions(document: dict[str, Any]) -> dict[str, str]:
    return {step["LogicalId"]: step["Action"] for step in document["Steps"]}


def written(directory: Path, text: str, name: str = "t.yaml") -> Path:
    file = directory / name
    file.write_text(text)
    return file


def test_a_sam_template_end_to_end(running: Gateway, apply: Apply, template: Path) -> None:
    options = ("--stack", "demo", "--egress-network", "127.0.0.0/8", "--output", "json")
    made = applied(apply(template, *options))
    assert set(actions(made).values()) == {"create"}
    assert {"Telemetry", "EchoListener", "CommandSource", "Commands"} == set(actions(made))
    outputs = made["Outputs"]
    assert outputs["Destinations"] == "demo-collector"
    assert outputs["Endpoint"] == f"ingress-1:{outputs['TelemetryPort']}"
    with Client() as device:
        telemetry = ("127.0.0.1", int(outputs["TelemetryPort"]))
        device.send(b"21.5", telemetry)
        assert device.receive() == (b"thanks from test", telemetry)
        echo = ("127.0.0.1", int(outputs["EchoPort"]))
        device.send(b"hello", echo)
        assert device.receive() == (b"hello", echo)
        host, port = device.address
        message = {"Data": base64.b64encode(b"on").decode(), "Remote": {"IP": host, "Port": port}}
        running.publish(message, outputs["Topic"])
        assert device.receive() == (b"on", telemetry)

        assert set(actions(applied(apply(template, *options))).values()) == {"keep"}

        live = applied(apply(template, *options, "--parameter", "Stage=live"))
        assert actions(live) == {
            "Commands": "keep",
            "Telemetry": "update",
            "EchoListener": "update",
            "CommandSource": "keep",
        }
        assert live["Outputs"]["TelemetryPort"] == outputs["TelemetryPort"]
        assert any("demo-archive are dropped" in note["Text"] for note in live["Notes"])
        device.send(b"21.5", telemetry)
        assert device.receive() == (b"thanks from live", telemetry)

    gone = applied(apply(template, *options, "--delete"))
    assert set(actions(gone).values()) == {"delete"}
    assert running.api("GET", "/v1/listeners").json()["Items"] == []
    assert outputs["Topic"] not in [topic["TopicArn"] for topic in running.sns.list_topics()["Topics"]]
    assert actions(applied(apply(template, *options, "--delete"))) == {}


def test_a_dry_run_does_nothing(running: Gateway, apply: Apply, template: Path) -> None:
    planned = applied(apply(template, "--dry-run", "--output", "json"))
    assert set(actions(planned).values()) == {"create"}
    assert running.api("GET", "/v1/listeners").json()["Items"] == []
    assert sorted(entry.name for entry in template.parent.iterdir()) == ["src", "template.yaml"]


def test_a_template_without_client_restrictions_admits_nobody(
    running: Gateway, apply: Apply, tmp_path: Path
) -> None:
    text = """
Resources:
  Topic: { Type: AWS::SNS::Topic }
  Entry:
    Type: Custom::ProxylityUdpGatewayListener
    Properties: { Protocols: [udp], MetricsEnabled: "True", Destinations: [{ DestinationArn: "console:" }] }
  Source:
    Type: Custom::ProxylityUdpGatewayPacketSource
    Properties: { ListenerName: !Ref Entry, SnsTopicSource: { TopicArn: !Ref Topic } }
Outputs:
  Port: { Value: !GetAtt Entry.Port }
"""
    file = written(tmp_path, text)
    made = applied(apply(file, "--output", "json"))
    said = [f"{note['LogicalId']}: {note['Text']}" for note in made["Notes"]]
    assert any('Entry: the Listener "t-Entry" admits nobody' in one for one in said), said
    assert any("Entry: t-Entry publishes no metrics to CloudWatch" in one for one in said), said
    assert any('Source: the PacketSource "t-Source" sends to sessions and Tags alone' in one for one in said)
    shown = running.api("GET", "/v1/listeners/t-Entry").json()
    assert shown["ClientRestrictions"]["Networks"] == []
    assert shown["DestinationNames"] == ["dstn-t-Entry-0"]
    assert shown["Destinations"][0]["Batching"]["TimeoutInSeconds"] == 0.25

    def rejected() -> int:
        return running.metrics().value("rejected_packets", listener="t-Entry", reason="RefusedNetwork")

    with Client() as client:
        client.send(b"knock", ("127.0.0.1", int(made["Outputs"]["Port"])))
        until(lambda: rejected() == 1, "the packet is refused")
    # A start decides nothing anew; the fix that the note names opens it.
    running.stop()
    running.start()
    assert running.api("GET", "/v1/listeners/t-Entry").json()["ClientRestrictions"]["Networks"] == []
    everybody = 'ClientRestrictions: { Networks: ["0.0.0.0/0", "::/0"] }'
    opened = written(tmp_path, text.replace('MetricsEnabled: "True"', everybody))
    again = applied(apply(opened, "--output", "json"))
    assert not any("admits nobody" in note["Text"] for note in again["Notes"])
    networks = running.api("GET", "/v1/listeners/t-Entry").json()["ClientRestrictions"]["Networks"]
    assert networks == ["0.0.0.0/0", "::/0"]


LISTENER = """
Resources:
  Entry:
    Type: Custom::ProxylityUdpGatewayListener
    Properties:
      ServiceToken: arn:aws:lambda:us-east-1:000000000000:function:x
      ApiKey: k-123
      Name: {name}
      Protocols: [udp]
      Destinations: [{{ Name: {destination}, DestinationArn: "console:" }}]
"""


def test_what_a_template_no_longer_names_goes_and_another_name_is_another_listener(
    running: Gateway, apply: Apply, tmp_path: Path
) -> None:
    def names() -> list[str]:
        return sorted(item["Name"] for item in running.api("GET", "/v1/listeners").json()["Items"])

    file = written(tmp_path, LISTENER.format(name="one", destination="a"))
    applied(apply(file, "--output", "json"))
    written(tmp_path, LISTENER.format(name="two", destination="b"))
    assert actions(applied(apply(file, "--output", "json"))) == {"Entry": "replace"}
    assert names() == ["two"]
    written(tmp_path, LISTENER.format(name="two", destination="b").replace("Entry:", "Other:"))
    refused = apply(file)
    assert refused.returncode == 1
    assert "Other cannot be made" in refused.stderr
    assert names() == ["two"]
    written(tmp_path, LISTENER.format(name="three", destination="c").replace("Entry:", "Other:"))
    assert actions(applied(apply(file, "--output", "json"))) == {"Other": "create", "Entry": "delete"}
    assert names() == ["three"]


def test_another_listener_name_replaces_a_packet_source(
    running: Gateway, apply: Apply, tmp_path: Path
) -> None:
    text = """
Resources:
  Topic: {{ Type: AWS::SNS::Topic, Properties: {{ TopicName: moves }} }}
  Entry:
    Type: Custom::SluicegateListener
    Properties: {{ Name: {listener}, Bind: 127.0.0.1, ClientRestrictions: {{ Networks: [127.0.0.0/8] }} }}
  Source:
    Type: Custom::SluicegatePacketSource
    Properties: {{ ListenerName: !Ref Entry, SnsTopicSource: {{ TopicArn: !Ref Topic }} }}
Outputs:
  Port: {{ Value: !GetAtt Entry.Port }}
"""
    with Client() as client:
        host, port = client.address
        message = {"Data": base64.b64encode(b"on").decode(), "Remote": {"IP": host, "Port": port}}
        for listener, action in (("one", "create"), ("two", "replace")):
            made = applied(apply(written(tmp_path, text.format(listener=listener)), "--output", "json"))
            assert actions(made) == {"Topic": "create" if listener == "one" else "keep"} | dict.fromkeys(
                ("Entry", "Source"), action
            )
            running.publish(message, "arn:aws:sns:us-east-1:000000000000:moves")
            assert client.receive() == (b"on", ("127.0.0.1", int(made["Outputs"]["Port"])))
    assert [one["ListenerName"] for one in running.api("GET", "/v1/packet-sources").json()["Items"]] == [
        "two"
    ]
    assert [one["Id"] for one in running.api("GET", "/v1/listeners").json()["Items"]] == ["two"]


def test_a_change_by_somebody_else_is_not_overwritten_unasked(
    running: Gateway, apply: Apply, tmp_path: Path
) -> None:
    file = written(tmp_path, LISTENER.format(name="one", destination="a"))
    applied(apply(file, "--output", "json"))
    item = running.api("GET", "/v1/listeners/one").json()
    assert running.api("PUT", "/v1/listeners/one", {**item, "Description": "by hand"}).status_code == 200
    written(tmp_path, LISTENER.format(name="one", destination="b"))
    refused = apply(file)
    assert refused.returncode == 1
    assert "somebody changed one since the last apply" in refused.stderr
    assert actions(applied(apply(file, "--overwrite", "--output", "json"))) == {"Entry": "update"}


ANSWERING = """import os

def handler(event, context):
    return {"Replies": [{"Tag": m["Tag"], "Data": os.environ["ANSWER"]} for m in event["Messages"]]}
"""


def test_a_destination_arn_resource_binds_a_function_with_its_environment(
    running: Gateway, apply: Apply, tmp_path: Path
) -> None:
    """As in multi-region templates: the Listener in one place, what it delivers to in another."""
    document = {
        "Resources": {
            "Entry": {
                "Type": "Custom::SluicegateListener",
                "Properties": {
                    "Protocols": ["udp"],
                    "ClientRestrictions": {"Networks": ["127.0.0.0/8"]},
                    "Destinations": [{"Batching": {"Count": "1"}}],
                },
            },
            "Handler": {
                "Type": "AWS::Lambda::Function",
                "Properties": {
                    "Runtime": "python3.13",
                    "Handler": "index.handler",
                    "Environment": {"Variables": {"ANSWER": "c2V0"}},
                    "Code": {
                        "ZipFile": ANSWERING,
                    },
                },
            },
            "Binding": {
                "Type": "Custom::SluicegateDestinationArn",
                "Properties": {
                    "Destination": {"Fn::Select": ["0", {"Fn::GetAtt": ["Entry", "DestinationNames"]}]},
                    "IngressRegionKey": {"Ref": "AWS::Region"},
                    "Arn": {"Fn::GetAtt": ["Handler", "Arn"]},
                },
            },
        },
        "Outputs": {"Port": {"Value": {"Fn::GetAtt": ["Entry", "Port"]}}},
    }
    file = written(tmp_path, json.dumps(document, indent="\t"), "regional.template.json")
    made = applied(apply(file, "--output", "json"))
    assert actions(made) == {"Entry": "create", "Binding": "create"}
    with Client() as device:
        device.send(b"?", ("127.0.0.1", int(made["Outputs"]["Port"])))
        assert device.receive()[0] == b"set"


def test_a_binding_to_a_listener_of_another_stack_brings_its_environment(
    running: Gateway, apply: Apply, tmp_path: Path
) -> None:
    """Two regional stacks bind one Destination to the same code: each region has its own Environment."""
    listener = """
Resources:
  Entry:
    Type: Custom::SluicegateListener
    Properties:
      ClientRestrictions: { Networks: [127.0.0.0/8] }
      Destinations: [{ Name: shared, Batching: { Count: 1 }, Arguments: { TimeoutInSeconds: 2 } }]
Outputs: { Port: { Value: !GetAtt Entry.Port } }
"""
    regional = """
Resources:
  Handler:
    Type: AWS::Serverless::Function
    Properties:
      Runtime: python3.13
      Handler: index.handler
      CodeUri: code
      Timeout: 9
      MemorySize: 1024
      Environment: {{ Variables: {{ ANSWER: {answer} }} }}
  Binding:
    Type: Custom::SluicegateDestinationArn
    Properties: {{ Destination: shared, IngressRegionKey: {region}, Arn: !GetAtt Handler.Arn }}
"""
    (tmp_path / "code").mkdir()
    (tmp_path / "code/index.py").write_text(ANSWERING)
    made = applied(apply(written(tmp_path, listener, "global.yaml"), "--output", "json"))
    for name, region, answer in (("here", "us-east-1", "c2V0"), ("there", "'*'", "bm8=")):
        file = written(tmp_path, regional.format(region=region, answer=answer), f"{name}.yaml")
        applied(apply(file, "--output", "json"))
    bound = running.api("GET", "/v1/destination-arns/shared%40us-east-1").json()
    assert (bound["Arguments"]["TimeoutInSeconds"], bound["Arguments"]["MemoryInMb"]) == (9.0, 1024)
    destination = running.api("GET", "/v1/listeners/global-Entry").json()["Destinations"][0]
    assert destination["Arguments"] == {"TimeoutInSeconds": "2"}
    port = int(made["Outputs"]["Port"])

    def answers(expected: bytes) -> None:
        with Client() as device:
            device.send(b"?", ("127.0.0.1", port))
            assert device.receive()[0] == expected

    answers(b"set")
    changed = regional.format(region="us-east-1", answer="YWdhaW4=")
    applied(apply(written(tmp_path, changed, "here.yaml"), "--output", "json"))
    answers(b"again")
    running.stop()
    running.start()
    answers(b"again")
    applied(apply(tmp_path / "here.yaml", "--output", "json", "--delete"))
    answers(b"no")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("Resources: { A: { Type: Custom::SluicegateListener, Properties: { Name: !Ref B } } }", "t.yaml:1:"),
        ("Resources: {", "t.yaml:1:"),
        (LISTENER.format(name="'bad:name'", destination="a"), '"bad:name" cannot be a name'),
    ],
)
def test_what_cannot_be_applied(apply: Apply, tmp_path: Path, text: str, sentence: str) -> None:
    refused = apply(written(tmp_path, text))
    assert refused.returncode == 1
    assert sentence in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_gateway_that_asks_for_keys_and_for_approval(
    gateway: StartGateway, template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where code may lie is widened by the key `local` alone.
    folder = json.dumps(str(template.parent))
    public = gateway(f"listeners: []\nrequire_approval: true\nlocal_code: [{folder}]", start=False)
    public.bind_to_all(public.api_url)
    key = KeyFile(public.directory / "sluicegate.db.keys").create_api_key("ci", frozenset({"admin"}))[1]
    public.start()

    def run(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
        words = [PROGRAM, *arguments, "--api", public.api_url]
        return run_program(words)

    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("XDG_STATE_HOME", str(public.directory / "another-user"))
        refused = run("apply", template)
    assert refused.returncode == 1
    assert "sluicegate keys create" in refused.stderr
    assert "--config" in refused.stderr
    monkeypatch.setenv("SLUICEGATE_API_KEY", "kéy\u2028")
    broken = run("apply", template)
    assert broken.returncode == 1
    assert "is not a key" in broken.stderr
    assert "kéy" not in broken.stderr
    monkeypatch.setenv("SLUICEGATE_API_KEY", key)
    made = applied(run("apply", template, "--output", "json"))
    assert "sluicegate sources approve sam-CommandSource" in str(made["Notes"])
    assert f"watching {public.api_url}" in run("tail", "--timeout", "1").stderr
    assert key not in public.process.stdout.text + public.process.stderr.text


TWO = """
Resources:
  Entry:
    Type: Custom::ProxylityUdpGatewayListener
    Properties: { Protocols: [udp], Destinations: [{ Name: d, DestinationArn: "DESTINATION" }] }
Outputs:
  Send: { Value: !Sub "nc -u ${Entry.Domain}.proxylity.com ${Entry.Port}" }
  Other: { Value: text }
"""


def test_two_projects_have_a_template_yaml_each(apply: Apply, tmp_path: Path) -> None:
    for project in ("one", "two_b"):
        (tmp_path / project / ".aws-sam/build").mkdir(parents=True)
        text = TWO.replace("DESTINATION", "console:").replace("Name: d,", f"Name: d-{project[:3]},")
        for place in (project, f"{project}/.aws-sam/build"):
            file = written(tmp_path / place, text, "template.yaml")
            made = applied(
                apply(file, "--output", "json", "--directory", str(tmp_path / f"{project}-record"))
            )
            name = project.replace("_", "-")
            assert [step["Name"] for step in made["Steps"]] == [f"{name}-Entry"]
    file = written(tmp_path, TWO.replace("DESTINATION", "console:"), "one.yaml")
    for options in ((), ("--dry-run",)):
        other = apply(file, *options)
        assert other.returncode == 1
        assert "if another stack called one made it, name this one with --stack NAME" in other.stderr
        named = written(
            tmp_path,
            "Resources: { A: { Type: Custom::SluicegateListener, Properties: { Name: one-Entry } } }",
            "b.yaml",
        )
        other = apply(named, *options)
        assert 'already a Listener named "one-Entry"' in other.stderr
        assert "--stack" not in other.stderr


def test_outputs_show_the_local_endpoint_and_a_bind_is_given(apply: Apply, tmp_path: Path) -> None:
    file = written(tmp_path, TWO.replace("DESTINATION", "console:"))
    place = f"127.0.0.1:{free_port()}"
    for key in ("Entry", "t-Entry"):
        made = applied(apply(file, "--bind", f"{key}={place}", "--output", "json"))
        assert made["Listeners"] == {"Entry": place}
        assert made["LocalEndpoints"] == {"Send": [place]}
        assert made["Outputs"]["Send"] == f"nc -u ingress-1.proxylity.com {place.rpartition(':')[2]}"
    assert f"(here: {place})" in apply(file, "--bind", f"Entry={place}").stdout
    port = place.rpartition(":")[2]
    for wildcard in (f"0.0.0.0:{port}", f"[::]:{port}"):
        made = applied(apply(file, "--bind", f"Entry={wildcard}", "--output", "json"))
        assert (made["Listeners"], made["LocalEndpoints"]) == ({"Entry": wildcard}, {"Send": [place]})
    refused = apply(file, "--bind", f"Entri={place}")
    assert refused.returncode == 1
    assert "--bind Entri: this stack has no such Listener, name one by its logical id" in refused.stderr
    refused = apply(file, "--bind", "Entry=nowhere:x")
    assert refused.returncode == 1
    assert "Entry cannot be changed: Bind: " in refused.stderr


def test_refusals_name_the_destination_and_the_property(apply: Apply, tmp_path: Path) -> None:
    api = "arn:aws:appsync:us-east-1:111122223333:apis/a"
    file = written(tmp_path, TWO.replace("DESTINATION", api))
    for options in (("--use-aws",), ("--use-aws", "--dry-run")):
        refused = apply(file, *options)
        assert refused.returncode == 1
        assert "Entry cannot be made: Destination d, DestinationArn: " in refused.stderr
        assert "appsync of AWS is no Destination" in refused.stderr
    file = written(
        tmp_path,
        TWO.replace("DESTINATION", "console:").replace("Name: d,", "Name: d, Batching: { Count: 0 },"),
    )
    assert "Destination d, Batching.Count: " in apply(file).stderr


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node (apt-get install nodejs)")
def test_functions_for_node_inline_and_in_a_folder(running: Gateway, apply: Apply, tmp_path: Path) -> None:
    text = """
Resources:
  Inline:
    Type: AWS::Lambda::Function
    Properties:
      Runtime: nodejs22.x
      Handler: index.handler
      MemorySize: 128
      Environment: { Variables: { WORD: inline } }
      Code:
        ZipFile: |
          exports.handler = (event, context, callback) => callback(null, {
            Replies: event.Messages.map(({ Tag }) => ({ Tag, Data: Buffer.from(process.env.WORD).toString("base64") })),
          });
  Folder:
    Type: AWS::Serverless::Function
    Properties: { Runtime: nodejs22.x, Handler: dist/app.echo, CodeUri: code }
  One:
    Type: Custom::SluicegateListener
    Properties:
      Bind: 127.0.0.1
      ClientRestrictions: { Networks: [127.0.0.0/8] }
      Destinations: [{ Name: inline, DestinationArn: !GetAtt Inline.Arn, Batching: { TimeoutInSeconds: 0.01 } }]
  Two:
    Type: Custom::SluicegateListener
    Properties:
      Bind: 127.0.0.1
      ClientRestrictions: { Networks: [127.0.0.0/8] }
      Destinations: [{ Name: folder, DestinationArn: !GetAtt Folder.Arn, Batching: { TimeoutInSeconds: 0.01 } }]
Outputs:
  One: { Value: !GetAtt One.Port }
  Two: { Value: !GetAtt Two.Port }
"""
    (tmp_path / "code/dist").mkdir(parents=True)
    (tmp_path / "code/dist/app.mjs").write_text(
        "export const echo = async ({ Messages }) => ({ Replies: Messages.map(({ Tag, Data }) => ({ Tag, Data })) });\n"
    )
    outputs = applied(apply(written(tmp_path, text), "--output", "json"))["Outputs"]
    with Client() as device:
        for port, answer in ((outputs["One"], b"inline"), (outputs["Two"], b"hello")):
            device.send(b"hello", ("127.0.0.1", int(port)))
            assert device.receive() == (answer, ("127.0.0.1", int(port)))


BOOTSTRAP = """\
#!/usr/bin/env python3
import base64, http.client, json, os
api = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
while True:
    api.request("GET", "/2018-06-01/runtime/invocation/next")
    asked = api.getresponse()
    batch, number = json.loads(asked.read()), asked.headers["Lambda-Runtime-Aws-Request-Id"]
    told = base64.b64encode(f"{os.environ['_HANDLER']} {os.environ['WORD']}".encode()).decode()
    replies = [{"Tag": one["Tag"], "Data": told} for one in batch["Messages"]]
    api.request("POST", f"/2018-06-01/runtime/invocation/{number}/response", json.dumps({"Replies": replies}))
    api.getresponse().read()
"""


def test_a_program_of_a_template_answers(apply: Apply, tmp_path: Path) -> None:
    """As Go and Rust are deployed: a bootstrap in the folder of CodeUri."""
    text = """
Resources:
  Built:
    Type: AWS::Serverless::Function
    Properties:
      Runtime: provided.al2023
      Handler: decode
      CodeUri: built
      Environment: { Variables: { WORD: hello } }
  Entry:
    Type: Custom::SluicegateListener
    Properties:
      Bind: 127.0.0.1
      ClientRestrictions: { Networks: [127.0.0.0/8] }
      Destinations: [{ Name: built, DestinationArn: !GetAtt Built.Arn, Batching: { TimeoutInSeconds: 0 } }]
Outputs: { Port: { Value: !GetAtt Entry.Port } }
"""
    (tmp_path / "built").mkdir()
    bootstrap = tmp_path / "built/bootstrap"
    bootstrap.write_text(BOOTSTRAP)
    bootstrap.chmod(0o755)
    port = int(applied(apply(written(tmp_path, text), "--output", "json"))["Outputs"]["Port"])
    with Client() as device:
        device.send(b"?", ("127.0.0.1", port))
        assert device.receive()[0] == b"decode hello"


def test_nulls_are_absent_as_terraform_writes_them(apply: Apply, tmp_path: Path) -> None:
    text = """
Resources:
  Entry:
    Type: Custom::ProxylityUdpGatewayListener
    Properties:
      { LogGroupName: null, Role: null, Bind: null, Destinations: [{ Name: d, DestinationArn: null, Role: null }] }
"""
    made = applied(apply(written(tmp_path, text), "--output", "json"))
    assert actions(made) == {"Entry": "create"}


def test_without_a_gateway(apply: Apply, template: Path) -> None:
    refused = apply(template, api=f"http://127.0.0.1:{free_port()}")
    assert refused.returncode == 3
    assert "start one with `sluicegate dev`" in refused.stderr


def test_what_does_not_run_here_is_listed_with_the_consequence(
    running: Gateway, apply: Apply, tmp_path: Path
) -> None:
    text = """
Resources:
  Table: { Type: AWS::DynamoDB::Table }
  Net: { Type: AWS::Serverless::Function, Properties: { Runtime: dotnet8, Handler: A::B::C, CodeUri: . } }
  Nightly:
    Type: AWS::Serverless::Function
    Properties: { Runtime: python3.12, Handler: index.h, Environment: { Variables: { T: !Ref Table } } }
  Entry:
    Type: Custom::SluicegateListener
    Properties:
      Destinations:
        - { Name: net, DestinationArn: !GetAtt Net.Arn }
        - { Name: other, DestinationArn: !Sub "arn:aws:sqs:${AWS::Region}:${AWS::AccountId}:queue" }
"""
    made = applied(apply(written(tmp_path, text), "--output", "json"))
    notes = {(note["LogicalId"], note["Line"]): note["Text"] for note in made["Notes"]}
    said = "\n".join(f"{key} {text}" for key, text in notes.items())
    assert "net are dropped and counted: Net: the runtime dotnet8 does not run here" in str(made["Notes"])
    assert "packets for other are dropped and counted" in str(made["Notes"])
    assert "no Destination delivers to it" in notes["Nightly", 5], said
    assert "Nightly get a placeholder for it" in notes["Table", 3], said
