"""How a call of AWS fails."""

from __future__ import annotations

NO_ANSWER, TIMED_OUT, BAD_ANSWER = "NoAnswer", "TimedOut", "BadAnswer"
"""Codes of ours: no connection or a broken one; none in time; something that is not the service's protocol."""
NO_CREDENTIALS, NOT_SENT = "NoCredentials", "NotSent"
"""Codes of ours: nobody's name to call in; the request could not be made."""

_THROTTLED = frozenset(
    {
        "BandwidthLimitExceeded",
        "ExecutionLimitExceeded",
        "KmsThrottled",
        "KMSThrottling",
        "KMSThrottlingException",
        "KmsThrottlingException",
        "OverLimit",
        "PriorRequestNotComplete",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "SlowDown",
        "Throttled",
        "ThrottledException",
        "Throttling",
        "ThrottlingException",
        "TooManyRequests",
        "TooManyRequestsException",
    }
)
_DENIED = frozenset(
    {
        "403",
        "AccessDenied",
        "AccessDeniedException",
        "AuthorizationError",
        "AuthorizationErrorException",
        "ForbiddenException",
        "KmsAccessDenied",
        "KMSAccessDenied",
        "KMSAccessDeniedException",
        "KmsAccessDeniedException",
        "NotAuthorized",
        "UnauthorizedException",
        "UnauthorizedOperation",
    }
)
EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"})
"""The credentials were good once: new ones may help."""
_FORGED = frozenset({"SignatureDoesNotMatch", "InvalidSignatureException", "IncompleteSignature"})
_TRANSIENT = frozenset(
    {
        NO_ANSWER,
        TIMED_OUT,
        BAD_ANSWER,
        "InternalError",
        "InternalException",
        "InternalFailure",
        "RequestTimeout",
        "RequestTimeoutException",
        "ServiceUnavailable",
        "ServiceUnavailableException",
    }
)
_MESSAGE_LIMIT = 1000


class AwsError(Exception):
    """A call of AWS that failed, with or without an answer; as text one sentence for a user.

        >>> from sluicegate import AwsError
        >>> print(AwsError("sqs", "SendMessageBatch", "AccessDenied", "no policy allows it", resource="queue q"))
        sqs:SendMessage on queue q was refused: no policy allows it (AccessDenied)

    `code` is the name that the service gives the error (the newer one where it has two: `QueueDoesNotExist`), or one of
    the codes above. `status` is None without an answer. `retryable` is True for throttling, 5xx and calls without
    an answer; `throttled`, `denied` and `expired` (the credentials were good once) say more. `region` is where a bucket
    is that was looked for in another one.
    """

    def __init__(
        self,
        service: str,
        operation: str,
        code: str,
        message: str,
        *,
        status: int | None = None,
        resource: str | None = None,
        region: str | None = None,
    ) -> None:
        if code in _FORGED:
            # AWS quotes the whole request here, session token and all.
            message = "the signature is wrong: check the secret access key, and this machine's clock"
        message = " ".join(message.split())
        if len(message) > _MESSAGE_LIMIT:
            message = f"{message[:_MESSAGE_LIMIT]}…"
        self.service, self.operation, self.code, self.status = service, operation, code, status
        self.message, self.resource, self.region = message, resource, region
        self.throttled = code in _THROTTLED or status == 429
        self.denied = code in _DENIED
        self.expired = code in EXPIRED
        self.retryable = self.throttled or code in _TRANSIENT or (status is not None and status >= 500)
        super().__init__(self._sentence())

    @property
    def action(self) -> str:
        """What a policy has to allow, e.g. `sqs:DeleteMessage` for DeleteMessageBatch."""
        name = self.operation
        if self.service in ("sqs", "sns"):
            name = name.removesuffix("Batch")
        if self.service == "lambda" and name.startswith("Invoke"):
            name = "InvokeFunction"
        return f"{self.service}:{name}"

    def about(self, resource: str) -> AwsError:
        """This error, on `resource` as a policy names it: the call has a queue's URL or bare name."""
        return AwsError(
            self.service, self.operation, self.code, self.message, status=self.status, resource=resource
        )

    def _sentence(self) -> str:
        what = f"{self.action} on {self.resource}" if self.resource else self.action
        if self.denied:
            return f"{what} was refused: {self.message} ({self.code})"
        if self.throttled:
            return f"{what} was throttled by AWS: {self.message} ({self.code})"
        if self.code in (NO_ANSWER, TIMED_OUT):
            return f"{what} had no answer: {self.message}"
        if self.code in (BAD_ANSWER, NO_CREDENTIALS, NOT_SENT):
            return f"{what} failed: {self.message}"
        return f"{what} failed: {self.message} ({self.code})"
