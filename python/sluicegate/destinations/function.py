"""`function:PATH.py:HANDLER`, `function:PATH`: a Lambda function on this machine (contract section 1.2)."""

from __future__ import annotations

import ast
import asyncio
import os
import sys
from collections.abc import Iterable, Mapping
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
        owner = f"destination {name}"
        reader = Arguments(arguments, owner)
        timeout = reader.number("TimeoutInSeconds", 60.0, 0.1, 900.0)
        memory = reader.integer("MemoryInMb", 128, 64, 10240) if "MemoryInMb" in reader else None
        concurrency = reader.integer("Concurrency", 2, 1, 1000)
        environment = reader.strings("Environment")
        reader.integer("MemoryInMb", 128, 64, 10240)
        reader.finish()
        _check_environment(owner, environment)
        path, handler = _parse_target(owner, target, context.base_dir)
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


def _check_environment(owner: str, environment: Mapping[str, str]) -> None:
    for variable, value in environment.items():
        if variable.startswith(_RESERVED) and variable not in _CHOOSABLE:
            raise DestinationError(
                f"{owner}: {variable} is set by the gateway", "leave it out of Environment"
            )
        if not variable or "=" in variable or "\0" in variable + value:
            raise DestinationError(
                f"{owner}: {variable!r} cannot be an environment variable", "rename it; NUL is not allowed"
            )


def _parse_target(owner: str, target: str, base: Path) -> tuple[Path, str | None]:
    """`(file, handler)`, or `(executable, None)`, both checked as far as that is possible without running
    them.
    """
    before, colon, handler = target.rpartition(":")
    if colon and before.endswith(".py"):
        path = base / before
        if not handler:
            raise DestinationError(
                f"{owner}: function:{target} names no handler", "add its name: …py:handler"
            )
        _require_file(owner, path)
        _check_handler(owner, path, handler)
        return path, handler
    if not target or target.endswith(".py"):
        raise DestinationError(
            f"{owner}: function:{target} names no handler", "write it as function:PATH.py:HANDLER"
        )
    path = base / target
    _require_file(owner, path)
    if not os.access(path, os.X_OK):
        raise DestinationError(
            f"{owner}: {path} is not executable",
            f"chmod +x it, or write a Python handler as {FunctionDestination.usage}",
        )
    return path, None


def _require_file(owner: str, path: Path) -> None:
    if not path.is_file():
        raise DestinationError(
            f"{owner}: there is no file {path}",
            "create it or correct the path, which is relative to the configuration file",
        )


def _check_handler(owner: str, path: Path, handler: str) -> None:
    if not all(part.isidentifier() for part in handler.split(".")):
        raise DestinationError(f"{owner}: {handler!r} is not a function's name", f"write {path.name}:handler")
    module, _, function = handler.rpartition(".")
    if not module and "." in path.stem:
        raise DestinationError(f"{owner}: a module's name has no dot, {path.stem!r} does", "rename the file")
    if module and module != path.stem:
        inner = path.parent.joinpath(*module.split("."))
        path = inner.with_suffix(".py") if inner.with_suffix(".py").is_file() else inner / "__init__.py"
        _require_file(owner, path)
    if module.partition(".")[0] in sys.builtin_module_names or path.stem in sys.builtin_module_names:
        raise DestinationError(f"{owner}: {path.stem} is the name of a built-in module", "rename the file")
    try:
        tree = ast.parse(path.read_bytes(), str(path))
    except (SyntaxError, ValueError) as error:
        line = f" line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        what = error.msg if isinstance(error, SyntaxError) else "it is not Python source"
        raise DestinationError(f"{owner}: {path}{line} is not valid Python ({what})", "correct it") from error
    except OSError as error:
        raise DestinationError(
            f"{owner}: {path} cannot be read", "make it readable for the gateway"
        ) from error
    names, anything = _top_level(tree.body)
    if function not in names and not anything:
        fix = (
            f"define it, or name one of {', '.join(sorted(names))}"
            if names
            else f"define def {function}(event, context)"
        )
        raise DestinationError(f"{owner}: {path} has no function {function} at its top level", fix)
    if any(isinstance(node, ast.AsyncFunctionDef) and node.name == function for node in tree.body):
        raise DestinationError(
            f"{owner}: {function} in {path} is async; Lambda's Python runtime calls handlers synchronously",
            "make it a plain def that calls asyncio.run",
        )


def _top_level(body: Iterable[ast.stmt]) -> tuple[set[str], bool]:
    """The names that a module's top level binds, and whether it may bind others (`from x import *`,
    `__getattr__`).
    """
    names: set[str] = set()
    anything = False
    for statement in body:
        match statement:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                names.add(statement.name)
            case ast.Import() | ast.ImportFrom():
                anything |= any(alias.name == "*" for alias in statement.names)
                names |= {alias.asname or alias.name.partition(".")[0] for alias in statement.names}
            case ast.Assign() | ast.AnnAssign() | ast.AugAssign():
                names |= {node.id for node in ast.walk(statement) if _is_bound(node)}  # type: ignore[attr-defined]
            case _:
                blocks = [child for child in ast.iter_child_nodes(statement) if isinstance(child, ast.stmt)]
                for handler in getattr(statement, "handlers", []):
                    blocks += handler.body
                inner, more = _top_level(blocks)
                names |= inner
                anything |= more
    return names - {"*"}, anything or "__getattr__" in names


def _is_bound(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
