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

    _speed_up_json()
    runtime(sys.argv)


def _speed_up_json() -> None:
    """Events and results through orjson, a third of the time; what it refuses goes the runtime's own way.

    The runtime names this attribute as the place to do so; a handler that sets its own comes later and wins.
    """
    import orjson
    from awslambdaric.lambda_runtime_client import BaseLambdaRuntimeClient  # type: ignore[import-untyped]
    from awslambdaric.lambda_runtime_marshaller import LambdaMarshaller  # type: ignore[import-untyped]

    # Refused by AWS, so not to be accepted here either.
    options = (
        orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_SUBCLASS
    )

    class Marshaller(LambdaMarshaller):  # type: ignore[misc]
        def unmarshal_request(self, request: bytes, content_type: str = "application/json") -> object:
            if content_type == "application/json":
                try:
                    return orjson.loads(request)
                except orjson.JSONDecodeError:
                    pass
            return super().unmarshal_request(request, content_type)

        def marshal_response(self, response: object) -> tuple[object, str]:
            if not isinstance(response, bytes):
                try:
                    return orjson.dumps(response, None, options), "application/json"
                except TypeError:
                    pass
            return super().marshal_response(response)  # type: ignore[no-any-return]

    BaseLambdaRuntimeClient.marshaller = Marshaller()


if __name__ == "__main__":
    main()
