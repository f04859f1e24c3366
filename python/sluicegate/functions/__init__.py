"""Local Lambda functions: unmodified handlers under AWS's own runtime, served by a Runtime API of ours."""

from sluicegate.functions.errors import (
    FunctionCrashed,
    FunctionError,
    FunctionFailure,
    FunctionInitFailed,
    FunctionOutOfMemory,
    FunctionTimeout,
)
from sluicegate.functions.function import Function

__all__ = [
    "Function",
    "FunctionCrashed",
    "FunctionError",
    "FunctionFailure",
    "FunctionInitFailed",
    "FunctionOutOfMemory",
    "FunctionTimeout",
]
