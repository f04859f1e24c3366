"""What a valid configuration asks of a later version is named at its place; nothing else is."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from sluicegate.config.checks import checks
from sluicegate.model import Finding, GatewayConfig, findings, notes

TOPIC = "arn:aws:sns:eu-west-1:123456789012:replies"


def refused(document: dict[str, Any]) -> list[Finding]:
    """What keeps a configuration from being run here, with its place."""
    with pytest.raises(ValidationError) as caught:
        accepted(document)
    return findings(caught.value, GatewayConfig)


def accepted(document: dict[str, Any], base: Path = Path()) -> GatewayConfig:
    return GatewayConfig.model_validate(document, context={"check": checks(base, "us-east-1")})


def source(**fields: Any) -> dict[str, Any]:
    return {"listener_name": "listener-1", "sns_topic_source": {"topic_arn": TOPIC}} | fields


def test_a_plain_gateway_is_available(tmp_path: Path) -> None:
    (tmp_path / "echo.py").write_text("def handler(event, context): ...")
    accepted(
        {
            "sns": {},
            "listeners": [
                {
                    "decapsulated_delivery": True,
                    "destinations": [
                        {"destination_arn": {"*": "function:echo.py:handler", "eu-west-1": "file:a"}},
                        {},
                    ],
                }
            ],
            "packet_sources": [
                source(hold_seconds=5, default_ttl_seconds=3, egress_networks=["192.0.2.0/24"])
            ],
        },
        tmp_path,
    )


@pytest.mark.parametrize(
    ("document", "path"),
    [
        ({"listeners": [{"protocol": "dtls"}]}, ("listeners", 0, "protocol")),
        ({"listeners": [{"Protocols": ["webrtc"]}]}, ("listeners", 0, "protocol")),
    ],
)
def test_what_this_version_cannot_run_is_named(document: dict[str, Any], path: tuple[Any, ...]) -> None:
    found = refused(document)
    assert [finding.path for finding in found] == [path]
    assert "this version cannot" in found[0].cause
    assert found[0].fix


@pytest.mark.parametrize(
    "fields",
    [
        {"destination_arn": "arn:aws:timestream:us-east-1:123456789012:database/d"},
    ],
)
def test_what_a_destination_cannot_do_yet(fields: dict[str, Any]) -> None:
    found = refused({"listeners": [{"destinations": [fields]}]})
    assert [finding.path for finding in found] == [("listeners", 0, "destinations", 0, next(iter(fields)))]


def test_a_map_of_arns_is_located_by_region() -> None:
    arns = {"*": "console:", "us-east-1": "pigeon://loft/"}
    found = refused({"listeners": [{"destinations": [{"destination_arn": arns}]}]})
    assert [finding.path[-2:] for finding in found] == [("destination_arn", "us-east-1")]


def test_what_is_accepted_with_a_note() -> None:
    config = accepted(
        {
            "listeners": [
                {
                    "name": "a",
                    "metrics_enabled": True,
                    "destinations": [{"name": "d", "metrics_enabled": "true"}],
                },
                {"name": "closed", "client_restrictions": {"networks": []}},
            ],
            "packet_sources": [
                source(listener_name="a"),
                source(listener_name="closed"),
                source(listener_name="closed", egress_networks=["192.0.2.0/24"]),
            ],
        }
    )
    found = notes(config.listeners, config.packet_sources)
    assert [one.path for one in found] == [
        ("packet_sources", 1, "egress_networks"),
    ]
    assert 'its Listener "closed" admits no networks' in found[0].cause
    assert "EgressNetworks" in found[0].fix


def test_the_service_that_is_not_served_is_named() -> None:
    arns = {
        "us-east-1": "arn:aws:appsync:us-east-1:123456789012:apis/a",
        "*": "arn:aws:timestream:us-east-1:123456789012:database/d",
    }
    document = {"listeners": [{"destinations": [{"destination_arn": arns}]}]}
    found = refused(document)
    assert [(one.path[-1], one.cause) for one in found] == [
        ("us-east-1", "appsync of AWS is no Destination"),
        ("*", "timestream of AWS is no Destination"),
    ]
    assert "of AWS dynamodb, events," in found[0].fix
    assert "nats:" in found[0].fix
