"""Handlers that are generators, async generators or async: each reply leaves when it is yielded."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from harness import Client
from test_function_destination import Reader

from conftest import StartGateway
from sluicegate.destinations.delivery import Delivery
from sluicegate.destinations.function import FunctionDestination
from sluicegate.events import EventLog, MemorySink
from sluicegate.testing import destination_context, packet_batch

HANDLERS = """
import asyncio, os, signal, time

def reply(event, data):
    return {"Tag": event["Messages"][0]["Tag"], "Data": data}

def generator(event, context):
    yield reply(event, "one")
    yield {"Replies": [reply(event, "two"), None]}
    yield None
    yield b'{"Tag": "t0", "Data":'
    yield ' "é"}'.encode()[:-3]
    yield ' "é"}'.encode()[-3:]

def returns(event, context):
    yield reply(event, "one")
    return {"Replies": [reply(event, "two")]}

def only_returns(event, context):
    if event:
        return {"Replies": [reply(event, "one")]}
    yield

async def agenerator(event, context):
    async with asyncio.timeout(10):
        for data in ("one", "two"):
            await asyncio.sleep(0)
            yield reply(event, data)

async def coroutine(event, context):
    await asyncio.sleep(0)
    return {"Replies": [reply(event, "one")]}

class Callable:
    def __call__(self, event, context):
        return map(lambda data: reply(event, data), ("one", "two"))

iterator = Callable()

loops = set()
async def same_loop(event, context):
    loops.add(id(asyncio.get_running_loop()))
    return {"Replies": [reply(event, str(len(loops)))]}

def nothing(event, context):
    return
    yield

def fails(event, context):
    yield reply(event, "one")
    raise ValueError("no such dévice\\n" + "x" * 100_000)

async def afails(event, context):
    yield reply(event, "one")
    yield {1, 2}

def fails_first(event, context):
    raise KeyError("first")
    yield

def late(event, context):
    yield reply(event, "one")
    time.sleep(60)

def dies(event, context):
    yield reply(event, "one")
    os.kill(os.getpid(), signal.SIGKILL)

def odd(event, context):
    yield "text"
    yield [reply(event, "in a list")]
    yield 5
    yield b'{"Tag": }'
    yield b"{"
"""


class Run:
    """What came of batches for one handler."""

    def __init__(self, sink: MemorySink) -> None:
        self.answers: list[Any] = []
        self.sink = sink
        self.delivery: Delivery

    @property
    def data(self) -> list[str]:
        return [one["Data"] for answer in self.answers for one in answer["Replies"] if one]

    @property
    def failures(self) -> list[tuple[str, str]]:
        return [(one["Reason"], one["Detail"]) for one in self.sink.events]


async def run(folder: Path, handler: str, batches: int = 1, **arguments: Any) -> Run:
    (folder / "main.py").write_text(HANDLERS)
    made = Run(MemorySink())
    context = destination_context(folder, events=EventLog(made.sink))
    arguments = {"Concurrency": 1, **arguments}
    destination = FunctionDestination.from_spec("echo", f"main.py:{handler}", arguments, context)
    await destination.provision()

    async def reply(request_id: str, body: bytes) -> None:
        made.answers.append(json.loads(body))

    reader = Reader([packet_batch("x") for _ in range(batches)])
    made.delivery = Delivery(destination, reader, listener="decoder", events=context.events, reply=reply)
    made.delivery.start()
    await made.delivery.drain(60.0)
    await destination.close()
    return made


@pytest.mark.parametrize(
    ("handler", "expected"),
    [
        ("generator", ["one", "two", "é"]),
        ("returns", ["one", "two"]),
        ("only_returns", ["one"]),
        ("agenerator", ["one", "two"]),
        ("coroutine", ["one"]),
        ("iterator", ["one", "two"]),
        ("same_loop", ["1"]),
        ("nothing", []),
    ],
)
async def test_each_kind_of_handler_answers(handler: str, expected: list[str], tmp_path: Path) -> None:
    made = await run(tmp_path, handler, 2)
    assert made.data == expected * 2
    assert made.sink.events == []
    assert (made.delivery.stats.batches_delivered, made.delivery.stats.batches_failed) == (2, 0)


@pytest.mark.parametrize(
    ("handler", "reason", "detail", "answered"),
    [
        ("fails", "FunctionError", "the handler raised ValueError: no such dévice\nxxx", True),
        ("afails", "FunctionError", "Unable to marshal response", True),
        ("fails_first", "FunctionError", "the handler raised KeyError: 'first'", False),
        (
            "late",
            "FunctionTimeout",
            "no answer within 0.5 s; the worker was killed (after 1 streamed ans",
            True,
        ),
        (
            "dies",
            "FunctionCrashed",
            "killed by SIGKILL while it handled the batch (after 1 streamed answ",
            True,
        ),
    ],
)
async def test_a_failure_in_the_middle_leaves_sent_what_was_sent(
    handler: str, reason: str, detail: str, answered: bool, tmp_path: Path
) -> None:
    made = await run(tmp_path, handler, 2, TimeoutInSeconds=0.5)
    assert made.data == ["one"] * 2 * answered
    assert [one[0] for one in made.failures] == [reason] * 2
    assert all(detail in one[1] for one in made.failures)
    assert (made.delivery.stats.batches_failed, made.delivery.stats.packets_failed) == (2, 2)


async def test_what_is_no_reply_is_told_with_its_place_a_few_times(tmp_path: Path) -> None:
    made = await run(tmp_path, "odd")
    assert made.data == []
    assert [one[0] for one in made.failures] == ["MalformedReply"] * 4
    assert [one[1].partition(": ")[0] for one in made.failures[:3]] == [
        f"byte {place} of the streamed answer" for place in (0, 7, 44)
    ]
    assert made.failures[3][1] == "2 more places of the streamed answer are no replies"
    assert made.delivery.stats.batches_delivered == 1


# A real gateway

STREAM = '''
import os, time

def handler(event, context):
    """Goes on after each reply when the client has it, and has said so."""
    for packet in event["Messages"]:
        name = packet["Data"]
        for number in range(1, 6):
            yield {"Tag": packet["Tag"], "Data": f"{name} {number}"}
            while not os.path.exists(f"{name} {number}"):
                if os.path.exists(f"die {name}"):
                    os._exit(3)
                time.sleep(0.002)
'''
CONFIGURATION = """
listeners:
  - name: slow
    bind: 127.0.0.1
    destinations:
      - name: stream
        formatter: utf8
        destination_arn: function:stream.py:handler
        batching: { count: 1, timeout_in_seconds: 0.01 }
        arguments: { TimeoutInSeconds: 900, Concurrency: 3 }
  - name: other
    bind: 127.0.0.1
    destinations:
      - { name: echo, destination_arn: "function:echo.py:handler", batching: { timeout_in_seconds: 0 } }
"""


ECHO = 'def handler(event, context):\n    return {"Replies": event["Messages"]}\n'


def received(client: Client, folder: Path, name: str, *numbers: int) -> None:
    """Each reply is there before its handler may go on to the next one."""
    for number in numbers:
        assert client.receive_data(1) == [f"{name} {number}".encode()]
        assert client.waiting() == []
        (folder / f"{name} {number}").touch()


def test_each_reply_is_with_the_client_before_the_handler_goes_on(gateway: StartGateway) -> None:
    running = gateway(CONFIGURATION, {"stream": STREAM, "echo": ECHO})
    folder = running.directory
    with Client() as first, Client() as second, Client() as third:
        first.send(b"first", running.address("slow"))
        received(first, folder, "first", 1, 2)
        second.send(b"second", running.address("slow"))
        received(second, folder, "second", 1)
        assert second.receive_data(1) == [b"second 2"]
        (folder / "die second").touch()  # killed in the middle: nothing else notices
        failed = running.event("DeliveryFailed")
        assert (failed["Destination"], failed["Reason"], failed["Packets"]) == (
            "stream",
            "FunctionCrashed",
            1,
        )
        assert (
            "exited with status 3 while it handled the batch (after 2 streamed answers)" in failed["Detail"]
        )
        third.send(b"quick", running.address("other"))
        assert third.receive_data(1) == [b"quick"]
        received(first, folder, "first", 3, 4, 5)
        third.send(b"third", running.address("slow"))
        received(third, folder, "third", 1)
        # A stop goes on for a while with what has begun: its replies leave still.
        running.process.signal(signal.SIGTERM)
        received(third, folder, "third", 2, 3, 4, 5)
        assert running.process.wait() == 0
        assert second.waiting() == []
    assert len(running.named("DeliveryFailed")) == 1
    assert running.named("ReplyFailed") == []


EXAMPLE = Path(__file__).parents[2] / "examples/stream"


def test_the_example_answers_at_once_and_goes_on(gateway: StartGateway) -> None:
    text = (EXAMPLE / "sluicegate.yaml").read_text().partition("\nlisteners:")[2]
    running = gateway(f"listeners:{text.replace(':2048', '')}", start=False)
    shutil.copytree(EXAMPLE / "handlers", running.directory / "handlers")
    running.start()
    with Client() as client:
        client.send(b"hello", running.address("measure"))
        assert client.receive_data(2) == [b"accepted", b"5 bytes"]
