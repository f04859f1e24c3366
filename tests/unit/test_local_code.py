"""Where code and files of documents of the API may lie, and what readers see of documents."""

import json
from pathlib import Path
from typing import Any

import pytest

from sluicegate.api.redaction import redacted, without_details
from sluicegate.config.checks import checks
from sluicegate.linefile import append_locked, open_lines
from sluicegate.localcode import LocalCode, Outside
from sluicegate.model import DestinationSpec, PacketSource

pytestmark = pytest.mark.attack


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in" / "sub").mkdir(parents=True)
    (tmp_path / "in" / "up").symlink_to("..")
    (tmp_path / "in" / "loop").symlink_to("loop")
    (tmp_path / "in" / "fine").symlink_to("sub")
    (tmp_path / "inner").mkdir()
    return tmp_path / "in"


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("a", "a"),
        ("not/there/a", "not/there/a"),
        ("sub/../a", "a"),
        ("not/../there/a", "there/a"),
        ("fine/a", "sub/a"),
        ("up/in/a", "a"),
        ("../in/a", "a"),
        ("..", None),
        ("../inner/a", None),
        ("up/a", None),
        ("up/new/a", None),
        ("sub/../../a", None),
        ("not/there/../../../a", None),
        ("fine/../up/a", None),
        ("/etc/passwd", None),
        ("/proc/self/root/etc/passwd", None),
    ],
)
def test_links_and_parents_are_followed_also_where_nothing_is_yet(
    folder: Path, path: str, found: str | None
) -> None:
    bounds = LocalCode((str(folder),))
    if found is not None:
        assert bounds.inside(folder / path) == folder / found
        return
    with pytest.raises(Outside, match="local_code"):
        bounds.inside(folder / path)


def test_a_folder_that_is_a_link_itself_and_none_at_all(folder: Path) -> None:
    link = folder.parent / "link"
    link.symlink_to(folder)
    assert LocalCode((str(link),)).inside(link / "a") == folder / "a"
    with pytest.raises(Outside, match="local_code: none"):
        LocalCode(()).inside(folder / "a")


@pytest.mark.parametrize("name", ["g.yaml", "s.db", "s.db-wal", "s.db.keys", "a.py", "a.PY", "a.so", "run"])
def test_no_packets_into_files_of_the_gateway_and_programs(folder: Path, name: str) -> None:
    (folder / "run").write_text("#!/bin/sh\n")
    (folder / "run").chmod(0o755)
    bounds = LocalCode((str(folder),), (str(folder / "g.yaml"), str(folder / "s.db")))
    with pytest.raises(Outside):
        bounds.writable(folder / name)
    assert bounds.writable(folder / "out.ndjson") == folder / "out.ndjson"


@pytest.mark.parametrize(
    "text",
    [
        "/etc/passwd",
        "../a",
        "up/a",
        "~/a",
        "file:/etc/passwd",
        "file:///etc/passwd",
        "file://localhost/etc/passwd",
        "FILE:/etc/passwd",
        "///etc/passwd",
    ],
)
@pytest.mark.parametrize("wrap", [lambda x: {"path": x}, lambda x: {"a": [{"b": x}]}])
def test_settings_of_a_package_lead_nowhere_else(folder: Path, text: str, wrap: Any) -> None:
    bounds = LocalCode((str(folder),))
    with pytest.raises(Outside, match="local_code"):
        bounds.check_strings(wrap(text), folder)
    document = {"Name": "x", "ListenerName": "l", "MessageSource": {"line_file": wrap(text)}}
    found = checks(folder, "us-east-1", bounds)(PacketSource.model_validate(document))
    assert [one.path for one in found] == [("message_source", "line_file")]
    assert "local_code" in found[0].fix


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "sub/a",
        "/sensors/a",
        "https://h/../x",
        "nats://h/a",
        "//h/topic",
        "a..b",
        "",
        "x" * 9999,
        "a\0b",
        "arn:a:b/c",
    ],
)
def test_other_settings_of_a_package_are_its_own(folder: Path, text: str) -> None:
    LocalCode((str(folder),)).check_strings({"a": text, "b": 7, "c": None, "d": True}, folder)


def test_every_region_and_every_kind_of_target_is_judged(folder: Path) -> None:
    check = checks(folder, "us-east-1", LocalCode((str(folder),)))
    arns = {"*": "console:", "eu-west-1": "file:../x.ndjson", "us-west-1": "function:/etc/passwd"}
    found = check(DestinationSpec(name="d", destination_arn=arns))
    assert [one.path for one in found] == [("destination_arn", "eu-west-1"), ("destination_arn", "us-west-1")]
    assert check(DestinationSpec(name="d", destination_arn="file:sub/x.ndjson")) == []
    assert len(checks(folder, "us-east-1")(DestinationSpec(name="d", destination_arn=arns))) == 1, (
        "no such file"
    )


def test_a_module_of_a_handler_that_is_a_link(folder: Path) -> None:
    (folder.parent / "evil.py").write_text("def handler(event, context): pass")
    (folder / "app.py").write_text("")
    (folder / "evil.py").symlink_to("../evil.py")
    check = checks(folder, "us-east-1", LocalCode((str(folder),)))
    for target in ("function:app.py:evil.handler", "function:evil.py:handler", "function:up/evil.py:handler"):
        (found,) = check(DestinationSpec(name="d", destination_arn=target))
        assert "local_code" in found.fix, target


def test_lines_are_written_through_no_link(folder: Path) -> None:
    append_locked(folder / "new" / "deep" / "a.ndjson", b"1\n", links=False)
    assert (folder / "new" / "deep" / "a.ndjson").read_bytes() == b"1\n"
    (folder / "last").symlink_to(folder.parent / "made")
    for path in (folder / "up" / "a", folder / "fine" / "a", folder / "last"):
        with pytest.raises(OSError, match=r"Not a directory|Too many levels"):
            open_lines(path, 0o600, links=False)
    assert not (folder.parent / "made").exists()


# Redaction

SECRET = "marked-secret"


@pytest.mark.parametrize(
    "arn",
    [
        f"https://AKIA:{SECRET}@h/x",
        f"https://h/services/{SECRET}",
        f"https://h/?X-Amz-Signature={SECRET}",
        f"https://{SECRET}.h.example/",
        f"nats://u:{SECRET}@h/s",
        f"webhook:{SECRET}",
        f"hook+tls://{SECRET}",
    ],
)
def test_urls_and_targets_of_packages_show_their_scheme_alone(arn: str) -> None:
    destinations = [
        {"Name": "a", "DestinationArn": arn},
        {"Name": "b", "DestinationArn": {"*": arn}},
        "shared",
    ]
    shown = redacted("Listener", {"Name": "l", "Destinations": destinations})
    assert SECRET not in json.dumps(shown)
    assert shown["Destinations"][0]["DestinationArn"].startswith(arn.partition(":")[0])
    assert shown["Destinations"][2] == "shared"
    bound = redacted("DestinationArn", {"Destination": "a", "IngressRegionKey": "*", "Arn": arn})
    assert SECRET not in json.dumps(bound)


def test_values_show_their_names_alone() -> None:
    settings = {"Url": SECRET, "Deep": [{"Token": SECRET}], "Pin": 1234, "On": True, "None": None}
    destination = {"Name": "a", "DestinationArn": "function:a.py:h", "Arguments": {"Environment": settings}}
    listener = {"Name": "l", "Port": 7, "Destinations": [destination], "WebRtcSignalingToken": SECRET}
    shown = redacted("Listener", listener)
    source = redacted("PacketSource", {"Name": "p", "MessageSource": {"mqtt": settings}})
    for one in (shown, source):
        assert SECRET not in json.dumps(one)
        assert "1234" not in json.dumps(one)
    assert shown["Destinations"][0]["DestinationArn"] == "function:a.py:h"
    assert list(source["MessageSource"]["mqtt"]) == list(settings)
    assert destination["Arguments"] == {"Environment": settings}, "the original stays"


def test_details_of_events_are_for_the_scope_admin() -> None:
    assert SECRET not in str(without_details({"Event": "ReloadRefused", "Detail": SECRET}))
    kept = {"Event": "SourceFailed", "Detail": "no session"}
    assert without_details(kept) == kept


@pytest.mark.parametrize(
    ("address", "forbidden"),
    [
        ("93.184.215.14", None),
        ("2606:2800:21f::1", None),
        ("127.0.0.1", "a loopback address"),
        ("::ffff:127.0.0.1", "a loopback address"),
        ("64:ff9b::7f00:1", "127.0.0.1"),
        ("169.254.169.254", "link-local"),
        ("fd00:ec2::254", "metadata"),
        ("0.0.0.0", "unspecified"),
        ("fe80::1%lo", "link-local"),
        ("10.20.0.9", None),
        ("::ffff:10.20.0.9", None),
        ("10.21.0.9", "private"),
    ],
)
def test_servers_of_documents_have_no_special_addresses_but_the_listed_ones(
    address: str, forbidden: str | None
) -> None:
    said = LocalCode((), networks=("10.20.0.0/16",)).forbids(address)
    assert (said is None) == (forbidden is None), said
    assert (forbidden or "") in (said or "")


def test_a_secret_is_none_of_the_gateways_own_files(folder: Path) -> None:
    bounds = LocalCode((str(folder),), (str(folder / "g.yaml"), str(folder / "s.db")))
    assert bounds.secret(folder / "hook.key") == folder / "hook.key"
    for name in ("g.yaml", "s.db", "s.db.admin-key"):
        with pytest.raises(Outside, match="gateway's own"):
            bounds.secret(folder / name)
    with pytest.raises(Outside, match="local_code"):
        bounds.secret(Path("/etc/shadow"))
