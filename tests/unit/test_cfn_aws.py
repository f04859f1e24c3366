"""What a template names at AWS is no part of a document, unless the operator says so."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from sluicegate.cfn.aws import Emulator, own_topic
from sluicegate.cfn.reader import parse
from sluicegate.cfn.stack import Settings, Stack
from sluicegate.cfn.template import Template, TemplateError
from sluicegate.model import DestinationSpec, Listener

pytestmark = pytest.mark.attack

THEIRS = "111122223333"


def made(resources: dict[str, Any], *, more: dict[str, Any] | None = None, **settings: Any) -> Stack:
    text = json.dumps({**(more or {}), "Resources": resources})
    template = Template(Path("/nowhere/t.json"), parse("t.json", text))
    return Stack(template, {}, Settings("demo", "us-east-1", Path("/nowhere/made"), **settings), {})


def listener(destination: Any, **properties: Any) -> dict[str, Any]:
    properties = {"Name": "entry", **properties, "Destinations": [destination]}
    return {"Entry": {"Type": "Custom::SluicegateListener", "Properties": properties}}


def source(**properties: Any) -> dict[str, Any]:
    return {
        "Source": {
            "Type": "Custom::SluicegatePacketSource",
            "Properties": {"Name": "source", "ListenerName": "entry", **properties},
        }
    }


def taken(stack: Stack) -> tuple[str, str]:
    """What the gateway gets, and what the user is told."""
    documents = json.dumps([item.document for item in stack.items()])
    return documents, "\n".join(note.text for note in stack.notes)


SERVICES = ("sqs", "kinesis", "sns", "lambda", "logs", "dynamodb", "states", "geo", "iot", "firehose")


@pytest.mark.parametrize("partition", ["aws", "aws-cn", "aws-us-gov", "aws-iso-b"])
@pytest.mark.parametrize("service", SERVICES)
def test_a_literal_target_in_every_partition(partition: str, service: str) -> None:
    arn = f"arn:{partition}:{service}:us-east-1:{THEIRS}:queue"
    for value in (arn, {"*": arn}, {"eu-west-1": arn, "us-east-1": "console:"}):
        documents, told = taken(made(listener({"Name": "d", "DestinationArn": value})))
        assert THEIRS not in documents
        assert f"packets for d are dropped and counted: {arn} is at AWS" in told
        assert "--use-aws" in told
        documents, told = taken(made(listener({"Name": "d", "DestinationArn": value}), use_aws=True))
        assert arn in documents
        assert "--use-aws" not in told


@pytest.mark.parametrize(
    "target",
    [
        "arn:aws:s3:::strangers/prefix*",
        "https://sqs.eu-west-1.amazonaws.com/111122223333/q",
        "https://sqs.cn-north-1.amazonaws.com.cn/111122223333/q",
        "https://sqs.us-east-1.api.aws/111122223333/q",
        "s3://strangers/prefix",
        "relay:arn:aws:sqs:us-east-1:111122223333:q",
    ],
)
def test_targets_of_packages_that_lead_there(target: str) -> None:
    documents, told = taken(made(listener({"Name": "d", "DestinationArn": target})))
    assert target not in documents
    assert "--use-aws" in told


def test_arguments_beside_a_target_of_a_package() -> None:
    destination = {
        "Name": "d",
        "DestinationArn": "relay:mine",
        "Arguments": {"Then": [f"arn:aws:sqs:us-east-1:{THEIRS}:q"]},
    }
    documents, told = taken(made(listener(destination)))
    assert "relay:mine" not in documents
    assert THEIRS not in documents
    assert "--use-aws" in told


@pytest.mark.parametrize("target", ["console:", "file:packets.ndjson", "nats://127.0.0.1/packets"])
def test_other_targets_stay(target: str) -> None:
    documents, told = taken(made(listener({"Name": "d", "DestinationArn": target})))
    assert target in documents
    assert told == ""


ARN = f"arn:aws:sqs:us-east-1:{THEIRS}:q"
EMULATOR = Emulator("http://127.0.0.1:4566", frozenset({"sqs", "lambda", "s3"}))


@pytest.mark.parametrize("use_aws", [False, True])
def test_an_emulator_gets_what_the_template_makes(use_aws: bool) -> None:
    queue = {"Type": "AWS::SQS::Queue", "Properties": {"QueueName": "orders"}}
    resources = {
        **listener({"Name": "d", "DestinationArn": {"Fn::GetAtt": ["Queue", "Arn"]}}),
        "Queue": queue,
    }
    documents, told = taken(made(resources, emulator=EMULATOR, use_aws=use_aws))
    arn = "arn:aws:sqs:us-east-1:000000000000:orders"
    assert json.loads(documents)[0]["Destinations"][0]["DestinationArn"] == arn
    assert f"packets for d go to {arn} at the emulator http://127.0.0.1:4566: Queue is not made here" in told


def test_an_emulator_gets_literal_targets_of_its_services_alone() -> None:
    """Without `--use-aws`; a role of the template is assumed by nobody all the same."""
    role = f"arn:aws:iam::{THEIRS}:role/put"
    for arn in (ARN, "arn:aws-cn:s3:::strangers/prefix*"):
        destination = {"Name": "d", "DestinationArn": arn, "Role": role}
        documents, told = taken(made(listener(destination), emulator=EMULATOR))
        assert arn in documents
        assert role not in documents
        assert f"packets for d go to {arn} at the emulator" in told
    for others in (
        {"DestinationArn": f"arn:aws:appsync:us-east-1:{THEIRS}:apis/a"},  # nothing of ours delivers it
        {"DestinationArn": "s3://strangers/prefix"},
        {"DestinationArn": f"relay:{ARN}"},
        {"DestinationArn": ARN, "Arguments": {"Endpoint": "https://sqs.eu-west-1.amazonaws.com"}},
    ):
        documents, told = taken(made(listener({"Name": "d", **others}), emulator=EMULATOR))
        assert "DestinationArn" not in documents
        assert "amazonaws" not in documents
        assert "packets for d are dropped and counted" in told


def test_a_function_that_does_not_run_here_may_run_in_the_emulator() -> None:
    function = {
        "Type": "AWS::Lambda::Function",
        "Properties": {
            "FunctionName": "f",
            "Runtime": "java21",
            "Handler": "a.B::c",
            "Code": {"S3Bucket": "b"},
        },
    }
    arguments = {"UseAsyncInvoke": "true"}
    destination = {"Name": "d", "DestinationArn": {"Fn::GetAtt": ["F", "Arn"]}, "Arguments": arguments}
    documents, told = taken(made({**listener(destination), "F": function}, emulator=EMULATOR))
    (found,) = json.loads(documents)[0]["Destinations"]
    assert found["DestinationArn"] == "arn:aws:lambda:us-east-1:000000000000:function:f"
    assert found["Arguments"] == arguments
    assert "at the emulator http://127.0.0.1:4566: F: " in told


def test_a_destination_arn_of_the_template_leads_to_the_emulator() -> None:
    binding = {
        "B": {
            "Type": "Custom::SluicegateDestinationArn",
            "Properties": {"Destination": "d", "IngressRegionKey": "*", "Arn": ARN},
        }
    }
    assert ARN in taken(made({**listener({"Name": "d"}), **binding}, emulator=EMULATOR))[0]


ACCOUNT = {"Parameters": {"Account": {"Type": "String", "Default": THEIRS}}}
MAPPING = {"Mappings": {"M": {"a": {"Arn": ARN}}}}
CONDITION = {"Conditions": {"Yes": {"Fn::Equals": ["a", "a"]}}}


@pytest.mark.parametrize(
    ("value", "more"),
    [
        ({"Fn::Sub": "arn:${AWS::Partition}:sqs:${AWS::Region}:${Account}:q"}, ACCOUNT),
        ({"Fn::Join": [":", ["arn", "aws", "sqs", "us-east-1", {"Ref": "Account"}, "q"]]}, ACCOUNT),
        ({"Fn::FindInMap": ["M", "a", "Arn"]}, MAPPING),
        ({"Fn::If": ["Yes", ARN, "console:"]}, CONDITION),
        ({"Fn::Select": ["0", {"Fn::Split": [",", f"{ARN},console:"]}]}, {}),
        ({"Fn::Sub": f"arn:aws:sqs:us-east-1:{THEIRS}:${{AWS::StackName}}"}, {}),
        ({"*": {"Fn::Sub": f"arn:aws:sqs:us-east-1:{THEIRS}:${{AWS::StackName}}"}}, {}),
    ],
)
def test_an_arn_that_the_template_puts_together(value: Any, more: dict[str, Any]) -> None:
    documents, told = taken(made(listener({"Name": "d", "DestinationArn": value}), more=more))
    assert THEIRS not in documents
    assert "--use-aws" in told


def test_the_pseudo_account_is_nobody() -> None:
    arn = {"Fn::Sub": "arn:aws:sqs:${AWS::Region}:${AWS::AccountId}:q"}
    for use_aws in (False, True):
        documents, told = taken(made(listener({"Name": "d", "DestinationArn": arn}), use_aws=use_aws))
        assert "arn:" not in documents
        assert "is nobody's" in told


def test_a_binding_of_its_own() -> None:
    for key in ("Arn", "arn"):
        binding = {
            "B": {
                "Type": "Custom::SluicegateDestinationArn",
                "Properties": {"Destination": "d", "IngressRegionKey": "us-east-1", key: ARN},
            }
        }
        documents, told = taken(made({**listener({"Name": "d"}), **binding}))
        assert THEIRS not in documents
        assert f"packets for d are dropped and counted: {ARN} is at AWS" in told
        assert ARN in taken(made(binding, use_aws=True))[0]


@pytest.mark.parametrize("key", ["DestinationArn", "destination_arn"])
def test_other_spellings_are_the_same(key: str) -> None:
    documents, told = taken(made(listener({"name": "d", key: ARN, "log_group_name": "theirs"})))
    assert THEIRS not in documents
    assert "theirs" not in documents
    assert "--use-aws" in told


def test_two_spellings_at_once_are_refused() -> None:
    for first, second in (("DestinationArn", "destination_arn"), ("destination_arn", "DestinationArn")):
        with pytest.raises(
            TemplateError, match=f"Destination d, `{first}` and `{second}` mean the same, keep one of the two"
        ):
            taken(made(listener({"Name": "d", first: "console:", second: ARN})))


ROLE = f"arn:aws:iam::{THEIRS}:role/theirs"


@pytest.mark.parametrize("role", [ROLE, {"Arn": ROLE}, {"Arn": ROLE, "Duration": "1:00:00"}])
def test_log_groups_and_roles(role: Any) -> None:
    parts = {"LogGroupName": "/theirs/log", "Role": role, "MetricsEnabled": "true"}
    resources = listener({"Name": "d", "DestinationArn": "console:", **parts}, **parts)
    documents, told = taken(made(resources))
    assert json.loads(documents)[0]["Destinations"] == [{"Name": "d", "DestinationArn": "console:"}]
    assert set(json.loads(documents)[0]) == {"Name", "Destinations"}
    for name in ("entry", "d"):
        assert f"{name} writes no log group /theirs/log" in told
        assert f"{name} assumes no role" in told
    documents, told = taken(made(resources, use_aws=True))
    assert documents.count("/theirs/log") == documents.count(ROLE) == 2
    assert "--use-aws" not in told


@pytest.mark.parametrize(
    "part",
    [
        {"Role": "admin"},
        {"Role": {"Arn": "admin"}},
        {"Role": {"Duration": "1:00:00"}},
        {"Role": [1]},
        {"LogGroupName": "no name: of a group"},
        {"LogGroupName": "aws/x"},
        {"LogGroupName": ""},
        {"LogGroupName": ["theirs"]},
        {"LogGroupName": {"Name": "theirs"}},
    ],
)
def test_mistakes_go_to_the_gateway_which_refuses_them(part: dict[str, Any]) -> None:
    """With and without the option alike: what is no name at AWS is a mistake."""
    written = json.loads(json.dumps(part), parse_int=str)
    for use_aws in (False, True):
        (item,) = made(listener({"Name": "d", **part}, **part), use_aws=use_aws).items()
        for model, document in (
            (Listener, item.document),
            (DestinationSpec, item.document["Destinations"][0]),
        ):
            assert document.items() >= written.items()
            with pytest.raises(ValidationError, match=r"(?i)role|log.group"):
                model.model_validate(document, context={"unknown": "ignore", "warnings": []})


@pytest.mark.parametrize(
    "part",
    [
        {"Role": {"arn": ROLE, "Odd": 1}},
        {"role": {"ARN": ROLE}},
        {"Role": [ROLE]},
        {"LogGroupName": 7},
        {"log_group_name": "a/b#c"},
        {"LogGroupName": "aws"},
    ],
)
def test_odd_forms_of_what_may_be_at_aws_are_left_out(part: dict[str, Any]) -> None:
    (item,) = made(listener({"Name": "d", **part}, **part)).items()
    assert item.document == {"Name": "entry", "Destinations": [{"Name": "d"}]}


@pytest.mark.parametrize(
    "role", [{"Fn::GetAtt": ["Role", "Arn"]}, {"Fn::Sub": "arn:aws:iam::${AWS::AccountId}:role/put"}]
)
@pytest.mark.parametrize("use_aws", [False, True])
def test_a_role_of_the_template_is_assumed_by_nobody(role: Any, use_aws: bool) -> None:
    """Also with `--use-aws`: every delivery would fail with a role that does not exist."""
    resources = {
        "Role": {"Type": "AWS::IAM::Role"},
        **listener({"Name": "d", "DestinationArn": ARN, "Role": {"Arn": role}}, Role={"Arn": role}),
        **source(SnsTopicSource={"TopicArn": TOPIC, "Role": role}),
    }
    documents, told = taken(made(resources, use_aws=use_aws))
    assert "arn:aws:iam" not in documents
    assert (ARN in documents) == use_aws
    if "Fn::GetAtt" in role:
        assert "a placeholder that nobody assumes: calls are made in the gateway's own name" in told
    else:
        assert "d assumes no role" in told


TOPIC = f"arn:aws:sns:eu-west-1:{THEIRS}:commands"


def test_the_topic_of_a_packet_source_is_the_gateways_own() -> None:
    resources = source(SnsTopicSource={"TopicArn": TOPIC, "Role": ROLE})
    (document,) = json.loads(taken(made(resources))[0])
    assert document["SnsTopicSource"] == {"TopicArn": "arn:aws:sns:eu-west-1:000000000000:commands"}
    told = taken(made(resources))[1]
    assert (
        "source takes the messages of the gateway's own topic arn:aws:sns:eu-west-1:000000000000:commands"
        in told
    )
    assert "source assumes no role" in told
    (document,) = json.loads(taken(made(resources, use_aws=True))[0])
    assert document["SnsTopicSource"] == {"TopicArn": TOPIC, "Role": ROLE}


@pytest.mark.parametrize("account", [THEIRS, "000000000000"])
@pytest.mark.parametrize("key", ["TopicArn", "topic_arn"])
def test_a_gateway_without_topics_of_its_own_takes_nothing(account: str, key: str) -> None:
    topic = f"arn:aws-cn:sns:cn-north-1:{account}:commands"
    resources = source(SnsTopicSource={key: topic}, Enabled="true")
    documents, told = taken(made(resources, topics=False))
    assert json.loads(documents)[0]["Enabled"] is False
    assert f"source takes no messages: {topic} is at AWS" in told


TOPICS = Emulator("http://127.0.0.1:4566", frozenset({"sns"}))


@pytest.mark.parametrize("account", [THEIRS, "000000000000"])
def test_a_topic_of_the_emulator(account: str) -> None:
    """Where the gateway has none of its own. Its own ones come first."""
    topic = f"arn:aws:sns:us-east-1:{account}:demo-Topic"
    mine = {"Ref": "Topic"} if account != THEIRS else topic
    resources = {
        "Topic": {"Type": "AWS::SNS::Topic"},
        **listener({"Name": "d", "DestinationArn": mine}),
        **source(SnsTopicSource={"TopicArn": mine}),
    }
    stack = made(resources, topics=False, emulator=TOPICS)
    kinds = [item.kind for item in stack.items()]
    documents, told = taken(stack)
    assert "Topic" not in kinds
    assert documents.count(topic) == 2
    assert '"Enabled": false' not in documents
    assert f"packets for d go to {topic} at the emulator {TOPICS.url}: " in told
    assert f"source takes the messages of {topic} at the emulator {TOPICS.url}" in told
    if account == THEIRS:
        return
    stack = made(resources, emulator=TOPICS)
    assert "Topic" in [item.kind for item in stack.items()]
    _, told = taken(stack)
    assert f"packets for d go to {topic} at the emulator {TOPICS.url}: " in told
    assert "Topic is the gateway's own topic, which takes no packets of Destinations" in told
    assert "at the emulator" not in [line for line in told.splitlines() if line.startswith("source")]


def test_packets_for_a_topic_of_the_gateway() -> None:
    """It is made here, and is no target: the note does not say that it is not there."""
    resources = {
        "Topic": {"Type": "AWS::SNS::Topic"},
        **listener({"Name": "d", "DestinationArn": {"Ref": "Topic"}}),
    }
    _, told = taken(made(resources))
    cause = "Topic is the gateway's own topic, which takes no packets of Destinations"
    assert told == f"packets for d are dropped and counted: {cause}; a function may publish to it"


def test_a_topic_put_together_from_one_of_the_template() -> None:
    """Its name comes from the template, and its account is a stranger's."""
    resources = {
        "Topic": {"Type": "AWS::SNS::Topic"},
        **source(
            SnsTopicSource={"TopicArn": {"Fn::Sub": f"arn:aws:sns:us-east-1:{THEIRS}:${{Topic.TopicName}}"}}
        ),
    }
    documents, told = taken(made(resources))
    assert THEIRS not in documents
    assert "arn:aws:sns:us-east-1:000000000000:demo-Topic" in documents
    assert "--use-aws" in told


def test_dead_letters_and_sources_of_packages() -> None:
    resources = source(SnsTopicSource={"TopicArn": own_topic(TOPIC)}, dead_letter_queue_arn=ARN)
    documents, told = taken(made(resources))
    assert json.loads(documents)[0]["DeadLetterQueueArn"] == "file:/nowhere/made/Source-dead-letters.ndjson"
    assert f"because {ARN} is at AWS" in told
    assert ARN in taken(made(resources, use_aws=True))[0]
    resources = source(MessageSource={"Queue": {"url": "https://sqs.us-east-1.amazonaws.com/1/q"}})
    documents, told = taken(made(resources))
    assert json.loads(documents)[0]["Enabled"] is False
    assert "source takes no messages: its MessageSource is at AWS" in told


def test_what_is_no_text_goes_to_the_gateway_which_refuses_it() -> None:
    for value in ([ARN], {"*": {"Arn": ARN}}):
        documents, _ = taken(made(listener({"Name": "d", "DestinationArn": value})))
        assert json.loads(documents)[0]["Destinations"][0]["DestinationArn"] == value
