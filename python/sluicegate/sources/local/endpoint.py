"""The gateway's own SNS endpoint (contract section 4.2): the SNS query API over local topics, as AWS SDKs
speak it.

`create_app` is given an `Authorize`: on loopback `sources/local/access.py`, where most needs no signature, on any other
address `sources/local/signature.py`. What keeps web pages out is in `http/doors.py`.

One Publish is one hop: the form is read, the message checked as SNS would, and handed to the sender in the same turn of
the event loop; `Throttled` (429) answers when the sender has no room.

Whatever a client sends, the answer is 2xx or 4xx with SNS's error document; 500 when the state cannot be written.
"""

import asyncio
import json
import re
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Awaitable, Callable, Iterable, Mapping
from uuid import uuid4

from starlette.types import ASGIApp, Receive, Scope, Send

from sluicegate.http.doors import (
    BodyTooLarge,
    Disconnected,
    discard_body,
    header,
    read_body,
    refused_host,
    refused_origin,
)
from sluicegate.sources.local.attributes import MESSAGE_SIZE, check_attribute, check_tags
from sluicegate.sources.local.request import SnsMessage, message_size, read_message
from sluicegate.sources.local.topics import InvalidTopic, Throttled, TopicLimitExceeded, TopicNotFound, Topics
from sluicegate.sources.local.xml import (
    SnsError,
    element,
    entries,
    error_response,
    group,
    invalid_parameter,
    members,
    parse_form,
    response,
    text,
)
from sluicegate.state import StateError

NAMES_LIMIT = 256 << 10
"""Bytes of a form that are no value of a message: names of fields, and the parameters of other actions."""
BATCH_LIMIT = 10  # entries of a PublishBatch, as in SNS

_BATCH_ID = re.compile(r"[A-Za-z0-9_-]{1,80}", re.ASCII)
_Fields = Mapping[str, bytes]
_Action = Callable[[_Fields], "str | Awaitable[str] | None"]
Authorize = Callable[[Scope], Callable[[bytes], Callable[[str], bool]]]
"""Who sends this request, then with this body? The answer tells whether they may do an action. Both steps raise
`SnsError`: what is refused by its head needs no body."""


def create_app(topics: Topics, authorize: Authorize | None = None) -> ASGIApp:
    """The endpoint as an ASGI application, for every path (SDKs post to `/`, wherever `endpoint_url` puts
    that). Without `authorize` everybody may do everything."""
    return SnsEndpoint(topics, authorize)


async def busy(scope: Scope, receive: Receive, send: Send) -> None:
    """The application for whoever finds no place among the endpoint's connections. SDKs try again."""
    request_id = str(uuid4())
    await discard_body(scope, receive)
    error = SnsError(
        "ServiceUnavailable", "As many clients are connected as the gateway serves at a time.", 503
    )
    await _send_xml(send, 503, error_response(error, request_id), request_id, [(b"connection", b"close")])


async def _send_xml(
    send: Send, status: int, body: bytes, request_id: str, extra: Iterable[tuple[bytes, bytes]]
) -> None:
    headers = [
        (b"content-type", b"text/xml"),
        (b"content-length", str(len(body)).encode()),
        (b"x-amzn-requestid", request_id.encode()),
        *extra,
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class SnsEndpoint:
    """The ASGI endpoint. Raw ASGI, because a request object per publish costs more than the publish."""

    def __init__(
        self, topics: Topics, authorize: Authorize | None = None, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._topics = topics
        self._authorize = authorize
        self._clock = clock
        self._actions: dict[str, _Action] = {
            "CreateTopic": self._create_topic,
            "DeleteTopic": self._delete_topic,
            "GetTopicAttributes": self._get_topic_attributes,
            "ListTopics": self._list_topics,
            "Publish": self._publish,
            "PublishBatch": self._publish_batch,
            "SetTopicAttributes": self._set_topic_attributes,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = str(uuid4())
        extra: list[tuple[bytes, bytes]] = []
        try:
            status, body = 200, await self._answer(scope, receive, request_id)
        except SnsError as error:
            status, body = error.status, error_response(error, request_id)
            if status == 405:
                extra.append((b"allow", b"POST"))
            elif status == 413:
                extra.append((b"connection", b"close"))
        except Disconnected:
            return
        await _send_xml(send, status, body, request_id, extra)

    async def _answer(self, scope: Scope, receive: Receive, request_id: str) -> bytes:
        # What is refused is read to its end all the same, and not kept: an answer to a half-written request breaks the
        # client's connection.
        try:
            _check_request(scope)
            signer = self._authorize(scope) if self._authorize is not None else None
        except SnsError:
            await discard_body(scope, receive)
            raise
        limit = (
            3 * self._topics.largest_message + NAMES_LIMIT
        )  # every byte of a message may be percent-encoded
        try:
            body = await read_body(scope, receive, limit)
        except BodyTooLarge:
            raise SnsError(
                "RequestEntityTooLarge", f"the request is larger than {limit} bytes", 413
            ) from None
        may = signer(body) if signer is not None else None
        fields = parse_form(body)
        name = text(fields, "Action")
        if not name:
            raise SnsError("MissingAction", "The request must contain the parameter Action.")
        action = self._actions.get(name)
        if action is None:
            raise SnsError(
                "InvalidAction",
                f"The action {name[:100]} is not valid for this web service: "
                f"this endpoint knows {', '.join(self._actions)}.",
            )
        if may is not None and not may(name):
            message = f"This access key is not authorized to perform: SNS:{name}"
            raise SnsError("AuthorizationError", message, 403)
        try:
            done = action(fields)
            return response(name, done if done is None or isinstance(done, str) else await done, request_id)
        except InvalidTopic as error:
            raise invalid_parameter(str(error)) from None
        except TopicNotFound as error:
            raise SnsError("NotFound", str(error), 404) from None
        except TopicLimitExceeded as error:
            raise SnsError("TopicLimitExceeded", str(error), 403) from None
        except Throttled:
            raise _throttled() from None
        except StateError as error:
            raise SnsError("InternalError", str(error), 500) from None

    # Topics

    def _create_topic(self, fields: _Fields) -> str:
        attributes: dict[str, str] = {}
        for parts in group(fields, "Attributes.entry").values():
            key, value = text(parts, "key") or "", text(parts, "value") or ""
            check_attribute(key, value)
            attributes[key] = value
        attributes.pop("FifoTopic", None)
        check_attribute(
            "DataProtectionPolicy", text(fields, "DataProtectionPolicy") or "", "DataProtectionPolicy"
        )
        check_tags(group(fields, "Tags.member").values())
        arn = self._topics.create(text(fields, "Name") or "", attributes)
        return element("TopicArn", arn)

    def _delete_topic(self, fields: _Fields) -> None:
        self._topics.delete(_topic_arn(fields))

    def _get_topic_attributes(self, fields: _Fields) -> str:
        topic = self._topics.get(_topic_arn(fields))
        owner = topic.arn.split(":")[4]
        bound = len(self._topics.sources(topic.arn))
        policy = {
            "Version": "2008-10-17",
            "Id": "__default_policy_ID",
            "Statement": [{"Sid": "loopback", "Effect": "Allow", "Principal": {"AWS": "*"},
                           "Action": "SNS:Publish", "Resource": topic.arn}],
        }  # fmt: skip
        return entries(
            "Attributes",
            {
                "TopicArn": topic.arn,
                "Owner": owner,
                "DisplayName": "",
                MESSAGE_SIZE: str(topic.message_limit),
                "Policy": json.dumps(policy),
                "SubscriptionsConfirmed": str(bound),
                "SubscriptionsPending": "0",
                "SubscriptionsDeleted": "0",
                **topic.attributes,
            },
        )

    def _set_topic_attributes(self, fields: _Fields) -> None:
        arn, name = _topic_arn(fields), text(fields, "AttributeName") or ""
        if name == "FifoTopic":
            raise invalid_parameter("AttributeName")  # SNS: it is set when a topic is created
        value = text(fields, "AttributeValue") or ""
        check_attribute(name, value, "AttributeValue")
        self._topics.set_attribute(arn, name, value)

    def _list_topics(self, fields: _Fields) -> str:
        token = text(fields, "NextToken")
        arns, following = self._topics.page(_decode_token(token) if token else "")
        listed = members("Topics", (element("TopicArn", arn) for arn in arns))
        if following is None:
            return listed
        return listed + element("NextToken", _encode_token(following))

    # Messages

    def _publish(self, fields: _Fields) -> "str | Awaitable[str]":
        if "PhoneNumber" in fields:
            raise invalid_parameter("PhoneNumber Reason: text messages are not supported by this endpoint")
        parameter = "TopicArn" if "TopicArn" in fields else "TargetArn"
        arn = text(fields, parameter)
        if not arn:
            raise invalid_parameter("TopicArn or TargetArn Reason: no value for required parameter")
        if parameter == "TopicArn" and fields.get("TargetArn"):
            raise invalid_parameter("Both TopicArn and TargetArn are given, only one is allowed")
        message = read_message(fields, self._topics.get(arn, parameter).message_limit)
        return self._take(arn, message)

    def _take(self, arn: str, message: SnsMessage) -> "str | Awaitable[str]":
        """The element of the answer; to be awaited where the message is written to the disk before."""
        message_id = str(uuid4())
        if self._topics.is_kept(message.body):
            return self._keep(arn, message_id, message)
        self._topics.publish(arn, message_id, message.body, message.attributes, self._clock())
        return element("MessageId", message_id)

    async def _keep(self, arn: str, message_id: str, message: SnsMessage) -> str:
        await self._topics.publish_kept(arn, message_id, message.body, message.attributes, self._clock())
        return element("MessageId", message_id)

    async def _publish_batch(self, fields: _Fields) -> str:
        arn = _topic_arn(fields)
        batch = list(group(fields, "PublishBatchRequestEntries.member").values())
        _check_batch(batch)
        limit = self._topics.get(arn).message_limit
        if sum(map(message_size, batch)) > limit:
            raise SnsError(
                "BatchRequestTooLong",
                "The length of all the batch messages put together is more than the limit.",
            )
        ended = await asyncio.gather(*(self._publish_entry(arn, entry, limit) for entry in batch))
        successful = [answer for done, answer in ended if done]
        failed = [answer for done, answer in ended if not done]
        return members("Successful", successful) + members("Failed", failed)

    async def _publish_entry(self, arn: str, entry: _Fields, limit: int) -> tuple[bool, str]:
        """True if it was taken; and the element of the answer."""
        entry_id = element("Id", entry["Id"].decode())
        try:
            done = self._take(arn, read_message(entry, limit))
            taken = done if isinstance(done, str) else await done
        except SnsError as error:
            return False, entry_id + _failed(error)
        except Throttled:
            return False, entry_id + _failed(_throttled())
        return True, entry_id + taken


def _check_request(scope: Scope) -> None:
    """What must hold before the body is looked at."""
    if scope["method"] != "POST":
        # A GET would be answered to any web page's <img>, which carries no Origin to know it by.
        raise SnsError("InvalidMethod", "The query API is served for POST only.", 405)
    refused = refused_host(scope) or refused_origin(scope)
    if refused is not None:
        raise SnsError("AccessDenied", refused, 403)
    kind = (header(scope, b"content-type") or b"").partition(b";")[0].strip().lower()
    if kind != b"application/x-www-form-urlencoded":
        raise SnsError(
            "UnsupportedMediaType",
            "The query API takes application/x-www-form-urlencoded, "
            f"not {kind[:100].decode('latin-1') or 'a request without Content-Type'}.",
            415,
        )
    encoding = (header(scope, b"content-encoding") or b"identity").lower()
    if encoding != b"identity":
        raise SnsError("UnsupportedMediaType", "Compressed requests are not supported.", 415)


def _check_batch(batch: list[dict[str, bytes]]) -> None:
    if not batch or batch == [{"": b""}]:
        raise SnsError("EmptyBatchRequest", "The batch request doesn't contain any entries.")
    if len(batch) > BATCH_LIMIT:
        raise SnsError(
            "TooManyEntriesInBatchRequest", "The batch request contains more entries than permissible."
        )
    seen: set[str] = set()
    for entry in batch:
        entry_id = text(entry, "Id") or ""
        if _BATCH_ID.fullmatch(entry_id) is None:
            raise SnsError(
                "InvalidBatchEntryId",
                "The Id of a batch entry in a batch request doesn't abide by the specification.",
            )
        if entry_id in seen:
            raise SnsError(
                "BatchEntryIdsNotDistinct", "Two or more batch entries in the request have the same Id."
            )
        seen.add(entry_id)


def _topic_arn(fields: _Fields) -> str:
    arn = text(fields, "TopicArn")
    if not arn:
        raise invalid_parameter("TopicArn Reason: no value for required parameter")
    return arn


def _encode_token(after: str) -> str:
    return urlsafe_b64encode(after.encode()).decode()


def _decode_token(token: str) -> str:
    try:
        after = urlsafe_b64decode(token.encode()).decode()
    except ValueError:  # not base64, or not UTF-8
        after = ""
    if not after or _encode_token(after) != token:  # the decoder skips characters it does not know
        raise invalid_parameter("NextToken")
    return after


def _throttled() -> SnsError:
    return SnsError("Throttled", "Rate exceeded: the sender has no room, publish again later", 429)


def _failed(error: SnsError) -> str:
    fault = "true" if error.status < 500 and error.code != "Throttled" else "false"
    return element("Code", error.code) + element("Message", error.message) + element("SenderFault", fault)
