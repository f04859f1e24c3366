"""`arn:aws:execute-api:…` against an independent implementation of API Gateway, with a function behind its method."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from aws_destinations import AwsContract, Scripted, data_of
from aws_destinations import ministack_keys as ministack_keys
from aws_destinations import scripted as scripted
from aws_server import ACCOUNT as SERVED
from aws_server import answer
from harness import Client, Gateway
from ministack import ACCOUNT, ENVIRONMENT, REGION, Ministack, unique
from test_lambda_destination import make_function

from sluicegate.destinations.apigateway import ApiGatewayDestination
from sluicegate.destinations.base import DeliveryError, Destination
from sluicegate.testing import packet_batch

HANDLER = """
import json, os
FOLDER = os.environ["FOLDER"]
def handler(event, context):
    messages = json.loads(event["body"])["Messages"]
    if os.path.exists(f"{FOLDER}/refuse"):
        return {"statusCode": 400, "body": json.dumps({"message": "no"})}
    with open(f"{FOLDER}/seen.ndjson", "a") as out:
        for message in messages:
            out.write(json.dumps(message) + "\\n")
    status = 500 if any(m["Data"] == "fail" for m in messages) else 200
    replies = [{"Tag": m["Tag"], "Data": f"{status} {m['Data']}"} for m in messages]
    return {"statusCode": status, "body": json.dumps({"Replies": replies})}
"""


class TestApiGateway(AwsContract):
    kind = ApiGatewayDestination
    bad_targets = (
        "arn:aws:execute-api:us-east-1:123456789012:a1b2c3d4e5",
        "arn:aws:execute-api:us-east-1:123456789012:a1b2c3d4e5/live/GET/orders",
        "arn:aws:execute-api:us-east-1:123456789012:a1b2c3d4e5/live/POST/or ders",
        "arn:aws:execute-api:us-east-1:123456789012:a1b2c3d4e5/*/POST/orders",
    )

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        self.folder = tmp_path_factory.mktemp("function")

    @pytest.fixture(autouse=True)
    def _made(self, _folder: None, ministack: Ministack) -> None:
        self.ministack = ministack
        api = ministack.client("apigatewayv2")
        function = make_function(ministack, self.folder, HANDLER)
        made = api.create_api(Name=unique("api"), ProtocolType="HTTP")["ApiId"]
        integration = api.create_integration(
            ApiId=made, IntegrationType="AWS_PROXY", IntegrationUri=function, PayloadFormatVersion="2.0"
        )["IntegrationId"]
        api.create_route(
            ApiId=made,
            RouteKey="POST /orders/all",
            Target=f"integrations/{integration}",
            AuthorizationType="AWS_IAM",
        )
        api.create_stage(ApiId=made, StageName="$default", AutoDeploy=True)
        self.target = f"arn:aws:execute-api:{REGION}:{ACCOUNT}:{made}/$default/POST/orders/all"

    def delivered(self, destination: Destination) -> Sequence[str]:
        return data_of((self.folder / "seen.ndjson").read_text().splitlines())

    def refuse(self, destination: Destination) -> None:
        (self.folder / "refuse").touch()


GATEWAY = """
listeners:
  - name: decoder
    bind: 127.0.0.1
    client_restrictions: {{ networks: [127.0.0.0/8] }}
    destinations:
      - {{ name: api, destination_arn: "{arn}", formatter: utf8, batching: {{ count: 1 }} }}
"""


@pytest.mark.shows("replies", service="apigateway")
def test_a_client_gets_replies_also_those_of_a_500(ministack: Ministack, tmp_path: Path) -> None:
    """From a REST API, whose stage is in the path."""
    api = ministack.client("apigateway")
    made = api.create_rest_api(name=unique("api"))["id"]
    root = api.get_resources(restApiId=made)["items"][0]["id"]
    orders = api.create_resource(restApiId=made, parentId=root, pathPart="orders")["id"]
    function = make_function(ministack, tmp_path, HANDLER)
    method = {"restApiId": made, "resourceId": orders, "httpMethod": "PUT"}
    api.put_method(**method, authorizationType="AWS_IAM")
    api.put_integration(
        **method,
        type="AWS_PROXY",
        integrationHttpMethod="POST",
        uri=f"arn:aws:apigateway:{REGION}:lambda:path/2015-03-31/functions/{function}/invocations",
    )
    api.create_deployment(restApiId=made, stageName="live")
    arn = f"arn:aws:execute-api:{REGION}:{ACCOUNT}:{made}/live/PUT/orders"
    gateway = Gateway(tmp_path, GATEWAY.format(arn=arn), aws=ministack.url, environment=ENVIRONMENT)
    with Client() as client:
        try:
            gateway.start()
            for sent, received in ((b"hi", b"200 hi"), (b"fail", b"500 fail")):
                client.send(sent, gateway.address())
                assert client.receive() == (received, gateway.address())
        finally:
            gateway.close()


METHOD = f"arn:aws:execute-api:us-east-1:{SERVED}:a1b2c3d4e5/live/POST/orders"


@pytest.mark.parametrize(
    ("refused", "reason", "retryable", "detail"),
    [
        (
            answer(403, b'{"message":"Forbidden"}'),  # of an HTTP API
            "AccessDenied",
            False,
            f"execute-api:Invoke on {METHOD} was refused: Forbidden (403)",
        ),
        (
            answer(404, b'{"message":"Not Found"}'),
            "Http404",
            False,
            f"execute-api:Invoke on {METHOD} failed: Not Found (404)",
        ),
        (
            answer(400, b"<html>"),  # of what is behind it
            "Http400",
            False,
            f"execute-api:Invoke on {METHOD} failed: status 400, and no more was said (400)",
        ),
        (
            answer(429, b'{"message":"Too Many Requests"}'),
            "Throttled",
            True,
            f"execute-api:Invoke on {METHOD} was throttled by AWS: Too Many Requests (429)",
        ),
        (
            answer(
                504,
                b'{"message":"Endpoint request timed out"}',
                "x-amzn-ErrorType: InternalServerErrorException",
            ),
            "InternalServerErrorException",
            True,
            f"execute-api:Invoke on {METHOD} failed: Endpoint request timed out (InternalServerErrorException)",
        ),
    ],
    ids=["forbidden", "missing", "invalid", "throttled", "timed-out"],
)
async def test_a_method_that_fails(
    refused: bytes, reason: str, retryable: bool, detail: str, scripted: Scripted
) -> None:
    scripted.server.answers = [refused]
    async with scripted.destination(ApiGatewayDestination, METHOD) as made:
        with pytest.raises(DeliveryError) as raised:
            await made.deliver(packet_batch("a", "b"))
    assert (raised.value.reason, raised.value.retryable, raised.value.detail) == (reason, retryable, detail)


@pytest.mark.shows("oversize", service="apigateway")
async def test_what_is_too_large_goes_in_halves(scripted: Scripted) -> None:
    """By our measure or the API's. A packet that is too large is refused alone; the answers of the others are given."""
    replied = answer(200, b'{"Replies":[{"Tag":"x","Data":"y"}]}')
    scripted.server.answers = [answer(413, b'{"message":"Request Too Long"}'), replied]
    async with scripted.destination(ApiGatewayDestination, METHOD) as made:
        assert await made.deliver(packet_batch("a", "b")) == (
            b'{"Replies":[{"Tag":"x","Data":"y"},{"Tag":"x","Data":"y"}]}'
        )
        with pytest.raises(DeliveryError) as raised:
            await made.deliver(packet_batch("a", "b" * (10 << 20)))
    assert raised.value.packets is not None
    assert {index: one.reason for index, one in raised.value.packets.items()} == {1: "PacketTooLarge"}
    assert raised.value.answer == b'{"Replies":[{"Tag":"x","Data":"y"}]}'
    assert [len(body["Messages"]) for body in scripted.bodies] == [2, 1, 1, 1]
