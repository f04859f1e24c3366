"""Addresses with a meaning of their own, as a Listener's `bind`, `multicast` and networks name them (contract 1.1)."""

import pytest
from pydantic import ValidationError

from sluicegate.model import Listener, PacketSource, parse_bind
from sluicegate.running import interfaces


def listener(**fields: object) -> Listener:
    return Listener.model_validate({"name": "decoder", **fields})


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
        ("::ffff:192.0.2.7", "192.0.2.7/32"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
        ("::ffff:0:0/95", None),
        ("::/0", "::/0"),
    ],
)
def test_mapped_networks_are_read_as_ipv4(written: str, meant: str | None) -> None:
    if meant is None:  # not a network: host bits
        with pytest.raises(ValidationError):
            listener(client_restrictions={"networks": [written]})
        return
    assert listener(client_restrictions={"networks": [written]}).client_restrictions.networks == [meant]
    source = {
        "name": "a",
        "listener_name": "decoder",
        "sns_topic_source": {"topic_arn": "arn:aws:sns:us-east-1:000000000000:replies"},
        "egress_networks": [written],
    }
    assert PacketSource.model_validate(source).egress_networks == [meant]


@pytest.mark.parametrize("bind", ["224.0.1.187:5683", "239.1.2.3", "[ff02::fd]:5683", "[ff02::fd%eth0]:5683"])
def test_a_group_is_no_address_to_bind(bind: str) -> None:
    with pytest.raises(ValidationError, match=r"multicast group.*`multicast: \{ groups:"):
        listener(bind=bind)


def test_other_addresses_that_cannot_be_bound_say_what_to_write() -> None:
    with pytest.raises(ValidationError, match=r"broadcast address.*\[::\]:2048"):
        listener(bind="255.255.255.255:2048")
    with pytest.raises(ValidationError, match=r"link-local.*\[fe80::1%eth0\]:2048"):
        listener(bind="[fe80::1]:2048")
    with pytest.raises(ValidationError, match="has a zone and is not link-local"):
        listener(bind="[2001:db8::1%eth0]:2048")


def test_a_link_local_address_is_bound_with_its_zone() -> None:
    address = parse_bind("[fe80::1%eth0]:2048")
    assert (address.host, address.port, address.dual_stack) == ("fe80::1%eth0", 2048, False)
    assert address.overlaps(parse_bind("[::]:2048"))
    assert not address.overlaps(parse_bind("[fe80::1%eth1]:2048"))


@pytest.mark.parametrize("bind", [None, "[::]:5683"])
def test_groups_of_both_families_where_both_are_bound(bind: str | None) -> None:
    made = listener(bind=bind, multicast={"groups": ["224.0.1.187", "ff02:0::fd"], "interface": "eth0"})
    assert made.multicast is not None
    assert made.multicast.groups == ["224.0.1.187", "ff02::fd"]
    both = listener(**{"Bind": bind, "Multicast": {"Groups": ["224.0.1.187"], "Interface": "eth0"}})
    assert both.multicast is not None


@pytest.mark.parametrize(
    ("bind", "group"),
    [("0.0.0.0:5683", "ff02::fd"), ("192.0.2.1:5683", "224.0.1.187"), ("[2001:db8::1]:5683", "ff02::fd")],
)
def test_a_group_that_could_not_be_heard_is_refused(bind: str, group: str) -> None:
    with pytest.raises(ValidationError, match=f"receives nothing from the group {group}"):
        listener(bind=bind, multicast={"groups": [group]})


@pytest.mark.parametrize(
    "multicast",
    [
        {"groups": ["192.0.2.1"]},
        {"groups": ["ff02::fd%eth0"]},
        {"groups": ["coap"]},
        {"groups": []},
        {"groups": ["224.0.1.187"], "interface": "a/b"},
        {"groups": ["224.0.1.187"], "interface": ""},
    ],
)
def test_what_is_no_group_and_no_interface_is_refused(multicast: object) -> None:
    with pytest.raises(ValidationError):
        listener(multicast=multicast)


def test_an_interface_is_found_by_name_index_and_address() -> None:
    index = interfaces.index_of("lo")
    assert index is not None
    assert [interfaces.index_of(name) for name in (str(index), "127.0.0.1")] == [index, index]
    assert [interfaces.index_of(name) for name in ("nosuch0", "99999", "192.0.2.77", "2001:db8::77")] == [
        None
    ] * 4
