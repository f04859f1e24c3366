"""Our Lambda Runtime API as a stranger meets it: a real socket, and all that a worker may get wrong."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator
from typing import Any

import h11
import pytest

from sluicegate.functions import FunctionError
from sluicegate.functions.invocation import Invocation
from sluicegate.functions.runtime_api import RuntimeApi


async def request(address: str, method: str, path: str, body: bytes = b"") -> tuple[int, dict[str, Any]]:
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    connection = h11.Connection(h11.CLIENT)
    headers = [("Host", address), ("Content-Length", str(len(body))), ("Connection", "close")]
    for event in (
        h11.Request(method=method, target=path, headers=headers),
        h11.Data(data=body),
        h11.EndOfMessage(),
    ):
        writer.write(connection.send(event) or b"")
    raw = await reader.read()
    writer.close()
    head, _, answer = raw.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(answer or b"{}")


@pytest.fixture
async def api() -> AsyncIterator[tuple[RuntimeApi, str]]:
    server = RuntimeApi()
    address = await server.start()
    server.group = os.getpgrp()
    yield server, address
    await server.close()


RUNTIME = "/2018-06-01/runtime"


async def test_runtime_api_refuses_what_aws_refuses(api: tuple[RuntimeApi, str]) -> None:
    server, address = api
    assert (await request(address, "GET", "/nothing"))[0] == 404
    assert (await request(address, "POST", f"{RUNTIME}/invocation/next"))[0] == 405
    assert (await request(address, "GET", f"{RUNTIME}/invocation/x/response"))[0] == 405
    status, body = await request(address, "POST", f"{RUNTIME}/invocation/x/response", b"{}")
    assert (status, body["errorType"]) == (400, "InvalidRequestID")
    invocation = Invocation("id-1", b'{"a": 1}', 0, "arn", "trace")
    server.submit(invocation)
    assert await request(address, "GET", f"{RUNTIME}/invocation/next") == (200, {"a": 1})
    status, body = await request(address, "GET", f"{RUNTIME}/invocation/next")
    assert (status, body["errorType"]) == (403, "InvalidStateTransition")
    assert (await request(address, "POST", f"{RUNTIME}/invocation/id-2/error", b"{}"))[0] == 400
    assert (await request(address, "POST", f"{RUNTIME}/invocation/id-1/response", b"ok"))[0] == 202
    assert await invocation.answer == b"ok"
    assert (await request(address, "POST", f"{RUNTIME}/invocation/id-1/response", b"again"))[0] == 403
    assert (await request(address, "POST", f"{RUNTIME}/init/error", b"{}"))[0] == 403


@pytest.mark.parametrize("body", [b"", b"garbage", b"[]", b'{"errorType": 5}', b"\xff" * 100])
async def test_runtime_api_takes_any_error_body(body: bytes, api: tuple[RuntimeApi, str]) -> None:
    server, address = api
    invocation = Invocation("id-1", b"{}", 0, "arn", "trace")
    server.submit(invocation)
    await request(address, "GET", f"{RUNTIME}/invocation/next")
    assert (await request(address, "POST", f"{RUNTIME}/invocation/id-1/error", body))[0] == 202
    with pytest.raises(FunctionError):
        await invocation.answer


@pytest.mark.parametrize("end", ["work", "garbage", "end of stream"])
async def test_an_answer_that_waits_for_the_next_one_is_not_lost(
    end: str, api: tuple[RuntimeApi, str]
) -> None:
    server, address = api
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    post = f"POST {RUNTIME}/invocation/x/response HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{{}}"
    writer.write(f"{post}GET {RUNTIME}/invocation/next HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    await server.initialised
    expected = [b"400"]
    if end == "work":
        server.submit(Invocation("id-1", b'{"a": 1}', 0, "arn", "trace"))
        expected.append(b"200")
        answers = await reader.readuntil(b'{"a": 1}')
    else:
        writer.write(b"\x00\xff\r\n\r\n" if end == "garbage" else b"")
        if end == "end of stream":
            writer.write_eof()
        answers = await reader.read()
    writer.close()
    assert b"InvalidRequestID" in answers
    assert [answer.split()[0] for answer in answers.split(b"HTTP/1.1 ")[1:]] == expected


async def test_runtime_api_survives_garbage_and_vanished_pollers(api: tuple[RuntimeApi, str]) -> None:
    server, address = api
    host, port = address.split(":")
    for garbage in (b"\x00\xff\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"a" * 200_000, b""):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(garbage)
        writer.write_eof()
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()
    _, gone = await asyncio.open_connection(host, int(port))
    gone.write(f"GET {RUNTIME}/invocation/next HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    await server.initialised
    gone.close()
    await asyncio.sleep(0.05)
    server.submit(Invocation("id-1", b'{"a": 1}', 0, "arn", "trace"))
    assert await request(address, "GET", f"{RUNTIME}/invocation/next") == (200, {"a": 1})
