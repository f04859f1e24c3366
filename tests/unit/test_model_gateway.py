"""The gateway as a whole: generated names, what must be unique, references, and every mistake at once."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sluicegate.model import Aws, DestinationSpec, Finding, GatewayConfig, Listener, findings
from sluicegate.model.shared import resolved

TOPIC = "arn:aws:sns:eu-west-1:123456789012:replies"


def problems(document: Any) -> list[Finding]:
    with pytest.raises(ValidationError) as caught:
        GatewayConfig.model_validate(document)
    return findings(caught.value, GatewayConfig)


def only(document: Any) -> Finding:
    found = problems(document)
    assert len(found) == 1, found
    return found[0]


def source(**fields: Any) -> dict[str, Any]:
    return {"listener_name": "listener-1", "sns_topic_source": {"topic_arn": TOPIC}} | fields


def test_generated_names_follow_the_position() -> None:
    config = GatewayConfig.model_validate(
        {
            "Listeners": [
                {"Destinations": [{}, {"Name": "own"}, {}]},
                {"ListenerName": "my_l", "destinations": [{}]},
            ],
            "PacketSources": [source()],
        }
    )
    assert [listener.name for listener in config.listeners] == ["listener-1", "my_l"]
    names = [destination.name for listener in config.listeners for destination in listener.destinations]
    assert names == ["listener-1-destination-1", "own", "listener-1-destination-3", "my-l-destination-1"]
    assert config.packet_sources[0].name == "packet-source-1"


def test_models_made_in_python_are_named_too() -> None:
    config = GatewayConfig(listeners=[Listener(destinations=[DestinationSpec()])])
    assert config.listeners[0].destinations[0].name == "listener-1-destination-1"


def test_names_are_unique_and_destinations_in_their_listener() -> None:
    found = problems(
        {
            "listeners": [
                {"name": "a", "destinations": [{"name": "d"}, {"Name": "d"}]},
                {"name": "a", "destinations": [{"Name": "d"}]},
            ],
            "packet_sources": [source(name="s", listener_name="a"), source(name="s", listener_name="a")],
        }
    )
    assert {finding.path for finding in found} == {
        ("listeners", 1, "name"),
        ("listeners", 0, "destinations", 1, "name"),
        ("packet_sources", 1, "name"),
    }


@pytest.mark.parametrize(
    ("entries", "cause", "fix"),
    [
        (["nowhere"], 'there is no Destination named "nowhere"', "use one of: d, e, own"),
        (
            ["d"],
            'the Destination "d" is declared by the Listeners "a" and "b"',
            "give one of them another name",
        ),
        (["own"], 'two Destinations of this Listener are named "own"', "give each its own name"),
        (["e", "e"], 'two Destinations of this Listener are named "e"', "give each its own name"),
        (["not a name"], '"not a name" cannot be a Destination\'s name', "use letters"),
        ([7], "item 2 of `destinations` must be a mapping", "indented"),
    ],
)
def test_a_name_in_destinations_that_names_no_other_one(entries: list[Any], cause: str, fix: str) -> None:
    document = {
        "listeners": [
            {"name": "a", "destinations": [{"name": "d"}, {"name": "e"}]},
            {"name": "b", "destinations": [{"name": "d"}]},
            {"name": "c", "destinations": [{"name": "own"}, *entries]},
        ]
    }
    (found,) = problems(document)
    assert found.path == ("listeners", 2, "destinations", len(entries))
    assert cause in found.cause
    assert fix in found.fix


def test_a_name_stands_for_the_destination_that_is_declared() -> None:
    config = GatewayConfig.model_validate(
        {
            "listeners": [
                {"name": "b", "destinations": ["d", {}]},
                {"name": "a", "destinations": [{"name": "d", "batching": {"count": 7}}]},
                {"name": "c", "destinations": ["d"]},
            ]
        }
    )
    first, second, third = resolved(config.listeners)
    assert [one.name for one in first.destination_specs] == ["d", "b-destination-2"]
    assert first.destination_specs[0] == second.destination_specs[0] == third.destination_specs[0]
    assert config.listeners[0].dump()["Destinations"][0] == "d", (
        "what was declared is shown as it was declared"
    )


def test_a_source_names_an_existing_listener() -> None:
    found = only({"listeners": [{"name": "a"}, {"name": "b"}], "packet_sources": [source(listener_name="c")]})
    assert found.path == ("packet_sources", 0, "listener_name")
    assert found.fix == "use one of: a, b"


def test_one_mistake_does_not_hide_another() -> None:
    found = problems(
        {
            "node": 0,
            "listeners": [
                {"name": "a", "bind": "x"},
                {"name": "a", "destinations": [{"batching": {"count": "many"}}]},
            ],
            "packet_sources": [source(listener_name="zzz", hold_seconds=-1)],
        }
    )
    assert {finding.path for finding in found} == {
        ("node",),
        ("listeners", 0, "bind"),
        ("listeners", 1, "name"),
        ("listeners", 1, "destinations", 0, "batching", "count"),
        ("packet_sources", 0, "listener_name"),
        ("packet_sources", 0, "hold_seconds"),
    }


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["name", "Name", "listeners", "bind", "destinations", "x"]), inner
            )
        ),
        max_leaves=12,
    )
)
def test_any_document_is_valid_or_refused_in_sentences(document: Any) -> None:
    try:
        GatewayConfig.model_validate({"listeners": document, "packet_sources": document})
    except ValidationError as error:
        for found in findings(error, GatewayConfig):
            assert found.cause
            assert found.fix
            assert "Input should" not in found.cause


QUEUE = "https://sqs.eu-west-1.amazonaws.com/123456789012/requests"


@pytest.mark.parametrize("key", ["cloudformation", "CloudFormation"])
def test_the_queue_of_stacks_is_in_the_region_of_its_url(key: str) -> None:
    config = GatewayConfig.model_validate({key: {"QueueUrl": QUEUE}})
    assert config.cloudformation is not None
    assert (config.cloudformation.region(), config.cloudformation.response_hosts) == ("eu-west-1", [])
    emulated = {"queue_url": "http://localhost:4566/000000000000/q", "response_hosts": ["localhost:4566"]}
    aws = {"endpoint_url": "http://localhost:4566"}
    config = GatewayConfig.model_validate({"cloudformation": emulated, "aws": aws})
    assert config.cloudformation is not None
    assert config.cloudformation.region() is None


@pytest.mark.parametrize(
    ("section", "place", "cause", "fix"),
    [
        ({"queue_url": "requests"}, "queue_url", "is not the URL of an SQS queue", "the output QueueUrl"),
        ({"queue_url": QUEUE + "/x"}, "queue_url", "is not the URL of an SQS queue", "the output QueueUrl"),
        (
            {"queue_url": QUEUE.replace("https", "http")},
            "queue_url",
            "is not a queue of AWS",
            "aws.endpoint_url",
        ),
        (
            {"queue_url": "https://localhost/000000000000/q"},
            "queue_url",
            "is not a queue of AWS",
            "aws.endpoint_url",
        ),
        (
            {"queue_url": QUEUE, "response_hosts": ["https://x/"]},
            "response_hosts",
            "is not a host",
            "HOST:PORT",
        ),
    ],
)
def test_a_queue_that_cannot_be_read_is_refused(
    section: dict[str, Any], place: str, cause: str, fix: str
) -> None:
    found = only({"cloudformation": section})
    assert found.path[:2] == ("cloudformation", place)
    assert cause in found.cause
    assert fix in found.fix


COAP = {"name": "server", "formatter": "coap"}
RAW = {"name": "raw"}


@pytest.mark.parametrize(
    ("destinations", "others", "path"),
    [
        ([COAP, RAW], [], None),
        ([COAP, RAW, {**COAP, "name": "second"}], [], ("destinations", 2, "name")),
        ([COAP, "elsewhere"], [{**COAP, "name": "elsewhere"}], ("destinations", 1)),
        (["elsewhere", RAW], [{**COAP, "name": "elsewhere"}], None),
        ([RAW], [], ("coap",)),
        ([COAP], [{"name": "server"}], None),
        ([{"name": "server"}], [COAP], ("coap",)),
        ([], [], None),
    ],
)
def test_with_coap_one_destination_answers(
    destinations: list[Any], others: list[Any], path: tuple[Any, ...] | None
) -> None:
    listeners = [
        {"name": "a", "coap": {}, "destinations": destinations},
        {"name": "b", "destinations": others},
    ]
    if path is None:
        GatewayConfig.model_validate({"listeners": listeners})
    else:
        found = problems({"listeners": listeners})
        assert [finding.path for finding in found] == [("listeners", 0, *path)]
    # Without it nobody needs to know who answers.
    del listeners[0]["coap"]
    GatewayConfig.model_validate({"listeners": listeners})


@pytest.mark.parametrize("seconds", [0, -1, 61, "soon"])
def test_when_coap_acknowledges(seconds: object) -> None:
    found = problems({"listeners": [{"name": "a", "coap": {"acknowledge_after": seconds}}]})
    assert [finding.path for finding in found] == [("listeners", 0, "coap", "acknowledge_after")]


@pytest.mark.parametrize(
    ("url", "is_one"),
    [
        ("http://127.0.0.1:4566", True),
        ("http://ministack:4566", True),
        ("https://127.0.0.1:4566", False),
        ("http://sqs.us-east-1.amazonaws.com", False),
        ("http://sqs.cn-north-1.amazonaws.com.cn", False),
        ("http://sqs.us-east-1.api.aws", False),
        (None, False),
    ],
)
def test_an_emulator_is_what_is_surely_not_aws(url: str | None, is_one: bool) -> None:
    assert Aws(endpoint_url=url).emulator() == (url if is_one else None)
