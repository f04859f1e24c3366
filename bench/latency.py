"""Latency at a trickle: from before `publish()` to the datagram's arrival, and from a request to its reply.

Arrival is the kernel's time stamp, so the receiver's own delay does not count. One message at a time: the next as soon
as the last has arrived, or 20 ms apart, when both sides have gone to sleep in between. "own POST" is the same request
written by hand into an open connection: what is left without boto3's own time. The baseline of boto3 is boto3 with an
endpoint that does as good as nothing (`bare_endpoint.py`), a publish to each by turns; the ratio is its time to the
gateway's.
"""

import base64
import http.client
import json
import os
import socket
import struct
import time
import urllib.parse
from collections.abc import Callable, Iterator

from .gateway import TOPIC, Gateway
from .plan import Plan
from .processes import LOAD_CORE, TESTED_CORE, BenchError, Process, module, scratch
from .publisher import client
from .results import Row, percentile, yes_or_no

GOAL_MS = 1.0
PAUSE_SECONDS = 0.02
WARM_UP = 50  # the first ones find nothing warm
SO_TIMESTAMPNS = 35  # asm-generic/socket.h
DESTINATION = """\
      - name: echo
        destination_arn: function:handlers/echo.py:handler
        batching: { count: 1 }
"""


def run(plan: Plan) -> Iterator[Row]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {LOAD_CORE})
    try:
        with scratch() as directory, Gateway(directory, DESTINATION) as gateway, Device() as device:
            for pause, paced in (0.0, ""), (PAUSE_SECONDS, ", every 20 ms"):
                with Process(module("bare_endpoint"), TESTED_CORE) as bare:
                    endpoints = gateway.sns, bare.line()
                    sends = [_boto3(endpoint, device) for endpoint in endpoints]
                    times, least = _times(device, plan, pause, *sends)
                yield from _rows(f"publish to wire, boto3{paced}", times, least, None if pause else GOAL_MS)
                (times,) = _times(device, plan, pause, _post(gateway, device))
                yield from _rows(f"publish to wire, own POST{paced}", times)
            (times,) = _times(device, plan, PAUSE_SECONDS, _request(gateway, device))
            yield from _rows("request to reply, batches of 1", times)
    finally:
        os.sched_setaffinity(0, before)


class Device:
    """A UDP client that knows when its datagrams arrived."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.settimeout(5.0)

    @property
    def remote(self) -> dict[str, object]:
        host, port = self.socket.getsockname()
        return {"Address": host, "Port": port}

    def arrival(self, expected: bytes) -> int:
        """Unix nanoseconds at which the datagram arrived, which must be this one."""
        data, control, _, _ = self.socket.recvmsg(2048, 64)
        if data != expected:
            raise BenchError(f"{data!r} arrived instead of {expected!r}")
        seconds, nanoseconds = struct.unpack("@qq", control[0][2])
        return int(seconds * 1_000_000_000 + nanoseconds)

    def __enter__(self) -> "Device":
        return self

    def __exit__(self, *exc: object) -> None:
        self.socket.close()


def _times(device: Device, plan: Plan, pause: float, *sends: Callable[[bytes], None]) -> list[list[float]]:
    """Milliseconds of each, for each of `sends`, which take turns."""
    times: list[list[float]] = [[] for _ in sends]
    for number in range(plan.publishes + WARM_UP):
        for send, took in zip(sends, times, strict=True):
            payload = b"%08d" % number
            time.sleep(pause)
            start = time.time_ns()
            send(payload)
            took.append((device.arrival(payload) - start) / 1e6)
    return [took[WARM_UP:] for took in times]


def _rows(
    name: str, times: list[float], least: list[float] | None = None, goal: float | None = None
) -> Iterator[Row]:
    p50, p99 = percentile(times, 0.5), percentile(times, 0.99)
    middle, tail = Row(f"{name}, p50", p50, " ms"), Row(f"{name}, p99", p99, " ms")
    if least is not None:
        middle.baseline = tail.baseline = "boto3, bare endpoint"
        middle.baseline_rate, tail.baseline_rate = percentile(least, 0.5), percentile(least, 0.99)
        middle.ratio = middle.baseline_rate / p50
    if goal is not None:
        middle.goal, middle.met = f"about {goal:g} ms", yes_or_no(p50 <= goal * 1.1)  # "about"
    yield from (middle, tail)


def _message(device: Device, payload: bytes) -> str:
    return json.dumps({"Data": base64.b64encode(payload).decode(), "Remote": device.remote})


def _boto3(endpoint: str, device: Device) -> Callable[[bytes], None]:
    sns = client(endpoint)
    return lambda payload: sns.publish(TopicArn=TOPIC, Message=_message(device, payload)) and None


def _post(gateway: Gateway, device: Device) -> Callable[[bytes], None]:
    place = urllib.parse.urlsplit(gateway.sns)
    connection = http.client.HTTPConnection(place.hostname or "", place.port)

    def send(payload: bytes) -> None:
        form = {"Action": "Publish", "Version": "2010-03-31", "TopicArn": TOPIC}
        body = urllib.parse.urlencode({**form, "Message": _message(device, payload)})
        connection.request(
            "POST", "/", body, {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
        )
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise BenchError(f"the SNS endpoint answered {answer.status} to a publish")

    return send


def _request(gateway: Gateway, device: Device) -> Callable[[bytes], None]:
    def send(payload: bytes) -> None:
        device.socket.sendto(payload, ("127.0.0.1", gateway.port))

    return send
