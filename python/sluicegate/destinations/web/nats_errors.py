"""What errors of NATS mean for a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from sluicegate.destinations.base import DeliveryError

if TYPE_CHECKING:
    from nats.aio.msg import Msg

REASONS = (
    "NoAnswer",
    "TimedOut",
    "AccessDenied",
    "NotEncrypted",
    "AddressForbidden",
    "PacketTooLarge",
    "NoStream",
    "StreamError",
    "NoResponder",
    "Throttled",
    "ServerError",
    "Refused",
)


def not_stored(answer: Msg, subject: str) -> DeliveryError | None:
    """Why a stream has not stored a message; None if it has. JetStream API, ADR-1 and ADR-22 of NATS."""
    if _nobody(answer):
        return DeliveryError(
            "NoStream", f"no stream has the subject {subject}: `nats stream add` makes one", retryable=True
        )
    try:
        said = orjson.loads(answer.data)
        error = said.get("error")
        if error is None and "stream" in said:
            return None
        code, number = int(error["code"]), int(error["err_code"])
    except (ValueError, TypeError, KeyError, AttributeError):
        return DeliveryError("StreamError", f"what answers at {subject} is no stream")
    return DeliveryError(
        "StreamError", f"the stream does not take it (error {number})", code == 429 or code >= 500
    )


def refusal(answer: Msg, subject: str) -> DeliveryError | None:
    """The error that a responder reports as services of NATS do (ADR-32), with the codes of HTTP; None without one."""
    if _nobody(answer):
        return DeliveryError("NoResponder", f"nobody answers at {subject}", retryable=True)
    code = (answer.headers or {}).get("Nats-Service-Error-Code")
    if not code:
        return None
    reason = "Throttled" if code == "429" else "ServerError" if code.startswith("5") else "Refused"
    return DeliveryError(reason, f"what answers at {subject} did not take it", reason != "Refused")


def _nobody(answer: Msg) -> bool:
    return (answer.headers or {}).get("Status") == "503"
