"""Handlers for Node.js with real workers: what they see, how they answer, and how they fail."""

import json
import os
import shutil
import signal
import textwrap
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from sluicegate.destinations import DestinationError
from sluicegate.destinations.function import FunctionDestination
from sluicegate.functions import (
    Function,
    FunctionCrashed,
    FunctionError,
    FunctionFailure,
    FunctionInitFailed,
    FunctionOutOfMemory,
    FunctionTimeout,
)
from sluicegate.functions.reload import Code as Watched
from sluicegate.localcode import LocalCode
from sluicegate.testing import destination_context
from waiting import until

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="needs node (apt-get install nodejs)")

Make = Callable[..., Function]

MANY = """
let first = 0;
const later = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
exports.promise = async (event) => { await later(1); return { pid: process.pid, echo: event }; };
exports.thenable = (event) => ({ then: (resolve) => resolve("then") });
exports.callback = (event, context, callback) => { setTimeout(() => callback(null, "called"), 1); };
exports.waits = (event, context, callback) => {
  setTimeout(() => { first = "was waited for"; }, 20);
  callback(null, { get value() { return first; } });
};
exports.hurries = (event, context, callback) => {
  context.callbackWaitsForEmptyEventLoop = false;
  setTimeout(() => {}, 3_600_000);
  callback(null, "at once");
};
exports.done = (event, context) => context.done(null, "done");
exports.succeed = (event, context) => context.succeed("succeeded");
exports.nothing = async () => undefined;
exports.silent = () => "a plain function that returns a value answers nothing";
exports.never = () => new Promise(() => {});
exports.nested = { inner: async () => "inner" };
exports.twice = (event, context, callback) => {
  context.callbackWaitsForEmptyEventLoop = false;
  callback(null, "first");
  callback(null, "second");
  callback(new Error("third"));
};
exports.streamed = awslambda.streamifyResponse(async (event, stream) => {
  stream.write('{"Replies"');
  await later(1);
  stream.write(": []}");
  stream.end();
});
exports.http = awslambda.streamifyResponse(async (event, stream) => {
  const answer = awslambda.HttpResponseStream.from(stream, { statusCode: 200, headers: {} });
  answer.setContentType("application/json");
  require("node:stream").Readable.from(["[1", ", 2]"]).pipe(answer);
});
exports.children = async () => require("node:child_process").execFileSync("ls", ["-l", "/proc/self/fd"]).toString();
"""

ANSWERS: dict[str, Any] = {
    "thenable": "then",
    "callback": "called",
    "waits": {"value": "was waited for"},
    "hurries": "at once",
    "done": "done",
    "succeed": "succeeded",
    "nothing": None,
    "silent": None,
    "never": None,
    "nested.inner": "inner",
    "twice": "first",
    "streamed": {"Replies": []},
    "http": [1, 2],
}


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    """Makes functions from source."""
    made: list[Function] = []

    def make(source: str, handler: str = "handler", name: str = "index.js", **options: Any) -> Function:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(source))
        made.append(Function(path, handler, name="node", **{"concurrency": 1, **options}))
        return made[-1]

    yield make
    for function in made:
        await function.close()


def proc(pid: int) -> Path:
    return Path(f"/proc/{pid}")


async def call(function: Function, **event: Any) -> Any:
    return json.loads(await function.invoke(json.dumps(event).encode()))


# What works


async def test_one_worker_answers_many_events_of_any_size(make: Make) -> None:
    function = make(MANY, "promise")
    first = await call(function, text="ä\u0000\u2028😀")
    assert first["echo"] == {"text": "ä\u0000\u2028😀"}
    large = "x" * (5 << 20)
    second = await call(function, text=large)
    assert second == {"pid": first["pid"], "echo": {"text": large}}
    assert [(await call(function, n=n))["echo"]["n"] for n in range(20)] == list(range(20))
    with pytest.raises(FunctionFailure, match="larger than Lambda's limit"):
        await call(function, text="x" * (7 << 20))
    assert (await call(function))["pid"] == first["pid"]


@pytest.mark.parametrize("handler", ANSWERS)
async def test_every_way_to_answer_twice(handler: str, make: Make) -> None:
    function = make(MANY, handler)
    assert await call(function) == ANSWERS[handler]
    (worker,) = function.pids
    assert await call(function) == ANSWERS[handler]
    assert function.pids == [worker]


async def test_the_handler_sees_what_lambda_shows(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_SECRET", "s3cret")
    function = make(
        """
        exports.handler = async (event, context) => ({
          context, left: context.getRemainingTimeInMillis(), env: process.env, cwd: process.cwd(),
          beside: require("node:fs").readFileSync("beside.txt", "utf8"), api: Object.keys(awslambda).sort(),
        });
        """,
        environment={"TABLE": "t1"},
        timeout=7.0,
        region="eu-west-1",
        memory=256,
    )
    folder = Path(function._pool._program.directory)
    (folder / "beside.txt").write_text("text")
    seen = json.loads(await function.invoke(b"{}", "the-id"))
    context, env = seen["context"], seen["env"]
    assert 0 < seen["left"] <= 7000
    assert (seen["cwd"], seen["beside"]) == (str(folder), "text")
    assert seen["api"] == ["HttpResponseStream", "streamifyResponse"]
    assert (context["awsRequestId"], context["functionName"], context["memoryLimitInMB"]) == (
        "the-id",
        "node",
        "256",
    )
    assert context["invokedFunctionArn"] == "arn:aws:lambda:eu-west-1:000000000000:function:node"
    assert context["functionVersion"] == "$LATEST"
    assert context["logGroupName"] == "/aws/lambda/node"
    assert context["logStreamName"] == env["AWS_LAMBDA_LOG_STREAM_NAME"]
    assert context["callbackWaitsForEmptyEventLoop"] is True
    assert (env["_HANDLER"], env["LAMBDA_TASK_ROOT"], env["TABLE"]) == ("index.handler", str(folder), "t1")
    assert env["AWS_EXECUTION_ENV"].startswith("AWS_Lambda_nodejs")
    assert env["_X_AMZN_TRACE_ID"].startswith("Root=1-")
    assert "GATEWAY_SECRET" not in env
    assert not [name for name in env if "SECRET" in name or "KEY" in name]


async def test_what_the_handler_starts_has_no_way_to_the_runtime_api(make: Make) -> None:
    function = make(MANY, "children")
    listed = (await call(function)).splitlines()
    (worker,) = function.pids
    inherited = str((proc(worker) / "fd/3").readlink())
    assert inherited.startswith("socket:[")
    assert not [line for line in listed if inherited in line]
    assert (proc(worker) / "environ").read_text().count("AWS_LAMBDA_RUNTIME_API=127.0.0.1:0\0") == 1


MODULE = "import path from 'node:path'; export const handler = async () => path.basename(import.meta.url);\n"
COMMON = "exports.handler = async () => require('node:path').basename(__filename);\n"
PACKAGE = '{"type": "module"}'

LAYOUTS: dict[str, tuple[str, dict[str, str], str]] = {
    "a file": ("index.js:handler", {"index.js": COMMON}, "index.js"),
    "a file and Lambda's Handler": ("index.js:index.handler", {"index.js": COMMON}, "index.js"),
    "a file with a dot": ("index.min.js:handler", {"index.min.js": COMMON}, "index.min.js"),
    "an ES module": ("index.mjs:handler", {"index.mjs": MODULE}, "index.mjs"),
    "CommonJS by name": ("index.cjs:handler", {"index.cjs": COMMON, "package.json": PACKAGE}, "index.cjs"),
    "an ES module by type": ("index.js:handler", {"index.js": MODULE, "package.json": PACKAGE}, "index.js"),
    "a type above": ("src:index.handler", {"src/index.js": MODULE, "package.json": PACKAGE}, "index.js"),
    "a nearer type": (
        "index.handler",
        {"package.json": PACKAGE, "code/package.json": "{}", "code/index.js": COMMON},
        "index.js",
    ),
    "CodeUri and Handler": ("src:index.handler", {"src/index.js": COMMON}, "index.js"),
    "a Handler in a folder": ("src:dist/app.handler", {"src/dist/app.mjs": MODULE}, "app.mjs"),
    "the order of suffixes": ("src:a.handler", {"src/a.js": COMMON, "src/a.mjs": MODULE}, "a.js"),
    "a folder with a dot": ("src:v1.2/app.handler", {"src/v1.2/app.js": COMMON}, "app.js"),
    "a dependency": (
        "src:index.handler",
        {
            "src/index.js": "exports.handler = async () => require('dep');\n",
            "src/node_modules/dep/package.json": '{"main": "lib/own.js"}',
            "src/node_modules/dep/lib/own.js": "module.exports = 'from the dependency';\n",
        },
        "from the dependency",
    ),
    "an await at the top": (
        "index.mjs:handler",
        {
            "index.mjs": "const text = await Promise.resolve('ready');\nexport const handler = async () => text;\n"
        },
        "ready",
    ),
    "a nested export": (
        "src:index.api.handler",
        {"src/index.js": "exports.api = { handler: async () => 'nested' };\n"},
        "nested",
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
async def test_layouts(layout: str, tmp_path: Path) -> None:
    target, files, expected = LAYOUTS[layout]
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    target = target if ":" in target else f"code:{target}"
    destination = FunctionDestination.from_spec("f", target, {}, destination_context(tmp_path))
    function = Function(destination._path, destination._handler, name="layout")
    try:
        assert await call(function) == expected
    finally:
        await function.close()


async def test_a_reload_takes_the_new_source(make: Make, tmp_path: Path) -> None:
    function = make("exports.handler = async () => require('./other.js').value;\n")
    (tmp_path / "other.js").write_text("exports.value = 1;\n")
    (tmp_path / "node_modules/dep").mkdir(parents=True)
    watched = Watched(tmp_path / "index.js")
    assert await call(function) == 1
    (tmp_path / "other.js").write_text("exports.value = 22;\n")
    (tmp_path / "node_modules/dep/index.js").write_text("")
    (tmp_path / "beside.py").write_text("")
    assert (watched.look(), watched.look()) == ([], ["other.js"])
    function.reload()
    assert await call(function) == 22


async def test_the_end_of_a_worker_lets_its_handler_clean_up(make: Make, tmp_path: Path) -> None:
    function = make(
        """
        process.on("SIGTERM", () => { require("node:fs").writeFileSync("cleaned", "up"); process.exit(0); });
        exports.handler = async () => process.pid;
        """
    )
    worker = await call(function)
    await function.close()
    assert (tmp_path / "cleaned").read_text() == "up"
    assert not proc(worker).exists()


STREAMS = """
const fs = require("node:fs");
const until = async (name) => { while (!fs.existsSync(name)) await new Promise((done) => setTimeout(done, 1)); };
exports.handler = awslambda.streamifyResponse(async (event, stream) => {
  for (const piece of event.pieces) {
    stream.write(piece);
    await until(`seen-${piece}`);
  }
  if (event.fail === "throws") throw new TypeError("in the middle " + "ä".repeat(9000));
  if (event.fail === "crashes") setTimeout(() => { throw new RangeError("nobody caught it"); }, 1);
  else if (event.fail === "exits") process.exit(4);
  else stream.end(event.last);
});
"""


async def test_pieces_of_a_stream_leave_as_they_are_written(make: Make, tmp_path: Path) -> None:
    function = make(STREAMS)
    consumed: list[bytes] = []

    async def consume(piece: bytes) -> None:
        consumed.append(piece)
        if len(piece) < 10:
            (tmp_path / f"seen-{piece.decode()}").touch()  # the handler goes on when it is seen

    for pieces, last in (["one", "two", "three"], ""), ([], "only"), ([], ""), (["x"], "y" * (20 << 20)):
        consumed.clear()
        event = json.dumps({"pieces": pieces, "last": last}).encode()
        assert await function.invoke(event, consume=consume) == b""
        assert b"".join(consumed).decode() == "".join(pieces) + last
        assert [piece.decode() for piece in consumed[: len(pieces)]] == pieces


@pytest.mark.parametrize(
    ("fail", "failure", "said"),
    [
        ("throws", FunctionError, "TypeError: in the middle ä"),
        ("crashes", FunctionError, "RangeError: nobody caught it"),
        ("exits", FunctionCrashed, "exited with status 4"),
    ],
)
@pytest.mark.parametrize("pieces", [[], ["one"]])
async def test_a_stream_that_fails_fails_after_its_pieces(
    fail: str, failure: type[Exception], said: str, pieces: list[str], make: Make, tmp_path: Path
) -> None:
    function = make(STREAMS)
    consumed: list[bytes] = []

    async def consume(piece: bytes) -> None:
        consumed.append(piece)
        (tmp_path / f"seen-{piece.decode()}").touch()

    for _ in range(2):
        with pytest.raises(failure, match=said):
            await function.invoke(json.dumps({"pieces": pieces, "fail": fail}).encode(), consume=consume)
    assert [piece.decode() for piece in consumed] == pieces * 2
    assert await function.invoke(b'{"pieces": [], "last": "fine"}') == b"fine"


@pytest.mark.parametrize("caught", [True, False])
async def test_what_was_written_before_a_failure_is_sent_however_much_waits(caught: bool, make: Make) -> None:
    throw = "throw new Error('m'.repeat(300_000));"
    function = make(
        f"""
        exports.handler = awslambda.streamifyResponse(async (event, stream) => {{
          for (let piece = 0; piece < 100; piece++) stream.write(`${{piece}}:` + "x".repeat(5_000) + "\\n");
          stream.write("");
          {throw if caught else f"setImmediate(() => {{ {throw} }}); await new Promise(() => {{}});"}
        }});
        """
    )
    consumed: list[bytes] = []

    async def consume(piece: bytes) -> None:
        consumed.append(piece)

    with pytest.raises(FunctionError, match="Error: mmm"):
        await function.invoke(b"{}", consume=consume)
    lines = b"".join(consumed).decode().splitlines()
    assert lines == [f"{piece}:" + "x" * 5_000 for piece in range(100)]


LATE = """
let late = null;
const after = (event, act) => {
  if (event.first) late = act;
  else setImmediate(() => { late(); setImmediate(act); });
};
exports.callback = (event, context, callback) => {
  context.callbackWaitsForEmptyEventLoop = false;
  if (event.first) callback(null, "first");
  after(event, () => callback(null, event.first ? "late" : "second"));
};
exports.fails = (event, context, callback) => {
  context.callbackWaitsForEmptyEventLoop = false;
  if (event.first) callback(null, "first");
  after(event, () => (event.first ? context.fail(new Error("late")) : callback(null, "second")));
};
exports.streamed = awslambda.streamifyResponse(async (event, stream) => {
  if (event.first) stream.end('"first"');
  after(event, () => (event.first ? stream.write("late") : stream.end('"second"')));
});
"""


@pytest.mark.parametrize("handler", ["callback", "fails", "streamed"])
async def test_what_an_event_says_after_its_end_does_not_harm_the_next_one(handler: str, make: Make) -> None:
    function = make(LATE, handler, timeout=10.0)
    assert await call(function, first=True) == "first"
    pids = function.pids
    assert await call(function, first=False) == "second"
    assert function.pids == pids


# What fails

FAILS = {
    "throws": ("exports.handler = () => { throw new TypeError('bad'); };", "TypeError: bad"),
    "rejects": ("exports.handler = async () => { throw new RangeError('far'); };", "RangeError: far"),
    "calls back": ("exports.handler = (e, c, callback) => callback(new Error('back'));", "Error: back"),
    "fails": ("exports.handler = (e, context) => context.fail(new Error('failed'));", "Error: failed"),
    "text": ("exports.handler = async () => { throw 'only text'; };", "string: only text"),
    "own type": (
        "class Own extends Error { constructor() { super('x'); this.name = 'Own'; this.code = 7; } }\n"
        "exports.handler = async () => { throw new Own(); };",
        "Own: x",
    ),
    "no words": ("exports.handler = async () => { throw Object.create(null); };", "handled: callback called"),
    "circular": (
        "exports.handler = async () => { const a = {}; a.a = a; return a; };",
        "Unable to stringify",
    ),
    "name": ("exports.handler = async () => { const e = new Error('m'); e.name = 'ä\\n'; throw e; };", "ä"),
    "stream": (
        "exports.handler = awslambda.streamifyResponse(async (e, stream) => { throw new Error('in it'); });",
        "Error: in it",
    ),
    "open": (
        "exports.handler = awslambda.streamifyResponse(async (e, stream) => { stream.write('x'); });",
        "never ended",
    ),
}


@pytest.mark.parametrize("how", FAILS)
async def test_an_error_fails_its_event_and_the_worker_lives_on(how: str, make: Make) -> None:
    source, said = FAILS[how]
    function = make(source)
    with capture_logs() as logs:
        with pytest.raises(FunctionError) as failed:
            await function.invoke(b"{}", "the-id")
        (worker,) = function.pids
        await until(lambda: [log for log in logs if log.get("line", "").startswith("ERROR\tInvoke Error\t")])
    assert said in str(failed.value)
    assert function.pids == [worker]
    # All of the error is one line.
    (line,) = [log for log in logs if log["event"] == "function output"]
    assert line["request_id"] == "the-id"
    report = json.loads(line["line"].split("\t", 2)[2])
    assert report["errorType"] == failed.value.error_type
    assert report["errorMessage"] == failed.value.error_message
    if how in ("throws", "rejects", "calls back"):
        assert "index.js:1:" in report["stack"][1]
    if how == "own type":
        assert report["code"] == 7


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        (
            "exports.handler = () => { setTimeout(() => { throw new RangeError('later'); }, 1); };",
            "RangeError",
        ),
        (
            "exports.handler = async () => { Promise.reject(new RangeError('later')); await new Promise(() => {}); };",
            "Runtime.UnhandledPromiseRejection",
        ),
    ],
)
async def test_an_error_that_nobody_catches_ends_the_worker_and_is_told(
    source: str, kind: str, make: Make
) -> None:
    function = make(f"exports.pid = process.pid;\n{source}")
    for _ in range(2):
        with pytest.raises(FunctionError, match="later") as failed:
            await call(function)
        assert failed.value.error_type == kind


@pytest.mark.parametrize("begin", ["", "stream.write('x');"])
async def test_an_error_with_a_name_and_words_of_any_length_is_told(begin: str, make: Make) -> None:
    function = make(
        f"""
        exports.handler = awslambda.streamifyResponse(async (event, stream) => {{
          {begin}
          throw Object.assign(new Error("m".repeat(300_000)), {{ name: "n".repeat(300_000) }});
        }});
        """
    )
    with pytest.raises(FunctionError, match="raised nnn"):
        await call(function)


async def test_an_exit_in_the_middle_of_an_event(make: Make) -> None:
    function = make("exports.handler = async () => { console.error('last words'); process.exit(3); };")
    with pytest.raises(FunctionCrashed, match=r"exited with status 3 .* last words"):
        await call(function)


async def test_a_worker_that_is_killed_is_replaced(make: Make) -> None:
    function = make(MANY, "promise")
    first = (await call(function))["pid"]
    os.kill(first, signal.SIGKILL)
    await until(lambda: not function.pids)
    assert (await call(function))["pid"] != first


async def test_a_loop_without_end_meets_its_timeout(make: Make) -> None:
    function = make("exports.handler = async (event) => { while (event.spin); return 'fine'; };", timeout=0.5)
    with pytest.raises(FunctionTimeout, match=r"no answer within 0\.5 s"):
        await call(function, spin=True)
    assert await call(function) == "fine"


GREEDY = """
const kept = [];
exports.handler = async (event) => {
  if (event.buffers) for (;;) kept.push(Buffer.alloc(10 << 20, 1));
  if (event.objects) for (;;) kept.push(new Array(1000).fill({}));
  if (event.garbage) for (let i = 0; i < 300; i++) Buffer.from("x".repeat(1 << 20)), new Array(100_000).fill({});
  return process.pid;
};
"""


@pytest.mark.parametrize("what", ["buffers", "objects"])
async def test_memory_beyond_its_limit_is_named_and_the_neighbour_is_left_alone(
    what: str, make: Make
) -> None:
    function, neighbour = make(GREEDY, memory=128), make(GREEDY, memory=128)
    beside = await call(neighbour)
    with pytest.raises(FunctionOutOfMemory, match=r"Runtime\.OutOfMemory: .* of 128 MB"):
        await call(function, **{what: True})
    assert await call(neighbour, garbage=True) == beside


INIT = {
    "throws": ("\n\nthrow new Error('at import');\n", r"Error: at import \(index\.js, line 3\)"),
    "syntax": ("\nconst = 1;\n", r"Runtime\.UserCodeSyntaxError: SyntaxError: .* \(index\.js, line 2\)"),
    "import": (
        "\nrequire('not-there');\n",
        r"Runtime\.ImportModuleError: .*'not-there' \(index\.js, line 2\)",
    ),
    "deep": ("require('./deep.js');\n", r"TypeError: deep \(deep\.js, line 2\)"),
    "aws": ("require('@aws-sdk/client-sns');\n", "npm install"),
    "missing": (
        "exports.other = () => {}; exports.value = 1; exports.more = async () => {};\n",
        r"Runtime\.HandlerNotFound: index\.handler is undefined or not exported; index\.js exports the functions: "
        "other, more$",
    ),
    "value": ("exports.handler = 1;\n", "index.handler is not a function; index.js exports no function"),
    "exit": ("console.log('gone'); process.exit(0);\n", "exited with status 0 before it was ready; .* gone"),
    "rejected": ("Promise.reject(new Error('early')); exports.handler = async () => 1;\n", "early"),
}
INIT_MODULE = {
    "throws": ("\n\nthrow new Error('at import');\n", r"Error: at import \(index\.mjs, line 3\)"),
    "import": (
        "import 'not-there';\n",
        r"Runtime\.ImportModuleError: .*'not-there' imported from .*/index\.mjs",
    ),
    "missing": ("export const other = () => {};\n", "index.mjs exports the functions: other"),
    "forever": ("await new Promise(() => {});\n", r"Runtime\.NodeJsExit: .*never settled"),
}


@pytest.mark.parametrize(
    ("name", "how"), [("index.js", how) for how in INIT] + [("index.mjs", how) for how in INIT_MODULE]
)
async def test_a_module_that_does_not_load_says_why_and_heals(
    name: str, how: str, make: Make, tmp_path: Path
) -> None:
    source, said = (INIT if name == "index.js" else INIT_MODULE)[how]
    (tmp_path / "deep.js").write_text("\nthrow new TypeError('deep');\n")
    function = make(source, name=name)
    with pytest.raises(FunctionInitFailed, match=said) as failed:
        await call(function)
    assert "\n" not in str(failed.value)
    (tmp_path / name).write_text(
        "exports.handler = async () => 'healed';\n"
        if name == "index.js"
        else "export const handler = async () => 'healed';\n"
    )
    function.reload()
    assert await call(function) == "healed"


async def test_without_node_the_message_says_what_to_install(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    function = make(MANY, "promise")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        FunctionInitFailed, match=r"no program node is in the gateway's PATH: install Node\.js"
    ):
        await call(function)
    with pytest.raises(DestinationError) as refused:
        FunctionDestination.from_spec("f", "index.js:promise", {}, destination_context(tmp_path))
    assert str(refused.value).startswith(
        f"destination f: {tmp_path}/index.js is JavaScript, and no program node"
    )
    assert "apt-get install nodejs" in str(refused.value)


REFUSED = {
    "index.js": "names no handler",
    "index.js:": "names no handler",
    "index.js:../x": "is not the name",
    "absent.mjs:handler": "does not exist",
    ".:index.": "is not the name",
    ".:../index.handler": "is not the name",
    "app.ts:handler": "app.ts is TypeScript, .*: build it to JavaScript .*esbuild",
    ".:app.handler": "app.ts is TypeScript",
    ".:other.handler": "does not exist",
}


@pytest.mark.parametrize("target", REFUSED)
def test_what_cannot_start_is_refused_with_a_next_step(target: str, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    for name in ("base/index.js", "base/app.ts", "index.js"):
        (tmp_path / name).write_text(COMMON)
    with pytest.raises(DestinationError, match=REFUSED[target]):
        FunctionDestination.from_spec("f", target, {}, destination_context(base))


@pytest.mark.attack
@pytest.mark.parametrize(
    "target",
    [
        "../out/main.js:handler",
        "link:main.handler",
        "in/evil.js:handler",
        "in:evil.handler",
        "in:up/main.handler",
    ],
)
def test_code_of_a_document_of_the_api_lies_below_local_code(target: str, tmp_path: Path) -> None:
    out, base = tmp_path / "out", tmp_path / "base"
    for folder in (out, base / "in"):
        folder.mkdir(parents=True)
        (folder / "main.js").write_text(COMMON)
    (base / "link").symlink_to(out)
    (base / "in/evil.js").symlink_to(out / "main.js")
    (base / "in/up").symlink_to(out)
    context = destination_context(base)
    object.__setattr__(context, "local_code", LocalCode((str(base),)))
    FunctionDestination.from_spec("f", "in:main.handler", {}, context)
    with pytest.raises(DestinationError, match="local_code"):
        FunctionDestination.from_spec("f", target, {}, context)
    with pytest.raises(DestinationError, match="loads code"):
        FunctionDestination.from_spec(
            "f", "in:main.handler", {"Environment": {"NODE_OPTIONS": "--require /tmp/x"}}, context
        )
