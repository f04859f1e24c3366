"""`function:` as a Destination: real workers behind a Delivery, from the batch to the answer."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sluicegate.destinations import DeliveryError, DestinationContext
from sluicegate.destinations.base import PacketBatch
from sluicegate.destinations.delivery import Delivery
from sluicegate.destinations.function import FunctionDestination
from sluicegate.events import EventLog, MemorySink
from sluicegate.testing import destination_context, packet_batch


class Reader:
    def __init__(self, batches: list[PacketBatch]) -> None:
        self._batches = batches
        self._fd = os.eventfd(1)

    def on_ready(self, callback: Callable[[], object] | None, /) -> None:
        loop = asyncio.get_running_loop()
        if callback is None:
            loop.remove_reader(self._fd)
        else:
            loop.add_reader(self._fd, callback)

    def read(self, limit: int) -> list[PacketBatch]:
        taken, self._batches = self._batches[:limit], self._batches[limit:]
        return taken

    @property
    def closed(self) -> bool:
        return not self._batches


@pytest.fixture
def sink() -> MemorySink:
    return MemorySink()


@pytest.fixture
def context(tmp_path: Path, sink: MemorySink) -> DestinationContext:
    return destination_context(tmp_path, events=EventLog(sink))


async def run(
    context: DestinationContext, *batches: PacketBatch, arguments: dict[str, Any] | None = None
) -> tuple[Delivery, list[Any]]:
    """Deliver the batches to `main.py:handler`; the Delivery and the answers that it handed on."""
    destination = FunctionDestination.from_spec("echo", "main.py:handler", arguments or {}, context)
    await destination.provision()
    answers: list[Any] = []

    async def reply(request_id: str, body: bytes) -> None:
        answers.append(json.loads(body))

    reader = Reader(list(batches))
    delivery = Delivery(destination, reader, listener="decoder", events=context.events, reply=reply)
    delivery.start()
    await delivery.drain(60.0)
    await destination.close()
    return delivery, answers


ODDITIES = {
    "null": "None",
    "no Replies": "{}",
    "null Replies": "{'Replies': None}",
    "empty Replies": "{'Replies': []}",
    "null element": "{'Replies': [None]}",
    "no Tag": "{'Replies': [{}, {'Data': 'eA=='}]}",
    "null Data": "{'Replies': [{'Tag': 't0', 'Data': None}]}",
}


@pytest.mark.parametrize("result", ODDITIES.values(), ids=ODDITIES.keys())
async def test_tolerated_oddities_are_no_failures(
    result: str, context: DestinationContext, sink: MemorySink, tmp_path: Path
) -> None:
    (tmp_path / "main.py").write_text(f"def handler(event, context):\n    return {result}\n")
    delivery, answers = await run(context, packet_batch("eA=="))
    # Objects go to the native side as they are: it is the one that opens Tags.
    expected = eval(result)
    assert answers == ([] if expected is None else [expected])
    assert delivery.stats.packets_delivered == 1
    assert delivery.stats.replies_failed == 0
    assert sink.events == []


@pytest.mark.parametrize("result", ["[]", "'text'", "''", "5", "True", "b'\\xff\\x00'"])
async def test_a_result_of_another_shape_is_a_failed_reply_of_a_delivered_batch(
    result: str, context: DestinationContext, sink: MemorySink, tmp_path: Path
) -> None:
    (tmp_path / "main.py").write_text(
        "def handler(event, context):\n"
        f"    if event['Messages'][0]['Data'] == 'bad': return {result}\n"
        "    return {'Replies': [{'Tag': 't0'}]}\n"
    )
    delivery, answers = await run(context, packet_batch("good"), packet_batch("bad"), packet_batch("good"))
    assert answers == [{"Replies": [{"Tag": "t0"}]}] * 2
    assert delivery.stats.packets_delivered == 3
    [event] = sink.events
    assert (event["Event"], event["Reason"]) == ("ReplyFailed", "MalformedReply")


async def test_failures_harm_their_own_batch(
    context: DestinationContext, sink: MemorySink, tmp_path: Path
) -> None:
    (tmp_path / "main.py").write_text(
        "def handler(event, context):\n    exec(event['Messages'][0]['Data'])\n"
    )
    bad = ["import os; os._exit(1)", "raise ValueError('x')", "import time; time.sleep(600)"]
    batches = [packet_batch(code, "x", "y") for code in ["pass", *bad, "pass", "pass"]]
    delivery, _ = await run(context, *batches, arguments={"TimeoutInSeconds": "0.5", "Concurrency": "1"})
    stats = delivery.stats
    assert stats.packets_delivered == 9
    assert stats.failed_by_reason == {"FunctionCrashed": 3, "FunctionError": 3, "FunctionTimeout": 3}
    assert len(sink.events) == 3


async def test_a_function_that_cannot_start_is_told_at_start(
    context: DestinationContext, sink: MemorySink, tmp_path: Path
) -> None:
    (tmp_path / "main.py").write_text("import absent_package\ndef handler(event, context): ...\n")
    destination = FunctionDestination.from_spec("echo", "main.py:handler", {}, context)
    await destination.provision()
    [event] = sink.events
    assert (event["Event"], event["Destination"]) == ("FunctionInitFailed", "echo")
    assert "absent_package" in str(event["Detail"])
    with pytest.raises(DeliveryError, match="absent_package"):
        await destination.deliver(packet_batch("x"))
    await destination.close()


WRONG = {
    "small": ("{'replies': [{'Tag': 't0', 'Data': 'eA=='}]}", '"replies" where "Replies"'),
    "one": ("{'Reply': {'Tag': 't0', 'Data': 'eA=='}}", '"Reply" where "Replies"'),
    "large": ("{'REPLIES': []}", '"REPLIES" where "Replies"'),
    "proxy": ("{'statusCode': 200, 'body': 'ok'}", "HTTP"),
    "other": ("{'ok': True, 'a\\x1b[2J': 1}", 'only "ok", "a\ufffd[2J"'),
    "tag": ("{'Replies': [{'tag': 't0', 'Data': 'eA=='}]}", '"tag" where "Tag"'),
    "data": ("{'Replies': [None, {'Tag': 't0', 'data': 'eA=='}]}", '"data" where "Data"'),
    "misspelt": ("{'Repiles': [{'Tag': 't0', 'Data': 'eA=='}]}", '"Repiles" where "Replies"'),
    "result": ("{'result': 1}", 'only "result"'),
    "misspelt inside": ("{'Replies': [{'Tag': 't0', 'Dta': 'eA=='}]}", '"Dta" where "Data"'),
    "no data": ("{'Replies': [{'Tag': 't0', 'Value': 1}]}", 'no "Data", only "Tag", "Value"'),
    "payload": ("{'Replies': [{'Tag': 't0', 'payload': 'eA=='}]}", '"payload" where "Data"'),
}


@pytest.mark.parametrize(("result", "says"), WRONG.values(), ids=WRONG.keys())
async def test_keys_that_mean_others_are_told_once(
    result: str, says: str, context: DestinationContext, sink: MemorySink, tmp_path: Path
) -> None:
    (tmp_path / "main.py").write_text(f"def handler(event, context):\n    return {result}\n")
    delivery, _ = await run(context, packet_batch("eA=="), packet_batch("eA=="), packet_batch("eA=="))
    assert delivery.stats.packets_delivered == 3
    [event] = sink.events
    assert (event["Event"], event["Reason"], event["Destination"]) == (
        "ReplyFailed",
        "MalformedReply",
        "echo",
    )
    assert says in str(event["Detail"])
    assert "return {" in str(event["Detail"])


FINE = {
    "nothing": "None",
    "no keys": "{}",
    "no replies": "{'Replies': None, 'Count': 3}",
    "null": "{'Replies': [{'Tag': 't0', 'Data': None, 'Note': 1}]}",
    "tag alone": "{'Replies': [{'Tag': 't0'}, {}, None]}",
    "no data": "{'Replies': [{'Tag': 't0', 'GeneratedAt': '2026-01-01T00:00:00Z'}]}",
    "more": "{'Replies': [{'Tag': 't0', 'Data': 'eA==', 'Note': 1}], 'Count': 3}",
}


@pytest.mark.parametrize("result", FINE.values(), ids=FINE.keys())
async def test_an_answer_in_the_right_words_is_not_told(
    result: str, context: DestinationContext, sink: MemorySink, tmp_path: Path
) -> None:
    (tmp_path / "main.py").write_text(f"def handler(event, context):\n    return {result}\n")
    delivery, _ = await run(context, packet_batch("eA=="))
    assert delivery.stats.packets_delivered == 1
    assert sink.events == []


OTHERWISE = {"list": "[{'Tag': 't0', 'Data': 'eA=='}]", "text": "'eA=='", "number": "3", "true": "True"}


@pytest.mark.parametrize("result", OTHERWISE.values(), ids=OTHERWISE.keys())
async def test_an_answer_that_is_no_object_is_told(
    result: str, context: DestinationContext, sink: MemorySink, tmp_path: Path
) -> None:
    (tmp_path / "main.py").write_text(f"def handler(event, context):\n    return {result}\n")
    await run(context, packet_batch("eA=="))
    [event] = sink.events
    assert (event["Event"], event["Reason"]) == ("ReplyFailed", "MalformedReply")
    assert '{"Replies": [...]}' in str(event["Detail"])


async def test_keys_are_told_again_after_a_reload(
    context: DestinationContext, sink: MemorySink, tmp_path: Path
) -> None:
    (tmp_path / "main.py").write_text("def handler(event, context):\n    return {'replies': []}\n")
    destination = FunctionDestination.from_spec("echo", "main.py:handler", {}, context)
    await destination.provision()
    for _ in range(2):
        await destination.deliver(packet_batch("x"))
    assert [event["Event"] for event in sink.events] == ["ReplyFailed"]
    destination.reload("main.py")
    for _ in range(2):
        await destination.deliver(packet_batch("x"))
    assert [event["Event"] for event in sink.events].count("ReplyFailed") == 2
    await destination.close()
