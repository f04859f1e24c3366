"""Metrics of CloudWatch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from sluicegate.aws.chunks import chunks
from sluicegate.aws.service import Service

CALL_DATA = 1000
CALL_BYTES = 1_000_000
"""PutMetricData: so many statistic sets and so many bytes. The namespace is within the rest of 1 MiB."""
_FRAME, _DIMENSION = 300, 40
"""Bytes of a set and of each of its dimensions around the names, which are ASCII."""
SECONDS = 10.0


class Datum(NamedTuple):
    """A statistic set: `samples` samples around `time` (Unix seconds). `unit` is one of CloudWatch's, e.g. `Bytes`."""

    name: str
    dimensions: tuple[tuple[str, str], ...]
    time: int
    unit: str
    samples: int
    sum: float
    minimum: float
    maximum: float


class MetricStore:
    """A namespace of CloudWatch."""

    def __init__(self, service: Service, namespace: str) -> None:
        self._service = service
        self._namespace = namespace

    async def put(self, data: Sequence[Datum], seconds: float = SECONDS) -> None:
        """Write what one call takes (see `fitting`). Raises `AwsError`."""
        params = {"Namespace": self._namespace, "MetricData": [_shown(one) for one in data]}
        await self._service.call("PutMetricData", params, "*", seconds)


def fitting(data: Iterable[Datum]) -> int:
    """How many of `data` one call takes, from the first on."""
    return next((end for _, end in chunks(map(_size, data), CALL_DATA, CALL_BYTES)), 0)


def _size(datum: Datum) -> int:
    """At least the bytes of its JSON."""
    return (
        _FRAME
        + len(datum.name)
        + sum(_DIMENSION + len(name) + len(value) for name, value in datum.dimensions)
    )


def _shown(datum: Datum) -> dict[str, object]:
    return {
        "MetricName": datum.name,
        "Dimensions": [{"Name": name, "Value": value} for name, value in datum.dimensions],
        "Timestamp": datum.time,
        "StatisticValues": {
            "SampleCount": datum.samples,
            "Sum": datum.sum,
            "Minimum": datum.minimum,
            "Maximum": datum.maximum,
        },
        "Unit": datum.unit,
    }
