"""`arn:aws:geo:…`: a tracker of Amazon Location, one position for each packet."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

import orjson

from sluicegate.aws.errors import AwsError
from sluicegate.aws.signing import LOCATION
from sluicegate.destinations.aws import (
    SECONDS,
    AwsDestination,
    Content,
    Entry,
    Limits,
    Refused,
    deliver_in_parts,
    strange_answer,
)
from sluicegate.destinations.base import Arguments, DeliveryError, PacketBatch

LIMITS = Limits(entries=10, size=1 << 20, entry_size=1 << 20)
OPERATION = "BatchUpdateDevicePosition"
DEVICE, LATITUDE, LONGITUDE = "DeviceIdExpression", "LatitudeExpression", "LongitudeExpression"
ACCURACY, TIMESTAMP, PROPERTIES = "AccuracyExpression", "TimestampExpression", "PositionPropertyExpressions"
_UNITS = {"seconds": 1, "milliseconds": 1000}
_DEVICE_ID = re.compile(r"[-.\w]{1,100}")  # DevicePositionUpdate: DeviceId
_MOST_PROPERTIES, _KEY_LIMIT, _VALUE_LIMIT = 3, 20, 40  # PropertyMap
_FARTHEST = 10_000_000  # PositionalAccuracy: Horizontal, in metres
_HEADERS = {"content-type": "application/json"}
_TRANSIENT = frozenset(("ConflictError", "InternalServerError"))


class LocationDestination(AwsDestination):
    """Tells a tracker the position of a device for each packet: what expressions read from it, and nothing else.

    Numbers may be numbers of an expression (`i32le[4:8]`) or digits in the packet's text. Latitude and longitude are
    degrees once they are multiplied by `ScaleFactor`. The position is of the time that `TimestampExpression` says,
    since 1970, else of the packet's arrival. A packet without device, latitude or longitude is refused alone; of the
    others null is as none.
    """

    usage = "arn:aws:geo:REGION:ACCOUNT:tracker/NAME"
    resource = re.compile(r"tracker/[-._A-Za-z0-9]{1,100}")
    protocol = LOCATION
    permissions = (("ARN", ("geo:BatchUpdateDevicePosition",)),)
    reasons = (*AwsDestination.reasons, "BadPosition", "ValidationException")
    arguments = (
        (DEVICE, "the device; needed"),
        ("DeviceIdFormatter", "how its bytes are shown: `hex` (default), `base64`, `utf8`, `ascii`"),
        (LATITUDE, "its latitude; needed"),
        (LONGITUDE, "its longitude; needed"),
        ("ScaleFactor", "what both are multiplied by: 1 by default, `1e-7` for a MAVLink position"),
        (ACCURACY, "the accuracy, in metres"),
        (TIMESTAMP, "when it was there"),
        ("TimestampTimeUnit", "`seconds` (default) or `milliseconds`; also spelt `TimeUnit`"),
        (PROPERTIES, "map of up to 3 names and expressions, for further properties of the position"),
    )
    example = (
        (DEVICE, "[0:2]"),
        (LATITUDE, "i32le[2:6]"),
        (LONGITUDE, "i32le[6:10]"),
        ("ScaleFactor", "1e-7"),
    )
    limits = "10 positions."

    def read(self, arguments: Arguments) -> None:
        for name in (DEVICE, LATITUDE, LONGITUDE):
            if name not in arguments:
                cause, fix = f"{name} is missing", f"say in {name} where a packet has it"
                raise arguments.wrong(name, cause, fix)
        self.read_expressions(arguments, DEVICE)
        for name in (LATITUDE, LONGITUDE, ACCURACY, TIMESTAMP):
            if (found := arguments.expression(name, formatter="utf8")) is not None:
                self._expressions[name] = found
        self._properties = arguments.expressions(PROPERTIES)
        if len(self._properties) > _MOST_PROPERTIES:
            cause = f"{PROPERTIES} has {len(self._properties)} entries"
            raise arguments.wrong(PROPERTIES, cause, f"leave {_MOST_PROPERTIES}")
        for key, expression in self._properties.items():
            if not 1 <= len(key) <= _KEY_LIMIT:
                cause = f"{PROPERTIES} has the name {key!r}"
                raise arguments.wrong(PROPERTIES, cause, f"use 1 to {_KEY_LIMIT} characters", key)
            self._expressions[_column(key)] = expression
        self._scale = Decimal(str(arguments.number("ScaleFactor", 1.0, -1e12, 1e12)))
        self._unit = _read_unit(arguments)
        tracker = self.arn.resource.partition("/")[2]
        some = {"DeviceId": "-", "SampleTime": 0, "Position": [0.0, 0.0]}
        self._service = self.service(asked=(OPERATION, {"TrackerName": tracker, "Updates": [some]}))

    async def deliver(self, batch: PacketBatch) -> bytes | None:
        columns = {name: batch.values(name) for name in self.expressions}
        entries = [
            self._entry(record, {name: column[index] for name, column in columns.items()})
            for index, record in enumerate(batch.records())
        ]
        await deliver_in_parts(entries, LIMITS, self._send)
        return None

    def _entry(self, record: bytes, values: dict[str, str | None]) -> Entry[Content] | DeliveryError:
        try:
            return Entry(1, self._update(record, values))
        except _Bad as error:
            return DeliveryError("BadPosition", str(error))

    def _update(self, record: bytes, values: dict[str, str | None]) -> Content:
        device = values[DEVICE] or ""
        if not _DEVICE_ID.fullmatch(device):
            raise _Bad(f"{DEVICE} gives no id that a tracker takes: 1 to 100 letters, digits and . _ -")
        position = [float(_number(values, name) * self._scale) for name in (LONGITUDE, LATITUDE)]
        update: Content = {
            "DeviceId": device,
            "SampleTime": self._moment(record, values),
            "Position": position,
        }
        if values.get(ACCURACY) is not None:
            accuracy = _number(values, ACCURACY)
            if not 0 <= accuracy <= _FARTHEST:
                raise _Bad(f"{ACCURACY} gives {accuracy:g} metres")
            update["Accuracy"] = {"Horizontal": float(accuracy)}
        properties = {key: value for key in self._properties if (value := values[_column(key)])}
        for key, value in properties.items():
            if len(value) > _VALUE_LIMIT:
                raise _Bad(f"the property {key} has more than {_VALUE_LIMIT} characters")
        return update | ({"PositionProperties": properties} if properties else {})

    def _moment(self, record: bytes, values: dict[str, str | None]) -> str:
        if values.get(TIMESTAMP) is None:
            received: str = orjson.loads(record)["ReceivedAt"]
            return received
        try:
            moment = datetime.fromtimestamp(float(_number(values, TIMESTAMP) / self._unit), UTC)
        except (ValueError, OverflowError, OSError) as error:
            raise _Bad(f"{TIMESTAMP} gives no time of this world") from error
        return moment.isoformat().replace("+00:00", "Z")

    async def _send(self, updates: Sequence[Content]) -> Refused:
        body = orjson.dumps({"Updates": updates})
        answer = await self._service.request(OPERATION, _HEADERS, body, self.arn.text, SECONDS)
        try:
            if not (errors := orjson.loads(answer.body)["Errors"]):
                return {}
            refused = {_key(one): one["Error"] for one in errors}
            return {
                place: self._refusal(refused[key])
                for place, update in enumerate(updates)
                if (key := _key(update)) in refused
            }
        except (KeyError, TypeError, ValueError) as error:
            raise strange_answer("geo", OPERATION, self.arn) from error

    def _refusal(self, error: dict[str, Any]) -> AwsError:
        """Errors of a position are named as those of a request, but `…Error`."""
        code = str(error["Code"])
        status = 500 if code in _TRANSIENT else 400
        named = f"{code.removesuffix('Error')}Exception"
        message = str(error.get("Message") or "no more was said")
        return AwsError("geo", OPERATION, named, message, status=status, resource=self.arn.text)


class _Bad(Exception):
    """The packet has no position that a tracker takes; the text says why."""


def _read_unit(arguments: Arguments) -> int:
    both = [(name, arguments.text(name)) for name in ("TimestampTimeUnit", "TimeUnit")]
    given = [(name, text) for name, text in both if text]
    if len(given) > 1:
        raise arguments.wrong("TimeUnit", "TimeUnit and TimestampTimeUnit are the same", "write one of them")
    for name, text in given:
        if text not in _UNITS:
            raise arguments.wrong(name, f"{name} is {text!r}", f"use {' or '.join(_UNITS)}")
        return _UNITS[text]
    return _UNITS["seconds"]


def _column(key: str) -> str:
    """The expression of a property among all of them."""
    return f"{PROPERTIES}.{key}"


def _number(values: dict[str, str | None], name: str) -> Decimal:
    try:
        number = Decimal((values[name] or "").strip())
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite():
        raise _Bad(f"{name} gives no number for the packet")
    return number


def _key(update: dict[str, Any]) -> tuple[str, datetime]:
    """What tells a position from others."""
    return str(update["DeviceId"]), datetime.fromisoformat(update["SampleTime"])
