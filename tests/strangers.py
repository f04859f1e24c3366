"""Another user of the machine: a child process of this one that is nobody, for tests of what a user may not do."""

import contextlib
import os
import pickle
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest

NOBODY = 65_534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def as_nobody(work: Callable[[], Any]) -> Any:
    """What `work` returns when another user does it. It must need nothing that only this user can read."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _child(work, reading, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    done, value = pickle.loads(said)
    assert done, value
    return value


@contextlib.contextmanager
def nobody_runs(work: Callable[[], Any]) -> Iterator[int]:
    """Another user does `work`, which does not end by itself. The process id."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _child(work, reading, writing)
    os.close(reading)
    os.close(writing)
    try:
        yield child
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, 9)
        os.waitpid(child, 0)


def _child(work: Callable[[], Any], reading: int, writing: int) -> None:
    os.close(reading)
    try:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        said = pickle.dumps((True, work()))
    except BaseException:
        said = pickle.dumps((False, traceback.format_exc()))
    os.write(writing, said)
    os._exit(0)
