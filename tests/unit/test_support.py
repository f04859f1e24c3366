"""What a valid configuration asks of a later version is named at its place; nothing else is."""

from typing import Any

import pytest

from sluicegate.model import GatewayConfig, unavailable

TOPIC = "arn:aws:sns:eu-west-1:123456789012:replies"


def source(**fields: Any) -> dict[str, Any]:
    return {"listener_name": "listener-1", "sns_topic_source": {"topic_arn": TOPIC}} | fields


def test_a_plain_gateway_is_available() -> None:
    config = GatewayConfig.model_validate(
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
        }
    )
    assert unavailable(config) == []


@pytest.mark.parametrize(
    ("document", "path"),
    [
        ({"listeners": [{"protocol": "dtls"}]}, ("listeners", 0, "protocol")),
        (
            {"listeners": [{"client_restrictions": {"domains": ["a.example"]}}]},
            ("listeners", 0, "client_restrictions", "domains"),
        ),
    ],
)
def test_what_this_version_cannot_run_is_named(document: dict[str, Any], path: tuple[Any, ...]) -> None:
    found = unavailable(GatewayConfig.model_validate(document))
    assert [finding.path for finding in found] == [path]
    assert "this version cannot" in found[0].cause
    assert found[0].fix


@pytest.mark.parametrize(
    "fields",
    [
        {"formatter": "coap"},
        {"filter_expression": "[0] == 1"},
        {"metrics_enabled": True},
        {"destination_arn": "arn:aws:lambda:us-east-1:123456789012:function:f"},
        {"destination_arn": "https://example.com/"},
        {"destination_arn": "nats://h/s"},
    ],
)
def test_what_a_destination_cannot_do_yet(fields: dict[str, Any]) -> None:
    found = unavailable(GatewayConfig.model_validate({"listeners": [{"destinations": [fields]}]}))
    assert [finding.path for finding in found] == [("listeners", 0, "destinations", 0, next(iter(fields)))]


def test_a_map_of_arns_is_located_by_region() -> None:
    arns = {"*": "console:", "us-east-1": "https://example.com/"}
    found = unavailable(
        GatewayConfig.model_validate({"listeners": [{"destinations": [{"destination_arn": arns}]}]})
    )
    assert [finding.path[-2:] for finding in found] == [("destination_arn", "us-east-1")]
