"""A web hook that is slow, then fails, then is gone, then comes back, while packets arrive at the full rate.

`make outage` lets each of these last for a minute; by default it is a moment.
"""

import os
import re
import time
from pathlib import Path

import pytest
from flood import Segmenter, check_accounts
from harness import Gateway, until
from web_server import OK, Request, Response, WebHook

from conftest import StartGateway

SECONDS = float(os.environ.get("OUTAGE_SECONDS", "0.4"))
"""Of each phase."""
MEMORY = (3 * 64 + 2 * 4 * 4 * 6) << 20
"""Bytes that a gateway may hold more than before: three queues of 64 MiB; and of two hooks four batches of 4 MB each
under way, six copies of each: the native one, its JSON, what the socket has not taken."""

CONFIGURATION = """
listeners:
  - name: decoder
    bind: 127.0.0.1
    destinations:
      - name: shaky
        destination_arn: {shaky}
        batching: {{ count: 1000, size_in_mb: 4 }}
        arguments: {{ TimeoutInSeconds: 2 }}
      - name: denied
        destination_arn: {denied}
        batching: {{ count: 1000, size_in_mb: 4 }}
      - name: file
        destination_arn: "file:/dev/null"
        batching: {{ count: 1000, size_in_mb: 4 }}
"""


def resident(one: Gateway, which: str = "VmHWM") -> int:
    """Bytes: the most there were so far, or those of now (`VmRSS`)."""
    found = re.search(rf"{which}:\s+(\d+) kB", Path(f"/proc/{one.process.pid}/status").read_text())
    assert found is not None
    return int(found[1]) << 10


def flood(one: Gateway, sender: Segmenter, memory: list[int]) -> int:
    """Send for as long as a phase lasts, as fast as the healthy Destination takes it; how many packets that were.

    `memory` gets the most bytes in each tenth of it.
    """
    before, start = sender.sent, time.monotonic()
    tenths = [0] * 10
    while (passed := time.monotonic() - start) < SECONDS:
        tenth = int(passed / SECONDS * 10)
        tenths[tenth] = max(tenths[tenth], resident(one, "VmRSS"))
        sender.send(4_000)

        def arrived() -> bool:
            metrics = one.metrics()
            lost = metrics.value("kernel_dropped_packets")
            taken = metrics.value("delivery_packets", destination="file")
            return taken + lost + 8_000 >= sender.sent

        until(arrived, "the healthy Destination has got what was sent")
    memory += [one for one in tenths if one]
    return sender.sent - before


def deny(request: Request) -> Response:
    request.body = b""
    return 403, {}, b""


@pytest.mark.timeout(120 + 10 * SECONDS)
def test_an_outage_of_one_destination_and_the_denial_of_another(gateway: StartGateway) -> None:
    shaky, denied = WebHook().start(), WebHook(deny).start()
    mood: list[Response | float] = [0.0]

    def respond(request: Request) -> Response:
        now = mood[-1]
        tags.update(map(hash, re.findall(rb'"Tag":"([^"]+)"', request.body)))
        request.body = b""  # there are many
        if isinstance(now, float):
            shaky.stopped.wait(now)
            return OK
        return now

    tags: set[int] = set()
    memory: list[int] = []
    shaky.respond = respond
    one = gateway(CONFIGURATION.format(shaky=shaky.url, denied=denied.url))
    try:
        before = resident(one)
        with Segmenter(one.address()) as sender:
            sent = {"well": flood(one, sender, memory)}
            mood.append(0.1)
            sent["slow"] = flood(one, sender, memory)
            mood.append((500, {}, b""))
            sent["failing"] = flood(one, sender, memory)
            shaky.stop()
            sent["gone"] = flood(one, sender, memory)
            mood.append(OK)
            shaky.start()
            taken = len(shaky.taken)
            sent["back"] = flood(one, sender, memory)
            until(lambda: len(shaky.taken) > taken + 1, "the hook gets packets again")
        metrics, peak = one.metrics(), resident(one)
        dropped = check_accounts(one, ["shaky", "denied", "file"])
    finally:
        shaky.stop()
        denied.stop()
    deliveries = one.event("ListenerStopped")["Deliveries"]
    print(f"packets in each phase: {sent}; dropped: {dropped}; {deliveries}")
    print(f"{(peak - before) >> 20} MiB more; over time: {[(each - before) >> 20 for each in memory]}")
    assert min(sent.values()) > sent["well"] / 20
    assert dropped["file"] == 0
    assert deliveries["file"]["PacketsFailed"] == 0
    assert peak - before < MEMORY, f"{(peak - before) >> 20} MiB more"
    if SECONDS >= 10:  # what was full stays full; it does not grow
        assert max(memory[-10:]) <= max(memory[:-10]) + (16 << 20)
    # What counts as delivered has arrived; what was tried in vain may have arrived too.
    assert 0 < deliveries["shaky"]["PacketsDelivered"] <= len(tags)
    assert metrics.value("delivery_retries", destination="shaky") > 0
    # Each request was denied, and none was repeated.
    assert metrics.value("delivery_retries", destination="denied") == 0
    assert deliveries["denied"]["PacketsDelivered"] == 0
    assert one.named("DeliveryFailed", Destination="denied", Reason="AccessDenied")
