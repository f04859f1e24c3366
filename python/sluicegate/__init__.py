"""Sluicegate: a self-hosted UDP gateway.

Datagrams arrive as batches of JSON at Destinations; messages published to an SNS topic leave as datagrams from the
Listener's own address and port. `docs/architecture.md` is the map of this package.
"""

__version__ = "0.1.0"
