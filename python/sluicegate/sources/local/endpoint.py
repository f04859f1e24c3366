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
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from starlette.types import ASGIApp, Receive, Scope, Send

from sluicegate.http.direct import Answer, Direct, Found, Take, awaited, send_answer
from sluicegate.http.doors import (
    BodyTooLarge,
    Disconnected,
    discard_body,
    header,
    read_body,
    refused_host,
    refused_origin,
)
from sluicegate.ids import new_id
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
_MESSAGE_ID = "<MessageId>%s</MessageId>"
_Fields = Mapping[str, bytes]
_Action = Callable[[_Fields], "str | Awaitable[str] | None"]
_Signer = Callable[[bytes], Callable[[str], bool]]
Authorize = Callable[[Scope], _Signer]
"""Who sends this request, then with this body? The answer tells whether they may do an action. Both steps raise
`SnsError`: what is refused by its head needs no body."""


def create_app(topics: Topics, authorize: Authorize | None = None) -> ASGIApp:
    """The endpoint as an ASGI application, for every path (SDKs post to `/`, wherever `endpoint_url` puts
    that). Without `authorize` everybody may do everything."""
    return SnsEndpoint(topics, authorize)


async def busy(scope: Scope, receive: Receive, send: Send) -> None:
    """The application for whoever finds no place among the endpoint's connections. SDKs try again."""
    await discard_body(scope, receive)
    error = SnsError(
        "ServiceUnavailable", "As many clients are connected as the gateway serves at a time.", 503
    )
    number = new_id()
    await send_answer(send, _answer(503, error_response(error, number), number, (b"connection", b"close")))


def _answer(status: int, body: bytes, number: str, *extra: tuple[bytes, bytes]) -> Answer:
    return Answer(
        status,
        [
            (b"content-type", b"text/xml"),
            (b"content-length", b"%d" % len(body)),
            (b"x-amzn-requestid", number.encode()),
            *extra,
        ],
        body,
    )


def _refusal(error: Exception, number: str) -> Answer:
    """The answer for one of `_REFUSALS`."""
    shown = error if isinstance(error, SnsError) else _as_sns(error)
    extra = {405: [(b"allow", b"POST")], 413: [(b"connection", b"close")]}.get(shown.status, [])
    return _answer(shown.status, error_response(shown, number), number, *extra)


def _as_sns(error: Exception) -> SnsError:
    """What topics and the state refuse, in SNS's words."""
    match error:
        case InvalidTopic():
            return invalid_parameter(str(error))
        case TopicNotFound():
            return SnsError("NotFound", str(error), 404)
        case TopicLimitExceeded():
            return SnsError("TopicLimitExceeded", str(error), 403)
        case Throttled():
            return _throttled()
        case _:
            return SnsError("InternalError", str(error), 500)


_REFUSALS = (SnsError, InvalidTopic, TopicNotFound, TopicLimitExceeded, Throttled, StateError)


class SnsEndpoint(Direct):
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

    def enter(self, scope: Scope) -> Take | None:
        try:
            return self._admit(scope)
        except SnsError:
            return None

    def failed(self) -> Answer:
        body = b"Internal Server Error"
        kind = (b"content-type", b"text/plain; charset=utf-8")
        return Answer(500, [kind, (b"content-length", b"%d" % len(body)), (b"connection", b"close")], body)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # What is refused is read to its end all the same, and not kept: an answer to a half-written request breaks the
        # client's connection.
        try:
            take = self._admit(scope)
        except SnsError as error:
            await discard_body(scope, receive)
            return await send_answer(send, _refusal(error, new_id()))
        # Every byte of a message may be percent-encoded.
        limit = 3 * self._topics.largest_message + NAMES_LIMIT
        try:
            body = await read_body(scope, receive, limit)
        except BodyTooLarge:
            message = f"the request is larger than {limit} bytes"
            large = SnsError("RequestEntityTooLarge", message, 413)
            return await send_answer(send, _refusal(large, new_id()))
        except Disconnected:
            return
        await send_answer(send, await awaited(take(body)))

    def _admit(self, scope: Scope) -> Take:
        """Who takes the body of a request with this head. Raises `SnsError`."""
        _check_request(scope)
        signer = self._authorize(scope) if self._authorize is not None else None
        return partial(self._answer, signer)

    def _answer(self, signer: _Signer | None, body: bytes) -> Found:
        number = new_id()
        try:
            name, done = self._act(signer, body)
        except _REFUSALS as error:
            return _refusal(error, number)
        if done is None or isinstance(done, str):
            return _answer(200, response(name, done, number), number)
        return self._awaited(name, done, number)

    async def _awaited(self, name: str, doing: Awaitable[str], number: str) -> Answer:
        try:
            return _answer(200, response(name, await doing, number), number)
        except _REFUSALS as error:
            return _refusal(error, number)

    def _act(self, signer: _Signer | None, body: bytes) -> "tuple[str, str | Awaitable[str] | None]":
        """The action that the body asks for, and what it did."""
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
        return name, action(fields)

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
        message_id = new_id()
        if self._topics.is_kept(message.body):
            return self._keep(arn, message_id, message)
        self._topics.publish(arn, message_id, message.body, message.attributes, self._clock())
        return _MESSAGE_ID % message_id

    async def _keep(self, arn: str, message_id: str, message: SnsMessage) -> str:
        await self._topics.publish_kept(arn, message_id, message.body, message.attributes, self._clock())
        return _MESSAGE_ID % message_id

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
