"""Signature version 4 for what is signed here: AWS's JSON, its older form, and REST requests such as those of S3.

The same headers and signatures as botocore's (tests compare them), at a fraction of the work: the signing key is
derived once a day, and nothing is parsed.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import SplitResult, quote, urlsplit

from sluicegate.aws.credentials import Keys

_ALGORITHM = "AWS4-HMAC-SHA256"


@dataclass(frozen=True)
class Protocol:
    """How a service is spoken to. Those of AWS's JSON have the prefix of x-amz-target and the version; `query_mode`: it
    once spoke another protocol and, asked for it, names its errors as it did there. The others are REST, or get a form
    (SNS).

    `service` is its name in ARNs and policies, `client` the one that botocore has for it, and `signed_as` the one in
    signatures, where they differ. `api` is the id of the API that is called, for API Gateway alone."""

    service: str
    target: str = ""
    version: str = "1.1"
    query_mode: bool = False
    client: str = ""
    signed_as: str = ""
    api: str = ""

    def fields(self, operation: str) -> dict[str, str]:
        """The headers with which AWS's JSON names an operation."""
        named = {
            "content-type": f"application/x-amz-json-{self.version}",
            "x-amz-target": f"{self.target}.{operation}",
        }
        return {**named, "x-amzn-query-mode": "true"} if self.query_mode else named


SQS = Protocol("sqs", "AmazonSQS", "1.0", query_mode=True)
CLOUDWATCH = Protocol(
    "cloudwatch", "GraniteServiceVersion20100801", "1.0", query_mode=True, signed_as="monitoring"
)
LOGS = Protocol("logs", "Logs_20140328")
KINESIS = Protocol("kinesis", "Kinesis_20131202")
FIREHOSE = Protocol("firehose", "Firehose_20150804")
EVENTS = Protocol("events", "AWSEvents")
STATES = Protocol("states", "AWSStepFunctions", "1.0", client="stepfunctions")
SNS = Protocol("sns")
LAMBDA = Protocol("lambda")
S3 = Protocol("s3")
EXECUTE_API = Protocol("execute-api", client="apigatewaymanagementapi")
IOT = Protocol("iot", client="iot-data", signed_as="iotdata")
LOCATION = Protocol("geo", client="location")
DYNAMODB = Protocol("dynamodb", "DynamoDB_20120810", "1.0")


class Signer:
    """Signs requests to the service at `url`."""

    def __init__(self, url: str, region: str, protocol: Protocol) -> None:
        self._host = _authority(urlsplit(url))
        self._is_s3 = protocol.service == "s3"
        self._scope = (region, protocol.signed_as or protocol.service, "aws4_request")
        self._second, self._stamp = -1, ""
        self._key_of: tuple[Keys, str] | None = None
        self._key = b""

    def sign(
        self, method: str, path: str, fields: Mapping[str, str], body: bytes, keys: Keys, now: float
    ) -> dict[str, str]:
        """The headers of a request, signature included, without Content-Length. `path` is that of the URL,
        names of `fields` are in lower case, `now` is Unix time."""
        stamp = self._time(int(now))
        digest = hashlib.sha256(body).hexdigest()
        headers = {**fields, "host": self._host, "x-amz-date": stamp}
        if keys.token:
            headers["x-amz-security-token"] = keys.token
        if self._is_s3:
            headers["x-amz-content-sha256"] = digest
        else:
            path = quote(path, safe="/~")
        names = sorted(headers)
        signed = ";".join(names)
        shown = "".join([f"{name}:{headers[name]}\n" for name in names])
        request = f"{method}\n{path}\n\n{shown}\n{signed}\n{digest}"
        scope = "/".join((stamp[:8], *self._scope))
        to_sign = f"{_ALGORITHM}\n{stamp}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
        signature = hmac.digest(self._signing_key(keys, stamp[:8]), to_sign.encode(), "sha256").hex()
        headers["authorization"] = (
            f"{_ALGORITHM} Credential={keys.access_key}/{scope}, SignedHeaders={signed}, Signature={signature}"
        )
        return headers

    def _time(self, second: int) -> str:
        if second != self._second:
            self._second, self._stamp = second, time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(second))
        return self._stamp

    def _signing_key(self, keys: Keys, day: str) -> bytes:
        if self._key_of != (keys, day):
            key = f"AWS4{keys.secret_key}".encode()
            for part in (day, *self._scope):
                key = hmac.digest(key, part.encode(), "sha256")
            self._key_of, self._key = (keys, day), key
        return self._key


def _authority(url: SplitResult) -> str:
    """Host and, unless it is the scheme's own, port."""
    name = f"[{url.hostname}]" if ":" in (url.hostname or "") else url.hostname
    return f"{name}" if url.port in (None, {"http": 80, "https": 443}[url.scheme]) else f"{name}:{url.port}"
