"""Stacks: an independent CloudFormation (ministack) makes, changes and deletes a gateway's resources.

The provider is the packaged template as it is. Its answers go to ministack, as its parameter ResponseHosts says.
"""

import base64
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError  # type: ignore[import-untyped]
from harness import Client, Gateway, free_port, until
from ministack import Ministack, unique

from conftest import StartGateway
from sluicegate.cfn.packaged import lambda_template
from sluicegate.state.keys import KeyFile

FAILED_SECONDS = 10.0  # a promise of the product (issue 5): a failing create has ended by then
ENDED = ("_COMPLETE", "_FAILED")


class Stacks:
    """CloudFormation as a user has it."""

    def __init__(self, cloudformation: Any) -> None:
        self._client = cloudformation
        self._made: list[str] = []

    def create(self, template: dict[str, Any] | str, name: str = "", **parameters: str) -> str:
        """The name of a stack that has come to an end, of whatever kind."""
        name = name or unique("stack")
        body = template if isinstance(template, str) else json.dumps(template)
        self._made.append(name)
        self._client.create_stack(
            StackName=name,
            TemplateBody=body,
            Capabilities=["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"],
            Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
        )
        self.wait(name)
        return name

    def update(self, name: str, template: dict[str, Any]) -> None:
        self._client.update_stack(
            StackName=name, TemplateBody=json.dumps(template), Capabilities=["CAPABILITY_IAM"]
        )
        self.wait(name)

    def delete(self, name: str) -> None:
        self._client.delete_stack(StackName=name)
        until(lambda: self.status(name) in ("DELETE_COMPLETE", "DELETE_FAILED"), f"{name} is deleted")
        assert self.status(name) == "DELETE_COMPLETE", self.reasons(name)

    def wait(self, name: str) -> None:
        def ended() -> bool:
            status = self.status(name)
            return status.endswith(ENDED) and not status.endswith("CLEANUP_IN_PROGRESS")

        until(ended, f"{name} comes to an end")

    def status(self, name: str) -> str:
        try:
            return str(self._client.describe_stacks(StackName=name)["Stacks"][0]["StackStatus"])
        except ClientError:
            return "DELETE_COMPLETE"

    def outputs(self, name: str) -> dict[str, str]:
        found = self._client.describe_stacks(StackName=name)["Stacks"][0].get("Outputs", [])
        return {one["OutputKey"]: one["OutputValue"] for one in found}

    def reasons(self, name: str) -> str:
        events = self._client.describe_stack_events(StackName=name)["StackEvents"]
        return "\n".join(
            f"{one.get('LogicalResourceId')}: {one.get('ResourceStatusReason', '')}" for one in events
        )

    def close(self) -> None:
        for name in reversed(self._made):
            if self.status(name) != "DELETE_COMPLETE":
                self._client.delete_stack(StackName=name)
                until(lambda name=name: self.status(name).startswith("DELETE_"), "it is deleted")  # type: ignore[misc]


@pytest.fixture
def stacks(ministack: Ministack) -> Iterator[Stacks]:
    made = Stacks(ministack.client("cloudformation"))
    yield made
    made.close()


Provider = Callable[[str], str]


def deploy_provider(stacks: Stacks, ministack: Ministack, url: str) -> str:
    """The packaged provider for the gateway at `url`: its ServiceToken."""
    hosts = f"localhost:{ministack.port}"
    name = stacks.create(lambda_template(), unique("provider"), GatewayUrl=url, ResponseHosts=hosts)
    assert stacks.status(name) == "CREATE_COMPLETE", stacks.reasons(name)
    return stacks.outputs(name)["ServiceToken"]


@pytest.fixture
def provider(stacks: Stacks, ministack: Ministack) -> Provider:
    return lambda url: deploy_provider(stacks, ministack, url)


@pytest.fixture
def running(gateway: StartGateway) -> Gateway:
    one = gateway("listeners: []", start=False)
    one.open_to_everybody()  # the templates have a key of the article's
    return one.start()


@pytest.fixture
def token(provider: Provider, running: Gateway) -> str:
    return provider(running.api_url)


def article(token: str, *, count: str = "1", listener: Any = None, key: str = "k-123") -> dict[str, Any]:
    """The article's PacketSource with what stands around it; every value that is printed there is as printed."""
    common = {"ServiceToken": token, "ApiKey": key}
    return {
        "Resources": {
            "ReplyTopic": {"Type": "AWS::SNS::Topic"},
            "RoleForProxylity": {
                "Type": "AWS::IAM::Role",
                "Properties": {"AssumeRolePolicyDocument": {"Version": "2012-10-17", "Statement": []}},
            },
            "DecoderListener": {
                "Type": "Custom::ProxylityUdpGatewayListener",
                "Properties": {
                    **common,
                    "Protocols": ["udp"],
                    "ClientRestrictions": {"Networks": ["127.0.0.0/8"]},
                    "Destinations": [
                        {"Name": "decoder", "DestinationArn": "console:", "Batching": {"Count": count}},
                        {"Name": "archive"},
                    ],
                },
            },
            "ReplySource": {
                "Type": "Custom::ProxylityUdpGatewayPacketSource",
                "Properties": {
                    **common,
                    "Enabled": True,
                    "ListenerName": listener or {"Ref": "DecoderListener"},
                    "SnsTopicSource": {
                        "Role": {"Fn::GetAtt": ["RoleForProxylity", "Arn"]},
                        "TopicArn": {"Fn::GetAtt": ["ReplyTopic", "TopicArn"]},
                    },
                },
            },
        },
        "Outputs": {
            "Domain": {"Value": {"Fn::GetAtt": ["DecoderListener", "Domain"]}},
            "Port": {"Value": {"Fn::GetAtt": ["DecoderListener", "Port"]}},
            "DestinationNames": {
                "Value": {"Fn::Join": [",", {"Fn::GetAtt": ["DecoderListener", "DestinationNames"]}]}
            },
            "WireGuardPublicKey": {"Value": {"Fn::GetAtt": ["DecoderListener", "WireGuardPublicKey"]}},
            "Topic": {"Value": {"Fn::GetAtt": ["ReplyTopic", "TopicArn"]}},
        },
    }


def publish(gateway: Gateway, topic: str, client: Client, payload: bytes) -> None:
    """As the article does."""
    host, port = client.address
    data = base64.b64encode(payload).decode()
    gateway.publish({"Data": data, "Remote": {"IP": host, "Port": port}}, topic)


def test_the_article_s_stack(running: Gateway, stacks: Stacks, token: str) -> None:
    name = stacks.create(article(token))
    assert stacks.status(name) == "CREATE_COMPLETE", stacks.reasons(name)
    outputs = stacks.outputs(name)
    assert outputs["Domain"] == "ingress-1"
    assert outputs["DestinationNames"] == "decoder,archive"
    assert outputs["WireGuardPublicKey"] == ""
    (listener,) = running.api("GET", "/v1/listeners").json()["Items"]
    assert outputs["Port"] == str(listener["Port"])
    with Client() as client:
        publish(running, outputs["Topic"], client, b"\x01\x02\x03\x04")
        assert client.receive() == (b"\x01\x02\x03\x04", ("127.0.0.1", listener["Port"]))

        # The session of a client is the socket's: it outlives a change of batching.
        stacks.update(name, article(token, count="7"))
        assert stacks.status(name) == "UPDATE_COMPLETE", stacks.reasons(name)
        (changed,) = running.api("GET", "/v1/listeners").json()["Items"]
        assert changed["Destinations"][0]["Batching"]["Count"] == 7
        assert (changed["Id"], changed["Port"]) == (listener["Id"], listener["Port"])
        assert running.named("ListenerStopped") == []
        publish(running, outputs["Topic"], client, b"again")
        assert client.receive() == (b"again", ("127.0.0.1", listener["Port"]))

    stacks.delete(name)
    assert running.api("GET", "/v1/listeners").json()["Items"] == []
    assert running.api("GET", "/v1/packet-sources").json()["Items"] == []
    with Client(port=listener["Port"]) as free:
        assert free.address[1] == listener["Port"]


def test_another_listener_replaces_the_source(running: Gateway, stacks: Stacks, token: str) -> None:
    name = stacks.create(article(token))
    (before,) = running.api("GET", "/v1/packet-sources").json()["Items"]
    running.api("POST", "/v1/listeners", {"Name": "other", "Bind": "127.0.0.1"})
    stacks.update(name, article(token, listener="other"))
    assert stacks.status(name) == "UPDATE_COMPLETE", stacks.reasons(name)
    items = running.api("GET", "/v1/packet-sources").json()["Items"]
    assert [item["ListenerName"] for item in items] == ["other"]
    assert items[0]["Id"] != before["Id"]


def failing(stacks: Stacks, template: dict[str, Any]) -> str:
    """The reasons of a create that must fail in time."""
    began = time.monotonic()
    name = stacks.create(template)
    took = time.monotonic() - began
    assert stacks.status(name) in ("ROLLBACK_COMPLETE", "CREATE_FAILED"), stacks.status(name)
    assert took < FAILED_SECONDS
    return stacks.reasons(name)


def test_a_create_that_cannot_be_ends_with_the_reason(running: Gateway, stacks: Stacks, token: str) -> None:
    unknown = article(token, listener="missing")
    assert 'no Listener named "missing"' in failing(stacks, unknown)
    bad = article(token)
    bad["Resources"]["DecoderListener"]["Properties"]["ClientRestrictions"]["Networks"] = ["10.0.0.1/8"]
    reasons = failing(stacks, bad)
    assert '"10.0.0.1/8" is an address inside a network' in reasons
    assert "write 10.0.0.0/8" in reasons
    # What was made before the failure is gone again.
    assert running.api("GET", "/v1/listeners").json()["Items"] == []
    assert running.api("GET", "/v1/packet-sources").json()["Items"] == []


def test_a_gateway_that_cannot_be_reached_fails_the_stack_in_time(stacks: Stacks, provider: Provider) -> None:
    reasons = failing(stacks, article(provider(f"http://127.0.0.1:{free_port()}")))
    assert "cannot be reached" in reasons
    assert "SLUICEGATE_API" in reasons


def test_a_key_without_the_permission_fails_the_stack(
    gateway: StartGateway, stacks: Stacks, provider: Provider
) -> None:
    """A gateway on every address asks for keys, also whoever comes over loopback."""
    public = gateway("listeners: []", start=False)
    public.bind_to_all(public.api_url)
    keys = KeyFile(public.directory / "sluicegate.db.keys")
    reader, admin = (keys.create_api_key(scope, frozenset({scope}))[1] for scope in ("read", "admin"))
    public.start()
    token = provider(public.api_url)
    assert "the property ApiKey must be a key of this gateway" in failing(stacks, article(token))
    assert "this needs a key of the scope admin" in failing(stacks, article(token, key=reader))
    name = stacks.create(article(token, key=admin))
    assert stacks.status(name) == "CREATE_COMPLETE", stacks.reasons(name)
    assert admin not in stacks.reasons(name)
    assert admin not in public.process.stdout.text + public.process.stderr.text
    stacks.delete(name)


def test_deleting_what_is_gone_already_succeeds(running: Gateway, stacks: Stacks, token: str) -> None:
    name = stacks.create(article(token))
    for path in ("packet-sources", "listeners"):
        for item in running.api("GET", f"/v1/{path}").json()["Items"]:
            assert running.api("DELETE", f"/v1/{path}/{item['Id']}").status_code == 204
    stacks.delete(name)


def test_another_logical_id_with_the_same_name_takes_nothing_over(
    running: Gateway, stacks: Stacks, token: str
) -> None:
    """CloudFormation deletes what the template does not name any more, after it has made the new one."""

    def named(logical_id: str) -> dict[str, Any]:
        properties = {"ServiceToken": token, "ApiKey": "k", "Name": "decoder"}
        return {"Resources": {logical_id: {"Type": "Custom::SluicegateListener", "Properties": properties}}}

    name = stacks.create(named("One"))
    assert stacks.status(name) == "CREATE_COMPLETE", stacks.reasons(name)
    stacks.update(name, named("Other"))
    assert stacks.status(name) == "UPDATE_ROLLBACK_COMPLETE", stacks.reasons(name)
    assert [item["Id"] for item in running.api("GET", "/v1/listeners").json()["Items"]] == ["decoder"]


def test_a_name_that_is_taken_stays_with_its_owner(running: Gateway, stacks: Stacks, token: str) -> None:
    running.api("POST", "/v1/listeners", {"Name": "decoder", "Bind": "127.0.0.1", "Description": "mine"})
    template = article(token)
    template["Resources"]["DecoderListener"]["Properties"]["Name"] = "decoder"
    assert "decoder" in failing(stacks, template)
    (kept,) = running.api("GET", "/v1/listeners").json()["Items"]
    assert kept["Description"] == "mine"
