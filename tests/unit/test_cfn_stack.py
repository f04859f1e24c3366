"""What the resources of a template become here, and what is said of those that become nothing."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from sluicegate.cfn.provider import ATTRIBUTES
from sluicegate.cfn.reader import parse
from sluicegate.cfn.stack import LATER, Known, Settings, Stack
from sluicegate.cfn.template import Template, TemplateError
from sluicegate.config.yamlfile import YamlError
from sluicegate.model import Finding

LISTENER = """
  Entry:
    Type: Custom::SluicegateListener
    Properties:
      Destinations: [{ Name: d, DestinationArn: !GetAtt F.Arn }]
"""


def stack(
    directory: Path, resources: str, *, known: dict[str, Known] | None = None, **settings: Any
) -> Stack:
    file = directory / "t.yaml"
    file.write_text(resources if "Resources:" in resources else f"Resources:{resources}")
    chosen = Settings("demo", "us-east-1", directory / "made", **settings)
    return Stack(Template.load(file), {}, chosen, known or {})


def documents(made: Stack) -> dict[str, Any]:
    return {item.logical_id: item.document for item in made.items()}


def bound(directory: Path, function: str, **settings: Any) -> tuple[dict[str, Any], Stack]:
    """The Destination that delivers to a function with these properties, and the stack."""
    made = stack(
        directory,
        f"{LISTENER}  F:\n    Type: AWS::Serverless::Function\n    Properties: {function}\n",
        **settings,
    )
    (destination,) = documents(made)["Entry"]["Destinations"]
    return destination, made


def texts(made: Stack) -> str:
    return "\n".join(f"{note.logical_id}: {note.text}" for note in made.notes)


@pytest.fixture
def code(tmp_path: Path) -> Path:
    for file in ("app.py", "deep/er/app.py"):
        path = tmp_path / "src" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("def handler(event, context): ...\n")
    return tmp_path


@pytest.mark.parametrize("prefix", ["Sluicegate", "ProxylityUdpGateway"])
def test_a_mistyped_type_is_told_which_was_meant(tmp_path: Path, prefix: str) -> None:
    made = stack(tmp_path, f"\n  E: {{ Type: Custom::{prefix}Listner }}\n  X: {{ Type: Custom::Other }}\n")
    assert documents(made) == {}
    assert f"E: it is not made here, did you mean the type Custom::{prefix}Listener?" in texts(made)
    assert "X: it is not made here\n" in texts(made) + "\n"


def test_code_in_a_directory(code: Path) -> None:
    properties = "{ Runtime: python3.12, CodeUri: src/, Handler: app.handler, Timeout: 7, MemorySize: 1024 }"
    destination, made = bound(code, properties)
    assert destination["DestinationArn"] == f"function:{code}/src/app.py:handler"
    assert destination["Arguments"] == {"TimeoutInSeconds": 7.0, "MemoryInMb": 1024}
    assert made.code == {}


@pytest.mark.parametrize(
    ("written", "argument"), [("MemorySize: 128", 128), ("MemorySize: '256'", 256), ("", None)]
)
def test_the_memory_that_a_template_names_is_a_limit(code: Path, written: str, argument: int | None) -> None:
    destination, _ = bound(code, f"{{ Runtime: python3.12, CodeUri: src, Handler: app.handler, {written} }}")
    assert destination["Arguments"].get("MemoryInMb") == argument


@pytest.mark.parametrize("handler", ["deep/er/app.handler", "deep.er.app.handler"])
def test_a_handler_below_the_root_imports_from_the_root(code: Path, handler: str) -> None:
    destination, _ = bound(code, f"{{ Runtime: python3.12, CodeUri: src, Handler: {handler} }}")
    assert destination["DestinationArn"] == f"function:{code}/src:{handler}"
    assert "Environment" not in destination["Arguments"]
    assert destination["Arguments"]["TimeoutInSeconds"] == 3.0, "Lambda's default"


def test_inline_code_is_written_where_it_is_said(tmp_path: Path) -> None:
    destination, made = bound(
        tmp_path, '{ Runtime: python3.12, InlineCode: "x = 1", Handler: index.handler }'
    )
    assert made.code == {tmp_path / "made/F/index.py": "x = 1"}
    assert destination["DestinationArn"] == f"function:{tmp_path}/made/F/index.py:handler"


@pytest.mark.parametrize(
    ("file", "handler", "target"),
    [
        ("index.js", "index.handler", "index.js:handler"),
        ("index.mjs", "index.handler", "index.mjs:handler"),
        ("index.cjs", "index.api.handler", "index.cjs:api.handler"),
        ("dist/app.js", "dist/app.handler", ":dist/app.handler"),
        ("app.js", "app.handler", "app.js:handler"),
    ],
)
def test_code_for_node_in_a_directory(file: str, handler: str, target: str, tmp_path: Path) -> None:
    (tmp_path / "src" / file).parent.mkdir(parents=True)
    (tmp_path / "src" / file).touch()
    (tmp_path / "src/app.py").touch()
    destination, _ = bound(tmp_path, f"{{ Runtime: nodejs22.x, CodeUri: src, Handler: {handler} }}")
    expected = f"{tmp_path}/src{target}" if target.startswith(":") else f"{tmp_path}/src/{target}"
    assert destination["DestinationArn"] == f"function:{expected}"


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("exports.handler = async () => 1;", "index.js"),
        ("export const handler = async () => 1;", "index.mjs"),
        ("import x from 'node:fs';\nexport default x;", "index.mjs"),
        ("exports.handler = () => import('node:fs');", "index.js"),
    ],
)
def test_inline_code_for_node(code: str, name: str, tmp_path: Path) -> None:
    function = {"Runtime": "nodejs22.x", "Handler": "index.handler", "InlineCode": code}
    destination, made = bound(tmp_path, json.dumps(function))
    assert made.code == {tmp_path / "made/F" / name: code}
    assert destination["DestinationArn"] == f"function:{tmp_path}/made/F/{name}:handler"


@pytest.mark.parametrize(
    ("handler", "rest"),
    [
        ("any", ":any"),
        ("bootstrap", ""),
        ("function.handler", ":function.handler"),
        ("A::B.C::D", ":A::B.C::D"),
        ("''", ""),
    ],
)
def test_a_program_is_told_the_handler_of_the_template(handler: str, rest: str, tmp_path: Path) -> None:
    (tmp_path / "bootstrap").touch()
    (tmp_path / "function.py").write_text("def handler(event, context): ...\n")
    destination, _ = bound(tmp_path, f"{{ Runtime: provided.al2023, CodeUri: ., Handler: {handler} }}")
    assert destination["DestinationArn"] == f"function:{tmp_path}/bootstrap{rest}"


@pytest.mark.parametrize(
    ("properties", "sentence"),
    [
        ("{ Runtime: nodejs22.x, InlineCode: x, Handler: app.h }", "inline code is index.js in Lambda too"),
        (
            "{ Runtime: nodejs22.x, CodeUri: ., Handler: gone.h }",
            "gone.js (.mjs, .cjs): correct Handler or CodeUri",
        ),
        (
            "{ Runtime: nodejs22.x, CodeUri: other, Handler: app.h }",
            "app.ts is TypeScript, and not built: build it",
        ),
        (
            "{ Runtime: nodejs22.x, CodeUri: other, Handler: in/both.h }",
            "both.py comes before",
        ),
        ("{ Runtime: python3.12, CodeUri: other, Handler: js.h }", "there is no"),
        ("{ Runtime: dotnet8, CodeUri: ., Handler: A::B.C::D }", "dotnet publish -c Release -r linux-x64"),
        ("{ Runtime: java21, CodeUri: ., Handler: a.B }", "exec java -cp"),
        ("{ Runtime: ruby3.3, CodeUri: ., Handler: a.b }", "gem install aws_lambda_ric"),
        ("{ Runtime: go1.x, CodeUri: ., Handler: main }", "go build -o bootstrap"),
        (
            "{ Runtime: cobol1, CodeUri: ., Handler: a.b }",
            "the runtime cobol1 does not run here: those of Python",
        ),
        ("{ CodeUri: ., Handler: a.b }", "the runtime (none) does not run here"),
        ("{ Runtime: provided.al2023, CodeUri: other, Handler: h }", "go build -o bootstrap .), there"),
        ("{ PackageType: Image, ImageUri: x }", "it is a container image"),
        ("{ Runtime: python3.12, CodeUri: s3://b/k, Handler: a.h }", "its code is in S3 (s3://b/k)"),
        ("{ Runtime: python3.12, CodeUri: { Bucket: b, Key: k }, Handler: a.h }", "its code is in S3"),
        ("{ Runtime: python3.12, CodeUri: t.yaml, Handler: a.h }", "unpack it and name the directory"),
        ("{ Runtime: python3.12, CodeUri: gone, Handler: a.h }", "there is no directory"),
        ("{ Runtime: python3.12, CodeUri: ., Handler: gone.h }", "correct Handler or CodeUri, or build it"),
        ("{ Runtime: python3.12, InlineCode: x, Handler: app.h }", "write index.h"),
        ("{ Runtime: python3.12, CodeUri: ., Handler: h }", 'its Handler "h" is not FILE.FUNCTION'),
        ("{ Runtime: provided.al2023, CodeUri: ., Handler: h }", "build it, there"),
        ("{ Runtime: python3.12, Handler: h }", "it has no code"),
    ],
)
def test_a_function_that_does_not_run_here(tmp_path: Path, properties: str, sentence: str) -> None:
    (tmp_path / "other/in").mkdir(parents=True)
    for name in ("app.ts", "main.go", "in/both.py", "in/both.js", "js.js"):
        (tmp_path / "other" / name).touch()
    destination, made = bound(tmp_path, properties)
    assert "DestinationArn" not in destination
    said = texts(made)
    assert "packets for d are dropped and counted: F: " in said
    assert sentence in said


def test_what_a_function_is_told(code: Path) -> None:
    environment = "{ Variables: { T: !Ref Table, S: !Ref Topic, L: plain } }"
    properties = f"{{ Runtime: python3.12, CodeUri: src, Handler: app.handler, Environment: {environment} }}"
    others = "  Table: { Type: AWS::DynamoDB::Table }\n  Topic: { Type: AWS::SNS::Topic }\n"
    destination, made = bound(
        code, f"{properties}\n{others}", environment={"AWS_ENDPOINT_URL_SNS": "http://x", "L": "-"}
    )
    assert destination["Arguments"]["Environment"] == {
        "AWS_ENDPOINT_URL_SNS": "http://x",
        "T": "demo-Table",
        "S": "arn:aws:sns:us-east-1:000000000000:demo-Topic",
        "L": "plain",
    }
    assert "F: T in its environment is a placeholder: Table is not made here" in texts(made)
    assert "S in its environment" not in texts(made)


@pytest.mark.parametrize(
    "reference",
    [
        "!GetAtt F.Arn",
        "!Ref F.Alias",
        "!Ref A",
        '!Sub "arn:aws:lambda:us-east-1:${AWS::AccountId}:function:${F}:live"',
    ],
)
def test_every_way_to_name_a_function(code: Path, reference: str) -> None:
    made = stack(
        code,
        f"""
  Entry:
    Type: Custom::SluicegateListener
    Properties: {{ Destinations: [{{ Name: d, DestinationArn: {{ "*": {reference} }} }}] }}
  F:
    Type: AWS::Serverless::Function
    Properties: {{ Runtime: python3.12, CodeUri: src, Handler: app.handler, FunctionName: named }}
  A: {{ Type: AWS::Lambda::Alias, Properties: {{ FunctionName: !Ref F, Name: live }} }}
""",
    )
    (destination,) = documents(made)["Entry"]["Destinations"]
    assert destination["DestinationArn"] == {"*": f"function:{code}/src/app.py:handler"}


def test_a_binding_to_a_destination_elsewhere_has_what_its_function_is_told(code: Path) -> None:
    """The Listener is of another stack, which knows nothing of the function."""
    properties = "{ Runtime: python3.12, CodeUri: src, Handler: app.handler, Timeout: 7, MemorySize: 1024 }"
    made = stack(
        code,
        f"""
  F: {{ Type: AWS::Serverless::Function, Properties: {properties} }}
  Binding:
    Type: Custom::ProxylityUdpGatewayDestinationArn
    Properties: {{ Destination: elsewhere, IngressRegionKey: "*", Arn: !GetAtt F.Arn }}
""",
        environment={"A": "b"},
    )
    assert documents(made)["Binding"] == {
        "Destination": "elsewhere",
        "IngressRegionKey": "*",
        "Arn": f"function:{code}/src/app.py:handler",
        "Arguments": {"Environment": {"A": "b"}, "TimeoutInSeconds": 7.0, "MemoryInMb": 1024},
    }


def test_what_needs_aws_is_left_out_and_said(tmp_path: Path) -> None:
    made = stack(
        tmp_path,
        """
  Group: { Type: AWS::Logs::LogGroup }
  Role: { Type: AWS::IAM::Role }
  Entry:
    Type: Custom::ProxylityUdpGatewayListener
    Properties:
      LogGroupName: !Ref Group
      Destinations:
        - { Name: a, DestinationArn: "console:", Role: { Arn: !GetAtt Role.Arn }, MetricsEnabled: true }
        - { Name: b, DestinationArn: "arn:aws:sqs:us-east-1:111122223333:theirs", LogGroupName: !Ref Group }
""",
    )
    document = documents(made)["Entry"]
    assert "LogGroupName" not in document
    first, second = document["Destinations"]
    assert first == {"Name": "a", "DestinationArn": "console:"}
    assert second == {"Name": "b"}
    said = texts(made)
    assert "a publishes no metrics" in said
    assert "b writes no log group" in said
    assert "Role: its ARN is a placeholder" in said


def test_placeholders_have_names_that_the_services_take(tmp_path: Path) -> None:
    """As CloudFormation makes them: a bucket in small letters, FIFO by name, no longer than the service allows."""
    long = "A" * 90
    made = stack(
        tmp_path,
        f"""
  Bucket: {{ Type: AWS::S3::Bucket }}
  {long}: {{ Type: AWS::S3::Bucket }}
  Queue: {{ Type: AWS::SQS::Queue, Properties: {{ FifoQueue: true }} }}
  {long}Q: {{ Type: AWS::SQS::Queue, Properties: {{ FifoQueue: "true" }} }}
  Plain: {{ Type: AWS::SQS::Queue, Properties: {{ FifoQueue: false }} }}
  Named: {{ Type: AWS::SQS::Queue, Properties: {{ FifoQueue: true, QueueName: Mine.fifo }} }}
  Topic: {{ Type: AWS::SNS::Topic, Properties: {{ FifoTopic: true }} }}
""",
    )
    assert made.ref("Bucket") == "demo-bucket"
    assert made.ref(long) == "a" * 63
    assert made.attribute("Queue", "QueueName") == "demo-Queue.fifo"
    assert made.attribute(f"{long}Q", "QueueName") == "A" * 74 + "Q.fifo"
    assert made.attribute("Plain", "QueueName") == "demo-Plain"
    assert made.attribute("Named", "QueueName") == "Mine.fifo"
    assert made.attribute("Topic", "TopicName") == "demo-Topic.fifo"


def test_a_packet_source(tmp_path: Path) -> None:
    text = """
  Topic: { Type: AWS::SNS::Topic, Properties: { TopicName: mine } }
  Queue: { Type: AWS::SQS::Queue }
  Entry: { Type: Custom::SluicegateListener, Properties: { Name: entry } }
  Source:
    Type: Custom::SluicegatePacketSource
    Properties:
      ListenerName: !Ref Entry
      SnsTopicSource: { TopicArn: !Ref Topic, Role: arn:aws:iam::000000000000:role/r }
      DeadLetterQueueArn: !GetAtt Queue.Arn
"""
    made = stack(tmp_path, text, egress_networks=("127.0.0.0/8",))
    found = documents(made)
    assert list(found) == ["Topic", "Entry", "Source"]
    source = found["Source"]
    assert source["Name"] == "demo-Source"
    assert source["ListenerName"] == "entry"
    assert source["SnsTopicSource"]["TopicArn"] == "arn:aws:sns:us-east-1:000000000000:mine"
    assert source["EgressNetworks"] == ["127.0.0.0/8"]
    assert source["DeadLetterQueueArn"] == f"file:{tmp_path}/made/Source-dead-letters.ndjson"
    assert "its dead letters go to" in texts(made)


@pytest.mark.parametrize(
    ("listener", "own", "networks"),
    [
        ('ClientRestrictions: { Networks: ["0.0.0.0/0"] }', "", ["0.0.0.0/0", "127.0.0.0/8"]),
        ("Protocols: [wg]", "", ["0.0.0.0/0", "::/0", "127.0.0.0/8"]),
        ("Protocols: [udp]", "", ["127.0.0.0/8"]),
        ("Protocols: [udp]", "EgressNetworks: [10.0.0.0/8, 127.0.0.0/8]", ["10.0.0.0/8", "127.0.0.0/8"]),
    ],
)
def test_networks_of_the_command_line_are_added(
    tmp_path: Path, listener: str, own: str, networks: list[str]
) -> None:
    text = f"""
  Topic: {{ Type: AWS::SNS::Topic }}
  Entry: {{ Type: Custom::SluicegateListener, Properties: {{ {listener} }} }}
  Source:
    Type: Custom::SluicegatePacketSource
    Properties:
      ListenerName: !Ref Entry
      SnsTopicSource: {{ TopicArn: !Ref Topic }}
      {own}
"""
    near = {"nearby": ("127.0.0.0/8", "192.168.7.0/24")}
    asked = stack(tmp_path, text, egress_networks=("127.0.0.0/8",), **near)
    assert documents(asked)["Source"]["EgressNetworks"] == networks
    assert "--egress-network" not in texts(asked)
    left_out = stack(tmp_path, text, **near)
    assert documents(left_out)["Source"].get("EgressNetworks") == (networks if own else None)
    option = "--egress-network 127.0.0.0/8 --egress-network 192.168.7.0/24"
    assert (option in texts(left_out)) is not bool(own)


def test_outputs_that_speak_of_listeners(tmp_path: Path) -> None:
    text = """
Resources:
  One: { Type: Custom::SluicegateListener }
  Two: { Type: Custom::ProxylityUdpGatewayListener }
  Topic: { Type: AWS::SNS::Topic }
Outputs:
  Port: { Value: !GetAtt Two.Port }
  Both: { Value: !Sub ["${A} ${Two.Port}", { A: !Ref One }] }
  Literal: { Value: "echo hello | nc -u ingress-1.Proxylity.com 2048" }
  Topic: { Value: !Ref Topic }
  Other: { Value: text }
"""
    assert stack(tmp_path, text).output_listeners() == {
        "Port": ["Two"],
        "Both": ["Two", "One"],
        "Literal": ["One", "Two"],
        "Topic": [],
        "Other": [],
    }


def test_binds_are_for_listeners_of_this_stack(tmp_path: Path) -> None:
    text = """
Conditions: { Never: !Equals [a, b] }
Resources:
  One: { Type: Custom::SluicegateListener, Properties: { Name: first, Bind: "0.0.0.0:1" } }
  Two: { Type: Custom::SluicegateListener }
  Three: { Type: Custom::SluicegateListener, Condition: Never }
  Topic: { Type: AWS::SNS::Topic }
"""
    made = documents(stack(tmp_path, text, binds={"first": "127.0.0.1:7", "Two": "[::1]:8"}))
    assert (made["One"]["Bind"], made["Two"]["Bind"]) == ("127.0.0.1:7", "[::1]:8")
    assert documents(stack(tmp_path, text))["One"]["Bind"] == "0.0.0.0:1"
    for name in ("Three", "demo-Three", "Topic", "one"):
        with pytest.raises(TemplateError, match=f"--bind {name}: this stack has no such Listener"):
            documents(stack(tmp_path, text, binds={name: "127.0.0.1:7", "Two": "127.0.0.1:8"}))


def test_outputs_before_and_after_a_listener_is_made(tmp_path: Path) -> None:
    text = """
Resources:
  Entry: { Type: Custom::SluicegateListener, Properties: { Destinations: [{}, { Name: b }] } }
Outputs:
  Port: { Value: !GetAtt Entry.Port }
  Names: { Value: !Join [",", !GetAtt Entry.DestinationNames] }
  Other: { Value: !ImportValue theirs }
"""
    assert stack(tmp_path, text).outputs() == {
        "Port": LATER,
        "Names": "dstn-demo-Entry-0,b",
        "Other": "(not here: Fn::ImportValue reads the exports of another stack, which this machine does not have)",
    }
    known = {"Entry": Known("demo-Entry", {"Port": 20001, "DestinationNames": ["x", "y"]})}
    outputs = stack(tmp_path, text, known=known).outputs()
    assert (outputs["Port"], outputs["Names"]) == ("20001", "x,y")


def test_the_included_configuration(tmp_path: Path) -> None:
    text = """
Mappings:
  C: { Fn::Transform: { Name: AWS::Include, Parameters: { Location: "s3://bucket/customer-config.json" } } }
Resources:
  Entry:
    Type: Custom::SluicegateListener
    Properties: { Description: !FindInMap [C, !Ref AWS::Region, ServiceRole] }
"""
    assert documents(stack(tmp_path, text))["Entry"]["Description"].startswith(
        "arn:aws:iam::000000000000:role/"
    )
    (tmp_path / "customer-config.json").write_text('{"us-east-1": {"ServiceRole": "theirs"}}')
    assert documents(stack(tmp_path, text))["Entry"]["Description"] == "theirs"
    other = text.replace("customer-config.json", "other.json")
    with pytest.raises(TemplateError, match=r"other\.json is not on this machine, put a copy of it at "):
        documents(stack(tmp_path, other))


def test_names_of_destinations_elsewhere(tmp_path: Path) -> None:
    text = """
Resources:
  One: { Type: Custom::SluicegateListener, Properties: { Destinations: [{}, { Name: b }] } }
  Two:
    Type: Custom::SluicegateListener
    Properties: { Destinations: [!Select [0, !GetAtt One.DestinationNames], theirs, {}] }
  Three: { Type: Custom::SluicegateListener, Properties: { Destinations: !GetAtt One.DestinationNames } }
Outputs:
  Two: { Value: !Join [",", !GetAtt Two.DestinationNames] }
  Three: { Value: !Join [",", !GetAtt Three.DestinationNames] }
"""
    made = stack(tmp_path, text)
    found = documents(made)
    assert found["Two"]["Destinations"] == ["dstn-demo-One-0", "theirs", {"Name": "dstn-demo-Two-2"}]
    assert found["Three"]["Destinations"] == ["dstn-demo-One-0", "b"]
    assert made.outputs() == {"Two": "dstn-demo-One-0,theirs,dstn-demo-Two-2", "Three": "dstn-demo-One-0,b"}


def test_every_attribute_of_a_listener_resolves(tmp_path: Path) -> None:
    """Also where it was made by a version that did not have it."""
    names = [name for name in ATTRIBUTES["Listener"] if name != "DestinationNames"]
    outputs = "\n".join(f"  {name}: {{ Value: !GetAtt Entry.{name} }}" for name in names)
    text = f"Resources:\n  Entry: {{ Type: Custom::SluicegateListener }}\nOutputs:\n{outputs}\n"
    assert set(stack(tmp_path, text).outputs()) == set(names)
    known = {"Entry": Known("demo-Entry", {"Id": "demo-Entry", "Port": 20001})}
    made = stack(tmp_path, text, known=known).outputs()
    assert (made["Port"], made["WebRtcSignalingUrl"]) == ("20001", "")
    wrong = stack(tmp_path, text.replace("Entry.Id", "Entry.Ip")).outputs()
    assert "has no attribute Ip" in wrong["Id"]


@pytest.mark.parametrize("maker", ["ProxylityUdpGateway", "Sluicegate"])
def test_a_destination_by_itself_is_refused_before_anything_is_made(tmp_path: Path, maker: str) -> None:
    text = f"""
  Entry: {{ Type: Custom::SluicegateListener }}
  Alone: {{ Type: Custom::{maker}Destination, Properties: {{ Name: a }} }}
"""
    with pytest.raises(
        TemplateError, match=r"t\.yaml:3:3: Alone: .*declare it in the property Destinations of its Listener"
    ):
        next(stack(tmp_path, text).items())
    documents(
        stack(
            tmp_path,
            """
Conditions: { Never: !Equals [a, b] }
Resources:
  Alone: { Type: Custom::SluicegateDestination, Condition: Never }
""",
        )
    )


ODD = (
    "null",
    "[]",
    "{}",
    "12",
    "!Ref X",
    "!GetAtt Telemetry.Port",
    "!Sub '${A.B}'",
    "[[a]]",
    "{ a: { b: c } }",
)
ODD += (
    "!If [Live, a, b]",
    "!Select [0, []]",
    "!Join [a, b]",
    "!Ref [a]",
    "!Sub { a: b }",
    "!Transform { Name: x }",
)


@pytest.mark.parametrize("seed", range(8))
def test_whatever_is_wrong_in_a_template_is_a_problem_with_a_place(seed: int) -> None:
    """Lines of the example changed, removed and doubled: resolved, or refused in a sentence, never anything else."""
    example = Path(__file__).parents[2] / "examples/sam/template.yaml"
    chance = random.Random(seed)
    refused: list[Finding] = []
    for _ in range(15):
        lines = example.read_text().split("\n")
        for _ in range(chance.randint(1, 3)):
            at = chance.randrange(len(lines))
            key, colon, _ = lines[at].partition(":")
            changed = [f"{key}: {chance.choice(ODD)}"] if colon else [lines[chance.randrange(len(lines))]]
            lines[at : at + 1] = chance.choice([changed, changed, changed, [], [lines[at], lines[at]]])
        try:
            made = Stack(
                Template(example, parse("t.yaml", "\n".join(lines))),
                {},
                Settings("demo", "us-east-1", Path("made")),
                {},
            )
            documents(made)
            made.outputs()
        except (TemplateError, YamlError) as error:
            refused += error.findings
    assert refused
    assert all(problem.line > 0 and problem.cause and problem.fix for problem in refused)


def test_a_string_in_destinations_stays_as_it_is_and_keeps_its_place_among_the_names(tmp_path: Path) -> None:
    text = """
  Entry: { Type: Custom::SluicegateListener, Properties: { Destinations: [elsewhere, { Description: ours }] } }
Outputs: { Names: { Value: !Join [",", !GetAtt Entry.DestinationNames] } }
"""
    made = stack(tmp_path, text)
    first, second = documents(made)["Entry"]["Destinations"]
    assert first == "elsewhere"
    assert made.outputs() == {"Names": f"elsewhere,{second['Name']}"}
