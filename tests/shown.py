"""What a page of the documents shows, completed so that it runs: a configuration, and the files that it names."""

import io
import re
import subprocess
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

import guide
from pages import Block, blocks
from sluicegate.model import DestinationSpec, GatewayConfig, Listener, PacketSource, Resource

HANDLER = "def handler(event, context):\n    return None\n"
SETTINGS = {
    "sns": {"bind": "127.0.0.1:4566"},
    "aws": {"endpoint_url": "http://127.0.0.1:9"},
}
"""What is added for a machine without an account: topics are local, and no call leaves it."""
LOCAL = "".join(f"{key}: {value}\n" for key, value in SETTINGS.items())


def configuration(block: Block, handler: str | None = None) -> str:
    """The configuration that a block shows, whole. `handler` is the target of Destinations that it does not name."""
    data = YAML(typ="safe", pure=True).load(block.text)
    added = {key: value for key, value in SETTINGS.items() if key not in data}
    if "listeners" in data:
        return block.text + "".join(f"{key}: {value}\n" for key, value in added.items())
    text = io.StringIO()
    YAML().dump(_whole(data, handler or "console:") | added, text)
    return text.getvalue()


def _whole(data: dict[str, Any], target: str) -> dict[str, Any]:
    """A block may show a part: the keys of one resource, or PacketSources without their Listeners. This adds the
    rest."""
    owners: tuple[type[Resource], ...] = (GatewayConfig, PacketSource, Listener, DestinationSpec)
    owner = next(one for one in owners if data.keys() <= one.spellings().keys())
    shown = {"name": "show", "destination_arn": target}
    listener: dict[str, Any] = {"name": "decoder", "bind": "127.0.0.1:2048", "destinations": [shown]}
    if owner is PacketSource:
        topic = {"topic_arn": "arn:aws:sns:us-east-1:000000000000:replies"}
        source = {"name": "replies", "listener_name": "decoder", "sns_topic_source": topic}
        return {"listeners": [listener], "packet_sources": [source | data]}
    if owner is Listener:
        return {"listeners": [listener | data]}
    if owner is DestinationSpec:
        return {"listeners": [listener | {"destinations": [shown | data]}]}
    named = {one["listener_name"] for one in data.get("packet_sources", ())} or {"decoder"}
    return data | {"listeners": [listener | {"name": name} for name in named]}


def write_files(block: Block, folder: Path) -> None:
    """The files that a page's configuration names: the page's own where it has them."""
    for own in blocks("python", page=block.page):
        if name := re.match(r"# ([\w/.-]+\.py)\n", own.text):
            write(folder / name[1], own.text)
    for name in re.findall(r"function:([\w/.-]+\.py):", block.text):
        if not (folder / name).exists():
            write(folder / name, HANDLER)
    if "tls:" in block.text:
        (made,) = [one.text for one in blocks("sh", page=block.page) if "openssl req" in one.text]
        subprocess.run(["sh", "-euc", made], cwd=folder, check=True, capture_output=True)
    if block.page == str(guide.PAGE.relative_to(guide.PAGE.parents[1])):
        guide.write_package(folder)


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
