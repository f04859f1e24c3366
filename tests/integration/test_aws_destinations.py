"""Destinations for AWS and a service that refuses, throttles, breaks or says nothing: one of `CASES` for each."""

import json
from urllib.parse import parse_qs

import pytest
from aws_cases import CASES, Case, accept_messages
from aws_destinations import Scripted
from aws_destinations import scripted as scripted
from aws_server import ACCOUNT, Peer, Server, answer, hang_up, refusal, say_nothing

from sluicegate.aws import Role
from sluicegate.destinations import s3, sqs
from sluicegate.destinations.base import DeliveryError, Destination, PacketBatch
from sluicegate.testing import packet, packet_batch

every = pytest.mark.parametrize("case", CASES, ids=str)
in_parts = pytest.mark.parametrize("case", [case for case in CASES if case.refuses_odd], ids=str)
limited = pytest.mark.parametrize("case", [case for case in CASES if case.size], ids=str)
"""S3 takes objects of any size, what is too large for API Gateway goes in halves, and trackers get no packets."""
in_requests = pytest.mark.parametrize(
    "case", [case for case in CASES if case.size and case.most > 1], ids=str
)


def arrived(case: Case, server: Server) -> list[str]:
    """`Data` of all packets that the service saw, in order of the requests."""
    found = [case.packets(body) for _, headers, body in server.requests]
    return [json.loads(one)["Data"] for part in found for one in part]


async def failed(made: Destination, batch: PacketBatch) -> DeliveryError:
    with pytest.raises(DeliveryError) as raised:
        await made.deliver(batch)
    return raised.value


def all_same(error: DeliveryError, packets: int) -> bool:
    """Every packet of the batch failed, for one reason."""
    named = error.packets
    return named is None or {(index, one.reason, one.retryable) for index, one in named.items()} == {
        (index, error.reason, error.retryable) for index in range(packets)
    }


@every
@pytest.mark.parametrize(
    ("refused", "reason", "retryable"),
    [
        pytest.param(
            refusal("ThrottlingException", "Rate exceeded"),
            "Throttled",
            True,
            marks=pytest.mark.shows("throttled"),
        ),
        (answer(503, b"<html>a load balancer</html>", "Content-Type: text/html"), "BadAnswer", True),
        (answer(500, b'{"__type":"InternalFailure"}'), "InternalFailure", True),
        pytest.param(
            refusal("AccessDeniedException", "no policy allows it"),
            "AccessDenied",
            False,
            marks=pytest.mark.shows("denied"),
        ),
        (refusal("ValidationException", "it can never succeed"), "ValidationException", False),
        (hang_up, "NoAnswer", True),
        (b"this is not HTTP\r\n\r\n", "NoAnswer", True),
        (say_nothing, "TimedOut", True),
    ],
    ids=["throttled", "503", "500", "denied", "invalid", "hung-up", "garbage", "silent"],
)
async def test_a_service_that_does_not_take_it(
    case: Case,
    refused: bytes | Peer,
    reason: str,
    retryable: bool,
    scripted: Scripted,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(case.module, "SECONDS", 0.3 if refused is say_nothing else 30)
    scripted.server.answers = [refused]
    async with scripted.destination(case.kind, case.target, **case.arguments) as made:
        error = await failed(made, case.batch("a", "b"))
        assert (error.reason, error.retryable) == (reason, retryable)
        assert all_same(error, 2)
        assert case.target in error.detail
        scripted.server.requests.clear()
        scripted.server.answers = [scripted.peer(case.accepts)]
        await made.deliver(case.batch("a", "b"))
    assert sorted(arrived(case, scripted.server)) == ["a", "b"]


@in_parts
@pytest.mark.shows("partial failure")
async def test_only_what_was_refused_is_named(case: Case, scripted: Scripted) -> None:
    assert case.refuses_odd is not None
    scripted.server.answers = [scripted.peer(case.refuses_odd)]
    async with scripted.destination(case.kind, case.target, **case.arguments) as made:
        error = await failed(made, case.batch("a", "b", "c", "d"))
    assert error.packets is not None
    assert {index: one.retryable for index, one in error.packets.items()} == case.refused


@limited
@pytest.mark.shows("oversize")
async def test_an_oversized_packet_is_refused_alone(case: Case, scripted: Scripted) -> None:
    scripted.server.answers = [scripted.peer(case.accepts)]
    async with scripted.destination(case.kind, case.target, **case.arguments) as made:
        error = await failed(made, case.batch("a", "x" * (6 << 20), "c"))
    assert error.packets is not None
    assert {index: (one.reason, one.retryable) for index, one in error.packets.items()} == {
        1: ("PacketTooLarge", False)
    }
    assert sorted(arrived(case, scripted.server)) == ["a", "c"]


@in_requests
@pytest.mark.parametrize(("count", "size"), [(1001, 1), (30, 400_000)], ids=["many", "large"])
async def test_a_batch_goes_out_in_requests_that_the_service_takes(
    case: Case, count: int, size: int, scripted: Scripted
) -> None:
    """Not more packets than it takes, and not more bytes: as few requests as can be."""
    scripted.server.answers = [scripted.peer(case.accepts)]
    size = min(size, case.size // 3)
    sent = [f"{number:x<{size}}" for number in range(count)]
    async with scripted.destination(case.kind, case.target, **case.arguments) as made:
        await made.deliver(case.batch(*[packet(data[:20]) | {"Data": data} for data in sent]))
    assert sorted(arrived(case, scripted.server)) == sorted(sent)
    requests = [case.packets(body) for _, _, body in scripted.server.requests]
    requests = [packets for packets in requests if packets]
    in_one = min(case.most, case.size // (size + 260), count)
    assert max(map(len, requests)) == in_one
    assert len(requests) == -(-count // in_one)
    assert max(sum(map(len, packets)) for packets in requests) <= case.size


@in_parts
async def test_an_answer_that_says_less_than_it_should(case: Case, scripted: Scripted) -> None:
    scripted.server.answers = [answer(200, b'{"Records":[],"RequestResponses":[],"QueueUrl":"https://q"}')]
    async with scripted.destination(case.kind, case.target, **case.arguments) as made:
        error = await failed(made, case.batch("a", "b"))
    assert (error.reason, error.retryable) == ("BadAnswer", True)
    assert all_same(error, 2)


async def test_a_bucket_elsewhere_is_found_and_remembered(scripted: Scripted) -> None:
    home = "x-amz-bucket-region: eu-west-1"
    moved = b"<Error><Code>PermanentRedirect</Code><Message>elsewhere</Message></Error>"
    taken = answer(200, b"")
    scripted.server.answers = [answer(301, moved, home), taken]
    async with scripted.destination(s3.S3Destination, "arn:aws:s3:::orders") as made:
        await made.deliver(packet_batch("a"))
        await made.deliver(packet_batch("b"))
        scripted.server.answers = [answer(301, moved)]
        assert (await failed(made, packet_batch("c"))).reason == "PermanentRedirect"
    signed_for = [headers["authorization"].split("/")[2] for _, headers, _ in scripted.server.requests]
    assert signed_for == ["us-east-1", "eu-west-1", "eu-west-1", "eu-west-1"]
    assert (
        len({line for line, _, _ in scripted.server.requests}) == 3
    )  # the second attempt writes the same object


async def test_a_fifo_queue_gets_its_packets_in_order(scripted: Scripted) -> None:
    """After a request that was not taken none of the batch follows: all of it comes again. Ids are the same then."""
    taken = scripted.peer(accept_messages)
    scripted.server.answers = [taken, taken, refusal("ThrottlingException", "Rate exceeded"), taken]
    batch = packet_batch(*(f"{number}" for number in range(35)))
    async with scripted.destination(
        sqs.SqsDestination, f"arn:aws:sqs:us-east-1:{ACCOUNT}:orders.fifo"
    ) as made:
        assert made.concurrency == 1
        error = await failed(made, batch)
        assert error.packets is not None
        assert sorted(error.packets) == list(range(10, 35))
        assert all(one.retryable for one in error.packets.values())
        await made.deliver(batch)
    entries = [entry for body in scripted.bodies for entry in body.get("Entries", [])]
    assert [json.loads(entry["MessageBody"])["Data"] for entry in entries] == [
        *(f"{number}" for number in range(20)),
        *(f"{number}" for number in range(35)),
    ]
    assert {entry["MessageGroupId"] for entry in entries} == {"198.51.100.7:40001"}
    assert len({entry["MessageDeduplicationId"] for entry in entries}) == 35


async def test_what_sqs_cannot_take_is_refused_alone(scripted: Scripted) -> None:
    scripted.server.answers = [scripted.peer(accept_messages)]
    arguments = {"SendRaw": True, "MessageGroupIdExpression": "[:]", "MessageGroupIdFormatter": "utf8"}
    groups = ["a", None, "two words", "x" * 129, "e"]
    batch = packet_batch("a", "", "c", "d", "\0", "f", values={"MessageGroupIdExpression": [*groups, None]})
    async with scripted.destination(sqs.SqsDestination, CASES[0].target, **arguments) as made:
        error = await failed(made, batch)
    assert error.packets is not None
    assert {index: one.reason for index, one in error.packets.items()} == {
        1: "BadMessageBody",
        2: "BadMessageId",
        3: "BadMessageId",
        4: "BadMessageBody",
    }
    sent = [entry for body in scripted.bodies for entry in body.get("Entries", [])]
    assert [(entry["MessageBody"], entry.get("MessageGroupId")) for entry in sent] == [
        ("a", "a"),
        ("f", None),
    ]


@every
async def test_calls_in_the_name_of_its_role(case: Case, scripted: Scripted) -> None:
    """The role is assumed once, for as long as it says; the service sees the session's key."""

    def answer_both(headers: dict[str, str], body: bytes) -> bytes:
        return answer(200, ASSUMED) if b"Action=AssumeRole" in body else case.accepts(headers, body)

    scripted.server.answers = [scripted.peer(answer_both)]
    role = Role(f"arn:aws:iam::{ACCOUNT}:role/put", "sluicegate-us-east-1@1-dstn-orders", 900)
    async with scripted.destination(case.kind, case.target, role, **case.arguments) as made:
        await made.deliver(case.batch("a"))
        await made.deliver(case.batch("b"))
    (assumed, *calls) = [(headers, body) for _, headers, body in scripted.server.requests]
    asked = parse_qs(assumed[1].decode())
    assert asked["RoleArn"] == [role.arn]
    assert asked["RoleSessionName"] == [role.session_name]
    assert asked["DurationSeconds"] == ["900"]
    assert all("Credential=ASIAROLE/" in headers["authorization"] for headers, _ in calls)
    assert all(headers["x-amz-security-token"] == "session" for headers, _ in calls)


ASSUMED = b"""<AssumeRoleResponse><AssumeRoleResult><Credentials><AccessKeyId>ASIAROLE</AccessKeyId>
<SecretAccessKey>secret</SecretAccessKey><SessionToken>session</SessionToken>
<Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>"""
