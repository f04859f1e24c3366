"""`sluicegate dev [FILE]`: everything on this machine, no account, a snippet that works as printed."""

import os
import shlex
import shutil
import sys
from pathlib import Path

import click

from sluicegate.cli.errors import CliError
from sluicegate.cli.serving import load_or_fail, serve
from sluicegate.gateway import Gateway
from sluicegate.model.text import endpoint_text

CONFIG = Path("sluicegate.yaml")
HANDLER = Path("handlers/echo.py")
CLIENT_PORT = 4567  # the article's

CONFIG_TEXT = """\
# A gateway for this machine alone. `sluicegate validate sluicegate.yaml` checks what you change here;
# `sluicegate schema` prints a JSON Schema for your editor.
region: us-east-1
state: ./sluicegate.db             # assigned ports and the key of Tags

api: { bind: 127.0.0.1:8080 }      # /healthz, /metrics, /v1
sns: { bind: 127.0.0.1:4566 }      # the gateway's own SNS endpoint: boto3 with endpoint_url

listeners:
  - name: decoder
    protocol: udp
    bind: 127.0.0.1:2048           # "[::]:2048" would serve every address, IPv4 and IPv6
    destinations:
      - name: echo                 # a Lambda handler, unmodified; it answers each packet by its Tag
        destination_arn: function:handlers/echo.py:handler
        batching: { count: 100, timeout_in_seconds: 0 } # no packet waits; under load batches fill
        arguments: { TimeoutInSeconds: 30 }

packet_sources:
  - name: replies                  # a message published to this topic leaves from the Listener above
    listener_name: decoder
    sns_topic_source: { topic_arn: "arn:aws:sns:us-east-1:000000000000:replies" }
    # Where packets may go. Private and loopback addresses must be listed, or a publisher could reach
    # whatever the gateway can reach.
    egress_networks: [127.0.0.0/8, "::1/128", 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, "fc00::/7"]
"""

HANDLER_TEXT = '''\
"""Answers every packet with its own payload: a Lambda handler, as it would run on AWS."""


def handler(event, context):
    return {"Replies": [{"Tag": packet["Tag"], "Data": packet["Data"]} for packet in event["Messages"]]}
'''

SNIPPET = """\
import boto3, json, base64
sns = boto3.client("sns", endpoint_url="{endpoint}", region_name="{region}",
                   aws_access_key_id="local", aws_secret_access_key="local")
payload = b"\\x01\\x02\\x03\\x04"  # your UDP payload
sns.publish(
  TopicArn="{topic}",
  Message=json.dumps({{
    "Data": base64.b64encode(payload).decode(),
    "Remote": {{
      "IP": "{client_ip}",
      "Port": {client_port}
    }}
  }})
)
"""


@click.command("dev")
@click.argument("file", type=click.Path(), required=False)
def command(file: str | None) -> None:
    """Run a gateway on this machine, with something to try.

    Without FILE: ./sluicegate.yaml, written together with an echo handler if there is none. Prints how to send packets
    in and how to source packets out.
    """
    if file is None:
        _write_example()
        file = str(CONFIG)
    serve(load_or_fail(file), _show, reload_functions=True, watch=True)


def _write_example() -> None:
    if CONFIG.exists():
        return
    try:
        HANDLER.parent.mkdir(exist_ok=True)
        if not HANDLER.exists():
            HANDLER.write_text(HANDLER_TEXT)
        CONFIG.write_text(CONFIG_TEXT)
    except OSError as refused:
        raise CliError(
            f"cannot write {refused.filename}: {refused.strerror}; run this in a directory of your own, or name a FILE"
        ) from None
    click.echo(f"wrote {CONFIG} and {HANDLER}: edit them, what you save is taken over at once")


def _show(gateway: Gateway) -> None:
    """What a user needs to try it, from what really runs."""
    program = _program()
    lines = ["", "Sluicegate is ready."]
    for listener in gateway.listeners():
        lines.append(
            f"  Listener {listener['Name']}: UDP {endpoint_text(str(listener['Address']), _port(listener))}"
        )
    for name, server in (("API", gateway.api), ("SNS", gateway.sns)):
        if server is not None:
            lines.append(f"  {name}: {server.url}")
    example = _example(gateway)
    if example is not None:
        target, client_ip, snippet = example
        client = endpoint_text(client_ip, CLIENT_PORT)
        lines += [
            "",
            "1. In another terminal: a UDP client that says hello, prints the echo, and keeps listening",
            f"   {program} listen --bind {client} --to {target} --send hello",
            "",
            f"2. In a third: source a packet to it, at any time (boto3 in {_python()})",
            "",
            snippet,
        ]
    click.echo("\n".join(lines))


def _example(gateway: Gateway) -> tuple[str, str, str] | None:
    """`(Listener to send to, client's ip, snippet)` for the first PacketSource that takes messages; None if there is
    none."""
    sources = [
        source
        for source in gateway.packet_sources()
        if source["State"] == "Active" and "SnsTopicSource" in source
    ]
    if not sources or gateway.sns is None:
        return None
    listener = next(found for found in gateway.listeners() if found["Name"] == sources[0]["ListenerName"])
    address = str(listener["Address"])
    v6_only = ":" in address and address != "::"
    client_ip = "::1" if v6_only else "127.0.0.1"
    target = endpoint_text(client_ip if address in ("::", "0.0.0.0") else address, _port(listener))  # noqa: S104
    topic = sources[0]["SnsTopicSource"]
    assert isinstance(topic, dict)  # noqa: S101
    arn = str(topic["TopicArn"])
    snippet = SNIPPET.format(
        endpoint=gateway.sns.url,
        region=arn.split(":")[3],
        topic=arn,
        client_ip=client_ip,
        client_port=CLIENT_PORT,
    )
    return target, client_ip, snippet


def _port(listener: dict[str, object]) -> int:
    return int(str(listener["Port"]))


def _program() -> str:
    """How the user called this program."""
    if shutil.which("sluicegate"):
        return "sluicegate"
    return shlex.quote(os.path.relpath(sys.argv[0]))


def _python() -> str:
    """A Python that has boto3, if it is this one."""
    try:
        import boto3  # type: ignore[import-untyped]  # noqa: F401
    except ImportError:
        return "any Python with boto3: pip install boto3"
    return os.path.relpath(sys.executable)
