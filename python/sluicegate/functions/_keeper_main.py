"""First program of a worker: starts what the worker runs, and ends with it everything that came from it.

Run as `python -I -S _keeper_main.py PARENT CONTROL INHERITED MEMORY GROUP COMMAND…`; it imports nothing of ours. PARENT
is the gateway's process id. CONTROL is the descriptor of a socket: the worker writes its process id there and waits for
a byte before it becomes COMMAND. INHERITED is the descriptor that COMMAND gets beside its standard streams, as number
3, or -1.
MEMORY is in bytes, or 0 for no limit. GROUP is the folder of the worker's control group (`cgroup.py`), or empty.

Theory of operation. What a handler starts may leave the worker's process group and session, and lose its parents one
after the other (a daemon does). The kernel gives such an orphan to the nearest ancestor that is a *subreaper*: this
process. So all that ever came from the worker is found below it. It waits for the end of the worker, for the gateway's
death (a signal of the kernel) or for the gateway's wish (`SIGUSR1`, the same one), kills what is left, and then ends as
the worker did. `SIGTERM` is passed on to the worker's process group.

Not a `preexec_fn` of the gateway's: Python code between fork and exec may deadlock in a process that has threads. This
process has none.

There is one of it for each worker, so it imports little: `signal` and `contextlib` bring `enum`, `collections` and
`functools`, which are a fifth of what this process has in memory of its own.
"""

import ctypes
import errno
import os
import resource
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
else:
    import _signal as signal  # what `signal` is made of: the same functions, with plain numbers

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 1, 4, 36  # prctl(2)
FILES = 1024  # as on AWS; the gateway's own limit is higher, and libraries with select(2) would not bear it
INHERITED = 3
STACKS = 64
"""Threads whose stacks have room beside twice the memory: a stack counts as a whole for `RLIMIT_DATA`, however little
of it is touched."""
STACK_BYTES = 8 << 20
END_SECONDS = 2.0  # for what forks as fast as it is killed, or may not be killed

_SIGNALS = frozenset([signal.SIGCHLD, signal.SIGTERM, signal.SIGUSR1])
_libc = ctypes.CDLL(None, use_errno=True)


class suppress:
    """As in `contextlib`."""

    def __init__(self, *kinds: type[BaseException]) -> None:
        self._kinds = kinds

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        return kind is not None and issubclass(kind, self._kinds)


def main() -> None:
    parent, control, inherited, memory = map(int, sys.argv[1:5])
    group = sys.argv[5]
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGUSR1)
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
    if os.getppid() != parent:
        # It died before the call above.
        os._exit(1)
    keeper = os.getpid()
    try:
        worker = os.fork()
    except OSError as error:
        why = os.strerror(error.errno or 0).lower()
        fix = "raise what this user or container may have (ulimit -u, TasksMax, pids.max, memory)"
        print(f"the worker could not be started ({why}): {fix}", file=sys.stderr, flush=True)
        os._exit(1)
    if not worker:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        _become(sys.argv[6:], keeper, (control, inherited), memory, group)
    for descriptor in (control, inherited):
        if descriptor >= 0:
            os.close(descriptor)
    _wait(worker)
    _end_all(worker, group)
    if group and os.getppid() != parent:
        with suppress(OSError):
            os.rmdir(group)  # noqa: PTH106 the gateway does so while it lives, and reads there before
    _end_like(worker)


# The worker


def _become(command: list[str], keeper: int, sockets: tuple[int, int], memory: int, group: str) -> None:
    """Be the worker, in a session and a process group of its own. Does not return."""
    control, inherited = sockets
    os.setsid()
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # it survives the exec below
    if os.getppid() != keeper:
        os._exit(1)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)  # Python ignores them, and an exec would keep that
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, FILES), hard))
    if memory:
        _limit(memory)
    if group:
        with suppress(OSError):
            _write(f"{group}/cgroup.procs", b"0")
    os.set_inheritable(control, False)
    os.write(control, str(os.getpid()).encode())
    if not os.read(control, 1):
        os._exit(1)
    if inherited not in (-1, INHERITED):
        # A low number: Node.js marks the first ones as not to be inherited further, and can do so with no other.
        os.set_inheritable(inherited, False)
        os.dup2(inherited, INHERITED)
    _execute(command)


def _limit(memory: int) -> None:
    """What grows too fast to be seen in time: private memory that may be written, touched or not."""
    stack, _ = resource.getrlimit(resource.RLIMIT_STACK)
    stack = STACK_BYTES if stack == resource.RLIM_INFINITY else min(stack, STACK_BYTES)
    data = 2 * memory + STACKS * stack
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard == resource.RLIM_INFINITY or data < hard:
        resource.setrlimit(resource.RLIMIT_DATA, (data, data))


def _execute(command: list[str]) -> None:
    """Become the program, without a shell. Ends the process if that cannot be; the last line says why."""
    try:
        os.execv(command[0], command)  # noqa: S606
    except OSError as error:
        fixes = {
            errno.ENOEXEC: "build it for this machine, or begin it with a line #!/path/of/its/interpreter",
            errno.EACCES: f"make it executable (chmod +x {command[0]}), on a file system that is not mounted noexec",
            errno.ENOENT: "it is gone, or the interpreter that its first line names is not there",
        }
        why = os.strerror(error.errno or 0).lower()
        fix = fixes.get(error.errno or 0, "see whether it can be started by hand")
        print(f"{command[0]} cannot be run ({why}): {fix}", file=sys.stderr, flush=True)
        # As a shell would: 126 is a program that cannot be run.
        os._exit(126)


def _write(path: str, value: bytes) -> None:
    with open(path, "wb", buffering=0) as file:  # noqa: PTH123
        file.write(value)


# The keeper


def _wait(worker: int) -> None:
    """Return when the worker has ended, or the gateway wants its end. Its number stays taken until it is reaped."""
    while not _has_ended(worker):
        number = signal.sigwaitinfo(_SIGNALS).si_signo
        if number == signal.SIGUSR1:
            return
        if number == signal.SIGTERM:
            _kill_group(worker, signal.SIGTERM)


def _has_ended(worker: int) -> bool:
    """Reap orphans that have ended. True once the worker has, which is not reaped."""
    while (found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
        if found.si_pid == worker:
            return True
        os.waitpid(found.si_pid, 0)
    return False


def _end_all(worker: int, group: str) -> None:
    """Kill everything below this process. All are here again as orphans when their parents have ended."""
    _kill_group(worker, signal.SIGKILL)
    if group:
        with suppress(OSError):
            _write(f"{group}/cgroup.kill", b"1")
    until = time.monotonic() + END_SECONDS
    while time.monotonic() < until:
        left = below(os.getpid())
        for pid in left:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        for pid in left:
            with suppress(ChildProcessError):  # it is no child of this process, or not yet
                if pid != worker:
                    os.waitpid(pid, os.WNOHANG)
        if left <= {worker} and os.waitid(os.P_PID, worker, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return
        signal.sigtimedwait([signal.SIGCHLD], 0.01)


def _kill_group(worker: int, number: int) -> None:
    try:
        os.killpg(worker, number)
    except ProcessLookupError:
        os.kill(worker, number)  # it has no group of its own yet
    except PermissionError:
        pass


def below(pid: int) -> set[int]:
    """All processes that come from `pid`, those that have ended and are not reaped among them."""
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        children = _children(waiting.pop()) - found
        found |= children
        waiting += children
    return found


def _children(pid: int) -> set[int]:
    found: set[int] = set()
    with suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208 (pathlib would be most of this program)
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:  # noqa: PTH123
                found.update(map(int, file.read().split()))
    return found


def _end_like(worker: int) -> None:
    """End as the worker did: with its status, or by the signal that has ended it."""
    _, status = os.waitpid(worker, os.WNOHANG)
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _libc.prctl(PR_SET_DUMPABLE, 0)  # the worker's own memory is what one would look at
        with suppress(OSError, ValueError):
            signal.signal(-code, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())
        os.kill(os.getpid(), -code)
    os._exit(code if code >= 0 else 1)


if __name__ == "__main__":
    main()
