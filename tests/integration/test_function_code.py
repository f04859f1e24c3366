"""The folder of a function's code: names of the standard library in it, packages, files, other layouts."""

import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from sluicegate.destinations import DestinationError
from sluicegate.destinations.function import FunctionDestination
from sluicegate.functions import Function, FunctionInitFailed
from sluicegate.functions.reload import Code as Watched
from sluicegate.localcode import LocalCode
from sluicegate.testing import destination_context, packet_batch

Make = Callable[..., Function]

_NAMES = """
uuid dataclasses platform json socket logging types enum asyncio signal struct datetime zoneinfo select ctypes
resource errno copy inspect ast subprocess threading traceback http email re collections functools random
importlib tokenize queue calendar token code numbers decimal string warnings weakref orjson simplejson
os sys encodings site time
"""
NAMES = _NAMES.split()
"""Beside a handler. The last five Python itself has loaded before it knows of any folder, here and on AWS."""


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    made: list[Function] = []

    def make(*arguments: Any, **options: Any) -> Function:
        made.append(Function(*arguments, name="code", **options))
        return made[-1]

    yield make
    for function in made:
        await function.close()


def write(root: Path, **files: str) -> Path:
    """Files under `root`; `__` in a name is a slash, and all are Python."""
    for name, text in files.items():
        file = root / (name.replace("__", "/") + ".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text))
    return root


async def call(function: Function) -> Any:
    return json.loads(await function.invoke(b"{}"))


@pytest.mark.parametrize(
    ("name", "how"),
    [(name, how) for name in NAMES for how in ("file", "package")]
    + [
        (name, "PYTHONPATH") for name in NAMES if name not in ("os", "encodings", "site")
    ],  # Python itself needs these
)
async def test_a_name_of_the_standard_library_beside_the_handler(
    name: str, how: str, make: Make, tmp_path: Path
) -> None:
    code, place = tmp_path / "code", tmp_path / ("path" if how == "PYTHONPATH" else "code")
    write(code, main="def handler(event, context): return [event, context.aws_request_id is not None]\n")
    file = place / (f"{name}/__init__.py" if how == "package" else f"{name}.py")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("raise RuntimeError('nobody asked for this')\n")
    environment = {"PYTHONPATH": str(place)} if how == "PYTHONPATH" else {}
    function = make(code / "main.py", "handler", environment=environment)
    assert await call(function) == [{}, True]
    assert await call(function) == [{}, True]


async def test_every_name_is_found_where_awss_runtime_alone_finds_it(make: Make, tmp_path: Path) -> None:
    """Each module of the standard library lies beside the handler: which ones are the folder's own?"""
    names = sorted(
        name for name in sys.stdlib_module_names if name not in ("__main__", "antigravity", "this")
    )
    for name in [*names, "orjson"]:
        (tmp_path / f"{name}.py").write_text("MINE = True\n")
    source = (
        "import sys\n"
        f"NAMES = {names!r} + ['orjson']\n"
        "LOADED = [name for name in NAMES if name in sys.modules]\n"
        "def handler(event, context): return LOADED\n"
    )
    write(tmp_path, main=source)
    alone = (
        "import sys, awslambdaric.__main__; sys.path.insert(0, sys.argv[1]); import json, main;"
        "print(json.dumps(main.LOADED))"
    )
    command = [sys.executable, "-P", "-c", alone, str(tmp_path)]
    reference = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: ASYNC221
    loaded = await call(make(tmp_path / "main.py", "handler"))
    assert {"os", "json", "logging", "types"} <= set(loaded)
    assert loaded == json.loads(reference.stdout)


@pytest.mark.parametrize(
    "name", ["uuid", "dataclasses", "platform", "socket", "signal", "struct", "asyncio", "orjson"]
)
async def test_the_handler_gets_its_own_module(name: str, make: Make, tmp_path: Path) -> None:
    write(tmp_path, main=f"import {name}\ndef handler(event, context): return {name}.MINE\n")
    (tmp_path / f"{name}.py").write_text("MINE = 'of the folder'\n")
    assert await call(make(tmp_path / "main.py", "handler")) == "of the folder"


@pytest.mark.parametrize("name", ["uuid", "json", "logging", "types", "http"])
async def test_a_handler_file_that_has_such_a_name_itself(name: str, make: Make, tmp_path: Path) -> None:
    write(tmp_path, **{name: "def handler(event, context): return 'mine'\n"})
    assert await call(make(tmp_path / f"{name}.py", "handler")) == "mine"


async def test_an_error_at_import_is_told_beside_a_module_http(make: Make, tmp_path: Path) -> None:
    write(tmp_path, http="", enum="", main="raise ValueError('TABLE is not set')\n")
    with pytest.raises(FunctionInitFailed, match="TABLE is not set"):
        await make(tmp_path / "main.py", "handler").warm_up()


PACKAGE = {
    "app____init__": "",
    "app__handler": """
        import os
        from . import near
        from .inner.deep import VALUE
        import shared
        def lambda_handler(event, context):
            text = open("data.txt").read()
            return [near.NAME, VALUE, shared.NAME, text, os.environ["_HANDLER"], os.environ["LAMBDA_TASK_ROOT"],
                    os.getcwd(), context.log_group_name, context.log_stream_name]
    """,
    "app__near": "NAME = __name__\n",
    "app__inner__deep": "from ..near import NAME\nVALUE = NAME + '!'\n",
    "shared": "NAME = 'shared'\n",
}


@pytest.mark.parametrize("handler", ["app.handler.lambda_handler", "app/handler.lambda_handler"])
async def test_a_handler_in_a_package_with_its_root(handler: str, make: Make, tmp_path: Path) -> None:
    root = write(tmp_path / "src", **PACKAGE)
    (root / "data.txt").write_text("beside")
    *found, group, stream = await call(make(root, handler))
    assert found == ["app.near", "app.near!", "shared", "beside", handler, str(root), str(root)]
    assert group == "/aws/lambda/code"
    day, _, unique = stream.partition("/[$LATEST]")
    assert (len(day.split("/")), len(unique)) == (3, 32)


# As a Destination


async def answer(folder: Path, target: str) -> Any:
    destination = FunctionDestination.from_spec("f", target, {}, destination_context(folder))
    await destination.provision()
    try:
        return json.loads(await destination.deliver(packet_batch("x")) or b"null")
    finally:
        await destination.close()


@pytest.mark.parametrize(
    "target",
    [
        "src:app.handler.lambda_handler",
        "src/:app.handler.lambda_handler",
        "./src:app/handler.lambda_handler",
        "src/shared.py:app.handler.lambda_handler",
        "src:2:main.handler",
        ".:my-function.handler",
        "src.py:main.handler",
        "lib:spread.handler.lambda_handler",
    ],
)
async def test_targets_with_a_folder(target: str, tmp_path: Path) -> None:
    root = write(tmp_path / "src", **PACKAGE)
    (root / "data.txt").write_text("beside")
    source = "def handler(event, context): return ['app.near']\n"
    write(tmp_path / "src:2", main=source)
    write(tmp_path / "src.py", main=source)
    write(tmp_path, **{"my-function": source})
    write(tmp_path / "lib", spread__handler=source.replace("handler", "lambda_handler"))
    assert (await answer(tmp_path, target))[0] == "app.near"


REFUSED = {
    "src": "names no handler",
    "src:": "names no handler",
    ":main.handler": "names no code",
    "src:handler": "MODULE.NAME",
    "src:.handler": "is not the name",
    "src:main.": "is not the name",
    "src:main.no-name": "is not the name",
    "src:main.other": "it defines: handler",
    "src:absent.handler": "does not exist",
    "src:../main.handler": "is not the name",
    "absent:main.handler": "does not exist",
    "other:app.handler": "TypeScript.*esbuild",
    "other:app/main.handler": "Ruby.*aws_lambda_ric",
    "other:main.handler": "Go source.*go build -o bootstrap",
    "other/main.go": "Go source.*go build -o bootstrap",
    "other/lib.rs": "Rust source.*cargo build",
    "other/app.jar": "Java.*AWSLambda",
    "other/app.dll": "dotnet publish",
    "go:main.handler": "write function:.*go/bootstrap:main.handler",
    "src:os.handler": "built-in",
    "src:sys.handler": "built-in",
    "src:encodings.handler": "built-in",
    "src:email.own.handler": "__init__.py",
    "src:main.inner.handler": "hides",
}


@pytest.mark.parametrize("target", REFUSED)
async def test_what_cannot_start_is_refused_with_a_next_step(target: str, tmp_path: Path) -> None:
    source = "def handler(event, context): ...\n"
    root = write(tmp_path / "src", main=source, os=source, sys=source, encodings=source, email__own=source)
    write(root, main__inner=source)
    (tmp_path / "other/app").mkdir(parents=True)
    for name in ("app.ts", "main.go", "lib.rs", "app.jar", "app.dll", "app/main.rb"):
        (tmp_path / "other" / name).touch()
    (tmp_path / "go").mkdir()
    (tmp_path / "go/bootstrap").write_bytes(b"\x7fELF")
    with pytest.raises(DestinationError) as refused:
        FunctionDestination.from_spec("f", target, {}, destination_context(tmp_path))
    assert re.search(REFUSED[target], str(refused.value))


@pytest.mark.parametrize("target", ["bootstrap", "bootstrap:main.handler", "bootstrap:Own::Type::Method"])
async def test_a_program_is_told_its_handler(target: str, tmp_path: Path) -> None:
    program = tmp_path / "bootstrap"
    program.write_text(
        f"#!{sys.executable}\n"
        "import http.client, json, os\n"
        'api = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])\n'
        "while True:\n"
        '    api.request("GET", "/2018-06-01/runtime/invocation/next")\n'
        "    answer = api.getresponse()\n"
        '    request_id, _ = answer.headers["Lambda-Runtime-Aws-Request-Id"], answer.read()\n'
        '    body = json.dumps([os.environ["_HANDLER"], os.environ["LAMBDA_TASK_ROOT"]])\n'
        '    api.request("POST", f"/2018-06-01/runtime/invocation/{request_id}/response", body)\n'
        "    api.getresponse().read()\n"
    )
    program.chmod(0o755)
    handler = target.partition(":")[2] or "bootstrap"
    assert await answer(tmp_path, target) == [handler, str(tmp_path)]


@pytest.mark.attack
@pytest.mark.parametrize(
    "target",
    [
        "../out:main.handler",
        "link:main.handler",
        "in:evil.handler",
        "in:package.handler",
        "in/up:out.main.handler",
    ],
)
def test_a_folder_of_a_document_of_the_api_lies_below_local_code(target: str, tmp_path: Path) -> None:
    source = "def handler(event, context): ...\n"
    out = write(tmp_path / "out", main=source)
    base = tmp_path / "base"
    write(base / "in", main=source)
    (base / "link").symlink_to(out)
    (base / "in/evil.py").symlink_to(out / "main.py")
    (base / "in/package").mkdir()
    (base / "in/package/__init__.py").symlink_to(out / "main.py")
    (base / "in/up").symlink_to(tmp_path)
    context = destination_context(base)
    object.__setattr__(context, "local_code", LocalCode((str(base),)))
    FunctionDestination.from_spec("f", "in:main.handler", {}, context)
    with pytest.raises(DestinationError, match="local_code"):
        FunctionDestination.from_spec("f", target, {}, context)


@pytest.mark.attack
async def test_a_module_that_becomes_a_link_after_the_check_is_not_run(tmp_path: Path) -> None:
    source = "def handler(event, context): return 'here'\n"
    out, base = write(tmp_path / "out", main=source), write(tmp_path / "base", src__app__main=source)
    context = destination_context(base)
    object.__setattr__(context, "local_code", LocalCode((str(base),)))
    destination = FunctionDestination.from_spec("f", "src:app.main.handler", {}, context)
    (base / "src/app/main.py").unlink()
    (base / "src/app/main.py").symlink_to(out / "main.py")
    with pytest.raises(DestinationError, match="leads elsewhere"):
        await destination.provision()


def test_the_watch_covers_the_folder(tmp_path: Path) -> None:
    root = write(tmp_path / "src", **PACKAGE)
    watched = Watched(root)
    write(root, app__inner__deep="VALUE = 2\n", new__package__module="")
    write(root / ".venv", hidden="")
    write(root / "node_modules", hidden="")
    assert watched.look() == []
    assert watched.look() == ["app/inner/deep.py", "new/package/module.py"]
    os.unlink(root / "shared.py")  # noqa: PTH108
    assert watched.look() == []
    assert watched.look() == ["shared.py"]
