"""`sluicegate schema`: an editor accepts what a gateway accepts, in every spelling, and offers what works."""

import json
from typing import Any

import jsonschema_rs
import pytest
from ruamel.yaml import YAML

from pages import ROOT, blocks
from sluicegate.config import json_schema
from sluicegate.model import GatewayConfig, Resource

SCHEMA = json_schema()
CHECKER = jsonschema_rs.validator_for(SCHEMA)
TEXTS = [file.read_text() for file in sorted(ROOT.glob("examples/*/sluicegate.yaml"))] + [
    block.text
    for block in blocks("yaml")
    if "listeners:" in block.text and "syslog:" not in block.text and "destination_arn" in block.text
]


def read(text: str) -> dict[str, Any]:
    data: dict[str, Any] = YAML(typ="safe", pure=True).load(text)
    return data


def pascal(model: type[Resource] | None, data: Any) -> Any:
    """The document as CloudFormation and the API write it: other keys, every scalar a text."""
    if isinstance(data, list):
        return [pascal(model, one) for one in data]
    if isinstance(data, dict):
        if model is None:
            return data
        names = {name: field.alias for name, field in model.model_fields.items()}
        return {
            names.get(key) or key: pascal(model.child(model.spellings().get(key, "")), one)
            for key, one in data.items()
        }
    return json.dumps(data) if isinstance(data, bool | int | float) else data


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_what_the_pages_show_is_accepted_in_every_spelling(text: str) -> None:
    CHECKER.validate(read(text))
    other = pascal(GatewayConfig, read(text))
    assert "Listeners" in other
    CHECKER.validate(other)


GOOD = [
    {"listeners": [{"protocols": ["wg"]}, {"Protocol": "udp"}, {"protocol": "wg"}]},
    {"node": "7", "tag_lifetime_seconds": 60, "loop_guard": "true", "require_approval": False},
    {"listeners": [{"destinations": ["other", {"batching": {"SizeInMB": "0.5", "count": "10"}}]}]},
    {"listeners": [{"role": {"Arn": "arn:aws:iam::123456789012:role/x"}, "bind": "[::]:1"}]},
    {"sns": None, "api": None},
    {"listeners": [{"coap": {"Deduplicate": "false", "acknowledge_after": "1.5"}}]},
    {"listeners": [{"destinations": [{"destination_arn": {"us-east-1": "console:", "*": "file:x"}}]}]},
    {
        "packet_sources": [
            {"ListenerName": "a", "SnsTopicSource": {"TopicArn": "arn:aws:sns:r:000000000000:t"}}
        ]
    },
]
BAD = [
    {"listeners": [{"protocol": "dtls"}]},
    {"listeners": [{"protocols": ["udp", "wg"]}]},
    {"listeners": [{"destinations": [{"formatter": "cbor"}]}]},
    {"listeners": [{"coap": {"acknowledge_after": 0}}]},
    {"listeners": [{"destinations": [{"destination_arn": "pigeon://x"}]}]},
    {"listeners": [{"bind": 2048}]},
    {"listeners": [{"bind": "localhost:2048"}]},
    {"listeners": [{"name": "a/b"}]},
    {"node": "1h"},
    {"loop_guard": "maybe"},
    {"region": "US East"},
    {"api": {"tls": True}},
    {"packet_sources": [{"listener_name": "a"}]},
    {"packet_sources": [{"sns_topic_source": {"topic_arn": "arn:aws:sns:r:000000000000:t"}}]},
    {"listeners": [{"peers": [{"public_key": "abc"}]}]},
    {"ports": 20000},
    {"regio": "x"},
]


@pytest.mark.parametrize("document", GOOD, ids=range(len(GOOD)))
def test_what_the_model_takes_the_schema_takes(document: dict[str, Any]) -> None:
    CHECKER.validate(document)


@pytest.mark.parametrize("document", BAD, ids=map(str, BAD))
def test_what_is_refused_is_marked(document: dict[str, Any]) -> None:
    assert not CHECKER.is_valid(document)


def test_examples_are_accepted() -> None:
    seen = 0
    for part in (SCHEMA, *SCHEMA["$defs"].values()):
        for name, field in part["properties"].items():
            checker = jsonschema_rs.validator_for({**field, "$defs": SCHEMA["$defs"]})
            for example in field.get("examples", ()):
                seen += 1
                assert checker.is_valid(example), (name, example)
    assert seen > 30


def test_completion_offers_one_spelling_and_nothing_of_a_later_version() -> None:
    for part in (SCHEMA, *SCHEMA["$defs"].values()):
        assert all(name == name.lower() for name in part["properties"])
    text = json.dumps(SCHEMA)
    assert not [word for word in ('dtls"', 'webrtc"') if word in text]
