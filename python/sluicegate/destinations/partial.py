"""What one failed attempt decides about the packets of a batch: delivered, to be tried again, or given up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sluicegate.destinations.base import DeliveryError


@dataclass(frozen=True, slots=True)
class Parts:
    """The packets of a batch after an attempt: `delivered` + `len(again)` + those of `given_up`.

    `again` are indexes in the batch, ascending. `given_up` has the number of packets and a detail for each reason.
    """

    delivered: int
    again: list[int]
    given_up: dict[str, tuple[int, str]]


def parts(error: DeliveryError, packets: int, attempt: int, *, last: bool) -> Parts:
    """Take a batch of so many packets apart after `error`; `attempt` counts from 1, after the `last` none follows."""
    failed = _failed(error, packets)
    again: list[int] = []
    given_up: dict[str, tuple[int, str]] = {}
    for index in sorted(failed):
        failure = failed[index]
        if failure.retryable and not last:
            again.append(index)
            continue
        attempts = f" (given up after {attempt} attempts)" if failure.retryable else ""
        count, detail = given_up.get(failure.reason, (0, failure.detail + attempts))
        given_up[failure.reason] = count + 1, detail
    return Parts(packets - len(failed), again, given_up)


def names_others(error: DeliveryError, packets: int) -> bool:
    """True if the error names packets, and none of a batch of so many or some that it does not have."""
    named = error.packets
    if named is None:
        return False
    return not named or not all(
        type(index) is int and 0 <= index < packets and isinstance(failure, DeliveryError)
        for index, failure in named.items()
    )


def _failed(error: DeliveryError, packets: int) -> Mapping[int, DeliveryError]:
    if names_others(error, packets):
        detail = f"{error.detail} (it names packets that its batch does not have, so all {packets} count as failed)"
        error = DeliveryError(error.reason, detail, error.retryable)
    return dict.fromkeys(range(packets), error) if error.packets is None else error.packets
