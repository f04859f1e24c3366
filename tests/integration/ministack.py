"""An independent implementation of AWS's APIs (ministack, pinned by the test group) as a process of the tests' own.

The fixture `ministack` (conftest.py) is one process for the whole test run, so each test names its queues, topics and
groups by itself (`unique`).
"""

import itertools
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import boto3  # type: ignore[import-untyped]
import pytest
from botocore.config import Config  # type: ignore[import-untyped]
from harness import HANG_SECONDS, Process, free_port, process_exists, until

REGION = "us-east-1"
ACCOUNT = "000000000000"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing-secret",
    "AWS_REGION": REGION,
}
"""Credentials for programs that talk to it: an access key id that is no account number means account `ACCOUNT`."""

_numbers = itertools.count(1)


class Ministack:
    """Runs from construction to `close`. `url` is the endpoint of every service."""

    def __init__(self, directory: Path, environment: Mapping[str, str] | None = None) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.directory = directory
        self._environment = {
            "BIND_HOST": "127.0.0.1",
            "GATEWAY_PORT": str(self.port),
            "MINISTACK_REGION": REGION,
            "LOG_LEVEL": "WARNING",
            # Its notes of process ids and logs stay with the test, and servers that nobody asked for stay shut.
            "TMPDIR": str(directory),
            "SFTP_ENABLED": "0",
            "IOT_MTLS_ENABLED": "0",
            **(environment or {}),
        }
        self._process = self._spawn()

    @property
    def pid(self) -> int:
        return self._process.pid

    def client(self, service: str, region: str = REGION, **options: Any) -> Any:
        """A real boto3 client of it."""
        return boto3.client(
            service,
            endpoint_url=self.url,
            region_name=region,
            aws_access_key_id=ENVIRONMENT["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=ENVIRONMENT["AWS_SECRET_ACCESS_KEY"],
            config=Config(
                retries={"total_max_attempts": 1}, read_timeout=HANG_SECONDS, inject_host_prefix=False
            ),
            **options,
        )

    def close(self) -> None:
        self._process.close()

    def _spawn(self) -> Process:
        process = Process(
            [sys.executable, "-m", "ministack.app"], self.directory, environment=self._environment
        )
        try:
            until(lambda: answers(self.port) or not process_exists(process.pid), "ministack listens")
            assert process_exists(process.pid), process.stderr.text
        except BaseException:
            process.close()
            raise
        return process


def answers(port: int) -> bool:
    """True if something listens at `port` of 127.0.0.1."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def unique(name: str) -> str:
    """`name` with a number that no other test of this run has."""
    return f"{name}-{os.getpid()}-{next(_numbers)}"


@pytest.fixture(scope="session")
def ministack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ministack]:
    """One ministack for the test run; its state is empty at the start and nothing resets it."""
    made = Ministack(tmp_path_factory.mktemp("ministack"))
    yield made
    made.close()
