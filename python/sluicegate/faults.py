"""What the log says of an exception that nobody should have raised."""

import traceback
from typing import Any


def log_fault(log: Any, what: str, error: BaseException, **names: object) -> None:
    """Where and of which type, but not the text: that is a library's, and may quote credentials. `log` is a structlog
    logger; `names` say whose fault it is."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "unknown"
    log.error(what, **names, error=type(error).__name__, where=where)
    log.debug(what, **names, exc_info=error)


def failure(error: BaseException) -> str:
    """An exception of somebody else's code, on one line: `ValueError: out of range`."""
    text = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
