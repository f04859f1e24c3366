"""Signatures of web hooks, as https://www.standardwebhooks.com has them."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence


def read_keys(text: str) -> list[bytes]:
    """The keys of a file: one a line, `whsec_` and then base64 of 24 to 64 bytes. Raises `ValueError`.

    Two keys make two signatures, so that a receiver may go over from one to the other.

        >>> read_keys("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")[0].hex()
        '31f290f6bf06298aab4f08d43c3f082cf648a362da2da4b0'
    """
    keys = []
    for line in text.split():
        prefix, _, code = line.partition("_")
        try:
            key = base64.b64decode(code, validate=True)
        except binascii.Error:
            key = b""
        if prefix != "whsec" or not 24 <= len(key) <= 64:
            raise ValueError("not a secret of a web hook")
        keys.append(key)
    if not keys:
        raise ValueError("no secret")
    return keys


def sign(keys: Sequence[bytes], message_id: str, timestamp: int, body: bytes) -> str:
    """The value of `webhook-signature`: HMAC-SHA256 over `id.timestamp.body`, one for each key."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    made = (base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode() for key in keys)
    return " ".join(f"v1,{one}" for one in made)
