"""The configuration file: every problem at once, each at its line and column, in sentences."""

from pathlib import Path

import jsonschema_rs
import pytest

from sluicegate.config import Config, ConfigError, json_schema, load
from sluicegate.model import Finding

# Contract section 8, word for word.
CONTRACT_EXAMPLE = """\
region: us-east-1                 # this node's region
state: ./sluicegate.db            # SQLite; what is assigned or created at run time lives here
api: { bind: 127.0.0.1:8080 }
sns: { bind: 127.0.0.1:4566 }     # the gateway's own SNS endpoint; leave out on AWS
aws: { endpoint_url: null }       # one endpoint for all AWS calls, e.g. a local emulator
listeners:
  - name: decoder
    protocol: udp
    bind: 0.0.0.0:2048
    client_restrictions: { networks: [0.0.0.0/0] }
    destinations:
      - name: echo
        destination_arn: function:handlers/echo.py:handler
        batching: { count: 100, timeout_in_seconds: 0.1 }
packet_sources:
  - name: replies
    listener_name: decoder
    sns_topic_source: { topic_arn: "arn:aws:sns:us-east-1:000000000000:replies" }
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "handlers").mkdir()
    (tmp_path / "handlers" / "echo.py").write_text("def handler(event, context):\n    return None\n")
    return tmp_path


def write(base: Path, text: str | bytes) -> Path:
    path = base / "gateway.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def problems(base: Path, text: str | bytes) -> list[Finding]:
    with pytest.raises(ConfigError) as caught:
        load(write(base, text))
    assert str(caught.value) == "\n".join(str(problem) for problem in caught.value.findings)
    return caught.value.findings


def places(base: Path, text: str) -> list[tuple[int, int]]:
    return [(problem.line, problem.col) for problem in problems(base, text)]


def test_the_contracts_example(base: Path) -> None:
    config = load(write(base, CONTRACT_EXAMPLE))
    assert isinstance(config, Config)
    assert (config.base_dir, config.warnings) == (base, [])
    assert config.gateway.state == str(base / "sluicegate.db")
    listener = config.gateway.listeners[0]
    assert listener.bind_address() == ("0.0.0.0", 2048, False)
    assert listener.destinations[0].arn_for("us-east-1") == "function:handlers/echo.py:handler"
    assert config.gateway.packet_sources[0].effective_home_region == "us-east-1"


def test_pascal_case_is_accepted_in_yaml(base: Path) -> None:
    text = "Listeners:\n  - Name: a\n    ClientRestrictions: { Networks: [192.0.2.1/24] }\n"
    (problem,) = problems(base, text)
    assert (problem.line, problem.col) == (3, 38)


def test_relative_paths_are_relative_to_the_file(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(base, CONTRACT_EXAMPLE)
    elsewhere = base / "handlers"
    monkeypatch.chdir(elsewhere)
    config = load("../gateway.yaml")
    assert Path(config.gateway.state).resolve() == base / "sluicegate.db"
    assert load(write(base, "state: /var/lib/x.db")).gateway.state == "/var/lib/x.db"


def test_every_problem_at_once_at_its_place(base: Path) -> None:
    text = """\
region: us-east-1
node: zero
listeners:
  - name: a
    bind: 1.2.3.4:99999
    client_restriction: {}
    client_restrictions:
      networks:
        - 0.0.0.0/0
        - 10.0.0.1/8
    destinations:
      - destination_arn: function:handlers/missing.py:handler
      - destination_arn: function:handlers/echo.py:handle
        batching: { count: 0 }
packet_sources:
  - name: s
    listener_name: b
    sns_topic_source: { topic_arn: replies }
"""
    found = problems(base, text)
    file = str(base / "gateway.yaml")
    assert [(problem.line, problem.col) for problem in found] == [
        (2, 7),
        (5, 11),
        (6, 5),
        (10, 11),
        (12, 26),
        (13, 26),
        (14, 28),
        (17, 20),
        (18, 36),
    ]
    lines = [str(problem) for problem in found]
    assert lines[0].startswith(f'{file}:2:7: `node` must be a whole number, not "zero", ')
    assert lines[2] == f"{file}:6:5: unknown key `client_restriction`, did you mean `client_restrictions`?"
    assert lines[3].endswith("write 10.0.0.0/8")
    assert "missing.py does not exist" in lines[4]
    assert "has no `handle` at its top level, it defines: handler" in lines[5]
    assert "must be at least 1, not 0" in lines[6]
    assert "use one of: a" in lines[7]
    assert "arn:aws:sns:REGION:ACCOUNT:NAME" in lines[8]


def test_a_missing_key_is_shown_at_its_mapping(base: Path) -> None:
    (problem,) = problems(base, "listeners: [{}]\npacket_sources:\n  - listener_name: listener-1\n")
    assert (problem.line, problem.col) == (3, 5)
    assert "`sns_topic_source` is missing" in problem.cause


def test_duplicate_keys_in_one_file(base: Path) -> None:
    text = "region: a\nlisteners:\n  - name: x\n    name: y\nregion: b\n"
    assert places(base, text) == [(4, 5), (5, 1)]
    (problem,) = problems(base, "listeners:\n  - name: x\n    Name: y\n")
    assert (problem.line, problem.cause) == (3, "`name` and `Name` mean the same")


def test_merged_keys_are_found_where_they_are_written(base: Path) -> None:
    text = "listeners:\n  - &a\n    name: x\n    bind: bad\n  - <<: *a\n    name: y\n"
    assert places(base, text) == [(4, 11)]


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("", (1, 1), "empty"),
        ("# nothing\n", (1, 1), "empty"),
        ("- a\n", (1, 1), "holds a list"),
        ("hello\n", (1, 1), "single value"),
        ("listeners:\n\t- name: x\n", (2, 1), "tab"),
        ("listeners:\n  - name: x\n\tbind: y\n", (3, 1), "tab"),
        ("region: a\n---\nregion: b\n", (2, 1), "second document"),
        ("region: a\nfoo\nnode: 1\n", (3, 1), "without a `:`"),
        ("listeners:\n  - bind: [::]:2048\n", (2, 11), '"[::]:2048"'),
        ("a:\n  filter_expression: [0] == 0xFE\n", (2, 22), "single quotes"),
        ("a:\n  FilterExpression: ![0] == 1\n", (2, 21), "single quotes"),
        ("a:\n  group_expression: 'GET' == utf8[0:3]\n", (2, 21), "single quotes"),
        ("region: *x\n", (1, 9), "alias"),
        ("region: !!python/object/apply:os.system [id]\n", (1, 9), "tag"),
        ("region: a\nnode: \x01\n", (2, 7), "control character"),
        ("listeners: [\n", (2, 1), ""),
        ("a: " + "[" * 5000, (1, 53), "more than 50 deep"),
        (b"region: a\ndomain: \xe9\n", (2, 9), "UTF-8"),
        ("1: x\n", (1, 1), "not text"),
        ("region: 2024-01-01\n", (1, 9), "must be text"),
    ],
)
def test_not_one_yaml_mapping(base: Path, text: str | bytes, place: tuple[int, int], words: str) -> None:
    (problem,) = problems(base, text)
    assert (problem.line, problem.col) == place
    assert words in str(problem)
    assert problem.fix


def test_a_byte_order_mark_is_no_error(base: Path) -> None:
    assert load(write(base, b"\xef\xbb\xbfregion: eu-west-1\n")).gateway.region == "eu-west-1"


@pytest.mark.parametrize(
    ("name", "words"),
    [("none.yaml", "does not exist"), ("handlers", "directory"), ("gateway.yaml/x", "cannot be read")],
)
def test_no_file_there(base: Path, name: str, words: str) -> None:
    write(base, "region: a\n")
    with pytest.raises(ConfigError) as caught:
        load(base / name)
    assert str(caught.value).startswith(f"{base / name}:1:1: ")
    assert words in str(caught.value)


def test_an_unreadable_file(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    path = write(base, "region: a\n")
    monkeypatch.setattr(
        "sluicegate.regular.os.open", denied
    )  # Tests may run as root, who may read everything.
    with pytest.raises(ConfigError, match="permission denied, correct its permissions"):
        load(path)


HANDLER_FILES = {
    "def h(e, c): pass": None,
    "async def h(e, c): pass": None,
    "class h: pass": None,
    "h = print": None,
    "h: object = print": None,
    "a, h = 1, 2": None,
    "from os import walk as h": None,
    "from os.path import *": None,
    "try:\n    import x\nexcept ImportError:\n    def h(e, c): pass": None,
    "if 1:\n    pass\nelse:\n    def h(e, c): pass": None,
    "h: object": "no `h`",
    "class A:\n    def h(self): pass": "no `h`",
    "def a():\n    def h(): pass": "it defines: a",
    "def h(:": "not valid Python",
    "\0": "not valid Python",
}


@pytest.mark.parametrize("code", HANDLER_FILES)
def test_the_handler_is_looked_for_without_running_its_file(base: Path, code: str) -> None:
    (base / "h.py").write_text(f"open({str(base / 'ran')!r}, 'w')\n{code}\n")
    text = "listeners: [{ destinations: [{ destination_arn: 'function:h.py:h' }] }]"
    words = HANDLER_FILES[code]
    if words is None:
        load(write(base, text))
    else:
        (problem,) = problems(base, text)
        assert (problem.line, problem.col) == (1, 49)
        assert words in str(problem)
    assert not (base / "ran").exists()


def test_a_handler_in_a_map_of_regions(base: Path) -> None:
    text = "listeners:\n  - destinations:\n      - destination_arn:\n          '*': function:none.py:h\n"
    assert places(base, text) == [(4, 16)]


def test_an_executable_must_be_one(base: Path) -> None:
    (base / "bootstrap").write_text("#!/bin/sh\n")
    text = "listeners: [{ destinations: [{ destination_arn: 'function:bootstrap' }] }]"
    (problem,) = problems(base, text)
    assert problem.fix == "make it executable (chmod +x bootstrap)"
    (base / "bootstrap").chmod(0o755)
    load(write(base, text))


def test_what_cannot_run_yet_is_located(base: Path) -> None:
    text = "listeners:\n  - destinations:\n      - destination_arn: nats:x\n    Protocols: [dtls]\n"
    found = problems(base, text)
    assert [(problem.line, problem.col) for problem in found] == [(3, 26), (4, 16)]


def test_warnings_are_not_errors(base: Path) -> None:
    text = "listeners:\n  - name: quiet\n  - name: b\n    destinations:\n      - name: unbound\n"
    warnings = load(write(base, text)).warnings
    assert [problem.line for problem in warnings] == [2, 5]
    assert "quiet" in warnings[0].cause
    assert "unbound" in warnings[1].cause


def test_the_schema_takes_the_contracts_example(base: Path) -> None:
    schema, document = json_schema(), load(write(base, CONTRACT_EXAMPLE)).document.data
    checker = jsonschema_rs.validator_for(schema)
    checker.validate(document)
    document["listeners"][0]["bnd"] = 1
    document["packet_sources"][0]["listener_name"] = 5
    document["listeners"][0]["protocol"] = "tcp"
    assert len(list(checker.iter_errors(document))) == 3


def test_the_schema_describes_each_property_and_holds_no_default_secret() -> None:
    schema = json_schema()
    listener = schema["$defs"]["Listener"]["properties"]
    assert "2048" in listener["bind"]["description"]
    assert listener["session_idle_seconds"]["default"] == 300
    assert schema["properties"]["sns"]["default"] is None


@pytest.mark.parametrize(
    "target",
    ["HTTPS://user:hunter2@h/", "https://user:hunter2@h/", "https:/user:hunter2@h", "htps://h/hunter2"],
)
def test_no_message_about_a_url_shows_what_is_in_it(target: str, tmp_path: Path) -> None:
    file = tmp_path / "g.yaml"
    file.write_text(f"listeners: [{{ name: a, destinations: [{{ destination_arn: '{target}' }}] }}]\n")
    with pytest.raises(ConfigError) as refused:
        load(file)
    assert "hunter2" not in str(refused.value)
