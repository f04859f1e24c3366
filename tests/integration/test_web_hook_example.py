"""examples/webhook as it stands: one handler as a function, a web hook and a responder gives the same replies."""

import shutil
import sys
from pathlib import Path

import pytest
from harness import Client, Process, free_port, until
from nats_server import NatsServer
from nats_server import nats_server as nats_server

from conftest import StartGateway

EXAMPLE = Path(__file__).parents[2] / "examples/webhook"


@pytest.mark.shows("replies", service="http", against="examples/webhook")
@pytest.mark.shows("replies", service="nats", against="examples/webhook")
def test_one_handler_at_three_places(gateway: StartGateway, nats_server: NatsServer, tmp_path: Path) -> None:
    text = (EXAMPLE / "sluicegate.yaml").read_text()
    port = free_port()
    text = (
        text[text.index("listeners:") :].replace(":8000", f":{port}").replace(":4222", f":{nats_server.port}")
    )
    for listener in (2048, 2049, 2050):
        text = text.replace(f"127.0.0.1:{listener}", "127.0.0.1")
    one = gateway(text, start=False)
    shutil.copy(EXAMPLE / "echo.py", one.directory)
    url = f"nats://127.0.0.1:{nats_server.port}"
    hook = Process([sys.executable, EXAMPLE / "hook.py", str(port)], tmp_path)
    responder = Process([sys.executable, EXAMPLE / "responder.py", url, "echo"], tmp_path)
    try:
        one.start()
        with Client() as client:
            expected = f"hello from {client.address[0]} port {client.address[1]}".encode()
            # Neither may be there yet: the gateway tries again.
            for listener in ("function", "hook", "responder"):
                client.send(b"hello", one.address(listener))
                answer, sender = client.socket.recvfrom(2000)
                assert (answer, sender) == (expected, one.address(listener))
        metrics = one.metrics()
        for listener in ("function", "hook", "responder"):
            until(
                lambda listener=listener: one.metrics().value("delivery_packets", listener=listener) == 1,  # type: ignore[misc]
                f"the delivery by {listener} is counted",
            )
        assert metrics.value("delivery_failed_packets") == 0
        assert one.stop() == 0
    finally:
        hook.close()
        responder.close()
