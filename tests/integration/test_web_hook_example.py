"""examples/webhook as it stands: one handler as a function, a web hook, a responder and a Lambda, the same replies."""

import shutil
import sys
from pathlib import Path

import pytest
from harness import Client, Gateway, Process, free_port, until
from ministack import ENVIRONMENT, Ministack
from nats_server import NatsServer
from nats_server import nats_server as nats_server
from test_lambda_destination import make_function

EXAMPLE = Path(__file__).parents[2] / "examples/webhook"
LISTENERS = ("function", "hook", "responder", "lambda")
LAMBDA = """
  - name: lambda
    bind: 127.0.0.1
    destinations:
      - {{ name: echo, destination_arn: "{arn}", formatter: utf8 }}
"""
TEXTS = ("hello", "", 'grüße, "quoted"\n\0\t\\', "x" * 1300)


@pytest.mark.shows("replies", service="http", against="examples/webhook")
@pytest.mark.shows("replies", service="nats", against="examples/webhook")
@pytest.mark.shows("replies", service="lambda", against="examples/webhook")
def test_one_handler_at_four_places(ministack: Ministack, nats_server: NatsServer, tmp_path: Path) -> None:
    handler = EXAMPLE / "echo.py"
    text = (EXAMPLE / "sluicegate.yaml").read_text()
    port = free_port()
    text = (
        text[text.index("listeners:") :].replace(":8000", f":{port}").replace(":4222", f":{nats_server.port}")
    )
    for listener in (2048, 2049, 2050):
        text = text.replace(f"127.0.0.1:{listener}", "127.0.0.1")
    text += LAMBDA.format(arn=make_function(ministack, tmp_path, handler.read_text()))
    one = Gateway(tmp_path, text, aws=ministack.url, environment=ENVIRONMENT)
    shutil.copy(handler, tmp_path)
    url = f"nats://127.0.0.1:{nats_server.port}"
    hook = Process([sys.executable, EXAMPLE / "hook.py", str(port)], tmp_path)
    responder = Process([sys.executable, EXAMPLE / "responder.py", url, "echo"], tmp_path)
    try:
        one.start()
        with Client() as client:
            sender = f"{client.address[0]} port {client.address[1]}"
            expected = sorted(f"{sent} from {sender}".encode() for sent in TEXTS)
            # None of them may be there yet: the gateway tries again.
            for listener in LISTENERS:
                for sent in TEXTS:
                    client.send(sent.encode(), one.address(listener))
                answers = [client.receive() for _ in TEXTS]
                assert sorted(data for data, _ in answers) == expected, listener
                assert {address for _, address in answers} == {one.address(listener)}
        for listener in LISTENERS:
            until(
                lambda listener=listener: (  # type: ignore[misc]
                    one.metrics().value("delivery_packets", listener=listener) == len(TEXTS)
                ),
                f"the delivery by {listener} is counted",
            )
        assert one.metrics().value("delivery_failed_packets") == 0
        assert one.stop() == 0
    finally:
        one.close()
        hook.close()
        responder.close()
