"""What batches of packets are delivered to, found by the scheme of a `DestinationArn` (contract section 1.2)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sluicegate.destinations.base import (
    DeliveryError,
    Destination,
    DestinationContext,
    DestinationError,
    EventSink,
    PacketBatch,
)
from sluicegate.entrypoints import NotLoadable, Registry
from sluicegate.faults import failure
from sluicegate.localcode import Outside
from sluicegate.model import DestinationSpec, Finding
from sluicegate.model.text import without_secrets

__all__ = [
    "DeliveryError",
    "Destination",
    "DestinationContext",
    "DestinationError",
    "EventSink",
    "PacketBatch",
    "aws_services",
    "check",
    "create",
    "schemes",
]

_OWN = {
    "function": "sluicegate.destinations.function:FunctionDestination",
    "file": "sluicegate.destinations.file:FileDestination",
    "console": "sluicegate.destinations.console:ConsoleDestination",
    "http": "sluicegate.destinations.http:HttpDestination",
    "https": "sluicegate.destinations.http:HttpsDestination",
    "nats": "sluicegate.destinations.nats:NatsDestination",
}
_AWS = {
    "dynamodb": "sluicegate.destinations.dynamodb:DynamoDbDestination",
    "events": "sluicegate.destinations.eventbridge:EventBridgeDestination",
    "execute-api": "sluicegate.destinations.apigateway:ApiGatewayDestination",
    "firehose": "sluicegate.destinations.firehose:FirehoseDestination",
    "geo": "sluicegate.destinations.location:LocationDestination",
    "iot": "sluicegate.destinations.iot:IotDestination",
    "kinesis": "sluicegate.destinations.kinesis:KinesisDestination",
    "lambda": "sluicegate.destinations.awslambda:LambdaDestination",
    "logs": "sluicegate.destinations.cloudwatchlogs:CloudWatchLogsDestination",
    "s3": "sluicegate.destinations.s3:S3Destination",
    "sns": "sluicegate.destinations.sns:SnsDestination",
    "sqs": "sluicegate.destinations.sqs:SqsDestination",
    "states": "sluicegate.destinations.stepfunctions:StepFunctionsDestination",
}
_REGISTRY: Registry[Destination] = Registry(
    "sluicegate.destinations",
    Destination,  # type: ignore[type-abstract]  # of which there are subclasses
    {**_OWN, **_AWS},
)

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")  # RFC 3986, 3.1, in small letters


def check(spec: DestinationSpec, context: DestinationContext) -> list[Finding]:
    """What keeps packets from being delivered as `spec` says, for each of its ARNs, without side effects.

    Paths begin in `spec`: they lead to an ARN or into `arguments`.
    """
    single = not isinstance(spec.destination_arn, dict)
    found: list[Finding] = []
    for region, arn in spec.targets().items():
        bounds = context.local_code or spec.bounds_of(arn)
        try:
            create(spec, arn, replace(context, local_code=bounds), spec.arguments_of(region))
        except DestinationError as error:
            found.append(error.finding(("destination_arn",) if single else ("destination_arn", region)))
    return list(dict.fromkeys(found))


def create(
    spec: DestinationSpec,
    arn: str,
    context: DestinationContext,
    arguments: Mapping[str, Any] | None = None,
) -> Destination:
    """Parse and validate the Destination that `arn` names, without side effects.

    `arn` is one of the spec's (a Destination may have one for each region), and `arguments` are those for it: by
    default the spec's own. Raises `DestinationError`.
    """
    given = (spec.arguments if arguments is None else arguments) or {}
    name = spec.name or "destination"
    scheme, _, target = arn.partition(":")
    key = scheme
    if scheme == "arn":
        parts = arn.split(":", 5)
        key, target = (parts[2] if len(parts) == 6 else ""), arn
    if key not in _REGISTRY and scheme == "arn" and key:
        fix = f"deliver to another one: of AWS {', '.join(_AWS)}; and {_others()}"
        raise DestinationError(f"{key} of AWS is no Destination", fix)
    if key not in _REGISTRY:
        cause = f'"{without_secrets(arn)}" is not a destination: the scheme "{scheme}" is not known here'
        raise DestinationError(cause, f"known are {_listed()}")
    if context.local_code is not None and key not in _OWN | _AWS:
        try:
            context.local_code.check_strings([target, given], context.base_dir)
        except Outside as error:
            raise DestinationError(f"destination {name}: {error.cause}", error.fix) from None
    try:
        made = _REGISTRY.load(key).from_spec(name, target, given, context)
        if not isinstance(made, Destination):
            raise TypeError(f"from_spec returned {type(made).__name__}, not a Destination")
        if not hasattr(made, "context"):
            raise TypeError("its __init__ does not call super().__init__(name, context)")
        _refuse_number("concurrency", made.concurrency)
        if made.batch_bytes_limit is not None:
            _refuse_number("batch_bytes_limit", made.batch_bytes_limit)
    except NotLoadable as error:
        raise DestinationError(error.cause, error.fix) from error
    except DestinationError:
        raise
    except (Exception, SystemExit) as error:  # code of others, which may raise whatever it likes
        cause = (
            f"the Destination for {key!r}, {_REGISTRY.origin(key)}, failed to read this ({failure(error)})"
        )
        raise DestinationError(cause, "report it to those who provide it") from error
    return made


def _refuse_number(name: str, value: object) -> None:
    """Raise `TypeError` or `ValueError` unless it is a whole number of at least 1: the native side takes no other."""
    if type(value) is not int:
        raise TypeError(f"{name} is {value!r}, not a whole number")
    if value < 1:
        raise ValueError(f"{name} is {value}")


def aws_services() -> list[str]:
    """The services of AWS that are delivered to without a package, as ARNs name them."""
    return sorted(_AWS)


def schemes() -> list[str]:
    """The schemes (and ARN services) that this installation knows, sorted. A name that is no scheme is left out."""
    return sorted(name.lower() for name in _REGISTRY.names() if _SCHEME.fullmatch(name.lower()))


def _listed() -> str:
    return f"{_others()}, and arn: of {', '.join(_AWS)}"


def _others() -> str:
    return ", ".join(f"{scheme}:" for scheme in schemes() if scheme not in _AWS)
