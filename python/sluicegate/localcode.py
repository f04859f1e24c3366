"""Where the code and files of a document must lie that came by the API, and which servers it may name (contract
section 8).

Example: with the folder `/srv/gateway`, `function:handlers/echo.py:handler` may run. Refused are `file:/etc/cron.d/x`,
and a link in `/srv/gateway` that leads to `/etc`. The configuration file is the operator's word and has no such bounds.
"""

import ipaddress
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sluicegate import _native

_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_PATH_LIMIT = 4096
_PROGRAMS = (".cjs", ".js", ".mjs", ".pth", ".py", ".pyc", ".sh", ".so")


class Outside(Exception):
    """A path that a document may not name. `cause` says why, `fix` the next step."""

    def __init__(self, cause: str, fix: str) -> None:
        super().__init__(f"{cause}, {fix}")
        self.cause = cause
        self.fix = fix


@dataclass(frozen=True, slots=True)
class LocalCode:
    """Absolute folders. `kept` are the gateway's own files, to which no document may write: the configuration, and all
    whose names begin with that of the state. `networks` are special ones (loopback, private, link-local …) whose
    servers a document may name; those of public addresses it may name anyway."""

    folders: tuple[str, ...]
    kept: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()

    def inside(self, path: Path) -> Path:
        """`path`, absolute, with its symbolic links resolved, also where it does not exist yet. Raises `Outside`."""
        found = os.path.realpath(path)
        if not self._holds(found):
            leads = "" if found == str(path) else f" (it leads to {found})"
            raise self._outside(f"{path}{leads}")
        return Path(found)

    def writable(self, path: Path) -> Path:
        """As `inside`, for a file to which packets are appended: not one of the gateway's own, and no program. Raises
        `Outside`."""
        found = self.inside(path)
        self._refuse_kept(found)
        if found.suffix.lower() in _PROGRAMS or (found.is_file() and os.access(found, os.X_OK)):
            raise Outside(f"{found} is a program, and packets are no code", "name it FILE.ndjson")
        return found

    def secret(self, path: Path) -> Path:
        """As `inside`, for a file with a secret: not one of the gateway's own. Raises `Outside`."""
        found = self.inside(path)
        self._refuse_kept(found)
        return found

    def forbids(self, address: str) -> str | None:
        """Why no document may name a server at this numeric address, as the end of "it is …"; None if it may."""
        ip = ipaddress.ip_address(address)
        special = _native.special_purpose(ip)
        plain = getattr(ip, "ipv4_mapped", None) or ip
        networks = map(ipaddress.ip_network, self.networks)
        if special is None or any(plain in network or ip in network for network in networks):
            return None
        return f"{special[0]}, and no network in `local_networks` of the gateway's file has it"

    def check_strings(self, value: Any, base_dir: Path) -> None:
        """Judge the settings of a package, which may take any text for a path. Raises `Outside` for one that leads to a
        place outside, if it is taken for one."""
        for text in _strings(value):
            path = _as_path(text, base_dir)
            if path is not None and not self._holds(found := os.path.realpath(path)):
                leads = "" if found == text else f" (it leads to {found})"
                raise self._outside(f"{text}{leads}")

    def check_search_path(self, value: str, beside: str = "") -> None:
        """Judge a list of folders, separated by `:`. Those of `beside` may stand in it. Raises `Outside`."""
        also = {os.path.realpath(one) for one in beside.split(os.pathsep) if one}
        for one in filter(None, value.split(os.pathsep)):
            if not one.startswith("/"):
                raise Outside(f"{one} is no absolute path", "begin it with /")
            found = os.path.realpath(one)
            if found not in also and not self._holds(found):
                raise self._outside(one)

    def _refuse_kept(self, found: Path) -> None:
        if any(str(found).startswith(os.path.realpath(kept)) for kept in self.kept):
            raise Outside(f"{found} is one of the gateway's own files", "name another file")

    def _holds(self, found: str) -> bool:
        return any(Path(found).is_relative_to(os.path.realpath(folder)) for folder in self.folders)

    def _outside(self, what: str) -> Outside:
        folders = ", ".join(self.folders) or "none"
        cause = f"{what} lies outside of the folders for documents of the API (local_code: {folders})"
        return Outside(
            cause, "put it below one of them, or add its folder to `local_code` in the gateway's file"
        )


def folders(base_dir: Path, local_code: list[str], more: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The folders of a configuration, absolute, and `more` of one document."""
    return (*(os.path.abspath(base_dir / one) for one in local_code), *more)  # noqa: PTH100


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _strings(inner)


def _as_path(text: str, base_dir: Path) -> str | None:
    """The path for which a package may take a text; None for one that is none."""
    if text.lower().startswith("file:"):
        text = re.sub(r"^//(localhost)?(?=/)", "", text[5:])
    elif text.startswith("//") and not text.startswith("///"):
        return None  # the rest of a URL: its host
    if not text or len(text) > _PATH_LIMIT or "\0" in text or _URL.match(text):
        return None
    path = os.path.join(base_dir, os.path.expanduser(text))  # noqa: PTH111, PTH118
    if text.startswith("/"):
        # `/sensors/a` may be a topic. Nothing of that name is there that could be read or written.
        top = "/" + text.lstrip("/").partition("/")[0]
        return path if os.path.lexists(top) else None
    return path
