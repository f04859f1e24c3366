"""The workers of one function: as many as are needed, at most `size`, started on demand, replaced when they
die.

Theory of operation. A slot of `size` is taken for the time of an invocation; a worker is either idle or
belongs to the holder of a slot, and a new one is started only when none is idle: so there are never more than
`size`. The last idle one is taken first, it is the warmest. A worker is thrown away after everything that
leaves its state unknown: a timeout, a crash, a cancelled invocation. Consecutive failures delay the next
start (crash-loop backoff); any answer, an exception of the handler included, ends the series. The first
failure delays nothing: a single bad batch costs a cold start, not a pause.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

import structlog

from sluicegate.backoff import Backoff
from sluicegate.functions.errors import (
    FunctionCrashed,
    FunctionFailure,
    FunctionInitFailed,
    FunctionTimeout,
    InvocationNotTaken,
)
from sluicegate.functions.invocation import Invocation
from sluicegate.functions.slots import Slots
from sluicegate.functions.worker import STOP_SECONDS, Program, Worker

log = structlog.get_logger("sluicegate.functions")

PAUSES = Backoff(0.1, 10.0)  # from the second failure in a row on
NOT_TAKEN_LIMIT = 3  # workers in a row that die before they take the same invocation


class WorkerPool:
    """Workers of one `Program`. `init_seconds` bounds a cold start."""

    def __init__(self, program: Program, *, size: int, init_seconds: float) -> None:
        self._program = program
        self._init_seconds = init_seconds
        self._slots = Slots(size)
        self._idle: list[Worker] = []
        self._workers: dict[Worker, int] = {}  # every living one, with the generation that it belongs to
        self._generation = 0
        self._failures = 0
        self._not_before = 0.0
        self._reloaded = asyncio.Event()  # set once, then replaced
        self._ending: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def pids(self) -> list[int]:
        """Process ids of the living workers."""
        return [worker.pid for worker in self._workers if worker.alive and worker.pid is not None]

    async def warm_up(self) -> None:
        """Make sure that one worker is there. Raises `FunctionInitFailed`."""
        async with self._slots:
            if not self._idle:
                worker = await self._start()
                self._put_back(worker)

    async def invoke(self, invocation: Callable[[], Invocation], seconds: float) -> bytes:
        """Have one worker handle what `invocation()` makes (once per attempt). Raises `FunctionFailure`.

        Waits for a free worker and for the end of a crash-loop pause; `seconds` begin when the worker is
        ready.
        """
        async with self._slots:
            return await self.attempt(invocation, seconds)

    def begin(
        self,
        invocation: Callable[[], Invocation],
        seconds: float,
        ended: Callable[[bytes | Exception], object],
    ) -> Call | None:
        """As `invoke`, but without a task: `ended` gets the answer or the exception, later. None when no worker is idle
        now."""
        if not self._idle or not self._slots.take():
            return None
        call = Call(self, self._idle.pop(), invocation, seconds, ended)
        try:
            call.begin()
        except InvocationNotTaken:
            self._idle.append(call.worker)  # `invoke` sees to it
            self._slots.release()
            return None
        return call

    async def attempt(
        self,
        invocation: Callable[[], Invocation],
        seconds: float,
        under_way: tuple[Worker, Invocation] | None = None,
    ) -> bytes:
        """`invoke` for the holder of a slot. `under_way`: the worker that has the invocation already."""
        for _ in range(NOT_TAKEN_LIMIT):
            if under_way is not None:
                worker, made = under_way
            else:
                worker = self._idle.pop() if self._idle else await self._start()
                made = invocation()
            try:
                if under_way is None:
                    worker.submit(made, seconds)
                answer = await worker.answer(made, seconds)
            except InvocationNotTaken:
                # It died while nobody looked; nothing is lost.
                under_way = None
                self.discard(worker)
                self._failed()
            except FunctionTimeout:
                self.discard(worker)
                raise
            except FunctionCrashed:
                self.discard(worker)
                self._failed()
                raise
            except FunctionFailure:
                self.answered(worker)
                raise
            except BaseException:
                # Cancelled: the handler still runs, and would answer the next invocation with this one's
                # result.
                self.discard(worker)
                raise
            else:
                self.answered(worker)
                return answer
        raise FunctionCrashed(f"{NOT_TAKEN_LIMIT} workers in a row ended before they took the batch")

    def answered(self, worker: Worker) -> None:
        """The worker has answered, if only by an exception of the handler, and may take the next invocation."""
        self._failures = 0
        self._put_back(worker)

    def release(self, worker: Worker | None = None) -> None:
        """Give back a slot; `worker` is thrown away."""
        if worker is not None:
            self.discard(worker)
        self._slots.release()

    def retire(self) -> None:
        """Have every worker end after its current invocation: the next ones load the function anew."""
        self._generation += 1
        self._failures, self._not_before = 0, 0.0
        self._reloaded.set()
        self._reloaded = asyncio.Event()
        idle, self._idle = self._idle, []
        for worker in idle:
            self.discard(worker, STOP_SECONDS)

    async def close(self) -> None:
        """Stop every worker; invocations that still run fail as `FunctionCrashed`."""
        self._closed = True
        self._idle.clear()
        for worker in list(self._workers):
            self.discard(worker, STOP_SECONDS)
        while self._ending:
            await asyncio.wait(self._ending)

    async def _start(self) -> Worker:
        loop = asyncio.get_running_loop()
        # Noted again after each pause: a failure of the other workers may have moved it, a reload ends it.
        while (pause := self._not_before - loop.time()) > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._reloaded.wait(), pause)
        if self._closed:
            raise FunctionCrashed("the gateway stopped before the batch was handled")
        worker = Worker(self._program)
        self._workers[worker] = self._generation
        try:
            await worker.start(self._init_seconds)
        except FunctionInitFailed:
            self.discard(worker)
            self._failed()
            raise
        except BaseException:
            self.discard(worker)
            raise
        worker.exited.add_done_callback(lambda _: self._on_exit(worker))
        return worker

    def _put_back(self, worker: Worker) -> None:
        if not worker.alive or self._closed or self._workers.get(worker) != self._generation:
            self.discard(worker, STOP_SECONDS)
        else:
            self._idle.append(worker)

    def _on_exit(self, worker: Worker) -> None:
        if worker in self._idle:
            self._idle.remove(worker)
            log.warning("a worker ended while it was idle", function=self._program.name)
            self.discard(worker)
            self._failed()

    def _failed(self) -> None:
        self._failures += 1
        pause = PAUSES.pause(self._failures - 1) if self._failures > 1 else 0.0
        self._not_before = asyncio.get_running_loop().time() + pause
        if pause:
            log.warning(
                "a function fails again and again; its next start waits",
                function=self._program.name,
                failures=self._failures,
                seconds=pause,
            )

    def discard(self, worker: Worker, grace: float = 0.0) -> None:
        """Stop it in the background; `close` waits for that."""
        if self._workers.pop(worker, None) is None:
            return
        task = asyncio.get_running_loop().create_task(worker.stop(grace))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)


class Call:
    """An invocation that `WorkerPool.begin` has begun: it has a slot of the pool and one of its workers."""

    __slots__ = ("_ended", "_invocation", "_made", "_pool", "_seconds", "_task", "worker")

    def __init__(
        self,
        pool: WorkerPool,
        worker: Worker,
        invocation: Callable[[], Invocation],
        seconds: float,
        ended: Callable[[bytes | Exception], object],
    ) -> None:
        self.worker = worker
        self._pool = pool
        self._invocation = invocation
        self._made = invocation()
        self._seconds = seconds
        self._ended = ended
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Give the worker the invocation. Raises `InvocationNotTaken`."""
        self._made.on_end = self._on_end
        self.worker.submit(self._made, self._seconds)

    def cancel(self) -> None:
        """Give it up: `ended` is not called. The worker is thrown away, as its handler still runs."""
        self._ended = _nobody
        self.worker.give_up()
        if self._task is not None:
            self._task.cancel()
            self._pool.discard(self.worker)
        else:
            self._pool.release(self.worker)

    def _on_end(self, made: Invocation) -> None:
        if not self.worker.knows(made):
            self._task = asyncio.get_running_loop().create_task(self._find_out())
            self._task.add_done_callback(lambda _: self._pool.release())
            return
        self._pool.answered(self.worker)
        self._pool.release()
        self._ended(made.body if made.failure is None else made.failure)

    async def _find_out(self) -> None:
        """How it ended, or the answer of another worker where this one has not taken it."""
        outcome: bytes | Exception
        try:
            outcome = await self._pool.attempt(self._invocation, self._seconds, (self.worker, self._made))
        except Exception as error:
            outcome = error
        asyncio.get_running_loop().call_soon(self._tell, outcome)

    def _tell(self, outcome: bytes | Exception) -> None:
        self._ended(outcome)


def _nobody(outcome: bytes | Exception) -> None: ...
