"""What a failed call to AWS means for the packets that it was to deliver."""

import re
from typing import Any

import pytest

from sluicegate.aws import AwsError
from sluicegate.aws.errors import BAD_ANSWER, NO_ANSWER, NO_CREDENTIALS, NOT_SENT, TIMED_OUT
from sluicegate.destinations import DeliveryError, DestinationError
from sluicegate.sources import SourceError


def failed(code: str, status: int | None = None) -> DeliveryError:
    return DeliveryError.from_aws(
        AwsError("sqs", "SendMessageBatch", code, "AWS's words", status=status, resource="queue q")
    )


@pytest.mark.parametrize(
    ("code", "status", "reason"),
    [
        ("ThrottlingException", 400, "Throttled"),
        ("SlowDown", 503, "Throttled"),
        ("SomethingNew", 429, "Throttled"),
        ("InternalError", 500, "InternalError"),
        ("SomethingNew", 503, "SomethingNew"),
        (NO_ANSWER, None, "NoAnswer"),
        (TIMED_OUT, None, "TimedOut"),
        (BAD_ANSWER, 200, "BadAnswer"),
        ("ExpiredToken", 403, "ExpiredCredentials"),
        ("RequestExpired", 400, "ExpiredCredentials"),
    ],
)
def test_what_a_moment_may_mend_is_retried(code: str, status: int | None, reason: str) -> None:
    error = failed(code, status)
    assert (error.reason, error.retryable) == (reason, True)


@pytest.mark.parametrize(
    ("code", "status", "reason"),
    [
        ("AccessDenied", 403, "AccessDenied"),
        ("KMS.AccessDeniedException", 400, "AccessDeniedException"),
        ("AWS.SimpleQueueService.NonExistentQueue", 400, "NonExistentQueue"),
        ("InvalidMessageContents", 400, "InvalidMessageContents"),
        ("404", 404, "Http404"),
        ("", 400, "AwsError"),
        (NO_CREDENTIALS, None, "NoCredentials"),
        (NOT_SENT, None, "NotSent"),
    ],
)
def test_what_somebody_has_to_mend_is_not(code: str, status: int | None, reason: str) -> None:
    error = failed(code, status)
    assert (error.reason, error.retryable) == (reason, False)
    assert re.fullmatch(r"[A-Z][A-Za-z0-9]{1,63}", error.reason)


def test_the_sentence_says_what_was_tried_on_what() -> None:
    assert (
        failed("AccessDenied", 403).detail
        == "sqs:SendMessage on queue q was refused: AWS's words (AccessDenied)"
    )


@pytest.mark.parametrize(
    ("reason", "detail"),
    [(None, "it failed"), (404, "it failed"), ("F\ud800", "it failed"), ("Failed", OSError())],
)
def test_what_is_no_text_is_refused_where_it_is_written(reason: Any, detail: Any) -> None:
    with pytest.raises(TypeError, match="reason and detail of a DeliveryError are text"):
        DeliveryError(reason, detail)


@pytest.mark.parametrize("kind", [DestinationError, SourceError])
@pytest.mark.parametrize(("cause", "fix"), [(ValueError("x"), "write it"), ("it is wrong", None)])
def test_cause_and_fix_that_are_no_text_are_refused_where_they_are_written(
    kind: Any, cause: Any, fix: Any
) -> None:
    with pytest.raises(TypeError, match=f"cause and fix of a {kind.__name__} are text"):
        kind(cause, fix)


def test_an_argument_of_one_name_is_one_place() -> None:
    error = DestinationError("it is wrong", "write it", argument="Facility")
    assert error.finding(("destination_arn",)).path == ("arguments", "Facility")
