"""What the reference's construct library says of Listeners and Destinations (contract sections 1.1 and 1.2)."""

import base64
from typing import Any

import pytest
from pydantic import ValidationError

from sluicegate.model import Batching, Listener, findings
from sluicegate.model.template_defaults import with_template_defaults


@pytest.mark.parametrize("spelling", ["SizeInMb", "SizeInMB", "size_in_mb"])
def test_the_size_of_a_batch_has_two_spellings(spelling: str) -> None:
    assert Batching.model_validate({spelling: "2.5"}).size_in_mb == 2.5


def test_both_spellings_of_the_size_at_once_are_refused() -> None:
    with pytest.raises(ValidationError) as caught:
        Batching.model_validate({"SizeInMb": 1, "SizeInMB": 1})
    (found,) = findings(caught.value, Batching)
    assert (found.path, found.fix) == (("SizeInMB",), "keep one of the two")


# What a template leaves out


def of_template(**document: Any) -> tuple[Listener, list[str]]:
    return with_template_defaults(Listener.model_validate({"Name": "gate", **document}))


EVERYBODY = ["0.0.0.0/0", "::/0"]


@pytest.mark.parametrize("restrictions", [{}, None, {"Networks": None}, {"Domains": []}])
def test_a_template_without_client_restrictions_admits_nobody(restrictions: Any) -> None:
    for document in ({}, {"ClientRestrictions": restrictions}):
        listener, (warning,) = of_template(**document)
        assert listener.client_restrictions.networks == []
        assert 'the Listener "gate" admits nobody' in warning
        assert 'ClientRestrictions: {Networks: ["0.0.0.0/0", "::/0"]}' in warning
        # The state says so itself: what is read from it needs no template to be closed.
        again = Listener.model_validate(listener.dump())
        assert again.client_restrictions.networks == []


@pytest.mark.parametrize("networks", [[], EVERYBODY, ["198.51.100.0/24"]])
def test_networks_in_a_template_are_what_they_say(networks: list[str]) -> None:
    listener, warnings = of_template(ClientRestrictions={"Networks": networks})
    assert (listener.client_restrictions.networks, warnings) == (networks, [])


def test_domains_in_a_template_are_a_restriction() -> None:
    listener, warnings = of_template(ClientRestrictions={"Domains": ["device.example.com"]})
    assert (listener.client_restrictions.domains, warnings) == (["device.example.com"], [])


def test_the_key_of_a_wg_listener_is_its_restriction() -> None:
    listener, warnings = of_template(Protocols=["wg"])
    assert (listener.client_restrictions.networks, warnings) == (EVERYBODY, [])


def test_elsewhere_a_listener_is_open() -> None:
    assert Listener.model_validate({}).client_restrictions.networks == EVERYBODY


def test_a_batch_of_a_template_waits_a_quarter_of_a_second() -> None:
    given: list[Any] = [{}, {"Batching": {"Count": "5"}}, {"Batching": {"TimeoutInSeconds": "0.1"}}]
    listener, _ = of_template(Destinations=given)
    assert [one.batching.timeout_in_seconds for one in listener.destinations] == [0.25, 0.25, 0.1]
    assert listener.destinations[1].batching.count == 5
    assert Batching().timeout_in_seconds == 0.1, "in YAML and over REST"


# The key pair of a `wg` Listener

KEY = base64.b64encode(bytes(range(32))).decode()


def test_a_key_of_ones_own_is_not_refreshed() -> None:
    with pytest.raises(ValidationError) as caught:
        Listener.model_validate({"Protocols": ["wg"], "PrivateKey": KEY, "KeyRefreshToken": "a"})
    (found,) = findings(caught.value, Listener)
    assert found.path == ("key_refresh_token",)
    assert "a `private_key` of your own" in found.cause
    assert "so that the gateway makes the keys" in found.fix


def test_a_udp_listener_has_no_key_to_refresh() -> None:
    Listener.model_validate({"PrivateKey": KEY, "KeyRefreshToken": "a"})
