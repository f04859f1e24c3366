"""What a Listener's document says by leaving something out, where it comes from a template (contract 1.1 and 3).

A template was written for the reference service, and its defaults hold there. Example: a `udp` Listener without
`ClientRestrictions` admits nobody there, and must not become open here. What a default decides is written into the
resource, so that the state says it and a later start decides nothing anew.
"""

from sluicegate.model.destination import DestinationSpec
from sluicegate.model.listener import OPEN_NETWORKS, Listener

TIMEOUT_SECONDS = 0.25
"""The `TimeoutInSeconds` of a batch in a template."""


def with_template_defaults(listener: Listener) -> tuple[Listener, list[str]]:
    """`(listener, warnings)` with a template's defaults for what its document left out.

    `listener` is one that was validated from the document: what it left out is not in `model_fields_set`.
    """
    update: dict[str, object] = {"destinations": [_with_timeout(one) for one in listener.destinations]}
    warnings = []
    if listener.protocol == "udp" and not _restricts(listener):
        update["client_restrictions"] = listener.client_restrictions.model_copy(update={"networks": []})
        everybody = ", ".join(f'"{network}"' for network in OPEN_NETWORKS)
        warnings.append(
            f'the Listener "{listener.name}" admits nobody, because its template has no ClientRestrictions: '
            f"list the networks of its clients, or `ClientRestrictions: {{Networks: [{everybody}]}}` for everybody"
        )
    return listener.model_copy(update=update), warnings


def _restricts(listener: Listener) -> bool:
    """True if the document says who is admitted. On a `wg` Listener the key is the restriction."""
    restrictions = listener.client_restrictions
    return "networks" in restrictions.model_fields_set or bool(restrictions.domains)


def _with_timeout(destination: DestinationSpec | str) -> DestinationSpec | str:
    if isinstance(destination, str):
        return destination  # its settings are those of the Listener that declares it
    batching = destination.batching
    if "timeout_in_seconds" in batching.model_fields_set:
        return destination
    changed = batching.model_copy(update={"timeout_in_seconds": TIMEOUT_SECONDS})
    return destination.model_copy(update={"batching": changed})
