"""Streamed answers of AWS, `application/vnd.amazon.eventstream`, made by hand."""

import struct
import zlib


def frame(payload: bytes, **headers: str) -> bytes:
    """A message of `application/vnd.amazon.eventstream`, with both checksums."""
    named = [(f":{name.replace('_', '-')}".encode(), value.encode()) for name, value in headers.items()]
    head = b"".join(
        struct.pack("!B", len(name)) + name + b"\7" + struct.pack("!H", len(value)) + value
        for name, value in named
    )
    prelude = struct.pack("!II", 16 + len(head) + len(payload), len(head))
    message = prelude + struct.pack("!I", zlib.crc32(prelude)) + head + payload
    return message + struct.pack("!I", zlib.crc32(message))
