"""Packets from a topic on AWS: real boto3 publishers, the real gateway, an independent SNS and SQS (contract 4.2)."""

import base64
import json
import time
from collections import Counter
from pathlib import Path

import pytest
from aws_sources import (
    Served,
    Topic,
    article,
    comes_through,
    entry,
    received,
    wait_until_empty,
    wait_until_gone,
)
from aws_sources import brisk as brisk
from aws_sources import served as served
from aws_sources import topic as topic
from harness import Client, Gateway, clients, until
from ministack import ACCOUNT, REGION, Ministack

from doubles import envelope

OTHER = "eu-west-1"


def settled(one: Gateway, topic: Topic) -> None:
    """Once it is subscribed."""
    one.event("SourceSubscribed", PacketSource="replies")
    assert topic.subscriptions()


@pytest.fixture
def one(ministack: Ministack, brisk: Served, topic: Topic) -> Gateway:
    """A gateway that is subscribed."""
    made = brisk(topic, ministack.url)
    settled(made, topic)
    return made


def test_the_publish_of_the_article(one: Gateway, topic: Topic) -> None:
    with Client() as client:
        topic.publish(article(client, base64.b64encode(b"\x01\x02\x03\x04").decode()))
        assert client.receive() == (b"\x01\x02\x03\x04", one.address())
    wait_until_empty(topic.queue())
    assert received(one, "received") == received(one, "deleted") == 1


def test_the_queue_and_its_subscription(ministack: Ministack, served: Served, topic: Topic) -> None:
    settled(served(topic, ministack.url), topic)
    (subscription,) = topic.subscription_attributes()
    assert subscription["RawMessageDelivery"] == "false"
    assert "FilterPolicy" not in subscription
    assert "RedrivePolicy" not in subscription
    queue = topic.queue().attributes()
    assert queue["QueueArn"].startswith(f"arn:aws:sqs:{REGION}:{ACCOUNT}:sluicegate-replies-")
    assert queue["ReceiveMessageWaitTimeSeconds"] == "20"
    assert queue["VisibilityTimeout"] == "30"
    (statement,) = json.loads(queue["Policy"])["Statement"]
    assert statement["Principal"] == {"Service": "sns.amazonaws.com"}
    assert statement["Condition"] == {"ArnEquals": {"aws:SourceArn": topic.arn}}


def test_a_batch_and_a_thousand_remotes(one: Gateway, topic: Topic) -> None:
    with Client() as client:
        topic.publish_batch([entry(client, f"batch-{n}") for n in range(10)])
        assert Counter(client.receive_data(10)) == Counter(f"batch-{n}".encode() for n in range(10))
    with clients(100) as devices:
        messages = [entry(devices[n % 100], f"{n}") for n in range(1_000)]
        topic.publish({"Messages": messages})
        for number, device in enumerate(devices):
            assert device.receive_data(10) == [str(n).encode() for n in range(number, 1_000, 100)]
    assert one.metrics().value("source_sent_packets") == 1_010


def test_remotes_and_entries_of_later(one: Gateway, topic: Topic) -> None:
    with Client() as now, Client() as later:
        due = time.time() + 2
        published = topic.publish(
            {
                "Messages": [
                    {**entry(now, "many"), "Remote": None, "Remotes": [now.remote, None, now.remote]},
                    {**entry(later, "due"), "SendAt": due, "Id": "fw-1"},
                ]
            }
        )
        (failed,) = one.wait_for("SourceFailed", 1)
        assert (failed["MessageId"], failed["Index"], failed["RemoteIndex"]) == (published, 0, 1)
        assert now.receive_data(2) == [b"many"] * 2
        # What waits lies in the state, and no more in the queue.
        wait_until_empty(topic.queue())
        assert later.receive_data(1) == [b"due"]
        assert time.time() >= due
    assert one.metrics().value("source_scheduled_entries") == 1


def test_regions(ministack: Ministack, brisk: Served, topic: Topic) -> None:
    home = brisk(topic, ministack.url)
    settled(home, topic)
    away = brisk(topic, ministack.url, region=OTHER)
    subscribed = away.event("SourceSubscribed", PacketSource="replies")
    assert "15 minutes" in subscribed["Detail"]
    assert "15 minutes" in home.event("SourceRegionAdded", EgressRegion=OTHER)["Detail"]
    filters = [json.loads(one.get("FilterPolicy", "null")) for one in topic.subscription_attributes()]
    assert filters == [None, {"EgressRegion": [OTHER]}]
    with Client() as client:
        topic.publish(entry(client, "none"))
        topic.publish(entry(client, "here"), EgressRegion=REGION)
        topic.publish(entry(client, "there"), EgressRegion=OTHER)
        topic.publish(entry(client, "both"), EgressRegion=[REGION, OTHER])
        lost = topic.publish(entry(client, "nowhere"), EgressRegion="eu-wset-1")
        half = topic.publish(entry(client, "half"), EgressRegion=[OTHER, "eu-wset-1"])
        came = Counter(client.receive() for _ in range(6))
        failures = home.wait_for("SourceFailed", 2, Reason="WrongRegion")
        assert {failure["MessageId"] for failure in failures} == {lost, half}
        assert "eu-wset-1" in failures[0]["Detail"]
        assert came == Counter(
            [
                (b"none", home.address()),
                (b"here", home.address()),
                (b"there", away.address()),
                (b"both", home.address()),
                (b"both", away.address()),
                (b"half", away.address()),
            ]
        )
        wait_until_empty(topic.queue(REGION))
        wait_until_empty(topic.queue(OTHER))
        assert client.waiting() == []
    assert received(home, "skipped") == 1
    assert home.metrics().value("source_failed_entries", reason="WrongRegion") == 2


def test_another_home_region(ministack: Ministack, brisk: Served, topic: Topic) -> None:
    home = brisk(topic, ministack.url, region=OTHER, source=f"    home_region: {OTHER}")
    settled(home, topic)
    (subscription,) = topic.subscription_attributes()
    assert "FilterPolicy" not in subscription
    comes_through(topic, home, "no attribute")


def test_a_subscription_that_was_removed_by_hand_comes_back(one: Gateway, topic: Topic) -> None:
    topic.unsubscribe()
    one.wait_for("SourceSubscribed", 2)
    comes_through(topic, one, "again")


def test_a_topic_that_was_deleted_and_made_again(one: Gateway, topic: Topic) -> None:
    topic.delete()
    failed = one.event("SourceProvisionFailed")
    assert topic.arn in failed["Detail"]
    assert "create the topic" in failed["Detail"]
    topic.create()
    one.wait_for("SourceSubscribed", 2)
    one.event("SourceRecovered")
    comes_through(topic, one, "reborn")


def test_a_queue_that_was_deleted_is_made_again(ministack: Ministack, brisk: Served, topic: Topic) -> None:
    # Found by the poll that fails, not by the next check.
    one = brisk(topic, ministack.url, reconcile_seconds=3600)
    settled(one, topic)
    queue = topic.queue()
    queue.sqs.delete_queue(QueueUrl=queue.url)
    one.event("SourcePollFailed")

    def works() -> bool:
        with Client() as client:
            topic.publish(entry(client, "new queue"))
            client.socket.settimeout(1)
            try:
                return client.receive()[0] == b"new queue"
            except TimeoutError:
                return False

    until(works, "messages come through a new queue")


def test_disabled_means_unsubscribed_and_what_waits_stays(one: Gateway, topic: Topic) -> None:
    queue = topic.queue()
    assert one.stop() == 0
    with Client() as client:
        topic.publish(entry(client, "waits"))
        one.edit("    egress_networks:", "    enabled: false\n    egress_networks:")
        one.start()
        one.event("SourceUnsubscribed")
        assert topic.subscriptions() == []
        topic.publish(entry(client, "not collected"))
        assert not queue.is_empty()
        assert one.stop() == 0
        one.edit("    enabled: false\n", "")
        one.start()
        assert client.receive_data(1) == [b"waits"]
        settled(one, topic)
        topic.publish(entry(client, "enabled"))
        assert client.receive_data(1) == [b"enabled"]


def test_a_stop_keeps_everything_and_what_waits_is_sent_by_the_next_start(one: Gateway, topic: Topic) -> None:
    before = topic.subscriptions()
    assert one.stop() == 0
    assert topic.subscriptions() == before
    with Client() as client:
        topic.publish(entry(client, "while it was down"))
        one.start()
        assert client.receive_data(1) == [b"while it was down"]
    assert topic.subscriptions() == before


def test_a_source_that_is_gone_from_the_configuration_is_cleaned_up(one: Gateway, topic: Topic) -> None:
    queue = topic.queue()
    assert one.stop() == 0
    text = one.file.read_text()
    one.file.write_text(text[: text.index("packet_sources:")] + text[text.index("ports:") :])
    one.start()
    one.event("SourceDraining", PacketSource="replies", Queue=queue.arn)
    assert topic.subscriptions() == []
    wait_until_gone(queue)
    one.event("SourceRemoved", PacketSource="replies", Queue=queue.arn)


def test_a_change_of_what_it_subscribes_with_loses_nothing(
    one: Gateway, ministack: Ministack, topic: Topic
) -> None:
    """SNS cannot change a subscription with the three permissions: another queue takes over."""
    first = topic.queue()
    assert one.stop() == 0
    with Client() as client:
        topic.publish(entry(client, "in the old queue"))
        dead = ministack.client("sqs").create_queue(QueueName=f"{topic.name}-dead")["QueueUrl"]
        arn = f"arn:aws:sqs:{REGION}:{ACCOUNT}:{topic.name}-dead"
        one.edit("    egress_networks:", f"    dead_letter_queue_arn: {arn}\n    egress_networks:")
        one.start()
        settled(one, topic)
        (subscription,) = topic.subscription_attributes()
        assert json.loads(subscription["RedrivePolicy"]) == {"deadLetterTargetArn": arn}
        assert topic.queue().arn != first.arn
        assert client.receive_data(1) == [b"in the old queue"]
        topic.publish(entry(client, "in the new one"))
        assert client.receive_data(1) == [b"in the new one"]
    wait_until_gone(first)
    ministack.client("sqs").delete_queue(QueueUrl=dead)


def test_one_malformed_message_in_ten(
    ministack: Ministack, brisk: Served, topic: Topic, tmp_path: Path
) -> None:
    dead = tmp_path / "dead.ndjson"
    one = brisk(topic, ministack.url, source=f"    dead_letter_queue_arn: file:{dead}")
    settled(one, topic)
    bad = ["not JSON", "[]", json.dumps([1, 2]), '"text"', "{", "null"]
    with Client() as client:
        published = []
        for number in range(60):
            if number % 10 == 9:
                published.append(topic.publish(bad[number // 10]))
            else:
                topic.publish(entry(client, f"{number}"))
        topic.queue().put("straight into the queue, without an envelope")
        topic.queue().put(json.dumps(entry(client, "raw")))
        good = {str(n).encode() for n in range(60) if n % 10 != 9} | {b"raw"}
        assert set(client.receive_data(55)) == good
    one.wait_for("SourceFailed", 7, Reason="MalformedMessage")
    wait_until_empty(topic.queue())
    letters = [json.loads(line) for line in dead.read_text().splitlines()]
    assert {letter["MessageId"] for letter in letters} > set(published)
    assert Counter(letter["Reason"] for letter in letters) == {"MalformedMessage": 7}
    assert one.metrics().value("source_failed_entries", reason="MalformedMessage") == 7
    assert received(one, "redelivered") == 0


def test_a_message_of_another_topic_is_refused(one: Gateway, topic: Topic) -> None:
    with Client() as client:
        topic.queue().put(envelope("from-elsewhere", entry(client, "forged"), topic=f"{topic.arn}-not"))
        failed = one.event("SourceFailed", MessageId="from-elsewhere")
        assert failed["Reason"] == "MalformedMessage"
        assert f"{topic.arn}-not" in failed["Detail"]
        assert client.waiting() == []


def test_the_same_message_twice_is_one_packet(one: Gateway, topic: Topic) -> None:
    with Client() as client:
        body = envelope("twice", entry(client, "once"), topic=topic.arn, Timestamp="2026-06-09T10:00:00.123Z")
        queue = topic.queue()
        queue.put(body)
        assert client.receive_data(1) == [b"once"]
        wait_until_empty(queue)
        queue.put(body)
        until(lambda: received(one, "deleted") == 2, "the repeat is deleted")
        one.kill()
        queue.put(body)
        one.start()
        until(lambda: received(one, "deleted") == 1, "the repeat is deleted after a crash too")
        assert client.waiting() == []


def test_aws_out_of_reach_at_the_start(brisk: Served, topic: Topic, ministack: Ministack) -> None:
    one = brisk(topic, "http://127.0.0.1:9")  # nobody listens at the discard port
    failed = one.event("SourceProvisionFailed", PacketSource="replies")
    assert "127.0.0.1:9" in failed["Detail"]
    assert one.address()[1]
    assert one.stop() == 0


def test_what_a_killed_gateway_had_sent_of_a_message_is_not_sent_with_its_redelivery(
    ministack: Ministack, brisk: Served, topic: Topic
) -> None:
    one = brisk(topic, ministack.url, source="    rate_limit: { packets_per_second: 20, burst: 1 }\n")
    one.event("SourceSubscribed")
    with Client() as client:
        ids = [f"fw-17/{n}" for n in range(60)]
        topic.publish(
            {
                "Messages": [
                    {"Data": one, "Formatter": "utf8", "Remote": client.remote, "Id": one} for one in ids
                ]
            }
        )
        received = client.receive_data(20)
        one.kill()
        received += client.waiting()
        assert len(received) < len(ids)
        assert topic.queue().in_flight() == 1
        one.start()
        wait_until_empty(topic.queue())  # it came again
        received += client.waiting()
    assert {data.decode() for data in received} == set(ids), "none is lost"
    assert len(received) - len(ids) <= 5, "of the last turn alone"
