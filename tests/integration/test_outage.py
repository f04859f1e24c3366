"""A service that is slow, then fails, then is gone, then comes back, while packets arrive at the full rate.

Next to it one Destination is denied, and others are well. `make outage` lets each phase last for a minute; by default
it is a moment.
"""

import base64
import json
import os
import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from flood import Segmenter, check_accounts
from harness import Gateway, until
from web_server import OK, Request, Response, WebHook

from conftest import StartGateway

SECONDS = float(os.environ.get("OUTAGE_SECONDS", "0.3"))
"""Of each phase."""
PLACE = "us-east-1:123456789012"


class Kind(NamedTuple):
    """Destinations of one kind, and how their services speak."""

    shaky: str
    denied: str
    others: dict[str, str]
    """Those that are well, besides `file`."""
    parallel: int
    """Batches of a Destination at the same time."""
    arguments: str
    taken: Callable[[bytes], list[bytes]]
    """The packets of a request to the shaky one, in JSON."""
    ok: Callable[[int], Response]
    """Its answer to a request with so many packets."""
    refusal: Response
    """The answer of the one that is denied."""

    @property
    def names(self) -> list[str]:
        return ["shaky", "denied", *self.others, "file"]

    @property
    def memory(self) -> int:
        """Bytes that a gateway may hold more than before: queues of 64 MiB; and of each Destination that has a server
        the batches of 4 MB under way, six copies of each: the native one, its JSON, what the socket has not taken."""
        return (len(self.names) * 64 + (len(self.names) - 1) * self.parallel * 4 * 6) << 20

    def configuration(self, **urls: str) -> str:
        targets = {"shaky": self.shaky, "denied": self.denied, **self.others, "file": "file:/dev/null"}
        lines = ["listeners:", "  - name: decoder", "    bind: 127.0.0.1", "    destinations:"]
        for name, target in targets.items():
            lines += [
                f"      - name: {name}",
                f"        destination_arn: {target.format(**urls)!r}",
                "        batching: { count: 1000, size_in_mb: 4 }",
            ]
            lines += [f"        arguments: {self.arguments}"] * (name == "shaky" and bool(self.arguments))
        return "\n".join(lines)


def kinesis_packets(body: bytes) -> list[bytes]:
    return [base64.b64decode(one["Data"]) for one in json.loads(body)["Records"]]


def kinesis_answer(packets: int) -> Response:
    record = {"SequenceNumber": "1", "ShardId": "shardId-000000000000"}
    return 200, {}, json.dumps({"FailedRecordCount": 0, "Records": [record] * packets}).encode()


KINDS = {
    "web hooks": Kind(
        shaky="{shaky}",
        denied="{denied}",
        others={},
        parallel=4,
        arguments="{ TimeoutInSeconds: 2 }",
        taken=lambda body: [body],
        ok=lambda packets: OK,
        refusal=(403, {}, b""),
    ),
    "AWS": Kind(
        shaky=f"arn:aws:kinesis:{PLACE}:stream/shaky",
        denied=f"arn:aws:firehose:{PLACE}:deliverystream/denied",
        others={"objects": "arn:aws:s3:::objects"},
        parallel=8,
        arguments="",
        taken=kinesis_packets,
        ok=kinesis_answer,
        refusal=(
            400,
            {},
            b'{"__type":"AccessDeniedException","Message":"ask firehose:PutRecordBatch of them"}',
        ),
    ),
}


def resident(one: Gateway, which: str = "VmHWM") -> int:
    """Bytes: the most there were so far, or those of now (`VmRSS`)."""
    found = re.search(rf"{which}:\s+(\d+) kB", Path(f"/proc/{one.process.pid}/status").read_text())
    assert found is not None
    return int(found[1]) << 10


def flood(one: Gateway, sender: Segmenter, healthy: list[str], memory: list[int]) -> int:
    """Send for as long as a phase lasts, as fast as the healthy Destinations take it; how many packets that were.

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
            taken = min(metrics.value("delivery_packets", destination=name) for name in healthy)
            return taken + lost + 8_000 >= sender.sent

        until(arrived, "the healthy Destinations have got what was sent")
    memory += [one for one in tenths if one]
    return sender.sent - before


@pytest.mark.timeout(120 + 10 * SECONDS)
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.usefixtures("aws_keys")
def test_an_outage_of_one_destination_and_the_denial_of_another(
    kind: Kind, gateway: StartGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    mood: list[Response | float] = [0.0]
    tags: set[int] = set()
    lines = Counter[str]()
    memory: list[int] = []

    def respond(request: Request) -> Response:
        now = mood[-1]
        packets = kind.taken(request.body)
        request.body = b""  # there are many
        tags.update(hash(tag) for each in packets for tag in re.findall(rb'"Tag":"([^"]+)"', each))
        if isinstance(now, float):
            shaky.stopped.wait(now)
            return kind.ok(len(packets))
        return now

    def deny(request: Request) -> Response:
        request.body = b""
        return kind.refusal

    def store(request: Request) -> Response:
        lines[request.target] = request.body.count(b"\n")  # a repeated object is the same one
        request.body = b""
        return OK

    shaky, denied, objects = WebHook(respond).start(), WebHook(deny).start(), WebHook(store).start()
    for service, hook in (("KINESIS", shaky), ("FIREHOSE", denied), ("S3", objects)):
        monkeypatch.setenv(f"AWS_ENDPOINT_URL_{service}", hook.url)
    healthy = [*kind.others, "file"]
    one = gateway(kind.configuration(shaky=shaky.url, denied=denied.url))
    try:
        before = resident(one)
        with Segmenter(one.address()) as sender:
            sent = {"well": flood(one, sender, healthy, memory)}
            mood.append(0.1)
            sent["slow"] = flood(one, sender, healthy, memory)
            mood.append((500, {}, b""))
            sent["failing"] = flood(one, sender, healthy, memory)
            shaky.stop()
            sent["gone"] = flood(one, sender, healthy, memory)
            mood.append(0.0)
            shaky.start()
            taken = len(shaky.taken)
            sent["back"] = flood(one, sender, healthy, memory)
            until(lambda: len(shaky.taken) > taken + 1, "the service gets packets again")
        metrics, peak = one.metrics(), resident(one)
        dropped = check_accounts(one, kind.names)
    finally:
        for each in (shaky, denied, objects):
            each.stop()
    deliveries = one.event("ListenerStopped")["Deliveries"]
    print(f"packets in each phase: {sent}; dropped: {dropped}; {deliveries}")
    print(f"{(peak - before) >> 20} MiB more; over time: {[(each - before) >> 20 for each in memory]}")
    assert min(sent.values()) > sent["well"] / 20
    for name in healthy:
        assert dropped[name] == 0
        assert deliveries[name]["PacketsFailed"] == 0
    if "objects" in healthy:
        assert lines.total() == deliveries["objects"]["PacketsDelivered"]
    assert peak - before < kind.memory, f"{(peak - before) >> 20} MiB more"
    if SECONDS >= 10:  # what was full stays full; it does not grow
        assert max(memory[-10:]) <= max(memory[:-10]) + (16 << 20)
    # What counts as delivered has arrived; what was tried in vain may have arrived too.
    assert 0 < deliveries["shaky"]["PacketsDelivered"] <= len(tags)
    assert metrics.value("delivery_retries", destination="shaky") > 0
    # Each request was denied, and none was repeated: one event for each batch.
    assert metrics.value("delivery_retries", destination="denied") == 0
    assert deliveries["denied"]["PacketsDelivered"] == 0
    assert deliveries["denied"]["FailedByReason"] == {"AccessDenied": deliveries["denied"]["PacketsFailed"]}
    events = one.named("DeliveryFailed", Destination="denied")
    told = [each["RequestId"] for each in events if "Suppressed" not in each]  # so many in a second
    assert 0 < len(told) == len(set(told))
