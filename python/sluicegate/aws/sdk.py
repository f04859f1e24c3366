"""botocore, for everything that is not hot. Imported with the first call; all of it blocks, so it runs in threads."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Mapping
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import botocore.session  # type: ignore[import-untyped]
from botocore import UNSIGNED, exceptions, xform_name
from botocore.config import Config  # type: ignore[import-untyped]
from botocore.credentials import (  # type: ignore[import-untyped]
    CredentialResolver,
    DeferredRefreshableCredentials,
)
from botocore.httpsession import get_cert_path  # type: ignore[import-untyped]
from botocore.parsers import ResponseParserError  # type: ignore[import-untyped]

from sluicegate.aws.credentials import Role
from sluicegate.aws.errors import BAD_ANSWER, NO_ANSWER, NO_CREDENTIALS, NOT_SENT, TIMED_OUT, AwsError
from sluicegate.httpclient import environment_proxy

CONNECT_SECONDS, READ_SECONDS = 5, 15
_CONFIG = Config(
    connect_timeout=CONNECT_SECONDS,
    read_timeout=READ_SECONDS,
    retries={"total_max_attempts": 1, "mode": "standard"},
    user_agent_extra=f"sluicegate/{version('sluicegate')}",
)
"""No attempts beyond the first: `Aws.call` decides about those, and can be cancelled between them."""

_FOR_CREDENTIALS = {
    "AssumeRole": "sts",
    "AssumeRoleWithWebIdentity": "sts",
    "GetRoleCredentials": "sso",
    "CreateToken": "sso-oidc",
}
"""What botocore calls for credentials, and of which service."""

_EXCEPTIONS = (exceptions.BotoCoreError, exceptions.ClientError, ResponseParserError)
_NOBODY = "000000000000"
_AWS_HOSTS = (".amazonaws.com", ".amazonaws.com.cn", ".api.aws", ".amazonaws.eu")
_RESOURCES = (
    "TopicArn",
    "SubscriptionArn",
    "QueueUrl",
    "QueueName",
    "RoleArn",
    "ResourceArn",
    "FunctionName",
    "logGroupName",
    "logGroupIdentifier",
    "StreamName",
    "StreamARN",
    "DeliveryStreamName",
    "Bucket",
)
"""Parameters that name what a call is about, for its errors."""


class Control:
    """Clients and credentials for the gateway itself (role None) and for each role that it assumes."""

    def __init__(self, region: str, endpoint_url: str | None) -> None:
        self._region = region
        self._endpoint_url = endpoint_url
        self._lock = threading.RLock()  # making clients is not thread-safe, using them is
        self._sessions: dict[Role | None, Any] = {}
        self._clients: dict[tuple[str, str, Role | None], Any] = {}

    def call(
        self, service: str, operation: str, params: Mapping[str, object], role: Role | None, region: str
    ) -> dict[str, Any]:
        """The answer to one request. Raises `AwsError`."""
        try:
            self._refuse_nobodys(service, operation, params, region)
            method = getattr(self.client(service, region, role), xform_name(operation))
            answer: dict[str, Any] = method(**params)
        except _EXCEPTIONS as error:
            raise _translate(error, service, operation, self.resource(params)) from error
        return answer

    @staticmethod
    def resource(params: Mapping[str, object]) -> str | None:
        """What a call with these parameters is about."""
        return next((str(params[name]) for name in _RESOURCES if params.get(name)), None)

    @staticmethod
    def explain(error: Exception, service: str, operation: str, resource: str | None) -> AwsError:
        """botocore's exception as ours; any other is raised again."""
        if isinstance(error, _EXCEPTIONS):
            return _translate(error, service, operation, resource)
        raise error

    def _refuse_nobodys(
        self, service: str, operation: str, params: Mapping[str, object], region: str
    ) -> None:
        """Keep names of the gateway's own topics and of emulators, as in a template that was applied, from AWS itself:
        a topic's PacketSource would make a queue in the operator's account for nothing."""
        if not any(value == _NOBODY or f":{_NOBODY}:" in str(value) for value in params.values()):
            return
        if self._is_at_aws(service, region):
            cause = f"AWS has no account {_NOBODY}; set `sns` for topics of the gateway's own, or `aws.endpoint_url`"
            raise AwsError(service, operation, NOT_SENT, cause, resource=self.resource(params))

    def _is_at_aws(self, service: str, region: str) -> bool:
        return _is_of_aws(self.client(service, region, None).meta.endpoint_url)

    def client(self, service: str, region: str, role: Role | None) -> Any:
        with self._lock:
            key = (service, region, role)
            if key not in self._clients:
                self._clients[key] = self._session(role).create_client(
                    service, region_name=region, config=_CONFIG
                )
            return self._clients[key]

    def url_of(self, service: str, operation: str, params: Mapping[str, object], region: str) -> str:
        """Where a call goes: the endpoint, which may depend on the call, a bucket or an account, and the path."""
        self._refuse_nobodys(service, operation, params, region)
        found: list[str] = []

        def instead(params: Mapping[str, str], **_: object) -> tuple[object, dict[str, object]]:
            found.append(params["url"])
            return SimpleNamespace(status_code=200), {}

        with self._lock:  # a client of its own: its calls go nowhere
            # AWS has hosts such as `tracking.geo` and sync-states for some calls; emulators and VPC endpoints have not.
            url = self.client(service, region, None).meta.endpoint_url
            prefix = _is_of_aws(url) and ".vpce." not in url
            unsigned = _CONFIG.merge(Config(signature_version=UNSIGNED, inject_host_prefix=prefix))
            client = self._session(None).create_client(service, region_name=region, config=unsigned)
        client.meta.events.register("before-call.*.*", instead)
        getattr(client, xform_name(operation))(**params)
        client.close()
        return found[0]

    def way_to(
        self,
        service: str,
        region: str,
        asked: tuple[str, Mapping[str, object]] | None = None,
        api: str = "",
    ) -> tuple[str, str | None, ssl.SSLContext | None]:
        """The URL of a service, of the call `asked` (operation and parameters), or of an API of API Gateway; that of
        the HTTP proxy on the way (as the environment has it); and whom to trust: the certificates that the environment
        or the profile names, or botocore's own."""
        if asked is not None:
            url = self.url_of(service, *asked, region)
        else:
            url = self._endpoint_url or self.client(service, region, None).meta.endpoint_url
        url = _url_of_api(url, api) if api else url
        proxy = environment_proxy(url)
        if urlsplit(url).scheme != "https":
            return url, proxy, None
        with self._lock:
            bundle = self._session(None).get_config_variable("ca_bundle")
        try:
            return url, proxy, ssl.create_default_context(cafile=bundle or get_cert_path(True))
        except OSError as error:
            raise exceptions.SSLError(endpoint_url=url, error=error) from error

    def credentials(self, role: Role | None) -> Any:
        """botocore's credentials object. Raises what botocore raises."""
        with self._lock:
            found = self._session(role).get_credentials()
            if found is None:
                self.forget(role)  # look anew the next time, in the configuration files too
                raise exceptions.NoCredentialsError
        return found

    def forget(self, role: Role | None) -> None:
        """Make everything anew for `role`: its credentials have expired before they said."""
        with self._lock:
            self._sessions.pop(role, None)
            for key in [key for key in self._clients if key[2] == role]:
                self._clients.pop(key)

    def close(self) -> None:
        with self._lock:
            for client in self._clients.values():
                client.close()
            self._clients.clear()

    def _session(self, role: Role | None) -> Any:
        if role not in self._sessions:
            session = _Session(self._endpoint_url, self._region)
            if role is not None:
                session.register_component("credential_provider", CredentialResolver([_Assume(self, role)]))
            self._sessions[role] = session
        return self._sessions[role]

    def assumed(self, role: Role) -> Any:
        """Credentials of `role`, fetched when they are first used."""
        params = {
            "RoleArn": role.arn,
            "RoleSessionName": role.session_name,
            "DurationSeconds": role.seconds,
        }

        def refresh() -> dict[str, str]:
            found = self.call("sts", "AssumeRole", params, None, self._region)["Credentials"]
            return {
                "access_key": found["AccessKeyId"],
                "secret_key": found["SecretAccessKey"],
                "token": found["SessionToken"],
                "expiry_time": found["Expiration"].isoformat(),
            }

        credentials = DeferredRefreshableCredentials(refresh, "assume-role")
        # botocore asks for new ones 15 minutes before the end, and waits for them in the last 10. Of the shortest
        # session (15 minutes) nothing would be left: every call would open another one.
        credentials._advisory_refresh_timeout = min(900, role.seconds // 4)
        credentials._mandatory_refresh_timeout = min(600, role.seconds // 6)
        return credentials


def _is_of_aws(url: str) -> bool:
    return str(urlsplit(url).hostname).endswith(_AWS_HOSTS)


def _url_of_api(url: str, api: str) -> str:
    """An API has a host of its own in the service's domain. Emulators have it below a path."""
    parts = urlsplit(url)
    if _is_of_aws(url):
        return parts._replace(netloc=f"{api}.{parts.netloc}").geturl()
    return parts._replace(path=f"{parts.path.rstrip('/')}/_aws/execute-api/{api}").geturl()


class _Session(botocore.session.Session):  # type: ignore[misc]  # botocore has no types
    """A session all of whose clients call `endpoint_url`, where there is one.

    botocore makes clients of its own to get credentials: of STS for web identities and for the roles of profiles, of
    SSO for its tokens. Without this they would call the real AWS. Those of profiles name no region, and an endpoint
    needs one for the signature: then it is `region`.
    """

    def __init__(self, endpoint_url: str | None, region: str) -> None:
        super().__init__()
        self._endpoint_url = endpoint_url
        self._region = region

    def create_client(self, service_name: str, region_name: str | None = None, **named: Any) -> Any:
        if self._endpoint_url is not None:
            region_name = region_name or self.get_config_variable("region") or self._region
            named["endpoint_url"] = self._endpoint_url
        return super().create_client(service_name, region_name, **named)


class _Assume:
    """botocore's interface of a place that credentials come from."""

    METHOD = CANONICAL_NAME = "sluicegate-role"

    def __init__(self, control: Control, role: Role) -> None:
        self._control = control
        self._role = role

    def load(self) -> Any:
        return self._control.assumed(self._role)


def _translate(error: Exception, service: str, operation: str, resource: str | None) -> AwsError:
    """botocore's exception as ours. One from a call that botocore made for credentials is an error of that call."""
    if isinstance(error, exceptions.ClientError):
        asked = error.operation_name
        if asked in _FOR_CREDENTIALS and asked != operation:
            service, operation, resource = _FOR_CREDENTIALS[asked], asked, None
        found = error.response.get("Error", {})
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        code = found.get("QueryErrorCode") or found.get("Code") or BAD_ANSWER
        message = found.get("Message") or f"no more was said than status {status}"
    else:
        code, message, status = *_without_answer(error), None
    return AwsError(service, operation, code, message, status=status, resource=resource)


def _without_answer(error: Exception) -> tuple[str, str]:
    """Code and message for what botocore raises itself."""
    match error:
        case ResponseParserError():
            return BAD_ANSWER, "the answer is not what AWS says; check who answers at the endpoint"
        case exceptions.NoCredentialsError() | exceptions.PartialCredentialsError():
            return NO_CREDENTIALS, (
                "no AWS credentials were found; give the gateway an instance or container role, AWS_PROFILE, or "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        case exceptions.ConnectTimeoutError() | exceptions.ReadTimeoutError():
            return TIMED_OUT, f"{_host(error)} did not answer in time"
        case exceptions.SSLError():
            return NO_ANSWER, f"TLS with {_host(error)} failed; check AWS_CA_BUNDLE and who answers there"
        case exceptions.EndpointConnectionError() | exceptions.ProxyConnectionError():
            return (
                NO_ANSWER,
                f"no connection to {_host(error)}; check the region, the network and aws.endpoint_url",
            )
        case exceptions.ConnectionError() | exceptions.HTTPClientError():
            return NO_ANSWER, f"the connection to {_host(error)} broke"
        case exceptions.ProfileNotFound() | exceptions.ConfigParseError() | exceptions.ConfigNotFound():
            return NO_CREDENTIALS, f"the AWS configuration of this machine cannot be used: {error}"
        case exceptions.CredentialRetrievalError() | exceptions.MetadataRetrievalError():
            return NO_CREDENTIALS, f"the source of AWS credentials gave none: {error}"
    return NOT_SENT, f"the request could not be made: {error}"


def _host(error: Exception) -> str:
    kwargs = getattr(error, "kwargs", {})
    return urlsplit(str(kwargs.get("endpoint_url") or kwargs.get("proxy_url") or "")).netloc or "AWS"
