"""How an invocation fails. `reason` is the stable word for events and counters, `detail` a sentence for a
person.
"""

from __future__ import annotations

from typing import ClassVar


class FunctionFailure(Exception):
    """The invocation failed, and only this one. Whose fault it is, is in the type: always the function's,
    never ours.
    """

    reason: ClassVar[str] = "FunctionFailure"

    def __init__(self, detail: str) -> None:
        super().__init__(f"{self.reason}: {detail}")
        self.detail = detail


class FunctionError(FunctionFailure):
    """The handler raised; the worker lives on. `error_type` and `error_message` as it reported them."""

    reason = "FunctionError"

    def __init__(self, error_type: str, error_message: str) -> None:
        super().__init__(f"the handler raised {error_type}: {error_message}" if error_message else error_type)
        self.error_type = error_type
        self.error_message = error_message


class AnswerTooLarge(FunctionFailure):
    """The result has more than `limit` bytes; the worker lives on."""

    reason = "FunctionAnswerTooLarge"

    def __init__(self, limit: int) -> None:
        super().__init__(f"the answer is larger than Lambda's limit of {limit} bytes")


class FunctionInitFailed(FunctionFailure):
    """The function did not become ready: an error at import, an exit, or no sign of life in time."""

    reason = "FunctionInitFailed"


class FunctionTimeout(FunctionFailure):
    """The handler did not answer in time; its worker was killed."""

    reason = "FunctionTimeout"


class FunctionCrashed(FunctionFailure):
    """The worker ended while it handled the invocation."""

    reason = "FunctionCrashed"


class FunctionOutOfMemory(FunctionCrashed):
    """The worker and what it had started held more than its limit, and were ended. Sizes in bytes."""

    reason = "FunctionOutOfMemory"

    def __init__(self, used: int | None, limit: int) -> None:
        """`used` is None where the runtime itself has found its heap full."""
        mb = 1 << 20
        what = (
            f"{-(-used // mb)} MB used"
            if used is not None
            else "the JavaScript heap is full, which has its share"
        )
        super().__init__(
            f"Runtime.OutOfMemory: {what} of {limit // mb} MB (MemoryInMb); the worker was ended,"
            " raise MemoryInMb or keep less in memory"
        )


class InvocationNotTaken(Exception):
    """The worker ended before it took the invocation: another one may have it. Stays in this package."""
