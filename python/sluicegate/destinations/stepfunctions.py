"""`arn:aws:states:…`: a state machine, one execution for each batch."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from sluicegate.aws.errors import AwsError
from sluicegate.aws.signing import STATES
from sluicegate.destinations.aws import SECONDS, AwsDestination, deliver_documents, strange_answer
from sluicegate.destinations.base import Arguments, DeliveryError, PacketBatch
from sluicegate.destinations.batch import content_id

RUN_SECONDS = 330.0
"""A synchronous execution takes 5 minutes at most."""
LIMIT = 256 << 10
"""Bytes of an input."""
EXPRESS, STANDARD = "EXPRESS", "STANDARD"
_CAUSE_LIMIT = 1000
_NAME = r"[^\s<>{}\[\]?*\"#%\\^|~`$&,;:/\x00-\x1f\x7f-\x9f]{1,80}"  # CreateStateMachine: name


class StepFunctionsDestination(AwsDestination):
    """Starts an execution of a state machine, or of an alias or version of one, with each batch as its input.

    An execution of an EXPRESS state machine is waited for, and its output is the answer. If it fails it is not started
    again: the same packets would most likely do the same. An execution of a STANDARD state machine is only started,
    since it may run for a year: there are no replies. Its name follows from its input, so a repeated delivery does not
    start a second one.

    The type is asked for before the first execution, and again when it no longer fits: somebody has made another state
    machine of the same name.
    """

    usage = (
        "arn:aws:states:REGION:ACCOUNT:stateMachine:NAME "
        "or arn:aws:states:REGION:ACCOUNT:stateMachine:NAME:QUALIFIER"
    )
    resource = re.compile(rf"stateMachine:{_NAME}(:[A-Za-z0-9_.-]{{1,80}})?")
    protocol = STATES
    permissions = (
        ("ARN", ("states:DescribeStateMachine", "states:StartSyncExecution", "states:StartExecution")),
    )
    reasons = (*AwsDestination.reasons, "ExecutionFailed", "ExecutionTimedOut")
    limits = "256 KiB, one batch or a part of one. A synchronous execution has 5 minutes."
    parallel = 100
    batch_bytes_limit = LIMIT

    def read(self, arguments: Arguments) -> None:
        self._type = ""
        self._asking = asyncio.Lock()
        self._service = self.service()
        sync = "StartSyncExecution", {"stateMachineArn": self.arn.text}  # has a host of its own
        self._sync_service = self.service(asked=sync)

    async def deliver(self, batch: PacketBatch) -> bytes | None:
        return await deliver_documents(batch, LIMIT, self._execute)

    async def _execute(self, body: bytes) -> bytes | None:
        if await self._type_of_it() == EXPRESS:
            try:
                return await self._run(body)
            except AwsError as error:
                if error.code != "StateMachineTypeNotSupported":
                    raise
                self._type = ""
                if await self._type_of_it() == EXPRESS:
                    raise
        await self._start(body)
        return None

    async def _run(self, body: bytes) -> bytes:
        """The output of an execution."""
        params = {"stateMachineArn": self.arn.text, "input": body.decode()}
        answer = await self._sync_service.call("StartSyncExecution", params, self.arn.text, RUN_SECONDS)
        match answer:
            case {"status": "SUCCEEDED", "output": str(output)}:
                return output.encode()
            case {"status": "FAILED" | "TIMED_OUT"}:
                raise _failure(answer)
        raise strange_answer("states", "StartSyncExecution", self.arn)

    async def _start(self, body: bytes) -> None:
        name = content_id(body)
        params = {"stateMachineArn": self.arn.text, "input": body.decode(), "name": name}
        try:
            answer = await self._service.call("StartExecution", params, self.arn.text, SECONDS)
        except AwsError as error:
            if error.code != "ExecutionAlreadyExists":
                raise
            return  # by an attempt whose answer did not arrive
        if not isinstance(started := answer.get("executionArn"), str):
            raise strange_answer("states", "StartExecution", self.arn)
        if ":express:" in started:
            self._type = ""  # so that those who come next get replies

    async def _type_of_it(self) -> str:
        async with self._asking:
            if not self._type:
                machine = ":".join(self.arn.text.split(":")[:7])  # without a qualifier
                answer = await self._service.call(
                    "DescribeStateMachine", {"stateMachineArn": machine}, machine, SECONDS
                )
                if answer.get("type") not in (EXPRESS, STANDARD):
                    raise strange_answer("states", "DescribeStateMachine", self.arn)
                self._type = answer["type"]
        return self._type


def _failure(answer: dict[str, Any]) -> DeliveryError:
    timed_out = answer["status"] == "TIMED_OUT"
    error, cause = str(answer.get("error") or "an error"), str(answer.get("cause") or "")
    told = " ".join(f"the execution {'timed out' if timed_out else 'failed'} with {error}: {cause}".split())
    short = f"{told[:_CAUSE_LIMIT]}…" if len(told) > _CAUSE_LIMIT else told.rstrip(": ")
    return DeliveryError("ExecutionTimedOut" if timed_out else "ExecutionFailed", short)
