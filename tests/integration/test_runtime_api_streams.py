"""Streamed responses at our Lambda Runtime API: a runtime's own bytes over a real socket."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from sluicegate.functions import FunctionError
from sluicegate.functions.invocation import Invocation
from sluicegate.functions.runtime_api import RuntimeApi
from sluicegate.functions.streamed import WAITING_BYTES

RUNTIME = "/2018-06-01/runtime/invocation"
HEAD = (
    f"POST {RUNTIME}/id-1/response HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
    "Lambda-Runtime-Function-Response-Mode: streaming\r\n"
    "Trailer: Lambda-Runtime-Function-Error-Type, Lambda-Runtime-Function-Error-Body\r\n\r\n"
).encode()
NEXT = f"GET {RUNTIME}/next HTTP/1.1\r\nHost: x\r\n\r\n".encode()
LIMIT = 20.0


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@dataclass
class Runtime:
    """A runtime that has taken the invocation `id-1`, and what came of it."""

    server: RuntimeApi
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    invocation: Invocation
    consumed: bytearray
    room: asyncio.Event = field(default_factory=asyncio.Event)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    async def until(self, expected: bytes) -> None:
        async with asyncio.timeout(LIMIT):
            while bytes(self.consumed) != expected:
                self.news.clear()
                await self.news.wait()

    async def status(self) -> bytes:
        async with asyncio.timeout(LIMIT):
            head = await self.reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        await self.reader.readexactly(length)
        return head.split()[1]


@pytest.fixture
async def runtime() -> AsyncIterator[Runtime]:
    server = RuntimeApi()
    address = await server.start()
    server.group = os.getpgrp()
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    consumed = bytearray()

    async def consume(piece: bytes) -> None:
        await made.room.wait()
        consumed.extend(piece)
        made.news.set()

    made = Runtime(
        server, reader, writer, Invocation("id-1", b"{}", 0, "arn", "trace", consume=consume), consumed
    )
    made.room.set()
    writer.write(NEXT)
    server.submit(made.invocation)
    assert await made.status() == b"200"
    yield made
    made.invocation.close()
    writer.close()
    await server.close()


async def test_each_piece_is_consumed_as_it_comes(runtime: Runtime) -> None:
    sent = b""
    runtime.writer.write(HEAD)
    for piece in (b'{"Tag": "a"}', b'\n{"Ta', b'g": "\xc3', b'\xa9"}'):
        runtime.writer.write(chunk(piece))
        sent += piece
        await runtime.until(sent)
        assert not runtime.invocation.answer.done()
    runtime.writer.write(b"0\r\n\r\n" + NEXT)
    assert await runtime.invocation.answer == b""
    following = Invocation("id-2", b"{}", 0, "arn", "trace")
    runtime.server.submit(following)
    assert [await runtime.status(), await runtime.status()] == [b"202", b"200"]


async def test_an_error_behind_the_pieces_fails_the_invocation_after_them(runtime: Runtime) -> None:
    error = base64.b64encode(json.dumps({"errorType": "KeyError", "errorMessage": "'é'"}).encode())
    runtime.room.clear()
    runtime.writer.write(
        HEAD + chunk(b"one") + b"0\r\nLambda-Runtime-Function-Error-Type: Other\r\n"
        b"Lambda-Runtime-Function-Error-Body: " + error + b"\r\n\r\n"
    )
    assert await runtime.status() == b"202"
    assert not runtime.invocation.answer.done(), "what came before the error was not consumed yet"
    runtime.room.set()
    with pytest.raises(FunctionError, match="KeyError: 'é'"):
        await runtime.invocation.answer
    assert runtime.consumed == b"one"


@pytest.mark.parametrize("end", ["closed", "garbage"])
async def test_a_response_that_breaks_off_is_the_handlers_error(
    end: str, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sluicegate.functions.runtime_api.CUT_SECONDS", 0.01)
    runtime.writer.write(HEAD + chunk(b"one"))
    await runtime.until(b"one")
    if end == "closed":
        runtime.writer.close()
    else:
        runtime.writer.write(b"no chunk\r\n")
    with pytest.raises(FunctionError, match="ended in the middle"):
        await runtime.invocation.answer


async def test_a_consumer_without_room_holds_the_sender_up(runtime: Runtime) -> None:
    runtime.room.clear()
    runtime.writer.write(HEAD)
    piece, total = b"x" * 65_536, 0
    with contextlib.suppress(TimeoutError):  # the kernel's buffers fill, and then nobody reads
        while total < 1 << 26:
            runtime.writer.write(chunk(piece))
            total += len(piece)
            await asyncio.wait_for(runtime.writer.drain(), 0.3)
    assert total < 1 << 26
    assert runtime.invocation.stream is not None
    waiting = sum(map(len, runtime.invocation.stream._pieces))
    assert waiting < WAITING_BYTES + (1 << 20)
    runtime.room.set()
    runtime.writer.write(b"0\r\n\r\n")
    async with asyncio.timeout(LIMIT):
        assert await runtime.invocation.answer == b""
    assert len(runtime.consumed) == total


async def test_nobody_streams_for_an_invocation_that_is_not_running(runtime: Runtime) -> None:
    runtime.writer.write(HEAD.replace(b"id-1", b"id-9") + chunk(b"other") + b"0\r\n\r\n")
    assert await runtime.status() == b"400"
    runtime.writer.write(HEAD + chunk(b"one") + b"0\r\n\r\n")
    assert await runtime.status() == b"202"
    assert await runtime.invocation.answer == b""
    assert runtime.consumed == b"one"
    runtime.writer.write(HEAD + chunk(b"again") + b"0\r\n\r\n")
    assert await runtime.status() == b"403"
    assert runtime.consumed == b"one"


async def test_a_stream_that_nobody_consumes_is_an_answer(runtime: Runtime) -> None:
    runtime.invocation.consume = None
    runtime.writer.write(HEAD + chunk(b"one") + chunk(b" two") + b"0\r\n\r\n")
    assert await runtime.invocation.answer == b"one two"
