"""The resource models: spellings, string scalars, defaults, and what the gateway as a whole refuses."""

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sluicegate.model import (
    Batching,
    ClientRestrictions,
    DestinationSpec,
    Finding,
    GatewayConfig,
    Listener,
    PacketSource,
    Peer,
    Resource,
    SnsTopicSource,
    findings,
    secrets_of,
    with_secrets,
)
from sluicegate.model.base import pascal_case

TOPIC = "arn:aws:sns:eu-west-1:123456789012:replies"
KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="


def problems(document: Any, model: type[Resource] = GatewayConfig) -> list[Finding]:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(document)
    return findings(caught.value, model)


def only(document: Any, model: type[Resource] = GatewayConfig) -> Finding:
    found = problems(document, model)
    assert len(found) == 1, found
    return found[0]


def pascal(document: Any) -> Any:
    """A snake_case document in PascalCase, keys of free maps untouched."""
    if isinstance(document, list):
        return [pascal(item) for item in document]
    if isinstance(document, dict):
        irregular = {"allowed_ips": "AllowedIPs"}
        return {irregular.get(key, pascal_case(key)): pascal(value) for key, value in document.items()}
    return document


SNAKE_LISTENER: dict[str, Any] = {
    "name": "decoder",
    "protocol": "wg",
    "bind": "0.0.0.0:2048",
    "client_restrictions": {"networks": ["198.51.100.0/24"], "domains": ["device.example.com"]},
    "destinations": [
        {
            "name": "echo",
            "destination_arn": "console:",
            "batching": {"count": 10, "timeout_in_seconds": 0.5, "size_in_mb": 2},
        }
    ],
    "peers": [{"public_key": KEY, "allowed_ips": ["10.1.0.0/16"], "name": "a"}],
    "allow_unknown_peers": True,
    "coap": {"deduplicate": False, "acknowledge_after": 1.5},
    "session_idle_seconds": 60,
}


def test_both_spellings_mean_the_same() -> None:
    snake, upper = (Listener.model_validate(form) for form in (SNAKE_LISTENER, pascal(SNAKE_LISTENER)))
    assert snake == upper
    assert snake.peers[0].allowed_ips == ["10.1.0.0/16"]
    assert snake.destinations[0].batching.size_in_mb == 2


def test_dump_is_the_pascal_case_document_and_can_be_read_back() -> None:
    listener = Listener.model_validate(SNAKE_LISTENER)
    dumped = listener.dump()
    assert dumped["Protocols"] == ["wg"]
    assert dumped["Peers"] == [
        {"PublicKey": KEY, "AllowedIPs": ["10.1.0.0/16"], "PersistentKeepaliveSeconds": 0, "Name": "a"}
    ]
    assert dumped["Destinations"][0]["Batching"] == {"Count": 10, "TimeoutInSeconds": 0.5, "SizeInMb": 2.0}
    assert Listener.model_validate(dumped) == listener


@given(
    count=st.integers(1, 10_000),
    timeout=st.floats(0.001, 300, allow_nan=False),
    size=st.floats(0.001, 64, allow_nan=False),
)
def test_string_scalars_are_the_values_they_spell(count: int, timeout: float, size: float) -> None:
    # CloudFormation sends every scalar as a string (contract section 1).
    typed = Batching.model_validate({"Count": count, "TimeoutInSeconds": timeout, "SizeInMb": size})
    spelled = Batching.model_validate(
        {"Count": str(count), "TimeoutInSeconds": repr(timeout), "SizeInMb": repr(size)}
    )
    assert spelled == typed == Batching.model_validate(typed.dump())


@pytest.mark.parametrize(("text", "value"), [("true", True), ("false", False), ("True", True)])
def test_string_booleans(text: str, value: bool) -> None:
    assert DestinationSpec.model_validate({"MetricsEnabled": text}).metrics_enabled is value


@given(st.dictionaries(st.sampled_from(sorted(Batching.spellings())), st.just("7"), max_size=3))
def test_any_mix_of_spellings_is_read_or_refused_as_given_twice(document: dict[str, str]) -> None:
    fields = [Batching.spellings()[key] for key in document]
    if len(set(fields)) == len(fields):
        assert all(getattr(Batching.model_validate(document), field) == 7 for field in fields)
    else:
        assert "mean the same" in problems(document, Batching)[0].cause


def test_contract_defaults() -> None:
    config = GatewayConfig()
    assert (config.region, config.node, config.domain, config.state) == (
        "us-east-1",
        1,
        "ingress-1",
        "./sluicegate.db",
    )
    assert config.api is not None
    assert config.api.address() == ("127.0.0.1", 8080)
    assert (config.sns, config.aws.endpoint_url, config.require_approval) == (None, None, False)
    assert (config.port_range(), config.tag_lifetime_seconds) == (range(20000, 30000), 3600)
    assert config.refuse_answers_to_ports == [7, 13, 17, 19, 37]
    assert (config.loop_guard, config.loop_guard_exempt_networks) == (True, ["127.0.0.0/8", "::1/128"])
    assert config.answers_per_remote_per_second is None
    batching = DestinationSpec().batching
    assert (batching.count, batching.timeout_in_seconds, batching.size_in_mb) == (100, 0.1, 1)
    listener = Listener()
    assert (listener.protocol, listener.session_idle_seconds, listener.destinations) == ("udp", 300, [])
    assert listener.client_restrictions.networks == ["0.0.0.0/0", "::/0"]
    source = PacketSource.model_validate({"listener_name": "l", "sns_topic_source": {"topic_arn": TOPIC}})
    assert (source.enabled, source.hold_seconds, source.egress_networks) == (True, 60, None)
    assert (source.require_session, source.default_ttl_seconds) == (False, None)


def test_null_is_absent_except_where_it_is_a_value() -> None:
    config = GatewayConfig.model_validate({"api": None, "listeners": None, "node": None})
    assert config.api is None
    assert (config.listeners, config.node) == ([], 1)


def test_an_sns_block_without_bind_has_the_contracts_port() -> None:
    config = GatewayConfig.model_validate({"sns": {}})
    assert config.sns is not None
    assert config.sns.address() == ("127.0.0.1", 4566)


def test_unknown_properties_are_warnings_for_cloudformation_and_errors_elsewhere() -> None:
    document = {"Name": "a", "Foo": 1, "Destinations": [{"Name": "d", "Bar": 2}]}
    listener, warnings = Listener.parse_lenient(document)
    assert listener.destinations[0].name == "d"
    assert warnings == [
        "Listener: unknown property Foo is ignored",
        "Destination: unknown property Bar is ignored",
    ]
    found = {finding.path: finding for finding in problems(document, Listener)}
    assert set(found) == {("Foo",), ("destinations", 0, "Bar")}
    assert all(finding.on_key for finding in found.values())


@pytest.mark.parametrize("arguments", [None, {"DynamicTopicSuffix": True, "TopicSuffixFormatter": "ascii"}])
def test_arguments_of_iot_may_stand_beside_the_others_in_templates(arguments: dict[str, Any] | None) -> None:
    """What stands inside of `Arguments` counts."""
    beside = {"DynamicTopicSuffix": "true", "TopicSuffixExpression": "[0]"}
    destination = {"Name": "d", **beside, "Arguments": arguments}
    listener, warnings = Listener.parse_lenient({"Name": "a", "Destinations": [destination]})
    assert listener.destinations[0].arguments == {**beside, **(arguments or {})}
    assert warnings == []
    found = problems({"name": "a", "destinations": [{"name": "d", **beside}]}, Listener)
    assert {finding.path[-1] for finding in found} == set(beside)


def test_unknown_key_names_the_nearest_known_one() -> None:
    found = only({"listeners": [{"client_restriction": {}}]})
    assert found.path == ("listeners", 0, "client_restriction")
    assert (found.cause, found.fix) == (
        "unknown key `client_restriction`",
        "did you mean `client_restrictions`?",
    )


@pytest.mark.parametrize(
    ("bind", "expected"),
    [
        (None, (None, None, True)),
        ("0.0.0.0:2048", ("0.0.0.0", 2048, False)),
        ("[::]:2048", ("::", 2048, True)),
        ("127.0.0.1", ("127.0.0.1", None, False)),
        ("127.0.0.1:0", ("127.0.0.1", None, False)),
        ("::1", ("::1", None, False)),
        ("[::1]:65535", ("::1", 65535, False)),
    ],
)
def test_bind_address(bind: str | None, expected: tuple[str | None, int | None, bool]) -> None:
    assert Listener(bind=bind).bind_address() == expected


@pytest.mark.parametrize(
    "bind",
    [
        "",
        "localhost:1",
        "1.2.3.4:65536",
        "1.2.3.4:x",
        "1.2.3.4:",
        "[::1",
        "[::1]x",
        "2001:db8::1:2048",
        "1.2.3.4:²",
    ],
)
def test_bad_bind_is_one_sentence_with_a_fix(bind: str) -> None:
    found = only({"bind": bind}, Listener)
    assert found.path == ("bind",)
    assert found.fix


@pytest.mark.parametrize(
    ("one", "other", "clash"),
    [
        ("0.0.0.0:2048", "127.0.0.1:2048", True),
        ("[::]:2048", "127.0.0.1:2048", True),
        ("[::]:2048", "[::1]:2048", True),
        ("127.0.0.1:2048", "127.0.0.1:2048", True),
        ("127.0.0.1:2048", "127.0.0.2:2048", False),
        ("127.0.0.1:2048", "127.0.0.1:2049", False),
        ("[::1]:2048", "0.0.0.0:2048", False),
        ("127.0.0.1", "127.0.0.1", False),
    ],
)
def test_two_listeners_on_one_port(one: str, other: str, clash: bool) -> None:
    for first, second in ((one, other), (other, one)):
        document = {"listeners": [{"name": "a", "bind": first}, {"name": "b", "bind": second}]}
        if clash:
            found = only(document)
            assert found.path == ("listeners", 1, "bind")
            assert '"a"' in found.cause
        else:
            assert len(GatewayConfig.model_validate(document).listeners) == 2


def test_a_network_with_host_bits_names_the_right_one() -> None:
    found = only({"client_restrictions": {"networks": ["192.0.2.7/24"]}}, Listener)
    assert found.path == ("client_restrictions", "networks", 0)
    assert found.fix == "write 192.0.2.0/24"


def test_an_address_alone_is_a_network_of_one() -> None:
    listener = Listener.model_validate({"client_restrictions": {"networks": ["192.0.2.7", "2001:DB8::1"]}})
    assert listener.client_restrictions.networks == ["192.0.2.7/32", "2001:db8::1/128"]


def restricted(**fields: Any) -> ClientRestrictions:
    return Listener.model_validate({"client_restrictions": fields}).client_restrictions


def test_domains_alone_admit_nobody_else() -> None:
    assert restricted(domains=["device.example.com"]).networks == []
    assert restricted(Domains=["device.example.com"], Networks=None).networks == []
    assert restricted(domains=["a.example"], networks=["192.0.2.0/24"]).networks == ["192.0.2.0/24"]
    assert restricted(domains=[]).networks == ["0.0.0.0/0", "::/0"]
    # What the API shows may be sent back, and what is in the state is read again.
    shown = restricted(domains=["a.example"]).dump()
    assert shown == {"Networks": [], "Domains": ["a.example"]}
    assert restricted(**shown) == restricted(domains=["a.example"])


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("Device.Example.COM.", "device.example.com"),
        ("_sip._udp.example.com", "_sip._udp.example.com"),
        ("localhost", "localhost"),
        ("münchen.example", "xn--mnchen-3ya.example"),
        ("straße.example", "xn--strae-oqa.example"),  # not "strasse", which is somebody else's
        ("例え。テスト", "xn--r8jz45g.xn--zckzah"),
        (f"{'a' * 63}.{'b' * 63}.{'c' * 63}.{'d' * 61}.", f"{'a' * 63}.{'b' * 63}.{'c' * 63}.{'d' * 61}"),
    ],
)
def test_a_domain_is_kept_in_the_form_that_is_looked_up(written: str, name: str) -> None:
    assert restricted(domains=[written, name]).domains == [name]


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("*.example.com", "wildcard"),
        ("192.0.2.7", "list it in `networks`"),
        ("192.0.2.0/24", "list it in `networks`"),
        ("2001:db8::7", "list it in `networks`"),
        ("[2001:db8::7]", "list it in `networks`"),
        ("127.1", "ends in a number"),
        ("10.0x7f", "ends in a number"),
        ("", "is not a DNS name"),
        (".", "is not a DNS name"),
        ("a..example", "is not a DNS name"),
        ("-a.example", "is not a DNS name"),
        ("a.example:53", "is not a DNS name"),
        ("https://a.example", "is not a DNS name"),
        ("a.example\n", "is not a DNS name"),
        ("a b.example", "is not a DNS name"),
        ("ü_*.example", "wildcard"),
        ("ü\u0378.example", "internationalised"),
        (f"{'a' * 64}.example", "64 characters"),
        ("a." * 126 + "ab", "254 characters"),
    ],
)
def test_what_is_no_exact_name_is_refused(written: str, words: str) -> None:
    found = only({"client_restrictions": {"domains": [written]}}, Listener)
    assert found.path == ("client_restrictions", "domains", 0)
    assert words in f"{found.cause}, {found.fix}"


def test_so_many_domains_and_no_more() -> None:
    names = [f"device-{number}.example" for number in range(101)]
    assert restricted(domains=names[:100]).domains == names[:100]
    found = only({"client_restrictions": {"domains": names}}, Listener)
    assert found.cause == "101 names are listed"


@pytest.mark.parametrize("key", ["Protocols", "protocols", "protocol", "Protocol"])
def test_protocol_as_text_or_list_of_one(key: str) -> None:
    assert (
        Listener.model_validate({key: ["udp"]}).protocol
        == Listener.model_validate({key: "udp"}).protocol
        == "udp"
    )
    assert "exactly one" in only({key: ["udp", "wg"]}, Listener).fix
    assert only({key: "tcp"}, Listener).fix == "use one of: udp, wg"


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"ListenerNme": "a"}, "did you mean `ListenerName`?"),
        ({"listener_nme": "a"}, "did you mean `listener_name`?"),
        ({"Batching": {"Cout": 1}}, "did you mean `Count`?"),
        ({"Batching": {"Count": 0}}, "`Count` must be at least 1"),
        ({"batching": {"count": 0}}, "`count` must be at least 1"),
        ({"Batching": 5}, "`Count`, `TimeoutInSeconds`, `SizeInMb`"),
    ],
)
def test_sentences_name_fields_as_the_document_does(document: dict[str, Any], said: str) -> None:
    model = Listener if "Nme" in str(document) or "nme" in str(document) else DestinationSpec
    with pytest.raises(ValidationError) as caught:
        model.model_validate(document)
    (found,) = findings(caught.value, model, document)
    assert said in found.sentence


def test_what_is_missing_is_named_as_the_document_spells() -> None:
    with pytest.raises(ValidationError) as caught:
        PacketSource.model_validate({"Name": "s"})
    missing = [one.cause for one in findings(caught.value, PacketSource, {"Name": "s"})]
    assert missing == ["`ListenerName` is missing", "`SnsTopicSource` is missing"]


def test_listener_name_is_another_word_for_name() -> None:
    assert Listener.model_validate({"ListenerName": "a"}).name == "a"
    assert "mean the same" in only({"ListenerName": "a", "Name": "b"}, Listener).cause


def test_secrets_are_never_printed() -> None:
    hush = base64.b64encode(b"hush" * 8).decode()
    listener = Listener.model_validate(
        {
            "private_key": hush,
            "unknown_peer_pre_shared_key": hush,
            "peers": [{"public_key": KEY, "shared_secret": hush}],
        }
    )
    assert listener.unknown_peer_pre_shared_key is not None
    assert listener.unknown_peer_pre_shared_key.get_secret_value() == hush
    assert hush not in repr(listener) + str(listener.dump()) + listener.model_dump_json()
    for found in problems(
        {
            "private_key": "hush",
            "unknown_peer_pre_shared_key": {"hush": 1},
            "peers": [{"public_key": "hush", "shared_secret": "hush"}],
        },
        Listener,
    ):
        assert "hush" not in found.cause + found.fix
    assert "wg pubkey" in only({"public_key": "short"}, Peer).fix
    spare_bits = KEY[:42] + "B="
    assert "wg pubkey" in only({"public_key": spare_bits}, Peer).fix, "one key has one spelling"


def test_secrets_come_back_to_their_places() -> None:
    hush = base64.b64encode(b"hush" * 8).decode()
    peers = [{"public_key": KEY, "shared_secret": hush}]
    listener = Listener.model_validate({"name": "a", "private_key": hush, "peers": peers})
    assert secrets_of(listener) == {"/PrivateKey": hush, "/Peers/0/SharedSecret": hush}
    assert Listener.model_validate(with_secrets(listener.dump(), secrets_of(listener))) == listener


def test_a_key_belongs_to_one_peer() -> None:
    document = {"listeners": [{"name": "a", "peers": [{"public_key": KEY}, {"public_key": KEY}]}]}
    found = only(document, GatewayConfig)
    assert found.path == ("listeners", 0, "peers", 1, "public_key")
    assert "two peers have this key" in found.cause


ROLE = "arn:aws:iam::1:role/r"


@pytest.mark.parametrize("model", [DestinationSpec, Listener])
@pytest.mark.parametrize(
    ("role", "duration", "seconds"),
    [
        (ROLE, "1:00:00", 3600),
        ({"Arn": ROLE}, "1:00:00", 3600),
        ({"Arn": ROLE, "Duration": "0:15:00"}, "0:15:00", 900),
        ({"arn": ROLE, "duration": "0.12:00:00"}, "0.12:00:00", 43_200),
    ],
)
def test_a_role_is_text_or_an_object_with_the_duration_of_its_sessions(
    model: type[Any], role: Any, duration: str, seconds: int
) -> None:
    resource = model.model_validate({"Name": "a", "Role": role})
    assert (resource.role.arn, resource.role.duration, resource.role.seconds) == (ROLE, duration, seconds)
    assert resource.dump()["Role"] == {"Arn": ROLE, "Duration": duration}
    assert model.model_validate(resource.dump()) == resource


@pytest.mark.parametrize(
    ("role", "path", "cause"),
    [
        ("admin", ("role", "arn"), '"admin" is not a role ARN'),
        ({"Arn": "arn:aws:sns:us-east-1:1:x"}, ("role", "arn"), "is not a role ARN"),
        ({"Duration": "1:00:00"}, ("role", "arn"), "is missing"),
        (["x"], ("role",), "this is not a role"),
        ({"Arn": ROLE, "Duration": "3600"}, ("role", "duration"), '"3600" is not a duration'),
        ({"Arn": ROLE, "Duration": "0:75:00"}, ("role", "duration"), "is not a duration"),
        ({"Arn": ROLE, "Duration": "0:14:59"}, ("role", "duration"), "not one that AWS gives"),
        ({"Arn": ROLE, "Duration": "1.00:00:00"}, ("role", "duration"), "not one that AWS gives"),
    ],
)
def test_a_bad_role(role: Any, path: tuple[str, ...], cause: str) -> None:
    found = only({"Role": role}, DestinationSpec)
    assert found.path == path
    assert cause in found.cause
    assert found.fix


def test_the_role_of_a_topic_is_plain_text() -> None:
    source = {"TopicArn": "arn:aws:sns:us-east-1:123456789012:t", "Role": ROLE}
    assert SnsTopicSource.model_validate(source).role == ROLE


def test_destination_arn_for_a_region() -> None:
    def arn(region: str, **arns: str) -> str | None:
        named = {key.replace("_", "-") if key != "any" else "*": value for key, value in arns.items()}
        return DestinationSpec.model_validate({"DestinationArn": named}).arn_for(region)

    assert DestinationSpec(destination_arn="file:a").arn_for("us-east-1") == "file:a"
    assert DestinationSpec().arn_for("us-east-1") is None
    assert arn("us-east-1") is None
    assert arn("us-west-2", us_west_2="file:a", any="file:b") == "file:a"
    assert arn("eu-west-1", us_west_2="file:a", any="file:b") == "file:b"
    assert arn("us-west-2", eu_west_1="file:e", us_east_1="file:a", us_west_1="file:b") == "file:b"
    assert arn("ap-south-1", us_west_2="file:b", eu_west_1="file:a") == "file:a"


def test_packets_for_a_log_group_are_text_unless_the_user_says_otherwise() -> None:
    log, queue = (
        "arn:aws-cn:logs:cn-north-1:123456789012:log-group:a:*",
        "arn:aws:sqs:us-east-1:123456789012:q",
    )

    def formatter(arn: object, **more: object) -> str:
        return DestinationSpec.model_validate({"DestinationArn": arn, **more}).formatter

    assert [formatter(arn) for arn in (log, {"*": log}, queue, None)] == ["utf8", "utf8", "base64", "base64"]
    assert [formatter(log, Formatter=one) for one in ("base64", "hex")] == ["base64", "hex"]
    # Bound later, by a resource of its own.
    unbound = DestinationSpec()
    assert unbound.bound_to({"us-east-1": log}).formatter == "utf8"
    assert unbound.bound_to({"us-east-1": queue}).formatter == "base64"
    assert DestinationSpec(formatter="hex").bound_to({"*": log}).formatter == "hex"
    assert unbound.formatter == "base64"
    assert DestinationSpec(destination_arn=log).model_dump(exclude_unset=True) == {"destination_arn": log}


def test_errors_in_a_map_of_arns_stand_at_their_region() -> None:
    found = problems(
        {"DestinationArn": {"us-east-1": "non sense", "Mars": "console:", "*": 5}}, DestinationSpec
    )
    assert [finding.path[-1] for finding in found] == ["us-east-1", "Mars", "*"]


@pytest.mark.parametrize(
    "text",
    [
        "function:a/b.py:handler",
        "console:",
        "nats://host:4222/subject",
        "arn:aws:sqs:us-east-1:123456789012:q",
    ],
)
def test_targets_are_kept_as_they_are(text: str) -> None:
    assert DestinationSpec.model_validate({"DestinationArn": text}).destination_arn == text


def test_a_scheme_alone_is_what_yaml_leaves_of_one_with_a_colon() -> None:
    assert DestinationSpec(destination_arn="console").destination_arn == "console:"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "echo.py",
        "arn:x",
        "File:a",
        " file:a",
    ],
)
def test_bad_targets(text: str) -> None:
    assert only({"destination_arn": text}, DestinationSpec).path == ("destination_arn",)


@pytest.mark.parametrize(
    "arn", ["replies", "arn:aws:sqs:us-east-1:123456789012:q", "arn:aws:sns:us-east-1:12:x", TOPIC + "!"]
)
def test_a_bad_topic_arn_shows_the_form(arn: str) -> None:
    found = only({"listener_name": "l", "sns_topic_source": {"topic_arn": arn}}, PacketSource)
    assert found.path == ("sns_topic_source", "topic_arn")
    assert "arn:aws:sns:REGION:ACCOUNT:NAME" in found.fix


def test_the_home_region_is_the_topics() -> None:
    document = {"listener_name": "l", "sns_topic_source": {"topic_arn": TOPIC}}
    assert PacketSource.model_validate(document).effective_home_region == "eu-west-1"
    assert (
        PacketSource.model_validate(document | {"HomeRegion": "us-west-2"}).effective_home_region
        == "us-west-2"
    )


@pytest.mark.parametrize("name", ["", "/devices/my group", "aws/mine", "x" * 513, "grüppe"])
@pytest.mark.parametrize("model", [Listener, DestinationSpec])
def test_a_log_group_s_name_is_one_that_cloudwatch_takes(name: str, model: type[Resource]) -> None:
    found = only({"name": "decoder", "log_group_name": name}, model)
    assert found.path == ("log_group_name",)
    assert "512" in found.fix
    good = model.model_validate({"name": "decoder", "log_group_name": "/aws/devices/decoder_1.#-"})
    assert good.model_dump()["log_group_name"] == "/aws/devices/decoder_1.#-"
