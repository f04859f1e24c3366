"""Latency at a trickle: from before `publish()` to the datagram's arrival, and from a request to its reply.

Arrival is the kernel's time stamp, so the receiver's own delay does not count. One message at a time: the next as soon
as the last has arrived, or 20 ms apart, when both sides have gone to sleep in between. "own POST" is the same request
written by hand into an open connection: what is left without boto3's own time.
"""

import base64
import http.client
import json
import os
import socket
import statistics
import struct
import time
import urllib.parse
from collections.abc import Callable, Iterator

from .gateway import TOPIC, Gateway
from .plan import Plan
from .processes import LOAD_CORE, BenchError, scratch
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
                goal = None if pause else GOAL_MS
                for how, send in ("boto3", _boto3(gateway, device)), ("own POST", _post(gateway, device)):
                    name = f"publish to wire, {how}{paced}"
                    yield from _report(name, device, plan, send, pause, goal if how == "boto3" else None)
            request = _request(gateway, device)
            yield from _report("request to reply, batches of 1", device, plan, request, PAUSE_SECONDS)
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


def _report(
    name: str,
    device: Device,
    plan: Plan,
    send: Callable[[bytes], None],
    pause: float,
    goal: float | None = None,
) -> Iterator[Row]:
    times = []
    for number in range(plan.publishes + WARM_UP):
        payload = b"%08d" % number
        time.sleep(pause)
        start = time.time_ns()
        send(payload)
        took = (device.arrival(payload) - start) / 1e6
        if number >= WARM_UP:
            times.append(took)
    p50 = statistics.median(times)
    met = "" if goal is None else yes_or_no(p50 <= goal * 1.1)  # "about"
    yield Row(f"{name}, p50", p50, " ms", goal="" if goal is None else f"about {goal:g} ms", met=met)
    yield Row(f"{name}, p99", percentile(times, 0.99), " ms")


def _message(device: Device, payload: bytes) -> str:
    return json.dumps({"Data": base64.b64encode(payload).decode(), "Remote": device.remote})


def _boto3(gateway: Gateway, device: Device) -> Callable[[bytes], None]:
    sns = client(gateway.sns)
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
