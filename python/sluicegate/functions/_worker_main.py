"""First program of a worker process: ties its life to the gateway's, limits its memory, becomes the runtime.

Run by path as `python -P _worker_main.py PARENT MEMORY python HANDLER` or `… exec PATH`; it imports nothing
of ours, so that the handler finds the interpreter as AWS would leave it. PARENT is the gateway's process id,
MEMORY bytes or 0.

Not a `preexec_fn`: Python code between fork and exec may deadlock in a process that has native threads.
"""

import ctypes
import os
import resource
import signal
import sys

PR_SET_PDEATHSIG = 1  # prctl(2)


def main() -> None:
    parent, memory, kind, target = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
    # The kernel sends it when the gateway dies, however it dies; it survives an exec.
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        # It died before the call above.
        os._exit(1)
    if memory:
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    if kind == "exec":
        os.execv(target, [target])  # noqa: S606 the user's own program, without a shell
    # As AWS does: the function's directory is the first to be searched.
    sys.path.insert(0, os.environ["LAMBDA_TASK_ROOT"])
    sys.argv = ["awslambdaric", target]
    from awslambdaric.__main__ import main as runtime  # type: ignore[import-untyped]

    runtime(sys.argv)


if __name__ == "__main__":
    main()
