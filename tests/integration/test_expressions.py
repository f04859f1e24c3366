"""Expressions on real packets: filters choose who gets a packet, and a Destination's arguments read from it."""

from pathlib import Path

from harness import Client, Gateway, wait_for_records

import packages

PARTITIONS = '''
import json
from sluicegate import Arguments, DeliveryError, Destination

class Partitions(Destination):
    """Writes what expressions say of each packet, and its payload. Refuses the first batch but for its first packet."""

    @classmethod
    def from_spec(cls, name, target, arguments, context):
        reader = Arguments(arguments, f"destination {name}")
        made = cls(name, context)
        asked = {one: reader.expression(one) for one in ("PartitionKeyExpression", "NameExpression")}
        made.asked = {one: expression for one, expression in asked.items() if expression is not None}
        reader.finish()
        made.file, made.refused = context.base_dir / target, False
        return made

    @property
    def expressions(self):
        return self.asked

    async def provision(self):
        pass

    async def deliver(self, batch):
        values = zip(*(batch.values(one) for one in ("PartitionKeyExpression", "NameExpression")), strict=True)
        records = [json.loads(record)["Data"] for record in batch.records()]
        lines = [json.dumps({"Values": said, "Data": data}) + "\\n" for said, data in zip(values, records, strict=True)]
        again = () if self.refused else range(1, len(lines))
        self.refused = True
        with open(self.file, "a") as file:
            file.writelines(line for index, line in enumerate(lines) if index not in again)
        if again:
            raise DeliveryError("Busy", "later", retryable=True, packets=again)

    async def close(self):
        pass
'''


def data_of(path: Path, count: int) -> list[str]:
    return [record["Data"] for record in wait_for_records(path, count)]


def test_each_destination_gets_exactly_its_own(tmp_path: Path) -> None:
    filters = {
        "one": "[0] == 0xFE",
        "two": "[0] == 0xFD && [7] == 0x18 && [8] == 0x00 && [9] == 0x00 ?? 0x00",
        "rest": "([0] == 0xFE || [0] == 0xFD && [7] == 0x18 && [8] == 0x00 && [9] == 0x00 ?? false) == false",
    }
    destinations = "".join(
        f"      - name: {name}\n        formatter: hex\n        filter_expression: '{text}'\n"
        f"        destination_arn: file:{name}.ndjson\n"
        for name, text in filters.items()
    )
    v1 = [bytes([0xFE, n]) for n in range(40)]
    v2 = [bytes([0xFD, n, 0, 0, 0, 0, 0, 0x18, 0, 0]) for n in range(50)]
    rest = [b"", b"\xfd", b"\xfd" * 9, b"\x00\xfe", bytes([0xFD, 0, 0, 0, 0, 0, 0, 0x19, 0, 0])] * 6
    gateway = Gateway(
        tmp_path, f"listeners:\n  - name: both\n    bind: 127.0.0.1\n    destinations:\n{destinations}"
    )
    gateway.start()
    try:
        with Client() as client:
            for packet in (
                packet for many in zip(v2, [*v1, *v1], [*rest, *rest], strict=False) for packet in many
            ):
                client.send(packet, gateway.address("both"))
        sent = min(len(v2), 2 * len(v1), 2 * len(rest))
        expected = {"one": [*v1, *v1][:sent], "two": v2[:sent], "rest": [*rest, *rest][:sent]}
        for name, packets in expected.items():
            assert data_of(tmp_path / f"{name}.ndjson", sent) == [packet.hex().upper() for packet in packets]
        metrics = gateway.metrics()
        for name in filters:
            assert metrics.value("destination_packets", destination=name) == sent
            assert metrics.value("destination_filtered_packets", destination=name) == 2 * sent
        gateway.edit("'[0] == 0xFE'", "'[0] == 0x00'")
        gateway.api("POST", "/v1/reload")
        with Client() as client:
            client.send(b"\xfe\xfe", gateway.address("both"))
            client.send(b"\x00\x00", gateway.address("both"))
        assert data_of(tmp_path / "one.ndjson", sent + 1)[sent:] == ["0000"]
    finally:
        gateway.close()


def test_arguments_read_from_each_packet(tmp_path: Path) -> None:
    packages.install(
        tmp_path, {"partitions.py": PARTITIONS}, "partitions", {"partitions": "partitions:Partitions"}
    )
    text = """
listeners:
  - name: both
    bind: 127.0.0.1
    destinations:
      - name: keep
        formatter: hex
        destination_arn: partitions:kept.ndjson
        batching: { count: 3, timeout_in_seconds: 60 }
        arguments: { PartitionKeyExpression: "[0:2]", NameExpression: "utf8[2:] ?? 'short'", NameFormatter: utf8 }
"""
    gateway = Gateway(tmp_path, text, environment=packages.installed(tmp_path))
    gateway.start()
    try:
        with Client() as client:
            for packet in (b"\x01\x02abc", b"\x01", b"\x03\x04\xc3\xa9"):
                client.send(packet, gateway.address("both"))
        kept = wait_for_records(tmp_path / "kept.ndjson", 3)
    finally:
        gateway.close()
    assert [(*record["Values"], record["Data"]) for record in kept] == [
        ("0102", "abc", "0102616263"),
        (None, "short", "01"),
        ("0304", "é", "0304C3A9"),
    ]
    # The packets that were repeated kept their values: the first batch was refused but for its first packet.


def test_an_expression_that_costs_too_much_is_null_and_counted(tmp_path: Path) -> None:
    text = """
listeners:
  - name: both
    bind: 127.0.0.1
    destinations:
      - { name: costly, filter_expression: "[:] == [:] && [:] == [:]", destination_arn: "file:costly.ndjson" }
"""
    gateway = Gateway(tmp_path, text)
    gateway.start()
    try:
        with Client() as client:
            client.send(bytes(40_000), gateway.address("both"))
            client.send(b"short", gateway.address("both"))
        (record,) = wait_for_records(tmp_path / "costly.ndjson", 1)
        assert record["Data"] == "c2hvcnQ="
        assert gateway.metrics().value("expression_limited_packets", listener="both") == 1
        wrong = {"DestinationArn": "console:", "FilterExpression": "[0] == 0xZZ"}
        answer = gateway.api("POST", "/v1/listeners", {"Name": "b", "Destinations": [wrong]})
        assert answer.status_code == 422
        assert answer.json()["Errors"][0]["Pointer"] == "/Destinations/0/FilterExpression"
    finally:
        gateway.close()
