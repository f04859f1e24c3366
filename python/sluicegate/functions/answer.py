"""Keys of a handler's answer that most likely mean others. The gateway reads past them, so that nobody would know.

Example: `{"replies": [...]}` asks for nothing, as `Replies` is missing. The author meant `Replies`.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import orjson

_MEANT = {
    "reply": "Replies",
    "replies": "Replies",
    "response": "Replies",
    "responses": "Replies",
    "messages": "Replies",
}
_INNER = {"tag": "Tag", "tags": "Tag", "data": "Data", "payload": "Data", "body": "Data"}
_RIGHT = 'return {"Replies": [{"Tag": packet["Tag"], "Data": "…"}]}'
_SHOWN = 5
_LONGEST = 40  # characters of a key that are looked at
_ALIKE = 0.75
"""From 0 to 1: `repiles` is `replies` then, and `result` is not."""


def suspicious(answer: bytes) -> bool:
    """False for nearly all answers, without parsing them."""
    return not (b'"Replies"' in answer and b'"Tag"' in answer and b'"Data"' in answer)


def misread(answer: bytes) -> str | None:
    """What to tell the author of a JSON object whose keys are not those of an answer; None where nothing is odd."""
    try:
        document = orjson.loads(answer)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(document, dict) or not document:
        return None
    if "Replies" not in document:
        return _outer(document)
    replies = document["Replies"]
    found = (
        (_inner(one) for one in replies if isinstance(one, dict)) if isinstance(replies, list) else iter(())
    )
    return next((text for text in found if text is not None), None)


def _outer(document: Mapping[str, Any]) -> str:
    if "statusCode" in document:
        return f"the answer is one for HTTP (statusCode), which no UDP client gets: {_RIGHT}"
    for key in document:
        if _meant(key, _MEANT):
            return f'the answer has {_shown(key)} where "Replies" is meant, so that nothing is sent: {_RIGHT}'
    return f'the answer has no "Replies", only {_listed(document)}, so that nothing is sent: {_RIGHT}, or nothing'


def _inner(reply: Mapping[str, Any]) -> str | None:
    missing = [key for key in ("Tag", "Data") if key not in reply]
    others = [key for key in reply if key not in ("Tag", "Data", "GeneratedAt")]
    if not missing or not others:
        return None
    for key in others:
        if (meant := _meant(key, _INNER)) in missing:
            return f'a reply has {_shown(key)} where "{meant}" is meant, so that it is not sent: {_RIGHT}'
    return f'a reply has no "{missing[0]}", only {_listed(reply)}, so that it is not sent: {_RIGHT}'


def _meant(key: str, keys: Mapping[str, str]) -> str | None:
    """The right one for a key that is written otherwise, or nearly so."""
    near = get_close_matches(key[:_LONGEST].strip().lower(), keys, n=1, cutoff=_ALIKE)
    return keys[near[0]] if near else None


def _listed(document: Mapping[str, Any]) -> str:
    return ", ".join(map(_shown, list(document)[:_SHOWN]))


def _shown(key: str) -> str:
    text = "".join(c if c.isprintable() else "\ufffd" for c in key[:_LONGEST])
    return f'"{text}"'
