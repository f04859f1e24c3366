"""What waits in a queue that the configuration does not name any more is sent before the queue goes (contract 4.2)."""

import json
from collections.abc import Callable

import pytest
from aws_sources import Served, Topic, comes_through, entry, wait_until_empty, wait_until_gone
from aws_sources import brisk as brisk
from aws_sources import topic as topic
from harness import Client, Gateway, free_port, until
from ministack import Ministack
from test_cli_control import sources

from doubles import envelope

WAITING = [b"0", b"1", b"2"]


@pytest.fixture
def one(ministack: Ministack, brisk: Served, topic: Topic) -> Gateway:
    """A gateway that is subscribed."""
    made = brisk(topic, ministack.url)
    made.event("SourceSubscribed")
    return made


def stopped_with_three(one: Gateway, topic: Topic, client: Client) -> None:
    """The gateway stops, and three messages come after that."""
    assert one.stop() == 0
    for number in range(3):
        topic.publish(entry(client, f"{number}"))


def test_a_mistyped_topic_and_its_correction_lose_nothing(one: Gateway, topic: Topic) -> None:
    queue = topic.queue()
    with Client() as client:
        stopped_with_three(one, topic, client)
        one.edit(topic.arn, f"{topic.arn}-mistyped")
        one.start()
        assert sorted(client.receive_data(3)) == WAITING
        failed = one.event("SourceProvisionFailed")
        assert "create the topic, or correct `topic_arn`" in failed["Detail"]
        assert "could not be subscribed yet" in one.event("SourceDraining", Queue=queue.arn)["Detail"]
        topic.publish(entry(client, "by the old way"))
        assert client.receive_data(1) == [b"by the old way"]

        (shown,) = one.api("GET", "/v1/packet-sources/replies").json()["Draining"]
        assert (shown["Queue"], shown["Subscribed"], shown["SentBy"]) == (queue.arn, True, "replies")
        assert one.metrics().value("draining_queues") == 1

        one.edit(f"{topic.arn}-mistyped", topic.arn)
        assert one.api("POST", "/v1/reload").status_code == 200
        comes_through(topic, one, "corrected")
        assert topic.queue().arn == queue.arn
        until(lambda: "Draining" not in one.api("GET", "/v1/packet-sources/replies").json(), "nothing drains")
    assert one.named("SourceRemoved") == []


def rename(one: Gateway) -> None:
    one.edit("name: replies", "name: answers")


def other_node(one: Gateway) -> None:
    one.file.write_text(f"node: 2\n{one.file.read_text()}")


def other_region(one: Gateway) -> None:
    one.edit("region: us-east-1", "region: eu-west-1")


def stray_sns(one: Gateway) -> None:
    one.file.write_text(f"sns: {{ bind: 127.0.0.1:{free_port()} }}\n{one.file.read_text()}")


def gone(one: Gateway) -> None:
    text = one.file.read_text()
    one.file.write_text(text[: text.index("packet_sources:")] + text[text.index("ports:") :])


@pytest.mark.parametrize("change", [rename, other_node, other_region, stray_sns, gone])
def test_whatever_makes_a_queue_left_over_what_waits_is_sent_once(
    one: Gateway, topic: Topic, change: Callable[[Gateway], None]
) -> None:
    queue = topic.queue()
    with Client() as client:
        stopped_with_three(one, topic, client)
        change(one)
        one.start()
        assert sorted(client.receive_data(3)) == WAITING
        until(
            lambda: (
                all(found["Endpoint"] != queue.arn for found in topic.subscriptions())
                or change is other_region
            ),
            "the old subscription is ended",
        )
        wait_until_empty(queue)
        assert client.waiting() == []


def test_one_that_is_killed_while_it_drains_goes_on(one: Gateway, topic: Topic) -> None:
    queue = topic.queue()
    with Client() as client:
        stopped_with_three(one, topic, client)
        gone(one)
        one.start()
        assert sorted(client.receive_data(3)) == WAITING
        wait_until_empty(queue)
        one.kill()
        queue.put(envelope("later", entry(client, "later"), topic=topic.arn))
        one.start()
        assert client.receive_data(1) == [b"later"]
        wait_until_empty(queue)
        assert client.waiting() == []


def test_a_deleted_source_sends_what_waits_and_its_queue_goes_after_that(one: Gateway, topic: Topic) -> None:
    queue = topic.queue()
    with Client() as client:
        stopped_with_three(one, topic, client)
        gone(one)
        one.start()
        assert sorted(client.receive_data(3)) == WAITING
    assert one.api("POST", "/v1/packet-sources/replies/messages", {"Data": "AQ=="}).status_code == 404
    code, text, _ = sources(one, "list")
    assert code == 0
    assert ["replies", "Draining", topic.arn] in [line.split() for line in text.splitlines()]
    wait_until_gone(queue)
    assert one.event("SourceRemoved")["Queue"] == queue.arn
    until(lambda: one.api("GET", "/v1/draining").json()["Items"] == [], "nothing drains")
    code, text, _ = sources(one, "list")
    assert (code, text) == (0, "this gateway has no PacketSource")


def test_without_its_listener_it_waits_and_is_sent_when_that_is_back(one: Gateway, topic: Topic) -> None:
    queue = topic.queue()
    with Client() as client:
        stopped_with_three(one, topic, client)
        before = one.file.read_text()
        one.edit("- name: decoder", "- name: other")
        text = one.file.read_text()
        one.file.write_text(text[: text.index("packet_sources:")] + text[text.index("ports:") :])
        one.start()
        told = one.event("SourceDraining", Queue=queue.arn)
        assert "nobody sends what waits in it" in told["Detail"]
        (shown,) = one.api("GET", "/v1/draining").json()["Items"]
        assert (shown["State"], shown["PacketSource"]) == ("Waiting", "replies")
        until(lambda: one.api("GET", "/v1/draining").json()["Items"][0].get("Messages") == 3, "it is counted")
        one.file.write_text(before[: before.index("packet_sources:")] + before[before.index("ports:") :])
        assert one.api("POST", "/v1/reload").status_code == 200
        assert sorted(client.receive_data(3)) == WAITING
        assert one.event("SourceDraining", Listener="decoder")["Queue"] == queue.arn


def test_what_is_not_wanted_is_discarded(one: Gateway, topic: Topic) -> None:
    queue = topic.queue()
    with Client() as client:
        one.edit("    egress_networks:", "    enabled: false\n    egress_networks:")
        assert one.api("POST", "/v1/reload").status_code == 200
        one.event("SourceUnsubscribed")
        queue.put(json.dumps(entry(client, "never")))
        assert one.stop() == 0
        gone(one)
        one.start()
        until(lambda: one.api("GET", "/v1/draining").json()["Items"][0]["State"] == "Waiting", "it waits")
        code, _, said = sources(one, "remove", "nobody", "--discard")
        assert (code, "nobody" in said) == (1, True)
        assert not queue.is_gone()
        code, text, _ = sources(one, "remove", "replies", "--discard")
        assert (code, text) == (0, f"replies is removed\n{queue.arn} is deleted")
        until(queue.is_gone, "the queue is deleted")
        assert one.event("ResourceChanged", Action="Discard")["Result"] == "Done"
        assert client.waiting() == []


def test_remove_deletes_a_source_of_the_api_and_discard_takes_first_what_drains(
    one: Gateway, topic: Topic, ministack: Ministack
) -> None:
    other = Topic(ministack)
    first = topic.queue()
    one.edit(topic.arn, other.arn)
    assert one.api("POST", "/v1/reload").status_code == 200
    one.event("SourceSubscribed", Topic=other.arn)
    code, text, _ = sources(one, "remove", "replies", "--discard")
    assert (code, text) == (0, f"replies stays as it is declared\n{first.arn} is deleted")
    until(first.is_gone, "the queue is deleted")
    comes_through(other, one, "still there")
    code, _, said = sources(one, "remove", "replies", "--discard")
    assert (code, "the file owns what it names" in said) == (1, True)
    gone(one)
    assert one.api("POST", "/v1/reload").status_code == 200
    code, text, _ = sources(one, "remove", "replies", "--discard", "--output", "json")
    assert (code, json.loads(text)["Removed"]) == (0, True)
    other.delete()


def test_a_source_of_the_api_is_removed(ministack: Ministack, brisk: Served, topic: Topic) -> None:
    one = brisk(topic, ministack.url)
    one.event("SourceSubscribed")
    document = {
        "Name": "second",
        "ListenerName": "decoder",
        "SnsTopicSource": {"TopicArn": topic.arn},
        "EgressNetworks": ["127.0.0.0/8"],
    }
    assert one.api("POST", "/v1/packet-sources", document).status_code == 201
    one.event("SourceSubscribed", PacketSource="second")
    code, text, _ = sources(one, "remove", "second", "--discard")
    assert (code, text.splitlines()[0]) == (0, "second is removed")
    until(lambda: len(topic.subscriptions()) == 1, "its subscription is ended")
    assert one.api("GET", "/v1/packet-sources/second").status_code == 404
