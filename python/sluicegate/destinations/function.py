"""`function:PATH.py:HANDLER`, `function:PATH.js:HANDLER`, `function:FOLDER:MODULE.NAME`, `function:PATH`: a Lambda
function on this machine (contract section 1.2)."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import structlog

from sluicegate.destinations.base import (
    Arguments,
    DeliveryError,
    DestinationContext,
    DestinationError,
    EarlyAnswers,
    PacketBatch,
    delivery_id,
)
from sluicegate.destinations.prompt import Outcome, PromptDestination, UnderWay
from sluicegate.destinations.streaming import ReplyStream
from sluicegate.functions import Function, FunctionFailure
from sluicegate.functions.answer import misread, suspicious
from sluicegate.functions.check import check_function
from sluicegate.functions.code import Code, read_target
from sluicegate.localcode import Outside
from sluicegate.model import Finding

log = structlog.get_logger("sluicegate.functions")

PROVISION_SECONDS = 3.0
"""How long `provision` waits for the first worker; an import that takes longer goes on in the background."""

# They tell the function where it runs; the two are the user's to choose.
_RESERVED = ("AWS_LAMBDA_", "_LAMBDA_", "_HANDLER", "LAMBDA_TASK_ROOT", "AWS_EXECUTION_ENV")
_LOADS_CODE = re.compile(
    r"AWS_(?:CONFIG|SHARED_CREDENTIALS)_FILE|AWS_DATA_PATH|BASH_ENV|BASH_FUNC_.*|BASHOPTS|BUN_OPTIONS|CDPATH|CLASSPATH"
    r"|COR(?:ECLR)?_.*|DOTNET_(?:ADDITIONAL_DEPS|ROOT.*|SHARED_STORE|STARTUP_HOOKS)|ENV|ERL_.*|GCONV_PATH"
    r"|GIT_(?:ASKPASS|CONFIG.*|EDITOR|EXEC_PATH|EXTERNAL_DIFF|PAGER|PROXY_COMMAND|SSH.*|TEMPLATE_DIR)|HOME|IFS"
    r"|.*(?:JAVA|JDK).*_OPTIONS|JULIA_.*|LD_.*|LUA_.*|NODE_.*|OPENSSL_.*|PATH|PERL.*|PHPRC|PHP_INI_SCAN_DIR"
    r"|PROMPT_COMMAND|PS[0-4]|PYTHON.*|R_(?:ENVIRON|HOME|LIBS|PROFILE).*|RUBY.*|SHELLOPTS|XDG_CONFIG_.*|ZDOTDIR"
)
_SEARCHED = (
    "AWS_CONFIG_FILE",
    "AWS_DATA_PATH",
    "AWS_SHARED_CREDENTIALS_FILE",
    "HOME",
    "NODE_PATH",
    "PATH",
    "PYTHONPATH",
)
"""Files and folders in which code is looked for: they may lead to where code of a document may lie."""
_HARMLESS = (
    "NODE_ENV", "PYTHONDONTWRITEBYTECODE", "PYTHONFAULTHANDLER", "PYTHONHASHSEED", "PYTHONIOENCODING", "PYTHONOPTIMIZE",
    "PYTHONUNBUFFERED", "PYTHONUTF8",
)  # fmt: skip
_CHOOSABLE = ("AWS_LAMBDA_LOG_FORMAT", "AWS_LAMBDA_LOG_LEVEL")


class FunctionDestination(PromptDestination):
    """Invokes a local Lambda function with each batch; its result is the answer. Replies of a function that streams are
    sent as they come.

    Arguments: `TimeoutInSeconds` (60), `MemoryInMb` (128 is what the function sees; a limit of what it and its children
    hold only when given), `Concurrency` (2 workers at most), `Environment` (map). A failed invocation fails its own
    batch and is not retried: the same packets would most likely do the same again.
    """

    usage = "function:PATH.py:HANDLER"
    reasons = tuple(failure.reason for failure in FunctionFailure.__subclasses__())
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
        self._checked = (str(path), self._real()[1])
        self._timeout = timeout
        self._memory = memory
        self._concurrency = concurrency
        self._environment = environment
        self._told_keys = False  # once for each load of the code
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
        _check_loaded_code(reader, environment, context)
        path, handler = _parse_target(name, target, context)
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
        if self._has_moved():
            raise DestinationError(f"destination {self.name}: {self._moved}", "put the file there itself")
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
        if self._has_moved():
            raise DeliveryError("FunctionInitFailed", self._moved)
        stream = ReplyStream(self._look_at)
        try:
            consume = stream.feed if stream.wanted else None
            answer = await self._function.invoke(batch.body(), delivery_id.get() or None, consume)
        except FunctionFailure as failure:
            raise _delivery_error(failure, stream) from failure
        stream.end()
        self._look_at(answer)
        return answer

    def begin(
        self,
        batch: PacketBatch,
        request_id: str,
        answers: EarlyAnswers,
        ended: Callable[[Outcome], object],
    ) -> UnderWay | None:
        if self._function is None or self._has_moved():
            return None
        stream: ReplyStream | None = None  # nearly all answers come as a whole

        async def consume(piece: bytes) -> None:
            nonlocal stream
            stream = stream or ReplyStream(self._look_at, answers)
            await stream.feed(piece)

        def on_end(outcome: bytes | Exception) -> None:
            if isinstance(outcome, bytes):
                if stream is not None:
                    stream.end()
                self._look_at(outcome)
            elif isinstance(outcome, FunctionFailure):
                outcome = _delivery_error(outcome, stream)
            ended(outcome)

        return self._function.begin(batch.body(), request_id, consume, on_end)

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
        """The handler's file, the folder with all of the code, or the executable."""
        return self._path

    def reload(self, changed: str) -> None:
        """Load the handler anew; invocations that run end undisturbed. `changed` names the files, for people.

        Tells its end by an event: `FunctionReloaded`, or `FunctionInitFailed`, and then batches fail until the
        next reload.
        """
        if self._function is None or self._has_moved():
            return
        if self._warm_up is not None:
            self._warm_up.cancel()
        self._function.reload()
        self._told_keys = False
        self._warm_up = asyncio.create_task(self._warm(self._function, changed), name=f"reload {self.name}")

    def _look_at(self, answer: bytes) -> None:
        """Tell the author of an answer with keys that most likely mean others, once for each load of the code."""
        if not self._told_keys and suspicious(answer) and (detail := misread(answer)) is not None:
            self._told_keys = True
            log.warning("an answer has keys that mean nothing", function=self.name, detail=detail)
            self._emit("ReplyFailed", Reason="MalformedReply", Detail=detail)

    def _has_moved(self) -> bool:
        """True if a link was put on the way to code of a document of the API, after the document was checked."""
        return self.context.local_code is not None and self._real() != self._checked

    def _real(self) -> tuple[str, ...]:
        """Where the code lies, with links resolved."""
        file = Code.of(self._path, self._handler).file
        return (os.path.realpath(self._path), os.path.realpath(file))

    @property
    def _moved(self) -> str:
        return f"{self._path} leads elsewhere since it was checked"

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


def _delivery_error(failure: FunctionFailure, stream: ReplyStream | None) -> DeliveryError:
    after = ""
    if stream is not None:
        stream.end(complete=False)
        after = f" (after {stream.documents} streamed answers)" if stream.documents else ""
    return DeliveryError(failure.reason, failure.detail + after)


def _check_environment(reader: Arguments, environment: Mapping[str, str]) -> None:
    for variable, value in environment.items():
        if variable.startswith(_RESERVED) and variable not in _CHOOSABLE:
            cause = f"{variable} is set by the gateway"
            raise reader.wrong("Environment", cause, "leave it out of Environment", variable)
        if not variable or "=" in variable or "\0" in variable + value:
            cause = f"{variable!r} cannot be an environment variable"
            raise reader.wrong("Environment", cause, "rename it; NUL is not allowed", variable)


def _check_loaded_code(
    reader: Arguments, environment: Mapping[str, str], context: DestinationContext
) -> None:
    """Variables from which a program takes code: in a document of the API they may not lead elsewhere."""
    allowed = context.local_code
    for variable, value in environment.items() if allowed is not None else ():
        if variable in _HARMLESS or not _LOADS_CODE.fullmatch(variable):
            continue
        if variable not in _SEARCHED:
            cause = f"{variable} loads code, which a document of the API may not choose"
            raise reader.wrong("Environment", cause, "set it in the gateway's file", variable)
        assert allowed is not None  # noqa: S101
        try:
            beside = os.environ.get("PATH", "") if variable == "PATH" else ""
            allowed.check_search_path(value, beside)
        except Outside as error:
            raise reader.wrong("Environment", f"{variable}: {error.cause}", error.fix, variable) from None


def _parse_target(name: str, target: str, context: DestinationContext) -> tuple[Path, str | None]:
    """`(path, handler)` as a `Function` takes them, checked as far as that is possible without running any of it."""
    found = read_target(target, context.local_path)
    if not isinstance(found, Finding):
        path, handler = found
        if handler is not None and Code.of(path, handler).kind != "exec":
            # The module's own file, which may be a link.
            file = Code.of(path, handler).file
            context.local_path(str(file))
        found = check_function(path, handler) or found
    if isinstance(found, Finding):
        raise DestinationError(f"destination {name}: {found.cause}", found.fix)
    return found
