"""Keys of a handler's answer that most likely mean others. The gateway reads past them, so that nobody would know.

Example: `{"replies": [...]}` asks for nothing, as `Replies` is missing. The author meant `Replies`.
"""

from collections.abc import Mapping
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
        if key.strip().lower() in _MEANT:
            return f'the answer has {_shown(key)} where "Replies" is meant, so that nothing is sent: {_RIGHT}'
    keys = ", ".join(map(_shown, list(document)[:_SHOWN]))
    return f'the answer has no "Replies", only {keys}, so that nothing is sent: {_RIGHT}, or nothing'


def _inner(reply: Mapping[str, Any]) -> str | None:
    for key in reply:
        meant = _INNER.get(key.strip().lower())
        if meant is not None and meant not in reply:
            return f'a reply has {_shown(key)} where "{meant}" is meant, so that it is not sent: {_RIGHT}'
    return None


def _shown(key: str) -> str:
    text = "".join(c if c.isprintable() else "\ufffd" for c in key[:40])
    return f'"{text}"'
