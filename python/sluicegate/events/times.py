"""Times as events and messages show them."""

from functools import lru_cache
from time import gmtime, strftime


@lru_cache(maxsize=4)
def _second(seconds: int) -> str:
    return strftime("%Y-%m-%dT%H:%M:%S", gmtime(seconds))


@lru_cache(maxsize=4)
def _millisecond(milliseconds: int) -> str:
    return f"{_second(milliseconds // 1000)}.{milliseconds % 1000:03d}Z"


def iso_milliseconds(unix_seconds: float) -> str:
    """`2026-06-09T10:00:00.123Z`: ISO 8601, UTC, milliseconds (contract section 2).

    The text of the latest is kept, because a burst of events shares it.
    """
    return _millisecond(int(unix_seconds * 1000))
