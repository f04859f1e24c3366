"""What a gateway has on AWS comes and goes with its resources: by the API, by a reload, and at a start."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aws_sources import (
    BRISK,
    LISTENER,
    ROLE,
    Topic,
    comes_through,
    entry,
    received,
    wait_until_empty,
    wait_until_gone,
)
from aws_sources import topic as topic
from harness import ECHO, Client, Gateway, until
from ministack import Ministack, unique
from test_cloudwatch_logs import content
from test_resources import listener, problem, request
from test_sqs_dead_letters import DeadQueue

Make = Callable[..., Gateway]


@pytest.fixture
def make(tmp_path: Path, ministack: Ministack) -> Iterator[Make]:
    """Gateways whose topics are on AWS."""
    made: list[Gateway] = []

    def one(text: str, **options: int) -> Gateway:
        directory = tmp_path / f"gateway{len(made)}"
        directory.mkdir()
        made.append(
            Gateway(directory, text, {"echo": ECHO}, aws=ministack.url, environment=BRISK, **options).start()
        )
        return made[-1]

    yield one
    for gateway in made:
        gateway.close()


def source(topic: Topic, name: str = "replies", **properties: Any) -> dict[str, Any]:
    return {
        "Name": name,
        "ListenerName": "decoder",
        "SnsTopicSource": {"TopicArn": topic.arn, "Role": ROLE},
        "EgressNetworks": ["127.0.0.0/8"],
        **properties,
    }


def ask(gateway: Gateway, method: str, path: str, body: Any = None, status: int = 200) -> Any:
    answer = request(gateway, method, f"/v1/{path}", body)
    assert answer.status_code == status, answer.text
    return answer.json() if answer.content else None


# PacketSources


def test_a_packet_source_of_the_api_subscribes_and_leaves_nothing_behind(make: Make, topic: Topic) -> None:
    one = make(LISTENER)
    assert topic.subscriptions() == []
    assert ask(one, "POST", "packet-sources", source(topic), 201)["State"] == "Active"
    one.event("SourceSubscribed", Listener="decoder", PacketSource="replies")
    queue = topic.queue()
    comes_through(topic, one, "made by the API")
    wait_until_empty(queue)

    # It survives a restart, with the same queue.
    assert one.stop() == 0
    one.start()
    comes_through(topic, one, "after a restart")
    assert topic.queue().arn == queue.arn

    ask(one, "DELETE", "packet-sources/replies", status=204)
    assert topic.subscriptions() == []
    wait_until_gone(queue)
    assert one.event("SourceRemoved", PacketSource="replies")["Queue"] == queue.arn
    assert one.stop() == 0
    one.start()
    assert one.stop() == 0
    assert one.named("SourceRemoved") == [], "nothing was left for the next start"


def test_one_that_is_deleted_and_made_again_takes_messages_again(make: Make, topic: Topic) -> None:
    """The second one must not lose its subscription to the clean-up of the first."""
    one = make(LISTENER)
    for number in range(3):
        ask(one, "POST", "packet-sources", source(topic), 201)
        one.wait_for("SourceSubscribed", number + 1)
        comes_through(topic, one, f"{number}")
        ask(one, "DELETE", "packet-sources/replies", status=204)
    ask(one, "POST", "packet-sources", source(topic), 201)
    one.wait_for("SourceSubscribed", 4)
    comes_through(topic, one, "last")
    assert len(topic.subscriptions()) == 1


def test_disabled_means_unsubscribed_and_what_waits_stays(make: Make, topic: Topic) -> None:
    one = make(LISTENER)
    ask(one, "POST", "packet-sources", source(topic), 201)
    one.event("SourceSubscribed")
    queue = topic.queue()
    ask(one, "PUT", "packet-sources/replies", source(topic, Enabled=False))
    told = one.event("SourceUnsubscribed", PacketSource="replies")
    assert (told["Listener"], told["Topic"]) == ("decoder", topic.arn)
    assert topic.subscriptions() == []
    with Client() as client:
        queue.put(json.dumps(entry(client, "waits")))
        ask(one, "PUT", "packet-sources/replies", source(topic, Enabled=True))
        assert client.receive_data(1) == [b"waits"]
    one.wait_for("SourceSubscribed", 2)
    assert topic.queue().arn == queue.arn
    comes_through(topic, one, "enabled")


def test_one_that_waits_for_its_approval_touches_nothing_on_aws(make: Make, topic: Topic) -> None:
    one = make("require_approval: true\n" + LISTENER)
    assert ask(one, "POST", "packet-sources", source(topic), 201)["State"] == "PendingApproval"
    assert topic.subscriptions() == []
    ask(one, "POST", "packet-sources/replies/approve")
    one.event("SourceSubscribed")
    comes_through(topic, one, "approved")
    ask(one, "POST", "packet-sources/replies/reject")
    one.event("SourceUnsubscribed")
    assert topic.subscriptions() == []


def test_another_topic_and_another_redrive_target(make: Make, topic: Topic, ministack: Ministack) -> None:
    one = make(LISTENER, reconcile_seconds=5)
    ask(one, "POST", "packet-sources", source(topic), 201)
    one.event("SourceSubscribed")
    first = topic.queue()
    dead = DeadQueue(ministack)
    ask(one, "PUT", "packet-sources/replies", source(topic, DeadLetterQueueArn=dead.arn))
    one.wait_for("SourceSubscribed", 2)
    (redrive,) = [found["RedrivePolicy"] for found in topic.subscription_attributes()]
    assert json.loads(redrive) == {"deadLetterTargetArn": dead.arn}
    wait_until_gone(first)
    second, other = topic.queue(), Topic(ministack)
    ask(one, "PUT", "packet-sources/replies", source(other))
    one.wait_for("SourceSubscribed", 3)
    until(lambda: topic.subscriptions() == [], "the subscription of before is ended")
    one.event("SourceDraining", Queue=second.arn)
    comes_through(other, one, "another topic")
    other.delete()


def test_a_listener_that_gives_its_port_to_another_one_takes_its_source_along(
    make: Make, topic: Topic
) -> None:
    """A reload that deletes both, while their port goes to a new Listener."""
    sourced = f"""
packet_sources:
  - name: replies
    listener_name: decoder
    sns_topic_source: {{ topic_arn: "{topic.arn}", role: "{ROLE}" }}
"""
    one = make(LISTENER + sourced)
    one.event("SourceSubscribed")
    queue, port = topic.queue(), one.port()
    text = one.file.read_text().replace(sourced, "\n").replace("name: decoder", "name: other")
    one.file.write_text(text.replace("bind: 127.0.0.1\n", f"bind: 127.0.0.1:{port}\n"))
    answer = request(one, "POST", "/v1/reload")
    assert answer.status_code == 200, answer.text
    assert "nobody sends what waits" in one.event("SourceDraining", Queue=queue.arn)["Detail"]
    assert topic.subscriptions() == []
    assert one.port("other") == port


def test_what_is_on_its_way_when_a_source_is_deleted_is_still_sent(make: Make, topic: Topic) -> None:
    one = make(LISTENER)
    paced = source(topic, RateLimit={"PacketsPerSecond": 10, "Burst": 1}, HoldSeconds=30)
    ask(one, "POST", "packet-sources", paced, 201)
    one.event("SourceSubscribed")
    with Client() as client:
        topic.publish({"Messages": [entry(client, f"{n}") for n in range(20)]})
        until(lambda: received(one, "received") == 1, "the message was fetched")
        ask(one, "DELETE", "packet-sources/replies", status=204)
        assert client.receive_data(20) == [f"{n}".encode() for n in range(20)]
    one.event("SourceDraining")
    assert one.named("SourceFailed") == []


# Dead letters


def test_dead_letters_follow_a_change_of_their_queue(make: Make, topic: Topic, ministack: Ministack) -> None:
    one = make(LISTENER)
    queues = [DeadQueue(ministack), DeadQueue(ministack)]
    refused = {"EgressNetworks": ["203.0.113.0/24"]}
    ask(one, "POST", "packet-sources", source(topic, DeadLetterQueueArn=queues[0].arn, **refused), 201)
    shared = source(topic, "others", DeadLetterQueueArn=queues[0].arn, **refused)
    ask(one, "POST", "packet-sources", shared, 201)

    def fail(name: str) -> str:
        with Client() as client:
            answer = ask(one, "POST", f"packet-sources/{name}/messages", entry(client, name))
        assert [failure["Reason"] for failure in answer["Failures"]] == ["RemoteDenied"]
        assert answer["Settled"], "the letter was in its queue before the answer"
        return str(answer["MessageId"])

    first = [fail("replies"), fail("others")]
    assert {letter["MessageId"] for letter in queues[0].letters(2)} == set(first)
    ask(one, "PUT", "packet-sources/replies", source(topic, DeadLetterQueueArn=queues[1].arn, **refused))
    moved, stayed = fail("replies"), fail("others")
    assert [letter["MessageId"] for letter in queues[1].letters(1)] == [moved]
    assert stayed in {letter["MessageId"] for letter in queues[0].letters(3)}
    kept = one.metrics()
    assert kept.value("dead_letters_kept", queue=queues[0].arn) == 3
    assert kept.value("dead_letters_kept", queue=queues[1].arn) == 1

    # After the last one that names it, a queue is let go.
    ask(one, "DELETE", "packet-sources/others", status=204)
    ask(one, "DELETE", "draining/others", status=204)
    until(lambda: f'queue="{queues[0].arn}"' not in one.api("GET", "/metrics").text, "it is let go")
    ask(one, "PUT", "packet-sources/replies", source(topic, **refused))
    fail("replies")
    assert (queues[0].count(), queues[1].count()) == (3, 1)
    assert one.stop() == 0
    assert one.named("DeadLetterFailed") == []


# Log groups


def to_echo(**properties: Any) -> dict[str, Any]:
    batching = {"Count": 1, "TimeoutInSeconds": 0.05}
    return {"Name": "echo", "DestinationArn": "function:echo.py:handler", "Batching": batching, **properties}


def test_a_log_group_comes_changes_and_goes_with_its_listener(make: Make, ministack: Ministack) -> None:
    one = make(LISTENER)
    groups = [unique("/devices/first"), unique("/devices/second")]

    def events(group: str) -> list[str]:
        streams = content(ministack, group)
        assert all(name.startswith("sensors/1/") for name in streams)
        return [line["Event"] for lines in streams.values() for line in lines]

    def talk() -> None:
        with Client() as client:
            client.send(b"hello", ("127.0.0.1", port))
            assert client.receive()[0] == b"hello"

    made = ask(
        one, "POST", "listeners", listener("sensors", LogGroupName=groups[0], Destinations=[to_echo()]), 201
    )
    port = made["Port"]
    talk()
    until(
        lambda: {"ListenerStarted", "PacketReceived", "BatchDelivered"} <= set(events(groups[0])), "it logs"
    )

    ask(one, "PUT", "listeners/sensors", made | {"LogGroupName": groups[1]})
    talk()
    until(lambda: {"PacketReceived", "BatchDelivered"} <= set(events(groups[1])), "it logs elsewhere")
    assert events(groups[0]).count("PacketReceived") == 1

    # Bound anew: nothing is written twice while the one gives way to the other.
    moved = ask(one, "PUT", "listeners/sensors", made | {"LogGroupName": groups[1], "Bind": "127.0.0.1:0"})
    port = moved["Port"]
    talk()
    until(lambda: events(groups[1]).count("PacketReceived") == 2, "the new one logs too")

    ask(one, "DELETE", "listeners/sensors", status=204)
    until(lambda: events(groups[1])[-1] == "ListenerStopped", "its last event is written")
    assert len([name for name in events(groups[1]) if name == "BatchDelivered"]) == 2
    assert problem(request(one, "GET", "/v1/listeners/sensors"))[0] == 404
    until(lambda: 'sink="logs:sensors"' not in one.api("GET", "/metrics").text, "the group is let go")
    assert one.stop() == 0
    assert one.named("LogGroupFailed") == []
