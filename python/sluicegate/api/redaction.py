"""What a resource shows to those without the scope `admin`: no secrets, also where nothing marks them as such.

Secrets of the model (`SharedSecret`, keys) are shown to nobody. Others stand where only their owner knows them: in the
URL of a web hook, in a function's `Environment`, in the settings of a source of another package. Of these, readers see
that there is something.
"""

from collections.abc import Callable, Mapping
from typing import Any

HIDDEN = "(redacted)"
_PUBLIC_SCHEMES = ("arn", "console", "file", "function")
"""ARNs and paths name a place and open nothing."""
_TELLING_EVENTS = ("ReplyFailed", "SourceFailed")
"""Their `Detail` is about one packet, in our own words."""


def redacted(kind: str, document: Mapping[str, Any]) -> dict[str, Any]:
    """The PascalCase document of a resource, as those without the scope `admin` see it."""
    shown = dict(document)
    match kind:
        case "Listener":
            _replace(shown, "WebRtcSignalingToken", _leaves)
            shown["Destinations"] = [_destination(one) for one in shown.get("Destinations", ())]
        case "DestinationArn":
            _replace(shown, "Arn", _target)
            _replace(shown, "Arguments", _leaves)
        case "PacketSource":
            _replace(shown, "MessageSource", _leaves)
            _replace(shown, "SubscriptionProblem", _leaves)
    return shown


def without_details(event: dict[str, Any]) -> dict[str, Any]:
    """An event, as those without the scope `admin` see it: what a resource, its code or the file says stays out."""
    if event.get("Event") in _TELLING_EVENTS or "Detail" not in event:
        return event
    return event | {"Detail": HIDDEN}


def _destination(one: Any) -> Any:
    if not isinstance(one, Mapping):
        return one
    shown = dict(one)
    _replace(shown, "DestinationArn", _targets)
    _replace(shown, "Arguments", _leaves)
    return shown


def _replace(document: dict[str, Any], name: str, change: Callable[[Any], Any]) -> None:
    if document.get(name):
        document[name] = change(document[name])


def _targets(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {region: _target(target) for region, target in value.items()}
    return _target(value)


def _target(value: Any) -> str:
    """A URL, or the target of a scheme of another package, may hold a password or a token in any of its parts."""
    scheme, _, rest = str(value).partition(":")
    return str(value) if scheme in _PUBLIC_SCHEMES or not rest else f"{scheme}:{HIDDEN}"


def _leaves(value: Any) -> Any:
    """The same names with no values but true and false."""
    if isinstance(value, Mapping):
        return {name: _leaves(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_leaves(inner) for inner in value]
    return value if isinstance(value, bool | None) else HIDDEN
