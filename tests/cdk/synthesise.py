"""Writes `cdk.out`: what the reference service's construct library makes of an app, one stack per construct.

The tests read the JSON alone. To write it anew, in a virtual environment of its own (it needs node 20 or newer):

    python -m venv /tmp/cdk
    /tmp/cdk/bin/pip install proxylity-cdk-udp-gateway==0.2.1 aws-cdk-lib==2.275.0
    /tmp/cdk/bin/python tests/cdk/synthesise.py

The templates are as `cdk synth` writes them. Two things are taken out because they change with the tool: the manifests,
and what `CDKMetadata` reports of the tool's own version.
"""

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aws_cdk as cdk
import proxylity_cdk_udp_gateway as gw
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_events as events
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kinesis as kinesis
from aws_cdk import aws_kinesisfirehose as firehose
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_location as location
from aws_cdk import aws_logs as logs
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sqs as sqs
from aws_cdk import aws_ssm as ssm
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

HERE = Path(__file__).parent
OUT = HERE / "cdk.out"
ACCOUNT, REGION = "111122223333", "us-east-1"
# Keys of nobody: 32 times one byte.
PEER_KEY = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="
SHARED_SECRET = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI="
OTHER_SECRET = "AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM="
LOOPBACK = {"networks": ["127.0.0.0/8", "::1/128"]}

# What the command line tool sets: without it no template has `Metadata`.
CONTEXT = {"aws:cdk:enable-path-metadata": True, "aws:cdk:enable-asset-metadata": True}

COMMON: dict[str, Any] = {
    "batching": {"count": 10, "size_in_mb": 0.5, "timeout_in_seconds": 0.5},
    "description": "Everything that a Destination can say of itself.",
    "formatter": gw.Formatter.HEX,
    "log_group_name": "/sluicegate/errors",
    "metrics_enabled": True,
    "role_session_duration": cdk.Duration.minutes(30),
}
"""Of a Destination of any class."""

Build = Callable[[cdk.Stack], None]
STACKS: dict[str, Build] = {}


def stack(build: Build) -> Build:
    """One template of its own, with the function's name: `udp_listener` makes `UdpListener.template.json`."""
    STACKS["".join(part.title() for part in build.__name__.split("_"))] = build
    return build


def echo(scope: cdk.Stack, id_: str = "Echo", handler: str = "index.handler") -> lambda_.Function:
    """A function whose code is a folder beside the template."""
    return lambda_.Function(
        scope,
        id_,
        runtime=lambda_.Runtime.PYTHON_3_12,
        handler=handler,
        code=lambda_.Code.from_asset(str(HERE / "functions/echo"), exclude=["__pycache__"]),
        environment={"GREETING": "hello from"},
        timeout=cdk.Duration.seconds(10),
    )


def to_echo(scope: cdk.Stack, **properties: Any) -> gw.LambdaDestination:
    settings = {"formatter": gw.Formatter.UTF8, "batching": {"count": 1}, **properties}
    return gw.LambdaDestination(fn=echo(scope), **settings)


def listener(scope: cdk.Stack, *destinations: Any, **properties: Any) -> gw.Listener:
    settings = {"protocol": gw.ListenerProtocol.udp(), "client_restrictions": LOOPBACK, **properties}
    made = gw.Listener(scope, "Listener", destinations=list(destinations) or [to_echo(scope)], **settings)
    cdk.CfnOutput(scope, "Endpoint", value=made.endpoint)
    cdk.CfnOutput(scope, "Port", value=made.port)
    return made


def listeners(scope: cdk.Stack, *destinations: gw.DestinationBase) -> None:
    """A Listener for each: the library's roles have fixed names, so that one Listener has one of a class."""
    for number, destination in enumerate(destinations, 1):
        gw.Listener(
            scope,
            f"Listener{number}",
            destinations=[destination],
            protocol=gw.ListenerProtocol.udp(),
            client_restrictions=LOOPBACK,
        )


def plain_listener(scope: cdk.Stack, **properties: Any) -> gw.CfnListener:
    """The resource itself, for what the construct above it cannot say."""
    config = gw.ProxylityConfig.for_stack(scope)
    settings = {"protocols": ["udp"], "client_restrictions": LOOPBACK, **properties}
    return gw.CfnListener(
        scope, "Listener", service_token=config.service_token(), api_key=config.api_key(), **settings
    )


def attribute(made: Construct, name: str) -> str:
    """`Fn::GetAtt`, also of attributes for which the library has no property."""
    return cdk.Fn.get_att(cdk.Stack.of(made).get_logical_id(made.node.default_child), name).to_string()


def arn(service: str, resource: str, region: str = REGION, account: str = ACCOUNT) -> str:
    return f"arn:aws:{service}:{region}:{account}:{resource}"


# Listeners


@stack
def echo_app(scope: cdk.Stack) -> None:
    """What an app looks like in full: a parameter, a log group, several functions, several Destinations, outputs."""
    networks = cdk.CfnParameter(scope, "ClientCidr", default="127.0.0.0/8")
    group = logs.LogGroup(scope, "Errors", retention=logs.RetentionDays.ONE_WEEK)
    made = listener(
        scope,
        to_echo(scope, destination_name="echo-app-echo"),
        gw.SqsDestination(queue=sqs.Queue(scope, "Archive"), log_group_name=group.log_group_name),
        client_restrictions={"networks": [networks.value_as_string]},
        description="Answers in capitals",
    )
    cdk.CfnOutput(scope, "Destinations", value=cdk.Fn.join(",", made.destination_names))


@stack
def nested_handler(scope: cdk.Stack) -> None:
    """`pkg.module.function`, whose imports begin at the root of the folder."""
    function = echo(scope, "Nested", "answers.shout.handler")
    listener(
        scope,
        gw.LambdaDestination(fn=function, formatter=gw.Formatter.UTF8, batching={"count": 1}),
    )


@stack
def inline_code(scope: cdk.Stack) -> None:
    function = lambda_.Function(
        scope,
        "Inline",
        runtime=lambda_.Runtime.PYTHON_3_12,
        handler="index.handler",
        code=lambda_.Code.from_inline("def handler(event, context):\n    return {'Replies': []}\n"),
    )
    listener(scope, gw.LambdaDestination(fn=function))


@stack
def node_function(scope: cdk.Stack) -> None:
    function = lambda_.Function(
        scope,
        "Node",
        runtime=lambda_.Runtime.NODEJS_22_X,
        handler="index.handler",
        code=lambda_.Code.from_asset(str(HERE / "functions/node")),
    )
    listener(scope, gw.LambdaDestination(fn=function))


@stack
def udp_listener_full(scope: cdk.Stack) -> None:
    listener(
        scope,
        to_echo(scope),
        description="All that a plain Listener can say",
        listener_name="All that is",
        log_group_name="/sluicegate/listener",
        metrics_enabled=True,
        role_session_duration=cdk.Duration.hours(2),
    )


@stack
def udp_listener_open_to_nobody(scope: cdk.Stack) -> None:
    """Left out, no traffic is admitted."""
    listener(scope, client_restrictions=None)


@stack
def client_domains(scope: cdk.Stack) -> None:
    listener(scope, client_restrictions={"networks": ["127.0.0.0/8"], "domains": ["device.example.com"]})


@stack
def wire_guard_listener(scope: cdk.Stack) -> None:
    made = listener(
        scope, protocol=gw.ListenerProtocol.wire_guard(peers=[gw.WireGuardPeer(public_key=PEER_KEY)])
    )
    cdk.CfnOutput(scope, "PublicKey", value=made.wire_guard_public_key)


@stack
def wire_guard_listener_full(scope: cdk.Stack) -> None:
    peer = gw.WireGuardPeer(public_key=PEER_KEY, shared_secret=SHARED_SECRET, allowed_i_ps=["10.9.0.2/32"])
    protocol = gw.ListenerProtocol.wire_guard(
        allow_unknown_peers=True,
        decapsulated_delivery=True,
        key_refresh_token="first",
        peers=[peer],
        unknown_peer_pre_shared_key=OTHER_SECRET,
    )
    made = listener(
        scope,
        protocol=protocol,
        log_group_name="/sluicegate/tunnels",
        metrics_enabled=True,
        role_session_duration=cdk.Duration.hours(12),
    )
    cdk.CfnOutput(scope, "PublicKey", value=made.wire_guard_public_key)


@stack
def dtls_listener(scope: cdk.Stack) -> None:
    made = listener(scope, protocol=gw.ListenerProtocol.dtls())
    cdk.CfnOutput(scope, "Certificate", value=made.dtls_server_certificate)


@stack
def dtls_listener_full(scope: cdk.Stack) -> None:
    protocol = gw.ListenerProtocol.dtls(
        allow_early_data=True,
        cert_refresh_token="first",
        early_data_window_seconds=600,
        psks={"meter-1": "not much of a secret"},
        require_cookies=True,
        server_secret=SHARED_SECRET,
    )
    made = listener(scope, protocol=protocol, metrics_enabled=True)
    cdk.CfnOutput(scope, "Certificate", value=made.dtls_server_certificate)


def web_rtc_outputs(scope: cdk.Stack, made: gw.Listener) -> None:
    for name in ("fingerprint", "sctp_port", "channel_id", "signaling_mode"):
        cdk.CfnOutput(scope, name.title().replace("_", ""), value=getattr(made, f"web_rtc_{name}"))


@stack
def web_rtc_listener(scope: cdk.Stack) -> None:
    web_rtc_outputs(scope, listener(scope, protocol=gw.ListenerProtocol.web_rtc()))


@stack
def web_rtc_listener_full(scope: cdk.Stack) -> None:
    protocol = gw.ListenerProtocol.web_rtc(
        cert_refresh_token="first",
        require_cookies=True,
        server_secret=SHARED_SECRET,
        signaling_mode=gw.WebRtcSignalingMode.PUBLIC,
        signaling_refresh_token="first",
    )
    made = listener(scope, protocol=protocol)
    web_rtc_outputs(scope, made)
    cdk.CfnOutput(scope, "SignalingToken", value=made.web_rtc_signaling_token)
    cdk.CfnOutput(scope, "SignalingUrl", value=made.web_rtc_signaling_url)


@stack
def every_attribute(scope: cdk.Stack) -> None:
    """Public templates read attributes of other protocols unconditionally."""
    made = plain_listener(scope)
    for name in (
        "Id",
        "Port",
        "Domain",
        "WireGuardPublicKey",
        "DtlsServerCertificate",
        "WebRtcFingerprint",
        "WebRtcSctpPort",
        "WebRtcChannelId",
        "WebRtcSignalingMode",
        "WebRtcSignalingToken",
        "WebRtcSignalingUrl",
    ):
        cdk.CfnOutput(scope, name, value=attribute(made, name))
    cdk.CfnOutput(scope, "DestinationNames", value=cdk.Fn.join(",", made.attr_destination_names))


# Other resources


@stack
def packet_source(scope: cdk.Stack) -> None:
    made = listener(scope)
    gw.SnsPacketSource(scope, "Source", listener=made, topic=sns.Topic(scope, "Topic"))


@stack
def packet_source_full(scope: cdk.Stack) -> None:
    made = listener(scope)
    role = iam.Role(
        scope, "Subscriber", assumed_by=iam.ArnPrincipal(gw.ProxylityConfig.for_stack(scope).service_role())
    )
    source = gw.SnsPacketSource(
        scope, "Source", listener=made, topic=sns.Topic(scope, "Topic"), role=role, description="Commands"
    )
    cdk.CfnOutput(scope, "SourceId", value=source.ref)


@stack
def destination_arn(scope: cdk.Stack) -> None:
    """A Destination without an ARN of its own, bound in the regions one by one."""
    made = listener(
        scope,
        gw.ArnDestination(
            arn_map={}, destination_name="regional", formatter=gw.Formatter.UTF8, batching={"count": 1}
        ),
    )
    function = echo(scope)
    here = gw.RegionalArnRegistration(
        scope, "Here", arn=function.function_arn, destination_name=cdk.Fn.select(0, made.destination_names)
    )
    gw.RegionalArnRegistration(
        scope,
        "Elsewhere",
        arn=function.function_arn,
        destination_name=cdk.Fn.select(0, made.destination_names),
        ingress_region_key="*",
    )
    for name in ("Destination", "IngressRegionKey", "Arn"):
        cdk.CfnOutput(
            scope,
            name,
            value=attribute(here.cfn_destination_arn, name),
        )


@stack
def string_destinations(scope: cdk.Stack) -> None:
    """A string is the name of a Destination that exists already."""
    plain_listener(scope, destinations=["somewhere-else"])


@stack
def reserved_destination(scope: cdk.Stack) -> None:
    """The library has no construct for this type, and templates can name it all the same."""
    config = gw.ProxylityConfig.for_stack(scope)
    properties = {"ApiKey": config.api_key(), "Name": "alone", "DestinationArn": arn("sqs", "alone")}
    cdk.CustomResource(
        scope,
        "Destination",
        resource_type="Custom::ProxylityUdpGatewayDestination",
        service_token=config.service_token(),
        properties=properties,
    )


# Destinations, each class with what it needs and with all that it can say


@stack
def lambda_destination(scope: cdk.Stack) -> None:
    one, other = echo(scope, "One"), echo(scope, "Other")
    listeners(
        scope,
        gw.LambdaDestination(fn=one),
        gw.LambdaDestination(
            fn=other,
            **COMMON,
            destination_name="lambda-full",
            tenant_id_expression="[0:4]",
            tenant_id_formatter=gw.ArgumentFormatter.HEX,
            use_response_streaming=True,
        ),
        gw.LambdaDestination(
            fn=one, destination_name="lambda-async", tenant_id="acme", use_async_invoke=True
        ),
    )


@stack
def sqs_destination(scope: cdk.Stack) -> None:
    queue = sqs.Queue(scope, "Queue")
    listeners(
        scope,
        gw.SqsDestination(queue=queue),
        gw.SqsDestination(
            queue=queue, **COMMON, destination_name="sqs-full", send_raw=True, use_message_attributes=True
        ),
    )


@stack
def sqs_fifo_destination(scope: cdk.Stack) -> None:
    queue = sqs.Queue(scope, "Queue", fifo=True)
    listeners(
        scope,
        gw.SqsDestination(queue=queue, message_group_id_expression="[0:4]"),
        gw.SqsDestination(
            queue=queue,
            **COMMON,
            destination_name="fifo-full",
            message_group_id_expression="[0:4]",
            message_group_id_formatter=gw.ArgumentFormatter.HEX,
            message_deduplication_id_expression="[4:8]",
            message_deduplication_id_formatter=gw.ArgumentFormatter.BASE64,
        ),
    )


@stack
def sns_destination(scope: cdk.Stack) -> None:
    topic = sns.Topic(scope, "Topic")
    listeners(
        scope,
        gw.SnsDestination(topic=topic),
        gw.SnsDestination(topic=topic, **COMMON, destination_name="sns-full"),
    )


@stack
def kinesis_destination(scope: cdk.Stack) -> None:
    stream = kinesis.Stream(scope, "Stream")
    listeners(
        scope,
        gw.KinesisStreamDestination(stream=stream),
        gw.KinesisStreamDestination(
            stream=stream,
            **COMMON,
            destination_name="kinesis-full",
            partition_key_expression="[0:4]",
            partition_key_expression_formatter=gw.ArgumentFormatter.HEX,
        ),
    )


@stack
def firehose_destination(scope: cdk.Stack) -> None:
    stream = firehose.CfnDeliveryStream(scope, "Stream")
    listeners(
        scope,
        gw.FirehoseDestination(delivery_stream=stream),
        gw.FirehoseDestination(delivery_stream=stream, **COMMON, destination_name="firehose-full"),
    )


@stack
def s3_destination(scope: cdk.Stack) -> None:
    bucket = s3.Bucket(scope, "Bucket")
    listeners(
        scope,
        gw.S3Destination(bucket=bucket),
        gw.S3Destination(bucket=bucket, key_prefix="packets/", **COMMON, destination_name="s3-full"),
    )


@stack
def dynamo_db_destination(scope: cdk.Stack) -> None:
    key = dynamodb.Attribute(name="id", type=dynamodb.AttributeType.STRING)
    table = dynamodb.TableV2(scope, "Table", partition_key=key)
    listeners(
        scope,
        gw.DynamoDbDestination(table=table),
        gw.DynamoDbDestination(table=table, **COMMON, destination_name="dynamodb-full"),
    )


@stack
def event_bridge_destination(scope: cdk.Stack) -> None:
    bus = events.EventBus(scope, "Bus")
    listeners(
        scope,
        gw.EventBridgeDestination(event_bus=bus),
        gw.EventBridgeDestination(event_bus=bus, **COMMON, destination_name="events-full"),
    )


@stack
def logs_destination(scope: cdk.Stack) -> None:
    group = logs.LogGroup(scope, "Group")
    listeners(
        scope,
        gw.CloudWatchLogsDestination(log_group=group),
        gw.CloudWatchLogsDestination(log_group=group, **COMMON, destination_name="logs-full"),
    )


@stack
def state_machine_destination(scope: cdk.Stack) -> None:
    def machine(id_: str, kind: sfn.StateMachineType) -> sfn.StateMachine:
        body = sfn.DefinitionBody.from_chainable(sfn.Pass(scope, f"{id_}Pass"))
        return sfn.StateMachine(scope, id_, definition_body=body, state_machine_type=kind)

    express = machine("Express", sfn.StateMachineType.EXPRESS)
    standard = machine("Standard", sfn.StateMachineType.STANDARD)
    listeners(
        scope,
        gw.StateMachineDestination(state_machine=express),
        gw.StateMachineDestination(
            state_machine=standard,
            state_machine_type=sfn.StateMachineType.STANDARD,
            **COMMON,
            destination_name="machine-full",
        ),
    )


@stack
def api_gateway_destination(scope: cdk.Stack) -> None:
    target = cdk.Fn.sub(
        "arn:${AWS::Partition}:execute-api:${AWS::Region}:${AWS::AccountId}:a1b2c3d4e5/prod/POST/in"
    )
    listeners(
        scope,
        gw.ApiGatewayDestination(execute_api_arn=target),
        gw.ApiGatewayDestination(execute_api_arn=target, **COMMON, destination_name="api-full"),
    )


@stack
def iot_destination(scope: cdk.Stack) -> None:
    target = cdk.Fn.sub("arn:${AWS::Partition}:iot:${AWS::Region}:${AWS::AccountId}:topic/packets")
    listeners(
        scope,
        gw.IotDataDestination(topic_arn=target),
        gw.IotDataDestination(
            topic_arn=target,
            **COMMON,
            destination_name="iot-full",
            dynamic_topic_suffix=True,
            topic_suffix_expression="[0:4]",
            topic_suffix_formatter=gw.ArgumentFormatter.ASCII,
        ),
    )


@stack
def location_destination(scope: cdk.Stack) -> None:
    tracker = location.CfnTracker(scope, "Tracker", tracker_name="devices")
    needed = {
        "device_id_expression": "[0:4]",
        "latitude_expression": "[4:8]",
        "longitude_expression": "[8:12]",
    }
    listeners(
        scope,
        gw.LocationTrackerDestination(tracker=tracker, **needed),
        gw.LocationTrackerDestination(
            tracker=tracker,
            **needed,
            **COMMON,
            destination_name="location-full",
            accuracy_expression="[12:14]",
            position_property_expressions={"Speed": "[14:15]"},
            scale_factor=100000,
            timestamp_expression="[16:20]",
            time_unit=gw.LocationTimeUnit.SECONDS,
        ),
    )


@stack
def region_map(scope: cdk.Stack) -> None:
    """One function in two regions, and a fallback. What the library makes of it names ARNs of an account."""
    targets = {one: arn("lambda", "function:echo", region=one) for one in ("us-east-1", "eu-central-1")}
    listener(
        scope,
        gw.ArnDestination(arn_map={"by_region": targets, "default": arn("lambda", "function:echo")}),
    )


@stack
def several_destinations(scope: cdk.Stack) -> None:
    listener(
        scope,
        to_echo(scope),
        gw.SqsDestination(queue=sqs.Queue(scope, "Queue")),
        gw.SnsDestination(topic=sns.Topic(scope, "Topic")),
        gw.CloudWatchLogsDestination(log_group=logs.LogGroup(scope, "Group")),
        log_group_name="/sluicegate/listener",
    )


# What this version refuses or once refused


@stack
def filter_expression(scope: cdk.Stack) -> None:
    listener(scope, to_echo(scope, filter_expression="[0:1] == 0x01"))


@stack
def coap(scope: cdk.Stack) -> None:
    listener(scope, to_echo(scope, formatter=gw.Formatter.COAP))


@stack
def existing_targets(scope: cdk.Stack) -> None:
    """Destinations on what an account has already, in every service."""
    targets = {
        "api-gateway": arn("execute-api", "a1b2c3d4e5/prod/POST/in"),
        "dynamodb": arn("dynamodb", "table/packets"),
        "events": arn("events", "event-bus/packets"),
        "firehose": arn("firehose", "deliverystream/packets"),
        "iot": arn("iot", "topic/packets"),
        "kinesis": arn("kinesis", "stream/packets"),
        "lambda": arn("lambda", "function:packets"),
        "location": arn("geo", "tracker/packets"),
        "logs": arn("logs", "log-group:packets"),
        "s3": "arn:aws:s3:::packets/prefix*",
        "sns": arn("sns", "packets"),
        "sqs": arn("sqs", "packets"),
        "states": arn("states", "stateMachine:packets"),
    }
    needed = {"location": {f"{one}_expression": "[0:4]" for one in ("device_id", "latitude", "longitude")}}
    role = gw.ListenerRole(arn=f"arn:aws:iam::{ACCOUNT}:role/deliverer")
    destinations = [
        gw.ListenerDestination(name=name, destination_arn=target, role=role, arguments=needed.get(name))
        for name, target in targets.items()
    ]
    plain_listener(scope, destinations=destinations)


@stack
def parameter_store(scope: cdk.Stack) -> None:
    """A parameter that only an account can answer."""
    networks = ssm.StringParameter.value_for_string_parameter(scope, "/udp/client-network")
    listener(scope, client_restrictions={"networks": [networks]})


@stack
def topic_of_another_stack(scope: cdk.Stack) -> None:
    """A reference to another stack of the app: `Fn::ImportValue`."""
    other = cdk.Stack(cdk.App.of(scope), "Topics")
    gw.SnsPacketSource(scope, "Source", listener=listener(scope), topic=sns.Topic(other, "Topic"))


def stage(scope: cdk.Stack) -> None:
    """A stack in a Stage, as pipelines deploy them: its template lies in a folder below that of the assets."""
    listener(scope)


def written(text: str) -> str:
    """A template as it is kept: without what changes with the tool."""
    template = json.loads(text)
    if "CDKMetadata" in template["Resources"]:
        template["Resources"]["CDKMetadata"]["Properties"]["Analytics"] = "v2:deflate64:none"
    return json.dumps(template, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    """Synthesise every stack, and keep templates and the folders of code."""
    with tempfile.TemporaryDirectory() as made:
        app = cdk.App(outdir=made, context=CONTEXT, analytics_reporting=False)
        for name, build in STACKS.items():
            # One stack reports its tool's version, as those of most users do.
            build(cdk.Stack(app, name, analytics_reporting=name == "EchoApp"))
        stage(cdk.Stack(cdk.Stage(app, "Live"), "Staged"))
        app.synth()
        shutil.rmtree(OUT, ignore_errors=True)
        OUT.mkdir()
        for file in Path(made).rglob("*.template.json"):
            kept = OUT / file.relative_to(made)
            kept.parent.mkdir(exist_ok=True)
            kept.write_text(written(file.read_text()))
        for folder in Path(made).glob("asset.*"):
            shutil.copytree(folder, OUT / folder.name)


if __name__ == "__main__":
    main()
