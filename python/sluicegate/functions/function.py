"""A local Lambda function: a handler in a file, invoked with bytes, answered with bytes."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from sluicegate.functions.code import Code
from sluicegate.functions.invocation import Invocation
from sluicegate.functions.pool import Call, WorkerPool
from sluicegate.functions.runtime_api import deadline_ms
from sluicegate.functions.streamed import Consume
from sluicegate.functions.worker import Program
from sluicegate.ids import new_id

INIT_SECONDS = 10.0  # Lambda's limit for the init phase; a longer timeout extends it here


class Function:
    """A function with its own workers. Must be made and used in a running event loop; nothing starts before
    the first use.

    `path` is a `.py` file with `handler` (`NAME`, a function in it, or `MODULE.NAME` as in Lambda's own setting, found
    from the file's directory), a `.js`, `.mjs` or `.cjs` file with the name of what it exports, a folder with
    `MODULE.NAME`, or an executable that speaks the Runtime API (`handler` is then what it is told as `_HANDLER`).
    `timeout` in seconds, `memory` in MB (None: 128 for the function to see, and no limit), `concurrency` the
    most workers.
    """

    def __init__(
        self,
        path: Path,
        handler: str | None,
        *,
        name: str,
        timeout: float = 60.0,
        memory: int | None = None,
        concurrency: int = 2,
        environment: Mapping[str, str] | None = None,
        region: str = "us-east-1",
        arn: str | None = None,
    ) -> None:
        self.name = name
        self.arn = arn or f"arn:aws:lambda:{region}:000000000000:function:{name}"
        self._timeout = timeout
        # Not resolved through symbolic links: a deployment may link its handlers from elsewhere.
        code = Code.of(Path(os.path.abspath(path)), handler)  # noqa: PTH100
        program = Program(
            kind=code.kind,
            target=code.handler if code.kind == "python" else str(code.file),
            export=code.export if code.kind == "node" else "",
            handler=code.handler,
            directory=code.root,
            name=name,
            region=region,
            memory_mb=memory or 128,
            limit_memory=memory is not None,
            environment=dict(environment or {}),
        )
        self._pool = WorkerPool(program, size=concurrency, init_seconds=max(INIT_SECONDS, timeout))

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that live."""
        return self._pool.pids

    async def warm_up(self) -> None:
        """Start the first worker, so that an error at import shows early. Raises `FunctionInitFailed`."""
        await self._pool.warm_up()

    async def invoke(
        self, payload: bytes, request_id: str | None = None, consume: Consume | None = None
    ) -> bytes:
        """The handler's result for `payload` (JSON), as the runtime sent it.

        A response that the runtime streams goes to `consume`, piece by piece as it comes, and the result is b"". After
        a failure, what was consumed stays consumed, and nothing follows. Without `consume` it is a result like any
        other.

        Raises a `FunctionFailure`: `FunctionError` (the handler raised), `FunctionTimeout`,
        `FunctionCrashed`, `FunctionInitFailed`. Each concerns this invocation alone.
        """
        made = self._invocation(payload, request_id or new_id(), consume)
        return await self._pool.invoke(made, self._timeout)

    def begin(
        self, payload: bytes, request_id: str, consume: Consume, ended: Callable[[bytes | Exception], object]
    ) -> Call | None:
        """As `invoke`, but without a task: `ended` gets the result or the exception, later. None when no worker is idle
        now; then `invoke` waits for one."""
        return self._pool.begin(self._invocation(payload, request_id, consume), self._timeout, ended)

    def _invocation(
        self, payload: bytes, request_id: str, consume: Consume | None
    ) -> Callable[[], Invocation]:
        def made() -> Invocation:
            return Invocation(request_id, payload, deadline_ms(self._timeout), self.arn, _trace_id(), consume)

        return made

    def reload(self) -> None:
        """Load the handler anew with the next invocation; running ones end undisturbed."""
        self._pool.retire()

    async def close(self) -> None:
        """Stop the workers. Invocations that still run fail."""
        await self._pool.close()


def _trace_id() -> str:
    # The form of an X-Ray header; not sampled, nobody collects it.
    unique = f"{random.getrandbits(160):040x}"
    return f"Root=1-{int(time.time()):08x}-{unique[:24]};Parent={unique[24:]};Sampled=0"
