"""A gateway that is stopped delivers what lies in its batches, to every kind of service, and ends when they have it."""

import json
import signal
from pathlib import Path

import pytest
from aws_cases import CASES, Case
from harness import Client, Gateway, until
from ministack import ENVIRONMENT
from nats_server import NatsServer
from nats_server import nats_server as nats_server
from web_server import OK, Request, Response, WebHook

from service_table import SERVICES

LISTENER = """
listeners:
  - name: decoder
    bind: 127.0.0.1
    client_restrictions: { networks: [127.0.0.0/8] }
    destinations:
"""
DESTINATION = """
      - name: {name}
        destination_arn: "{target}"
        formatter: utf8
        batching: {{ count: 1000, timeout_in_seconds: 300 }}
        arguments: {arguments}
"""
PACKETS = [f"packet {number}" for number in range(40)]


@pytest.mark.shows("drain", service=SERVICES, against="gateway")
def test_what_waits_in_batches_is_delivered_when_the_gateway_stops(
    web_hook: WebHook, nats_server: NatsServer, tmp_path: Path
) -> None:
    taken: dict[str, list[bytes]] = {}

    def respond(request: Request) -> Response:
        case = called(request)
        if case is None:
            return OK
        taken.setdefault(str(case), []).extend(case.packets(request.body))
        _, _, body = case.accepts(request.headers, request.body).partition(b"\r\n\r\n")
        return 200, {}, body

    web_hook.respond = respond
    nats_server.add_stream("drained")
    targets = {str(case): case.target for case in CASES}
    targets["http"] = f"{web_hook.url}/hook"
    targets["nats"] = f"nats://127.0.0.1:{nats_server.port}/drained"
    arguments = {str(case): json.dumps(case.arguments) for case in CASES}
    text = LISTENER + "".join(
        DESTINATION.format(name=name, target=one, arguments=arguments.get(name, "{}"))
        for name, one in targets.items()
    )
    gateway = Gateway(tmp_path, text, aws=web_hook.url, environment=ENVIRONMENT)
    with Client() as client:
        try:
            gateway.start()
            for packet in PACKETS:
                client.send(packet.encode(), gateway.address())
            until(lambda: gateway.metrics().value("received_packets") == len(PACKETS), "it has the packets")
            assert web_hook.requests == []
            assert gateway.stop(signal.SIGTERM) == 0
        finally:
            gateway.close()
    taken["http"] = [
        json.dumps(one).encode()
        for request in web_hook.taken
        if request.target == "/hook"
        for one in request.messages
    ]
    taken["nats"] = [one.data for one in nats_server.stored("drained")]
    found = {name: sorted(json.loads(one)["Data"] for one in each) for name, each in taken.items()}
    assert found == dict.fromkeys(targets, sorted(PACKETS))
    deliveries = gateway.event("ListenerStopped")["Deliveries"]
    assert {name: (one["PacketsDelivered"], one["PacketsFailed"]) for name, one in deliveries.items()} == (
        dict.fromkeys(targets, (len(PACKETS), 0))
    )


def called(request: Request) -> Case | None:
    """Whose service a request is for; None if it is the web hook."""
    if request.target == "/hook":
        return None
    service = request.headers["authorization"].split("/")[3].removesuffix("data")  # iotdata
    (found,) = [case for case in CASES if case.target.split(":")[2] == service]
    return found
