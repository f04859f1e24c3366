"""GatewayConfig: everything that one node runs (contract section 8, the YAML example)."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ModelWrapValidatorHandler,
    ValidationInfo,
    model_validator,
)
from pydantic_core import PydanticCustomError

from sluicegate.model.address import BindAddress, Network, bind_text, parse_server
from sluicegate.model.base import Finding, Resource, invalid
from sluicegate.model.crosscheck import cross_check, with_names
from sluicegate.model.listener import Listener
from sluicegate.model.names import Region
from sluicegate.model.packet_source import PacketSource

_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_QUEUE_URL = re.compile(r"https?://[^/\s]+/[0-9]{12}/[\w-]{1,80}", re.ASCII)
_AWS_QUEUE_HOST = re.compile(r"https://sqs(?:-fips)?\.([a-z0-9-]+)\.amazonaws\.com(?:\.cn)?/.*")
_PORT_RANGE = re.compile(r"\s*([0-9]{1,5})\s*-\s*([0-9]{1,5})\s*")


def _label(text: str) -> str:
    if not _LABEL.fullmatch(text):
        raise invalid(f'"{text}" is not a bare label', "use letters, digits and `-`, without dots: ingress-1")
    return text


def _server(text: str) -> str:
    parse_server(text)
    return text


def _url(text: str) -> str:
    if not re.match(r"https?://[^/\s]+", text):
        raise invalid(f'"{text}" is not a URL', "use the form http://127.0.0.1:4566")
    return text


def _queue_url(text: str) -> str:
    if not _QUEUE_URL.fullmatch(text):
        fix = "use the output QueueUrl of the provider's stack: https://sqs.us-east-1.amazonaws.com/123456789012/NAME"
        raise invalid(f'"{text}" is not the URL of an SQS queue', fix)
    return text


def _host(text: str) -> str:
    if not re.fullmatch(r"[^/@\s]+", text):
        raise invalid(f'"{text}" is not a host', "use the form HOST or HOST:PORT, as it stands in the URL")
    return text


def _file(text: str) -> str:
    if not text.strip() or "\0" in text or text.endswith("/"):
        raise invalid(
            f"{text!r} is not the path of a file", "write the path of a file, such as logs/events.ndjson"
        )
    return text


def _folder(text: str) -> str:
    if not text.strip() or "\0" in text:
        raise invalid(f"{text!r} is not the path of a folder", "use the form ./handlers or /srv/handlers")
    return text


def _not_all(network: str) -> str:
    if network.endswith("/0"):
        raise invalid(
            f'"{network}" is every address, and this lists special ones',
            "name the networks that are meant, such as 10.20.0.0/16",
        )
    return network


def _ports_text(value: Any) -> Any:
    """A range of ports as it may stand in YAML."""
    ends = value if isinstance(value, list) else [value]
    if len(ends) in (1, 2) and all(isinstance(end, int) and not isinstance(end, bool) for end in ends):
        raise invalid("this is not a range of ports", f"write {ends[0]}-{ends[-1]}")
    return value


def _ports(text: str) -> str:
    match = _PORT_RANGE.fullmatch(text)
    if not match or not 1 <= int(match[1]) <= int(match[2]) <= 65535:
        raise invalid(f'"{text}" is not a range of ports', "use the form 20000-29999")
    return text


ServerAddress = Annotated[str, BeforeValidator(bind_text), AfterValidator(_server)]
"""`ADDRESS:PORT` of one of our own servers."""

LocalAccess = Literal["none", "read", "publish", "admin"]


class Tls(Resource):
    """A server's certificate. A reload reads both files anew; connections that are open keep the old one."""

    cert: Annotated[str, AfterValidator(_file)]
    """A PEM file: the server's certificate, then those between it and its authority."""
    key: Annotated[str, AfterValidator(_file)]
    """A PEM file with the certificate's private key, without a password."""


class Api(Resource):
    """The REST API, console and metrics."""

    bind: ServerAddress = "127.0.0.1:8080"
    """`ADDRESS:PORT`."""
    local_access: LocalAccess = "publish"
    """What may be done without a key on a loopback address: `none`, `read` (without secrets), `publish` (and read), or
    `admin`: then every user and program that reaches loopback may run programs as the gateway's user."""
    tls: Tls | None = None
    """Serve https with this certificate; leave out for http."""

    def address(self) -> tuple[str, int]:
        """`(host, port)`; port 0 lets the kernel choose."""
        return parse_server(self.bind)


class Sns(Api):
    """The gateway's own SNS endpoint."""

    bind: ServerAddress = "127.0.0.1:4566"
    """`ADDRESS:PORT`."""
    local_access: LocalAccess = "publish"
    """What may be done without credentials on a loopback address: `none`, `read` (look at topics), `publish` (and make
    topics), or `admin` (and delete topics)."""
    tls: Tls | None = None
    """Serve https with this certificate; leave out for http."""
    durable: bool = False
    """Answer a publish only when its message is on the disk, from where it is sent again after a crash."""


_AWS_HOST = re.compile(r"\bamazonaws\.|\.aws\b", re.IGNORECASE)


class Aws(Resource):
    """How AWS is called."""

    endpoint_url: Annotated[str, AfterValidator(_url)] | None = None
    """One endpoint for all AWS calls, e.g. a local emulator; also for those that get the gateway its credentials: STS
    behind web identities and the roles of profiles."""
    reconcile_seconds: Annotated[float, Field(ge=1, le=86_400)] = 300
    """How often the queues and subscriptions of PacketSources are checked, and put right."""

    def emulator(self) -> str | None:
        """The endpoint if it is surely no door to AWS itself, where a stranger's ARN would mean something: a plain
        `http:` URL, at no host of AWS."""
        url = self.endpoint_url
        return url if url and url.startswith("http:") and not _AWS_HOST.search(url) else None


class CloudFormation(Resource):
    """Stacks whose custom resources have a topic as their provider: their requests are read from its queue."""

    queue_url: Annotated[str, AfterValidator(_queue_url)]
    """The output `QueueUrl` of the provider's stack."""
    response_hosts: list[Annotated[str, AfterValidator(_host)]] = Field(default_factory=list)
    """Hosts (`HOST:PORT`) that are answered beside CloudFormation's own bucket at S3, by http too. For emulators and
    tests: whoever may publish to the topic chooses among them."""

    def region(self) -> str | None:
        """The queue's region; None for an emulator's queue."""
        match = _AWS_QUEUE_HOST.fullmatch(self.queue_url)
        return match[1] if match else None


class Events(Resource):
    """Where events go, one JSON object a line (contract section 6)."""

    stdout: bool = True
    """Write them to standard output."""
    file: Annotated[str, AfterValidator(_file)] | None = None
    """Write them to this file too."""
    rotate_mb: Annotated[int, Field(ge=1, le=1_048_576)] = 64
    """The size in MiB at which the file is renamed to `FILE.1` and a new one begun."""
    keep: Annotated[int, Field(ge=1, le=1000)] = 5
    """How many old files remain: `FILE.1` is the newest."""
    packets_per_second: Annotated[int, Field(ge=0, le=10_000)] = 0
    """So many events of single packets a second and Listener are written too; 0 for none. Batches that were delivered
    likewise."""
    log_group_packets_per_second: Annotated[int, Field(ge=0, le=10_000)] = 10
    """So many events of arriving packets a second go to a Listener's `log_group_name`; 0 for none. Batches that were
    delivered likewise."""


class DeadLetters(Resource):
    """Files of dead letters: `file:PATH` of PacketSources."""

    rotate_mb: Annotated[int, Field(ge=1, le=1_048_576)] = 64
    """The size in MiB at which a file is renamed to `FILE.1` and a new one begun."""
    keep: Annotated[int, Field(ge=1, le=1000)] = 10
    """How many old files remain: `FILE.1` is the newest. Letters in a file that is deleted are lost, and counted."""


class GatewayConfig(Resource):
    """One node: where it stands, what it listens on, and which messages it turns into datagrams."""

    region: Region = "us-east-1"
    """This node's region; packets carry it as `IngressRegion`."""
    node: Annotated[int, Field(ge=1, le=65535)] = 1
    """This node's number, unique among the nodes that share a Tag key."""
    domain: Annotated[str, AfterValidator(_label)] = "ingress-1"
    """The bare label that packets carry as `Local.Domain`."""
    state: Annotated[str, AfterValidator(_file)] = "./sluicegate.db"
    """The SQLite file for what is assigned or created at run time."""
    local_code: list[Annotated[str, AfterValidator(_folder)]] = Field(default_factory=lambda: ["."])
    """Folders below which `function:` and `file:` must lie in documents that come by the API, by CloudFormation or by
    `sluicegate apply`. By default the folder of this file; `[]` for none."""
    local_networks: list[Annotated[Network, AfterValidator(_not_all)]] = Field(default_factory=list)
    """Networks of special addresses (loopback, private, link-local …) in which web hooks and NATS servers of such
    documents may lie. Their other servers have public addresses."""
    api: Api | None = Field(default_factory=Api)
    """The REST API; null for none."""
    sns: Sns | None = None
    """The gateway's own SNS endpoint; leave out to use topics on AWS."""
    aws: Aws = Field(default_factory=Aws)
    cloudformation: CloudFormation | None = Field(default=None, alias="CloudFormation")
    """Requests of stacks that come through a topic; leave out for none."""
    events: Events = Field(default_factory=Events)
    dead_letters: DeadLetters = Field(default_factory=DeadLetters)
    ports: Annotated[str, BeforeValidator(_ports_text), AfterValidator(_ports)] = "20000-29999"
    """The range from which ports are assigned to Listeners without one."""
    tag_lifetime_seconds: Annotated[int, Field(ge=1, le=31_536_000)] = 3600
    """Seconds for which a Tag can be answered."""
    refuse_answers_to_ports: list[Annotated[int, Field(ge=1, le=65_535)]] = Field(
        default_factory=lambda: [7, 13, 17, 19, 37]
    )
    """No reply goes to these ports, and no Tag leads there: services at them answer anything, and would for ever.
    `[]` for none."""
    loop_guard: bool = True
    """After 1,000 answers in a row that a remote returned byte for byte, each within a second, it gets one answer in 10
    seconds until it sends something different. Two gateways that echo would answer each other for ever."""
    loop_guard_exempt_networks: list[Network] = Field(default_factory=lambda: ["127.0.0.0/8", "::1/128"])
    """CIDRs of remotes that the loop guard leaves alone. No other machine can send from loopback addresses."""
    answers_per_remote_per_second: Annotated[float, Field(ge=0.001, le=1_000_000)] | None = None
    """At most so many answers a second go to one remote, and so many at once after a pause; further ones are refused.
    Bounds loops in which the payload changes too. None by default."""
    require_approval: bool = False
    """New PacketSources wait until an operator approves them."""
    listeners: list[Listener] = Field(default_factory=list)
    packet_sources: list[PacketSource] = Field(default_factory=list)

    def port_range(self) -> range:
        """The ports that may be assigned, as a `range`."""
        low, _, high = self.ports.partition("-")
        return range(int(low), int(high) + 1)

    @model_validator(mode="wrap")
    @classmethod
    def _whole(cls, data: Any, handler: ModelWrapValidatorHandler[Self], info: ValidationInfo) -> Self:
        # What concerns several resources is checked beside what concerns one and not after it, so that a typo
        # in one Listener does not hide a duplicate name in another.
        data, twice = cls.respell(data, info.context)
        if not isinstance(data, dict):
            return handler(data)
        data = with_names(data)
        found = [*twice, *cross_check(data), *_emulated_queue(data), *_shared_server(data)]
        return cls._with_findings(data, handler, found)


def _emulated_queue(data: dict[Any, Any]) -> list[Finding]:
    """Without an endpoint for AWS the queue is one of AWS's."""
    url = CloudFormation.peek(data.get("cloudformation"), "queue_url")
    if Aws.peek(data.get("aws"), "endpoint_url") or not isinstance(url, str) or not _QUEUE_URL.fullmatch(url):
        return []
    if _AWS_QUEUE_HOST.fullmatch(url):
        return []
    fix = "use https://sqs.REGION.amazonaws.com/ACCOUNT/NAME, or set aws.endpoint_url to the emulator"
    return [Finding(("cloudformation", "queue_url"), f'"{url}" is not a queue of AWS', fix)]


def _shared_server(data: dict[Any, Any]) -> list[Finding]:
    """Two servers of one gateway cannot have the same port."""
    if data.get("sns") is None or data.get("api", {}) is None:
        return []
    try:
        api, sns = (
            _server_address(model.peek(data.get(name, {}), "bind") or model().bind)
            for name, model in (("api", Api), ("sns", Sns))
        )
    except (PydanticCustomError, TypeError):
        return []
    if not api.overlaps(sns):
        return []
    cause = f"port {sns.port} is also bound by the API, on an overlapping address"
    return [Finding(("sns", "bind"), cause, "choose another port for `api.bind` or `sns.bind`")]


def _server_address(text: Any) -> BindAddress:
    host, port = parse_server(text)
    return BindAddress(host, port or None, dual_stack=host == "::")
