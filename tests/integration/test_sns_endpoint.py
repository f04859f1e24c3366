"""The SNS endpoint as real boto3 uses it, served over TCP, with a stand-in for the sender."""

import asyncio
import base64
import json
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote_plus, unquote_to_bytes, urlencode

import boto3  # type: ignore[import-untyped]
import httpx
import pytest
from botocore.config import Config  # type: ignore[import-untyped]
from botocore.exceptions import ClientError  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st

from doubles import FakeSender
from sluicegate.http.server import Server
from sluicegate.sources.local.endpoint import NAMES_LIMIT, create_app
from sluicegate.sources.local.topics import Binding, Topics
from sluicegate.sources.local.xml import unquote_plus

ARN = "arn:aws:sns:us-east-1:123456789012:my-packet-source-topic"
LIMIT = 262_144
BODY_LIMIT = 3 * LIMIT + NAMES_LIMIT


class Served:
    """An endpoint in a loop of its own thread, as boto3 blocks."""

    def __init__(self) -> None:
        self.sender = FakeSender()
        self.topics = Topics("us-east-1")
        self.topics.bind(ARN, Binding("replies", 0, self.sender))
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.server = Server(create_app(self.topics), "127.0.0.1", 0, setting="sns.bind")
        asyncio.run_coroutine_threadsafe(self.server.start(), self.loop).result(10)
        self.url = self.server.url
        self.http = httpx.Client(base_url=self.url)
        self.sns: Any = boto3.client(
            "sns",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id="any",
            aws_secret_access_key="any",
            config=Config(retries={"max_attempts": 1, "mode": "standard"}),
        )

    def close(self) -> None:
        self.http.close()
        self.sns.close()
        asyncio.run_coroutine_threadsafe(self.server.stop(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


@pytest.fixture
def served() -> Iterator[Served]:
    made = Served()
    yield made
    made.close()


@pytest.fixture(scope="module")
def shared() -> Iterator[Served]:
    made = Served()
    yield made
    made.close()


def code_of(call: Any, **parameters: object) -> tuple[str, int, str]:
    """`(code, HTTP status, message)` of the error that the call ends with."""
    with pytest.raises(ClientError) as caught:
        call(**parameters)
    response = caught.value.response
    error = response["Error"]
    assert response["ResponseMetadata"]["RequestId"]
    return error["Code"], response["ResponseMetadata"]["HTTPStatusCode"], error["Message"]


def attribute(value: str, kind: str = "String") -> dict[str, str]:
    return {"DataType": kind, "StringValue": value}


# Messages


def test_the_flat_message_of_the_article_arrives_byte_for_byte(served: Served) -> None:
    payload = b"\x01\x02\x03\x04"
    text = json.dumps(
        {
            "Data": base64.b64encode(payload).decode(),
            "Remote": {"IP": "203.0.113.42", "Port": 4567},
        }
    )
    answer = served.sns.publish(TopicArn=ARN, Message=text)
    (message,) = served.sender.taken
    assert message.body == text.encode()
    assert message.message_id == answer["MessageId"]
    assert message.source == 0
    assert message.refusal is None
    assert message.published_at is not None


def test_the_messages_form_arrives_byte_for_byte(served: Served) -> None:
    text = json.dumps(
        {
            "Messages": [
                {"Data": "AQID", "Remote": {"Address": "198.51.100.7", "Port": 40001}},
                {"Data": "a+b=c&d%41 ✓ \r\n😀", "Formatter": "utf8", "Tag": "x_-"},
            ]
        },
        ensure_ascii=False,
    )
    served.sns.publish(TargetArn=ARN, Message=text, Subject="a subject")
    assert [message.body for message in served.sender.taken] == [text.encode()]


def test_a_thousand_entries_in_one_message(served: Served) -> None:
    entry = {"Data": "AQIDBA==", "Remote": {"Address": "198.51.100.8", "Port": 40002}}
    text = json.dumps({"Messages": [entry] * 1000})
    served.sns.publish(TopicArn=ARN, Message=text)
    assert served.sender.taken[0].body == text.encode()


def test_egress_region_is_read_from_the_attributes(served: Served) -> None:
    for region in ("us-east-1", "eu-west-1"):
        served.sns.publish(TopicArn=ARN, Message="{}", MessageAttributes={"EgressRegion": attribute(region)})
    here, elsewhere = served.sender.taken
    assert here.refusal is None
    assert elsewhere.refusal is not None
    assert elsewhere.refusal[0] == "WrongRegion"


def test_every_type_of_attribute_is_taken(served: Served) -> None:
    attributes = {
        "EgressRegion": attribute('["us-east-1"]', "String.Array"),
        "n": attribute("-1.5e3", "Number"),
        "own.type": attribute("7", "Number.int"),
        "b": {"DataType": "Binary", "BinaryValue": b"\x00\xff"},
    }
    served.sns.publish(TopicArn=ARN, Message="{}", MessageAttributes=attributes)
    assert served.sender.taken[0].refusal is None


def test_message_structure_json_takes_what_a_queue_would_get(served: Served) -> None:
    for texts, expected in (
        ({"default": "d", "sqs": "q", "http": "h"}, b"q"),
        ({"default": "d", "http": "h"}, b"d"),
    ):
        served.sns.publish(TopicArn=ARN, Message=json.dumps(texts), MessageStructure="json")
        assert served.sender.taken[-1].body == expected


def test_the_largest_message_is_taken_and_one_byte_more_is_not(served: Served) -> None:
    served.sns.publish(TopicArn=ARN, Message='"' * LIMIT)  # three bytes each on the wire
    assert served.sender.taken[0].body == b'"' * LIMIT
    code, status, text = code_of(served.sns.publish, TopicArn=ARN, Message="x" * (LIMIT + 1))
    assert (code, status) == ("InvalidParameter", 400)
    assert "too long" in text
    # Attributes count: name, type and value.
    full = {"EgressRegion": attribute("us-east-1")}
    fits = LIMIT - len("EgressRegionStringus-east-1")
    served.sns.publish(TopicArn=ARN, Message="x" * fits, MessageAttributes=full)
    assert code_of(served.sns.publish, TopicArn=ARN, Message="x" * (fits + 1), MessageAttributes=full)[0] == (
        "InvalidParameter"
    )


def test_an_answer_does_not_wait_for_the_clients_acknowledgement(served: Served) -> None:
    times = []
    for _ in range(21):
        began = time.monotonic()
        served.http.post("/", data={"Action": "Publish", "TopicArn": ARN, "Message": "m"}).raise_for_status()
        times.append(time.monotonic() - began)
    assert sorted(times)[10] < 0.03  # 44 ms with Nagle's algorithm


# Topics


def test_topics_are_created_listed_shown_and_deleted(served: Served) -> None:
    created = served.sns.create_topic(Name="mine", Attributes={"DisplayName": "a <b> & c"})["TopicArn"]
    assert created == "arn:aws:sns:us-east-1:000000000000:mine"
    assert served.sns.create_topic(Name="mine")["TopicArn"] == created
    assert served.sns.list_topics()["Topics"] == [{"TopicArn": created}, {"TopicArn": ARN}]
    shown = served.sns.get_topic_attributes(TopicArn=created)["Attributes"]
    assert (shown["TopicArn"], shown["Owner"], shown["DisplayName"]) == (created, "000000000000", "a <b> & c")
    assert served.sns.get_topic_attributes(TopicArn=ARN)["Attributes"]["SubscriptionsConfirmed"] == "1"
    served.sns.publish(TopicArn=created, Message="nobody listens")
    served.sns.delete_topic(TopicArn=created)
    served.sns.delete_topic(TopicArn=created)
    assert code_of(served.sns.get_topic_attributes, TopicArn=created)[:2] == ("NotFound", 404)


def test_the_paginator_of_boto3_finds_every_topic(served: Served) -> None:
    for number in range(230):
        served.topics.create(f"t{number}")
    pages = list(served.sns.get_paginator("list_topics").paginate())
    assert [len(page["Topics"]) for page in pages] == [100, 100, 31]
    assert len({topic["TopicArn"] for page in pages for topic in page["Topics"]}) == 231


# Errors, each by the code that boto3 sees


@pytest.mark.parametrize(
    ("parameters", "code", "status"),
    [
        ({"TopicArn": ARN[:-1], "Message": "m"}, "NotFound", 404),
        ({"TopicArn": "nonsense", "Message": "m"}, "InvalidParameter", 400),
        ({"TopicArn": "arn:aws:sqs:us-east-1:123456789012:q", "Message": "m"}, "InvalidParameter", 400),
        ({"TopicArn": ARN + ".fifo", "Message": "m"}, "InvalidParameter", 400),
        ({"TopicArn": ARN, "TargetArn": ARN, "Message": "m"}, "InvalidParameter", 400),
        ({"TopicArn": ARN, "Message": ""}, "InvalidParameter", 400),
        ({"Message": "m"}, "InvalidParameter", 400),
        ({"PhoneNumber": "+491234", "Message": "m"}, "InvalidParameter", 400),
        ({"TopicArn": ARN, "Message": "m", "Subject": "x" * 101}, "InvalidParameter", 400),
        ({"TopicArn": ARN, "Message": "m", "Subject": "a\nb"}, "InvalidParameter", 400),
        ({"TopicArn": ARN, "Message": "m", "MessageDeduplicationId": "d"}, "InvalidParameter", 400),
        ({"TopicArn": ARN, "Message": "m", "MessageStructure": "xml"}, "InvalidParameter", 400),
        ({"TopicArn": ARN, "Message": "{", "MessageStructure": "json"}, "InvalidParameter", 400),
        ({"TopicArn": ARN, "Message": '{"sqs":"q"}', "MessageStructure": "json"}, "InvalidParameter", 400),
    ],
)
def test_bad_parameters_of_publish(
    shared: Served, parameters: dict[str, str], code: str, status: int
) -> None:
    assert code_of(shared.sns.publish, **parameters)[:2] == (code, status)
    assert shared.sender.taken == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("a", {"DataType": "Bool", "StringValue": "x"}),
        ("a", {"DataType": "Stringy", "StringValue": "x"}),
        ("a", {"DataType": "", "StringValue": "x"}),
        ("a", {"DataType": "String", "StringValue": ""}),
        ("a", {"DataType": "String"}),
        ("a", {"DataType": "String", "BinaryValue": b"x"}),
        ("a", {"DataType": "Binary", "StringValue": "x"}),
        ("a", {"DataType": "Number", "StringValue": "ten"}),
        ("", {"DataType": "String", "StringValue": "x"}),
        (".a", {"DataType": "String", "StringValue": "x"}),
        ("a..b", {"DataType": "String", "StringValue": "x"}),
        ("a b", {"DataType": "String", "StringValue": "x"}),
        ("AWS.a", {"DataType": "String", "StringValue": "x"}),
        ("a" * 257, {"DataType": "String", "StringValue": "x"}),
    ],
)
def test_bad_attributes_are_refused(shared: Served, name: str, value: dict[str, Any]) -> None:
    found = code_of(shared.sns.publish, TopicArn=ARN, Message="m", MessageAttributes={name: value})
    assert found[:2] == ("ParameterValueInvalid", 400)
    with pytest.raises(shared.sns.exceptions.InvalidParameterValueException):
        shared.sns.publish(TopicArn=ARN, Message="m", MessageAttributes={name: value})


def test_a_full_sender_answers_throttled(served: Served) -> None:
    served.sender.full = True
    with pytest.raises(ClientError) as caught:
        served.sns.publish(TopicArn=ARN, Message="m")
    assert caught.value.response["Error"]["Code"] == "Throttled"
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 429
    assert served.sender.taken == []


def test_bad_topics(shared: Served) -> None:
    assert code_of(shared.sns.create_topic, Name="a b")[:2] == ("InvalidParameter", 400)
    assert code_of(shared.sns.create_topic, Name="a.fifo")[0] == "InvalidParameter"
    fifo = {"FifoTopic": "true"}
    assert "FIFO" in code_of(shared.sns.create_topic, Name="a", Attributes=fifo)[2]
    assert "Unknown" in code_of(shared.sns.create_topic, Name="a", Attributes={"Nonsense": "x"})[2]
    assert code_of(shared.sns.get_topic_attributes, TopicArn="x")[0] == "InvalidParameter"
    assert code_of(shared.sns.delete_topic, TopicArn="x")[0] == "InvalidParameter"
    assert code_of(shared.sns.list_topics, NextToken="\x00é")[0] == "InvalidParameter"


def test_an_action_of_sns_that_is_not_served_says_so(shared: Served) -> None:
    code, status, text = code_of(shared.sns.list_subscriptions)
    assert (code, status) == ("InvalidAction", 400)
    assert "PublishBatch" in text


# Batches


def batch(*messages: str) -> list[dict[str, Any]]:
    return [{"Id": f"e{number}", "Message": message} for number, message in enumerate(messages)]


def test_a_batch_reports_each_entry(served: Served) -> None:
    entries = batch("one", "", "three", "four")
    entries[2]["MessageAttributes"] = {"a": attribute("x", "Bool")}
    entries[3]["MessageAttributes"] = {"EgressRegion": attribute("eu-west-1")}
    answer = served.sns.publish_batch(TopicArn=ARN, PublishBatchRequestEntries=entries)
    assert [entry["Id"] for entry in answer["Successful"]] == ["e0", "e3"]
    assert [(entry["Id"], entry["Code"], entry["SenderFault"]) for entry in answer["Failed"]] == [
        ("e1", "InvalidParameter", True),
        ("e2", "ParameterValueInvalid", True),
    ]
    assert [message.body for message in served.sender.taken] == [b"one", b"four"]
    assert [message.message_id for message in served.sender.taken] == [
        entry["MessageId"] for entry in answer["Successful"]
    ]
    assert [message.refusal and message.refusal[0] for message in served.sender.taken] == [
        None,
        "WrongRegion",
    ]


def test_a_batch_that_fills_the_sender_is_throttled_from_there_on(served: Served) -> None:
    served.sender.room = 2
    answer = served.sns.publish_batch(
        TopicArn=ARN, PublishBatchRequestEntries=batch(*(str(number) for number in range(10)))
    )
    assert [entry["Id"] for entry in answer["Successful"]] == ["e0", "e1"]
    assert {(entry["Code"], entry["SenderFault"]) for entry in answer["Failed"]} == {("Throttled", False)}
    assert [message.body for message in served.sender.taken] == [b"0", b"1"]  # in the order of the batch


def test_ten_entries_keep_their_order(served: Served) -> None:
    texts = [f"m{number}" for number in range(10)]
    served.sns.publish_batch(TopicArn=ARN, PublishBatchRequestEntries=batch(*texts))
    assert [message.body.decode() for message in served.sender.taken] == texts


@pytest.mark.parametrize(
    ("arn", "entries", "code", "status"),
    [
        (ARN, [], "EmptyBatchRequest", 400),
        (ARN, batch(*["m"] * 11), "TooManyEntriesInBatchRequest", 400),
        (ARN, [{"Id": "a", "Message": "m"}] * 2, "BatchEntryIdsNotDistinct", 400),
        (ARN, [{"Id": "a b", "Message": "m"}], "InvalidBatchEntryId", 400),
        (ARN, [{"Id": "a" * 81, "Message": "m"}], "InvalidBatchEntryId", 400),
        (ARN, [{"Id": "", "Message": "m"}], "InvalidBatchEntryId", 400),
        (ARN, batch("x" * (LIMIT // 2), "x" * (LIMIT // 2 + 1)), "BatchRequestTooLong", 400),
        (ARN[:-1], batch("m"), "NotFound", 404),
        ("x", batch("m"), "InvalidParameter", 400),
    ],
)
def test_a_batch_that_is_refused_whole(
    shared: Served, arn: str, entries: list[dict[str, str]], code: str, status: int
) -> None:
    found = code_of(shared.sns.publish_batch, TopicArn=arn, PublishBatchRequestEntries=entries)
    assert found[:2] == (code, status)
    assert shared.sender.taken == []


# What is not boto3


def error_code(response: httpx.Response) -> str | None:
    root = ElementTree.fromstring(response.content)
    return root.findtext(".//{*}Error/{*}Code")


def test_requests_of_web_pages_are_refused(served: Served) -> None:
    form = {"Action": "Publish", "TopicArn": ARN, "Message": "m"}
    for headers in (
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Host": "evil.example:4566"},
    ):
        answer = served.http.post("/", data=form, headers=headers)
        assert (answer.status_code, error_code(answer)) == (403, "AccessDenied")
    assert served.http.get("/", params=form).status_code == 405
    assert served.sender.taken == []
    for host in ("localhost:4566", "127.0.0.1", "[::1]:4566"):
        assert served.http.post("/", data=form, headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    ("content", "headers", "status", "code"),
    [
        (b"{}", {"Content-Type": "application/json"}, 415, "UnsupportedMediaType"),
        (b"Action=ListTopics", {}, 415, "UnsupportedMediaType"),
        (
            b"Action=ListTopics",
            {"Content-Type": "application/x-www-form-urlencoded", "Content-Encoding": "gzip"},
            415,
            "UnsupportedMediaType",
        ),
        (b"", {"Content-Type": "application/x-www-form-urlencoded"}, 400, "MissingAction"),
        (b"Action=%ff", {"Content-Type": "application/x-www-form-urlencoded"}, 400, "InvalidParameter"),
        (b"%ff=a", {"Content-Type": "application/x-www-form-urlencoded"}, 400, "InvalidParameter"),
        (b"Action=N%00%3C", {"Content-Type": "application/x-www-form-urlencoded"}, 400, "InvalidAction"),
        (b"&" * 6000, {"Content-Type": "application/x-www-form-urlencoded"}, 400, "InvalidParameter"),
        (
            b"Action=" + b"x" * BODY_LIMIT,
            {"Content-Type": "application/x-www-form-urlencoded"},
            413,
            "RequestEntityTooLarge",
        ),
    ],
)
def test_garbage_is_told_what_is_wrong(
    shared: Served, content: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    answer = shared.http.post("/any/path", content=content, headers=headers)
    assert (answer.status_code, error_code(answer)) == (status, code)


def test_a_message_that_is_not_utf8_is_refused(shared: Served) -> None:
    body = b"Action=Publish&TopicArn=" + ARN.encode() + b"&Message=%ff%fe"
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = shared.http.post("/", content=body, headers=headers)
    assert (answer.status_code, error_code(answer)) == (400, "InvalidParameter")


def test_a_body_without_an_end_is_cut_off(shared: Served) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(20 * BODY_LIMIT // (1 << 20)):
            yield b"x" * (1 << 20)

    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    try:
        status = shared.http.post("/", content=endless(), headers=headers).status_code
    except httpx.TransportError:
        status = 413  # the connection was closed on a client that would not stop
    assert status == 413
    assert shared.sns.list_topics()["Topics"]  # and the endpoint serves on


entry = "PublishBatchRequestEntries.member.1"
map_entry = "MessageAttributes.entry.1"
names = st.sampled_from(
    ["Action", "TopicArn", "TargetArn", "PhoneNumber", "Message", "Subject", "MessageStructure", "Name"]
    + ["NextToken", "Attributes.entry.1.key", "MessageAttributes.entry.x.Name", "MessageAttributes.entry.²"]
    + [f"{map_entry}.{part}" for part in ("Name", "Value.DataType", "Value.StringValue", "Value.BinaryValue")]
    + ["PublishBatchRequestEntries", entry, f"{entry}.Id", f"{entry}.Message", f"{entry}.{map_entry}.Name"]
)
values = st.text(max_size=30) | st.sampled_from(
    ["Publish", "PublishBatch", "CreateTopic", "DeleteTopic", "json", "String", "Binary", ARN, "e1"]
)
actions = st.sampled_from(
    ["Publish", "PublishBatch", "CreateTopic", "DeleteTopic", "ListTopics", "GetTopicAttributes"]
)
forms = st.builds(
    lambda action, pairs: urlencode([("Action", action), ("TopicArn", ARN), *pairs]).encode(),
    actions,
    st.lists(st.tuples(names, values), max_size=12),
)


@settings(max_examples=300, deadline=None)
@given(forms | st.binary(max_size=400))
def test_no_form_gets_a_server_error(shared: Served, body: bytes) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = shared.http.post("/", content=body, headers=headers)
    assert 200 <= answer.status_code < 500
    ElementTree.fromstring(answer.content)
    shared.sender.taken.clear()
    shared.topics.bind(ARN, Binding("replies", 0, shared.sender))  # a DeleteTopic may have come by
    for binding in shared.topics.sources(ARN)[1:]:
        shared.topics.unbind(ARN, binding)


@given(st.text(alphabet="ab%4=+&_0Ff \r\n\t", max_size=40) | st.text(max_size=40))
def test_values_are_decoded_as_the_standard_library_does(value: str) -> None:
    raw = value.encode("utf-8", "surrogatepass")
    assert unquote_plus(raw) == unquote_to_bytes(raw.replace(b"+", b" "))
    encoded = quote_plus(raw).encode()
    assert unquote_plus(encoded) == raw
