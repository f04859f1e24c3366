"""Functions follow their files: what answers is what was saved last, and a mistake is told with its line."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from harness import PROGRAM, Client, Process

from conftest import StartGateway
from sluicegate.backoff import Backoff
from sluicegate.destinations import DeliveryError
from sluicegate.destinations.function import FunctionDestination
from sluicegate.events import EventLog, MemorySink
from sluicegate.functions import pool
from sluicegate.functions.reload import Code, watch
from sluicegate.testing import destination_context, packet_batch


def answering(value: object) -> str:
    return f"def handler(event, context):\n    return {value!r}\n"


class Running:
    """A function Destination whose files are watched."""

    def __init__(self, destination: FunctionDestination, sink: MemorySink) -> None:
        self._destination = destination
        self._sink = sink

    async def answer(self) -> object:
        body = await self._destination.deliver(packet_batch("x"))
        return json.loads(body or b"null")

    async def event(self, name: str, count: int = 1) -> dict[str, object]:
        """The `count`-th event of this name, once it is there."""
        async with asyncio.timeout(60):
            while len(found := self._sink.named(name)) < count:  # noqa: ASYNC110 a sink announces nothing
                await asyncio.sleep(0.01)
        return found[count - 1]


@asynccontextmanager
async def running(directory: Path) -> AsyncIterator[Running]:
    sink = MemorySink()
    context = destination_context(directory, events=EventLog(sink))
    destination = FunctionDestination.from_spec("echo", "main.py:handler", {}, context)
    await destination.provision()
    watching = asyncio.create_task(watch([destination, object()], seconds=0.02))
    yield Running(destination, sink)
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching
    await destination.close()


async def test_the_next_batch_after_a_save_meets_the_new_code(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(answering(1))
    async with running(tmp_path) as function:
        assert await function.answer() == 1
        (tmp_path / "main.py").write_text(answering(2))
        event = await function.event("FunctionReloaded")
        assert await function.answer() == 2
    assert (event["Listener"], event["Destination"], event["Detail"]) == (
        "decoder",
        "echo",
        "changed: main.py",
    )


async def test_a_module_beside_the_handler_counts_too(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text("import beside\ndef handler(event, context): return beside.VALUE\n")
    (tmp_path / "beside.py").write_text("VALUE = 1")
    async with running(tmp_path) as function:
        assert await function.answer() == 1
        (tmp_path / "beside.py").write_text("VALUE = 2")
        assert (await function.event("FunctionReloaded"))["Detail"] == "changed: beside.py"
        assert await function.answer() == 2


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ("def handler(event, context):\n    return (\n", "(main.py, line 2)"),
        (
            "import os\n\nvalue = undefined\ndef handler(event, context): ...\n",
            "undefined' is not defined (main.py, line 3)",
        ),
        ("import beside\n", "division by zero (beside.py, line 1)"),
    ],
)
async def test_a_mistake_is_told_with_its_line_and_mended_by_the_next_save(
    broken: str, words: str, tmp_path: Path
) -> None:
    (tmp_path / "main.py").write_text(answering(1))
    (tmp_path / "beside.py").write_text("1 / 0")
    async with running(tmp_path) as function:
        (tmp_path / "main.py").write_text(broken)
        event = await function.event("FunctionInitFailed")
        assert words in str(event["Detail"])
        with pytest.raises(DeliveryError, match="FunctionInitFailed"):
            await function.answer()  # never the old code
        (tmp_path / "main.py").write_text(answering(2))
        await function.event("FunctionReloaded")
        assert await function.answer() == 2


async def test_a_save_ends_the_pause_of_a_crash_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "PAUSES", Backoff(3600.0, 3600.0))
    (tmp_path / "main.py").write_text("raise SystemExit(1)\ndef handler(event, context): ...\n")
    async with running(tmp_path) as function:
        await function.event("FunctionInitFailed")
        with pytest.raises(DeliveryError):
            await function.answer()
        waiting = [asyncio.create_task(function.answer()) for _ in range(3)]
        (tmp_path / "main.py").write_text(answering(2))
        async with asyncio.timeout(60):  # not an hour
            assert await asyncio.gather(*waiting) == [2, 2, 2]


class Directory:
    """Files whose times are set, not waited for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._time = 1

    def save(self, name: str, text: str = "x") -> None:
        file = self.path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        self._time += 1
        os.utime(file, (self._time, self._time))


def test_what_counts_as_a_change(tmp_path: Path) -> None:
    files = Directory(tmp_path)
    files.save("main.py")
    files.save("plain/inside.py")
    files.save("package/__init__.py")
    code = Code(tmp_path / "main.py")

    def told(*actions: Callable[[], None]) -> list[str]:
        for action in actions:
            action()
            assert code.look() == []  # not before it has come to rest
        found = code.look()
        assert code.look() == []
        return found

    assert told() == []
    assert told(lambda: files.save("main.py"), lambda: files.save("main.py")) == ["main.py"]
    assert told(lambda: files.save("new.py"), lambda: files.save("main.py")) == ["main.py", "new.py"]
    assert told(lambda: files.save("package/deep.py")) == ["package/deep.py"]
    assert told((tmp_path / "new.py").unlink) == ["new.py"]
    assert told(lambda: files.save("notes.txt"), lambda: files.save("plain/inside.py")) == []
    assert told((tmp_path / "main.py").unlink, lambda: files.save("main.py")) == ["main.py"]


def test_an_executable_is_code_too(tmp_path: Path) -> None:
    files = Directory(tmp_path)
    files.save("bootstrap")
    code = Code(tmp_path / "bootstrap")
    files.save("bootstrap", "longer")
    assert (code.look(), code.look()) == ([], ["bootstrap"])


CONFIG = """
listeners:
  - name: decoder
    bind: 127.0.0.1
    destinations: [{ name: echo, destination_arn: "function:echo.py:handler", batching: { count: 1 } }]
"""


def reply(data: str) -> str:
    return (
        "def handler(event, context):\n"
        f"    return {{'Replies': [{{'Tag': m['Tag'], 'Data': '{data}'}} for m in event['Messages']]}}\n"
    )


def test_dev_follows_the_file(gateway: StartGateway) -> None:
    made = gateway(CONFIG, {"echo": reply("AQ==")}, start=False)
    process = Process([PROGRAM, "dev", made.file], made.directory)
    try:
        ready = process.stdout.wait(lambda lines: _ready(lines), "the gateway is ready")
        address = ("127.0.0.1", int(ready.rpartition(":")[2]))
        with Client() as client:
            client.send(b"x", address)
            assert client.receive()[0] == b"\x01"
            (made.directory / "echo.py").write_text(reply("Ag=="))
            process.stdout.wait(
                lambda lines: any("FunctionReloaded" in line for line in lines), "it is loaded"
            )
            client.send(b"x", address)
            assert client.receive()[0] == b"\x02"
    finally:
        process.close()


def _ready(lines: list[str]) -> str:
    return next((line for line in lines if "Listener decoder: UDP" in line), "")
