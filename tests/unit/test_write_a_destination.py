"""`docs/write-a-destination.md` is true: its package passes the contract, and its other examples work."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest

import guide
from packages import installed
from sluicegate import DeliveryError, Destination
from sluicegate.aws import Aws, AwsError, Role
from sluicegate.testing import DestinationContract, destination_context, packet_batch


def run(directory: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """With the guide's package installed, and nothing of this repository's tests in reach."""
    environment = os.environ | installed(directory)
    environment.pop("PYTEST_ADDOPTS", None)
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def example(page_class: str) -> type[Destination]:
    """A class of a block that is a whole module."""
    (block,) = [one for one in guide.blocks("python") if f"class {page_class}(" in one]
    names: dict[str, Any] = {"__name__": "guide"}
    exec(compile(block, "guide", "exec"), names)
    found = names[page_class]
    assert issubclass(found, Destination)
    return found


def test_the_package_passes_the_contract_from_outside(tmp_path: Path) -> None:
    guide.write_package(tmp_path)
    done = run(tmp_path, "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout
    assert "skipped" not in done.stdout


def test_a_type_checker_accepts_the_package_and_finds_a_mistake(tmp_path: Path) -> None:
    guide.write_package(tmp_path)
    (tmp_path / "mistake.py").write_text(
        "from sluicegate import DeliveryError\n\nDeliveryError('Refused', 3)\n"
    )
    modules = ("sluicegate_syslog.py", "test_syslog.py", "mistake.py")
    done = run(tmp_path, "mypy", "--strict", "--cache-dir", os.devnull, *modules)
    errors = [line.partition(" error: ")[0] for line in done.stdout.splitlines() if " error: " in line]
    assert errors == ["mistake.py:3:"], done.stdout + done.stderr


def test_the_short_examples_work() -> None:
    short = [one for one in guide.blocks("python") if "class " not in one]
    assert short
    for block in short:
        exec(compile(block, "guide", "exec"), {})


class TestSqlite(DestinationContract):
    kind = example("SqliteDestination")
    target = "packets.db"
    bad_targets = ("", "a\0b")

    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path) -> None:
        self.file = tmp_path / "packets.db"

    def delivered(self, destination: Destination) -> Sequence[str]:
        rows = sqlite3.connect(self.file).execute("SELECT packet FROM packets").fetchall()
        return [orjson.loads(row)["Data"] for (row,) in rows]

    def refuse(self, destination: Destination) -> None:
        other = sqlite3.connect(self.file)
        other.execute("DROP TABLE packets")
        other.close()

    def fail_to_provision(self) -> None:
        self.target = "no/such/directory.db"


class Kinesis(Aws):
    """As far as PutRecords goes: packets whose `Data` is "slow" are throttled."""

    def __init__(self) -> None:
        super().__init__("us-east-1")
        self.taken: list[str] = []
        self.calls: list[tuple[int, Role | None, str | None]] = []
        self.refusal: AwsError | None = None

    async def call(
        self,
        service: str,
        operation: str,
        params: Mapping[str, Any] = {},
        *,
        role: Role | None = None,
        region: str | None = None,
    ) -> dict[str, Any]:
        assert (service, operation) == ("kinesis", "PutRecords")
        if self.refusal is not None:
            raise self.refusal
        data = [orjson.loads(one["Data"])["Data"] for one in params["Records"]]
        self.calls.append((len(data), role, region))
        self.taken += [one for one in data if one != "slow"]
        slow = {"ErrorCode": "ProvisionedThroughputExceededException", "ErrorMessage": "Rate exceeded"}
        return {"Records": [slow if one == "slow" else {"SequenceNumber": "1"} for one in data]}


ARN = "arn:aws:kinesis:eu-west-1:123456789012:stream/packets"


class TestKinesis(DestinationContract):
    kind = example("KinesisDestination")
    target = ARN
    bad_targets = ("arn:aws:kinesis:eu-west-1:123456789012:consumer/x",)

    @pytest.fixture
    def context(self, tmp_path: Path) -> Any:
        self.aws = Kinesis()
        return destination_context(tmp_path, aws=self.aws)

    def delivered(self, destination: Destination) -> Sequence[str]:
        return self.aws.taken

    def refuse(self, destination: Destination) -> None:
        self.aws.refusal = AwsError("kinesis", "PutRecords", "AccessDeniedException", "no", status=400)

    def refuse_packets(self, destination: Destination) -> str:
        return "slow"


async def test_kinesis_repeats_what_was_throttled_in_the_roles_name() -> None:
    aws, role = Kinesis(), Role("arn:aws:iam::123456789012:role/put", "session")
    context = destination_context(aws=aws, role=role)
    kinesis = example("KinesisDestination").from_spec("stream", ARN, {}, context)
    data = ["slow" if number in (499, 500, 1100) else str(number) for number in range(1101)]
    with pytest.raises(DeliveryError) as caught:
        await kinesis.deliver(packet_batch(*data))
    assert caught.value.packets is not None
    assert sorted(caught.value.packets) == [499, 500, 1100]
    assert {(one.reason, one.retryable) for one in caught.value.packets.values()} == {("Throttled", True)}
    assert aws.calls == [(500, role, "eu-west-1"), (500, role, "eu-west-1"), (101, role, "eu-west-1")]
