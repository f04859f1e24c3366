"""The provider of a gateway's custom resources for CloudFormation: Listener, DestinationArn and PacketSource.

One file, nothing but the standard library: it runs as an AWS Lambda function (`lambda_handler`) that calls the
gateway's REST API, and inside the gateway for requests that come through an SNS topic. Both use `handle`, which knows
an API by its method `call` only.

A stack must never hang: every request is answered, within the time that is left. Three rules keep CloudFormation's
retries and roll-backs from doing harm:

- A create carries a key made from the request's id, so that the same request twice makes one resource.
- A create that was refused answers with a physical id that says so. CloudFormation deletes after a failure, and must
  not delete a resource of somebody else that has the same name.
- A create whose outcome is unknown (no answer in time) answers with a physical id that holds the request's id. The
  delete that follows sends the create again under the same key. If the gateway answers with a resource, that is
  deleted; if it refuses, there is none.
"""

import difflib
import hashlib
import http.client
import json
import os
import re
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

PATHS = {
    "Listener": "/v1/listeners",
    "PacketSource": "/v1/packet-sources",
    "DestinationArn": "/v1/destination-arns",
}
IDENTITY = {
    "Listener": ("Name", "Protocols"),
    "PacketSource": ("Name", "ListenerName"),
    "DestinationArn": ("Destination", "IngressRegionKey"),
}
"""The properties of each kind whose change makes a new resource. CloudFormation then deletes the old one."""

ATTRIBUTES = {
    "Listener": (
        "Id",
        "Name",
        "Domain",
        "Port",
        "DestinationNames",
        "WireGuardPublicKey",
        "DtlsServerCertificate",
        "WebRtcFingerprint",
        "WebRtcSctpPort",
        "WebRtcChannelId",
        "WebRtcSignalingMode",
        "WebRtcSignalingToken",
        "WebRtcSignalingUrl",
    ),
    "PacketSource": ("Id", "Name", "State"),
    "DestinationArn": ("Id", "Destination", "IngressRegionKey", "Arn"),
}
"""The attributes of each kind. One that a resource lacks is empty text, so that `Fn::GetAtt` never fails."""

NO_RESOURCE = (
    "a Destination is no resource of its own",
    "declare it in the property Destinations of its Listener, and remove this resource",
)
"""`(cause, fix)` for a resource of the type Destination. The reference service, too, only reserves that type."""

NOT_OURS = ("ServiceToken", "ServiceTimeout", "ApiKey")
REFUSED = "refused/"
UNCONFIRMED = "unconfirmed/"

REASON_LIMIT = 1000  # characters
ANSWER_LIMIT = 4096  # bytes of the whole answer: one of so many CloudFormation does not take
IDS_LIMIT = 3072  # bytes of the ids in a request, which its answer repeats; CloudFormation's have half of that at most
TRY_SECONDS = 5.0  # one request to the gateway
API_SECONDS = 8.0  # all requests for one resource
ANSWER_SECONDS = 8.0  # kept back for the answer to CloudFormation
TRIES = 3
SUBSCRIBE_SECONDS = 5.0
"""Seconds from the request on that the subscription of a PacketSource may take. A refusal by AWS is believed only after
them: a permission that the same stack has just granted takes effect with a delay."""
POLL_SECONDS = 0.3

_TYPE = re.compile(r"Custom::(?:ProxylityUdpGateway|Sluicegate)(\w+)")
_PARTITIONS = {
    "aws": (("af", "ap", "ca", "eu", "il", "me", "mx", "sa", "us"), "amazonaws.com"),
    "aws-us-gov": (("us-gov",), "amazonaws.com"),
    "aws-cn": (("cn",), "amazonaws.com.cn"),
}
"""How the regions of a partition begin, and the domain of its services."""


class RequestRefused(Exception):
    """The gateway refused a request with the HTTP status `status`. A retry would get the same answer."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Unreachable(Exception):
    """No usable answer came: whether the gateway carried the request out is unknown."""


class Failed(Exception):
    """The request fails with this reason. `physical_id` replaces the one that the answer would have."""

    def __init__(self, reason: str, physical_id: str | None = None) -> None:
        super().__init__(reason)
        self.physical_id = physical_id


class Caller(Protocol):
    """A gateway's API, however it is reached."""

    def call(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Any:
        """Send one request. Returns the answer's JSON, None without a body. Raises `RequestRefused`, `Unreachable`."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: a redirected POST would become a GET, and another server would get the API key."""

    def redirect_request(self, *_: Any) -> None:
        return None


class Api:
    """A gateway's REST API over HTTP. No request begins after `deadline`, a time of `time.monotonic()`."""

    def __init__(self, url: str, deadline: float) -> None:
        self._url = url.rstrip("/")
        self._deadline = deadline
        # The environment's proxies lead to the internet, and a gateway is usually not there.
        # Doubtful: a gateway on the internet cannot be reached from a VPC whose only way out is such a proxy.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects())

    def call(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Any:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise Unreachable(f"the gateway at {self._url} did not answer in time")
        request = urllib.request.Request(  # noqa: S310  (the scheme is checked in `_gateway_url`)
            self._url + path,
            data=None if body is None else json.dumps(body).encode(),
            method=method,
            headers={"Content-Type": "application/json", **(headers or {})},
        )
        try:
            with self._opener.open(request, timeout=min(left, TRY_SECONDS)) as response:
                text = response.read()
        except urllib.error.HTTPError as error:
            raise refusal(error.code, error.read(), body) from None
        except (OSError, ValueError, http.client.HTTPException) as error:
            cause = getattr(error, "reason", error)
            raise Unreachable(
                f"the gateway at {self._url} cannot be reached ({cause}): check its address (SLUICEGATE_API), "
                "that it runs, and that this function's network leads there"
            ) from None
        try:
            return json.loads(text) if text else None
        except ValueError:
            raise Unreachable(f"{self._url} answers, but not as a gateway: check SLUICEGATE_API") from None


def refusal(status: int, text: bytes, document: Any = None) -> RequestRefused | Unreachable:
    """The error for an answer of the API to `document`: `Unreachable` where a retry may help (429 and 5xx), otherwise
    `RequestRefused`, with the Destination and the property of each reason."""
    try:
        answer = json.loads(text)
        detail = "; ".join(_reason(one, document) for one in answer.get("Errors") or ()) or answer["detail"]
    except (ValueError, KeyError, TypeError, AttributeError):
        detail = f"HTTP {status}"
    if status < 400:
        detail = "SLUICEGATE_API redirects to another address: set it to that one"
    if status == 401:
        detail = f"{detail}; the property ApiKey must be a key of this gateway (sluicegate keys create --scope admin)"
    if status == 429 or status >= 500:
        return Unreachable(f"the gateway could not do it now: {detail}")
    return RequestRefused(status, str(detail))


def _reason(error: Mapping[str, Any], document: Any) -> str:
    said = ", ".join(filter(None, (str(error["Cause"]), str(error.get("Fix", "")))))
    return pointed(document, str(error.get("Pointer", ""))) + said


def pointed(document: Any, pointer: str) -> str:
    """What an error's pointer leads to in `document`, the Destination and the property: `Destination d, Role.Arn: `."""
    parts = [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]
    given = document if isinstance(document, Mapping) else {}
    listed = given.get("Destinations")
    named = []
    if parts[:1] == ["Destinations"] and parts[1:] and isinstance(listed, list):
        one = listed[int(parts[1])] if parts[1].isdecimal() and int(parts[1]) < len(listed) else None
        named, parts = [f"Destination {one.get('Name') if isinstance(one, Mapping) else one}"], parts[2:]
    elif "IngressRegionKey" in given:
        named = [f"Destination {given.get('Destination')}"]
    path = ".".join(parts)
    return f"{', '.join([*named, path] if path else named)}: " if named or path else ""


def handle(event: Mapping[str, Any], api: Caller) -> dict[str, Any]:
    """Carry a CloudFormation request out through `api`. Returns the answer for its ResponseURL; raises nothing."""
    answer: dict[str, Any] = {
        "Status": "SUCCESS",
        "PhysicalResourceId": event.get("PhysicalResourceId") or REFUSED + str(event.get("RequestId")),
        "StackId": event.get("StackId"),
        "RequestId": event.get("RequestId"),
        "LogicalResourceId": event.get("LogicalResourceId"),
        "NoEcho": False,
        "Data": {},
    }
    try:
        kind = kind_of(event.get("ResourceType"))
        if kind is None and event.get("RequestType") == "Delete":
            return answer  # nothing of this type was ever made; a refusal would block the stack's roll-back
        if is_destination(event.get("ResourceType")):
            raise Failed(", ".join(NO_RESOURCE))
        if kind is None:
            known = "Custom::SluicegateListener, Custom::SluicegatePacketSource and Custom::SluicegateDestinationArn"
            raise Failed(f"this provider knows {known}, not {event.get('ResourceType')}")
        physical_id, data, warnings = _Request(event, kind, api).do()
        answer.update(PhysicalResourceId=physical_id, Data=data)
    except Failed as failure:
        return failed(answer, str(failure), failure.physical_id)
    except (RequestRefused, Unreachable) as error:
        return failed(answer, str(error))
    except Exception as error:  # a stack must not hang, whatever this is
        reason = f"the provider failed ({type(error).__name__}: {error}); this is a fault of Sluicegate"
        made = UNCONFIRMED + str(event.get("RequestId")) if event.get("RequestType") == "Create" else None
        return failed(answer, reason, made)
    if len(encoded(answer)) >= ANSWER_LIMIT:
        longest = max(data, key=lambda name: len(encoded({name: data[name]})))
        text = f"its attributes are longer than the {ANSWER_LIMIT} bytes that CloudFormation takes"
        return failed(answer, f"{text}, most of all {longest}: shorten what it lists")
    return with_reason(answer, "; ".join(warnings)) if warnings else answer


def failed(answer: dict[str, Any], reason: str, physical_id: str | None = None) -> dict[str, Any]:
    """`answer` turned into a failure for this reason, with another physical id if one is given."""
    made = {
        **answer,
        "Status": "FAILED",
        "PhysicalResourceId": physical_id or answer["PhysicalResourceId"],
        "Data": {},
    }
    return with_reason(made, reason)


def with_reason(answer: Mapping[str, Any], reason: str) -> dict[str, Any]:
    """`answer` with as much of `reason` as it has room for: its ids may be long, and a character may take 12 bytes."""

    def made(text: str) -> dict[str, Any]:
        return {**answer, "Reason": text}

    if len(reason) <= REASON_LIMIT and len(encoded(made(reason))) < ANSWER_LIMIT:
        return made(reason)
    # The most characters that fit: `enough` do, `many` do not.
    enough, many = 0, min(len(reason), REASON_LIMIT)
    while many - enough > 1:
        middle = (enough + many) // 2
        fits = len(encoded(made(reason[:middle] + "…"))) < ANSWER_LIMIT
        enough, many = (middle, many) if fits else (enough, middle)
    return made(reason[:enough] + "…" if enough else "")


def encoded(answer: Mapping[str, Any]) -> bytes:
    """The body for a ResponseURL: JSON in ASCII, as long in any encoding."""
    return json.dumps(answer).encode()


def kind_of(resource_type: str | None) -> str | None:
    """`Listener`, `PacketSource` or `DestinationArn`; None for a type that is not ours."""
    name = _own_type(resource_type)
    return name if name in PATHS else None


def meant_kind(resource_type: str) -> str | None:
    """The type of ours that a mistyped one is nearest to."""
    name = _own_type(resource_type)
    near = difflib.get_close_matches(name, PATHS, n=1) if name else []
    return resource_type.removesuffix(name) + near[0] if name and near else None


def is_destination(resource_type: str | None) -> bool:
    """True for the resource type Destination, which is reserved and never made (`NO_RESOURCE`)."""
    return _own_type(resource_type) == "Destination"


def _own_type(resource_type: str | None) -> str | None:
    match = _TYPE.fullmatch(resource_type or "")
    return match[1] if match else None


def identity(kind: str, properties: Mapping[str, Any]) -> dict[str, Any]:
    """The properties that identify a resource (`IDENTITY`). Scalars are text, as CloudFormation sends them."""
    properties = _named(properties)
    found = {}
    for key in IDENTITY[kind]:
        value = properties.get(key)
        if key == "Protocols":
            value = value if isinstance(value, list) else [value or "udp"]
        found[key] = value
    return found


def document(
    kind: str, properties: Mapping[str, Any], name: str | None, stack: str, logical_id: str
) -> dict[str, Any]:
    """The body for the API: the resource's own properties, with a name for it and for each of its Destinations."""
    body = {key: value for key, value in _named(properties).items() if key not in NOT_OURS}
    if kind != "DestinationArn":
        body.setdefault("Name", name)
    destinations = body.get("Destinations")
    if kind == "Listener" and isinstance(destinations, list):
        body["Destinations"] = [
            {**one, "Name": destination_name(stack, logical_id, index)}
            if isinstance(one, dict) and not (one.get("Name") or one.get("name"))
            else one
            for index, one in enumerate(destinations)
        ]
    return body


def destination_name(stack: str, logical_id: str, index: int) -> str:
    """The name of a Destination without one: `index` counts the Listener's Destinations from 0."""
    return f"dstn-{stack[:120]}-{logical_id[:120]}-{index}"


def stack_name(stack_id: str | None) -> str:
    """The name in a stack's ARN."""
    parts = str(stack_id).split("/")
    return parts[1] if len(parts) > 2 else "stack"


def generated_name(stack: str, logical_id: str, seed: str) -> str:
    """A name for a resource without one. The same `seed` gives the same name, another seed another name."""
    digest = hashlib.sha256(seed.encode()).hexdigest()[:10]
    return f"{stack[:120]}-{logical_id[:120]}-{digest}"


def resource_path(kind: str, physical_id: str) -> str:
    """The API's path of one resource."""
    return "{}/{}".format(PATHS[kind], urllib.parse.quote(physical_id, safe=""))


def attributes(kind: str, item: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes, for `Fn::GetAtt`, of a resource that the API shows as `item`."""
    return {name: item.get(name, "") for name in ATTRIBUTES[kind]}


def _named(properties: Mapping[str, Any]) -> Mapping[str, Any]:
    """`ListenerName` names a Listener in some templates; in a PacketSource it is the Listener's."""
    if {"SnsTopicSource", "MessageSource"} & properties.keys() or "ListenerName" not in properties:
        return properties
    renamed = {key: value for key, value in properties.items() if key != "ListenerName"}
    return {"Name": properties["ListenerName"], **renamed}


def _unsubscribed(item: Mapping[str, Any]) -> str | None:
    """Why a PacketSource receives no messages although it should; None if nothing is wrong, and for other kinds."""
    if item.get("Subscription", "Subscribed") == "Subscribed":
        return None
    return item.get("SubscriptionProblem") or "AWS has not answered the gateway yet: its events say why"


_Result = tuple[str, dict[str, Any], list[str]]
"""`(physical id, attributes, warnings)`"""


def _with_region(kind: str, properties: Mapping[str, Any], stack_id: str | None) -> Mapping[str, Any]:
    """The properties, where a DestinationArn without a region gets the stack's own region."""
    if kind != "DestinationArn" or "IngressRegionKey" in properties or str(stack_id).count(":") < 5:
        return properties
    return {**properties, "IngressRegionKey": str(stack_id).split(":")[3]}


class _Request:
    """One Create, Update or Delete request of CloudFormation."""

    def __init__(self, event: Mapping[str, Any], kind: str, api: Caller) -> None:
        self._api = api
        self._event = event
        self._kind = kind
        self._id = event.get("PhysicalResourceId") or ""
        self._properties = _with_region(kind, event.get("ResourceProperties") or {}, event.get("StackId"))
        self._subscribed_until = time.monotonic() + SUBSCRIBE_SECONDS
        self._key = "{}/{}/{}".format(
            event.get("StackId"), event.get("LogicalResourceId"), event.get("RequestId")
        )

    def do(self) -> _Result:
        """Carry the request out. Returns `(physical id, attributes, warnings)`."""
        kind = self._event.get("RequestType")
        if kind == "Create":
            return self._create()
        if kind == "Update":
            return self._update()
        if kind == "Delete":
            return self._delete()
        raise Failed(f"the request type {kind} is unknown: use Create, Update or Delete")

    def _create(self) -> _Result:
        body = self._document(self._name())
        try:
            item = self._persist(
                "POST", PATHS[self._kind], body, {"Idempotency-Key": self._hashed(self._key)}
            )
            item = self._subscribed(item)
        except RequestRefused as error:
            raise Failed(str(error), REFUSED + self._event["RequestId"]) from None
        except Unreachable as error:
            raise Failed(str(error), UNCONFIRMED + self._event["RequestId"]) from None
        problem = _unsubscribed(item)
        if problem is not None:
            raise Failed(problem, self._taken_back(item["Id"]))
        return self._result(item)

    def _update(self) -> _Result:
        old = self._event.get("OldResourceProperties") or {}
        old = _with_region(self._kind, old, self._event.get("StackId"))
        changed = [
            key
            for key, value in identity(self._kind, self._properties).items()
            if value != identity(self._kind, old)[key]
        ]
        if changed or self._id.startswith((REFUSED, UNCONFIRMED)):
            return self._replace(changed)
        body = self._document(self._id)
        try:
            item = self._persist("PUT", resource_path(self._kind, self._id), body, {})
        except RequestRefused as error:
            if error.status != 404:
                raise
            raise Failed(
                f"the {self._kind} {self._id} is gone: it was deleted outside of this stack. Change its name, "
                "which makes a new one, or delete it from the template"
            ) from None
        item = self._subscribed(item)
        problem = _unsubscribed(item)
        if problem is not None and item["Subscription"] == "Failed":
            raise Failed(problem)
        # The outcome is not known yet, and the gateway goes on trying. A failure here would fail the roll-back too.
        return self._result({**item, "Warnings": [*(item.get("Warnings") or []), *filter(None, [problem])]})

    def _replace(self, changed: list[str]) -> _Result:
        """Make a new resource under a new id. CloudFormation then deletes the old one by itself."""
        body = self._document(self._name())
        if self._kind != "DestinationArn" and body["Name"] == self._id:
            raise Failed(
                f"a change of {' and '.join(changed)} replaces the {self._kind}, and its name {self._id} is taken "
                "by the one that it replaces: change Name too, or leave Name out"
            )
        # A failed Update keeps its physical id, so that CloudFormation goes on with the old resource.
        try:
            item = self._persist(
                "POST", PATHS[self._kind], body, {"Idempotency-Key": self._hashed(self._key)}
            )
            item = self._subscribed(item)
        except Unreachable as error:
            made = body.get("Name", "the new one")
            raise Failed(f"{error}; if it made {made} all the same, delete that by hand") from None
        problem = _unsubscribed(item)
        if problem is not None:
            self._taken_back(item["Id"])
            raise Failed(problem)
        return self._result(item)

    def _delete(self) -> _Result:
        if not self._id or self._id.startswith(REFUSED):
            return self._id or REFUSED, {}, []
        if self._id.startswith(UNCONFIRMED):
            self._delete_unconfirmed()
        else:
            self._remove(self._id)
        return self._id, {}, []

    def _delete_unconfirmed(self) -> None:
        request_id = self._id[len(UNCONFIRMED) :]
        stack, logical_id = self._event.get("StackId"), self._event.get("LogicalResourceId")
        key = self._hashed(f"{stack}/{logical_id}/{request_id}")
        body = self._document(self._name())
        try:
            item = self._persist("POST", PATHS[self._kind], body, {"Idempotency-Key": key})
        except RequestRefused:
            return  # the resource was never made, and cannot be made
        self._remove(item["Id"])

    def _remove(self, physical_id: str) -> None:
        try:
            self._persist("DELETE", resource_path(self._kind, physical_id), None, {})
        except RequestRefused as error:
            if error.status != 404:
                raise

    def _name(self) -> str | None:
        """The name in the template, or a generated one: the same for each retry, another for each replacement."""
        given = _named(self._properties).get("Name")
        if self._kind == "DestinationArn" or given:
            return given
        stack_id, logical_id = str(self._event.get("StackId")), str(self._event.get("LogicalResourceId"))
        seed = json.dumps([stack_id, logical_id, identity(self._kind, self._properties)], sort_keys=True)
        return generated_name(stack_name(stack_id), logical_id, seed)

    def _document(self, name: str | None) -> dict[str, Any]:
        stack, logical_id = stack_name(self._event.get("StackId")), str(self._event.get("LogicalResourceId"))
        return document(self._kind, self._properties, name, stack, logical_id)

    def _subscribed(self, item: Mapping[str, Any]) -> Mapping[str, Any]:
        """Wait until a PacketSource is subscribed, for `SUBSCRIBE_SECONDS` at most. Returns `item` as it is then."""
        warnings = item.get("Warnings")
        while _unsubscribed(item) is not None and time.monotonic() < self._subscribed_until:
            time.sleep(POLL_SECONDS)
            item = self._persist("GET", resource_path(self._kind, item["Id"]), None, {})
        return {**item, "Warnings": warnings}

    def _taken_back(self, made: str) -> str:
        """Delete the resource `made` of a request that fails after all. Returns the physical id for the failure."""
        try:
            self._remove(made)
        except (RequestRefused, Unreachable):
            return made  # the delete that follows tries again
        return REFUSED + str(self._event.get("RequestId"))

    def _result(self, item: Mapping[str, Any]) -> _Result:
        return item["Id"], attributes(self._kind, item), item.get("Warnings") or []

    def _persist(self, method: str, path: str, body: Any, headers: Mapping[str, str]) -> Any:
        """One call, repeated while the gateway does not answer. Every call of this provider may be sent twice."""
        # The gateway ignores unknown properties and reports them (RFC 7240), because templates of the reference service
        # rely on that. AWS's own resources would refuse them.
        headers = {"Prefer": "handling=lenient", **headers}
        key = self._properties.get("ApiKey")
        if key:
            headers["Authorization"] = f"Bearer {key}"
        for attempt in range(1, TRIES + 1):
            try:
                return self._api.call(method, path, body, headers)
            except Unreachable:
                if attempt == TRIES:
                    raise
                time.sleep(0.2 * attempt)
        raise AssertionError("the loop returns or raises")

    @staticmethod
    def _hashed(text: str) -> str:
        return hashlib.sha256(text.encode()).hexdigest()


def respond(
    url: str | None,
    answer: Mapping[str, Any],
    seconds: float,
    hosts: Collection[str] = (),
    partition: str = "aws",
) -> str | None:
    """Put `answer` at a request's ResponseURL. Returns None, or why that failed: CloudFormation then has no answer."""
    wrong = refused_url(url, hosts, partition)
    if wrong or not url:
        return wrong
    body = encoded(answer)
    # No Content-Type: the presigned URL was signed without one.
    request = urllib.request.Request(url, data=body, method="PUT", headers={"Content-Type": ""})  # noqa: S310
    deadline = time.monotonic() + seconds
    pause = 0.2
    while True:
        try:
            left = max(0.1, min(TRY_SECONDS, deadline - time.monotonic()))
            with urllib.request.urlopen(request, timeout=left):  # noqa: S310  (see refused_url)
                return None
        except (OSError, ValueError, http.client.HTTPException) as error:
            code = getattr(error, "code", None)
            if (code is not None and code < 500) or time.monotonic() + pause >= deadline:
                return "the answer was not taken (%s)" % (code or getattr(error, "reason", error))
        time.sleep(pause)
        pause *= 2


def refused_url(url: str | None, hosts: Collection[str] = (), partition: str = "aws") -> str | None:
    """Why nothing is sent to this ResponseURL; None if it is fit. `hosts`: other `host:port`s (emulators), by http too.

    Whoever can send a request chooses this URL. So it must be CloudFormation's own bucket at S3.
    """
    try:
        parts = urllib.parse.urlsplit(url or "")
    except ValueError:
        return "its ResponseURL is not a URL"
    if parts.netloc in hosts and parts.scheme in ("http", "https"):
        return None
    if parts.scheme == "https" and _is_response_bucket(parts.netloc, partition):
        return None
    return "its ResponseURL %s is not CloudFormation's bucket at S3" % (parts.netloc[:200] or "(none)")


def _is_response_bucket(host: str, partition: str) -> bool:
    """CloudFormation's bucket of a region, at a host of S3 for that region: anybody may own any other bucket."""
    areas, domain = _PARTITIONS.get(partition, _PARTITIONS["aws"])
    bucket, _, place = host.partition(".")
    for area in areas:
        name = "cloudformation-custom-resource-response-" + area.replace("-", "")
        found = re.fullmatch(name + "((?:north|south|east|west|central)+)([1-9])", bucket)
        if found:
            region = "-".join((area, *found.groups()))
            hosts = [f"{way}{region}.{domain}" for way in ("s3.", "s3-", "s3.dualstack.")]
            return place in hosts or (place == "s3.amazonaws.com" and partition != "aws-cn")
    return False


def _gateway_url() -> str:
    url = os.environ.get("SLUICEGATE_API", "")
    if not re.match(r"https?://[^/\s]+", url):
        raise Failed(
            "the function's environment variable SLUICEGATE_API must be the URL of the gateway's API"
        )
    return url


def lambda_handler(event: Mapping[str, Any], context: Any) -> None:
    """The entry point in AWS Lambda. Reads `SLUICEGATE_API` and, for emulators, `SLUICEGATE_RESPONSE_HOSTS`."""
    left = context.get_remaining_time_in_millis() / 1000
    seconds = max(1.0, min(API_SECONDS, left - ANSWER_SECONDS))
    answer = within(seconds + 1, event, lambda: Api(_gateway_url(), time.monotonic() + seconds))
    print(
        json.dumps(
            {key: answer.get(key) for key in ("LogicalResourceId", "Status", "Reason", "PhysicalResourceId")}
        )
    )
    hosts = tuple(filter(None, os.environ.get("SLUICEGATE_RESPONSE_HOSTS", "").split(",")))
    partition = getattr(context, "invoked_function_arn", "arn:aws").split(":")[1]
    seconds = max(1.0, min(ANSWER_SECONDS, left - seconds - 2))
    problem = respond(event.get("ResponseURL"), answer, seconds, hosts, partition)
    if not problem:
        return
    if refused_url(event.get("ResponseURL"), hosts, partition):
        print(f"CloudFormation was not answered: {problem}", file=sys.stderr)
        return
    # Lambda tries an asynchronous invocation again when it fails, and the same request twice is harmless.
    raise RuntimeError(f"CloudFormation was not answered: {problem}; this function needs a way to S3")


def within(seconds: float, event: Mapping[str, Any], make_api: Callable[[], Caller]) -> dict[str, Any]:
    """`handle` for at most `seconds`; after them, a failure. The time-out of a socket bounds each read only."""
    found = []

    def run() -> None:
        try:
            found.append(handle(event, make_api()))
        except Failed as failure:
            found.append(handle(event, _Broken(str(failure))))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    return found[0] if found else handle(event, _Broken(f"the gateway did not answer within {seconds:g} s"))


class _Broken:
    """An API that cannot be used: every call fails for the same reason."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def call(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Any:
        raise Unreachable(self._reason)
