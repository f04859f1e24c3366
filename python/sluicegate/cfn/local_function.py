"""Lambda functions of a template as functions of this machine: where their code is and what they are told.

What Lambda takes from `Handler`, `Timeout` and `Environment` a `function:` Destination takes too. The runtimes of
Python and Node.js and custom ones (`provided.*`, a `bootstrap` program) run here; of others one is told what to build.
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sluicegate.cfn.resolve import origins
from sluicegate.functions import build
from sluicegate.functions.code import Code, module_file, node_file, node_module

LAMBDA_TIMEOUT_SECONDS = 3.0  # Lambda's default
_SUFFIXES = {"python": (".py",), "nodejs": (".mjs", ".js", ".cjs")}
_MODULE = re.compile(
    r"^(?:import\s*[\w{*\"']|export\s+(?:async|class|const|default|function|let|var|[{*]))", re.MULTILINE
)
"""What only an ES module has. Lambda's Node.js finds that out from `index.js`; an older one here needs the suffix."""
_BUILT = "here: {fix}, and give the function Runtime: provided.al2023 with the folder of bootstrap as CodeUri"
_OTHERS = {"dotnet": build.DOTNET, "go1": build.GO, "java": build.JAVA, "ruby": build.RUBY}
_SOURCES = {
    "*.go": build.GO, "Cargo.toml": build.RUST, "*.csproj": build.DOTNET, "*.fsproj": build.DOTNET,
    "Makefile": "build it (sam build, and apply .aws-sam/build/template.yaml)",
}  # fmt: skip
"""What a folder without a `bootstrap` is the source of."""


@dataclasses.dataclass(frozen=True)
class LocalFunction:
    """`target` and `arguments` of a `function:` Destination; `inline` is code to be written before: `(file, text)`.
    `folder` is the root of its code."""

    target: str
    arguments: dict[str, Any]
    inline: tuple[Path, str] | None
    notes: list[str]
    folder: Path


class NotLocal(Exception):
    """A function cannot run here: why, and what would help."""


def local_function(
    logical_id: str,
    properties: Mapping[str, Any],
    template_dir: Path,
    made_dir: Path,
    environment: Mapping[str, str],
) -> LocalFunction:
    """The function with these resolved properties (of either type). Raises `NotLocal`.

    `Code` may be the `Path` of an asset (`assets.code_asset`). Inline code will be in `made_dir`. `environment` has
    variables for functions that do not set them.
    """
    runtime = str(properties.get("Runtime", ""))
    inline, root = _code(logical_id, properties, template_dir, made_dir)
    arguments: dict[str, Any] = {}
    written: tuple[Path, str] | None = None
    variables = dict(environment)
    family = runtime.rstrip(".0123456789x")
    if runtime.startswith("provided") and inline is None:
        target = _program_target(properties, root)
    elif family in _SUFFIXES:
        file, target = _module_target(family, properties, root, inline)
        written = (file, inline) if inline is not None else None
    else:
        raise NotLocal(_does_not_run(runtime))
    notes = _notes(properties)
    variables |= environment_of(properties)
    if variables:
        arguments["Environment"] = variables
    arguments["TimeoutInSeconds"] = _number(properties.get("Timeout"), LAMBDA_TIMEOUT_SECONDS)
    if memory := int(_number(properties.get("MemorySize"), 0)):
        arguments["MemoryInMb"] = memory
    return LocalFunction(target, arguments, written, notes, root)


def placeholders(properties: Mapping[str, Any]) -> dict[str, frozenset[str]]:
    """Environment variables with values that resources of the template gave: variable → logical ids."""
    return {name: of for name, value in environment_of(properties).items() if (of := origins(value))}


def environment_of(properties: Mapping[str, Any]) -> dict[str, str]:
    """`Environment.Variables`. Raises `NotLocal` where they are not text."""
    environment = properties.get("Environment") or {}
    variables = environment.get("Variables") or {} if isinstance(environment, Mapping) else None
    if not isinstance(variables, Mapping):
        raise NotLocal("its Environment is not `{ Variables: { NAME: VALUE } }`")
    wrong = [name for name, value in variables.items() if not isinstance(value, str)]
    if wrong:
        raise NotLocal(f"{', '.join(wrong)} in its Environment is not text")
    return dict(variables)


def _code(
    logical_id: str, properties: Mapping[str, Any], template_dir: Path, made_dir: Path
) -> tuple[str | None, Path]:
    """`(inline code or None, the directory with the code)`."""
    if properties.get("PackageType") == "Image" or "ImageUri" in properties:
        raise NotLocal("it is a container image: give its code as CodeUri")
    code = properties.get("Code", properties.get("CodeUri"))
    inline = properties.get("InlineCode")
    if isinstance(code, Path):
        return None, _asset(code)
    if isinstance(code, Mapping):
        inline = code.get("ZipFile", inline)
        if inline is None:
            fix = "name a local directory as CodeUri, or synthesise with asset metadata (`cdk synth`)"
            raise NotLocal(f"its code is in S3: {fix}")
    if inline is not None:
        return str(inline), made_dir / logical_id
    if not isinstance(code, str):
        raise NotLocal("it has no code: add CodeUri or InlineCode")
    if code.startswith("s3://"):
        raise NotLocal(f"its code is in S3 ({code}): name a local directory as CodeUri")
    root = (template_dir / code).absolute()
    if root.is_file():
        raise NotLocal(f"its code is the file {code}: unpack it and name the directory as CodeUri")
    if not root.is_dir():
        raise NotLocal(f"there is no directory {root}: correct CodeUri, or build it")
    return None, root


def _asset(path: Path) -> Path:
    if path.is_dir():
        return path
    if path.exists():
        # Not unpacked: a copy of ours would go on running after `cdk synth` has written another archive.
        raise NotLocal(f"its code is the archive {path}: give Code.from_asset the unpacked folder")
    raise NotLocal(f"there is no folder {path}: apply the template where `cdk synth` wrote both")


def _does_not_run(runtime: str) -> str:
    for name, fix in _OTHERS.items():
        if runtime.startswith(name):
            return f"the runtime {runtime} does not run {_BUILT.format(fix=fix)}"
    return (
        f"the runtime {runtime or '(none)'} does not run here: those of Python and Node.js and provided.* do"
    )


def _module_target(
    family: str, properties: Mapping[str, Any], root: Path, inline: str | None
) -> tuple[Path, str]:
    """`(the handler's file, the target)`."""
    handler = str(properties.get("Handler", ""))
    module, _, name = handler.rpartition(".")
    if not module or not name:
        raise NotLocal(f'its Handler "{handler}" is not FILE.FUNCTION')
    suffixes = _SUFFIXES[family]
    if inline is not None:
        file = root / f"index{suffixes[0 if _MODULE.search(inline) or family == 'python' else 1]}"
        if module != "index":
            written = f'inline code is {file.name} in Lambda too, and its Handler is "{handler}": write index.{name}'
            raise NotLocal(written)
        return file, f"function:{file}:{name}"
    found = module_file(root, handler) if family == "python" else node_file(root, handler)
    if found is None or not found.is_file():
        raise NotLocal(_no_module(family, root, handler))
    if found.parent == root:
        return found, f"function:{found}:{name if family == 'python' else handler.partition('.')[2]}"
    if (first := Code.of(root, handler).file) != found:
        raise NotLocal(f"{first} comes before {found}: rename it, or give it a folder of its own")
    return found, f"function:{root}:{handler}"


def _no_module(family: str, root: Path, handler: str) -> str:
    if family == "python":
        return f"there is no {module_file(root, handler)}: correct Handler or CodeUri, or build it"
    module = node_module(root, handler)
    for suffix in (".ts", ".mts", ".tsx"):
        if module.with_name(module.name + suffix).is_file():
            return f"{module}{suffix} is TypeScript, and not built: {build.TYPESCRIPT}, and name its folder as CodeUri"
    return f"there is no {module}.js (.mjs, .cjs): correct Handler or CodeUri, or build it"


def _program_target(properties: Mapping[str, Any], root: Path) -> str:
    file = root / "bootstrap"
    if not file.is_file():
        found = (fix for pattern, fix in _SOURCES.items() if next(root.glob(pattern), None) is not None)
        raise NotLocal(f"there is no program {file}: {next(found, 'build it')}, there")
    handler = properties.get("Handler") or file.name
    return f"function:{file}" if handler == file.name else f"function:{file}:{handler}"


def _notes(properties: Mapping[str, Any]) -> list[str]:
    if properties.get("Layers"):
        where = "the gateway's Python"
        if str(properties.get("Runtime", "")).startswith("nodejs"):
            where = "its own node_modules (npm install)"
        return [f"its layers are not unpacked: install what they hold into {where}"]
    return []


def _number(value: Any, default: float) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return default
