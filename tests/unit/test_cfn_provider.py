"""What CloudFormation is told, and what a gateway is asked, for each request: also when it is repeated or fails."""

import ast
import itertools
import json
import sys
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from sluicegate.cfn import provider
from sluicegate.cfn.provider import (
    RequestRefused,
    Unreachable,
    encoded,
    handle,
    kind_of,
    refusal,
    refused_url,
    with_reason,
)
from sluicegate.running.documents import KINDS
from sluicegate.running.views import returned

STACK = "arn:aws:cloudformation:eu-west-1:000000000000:stack/demo/6b0f0c5e"
TOPIC = {"TopicArn": "arn:aws:sns:eu-west-1:000000000000:replies", "Role": "arn:aws:iam::000000000000:role/r"}


class FakeGateway:
    """Resources by path, with the API's rules; answers may be lost on their way."""

    def __init__(self) -> None:
        self.items: dict[str, dict[str, Any]] = {}
        self.answers: dict[str, dict[str, Any]] = {}
        self.calls: list[tuple[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.subscription: list[dict[str, str]] = [{}]
        self.lose = 0
        self.down = False

    def call(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Any:
        self.calls.append((method, path))
        self.headers.append(dict(headers or {}))
        if self.down:
            raise Unreachable("the gateway cannot be reached")
        answer = getattr(self, f"_{method.lower()}")(path, body, headers or {})
        if self.lose:
            self.lose -= 1
            raise Unreachable("the answer was lost")
        return answer

    def _post(self, path: str, body: Any, headers: Mapping[str, str]) -> Any:
        key = headers["Idempotency-Key"]
        if key in self.answers:
            return self.answers[key]
        name = body.get("Name") or f"{body['Destination']}@{body['IngressRegionKey']}"
        place = f"{path}/{urllib.parse.quote(name, safe='')}"
        if place in self.items:
            raise RequestRefused(409, f"{name} exists")
        if body.get("ListenerName") == "missing":
            raise RequestRefused(422, 'there is no Listener named "missing", declare it first')
        self.items[place] = {**body, "Id": name}
        self.answers[key] = self._shown(path, self.items[place])
        return self.answers[key]

    def _get(self, path: str, body: Any, headers: Mapping[str, str]) -> Any:
        """A PacketSource as its subscription goes on: `subscription` is what there is to see, one after the other."""
        if len(self.subscription) > 1:
            self.subscription.pop(0)
        return self._shown(path.rpartition("/")[0], self.items[path])

    def _put(self, path: str, body: Any, headers: Mapping[str, str]) -> Any:
        if path not in self.items:
            raise RequestRefused(404, "there is no such thing")
        self.items[path].update(body)
        return self._shown(path.rpartition("/")[0], self.items[path])

    def _delete(self, path: str, body: Any, headers: Mapping[str, str]) -> Any:
        if path not in self.items:
            raise RequestRefused(404, "there is no such thing")
        del self.items[path]

    def _shown(self, path: str, item: dict[str, Any]) -> dict[str, Any]:
        if path != "/v1/listeners":
            return {
                **item,
                **(self.subscription[0] if path == "/v1/packet-sources" else {}),
                "Warnings": ["PacketSource: unknown property Foo is ignored"] if "Foo" in item else [],
            }
        names = [one if isinstance(one, str) else one["Name"] for one in item.get("Destinations", [])]
        return {
            **item,
            "Domain": "ingress-1",
            "Port": 20001,
            "DestinationNames": names,
            "WireGuardPublicKey": "",
        }


_ids = itertools.count()


def request(
    kind: str, resource: str, properties: Mapping[str, Any], physical_id: str | None = None, **others: Any
) -> dict[str, Any]:
    """A request as CloudFormation makes it: every scalar is text."""
    made = {
        "RequestType": kind,
        "ResponseURL": "https://cloudformation-custom-resource-response-euwest1.s3.amazonaws.com/x",
        "StackId": STACK,
        "RequestId": f"request-{next(_ids)}",
        "ResourceType": resource,
        "LogicalResourceId": "Thing",
        "ResourceProperties": {"ServiceToken": "arn:…", "ApiKey": "k-123", **properties},
    }
    if physical_id is not None:
        made["PhysicalResourceId"] = physical_id
    return {**made, **others}


LISTENER = "Custom::ProxylityUdpGatewayListener"
SOURCE = "Custom::ProxylityUdpGatewayPacketSource"
ARN = "Custom::ProxylityUdpGatewayDestinationArn"


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provider.time, "sleep", lambda seconds: None)


def test_a_listener_is_made_with_everything_that_get_att_may_ask_for() -> None:
    gateway = FakeGateway()
    properties = {"Protocols": ["udp"], "Destinations": [{"Name": "a"}, {"Name": "b"}]}
    answer = handle(request("Create", LISTENER, properties), gateway)
    assert answer["Status"] == "SUCCESS", answer
    assert answer["Data"] == {
        "Id": answer["PhysicalResourceId"],
        "Name": answer["PhysicalResourceId"],
        "Domain": "ingress-1",
        "Port": 20001,
        "DestinationNames": ["a", "b"],
        "WireGuardPublicKey": "",
        "DtlsServerCertificate": "",
        "WebRtcFingerprint": "",
        "WebRtcSctpPort": "",
        "WebRtcChannelId": "",
        "WebRtcSignalingMode": "",
        "WebRtcSignalingToken": "",
        "WebRtcSignalingUrl": "",
    }
    assert answer["PhysicalResourceId"].startswith("demo-Thing-")
    (sent,) = gateway.items.values()
    assert not {"ServiceToken", "ApiKey"} & set(sent)
    assert gateway.headers[0]["Authorization"] == "Bearer k-123"
    assert gateway.headers[0]["Prefer"] == "handling=lenient"


@pytest.mark.parametrize("kind", ["Listener", "PacketSource", "DestinationArn"])
def test_the_attributes_are_what_the_gateway_gives(kind: str) -> None:
    """The provider stands alone in Lambda; `running/views.py` declares what there is."""
    of_document = {str(field.alias) for field in KINDS[kind].model_fields.values()}
    of_view = returned(kind)
    assert set(provider.ATTRIBUTES[kind]) <= of_document | of_view
    if kind == "Listener":
        not_in_aws = {"Version", "DeclaredBy", "Warnings", "Address", "DomainAddresses", "DomainProblems"}
        assert set(provider.ATTRIBUTES[kind]) == {"Name"} | of_view - not_in_aws
    if kind == "DestinationArn":
        assert of_document - {"Arguments"} <= set(provider.ATTRIBUTES[kind])  # a mapping is no attribute


def test_destinations_without_names_are_named_after_stack_and_resource() -> None:
    gateway = FakeGateway()
    properties = {"Name": "a", "Destinations": [{}, {"Name": "b"}, {"Name": ""}, "elsewhere"]}
    answer = handle(request("Create", LISTENER, properties), gateway)
    assert answer["Data"]["DestinationNames"] == ["dstn-demo-Thing-0", "b", "dstn-demo-Thing-2", "elsewhere"]


def test_a_destination_arn_gives_what_it_binds() -> None:
    made = handle(request("Create", ARN, {"Destination": "a", "Arn": "console:"}), FakeGateway())
    assert made["Data"] == {
        "Id": "a@eu-west-1",
        "Destination": "a",
        "IngressRegionKey": "eu-west-1",
        "Arn": "console:",
    }


@pytest.mark.parametrize("prefix", ["ProxylityUdpGateway", "Sluicegate"])
def test_a_destination_by_itself_fails_with_the_way_out(prefix: str) -> None:
    gateway = FakeGateway()
    alone = f"Custom::{prefix}Destination"
    answer = handle(request("Create", alone, {"Name": "a", "DestinationArn": "console:"}), gateway)
    assert answer["Status"] == "FAILED"
    assert "declare it in the property Destinations of its Listener" in answer["Reason"]
    assert kind_of(alone) is None
    # The stack is rolled back then, and nothing of this type was made.
    gone = handle(request("Delete", alone, {}, answer["PhysicalResourceId"]), gateway)
    assert gone["Status"] == "SUCCESS"
    assert gateway.calls == []


def test_listener_name_is_a_name_for_a_listener_and_a_reference_for_a_source() -> None:
    gateway = FakeGateway()
    assert (
        handle(request("Create", LISTENER, {"ListenerName": "decoder"}), gateway)["PhysicalResourceId"]
        == "decoder"
    )
    made = handle(
        request("Create", SOURCE, {"ListenerName": "decoder", "SnsTopicSource": TOPIC, "Foo": "Bar"}), gateway
    )
    assert gateway.items[f"/v1/packet-sources/{made['PhysicalResourceId']}"]["ListenerName"] == "decoder"
    assert made["Reason"] == "PacketSource: unknown property Foo is ignored"


def test_the_same_request_twice_makes_one_resource() -> None:
    gateway = FakeGateway()
    event = request("Create", LISTENER, {"Name": "decoder"})
    assert handle(event, gateway) == handle(event, gateway)
    assert list(gateway.items) == ["/v1/listeners/decoder"]


def test_a_lost_answer_is_asked_for_again() -> None:
    gateway = FakeGateway()
    gateway.lose = 2
    assert handle(request("Create", LISTENER, {"Name": "decoder"}), gateway)["Status"] == "SUCCESS"
    assert len(gateway.items) == 1


def test_a_refused_create_deletes_nobody_elses_resource() -> None:
    gateway = FakeGateway()
    handle(request("Create", LISTENER, {"Name": "decoder"}), gateway)
    failed = handle(request("Create", LISTENER, {"Name": "decoder"}), gateway)
    assert failed["Status"] == "FAILED"
    assert failed["Reason"] == "decoder exists"
    rolled_back = handle(
        request("Delete", LISTENER, {"Name": "decoder"}, failed["PhysicalResourceId"]), gateway
    )
    assert rolled_back["Status"] == "SUCCESS"
    assert list(gateway.items) == ["/v1/listeners/decoder"]


def test_a_create_whose_answer_never_came_is_taken_back() -> None:
    gateway = FakeGateway()
    gateway.lose = 100
    failed = handle(request("Create", LISTENER, {"Name": "decoder"}), gateway)
    assert failed["Status"] == "FAILED"
    assert gateway.items
    gateway.lose = 0
    undone = handle(request("Delete", LISTENER, {"Name": "decoder"}, failed["PhysicalResourceId"]), gateway)
    assert undone["Status"] == "SUCCESS"
    assert not gateway.items


def test_a_create_that_never_reached_the_gateway_takes_nothing_back() -> None:
    gateway = FakeGateway()
    handle(request("Create", LISTENER, {"Name": "decoder"}), gateway)
    gateway.down = True
    failed = handle(request("Create", LISTENER, {"Name": "decoder"}), gateway)
    gateway.down = False
    undone = handle(request("Delete", LISTENER, {"Name": "decoder"}, failed["PhysicalResourceId"]), gateway)
    assert undone["Status"] == "SUCCESS"
    assert list(gateway.items) == ["/v1/listeners/decoder"]


def test_an_update_in_place_keeps_the_physical_id() -> None:
    gateway = FakeGateway()
    old = {"Protocols": ["udp"], "Destinations": [{"Name": "a", "Batching": {"Count": "1"}}]}
    made = handle(request("Create", LISTENER, old), gateway)
    new = {**old, "Destinations": [{"Name": "a", "Batching": {"Count": "9"}}]}
    event = request("Update", LISTENER, new, made["PhysicalResourceId"], OldResourceProperties=old)
    updated = handle(event, gateway)
    assert updated["Status"] == "SUCCESS"
    assert updated["PhysicalResourceId"] == made["PhysicalResourceId"]
    assert gateway.calls[-1][0] == "PUT"


@pytest.mark.parametrize(
    ("resource", "old", "new"),
    [
        (LISTENER, {"Protocols": ["udp"]}, {"Protocols": ["wg"]}),
        (LISTENER, {"Name": "a"}, {"Name": "b"}),
        (
            SOURCE,
            {"ListenerName": "a", "SnsTopicSource": TOPIC},
            {"ListenerName": "b", "SnsTopicSource": TOPIC},
        ),
        (ARN, {"Destination": "a", "Arn": "console:"}, {"Destination": "b", "Arn": "console:"}),
        (ARN, {"Destination": "a", "Arn": "x"}, {"Destination": "a", "Arn": "x", "IngressRegionKey": "*"}),
    ],
)
def test_a_change_of_identity_is_a_replacement(resource: str, old: Any, new: Any) -> None:
    """CloudFormation deletes the old physical id by itself, after an update that answers with another one."""
    gateway = FakeGateway()
    made = handle(request("Create", resource, old), gateway)
    event = request("Update", resource, new, made["PhysicalResourceId"], OldResourceProperties=old)
    replaced = handle(event, gateway)
    assert replaced["Status"] == "SUCCESS", replaced
    assert replaced["PhysicalResourceId"] != made["PhysicalResourceId"]
    assert len(gateway.items) == 2
    handle(request("Delete", resource, old, made["PhysicalResourceId"]), gateway)
    assert len(gateway.items) == 1


def test_a_replacement_under_its_own_name_is_refused_with_the_way_out() -> None:
    gateway = FakeGateway()
    old = {"Name": "replies", "ListenerName": "a", "SnsTopicSource": TOPIC}
    handle(request("Create", SOURCE, old), gateway)
    event = request("Update", SOURCE, {**old, "ListenerName": "b"}, "replies", OldResourceProperties=old)
    answer = handle(event, gateway)
    assert answer["Status"] == "FAILED"
    assert answer["PhysicalResourceId"] == "replies"
    assert "change Name too, or leave Name out" in answer["Reason"]


def test_a_destination_arn_without_a_region_is_for_the_stack_s() -> None:
    gateway = FakeGateway()
    answer = handle(request("Create", ARN, {"Destination": "a", "Arn": "console:"}), gateway)
    assert answer["PhysicalResourceId"] == "a@eu-west-1"
    assert list(gateway.items) == ["/v1/destination-arns/a%40eu-west-1"]


def test_what_is_gone_deletes_and_does_not_update() -> None:
    gateway = FakeGateway()
    assert handle(request("Delete", LISTENER, {}, "gone"), gateway)["Status"] == "SUCCESS"
    event = request("Update", LISTENER, {"Description": "x"}, "gone", OldResourceProperties={})
    answer = handle(event, gateway)
    assert (answer["Status"], answer["PhysicalResourceId"]) == ("FAILED", "gone")
    assert "deleted outside of this stack" in answer["Reason"]


@pytest.mark.parametrize(
    "event",
    [
        request("Create", "Custom::Other", {}),
        request("Rename", LISTENER, {}),
        request("Create", SOURCE, {"ListenerName": "missing", "SnsTopicSource": TOPIC}),
        {},
        {"ResourceType": LISTENER, "RequestType": "Create", "ResourceProperties": 7},
    ],
)
def test_every_request_is_answered(event: dict[str, Any]) -> None:
    answer = handle(event, FakeGateway())
    assert answer["Status"] == "FAILED"
    assert answer["Reason"]
    assert answer["PhysicalResourceId"]


def test_a_refusal_names_the_destination_and_the_property() -> None:
    listener = {"Destinations": [{"Name": "a"}, "theirs"]}
    binding = {"Destination": "d", "IngressRegionKey": "*"}
    for document, pointer, expected in (
        (listener, "/Destinations/0/Batching/Count", "Destination a, Batching.Count: "),
        (listener, "/Destinations/1", "Destination theirs: "),
        (listener, "/Destinations/7/Name", "Destination None, Name: "),
        (listener, "/Destinations", "Destinations: "),
        (listener, "/ClientRestrictions/Networks/2", "ClientRestrictions.Networks.2: "),
        (listener, "", ""),
        (binding, "/Arn", "Destination d, Arn: "),
        (None, "/Odd~1name~0", "Odd/name~: "),
    ):
        errors = [{"Pointer": pointer, "Cause": "no", "Fix": "do"}, {"Cause": "also"}]
        body = json.dumps({"detail": "no, do; also", "Errors": errors}).encode()
        also = "Destination d: also" if document is binding else "also"
        assert str(refusal(422, body, document)) == f"{expected}no, do; {also}"
    for answer in (b'{"detail": "no", "Errors": []}', b'{"detail": "no"}'):
        assert str(refusal(409, answer, listener)) == "no"
    for answer in (b"[]", b"no JSON", b'{"Errors": [7]}', b"null"):
        assert str(refusal(409, answer, listener)) == "HTTP 409"


def test_a_gateway_that_does_not_answer_ends_as_failed() -> None:
    gateway = FakeGateway()
    gateway.down = True
    for kind in ("Create", "Update", "Delete"):
        answer = handle(request(kind, LISTENER, {}, "decoder", OldResourceProperties={}), gateway)
        assert answer["Status"] == "FAILED"
        assert answer["Reason"] == "the gateway cannot be reached"


def test_an_answer_that_cloudformation_would_not_take() -> None:
    gateway = FakeGateway()
    names = [{"Name": f"destination-with-a-long-name-{number}"} for number in range(200)]
    answer = handle(request("Create", LISTENER, {"Destinations": names}), gateway)
    assert answer["Status"] == "FAILED"
    assert "4096 bytes" in answer["Reason"]
    assert "most of all DestinationNames: shorten" in answer["Reason"]
    assert len(encoded(answer)) < 4096


LONG = "a long reason, " * 1000
REASONS = [
    LONG,
    "é" * 5000,
    "漢字" * 3000,
    "\U0001f6b0" * 3000,
    '\\"' * 4000,
    "\0\x1f" * 4000,
    "\ud83d" * 3000,
]


@pytest.mark.parametrize("reason", REASONS, ids=range(len(REASONS)))
@pytest.mark.parametrize("ids", [10, 400, 900])
def test_a_failure_has_as_much_of_its_reason_as_cloudformation_takes(reason: str, ids: int) -> None:
    gateway = FakeGateway()

    def refuse(*_: Any) -> None:
        raise RequestRefused(422, reason)

    gateway._post = refuse  # type: ignore[method-assign,assignment]
    gateway._put = refuse  # type: ignore[method-assign,assignment]
    arn = "arn:aws:cloudformation:eu-west-1:000000000000:stack/" + "s" * ids + "/6b0f0c5e"
    more = {"StackId": arn, "LogicalResourceId": "L" * 255, "OldResourceProperties": {}}
    for kind, physical_id in (("Create", None), ("Update", "p" * ids)):
        answer = handle(request(kind, LISTENER, {}, physical_id, **more), gateway)
        assert answer["Status"] == "FAILED"
        assert answer["PhysicalResourceId"] == physical_id or kind == "Create"
        assert 4096 - 13 <= len(encoded(answer)) < 4096 or len(answer["Reason"]) == 1000
        cut = answer["Reason"].removesuffix("…")
        assert len(cut) > 100
        assert reason.startswith(cut)


def test_reasons_that_fit_stay_whole() -> None:
    answer = {"StackId": STACK, "PhysicalResourceId": "x"}
    for reason in ("short", "é" * 500, "a" * 1000):
        assert with_reason(answer, reason) == {**answer, "Reason": reason}
    assert with_reason({"StackId": "s" * 4096}, "no room")["Reason"] == ""


def test_warnings_never_make_a_success_a_failure() -> None:
    """They get the room that the attributes leave."""
    gateway = FakeGateway()
    names = [{"Name": "d" * 200 + str(number)} for number in range(12)]
    listener = handle(request("Create", LISTENER, {"Destinations": names}), gateway)
    properties = {"ListenerName": "l", "SnsTopicSource": TOPIC, "Foo": 1, "Name": "s" * 255}
    plain = gateway._shown
    gateway._shown = lambda *given: {**plain(*given), "Warnings": ["ø" * 3000]}  # type: ignore[method-assign]
    named = {"Destinations": [{**one, "Name": "e" + one["Name"]} for one in names], "Name": "another"}
    for answer in (
        listener,
        handle(request("Create", LISTENER, named), gateway),
        handle(request("Create", SOURCE, properties), gateway),
    ):
        assert answer["Status"] == "SUCCESS"
        assert len(encoded(answer)) < 4096
    assert answer["Reason"].startswith("øøø")


def test_types() -> None:
    for kind in ("Listener", "PacketSource", "DestinationArn"):
        assert kind_of(f"Custom::ProxylityUdpGateway{kind}") == kind
        assert kind_of(f"Custom::Sluicegate{kind}") == kind
    assert kind_of("Custom::SluicegateOther") is None
    assert kind_of(None) is None


BUCKET = "cloudformation-custom-resource-response"


@pytest.mark.parametrize(
    ("host", "partition"),
    [
        (f"{BUCKET}-useast1.s3.amazonaws.com", "aws"),
        (f"{BUCKET}-uswest2.s3-us-west-2.amazonaws.com", "aws"),
        (f"{BUCKET}-eucentral1.s3.eu-central-1.amazonaws.com", "aws"),
        (f"{BUCKET}-apsoutheast7.s3.dualstack.ap-southeast-7.amazonaws.com", "aws"),
        (f"{BUCKET}-usgovwest1.s3.us-gov-west-1.amazonaws.com", "aws-us-gov"),
        (f"{BUCKET}-cnnorth1.s3.cn-north-1.amazonaws.com.cn", "aws-cn"),
        (f"{BUCKET}-cnnorthwest1.s3.dualstack.cn-northwest-1.amazonaws.com.cn", "aws-cn"),
    ],
)
def test_cloudformation_s_bucket_is_answered(host: str, partition: str) -> None:
    assert refused_url(f"https://{host}/arn?X-Amz-Signature=1", (), partition) is None
    other = next(one for one in ("aws", "aws-us-gov", "aws-cn") if one != partition)
    for url in (
        f"http://{host}/arn",
        f"https://{host}:8443/arn",
        f"https://user@{host}/arn",
        f"ftp://{host}/arn",
    ):
        assert refused_url(url, (), partition) is not None
    assert refused_url(f"https://{host}.example.com/arn", (), partition) is not None
    assert refused_url(f"https://{host}/arn", (), other) is not None


@pytest.mark.attack
@pytest.mark.parametrize(
    "host",
    [
        f"{BUCKET}-useast1.s3.attacker.amazonaws.com",
        f"{BUCKET}-useast1.s3.us-east-1.attacker.amazonaws.com",
        f"{BUCKET}-useast1.s3-website-us-east-1.amazonaws.com",
        f"{BUCKET}-useast1.s3.eu-west-1.amazonaws.com",
        f"{BUCKET}-useast1.s3-accesspoint.us-east-1.amazonaws.com",
        f"{BUCKET}-useast1.s3.amazonaws.com.cn",
        f"{BUCKET}-useast1.amazonaws.com",
        f"{BUCKET}-useast1.execute-api.us-east-1.amazonaws.com",
        f"x.{BUCKET}-useast1.s3.amazonaws.com",
        f"{BUCKET}-attacker.s3.amazonaws.com",
        f"{BUCKET}-useast1-evil.s3.amazonaws.com",
        f"{BUCKET}-evil-useast1.s3.amazonaws.com",
        f"{BUCKET}-us-east-1.s3.amazonaws.com",
        f"{BUCKET}-useast10.s3.amazonaws.com",
        f"{BUCKET}-.s3.amazonaws.com",
        f"{BUCKET}.s3.amazonaws.com",
        "cloudformation-custom-resource-useast1.s3.amazonaws.com",
        "cloudformation-custom-resource-attacker.s3.amazonaws.com",
        "somebody.s3.amazonaws.com",
        "s3.amazonaws.com",
        f"s3.amazonaws.com/{BUCKET}-useast1/../somebody",
        f"{BUCKET}-useast1.s3.amazonaws.com@127.0.0.1",
        f"{BUCKET}-useast1.s3.amazonaws.com\\.example.com",
        "169.254.169.254",
        "127.0.0.1:4000",
        "",
    ],
)
def test_nobody_elses_place_is_answered(host: str) -> None:
    assert refused_url(f"https://{host}/arn", (), "aws") is not None


@pytest.mark.parametrize("url", ["", None, "https://[", "x"])
def test_what_is_no_url_is_refused(url: str | None) -> None:
    assert refused_url(url) is not None


def test_a_test_names_its_host() -> None:
    assert refused_url("http://127.0.0.1:4000/x", ("127.0.0.1:4000",)) is None
    assert refused_url("http://127.0.0.1:4001/x", ("127.0.0.1:4000",)) is not None
    assert refused_url("ftp://127.0.0.1:4000/x", ("127.0.0.1:4000",)) is not None


def test_it_is_one_file_with_nothing_but_the_standard_library() -> None:
    tree = ast.parse(Path(provider.__file__).read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    relative = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not relative
    assert {name.partition(".")[0] for name in names} <= sys.stdlib_module_names


# Subscriptions on AWS

PENDING, SUBSCRIBED = {"Subscription": "Pending"}, {"Subscription": "Subscribed"}
REFUSED = {"Subscription": "Failed", "SubscriptionProblem": "sns:Subscribe was refused; attach a policy"}
BOUND = {"Name": "replies", "ListenerName": "decoder", "SnsTopicSource": TOPIC}


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provider, "SUBSCRIBE_SECONDS", 0.05)


def test_a_source_is_made_once_it_is_subscribed() -> None:
    """A first refusal is not the last word: what IAM was told by the same stack takes its time."""
    gateway = FakeGateway()
    gateway.subscription = [PENDING, REFUSED, SUBSCRIBED]
    answer = handle(request("Create", SOURCE, {**BOUND, "Foo": "x"}), gateway)
    assert answer["Status"] == "SUCCESS", answer
    assert answer["PhysicalResourceId"] == "replies"
    assert answer["Reason"] == "PacketSource: unknown property Foo is ignored"
    assert "Subscription" not in answer["Data"]


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("seen", "reason"), [(REFUSED, REFUSED["SubscriptionProblem"]), (PENDING, "AWS has not answered")]
)
def test_a_source_that_is_not_subscribed_in_time_is_taken_back(seen: dict[str, str], reason: str) -> None:
    gateway = FakeGateway()
    gateway.subscription = [seen]
    create = request("Create", SOURCE, BOUND)
    answer = handle(create, gateway)
    assert (answer["Status"], gateway.items) == ("FAILED", {})
    assert reason in answer["Reason"]
    # Its name may be somebody else's by the time of the delete that follows.
    gateway.items["/v1/packet-sources/replies"] = {"Id": "replies"}
    gone = handle(request("Delete", SOURCE, BOUND, answer["PhysicalResourceId"]), gateway)
    assert gone["Status"] == "SUCCESS"
    assert list(gateway.items) == ["/v1/packet-sources/replies"]


@pytest.mark.usefixtures("impatient")
def test_an_update_fails_for_a_refusal_and_not_for_an_outage() -> None:
    gateway = FakeGateway()
    handle(request("Create", SOURCE, BOUND), gateway)
    new = {**BOUND, "HoldSeconds": "5"}
    update = request("Update", SOURCE, new, "replies", OldResourceProperties=BOUND)
    gateway.subscription = [PENDING]
    answer = handle(update, gateway)
    assert (answer["Status"], "AWS has not answered" in answer["Reason"]) == ("SUCCESS", True)
    gateway.subscription = [REFUSED]
    answer = handle(update, gateway)
    assert (answer["Status"], answer["PhysicalResourceId"]) == ("FAILED", "replies")
    assert answer["Reason"] == REFUSED["SubscriptionProblem"]
    assert list(gateway.items) == ["/v1/packet-sources/replies"]


@pytest.mark.usefixtures("impatient")
def test_a_replacement_that_is_refused_leaves_the_old_one() -> None:
    gateway = FakeGateway()
    handle(request("Create", SOURCE, BOUND), gateway)
    gateway.subscription = [REFUSED]
    other = {**BOUND, "Name": "others"}
    update = request("Update", SOURCE, other, "replies", OldResourceProperties=BOUND)
    answer = handle(update, gateway)
    assert (answer["Status"], answer["PhysicalResourceId"]) == ("FAILED", "replies")
    assert list(gateway.items) == ["/v1/packet-sources/replies"]


def test_a_replacement_that_may_have_been_made_is_named_when_the_gateway_is_gone() -> None:
    """The new source was made and the gateway went away before it was subscribed."""
    gateway = FakeGateway()
    handle(request("Create", SOURCE, BOUND), gateway)
    gateway.subscription = [PENDING]
    made = gateway._post

    def once(path: str, body: Any, headers: Mapping[str, str]) -> Any:
        answer = made(path, body, headers)
        gateway.down = True
        return answer

    gateway._post = once  # type: ignore[method-assign]
    update = request("Update", SOURCE, {**BOUND, "Name": "others"}, "replies", OldResourceProperties=BOUND)
    answer = handle(update, gateway)
    assert (answer["Status"], answer["PhysicalResourceId"]) == ("FAILED", "replies")
    assert "if it made others all the same, delete that by hand" in answer["Reason"]
