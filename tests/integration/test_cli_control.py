"""`sluicegate sources` and `sluicegate state` against a real gateway."""

import json
from collections.abc import Sequence
from pathlib import Path

from harness import PROGRAM, TOPIC, Client, Gateway, Process, source_of

from conftest import StartGateway

LISTENER = "listeners: [{ name: decoder, bind: 127.0.0.1 }]"
CONFIG = f"require_approval: true\n{LISTENER}{source_of('decoder')}"
SECRET = "bWFya2VkLXNlY3JldC1tYXJrZWQtc2VjcmV0LW1hcms="


def run(directory: Path, *arguments: str | Path) -> tuple[int, str, str]:
    """A command's exit code and what it printed."""
    process = Process([PROGRAM, *arguments], directory)
    try:
        code = process.wait()
        return code, process.stdout.text, process.stderr.text
    finally:
        process.close()


def sources(gateway: Gateway, *arguments: str) -> tuple[int, str, str]:
    return run(gateway.directory, "sources", *arguments, "--api", gateway.api_url)


def rows(text: str) -> Sequence[Sequence[str]]:
    return [line.split() for line in text.splitlines()]


def test_an_operator_approves_and_rejects(gateway: StartGateway) -> None:
    one = gateway(CONFIG)
    code, text, _ = sources(one, "list")
    assert (code, rows(text)[1]) == (0, ["replies", "PendingApproval", "decoder", TOPIC])
    assert sources(one, "approve", "replies") == (0, "replies is Active", "")
    with Client() as client:
        assert one.post({"Data": "AQ==", "Remote": client.remote})["Sent"] == 1
        assert client.receive()[0] == b"\x01"
    code, text, _ = sources(one, "reject", "replies", "--output", "json")
    assert (code, json.loads(text)["State"]) == (0, "Rejected")
    code, _, said = sources(one, "approve", "nobody")
    assert (code, "there is no PacketSource 'nobody'" in said) == (1, True)
    assert one.event("ResourceChanged", Action="Reject")["Result"] == "Done"


def test_a_state_moves_to_another_gateway(gateway: StartGateway) -> None:
    first = gateway(CONFIG.replace("replies", "gone").replace("require_approval: true", ""))
    body = {"Name": "sensors", "Bind": "127.0.0.1", "UnknownPeerPreSharedKey": SECRET}
    made = first.api("POST", "/v1/listeners", body)
    assert made.status_code == 201, made.text
    port = made.json()["Port"]

    code, text, _ = run(first.directory, "state", "export", first.file)
    assert (code, SECRET in text, "TagKeys" in json.loads(text)) == (0, False, False)
    shown = first.directory / "shown.json"
    shown.write_text(text)
    code, _, _ = run(first.directory, "state", "export", "--secrets", "--to", "all.json", first.file)
    whole = first.directory / "all.json"
    assert (code, whole.stat().st_mode & 0o777, SECRET in whole.read_text()) == (0, 0o600, True)
    code, _, said = run(first.directory, "state", "import", first.file, whole)
    assert (code, "is in use by another gateway" in said) == (1, True)
    assert first.stop() == 0

    second = gateway(CONFIG.replace("require_approval: true", ""), start=False)
    code, _, said = run(second.directory, "state", "import", second.file, shown)
    assert (code, "make it anew with --secrets" in said) == (1, True)
    code, text, said = run(second.directory, "state", "import", second.file, whole)
    assert code == 0, said
    assert "imported Listener sensors" in text
    second.start()
    found = second.api("GET", "/v1/listeners/sensors").json()
    assert (found["Port"], found["DeclaredBy"]) == (port, "Api")
    code, text, _ = run(second.directory, "state", "export", "--secrets", second.file)
    assert json.loads(text)["TagKeys"] == json.loads(whole.read_text())["TagKeys"]
    assert SECRET in text


def test_what_is_no_state_is_refused(tmp_path: Path) -> None:
    (tmp_path / "not.yaml").write_text("listeners: 1\n")
    (tmp_path / "new.yaml").write_text("state: nothing.db\n")
    (tmp_path / "odd.json").write_text("{}")
    for arguments, words in [
        (("export", "not.yaml"), "must be a list"),
        (("export", "new.yaml"), "there is no state at"),
        (("export", "missing.yaml"), "cannot be read"),
        (("import", "new.yaml", "odd.json"), "this is no export of a state"),
        (("remove", "new.yaml", "Listener", "x"), "no Listener x of the API"),
    ]:
        code, _, said = run(tmp_path, "state", *arguments)
        assert (code, words in said) == (1, True), said
