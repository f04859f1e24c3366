"""What the answer of a web hook means for a batch, or none."""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime

from sluicegate.destinations.base import DeliveryError
from sluicegate.httpclient import Answer, NoAnswer

REASONS = (
    "Throttled",
    "ServerError",
    "AccessDenied",
    "Refused",
    "Redirected",
    "PacketTooLarge",
    "NoAnswer",
    "TimedOut",
    "AnswerTooLarge",
    "AddressForbidden",
)


def replies(answer: Answer) -> bytes | None:
    """The body if it is meant to have Replies. Hooks answer with `ok` as plain text too."""
    kind = answer.headers.get("content-type", "json").partition(";")[0].lower()
    body = answer.body
    return body if kind.endswith("json") or body.lstrip()[:1] == b"{" else None


def refusal(name: str, answer: Answer) -> DeliveryError:
    """The error for a batch that the server `name` did not take: another attempt is worth it after 429 and 5xx."""
    status = answer.status
    reason, detail = "Refused", f"{name} refuses it with {status}"
    if status == 429:
        reason, detail = "Throttled", f"{name} asks for fewer requests (429)"
    elif status >= 500:
        reason, detail = "ServerError", f"{name} fails with {status}"
    elif status in (401, 403):
        reason, detail = (
            "AccessDenied",
            f"{name} denies it with {status}; check the secrets of this Destination",
        )
    elif status < 400:
        reason, detail = (
            "Redirected",
            f"{name} redirects with {status}, which is not followed; write the new URL",
        )
    retryable = status == 429 or status >= 500
    return DeliveryError(reason, detail, retryable, retry_after=_retry_after(answer) if retryable else 0.0)


def _retry_after(answer: Answer) -> float:
    """Seconds (RFC 9110, 10.2.3); 0 for none."""
    text = answer.headers.get("retry-after", "").strip()
    if text.isascii() and text.isdecimal():
        return float(text[:9])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0


def unanswered(error: NoAnswer) -> DeliveryError:
    """The error for a batch to which no answer came."""
    if error.forbidden:
        return DeliveryError("AddressForbidden", str(error))
    if error.too_large:
        return DeliveryError("AnswerTooLarge", str(error))
    return DeliveryError("TimedOut" if error.timed_out else "NoAnswer", str(error), retryable=True)
