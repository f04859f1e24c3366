"""A real gateway: `sluicegate run` (or `dev`) on a configuration of the benchmark."""

import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from .processes import HANG_SECONDS, TESTED_CORE, BenchError, Process

PROGRAM = Path(sys.executable).with_name("sluicegate")
TOPIC = "arn:aws:sns:us-east-1:000000000000:replies"

ECHO = """\
def handler(event, context):
    return {"Replies": [{"Tag": packet["Tag"], "Data": packet["Data"]} for packet in event["Messages"]]}
"""
"""The handler of `sluicegate dev`."""

SOURCE = f"""\
packet_sources:
  - name: replies
    listener_name: bench
    sns_topic_source: {{ topic_arn: "{TOPIC}" }}
    egress_networks: [127.0.0.0/8]
    dead_letter_queue_arn: file:dead.ndjson
"""


class Gateway(Process):
    """Runs from construction to the end of the `with`. `destinations` is YAML, the items of the Listener's list,
    and `others` more Listeners. With `aws`, the URL of what stands in for it, the topic lies there; else the gateway's
    own SNS endpoint has it."""

    def __init__(
        self,
        directory: Path,
        destinations: str = "",
        command: str = "run",
        aws: str = "",
        others: str = "",
        durable: bool = False,
    ) -> None:
        self.port = free_port(socket.SOCK_DGRAM)
        self.api = f"http://127.0.0.1:{free_port()}"
        self.sns = f"http://127.0.0.1:{free_port()}"
        (directory / "handlers").mkdir(exist_ok=True)
        (directory / "handlers" / "echo.py").write_text(ECHO)
        self.file = file = directory / "gateway.yaml"
        topics = f"endpoint_url: {aws}" if aws else f"bind: {self.sns.removeprefix('http://')}"
        if durable:
            topics += ", durable: true"
        file.write_text(
            "region: us-east-1\nstate: ./sluicegate.db\n"
            f"api: {{ bind: {self.api.removeprefix('http://')} }}\n"
            f"{'aws' if aws else 'sns'}: {{ {topics} }}\n"
            f"listeners:\n  - name: bench\n    bind: 127.0.0.1:{self.port}\n"
            + (f"    destinations:\n{destinations}" if destinations else "")
            + others
            + SOURCE
        )
        # Its events go to a file: a pipe that nobody reads would fill up.
        with (directory / "events.ndjson").open("wb") as events:
            super().__init__([PROGRAM, command, file], TESTED_CORE, cwd=directory, stdout=events.fileno())
        try:
            self._wait_until_healthy()
        except BaseException:
            self.__exit__()
            raise

    def metrics(self) -> "Metrics":
        """`/metrics` now."""
        with urllib.request.urlopen(f"{self.api}/metrics", timeout=HANG_SECONDS) as answer:  # noqa: S310
            return Metrics(answer.read().decode())

    def _wait_until_healthy(self) -> None:
        deadline = time.monotonic() + HANG_SECONDS
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"{self.api}/healthz", timeout=5):  # noqa: S310
                    return
            except (urllib.error.URLError, OSError):
                if not Path(f"/proc/{self.pid}/stat").exists() or self._process.poll() is not None:
                    break
                time.sleep(0.02)
        raise BenchError(f"the gateway did not start: {self.errors()}")


class Metrics:
    """`/metrics` at a moment."""

    def __init__(self, text: str) -> None:
        self._samples = [s for family in text_string_to_metric_families(text) for s in family.samples]

    def total(self, name: str, labels: Mapping[str, str] | None = None) -> int:
        """Sum of the samples of `sluicegate_NAME` that have these labels."""
        wanted = (labels or {}).items()
        names = (f"sluicegate_{name}", f"sluicegate_{name}_total")
        return sum(int(s.value) for s in self._samples if s.name in names and wanted <= s.labels.items())


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """A port of 127.0.0.1 that nobody uses now."""
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
