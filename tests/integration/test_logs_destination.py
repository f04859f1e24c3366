"""`arn:aws:logs:…` against an independent implementation of CloudWatch Logs."""

import json
from pathlib import Path
from typing import Any

import pytest
from aws_destinations import AwsContract, Scripted
from aws_destinations import ministack_keys as ministack_keys
from aws_destinations import scripted as scripted
from aws_server import ACCOUNT as SERVED
from aws_server import answer, refusal
from harness import Client, Gateway, until
from ministack import ACCOUNT, ENVIRONMENT, REGION, Ministack, unique

from sluicegate.destinations.base import DeliveryError, Destination
from sluicegate.destinations.cloudwatchlogs import CloudWatchLogsDestination
from sluicegate.testing import packet, packet_batch


def content(logs: Any, group: str) -> dict[str, list[str]]:
    """The text of all events of each stream, in order."""
    streams = [one["logStreamName"] for one in logs.describe_log_streams(logGroupName=group)["logStreams"]]
    found = {}
    for stream in streams:
        events = logs.get_log_events(logGroupName=group, logStreamName=stream, startFromHead=True)["events"]
        found[stream] = [event["message"] for event in events]
    return found


class TestCloudWatchLogs(AwsContract):
    kind = CloudWatchLogsDestination
    bad_targets = (
        "arn:aws:logs:us-east-1:123456789012:devices",
        "arn:aws:logs:us-east-1:123456789012:log-group:two words",
        "arn:aws:logs:us-east-1:123456789012:log-group:devices:log-stream:one",
    )

    def make(self, ministack: Ministack) -> None:
        self.logs, self.group = ministack.client("logs"), unique("/devices/syslog")
        self.logs.create_log_group(logGroupName=self.group)
        self.target = f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:{self.group}:*"

    def delivered(self, destination: Destination) -> list[str]:
        (events,) = content(self.logs, self.group).values()
        return events

    def refuse(self, destination: Destination) -> None:
        self.logs.delete_log_group(logGroupName=self.group)


GATEWAY = """
listeners:
  - name: syslog
    bind: 127.0.0.1
    client_restrictions: {{ networks: [127.0.0.0/8] }}
    destinations:
      - name: store
        destination_arn: "{arn}"
        batching: {{ count: 1 }}
"""


def test_lines_of_devices_in_a_log_group(ministack: Ministack, tmp_path: Path) -> None:
    """The group is not made: an event has the command that makes it, and then lines arrive as they were sent."""
    logs, group = ministack.client("logs"), unique("/devices/syslog")
    arn = f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:{group}"
    gateway = Gateway(tmp_path, GATEWAY.format(arn=arn), aws=ministack.url, environment=ENVIRONMENT)
    lines = [f"<14>{number} grüße\tvon {number}" for number in range(20)]
    with Client() as client:
        try:
            gateway.start()
            client.send(b"<14>lost", gateway.address())
            missed = gateway.event("DeliveryFailed", Reason="NoLogGroup")
            command = f"aws logs create-log-group --region {REGION} --log-group-name {group}"
            assert f"`{command}`" in missed["Detail"]
            assert logs.describe_log_groups(logGroupNamePrefix=group)["logGroups"] == []
            logs.create_log_group(logGroupName=group)
            for line in lines:
                client.send(line.encode(), gateway.address())

            def arrived() -> list[str]:
                return [line for _, found in sorted(content(logs, group).items()) for line in found]

            until(lambda: len(arrived()) == len(lines), "all lines arrive")
            assert arrived() == lines
            assert all(name.startswith("syslog/1/20") for name in content(logs, group))
        finally:
            gateway.close()


DEVICES = f"arn:aws:logs:us-east-1:{SERVED}:log-group:devices:*"
TAKEN = answer(200, b"{}")
NO_STREAM = refusal("ResourceNotFoundException", "The specified log stream does not exist.")


def at(time: str, data: str) -> dict[str, Any]:
    return packet(data) | {"ReceivedAt": f"2026-06-{time}Z"}


async def failed(made: Destination, *packets: str | dict[str, Any]) -> DeliveryError:
    with pytest.raises(DeliveryError) as raised:
        await made.deliver(packet_batch(*packets))
    return raised.value


@pytest.mark.shows("partial failure", service="cloudwatchlogs")
async def test_events_that_are_left_out_are_counted(scripted: Scripted) -> None:
    """In order of time, whatever the order of the packets; each with its own reason, and none is tried again."""
    left_out = {"tooOldLogEventEndIndex": 1, "expiredLogEventEndIndex": 2, "tooNewLogEventStartIndex": 4}
    scripted.server.answers = [answer(200, json.dumps({"rejectedLogEventsInfo": left_out}).encode())]
    packets = [
        at("09T12:00:00.004", "new"),
        at("09T12:00:00.003", "good"),
        at("09T12:00:00.002", "good too"),
        at("09T12:00:00.000", "old"),
        at("09T12:00:00.001", "expired"),
        at("09T12:00:00.003", ""),
    ]
    async with scripted.destination(CloudWatchLogsDestination, DEVICES) as made:
        error = await failed(made, *packets)
    assert error.packets is not None
    assert {index: (one.reason, one.retryable) for index, one in error.packets.items()} == {
        0: ("EventTooNew", False),
        3: ("EventTooOld", False),
        4: ("EventExpired", False),
        5: ("EmptyMessage", False),
    }
    (body,) = scripted.bodies
    assert [event["message"] for event in body["logEvents"]] == ["old", "expired", "good too", "good", "new"]


async def test_each_day_has_its_stream(scripted: Scripted) -> None:
    """In order, each with events of less than 24 hours."""
    scripted.server.answers = [TAKEN]
    async with scripted.destination(CloudWatchLogsDestination, DEVICES) as made:
        assert made.concurrency == 1
        await made.deliver(packet_batch(at("09T23:59:59.999", "a"), at("10T00:00:00.000", "b")))
    assert [(body["logStreamName"], len(body["logEvents"])) for body in scripted.bodies] == [
        ("decoder/1/2026-06-09", 1),
        ("decoder/1/2026-06-10", 1),
    ]


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (TAKEN, None),
        (refusal("ResourceAlreadyExistsException", "another node has made it"), None),
        (refusal("ResourceNotFoundException", "The specified log group does not exist."), "NoLogGroup"),
        (refusal("AccessDeniedException", "no policy allows it"), "AccessDenied"),
        (refusal("ThrottlingException", "Rate exceeded"), "Throttled"),
    ],
)
async def test_a_stream_is_made_when_it_is_not_there(
    made: bytes, reason: str | None, scripted: Scripted
) -> None:
    scripted.server.answers = [NO_STREAM, made, TAKEN]
    async with scripted.destination(CloudWatchLogsDestination, DEVICES) as destination:
        if reason is None:
            await destination.deliver(packet_batch("a"))
        else:
            error = await failed(destination, "a")
            assert (error.reason, error.retryable) == (reason, reason == "Throttled")
    targets = [headers["x-amz-target"].partition(".")[2] for _, headers, _ in scripted.server.requests]
    assert targets[:2] == ["PutLogEvents", "CreateLogStream"]
    assert targets[2:] == (["PutLogEvents"] if reason is None else [])
    assert all(body["logGroupName"] == "devices" for body in scripted.bodies)
