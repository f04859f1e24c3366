"""`function:PATH.py:HANDLER`, `function:PATH`: a Lambda function on this machine (contract section 1.2)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import structlog

from sluicegate.destinations.base import (
    Arguments,
    DeliveryError,
    Destination,
    DestinationContext,
    DestinationError,
    PacketBatch,
    delivery_id,
)
from sluicegate.functions import Function, FunctionFailure
from sluicegate.functions.check import check_function

log = structlog.get_logger("sluicegate.functions")

PROVISION_SECONDS = 3.0
"""How long `provision` waits for the first worker; an import that takes longer goes on in the background."""

# They tell the function where it runs; the two are the user's to choose.
_RESERVED = ("AWS_LAMBDA_", "_LAMBDA_", "_HANDLER", "LAMBDA_TASK_ROOT", "AWS_EXECUTION_ENV")
_CHOOSABLE = ("AWS_LAMBDA_LOG_FORMAT", "AWS_LAMBDA_LOG_LEVEL")


class FunctionDestination(Destination):
    """Invokes a local Lambda function with each batch; its result is the answer.

    Arguments: `TimeoutInSeconds` (60), `MemoryInMb` (128 is what the function sees; a limit of its address
    space only when given), `Concurrency` (2 workers at most), `Environment` (map). A failed invocation fails
    its own batch and is not retried: the same packets would most likely do the same again.
    """

    usage = "function:PATH.py:HANDLER"
    batch_bytes_limit = 6 << 20  # Lambda's for a synchronous invocation

    def __init__(
        self,
        name: str,
        context: DestinationContext,
        path: Path,
        handler: str | None,
        *,
        timeout: float,
        memory: int | None,
        concurrency: int,
        environment: Mapping[str, str],
    ) -> None:
        super().__init__(name, context)
        self._path = path
        self._handler = handler
        self._timeout = timeout
        self._memory = memory
        self._concurrency = concurrency
        self._environment = environment
        self._function: Function | None = None
        self._warm_up: asyncio.Task[None] | None = None

    @classmethod
    def from_spec(
        cls, name: str, target: str, arguments: Mapping[str, Any], context: DestinationContext
    ) -> Self:
        reader = Arguments(arguments, f"destination {name}")
        timeout = reader.number("TimeoutInSeconds", 60.0, 0.1, 900.0)
        memory = reader.integer("MemoryInMb", 128, 64, 10240) if "MemoryInMb" in reader else None
        concurrency = reader.integer("Concurrency", 2, 1, 1000)
        environment = reader.strings("Environment")
        reader.integer("MemoryInMb", 128, 64, 10240)
        reader.finish()
        _check_environment(reader, environment)
        path, handler = _parse_target(name, target, context.base_dir)
        return cls(
            name,
            context,
            path,
            handler,
            timeout=timeout,
            memory=memory,
            concurrency=concurrency,
            environment=environment,
        )

    async def provision(self) -> None:
        """Start the first worker. One that cannot start is an event, no reason for the gateway not to."""
        self._function = Function(
            self._path,
            self._handler,
            name=self.name,
            timeout=self._timeout,
            memory=self._memory,
            concurrency=self._concurrency,
            environment=self._environment,
            region=self.context.region,
        )
        self._warm_up = asyncio.create_task(self._warm(self._function), name=f"start {self.name}")
        await asyncio.wait((self._warm_up,), timeout=PROVISION_SECONDS)

    async def deliver(self, batch: PacketBatch) -> bytes | None:
        if self._function is None:
            raise DeliveryError("FunctionInitFailed", "the Destination is not provisioned")
        try:
            return await self._function.invoke(batch.body(), delivery_id.get() or None)
        except FunctionFailure as failure:
            raise DeliveryError(failure.reason, failure.detail) from failure

    async def close(self) -> None:
        if self._warm_up is not None:
            self._warm_up.cancel()
            await asyncio.wait((self._warm_up,))
        if self._function is not None:
            await self._function.close()

    @property
    def concurrency(self) -> int:
        return self._concurrency

    @property
    def code(self) -> Path:
        """The handler's file, or the executable."""
        return self._path

    def reload(self, changed: str) -> None:
        """Load the handler anew; invocations that run end undisturbed. `changed` names the files, for people.

        Tells its end by an event: `FunctionReloaded`, or `FunctionInitFailed`, and then batches fail until the
        next reload.
        """
        if self._function is None:
            return
        if self._warm_up is not None:
            self._warm_up.cancel()
        self._function.reload()
        self._warm_up = asyncio.create_task(self._warm(self._function, changed), name=f"reload {self.name}")

    async def _warm(self, function: Function, changed: str = "") -> None:
        try:
            await function.warm_up()
        except FunctionFailure as failure:
            log.error("a function did not start", function=self.name, detail=failure.detail)
            self._emit("FunctionInitFailed", Reason=failure.reason, Detail=failure.detail)
        else:
            if changed:
                self._emit("FunctionReloaded", Detail=f"changed: {changed}")

    def _emit(self, event: str, **fields: object) -> None:
        self.context.events.emit(event, Listener=self.context.listener, Destination=self.name, **fields)


def _check_environment(reader: Arguments, environment: Mapping[str, str]) -> None:
    for variable, value in environment.items():
        if variable.startswith(_RESERVED) and variable not in _CHOOSABLE:
            cause = f"{variable} is set by the gateway"
            raise reader.wrong("Environment", cause, "leave it out of Environment", variable)
        if not variable or "=" in variable or "\0" in variable + value:
            cause = f"{variable!r} cannot be an environment variable"
            raise reader.wrong("Environment", cause, "rename it; NUL is not allowed", variable)


def _parse_target(name: str, target: str, base: Path) -> tuple[Path, str | None]:
    """`(file, handler)`, or `(executable, None)`, both checked as far as that is possible without running
    them.
    """
    before, colon, handler = target.rpartition(":")
    is_python = bool(colon) and before.endswith(".py")
    if not target or target.endswith(".py") or (is_python and not handler):
        cause = f"destination {name}: function:{target} names no handler"
        raise DestinationError(cause, f"write it as {FunctionDestination.usage}")
    path = base / (before if is_python else target)
    found = check_function(path, handler if is_python else None)
    if found is not None:
        raise DestinationError(f"destination {name}: {found.cause}", found.fix)
    return path, handler if is_python else None
