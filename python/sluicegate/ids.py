"""Random ids: UUIDs of version 4 (RFC 9562, 5.4), as `uuid.uuid4` makes them, without a system call for each."""

import os

_BATCH = 64
_VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}
_ready: list[str] = []
"""Made and not given out yet: from the kernel's random bytes, of which none is used twice."""


def new_id() -> str:
    """For example `3f1c0e5a-9b7d-4c2e-8a41-d06c5b3e7f92`. From any thread."""
    while True:
        try:
            return _ready.pop()
        except IndexError:
            _ready.extend(_made())


def _made() -> list[str]:
    text = os.urandom(16 * _BATCH).hex()
    parts = [text[start : start + 32] for start in range(0, len(text), 32)]
    return [
        f"{one[:8]}-{one[8:12]}-4{one[13:16]}-{_VARIANT[one[16]]}{one[17:20]}-{one[20:]}" for one in parts
    ]


os.register_at_fork(after_in_child=_ready.clear)
