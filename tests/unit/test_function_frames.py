"""Frames between the gateway and a Python worker, cut anywhere, too long, and not frames at all."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.functions import FunctionCrashed, FunctionError, FunctionFailure, FunctionInitFailed, frames
from sluicegate.functions.frames import BODY_LIMIT, HEADER, PIECE_LIMIT, FrameReader, NotAFrame
from sluicegate.functions.invocation import Invocation
from sluicegate.functions.pipe import Pipe
from waiting import until

KINDS = st.sampled_from([frames.INIT_ERROR, frames.RESULT, frames.ERROR, frames.PIECE, frames.END])


def frame(kind: int, body: bytes = b"") -> bytes:
    return HEADER.pack(len(body), kind) + body


@given(st.lists(st.tuples(KINDS, st.binary(max_size=40))), st.lists(st.integers(1, 60), min_size=1))
def test_frames_are_the_same_wherever_the_reads_end(sent: list[tuple[int, bytes]], cuts: list[int]) -> None:
    data = b"".join(frame(kind, body) for kind, body in sent)
    reader, seen, at = FrameReader(), [], 0
    while at < len(data):
        for cut in cuts:
            seen += reader.feed(data[at : at + cut])
            at += cut
    assert seen == sent
    assert not reader.inside


@given(st.binary(min_size=5, max_size=400), st.integers(1, 400))
def test_garbage_is_refused_or_waits_for_its_end(data: bytes, cut: int) -> None:
    reader = FrameReader()
    try:
        for start in range(0, len(data), cut):
            for kind, body in reader.feed(data[start : start + cut]):
                assert kind in b"NIRXPF"
                assert body is None or len(body) <= BODY_LIMIT
    except NotAFrame:
        return


def test_a_body_that_is_too_long_is_thrown_away_and_what_is_behind_it_is_not() -> None:
    reader = FrameReader()
    data = frame(frames.RESULT, bytes(BODY_LIMIT + 1)) + frame(frames.RESULT, b"{}")
    seen = [one for at in range(0, len(data), 65_536) for one in reader.feed(data[at : at + 65_536])]
    assert seen == [(frames.RESULT, None), (frames.RESULT, b"{}")]


@pytest.mark.parametrize(
    "header",
    [
        HEADER.pack(0, ord("Q")),
        HEADER.pack(1, frames.NEXT),
        HEADER.pack(PIECE_LIMIT + 1, frames.PIECE),
        HEADER.pack(frames.DISCARD_LIMIT + 1, frames.RESULT),
        b"hello",
    ],
)
def test_a_header_that_no_runtime_writes_is_refused_before_its_body(header: bytes) -> None:
    with pytest.raises(NotAFrame):
        FrameReader().feed(header)


# The pipe


class Rig:
    """A Pipe, and the other end of its socket."""

    def __init__(self) -> None:
        self.broken = 0
        self.pipe = Pipe("echo", self.on_broken)
        ours, self.worker = socket.socketpair()
        self.worker.setblocking(False)
        self.pipe.connect(ours)

    def on_broken(self) -> None:
        self.broken += 1

    async def ready(self) -> Rig:
        self.worker.send(frame(frames.NEXT))
        await self.pipe.initialised
        return self

    def submit(self, payload: bytes = b"{}", **options: Any) -> Invocation:
        invocation = Invocation("id-1", payload, 17, "arn:x", "Root=1", **options)
        self.pipe.submit(invocation)
        return invocation

    async def outcome(self, invocation: Invocation) -> bytes | str:
        try:
            return await asyncio.wait_for(invocation.answer, 20)
        except FunctionFailure as failure:
            return f"{type(failure).__name__}: {failure.detail}"


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    made = Rig()
    yield made
    await made.pipe.close()
    made.worker.close()


async def test_an_event_is_one_frame_and_its_answer_another(rig: Rig) -> None:
    await rig.ready()
    invocation = rig.submit(b'{"a": 1}')
    got = rig.worker.recv(1000)
    assert HEADER.unpack_from(got) == (len(got) - HEADER.size, frames.EVENT)
    assert got.endswith(b'id-1\narn:x\nRoot=1{"a": 1}')
    assert int.from_bytes(got[5:13], "little") == 17
    rig.worker.send(frame(frames.RESULT, b"[1]"))
    assert await rig.outcome(invocation) == b"[1]"
    again = rig.submit()
    rig.worker.send(frame(frames.ERROR, b'{"errorType": "KeyError", "errorMessage": "x"}'))
    assert await rig.outcome(again) == "FunctionError: the handler raised KeyError: x"


async def test_a_large_event_is_written_as_the_worker_reads(rig: Rig) -> None:
    await rig.ready()
    invocation = rig.submit(bytes(3_000_000))
    loop, size = asyncio.get_running_loop(), 0
    while size < 3_000_000:
        size += len(await loop.sock_recv(rig.worker, 1 << 20))
    rig.worker.send(frame(frames.RESULT, b"1"))
    assert await rig.outcome(invocation) == b"1"


async def test_an_answer_that_is_too_long_ends_its_invocation_alone(rig: Rig) -> None:
    await rig.ready()
    invocation = rig.submit()
    data = frame(frames.RESULT, bytes(BODY_LIMIT + 1))
    await asyncio.get_running_loop().sock_sendall(rig.worker, data)
    assert "larger than Lambda's limit" in str(await rig.outcome(invocation))
    again = rig.submit()
    rig.worker.send(frame(frames.RESULT, b"2"))
    assert await rig.outcome(again) == b"2"
    assert not rig.broken


async def test_pieces_are_consumed_as_they_come_or_put_together(rig: Rig) -> None:
    await rig.ready()
    pieces: list[bytes] = []

    async def consume(piece: bytes) -> None:
        pieces.append(piece)

    streamed = rig.submit(consume=consume)
    rig.worker.send(frame(frames.PIECE, b"a"))
    await until(lambda: pieces == [b"a"])
    rig.worker.send(frame(frames.END))
    assert await rig.outcome(streamed) == b""
    whole = rig.submit()
    rig.worker.send(frame(frames.PIECE, b"a") + frame(frames.PIECE, b"b") + frame(frames.END))
    assert await rig.outcome(whole) == b"ab"
    failed = rig.submit()
    rig.worker.send(frame(frames.PIECE, b"a") + frame(frames.END, b'{"errorType": "E"}'))
    assert await rig.outcome(failed) == "FunctionError: E"


async def test_a_response_that_is_cut_is_blamed_on_the_handler_unless_the_worker_died(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sluicegate.functions.pipe.CUT_SECONDS", 0.01)
    await rig.ready()
    invocation = rig.submit()
    rig.worker.send(frame(frames.PIECE, b"a"))
    rig.worker.close()
    with pytest.raises(FunctionError, match="ended in the middle"):
        await asyncio.wait_for(invocation.answer, 20)


@pytest.mark.parametrize(
    "data",
    [
        b"print to 3",
        frame(frames.NEXT),
        frame(frames.INIT_ERROR, b"{}"),
        frame(frames.END),
        frame(frames.PIECE) + frame(frames.RESULT),
        frame(frames.PIECE) + frame(frames.ERROR),
    ],
)
async def test_what_is_no_answer_fails_the_invocation_as_a_crash(rig: Rig, data: bytes) -> None:
    await rig.ready()
    invocation = rig.submit()
    rig.worker.send(data)
    with pytest.raises(FunctionCrashed, match="has written to descriptor 3, which is the gateway's"):
        await asyncio.wait_for(invocation.answer, 20)
    late = rig.submit()  # a pool does not do so
    assert not late.taken


@pytest.mark.parametrize("data", [frame(frames.RESULT, b"1"), frame(frames.NEXT), b"garbage"])
async def test_what_comes_unasked_ends_the_worker(rig: Rig, data: bytes) -> None:
    await rig.ready()
    rig.worker.send(data)
    await until(lambda: rig.broken == 1)


async def test_garbage_at_the_start_and_a_report_of_it(rig: Rig) -> None:
    rig.worker.send(b"hello, world")
    with pytest.raises(FunctionInitFailed, match="descriptor 3"):
        await asyncio.wait_for(rig.pipe.initialised, 20)
    other = Rig()
    report = b'{"errorType": "E", "errorMessage": "m", "stackTrace": ["  File \\"/a/b.py\\", line 3"]}'
    other.worker.send(frame(frames.INIT_ERROR, report))
    with pytest.raises(FunctionInitFailed, match=r"E: m \(b.py, line 3\)"):
        await asyncio.wait_for(other.pipe.initialised, 20)
    await other.pipe.close()
    other.worker.close()


async def test_an_invocation_that_nobody_waits_for_is_over_and_tells_nothing() -> None:
    told: list[Invocation] = []
    invocation = Invocation("id-1", b"{}", 17, "arn:x", "Root=1")
    invocation.on_end = told.append
    waiting = asyncio.ensure_future(asyncio.wait((invocation.answer,)))
    await asyncio.sleep(0)
    invocation.close()
    await asyncio.wait_for(waiting, 20)
    invocation.succeed(b"1")
    assert invocation.over
    assert invocation.answer.cancelled()
    assert not told
