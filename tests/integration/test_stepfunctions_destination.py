"""`arn:aws:states:…` against an independent implementation of Step Functions, which runs state machines in JSONata."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from aws_destinations import AwsContract, Scripted, data_of
from aws_destinations import ministack_keys as ministack_keys
from aws_destinations import scripted as scripted
from aws_server import ACCOUNT as SERVED
from aws_server import answer, refusal
from harness import Client, Gateway, until
from ministack import ACCOUNT, ENVIRONMENT, Ministack, unique

from sluicegate.destinations.base import DeliveryError, Destination, early_answers
from sluicegate.destinations.stepfunctions import StepFunctionsDestination
from sluicegate.testing import packet, packet_batch

ECHO = {
    "QueryLanguage": "JSONata",
    "StartAt": "Echo",
    "States": {
        "Echo": {
            "Type": "Pass",
            "Output": {"Replies": "{% [$states.input.Messages.{'Tag': Tag, 'Data': $uppercase(Data)}] %}"},
            "End": True,
        }
    },
}


def make_machine(ministack: Ministack, kind: str) -> tuple[Any, str]:
    """A client and the ARN of a state machine that answers in capitals."""
    sfn = ministack.client("stepfunctions")
    made = sfn.create_state_machine(
        name=unique("machine"),
        definition=json.dumps(ECHO),
        roleArn=f"arn:aws:iam::{ACCOUNT}:role/machine",
        type=kind,
    )
    return sfn, made["stateMachineArn"]


def inputs(sfn: Any, arn: str) -> list[str]:
    """`Data` of all packets in the executions so far, the first one first."""
    executions = sfn.list_executions(stateMachineArn=arn)["executions"]
    given = [sfn.describe_execution(executionArn=one["executionArn"])["input"] for one in executions]
    messages = [message for one in reversed(given) for message in json.loads(one)["Messages"]]
    return data_of([json.dumps(message) for message in messages])


class TestStepFunctions(AwsContract):
    kind = StepFunctionsDestination
    bad_targets = (
        "arn:aws:states:us-east-1:123456789012:machine",
        "arn:aws:states:us-east-1:123456789012:execution:machine:1",
        "arn:aws:states:us-east-1:123456789012:stateMachine:two words",
        "arn:aws:states:us-east-1:123456789012:stateMachine:machine/label",
        "arn:aws:states:us-east-1:123456789012:stateMachine:machine:1:2",
    )

    def make(self, ministack: Ministack) -> None:
        self.sfn, self.target = make_machine(ministack, "EXPRESS")

    def delivered(self, destination: Destination) -> Sequence[str]:
        return inputs(self.sfn, self.target)

    def refuse(self, destination: Destination) -> None:
        self.sfn.delete_state_machine(stateMachineArn=self.target)


GATEWAY = """
listeners:
  - name: orders
    bind: 127.0.0.1
    client_restrictions: {{ networks: [127.0.0.0/8] }}
    destinations:
      - {{ name: now, destination_arn: "{express}", formatter: utf8 }}
      - {{ name: later, destination_arn: "{standard}", formatter: utf8 }}
"""


@pytest.mark.shows("replies", service="stepfunctions")
def test_a_client_is_answered_by_an_express_state_machine(ministack: Ministack, tmp_path: Path) -> None:
    """And a standard one is started with the same packets."""
    _, express = make_machine(ministack, "EXPRESS")
    sfn, standard = make_machine(ministack, "STANDARD")
    text = GATEWAY.format(express=express, standard=standard)
    gateway = Gateway(tmp_path, text, aws=ministack.url, environment=ENVIRONMENT)
    with Client() as client:
        try:
            gateway.start()
            for data in (b"one", b"two"):
                client.send(data, gateway.address())
                assert client.receive() == (data.upper(), gateway.address())
            until(lambda: sorted(inputs(sfn, standard)) == ["one", "two"], "both executions are started")
        finally:
            gateway.close()


MACHINE = f"arn:aws:states:us-east-1:{SERVED}:stateMachine:orders"
IS_EXPRESS, IS_STANDARD = (answer(200, b'{"type":"%b"}' % kind) for kind in (b"EXPRESS", b"STANDARD"))
DONE = answer(200, b'{"status":"SUCCEEDED","output":"{\\"Replies\\":[]}"}')
NOT_EXPRESS = refusal("StateMachineTypeNotSupported", "This operation is not supported by this type")


def started(kind: str = "execution") -> bytes:
    arn = f"arn:aws:states:us-east-1:{SERVED}:{kind}:orders:1"
    return answer(200, json.dumps({"executionArn": arn, "startDate": 1.5}).encode())


def calls(scripted: Scripted) -> list[str]:
    return [headers["x-amz-target"].partition(".")[2] for _, headers, _ in scripted.server.requests]


@pytest.mark.parametrize(
    ("kind", "told", "reason", "retryable", "detail"),
    [
        (
            IS_EXPRESS,
            answer(200, b'{"status":"FAILED","error":"Bad\\nInput","cause":"no way"}'),
            "ExecutionFailed",
            False,
            "the execution failed with Bad Input: no way",
        ),
        (
            IS_EXPRESS,
            answer(200, json.dumps({"status": "FAILED", "cause": "x" * 9000}).encode()),
            "ExecutionFailed",
            False,
            f"the execution failed with an error: {'x' * 964}…",
        ),
        (
            IS_EXPRESS,
            answer(200, b'{"status":"TIMED_OUT","error":"States.Timeout"}'),
            "ExecutionTimedOut",
            False,
            "the execution timed out with States.Timeout",
        ),
        (IS_EXPRESS, answer(200, b'{"status":"RUNNING"}'), "BadAnswer", True, "StartSyncExecution"),
        (
            IS_EXPRESS,
            refusal("AccessDeniedException", "no policy allows it"),
            "AccessDenied",
            False,
            f"states:StartSyncExecution on {MACHINE} was refused",
        ),
        (
            IS_STANDARD,
            refusal("ExecutionLimitExceeded", "too many run"),
            "Throttled",
            True,
            f"states:StartExecution on {MACHINE} was throttled",
        ),
        (IS_STANDARD, answer(200, b"{}"), "BadAnswer", True, "StartExecution"),
        (answer(200, b'{"type":"OTHER"}'), DONE, "BadAnswer", True, "DescribeStateMachine"),
    ],
)
async def test_an_execution_that_does_not_succeed(
    kind: bytes, told: bytes, reason: str, retryable: bool, detail: str, scripted: Scripted
) -> None:
    scripted.server.answers = [kind, told]
    async with scripted.destination(StepFunctionsDestination, MACHINE) as made:
        with pytest.raises(DeliveryError) as raised:
            await made.deliver(packet_batch("a"))
    assert (raised.value.reason, raised.value.retryable) == (reason, retryable)
    assert detail in raised.value.detail


async def test_the_type_is_asked_for_once_and_again_when_it_no_longer_fits(scripted: Scripted) -> None:
    """A qualifier is a part of the executions' ARN alone: a role may describe the state machine itself."""
    async with scripted.destination(StepFunctionsDestination, f"{MACHINE}:live") as made:
        scripted.server.answers = [IS_EXPRESS, DONE, DONE]
        for _ in range(2):
            assert await made.deliver(packet_batch("a")) == b'{"Replies":[]}'
        # It becomes STANDARD: the batch that finds out is not lost.
        scripted.server.answers = [NOT_EXPRESS, IS_STANDARD, started(), started()]
        for _ in range(2):
            assert await made.deliver(packet_batch("b")) is None
        # It becomes EXPRESS: the execution is one without an answer, the next ones have some.
        scripted.server.answers = [started("express"), IS_EXPRESS, DONE]
        assert await made.deliver(packet_batch("c")) is None
        assert await made.deliver(packet_batch("d")) == b'{"Replies":[]}'
    describe, run, start = "DescribeStateMachine", "StartSyncExecution", "StartExecution"
    assert calls(scripted) == [describe, run, run, run, describe, start, start, start, describe, run]
    asked = {
        (call, body["stateMachineArn"]) for call, body in zip(calls(scripted), scripted.bodies, strict=True)
    }
    assert asked == {(describe, MACHINE), (run, f"{MACHINE}:live"), (start, f"{MACHINE}:live")}


async def test_a_service_that_contradicts_itself_is_believed_once(scripted: Scripted) -> None:
    scripted.server.answers = [IS_EXPRESS, NOT_EXPRESS, IS_EXPRESS]
    async with scripted.destination(StepFunctionsDestination, MACHINE) as made:
        with pytest.raises(DeliveryError) as raised:
            await made.deliver(packet_batch("a"))
    assert (raised.value.reason, raised.value.retryable) == ("StateMachineTypeNotSupported", False)
    assert len(scripted.server.requests) == 3


async def test_a_repeated_delivery_starts_no_second_execution(scripted: Scripted) -> None:
    batch = packet_batch("a", "b")
    failed = refusal("InternalFailure", "the answer is lost", 500)
    exists = refusal("ExecutionAlreadyExists", "Execution Already Exists")
    scripted.server.answers = [IS_STANDARD, failed, exists, started()]
    async with scripted.destination(StepFunctionsDestination, MACHINE) as made:
        with pytest.raises(DeliveryError) as raised:
            await made.deliver(batch)
        assert raised.value.retryable
        await made.deliver(batch)
        await made.deliver(packet_batch("c"))
    names = [body["name"] for body in scripted.bodies[1:]]
    assert names[0] == names[1] != names[2]


@pytest.mark.shows("partial failure", service="stepfunctions")
async def test_each_part_of_a_large_batch_has_its_own_answer_or_error(scripted: Scripted) -> None:
    class Answers:
        found: list[bytes] = []

        async def send(self, body: bytes, /) -> None:
            self.found.append(body)

        def malformed(self, detail: str, /) -> None:
            raise AssertionError(detail)

    def run(headers: dict[str, str], body: bytes) -> bytes:
        if headers["x-amz-target"].endswith("DescribeStateMachine"):
            return IS_EXPRESS
        if '"Tag":"c"' in json.loads(body)["input"]:
            return refusal("ThrottlingException", "Rate exceeded")
        tags = [message["Tag"] for message in json.loads(json.loads(body)["input"])["Messages"]]
        return answer(200, json.dumps({"status": "SUCCEEDED", "output": ",".join(tags)}).encode())

    early_answers.set(Answers())
    scripted.server.answers = [scripted.peer(run)]
    large = [packet(name) | {"Data": name * 100_000, "Tag": name} for name in "abcde"]
    async with scripted.destination(StepFunctionsDestination, MACHINE) as made:
        with pytest.raises(DeliveryError) as raised:
            await made.deliver(packet_batch(*large))
    assert raised.value.packets is not None
    assert {index: one.reason for index, one in raised.value.packets.items()} == {
        2: "Throttled",
        3: "Throttled",
    }
    assert sorted(Answers.found) == [b"a,b", b"e"]
