"""Messages above 256 KiB, which a topic takes if its `MaximumMessageSize` says so."""

import json
import signal
from base64 import b64encode

import pytest
from botocore.exceptions import ClientError  # type: ignore[import-untyped]
from harness import Client, source_of

from conftest import StartGateway

ARN = "arn:aws:sns:us-east-1:000000000000:large"
CONFIG = "listeners: [{ name: decoder, bind: 127.0.0.1 }]" + source_of(
    "decoder", "[127.0.0.0/8]", f'{{ topic_arn: "{ARN}" }}'
)
SIZE = 1_000
COUNT = 700


def test_a_message_of_a_mebibyte_is_sent_whole_also_after_a_restart(gateway: StartGateway) -> None:
    one = gateway(CONFIG)
    with Client() as client:
        entries = [
            {"Remote": client.remote, "Data": b64encode(b"%04d" % number * (SIZE // 4)).decode()}
            for number in range(COUNT)
        ]
        text = json.dumps({"Messages": entries})
        assert len(text) > 900_000
        with pytest.raises(ClientError, match="Message too long"):
            one.sns.publish(TopicArn=ARN, Message=text)
        arn = one.sns.create_topic(Name="large", Attributes={"MaximumMessageSize": "1048576"})["TopicArn"]
        assert arn == ARN
        one.stop(signal.SIGKILL)
        one.start()
        shown = one.sns.get_topic_attributes(TopicArn=ARN)["Attributes"]
        assert shown["MaximumMessageSize"] == "1048576"
        assert (
            one.sns.create_topic(Name="large", Attributes={"MaximumMessageSize": "1048576"})["TopicArn"]
            == ARN
        )
        one.sns.publish(TopicArn=ARN, Message=text)
        got = {client.receive()[0][:4] for _ in range(COUNT)}
    assert got == {b"%04d" % number for number in range(COUNT)}
