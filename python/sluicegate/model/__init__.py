"""The resources: a single definition for YAML, the REST API and CloudFormation (contract section 1).

Imports nothing else of ours. `findings` turns a `pydantic.ValidationError` into sentences with places;
`support.unavailable` names what a valid configuration asks of a later version.
"""

from sluicegate.model.address import BindAddress, parse_bind, parse_server
from sluicegate.model.base import Check, Finding, FindingsError, Path, Resource, pointer
from sluicegate.model.destination import Batching, DestinationSpec, Formatter
from sluicegate.model.destination_arn import DestinationArn
from sluicegate.model.errors import findings
from sluicegate.model.gateway import Api, Aws, CloudFormation, Events, GatewayConfig, Sns, Tls
from sluicegate.model.listener import ClientRestrictions, Coap, Listener, Multicast, Peer
from sluicegate.model.notes import notes
from sluicegate.model.packet_source import PacketSource, RateLimit, SnsTopicSource
from sluicegate.model.role import AssumedRole
from sluicegate.model.secrets import keep_secrets, secrets_of, with_secrets
from sluicegate.model.support import unavailable

__all__ = [
    "Api",
    "AssumedRole",
    "Aws",
    "Batching",
    "BindAddress",
    "Check",
    "ClientRestrictions",
    "CloudFormation",
    "Coap",
    "DestinationArn",
    "DestinationSpec",
    "Events",
    "Finding",
    "FindingsError",
    "Formatter",
    "GatewayConfig",
    "Listener",
    "Multicast",
    "PacketSource",
    "Path",
    "Peer",
    "RateLimit",
    "Resource",
    "Sns",
    "SnsTopicSource",
    "Tls",
    "findings",
    "keep_secrets",
    "notes",
    "parse_bind",
    "parse_server",
    "pointer",
    "secrets_of",
    "unavailable",
    "with_secrets",
]
