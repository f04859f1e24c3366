"""Stacks with each Destination class of the reference's construct library, applied where AWS is an emulator.

`sluicegate apply` says by which ARN a Destination delivers there. The emulator's CloudFormation makes the template's
own queues, streams and tables under these names, and packets are looked for in them.
"""

import base64
import contextlib
import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from harness import Client, Gateway, in_process, until
from ministack import ACCOUNT, ENVIRONMENT, REGION, Ministack, unique
from test_lambda_destination import HANDLER, make_function

from sluicegate.cfn.placeholders import name_property

ASSEMBLY = Path(__file__).parents[1] / "cdk/cdk.out"
PACKETS = [name + b"0" * 16 for name in (b"one-", b"two-", b"six-")]
"""One for each Listener of a stack: four letters, the device of a tracker, and its numbers, all 0."""
GOES = re.compile(r"packets for \S+ go to (\S+) at the emulator (\S+): (?:(\w+) is not made here)?")
ROLE = f"arn:aws:iam::{ACCOUNT}:role/service"

Read = Callable[[], list[str]]
"""All text that has arrived at a target."""


class Target(NamedTuple):
    """Where the packets of a stack go: its ARNs, by the logical ids of what the template makes."""

    ministack: Ministack
    arns: Mapping[str, str]
    folder: Path

    @property
    def arn(self) -> str:
        return next(iter(self.arns.values()))

    @property
    def name(self) -> str:
        return name_of(self.arn)

    def client(self, service: str) -> Any:
        return self.ministack.client(service)

    def queue(self) -> tuple[str, Read]:
        """A queue of the test's own, that others hand packets to."""
        name = unique("seen")
        self.client("sqs").create_queue(QueueName=name)
        return f"arn:aws:sqs:{REGION}:{ACCOUNT}:{name}", lambda: messages(self, name)

    def url(self, queue: str) -> str:
        return str(self.client("sqs").get_queue_url(QueueName=name_of(queue))["QueueUrl"])


def name_of(arn: str) -> str:
    """The name of what an ARN stands for."""
    if ":s3:::" in arn:
        return arn.split(":::")[1].partition("/")[0]
    return re.split(r"[:/]", arn.removesuffix(":*"))[-1]


def messages(target: Target, name: str) -> list[str]:
    found = target.client("sqs").receive_message(
        QueueUrl=target.url(name), MaxNumberOfMessages=10, VisibilityTimeout=0
    )
    return [message["Body"] for message in found.get("Messages", [])]


def objects(target: Target, bucket: str) -> list[str]:
    s3 = target.client("s3")
    keys = [one["Key"] for one in s3.list_objects_v2(Bucket=bucket).get("Contents", [])]
    return [s3.get_object(Bucket=bucket, Key=key)["Body"].read().decode() for key in keys]


def queue(target: Target) -> Read:
    return lambda: messages(target, target.name)


def topic(target: Target) -> Read:
    arn, read = target.queue()
    target.client("sns").subscribe(TopicArn=target.arn, Protocol="sqs", Endpoint=arn)
    return lambda: [json.loads(body)["Message"] for body in read()]


def stream(target: Target) -> Read:
    kinesis = target.client("kinesis")
    (shard,) = kinesis.list_shards(StreamName=target.name)["Shards"]
    start = {"ShardId": shard["ShardId"], "ShardIteratorType": "TRIM_HORIZON"}

    def read() -> list[str]:
        iterator = kinesis.get_shard_iterator(StreamName=target.name, **start)["ShardIterator"]
        records = kinesis.get_records(ShardIterator=iterator)["Records"]
        return [record["Data"].decode() for record in records]

    return read


def delivery_stream(target: Target) -> Read:
    return lambda: objects(target, "firehose-objects")


def bucket(target: Target) -> Read:
    return lambda: objects(target, target.name)


def table(target: Target) -> Read:
    return lambda: [json.dumps(one) for one in target.client("dynamodb").scan(TableName=target.name)["Items"]]


def bus(target: Target) -> Read:
    (arn, read), events = target.queue(), target.client("events")
    rule = {"EventBusName": target.name}
    events.put_rule(Name="all", EventPattern='{"source": ["proxylity"]}', **rule)
    events.put_targets(Rule="all", Targets=[{"Id": "seen", "Arn": arn}], **rule)
    return read


def log_group(target: Target) -> Read:
    def read() -> list[str]:
        events = target.client("logs").filter_log_events(logGroupName=target.name)["events"]
        return [event["message"] for event in events]

    return read


def machines(target: Target) -> Read:
    sfn = target.client("stepfunctions")

    def read() -> list[str]:
        found = [sfn.list_executions(stateMachineArn=arn)["executions"] for arn in target.arns.values()]
        return [
            sfn.describe_execution(executionArn=one["executionArn"])["input"] for of in found for one in of
        ]

    return read


def noted(target: Target) -> list[str]:
    file = target.folder / "seen.ndjson"
    return file.read_text().splitlines() if file.exists() else []


def function(target: Target) -> Read:
    """The one that the template names."""
    make_function(target.ministack, target.folder, name=target.name)
    return lambda: noted(target)


def rest_api(target: Target) -> Read:
    """The one that the template names, with a function behind its method."""
    api_id, stage, method, part = target.arn.rpartition(":")[2].split("/")
    code = HANDLER.replace('event["Messages"]', 'json.loads(event["body"])["Messages"]', 1)
    code = code.replace(
        'return {"Replies"', 'return {"statusCode": 200, "body": "{}"}\n    return {"Replies"'
    )
    made = make_function(target.ministack, target.folder, code)
    api = target.client("apigateway")
    api.create_rest_api(name=unique("api"), tags={"ms-custom-id": api_id})
    root = api.get_resources(restApiId=api_id)["items"][0]["id"]
    resource = api.create_resource(restApiId=api_id, parentId=root, pathPart=part)["id"]
    named = {"restApiId": api_id, "resourceId": resource, "httpMethod": method}
    uri = f"arn:aws:apigateway:{REGION}:lambda:path/2015-03-31/functions/{made}/invocations"
    api.put_method(**named, authorizationType="AWS_IAM")
    api.put_integration(**named, type="AWS_PROXY", integrationHttpMethod="POST", uri=uri)
    api.create_deployment(restApiId=api_id, stageName=stage)
    return lambda: noted(target)


def iot_topic(target: Target) -> Read:
    arn, read = target.queue()
    for number, topics in enumerate([target.name, f"{target.name}/#"]):
        rule = {
            "sql": f"SELECT encode(*, 'base64') AS data FROM '{topics}'",
            "awsIotSqlVersion": "2016-03-23",
            "actions": [{"sqs": {"roleArn": ROLE, "queueUrl": target.url(arn), "useBase64": False}}],
        }
        target.client("iot").create_topic_rule(ruleName=f"stacks{number}", topicRulePayload=rule)
    return lambda: [base64.b64decode(json.loads(body)["data"]).decode() for body in read()]


def tracker(target: Target) -> Read:
    devices = {packet[:4].hex().upper(): packet for packet in PACKETS}
    location = target.client("location")

    def read() -> list[str]:
        found = location.batch_get_device_position(TrackerName=target.name, DeviceIds=list(devices))
        return [devices[one["DeviceId"]].decode() for one in found["DevicePositions"]]

    return read


STACK, BY_NAME, HERE = "its stack in the emulator", "by the ARN's name", "apply: a local function"
CLASSES: dict[str, tuple[str, str, Callable[[Target], Read] | None, str]] = {
    "LambdaDestination": ("LambdaDestination", HERE, None, "replies"),
    "ArnDestination": ("RegionMap", BY_NAME, function, "Lambda invoked"),
    "RegionalArnRegistration": ("DestinationArn", HERE, None, "reply"),
    "SqsDestination": ("SqsDestination", STACK, queue, "SQS message"),
    "SqsDestination (FIFO)": ("SqsFifoDestination", STACK, queue, "SQS message"),
    "SnsDestination": ("SnsDestination", STACK, topic, "SNS message, in a queue"),
    "KinesisStreamDestination": ("KinesisDestination", STACK, stream, "Kinesis record"),
    "FirehoseDestination": ("FirehoseDestination", STACK, delivery_stream, "S3 object of the stream"),
    "S3Destination": ("S3Destination", STACK, bucket, "S3 object"),
    "DynamoDbDestination": ("DynamoDbDestination", STACK, table, "DynamoDB item"),
    "EventBridgeDestination": ("EventBridgeDestination", STACK, bus, "event, by a rule in a queue"),
    "CloudWatchLogsDestination": ("LogsDestination", STACK, log_group, "log event"),
    "StateMachineDestination": ("StateMachineDestination", STACK, machines, "execution, of both types"),
    "ApiGatewayDestination": ("ApiGatewayDestination", BY_NAME, rest_api, "API call, by a function"),
    "IotDataDestination": ("IotDestination", "needs nothing", iot_topic, "IoT message, by a rule in a queue"),
    "LocationTrackerDestination": ("LocationDestination", STACK, tracker, "position of a device"),
}
"""Each class: its stack, by whom what it delivers to is made, how packets are read there, and what they are."""


def copied(folder: Path) -> Path:
    """The stacks, whose functions answer with what they got, and whose literal ARNs have the emulator's account."""
    assembly = Path(shutil.copytree(ASSEMBLY, folder / "cdk.out"))
    for file in assembly.glob("asset.*/answers/shout.py"):
        file.write_text("def loud(greeting, data):\n    return data\n")
    literal = assembly / "RegionMap.template.json"
    literal.write_text(literal.read_text().replace("111122223333", ACCOUNT))
    return assembly


def applied(gateway: Gateway, template: Path) -> dict[str, Any]:
    done = in_process("apply", template, "--api", gateway.api_url, "--output", "json")
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def provision(ministack: Ministack, stack: str, arns: Mapping[str, str]) -> None:
    """Make what the template makes for its Destinations, by the emulator's CloudFormation, under the names that
    `apply` has said."""
    template = json.loads((ASSEMBLY / f"{stack}.template.json").read_text())["Resources"]
    roles = {name: one for name, one in template.items() if "states.amazonaws.com" in json.dumps(one)}
    made = {name: template[name] for name in arns} | roles
    for name, arn in arns.items():
        properties = made[name].setdefault("Properties", {})
        properties[name_property(made[name]["Type"])] = name_of(arn)
        if "Firehose" in made[name]["Type"]:
            ministack.client("s3").create_bucket(Bucket="firehose-objects")
            objects = {"RoleARN": ROLE, "BucketARN": "arn:aws:s3:::firehose-objects"}
            properties["ExtendedS3DestinationConfiguration"] = objects
    stacks = ministack.client("cloudformation")
    stacks.create_stack(StackName=stack, TemplateBody=json.dumps({"Resources": made}))

    def status() -> str:
        return str(stacks.describe_stacks(StackName=stack)["Stacks"][0]["StackStatus"])

    until(lambda: not status().endswith("IN_PROGRESS"), f"the emulator has made {stack}")
    assert status() == "CREATE_COMPLETE"


def seen(packet: bytes, texts: list[str]) -> bool:
    """True if a packet is in one of these, as it is, as base64 or as hex."""
    forms = (packet.decode(), base64.b64encode(packet).decode(), packet.hex().upper())
    return any(form in text for form in forms for text in texts)


def replies(device: Client) -> Read:
    """What comes back to the device."""
    arrived: list[bytes] = []

    def read() -> list[str]:
        arrived.extend(device.waiting())
        return [packet.decode() for packet in arrived]

    return read


def sent(
    gateway: Gateway, ministack: Ministack, assembly: Path, name: str, device: Client
) -> tuple[int, Read]:
    """Apply the stack of a class, and send a packet to each of its Listeners: how many, and how to read them."""
    stack, by, watch, _ = CLASSES[name]
    document = applied(gateway, assembly / f"{stack}.template.json")
    goes = [found for one in document["Notes"] if (found := GOES.match(one["Text"]))]
    arns = {found[3] or found[1]: found[1] for found in goes}
    assert bool(arns) == (by != HERE), document["Notes"]
    assert {found[2] for found in goes} <= {ministack.url}
    if by == STACK:
        provision(ministack, stack, arns)
    folder = assembly / f"seen-{stack}"
    folder.mkdir()
    read = watch(Target(ministack, arns, folder)) if watch else replies(device)
    ports = [int(place.rpartition(":")[2]) for place in document["Listeners"].values()]
    for port, packet in zip(ports, PACKETS, strict=False):
        device.send(packet, ("127.0.0.1", port))
    return len(ports), read


def row(gateway: Gateway, name: str, count: int, read: Read) -> list[str]:
    """The table's row of a class, once its packets have arrived, or have not."""
    stack, by, _, what = CLASSES[name]
    try:
        until(lambda: all(seen(one, read()) for one in PACKETS[:count]), f"packets of {name} arrive")
    except AssertionError as error:
        why = [one["Detail"] for one in gateway.named("DeliveryFailed") if stack in one["Listener"]]
        return [name, by, "no", "; ".join(why) or str(error)]
    return [name, by, f"{count} of {count}: {what}", ""]


def test_packets_of_each_class_arrive(
    ministack: Ministack, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    assembly = copied(tmp_path)
    gateway = Gateway(tmp_path, "listeners: []", aws=ministack.url, environment=ENVIRONMENT)
    try:
        gateway.start()
        with contextlib.ExitStack() as devices:
            given = {
                name: sent(gateway, ministack, assembly, name, devices.enter_context(Client()))
                for name in CLASSES
            }
            rows = [row(gateway, name, *one) for name, one in given.items()]
        request.node.user_properties += [("stack", one) for one in rows]
        assert [one for one in rows if one[3]] == []
        assert gateway.named("DeliveryFailed") == []
        assert gateway.stop() == 0
    finally:
        gateway.close()
