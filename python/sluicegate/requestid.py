"""Ids that join what the gateway says of a batch to what others say of it."""

from __future__ import annotations

import random


def request_id() -> str:
    """A random UUID (RFC 9562, version 4) without a system call. It can be guessed, and so must be no secret.

    >>> import uuid
    >>> uuid.UUID(request_id()).version
    4
    """
    text = f"{random.getrandbits(128):032x}"
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-{'89ab'[int(text[16], 16) & 3]}{text[17:20]}-{text[20:]}"
