"""One worker: a process that handles invocations of one function, one at a time, and the Runtime API server
for it.

The process gets a session, a process group and a clean environment of its own. It inherits its standard streams
and, where it runs Python or Node, one end of a socket pair at whose other end the Runtime API is; an executable gets a
port.

It is the child of a keeper (`_keeper_main.py`), which is ours. The keeper ends everything that came from the worker,
and then as the worker did; so it does too when the gateway dies. We wait for its end on a pidfd and reap it ourselves.
"""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Literal

import structlog

from sluicegate.functions import cgroup
from sluicegate.functions._keeper_main import INHERITED
from sluicegate.functions.errors import (
    FunctionCrashed,
    FunctionError,
    FunctionFailure,
    FunctionInitFailed,
    FunctionOutOfMemory,
    FunctionTimeout,
    InvocationNotTaken,
)
from sluicegate.functions.invocation import Invocation
from sluicegate.functions.memory import LOOK_SECONDS, Memory
from sluicegate.functions.node import HEAP_FULL, NodeMissing, command
from sluicegate.functions.output import OutputForwarder
from sluicegate.functions.owner import Unavailable
from sluicegate.functions.pipe import Pipe
from sluicegate.functions.runtime_api import RuntimeApi

log = structlog.get_logger("sluicegate.functions")

_KEEPER, _MAIN = (Path(__file__).with_name(name) for name in ("_keeper_main.py", "_worker_main.py"))
_INHERITED = ("PATH", "HOME", "LANG")
_NO_PORT = "127.0.0.1:0"  # of the form that AWS_LAMBDA_RUNTIME_API has in Lambda; nobody can listen there
STOP_SECONDS = 1.0  # between SIGTERM and SIGKILL
SHORT_SECONDS = 0.02  # a batch of which the memory need not be looked at when it ends
OUTPUT_SECONDS = 0.3  # that a worker's end waits until its lines are in the log
KEEPER_SECONDS = 3.0  # that a keeper has to end everything
LAST_ANSWER_SECONDS = 0.05  # after the end of the process
_CANNOT_RUN = 126  # the status of a program that could not be run; its last line says why
_SILENT = "it has not asked the Lambda Runtime API (AWS_LAMBDA_RUNTIME_API) for an event, as it must"


@dataclass(frozen=True, slots=True)
class Program:
    """What a worker runs.

    `kind` is `python` (`target` is Lambda's `MODULE.FUNCTION`, found in `directory`), `node` (`target` is the absolute
    path of the handler's file, `export` its name there) or `exec` (`target` is the absolute path of a program that
    speaks the Runtime API). `handler` is what it finds in `_HANDLER`.
    `memory_mb` is what the function is told; `limit_memory` makes it a limit.
    `environment` may hold secrets: it is not part of the repr.
    """

    kind: Literal["python", "node", "exec"]
    target: str
    directory: Path
    name: str
    region: str
    handler: str
    export: str = ""
    memory_mb: int = 128
    limit_memory: bool = False
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def memory_limit(self) -> int:
        """In bytes; 0 for none."""
        return self.memory_mb << 20 if self.limit_memory else 0

    def command(self, control: int, inherited: int | None = None, group: str = "") -> list[str]:
        """The keeper's command line. `control` is the descriptor of its socket, `inherited` that of the worker's, where
        it inherits one, `group` the folder of its control group, if it has one. Raises `NodeMissing`."""
        numbers = map(str, (os.getpid(), control, -1 if inherited is None else inherited, self.memory_limit))
        keeper = [sys.executable, "-I", "-S", str(_KEEPER), *numbers, group]
        match self.kind:
            case "exec":
                return [*keeper, self.target]
            case "node":
                node = command(self.memory_limit >> 20, self.environment)
                return [*keeper, *node, self.target, self.export, str(INHERITED)]
        return [*keeper, sys.executable, "-P", str(_MAIN), self.target, str(INHERITED)]

    def variables(self, api: str) -> dict[str, str]:
        """The worker's environment; `api` is the `host:port` of its Runtime API."""
        variables = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        variables |= {"PYTHONUNBUFFERED": "1", "AWS_REGION": self.region, "AWS_DEFAULT_REGION": self.region}
        # Lambda's code directory is read-only; here a handler that is edited twice within a second would
        # otherwise be
        # taken from the first edit's cache. Set it to "" in Environment to have the cache back.
        variables["PYTHONDONTWRITEBYTECODE"] = "1"
        variables |= self.environment
        if self.kind == "python":
            version = f"{sys.version_info.major}.{sys.version_info.minor}"
            variables["AWS_EXECUTION_ENV"] = f"AWS_Lambda_python{version}"
        return variables | {
            "AWS_LAMBDA_FUNCTION_NAME": self.name,
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(self.memory_mb),
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_RUNTIME_API": api,
            "LAMBDA_TASK_ROOT": str(self.directory),
            "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{self.name}",
            "AWS_LAMBDA_LOG_STREAM_NAME": f"{time.strftime('%Y/%m/%d', time.gmtime())}/[$LATEST]{uuid.uuid4().hex}",
            "_HANDLER": self.handler,
        }


class Worker:
    """Made, started once, used by one caller at a time, stopped once (`stop` may be called again)."""

    def __init__(self, program: Program) -> None:
        self.exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        """Done when it and all that it had started have ended, with its return code (negative: the signal)."""
        self._loop = asyncio.get_running_loop()
        self._program = program
        self._api: Pipe | RuntimeApi
        if program.kind == "python":
            self._api = Pipe(program.name, self.kill)
        else:
            self._api = RuntimeApi(program.name)
        self._process: subprocess.Popen[bytes] | None = None
        self._pidfd = self._worker_pidfd = -1
        self._control: socket.socket | None = None
        self._trouble: OSError | None = None
        self._memory: Memory | None = None
        self._group: cgroup.Group | None = None
        self._killed_by_memory: FunctionOutOfMemory | None = None
        self._over: FunctionOutOfMemory | None = None
        self._looked = 0.0
        self._looking: asyncio.Task[None] | None = None
        self.pid: int | None = None
        self._pipes: list[tuple[asyncio.ReadTransport, OutputForwarder]] = []
        self._unread: list[IO[bytes]] = []
        # Of the running invocation, or else the last one; output most likely belongs to it.
        self._request_id = ""
        self._invocation: Invocation | None = None
        self._begun = self._until = self._timer_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._look: asyncio.TimerHandle | None = None
        self._died = select.poll()

    @property
    def alive(self) -> bool:
        return self._process is not None and not self.exited.done()

    async def start(self, seconds: float) -> None:
        """Start the process, wait until it asks for work. `FunctionInitFailed` if that does not happen within
        `seconds`.
        """
        try:
            await self._launch()
            await self._connect_output()
        except OSError as error:
            raise FunctionInitFailed(_why_not_started(error)) from error
        except (Unavailable, NodeMissing) as error:
            raise FunctionInitFailed(str(error)) from None
        initialised = self._api.initialised
        end = self._loop.time() + seconds
        while not initialised.done() and not self.exited.done() and (left := end - self._loop.time()) > 0:
            waited = min(left, LOOK_SECONDS) if self._program.limit_memory else left
            await asyncio.wait(
                (initialised, self.exited), timeout=waited, return_when=asyncio.FIRST_COMPLETED
            )
            if (over := await self._exceeded()) is not None:
                raise FunctionInitFailed(over.detail)
        if self._trouble is not None:
            raise FunctionInitFailed(_why_not_started(self._trouble)) from self._trouble
        if initialised.done():
            return initialised.result()
        note = self._hindrance()
        if self.exited.done():
            how = await self._how_it_ended("before it was ready")
            raise FunctionInitFailed(self._killed_by_memory.detail if self._killed_by_memory else how + note)
        raise FunctionInitFailed(f"the process was not ready within {seconds:g} s{note}")

    def submit(self, invocation: Invocation, seconds: float) -> None:
        """Have the handler answer `invocation` within `seconds`. When it is over, `knows` or else `answer` tells how it
        went. Raises `InvocationNotTaken` when the worker has ended."""
        if not self.alive or self._died.poll(0):
            # Also when its end is not in the loop yet: a dead worker's socket still takes what is written to it.
            raise InvocationNotTaken
        self._invocation = invocation
        self._request_id = invocation.request_id
        self._begun = self._loop.time()
        self._until = self._begun + seconds
        self._watch_time()
        if self._memory is not None:
            self._look = self._loop.call_later(LOOK_SECONDS, self._keep_looking, invocation)
        self._api.submit(invocation)

    def knows(self, invocation: Invocation) -> bool:
        """True when nothing is left to find out about how `invocation`, which is over, has ended: it has an answer or
        the handler's error, and the worker may go on. Else `answer` tells."""
        failure = invocation.failure
        if failure is not None and (
            not isinstance(failure, FunctionFailure) or isinstance(failure, FunctionCrashed)
        ):
            return False
        if self._over is not None or (self._memory is not None and self._is_look_due()):
            return False
        self._finish(invocation)
        return True

    async def answer(self, invocation: Invocation, seconds: float) -> bytes:
        """Body of the handler's response, once it is there. After any exception but `FunctionError` the worker is of no
        more use.

        Raises `FunctionError`, `FunctionTimeout`, `FunctionCrashed`, and `InvocationNotTaken` when the
        handler has not seen it.
        """
        try:
            answer = await invocation.answer
        except _NoAnswer:
            pass
        except FunctionError as error:
            raise await self._exceeded_since() or error from None
        else:
            if (over := await self._exceeded_since()) is not None:
                raise over
            return answer
        finally:
            self._finish(invocation)
        if self.exited.done():
            if not invocation.taken:
                raise InvocationNotTaken
            how = await self._how_it_ended("while it handled the batch")
            raise self._killed_by_memory or FunctionCrashed(how)
        self.kill()
        raise FunctionTimeout(f"no answer within {seconds:g} s; the worker was killed")

    def give_up(self) -> None:
        """Nobody waits for the running invocation any more."""
        if self._invocation is not None:
            self._invocation.on_end = None
            self._finish(self._invocation)

    def _finish(self, invocation: Invocation) -> None:
        invocation.close()
        if self._look is not None:
            self._look.cancel()
            self._look = None

    def _watch_time(self) -> None:
        """One timer for many invocations: most end long before theirs, and it moves on only when it comes."""
        if self._timer is None or self._timer_at > self._until:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = self._until
            self._timer = self._loop.call_at(self._until, self._on_time)

    def _on_time(self) -> None:
        self._timer = None
        if self._invocation is None or self._invocation.over:
            return
        if self._until > self._loop.time():
            self._watch_time()
        else:
            _end(self._invocation)

    def _hindrance(self) -> str:
        """What kept the worker from its Runtime API, if anything is known."""
        try:
            # Without a descriptor its connection is cut before anybody hears of it.
            os.close(os.open(os.devnull, os.O_RDONLY))
        except OSError as error:
            return f"; {_why_not_started(error)}"
        if refused := self._api.stranger:
            return f"; a connection to its Runtime API was refused: {refused}"
        ran = not self.exited.done() or self.exited.result() != _CANNOT_RUN
        return f"; {_SILENT}" if self._program.kind == "exec" and ran and not self._api.met else ""

    def _keep_looking(self, invocation: Invocation) -> None:
        self._looking = self._loop.create_task(self._look_until_answered(invocation))

    async def _look_until_answered(self, invocation: Invocation) -> None:
        while not invocation.over:
            if (over := await self._exceeded()) is not None:
                return invocation.fail(over)
            await asyncio.wait((invocation.answer,), timeout=LOOK_SECONDS)

    async def _exceeded_since(self) -> FunctionOutOfMemory | None:
        return await self._exceeded() if self._is_look_due() else None

    def _is_look_due(self) -> bool:
        """Look after a batch: not after each of many short ones, and the worker's peak tells what was missed."""
        now = self._loop.time()
        return max(now - self._begun - SHORT_SECONDS, now - self._looked - LOOK_SECONDS) > 0

    async def _exceeded(self) -> FunctionOutOfMemory | None:
        """What to say of a worker that holds more than it may; it is killed then. Who looks after that is told the
        same, though there is nothing any more."""
        memory = self._memory  # it may end while it is looked at
        if memory is None or self._over is not None:
            return self._over
        self._looked = self._loop.time()
        used = memory.look()
        if used > memory.limit:
            used = await asyncio.to_thread(memory.exact)
        if used > memory.limit and self._over is None:
            self._over = FunctionOutOfMemory(used, memory.limit)
            self.kill()
        return self._over

    def kill(self) -> None:
        """SIGKILL for the worker and all that it has started, now."""
        self._signal(signal.SIGUSR1)
        if self.alive and self._worker_pidfd >= 0:
            # Also if the keeper cannot: a handler may have stopped it.
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._worker_pidfd, signal.SIGKILL)
        if self._group is not None:
            self._group.kill()

    async def stop(self, grace: float = STOP_SECONDS) -> None:
        """End the process (SIGTERM, after `grace` seconds SIGKILL) and release everything. Does not raise."""
        if self.alive:
            if grace > 0:
                self._signal(signal.SIGTERM)
                await asyncio.wait((self.exited,), timeout=grace)
            if self.alive:
                self.kill()
                await asyncio.wait((self.exited,), timeout=KEEPER_SECONDS)
            self._signal(signal.SIGKILL)
            await asyncio.wait((self.exited,))
        if self._group is not None:
            await self._group.remove()
        if self._timer is not None:
            self._timer.cancel()
        await self._api.close()
        await self._close_output()

    async def _launch(self) -> None:
        if self._program.kind == "exec" and isinstance(self._api, RuntimeApi):
            return self._spawn(await self._api.start())
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                if isinstance(self._api, Pipe):
                    self._api.connect(ours)
                else:
                    await self._api.connect(ours)
            except BaseException:
                ours.close()
                raise
            self._spawn(_NO_PORT, theirs.fileno())

    def _spawn(self, address: str, inherited: int | None = None) -> None:
        ours, theirs = socket.socketpair()
        self._group = cgroup.make(self._program.memory_limit)
        folder = str(self._group.folder) if self._group is not None else ""
        try:
            with theirs:
                process = subprocess.Popen(  # noqa: S603 the user's handler, without a shell
                    self._program.command(theirs.fileno(), inherited, folder),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    bufsize=0,
                    cwd=self._program.directory,
                    env=self._program.variables(address),
                    pass_fds=(theirs.fileno(),) if inherited is None else (theirs.fileno(), inherited),
                    start_new_session=True,
                )
            try:
                self._pidfd = os.pidfd_open(process.pid)
            except OSError:
                # Nobody would hear of its end.
                with process:
                    process.kill()
                raise
        except BaseException:
            ours.close()
            raise
        self._process = process
        self._control = ours
        self._loop.add_reader(ours, self._on_worker)
        self._loop.add_reader(self._pidfd, self._on_exit)

    def _on_worker(self) -> None:
        """The keeper has started the worker, which waits until it is known here; or it has ended before."""
        assert self._control is not None and self._process is not None  # noqa: S101, PT018 set before it is watched
        self._loop.remove_reader(self._control)
        control, self._control = self._control, None
        with control:
            number = control.recv(32)
            if not number:
                return
            try:
                self._worker_pidfd = os.pidfd_open(int(number))
            except OSError as error:
                self._trouble = error
                return self.kill()
            self._died.register(self._worker_pidfd, select.POLLIN)
            self.pid = self._api.group = int(number)
            if self._program.limit_memory:
                self._memory = Memory(self._process.pid, self.pid, self._program.memory_limit)
            with suppress(BrokenPipeError):
                control.send(b"1")

    def _on_exit(self) -> None:
        assert self._process is not None  # noqa: S101 set before the pidfd is watched
        self._loop.remove_reader(self._pidfd)
        if self._control is not None:
            self._loop.remove_reader(self._control)
            self._control.close()
        for descriptor in (self._pidfd, self._worker_pidfd):
            if descriptor >= 0:
                os.close(descriptor)
        self._memory = None
        self._end_group()
        self.exited.set_result(self._process.wait())
        if self._invocation is not None:
            # One that was sent just before the end may still be in its socket.
            self._loop.call_later(LAST_ANSWER_SECONDS, _end, self._invocation)

    def _end_group(self) -> None:
        """End what its keeper could not, and note whether the kernel has ended it."""
        if self._group is None:
            return
        self._group.kill()
        if self._program.limit_memory and (used := self._group.out_of_memory()) is not None:
            self._killed_by_memory = FunctionOutOfMemory(used, self._program.memory_limit)

    def _signal(self, number: signal.Signals) -> None:
        """To the keeper."""
        if self.alive:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    async def _connect_output(self) -> None:
        assert self._process is not None  # noqa: S101 called after _spawn
        assert self._process.stdout is not None and self._process.stderr is not None  # noqa: S101, PT018
        self._unread = [self._process.stderr, self._process.stdout]
        for stream in ("stdout", "stderr"):
            forwarder = OutputForwarder(stream, self._log_line, lambda: self._request_id)
            transport, _ = await self._loop.connect_read_pipe(partial(_itself, forwarder), self._unread[-1])
            self._unread.pop()
            self._pipes.append((transport, forwarder))

    async def _close_output(self) -> None:
        """Take what is still in the pipes; one that a left-over process holds open is cut."""
        waiting = [forwarder.closed for _, forwarder in self._pipes]
        if waiting:
            await asyncio.wait(waiting, timeout=0.2)
        for transport, _ in self._pipes:
            transport.close()
        for pipe in self._unread:
            pipe.close()
        if waiting:
            _, late = await asyncio.wait(waiting, timeout=OUTPUT_SECONDS)
            if late:
                for _, forwarder in self._pipes:
                    forwarder.give_up()
                await asyncio.wait(waiting, timeout=OUTPUT_SECONDS)

    def _log_line(self, stream: str, request_id: str, line: str) -> None:
        if HEAP_FULL in line and self._program.kind == "node" and self._program.limit_memory:
            self._killed_by_memory = self._killed_by_memory or FunctionOutOfMemory(
                None, self._program.memory_limit
            )
        log.info(
            "function output",
            function=self._program.name,
            request_id=request_id,
            stream=stream,
            line=line,
        )

    async def _how_it_ended(self, when: str) -> str:
        code = self.exited.result()
        how = f"was killed by {_signal_name(-code)}" if code < 0 else f"exited with status {code}"
        how = f"the process {how} {when}"
        await asyncio.wait([forwarder.closed for _, forwarder in self._pipes], timeout=0.5)
        # stderr last: a traceback ends with what matters most.
        last = [forwarder.last_line for _, forwarder in self._pipes if forwarder.last_line]
        return f"{how}; its last line: {last[-1].strip()[:300]}" if last else how


def _why_not_started(error: OSError) -> str:
    """Why there is no process, and what to do: in our words, as the operating system's are bare."""
    why = os.strerror(error.errno or 0).lower()
    names = error.filename and error.filename != os.devnull
    where = f"{error.filename}: {why}" if names else why
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    fixes = {
        errno.EMFILE: f"the gateway may open {files} files; raise that (LimitNOFILE in a systemd unit, ulimit -n) or"
        " lower Concurrency",
        errno.ENFILE: "the machine may open no more files; raise fs.file-max or end what holds them",
        errno.EAGAIN: "this user or container may have no more processes; raise that (ulimit -u, TasksMax, pids.max)"
        " or lower Concurrency",
        errno.ENOMEM: "the machine or container has no memory left for it; give it more or lower Concurrency",
        errno.ENOENT: "put back what is gone, or correct destination_arn",
        errno.ENOTDIR: "put back what is gone, or correct destination_arn",
        errno.EACCES: "allow the gateway's user to enter and run it",
    }
    fix = fixes.get(error.errno or 0, "see whether the gateway's user can start it by hand")
    return f"its process could not be started ({where}): {fix}"


class _NoAnswer(Exception):
    """The invocation ended without one."""


def _end(invocation: Invocation) -> None:
    invocation.fail(_NoAnswer())


def _itself(forwarder: OutputForwarder) -> OutputForwarder:
    return forwarder


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
