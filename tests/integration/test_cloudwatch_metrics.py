"""`MetricsEnabled` at an independent CloudWatch (contract sections 1.1 and 6)."""

from datetime import UTC, datetime, timedelta

import pytest
from harness import ECHO, Client, until
from ministack import ACCOUNT, ENVIRONMENT, Ministack, unique

from conftest import StartGateway

FAILING = """
def handler(event, context):
    raise ValueError("no such device")
"""
COUNTED = ["PacketsIn", "BytesIn", "PacketsOut", "BytesOut"]


def configuration(endpoint: str, name: str) -> str:
    return f"""
aws: {{ endpoint_url: "{endpoint}" }}
listeners:
  - name: {name}
    bind: 127.0.0.1
    client_restrictions: {{ networks: [127.0.0.1/32] }}
    metrics_enabled: true
    destinations:
      - name: echo
        destination_arn: "function:echo.py:handler"
        batching: {{ count: 1 }}
        metrics_enabled: true
        role: arn:aws:iam::{ACCOUNT}:role/echo
      - name: store
        destination_arn: function:failing.py:handler
        batching: {{ count: 1 }}
        metrics_enabled: true
      - {{ name: quiet, destination_arn: "console:" }}
"""


def sums(ministack: Ministack, **dimensions: str) -> dict[str, float]:
    """What CloudWatch has of each metric with just these dimensions."""
    cloudwatch = ministack.client("cloudwatch")
    shown = [{"Name": name, "Value": value} for name, value in dimensions.items()]
    metrics = cloudwatch.list_metrics(Namespace="Sluicegate", Dimensions=shown)["Metrics"]
    now = datetime.now(UTC)
    found = {}
    for name in {one["MetricName"] for one in metrics if len(one["Dimensions"]) == len(shown)}:
        points = cloudwatch.get_metric_statistics(
            Namespace="Sluicegate",
            MetricName=name,
            Dimensions=shown,
            StartTime=now - timedelta(hours=1),
            EndTime=now + timedelta(minutes=1),
            Period=3600,
            Statistics=["Sum", "Minimum", "Maximum", "SampleCount"],
        )["Datapoints"]
        found[name] = sum(point["Sum"] for point in points)
        assert all(point["Minimum"] <= point["Maximum"] for point in points)
    return found


def test_what_was_counted_is_in_cloudwatch(
    gateway: StartGateway, ministack: Ministack, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    name = unique("decoder").strip("/").replace("_", "-")
    one = gateway(configuration(ministack.url, name), {"echo": ECHO, "failing": FAILING})
    with Client() as client, Client("127.0.0.2") as stranger:
        for size in range(1, 11):
            client.send(b"x" * size, one.address())
            assert len(client.receive()[0]) == size
        stranger.send(b"let me in", one.address())
        until(lambda: one.metrics().value("rejected_packets") == 1, "the stranger was refused")
    until(lambda: one.metrics().value("delivery_failed_packets", destination="store") == 10, "all failed")
    metrics = one.metrics()
    assert metrics.value("destination_bytes", destination="echo") == 55
    assert metrics.value("destination_replies_sent_bytes", destination="echo") == 55
    assert one.stop() == 0
    listener = sums(ministack, Listener=name)
    assert [listener[key] for key in COUNTED] == [11, 64, 10, 55]
    assert (listener["PacketsRejected"], listener["PacketsLost"]) == (1, 0)
    echo = sums(ministack, Listener=name, Destination="echo")
    assert [echo[key] for key in COUNTED] == [10, 55, 10, 55]
    assert (echo["PacketsDelivered"], echo["PacketsFailed"], echo["RepliesFailed"]) == (10, 0, 0)
    assert echo["DeliveryDuration"] > 0
    store = sums(ministack, Listener=name, Destination="store")
    assert [store[key] for key in COUNTED] == [10, 55, 0, 0]
    assert (store["PacketsDelivered"], store["PacketsFailed"]) == (0, 10)
    assert sums(ministack, Listener=name, Destination="quiet") == {}
    assert one.named("MetricsFailed") == []


def test_a_machine_without_an_account(gateway: StartGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ENVIRONMENT:
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    text = configuration("http://127.0.0.1:9", "decoder").replace(
        f"role: arn:aws:iam::{ACCOUNT}:role/echo", ""
    )
    one = gateway(text, {"echo": ECHO, "failing": FAILING})
    event = one.event("MetricsFailed")
    assert event["Reason"] == "NoCredentials"
    assert "or remove `metrics_enabled`" in event["Detail"]
    with Client() as client:
        client.send(b"hello", one.address())
        assert client.receive()[0] == b"hello"
    assert one.stop() == 0
    assert [line["Reason"] for line in one.named("MetricsFailed")] == ["NoCredentials", "Shutdown"]
