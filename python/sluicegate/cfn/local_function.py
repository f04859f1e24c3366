"""Lambda functions of a template as functions of this machine: where their code is and what they are told.

What Lambda takes from `Handler`, `Timeout` and `Environment` a `function:` Destination takes too. Only Python runtimes
and custom ones (`provided.*`, a `bootstrap` program) run here.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sluicegate.cfn.resolve import origins
from sluicegate.functions.code import module_file

LAMBDA_TIMEOUT_SECONDS = 3.0  # Lambda's default


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
    variables = dict(environment)
    if runtime.startswith("python"):
        target = _python_target(properties, root, inline is not None)
    elif runtime.startswith("provided") and inline is None:
        target = _program_target(properties, root)
    else:
        raise NotLocal(f"the runtime {runtime or '(none)'} does not run here: Python and provided.* do")
    notes = _notes(properties)
    variables |= environment_of(properties)
    if variables:
        arguments["Environment"] = variables
    arguments["TimeoutInSeconds"] = _number(properties.get("Timeout"), LAMBDA_TIMEOUT_SECONDS)
    if memory := int(_number(properties.get("MemorySize"), 0)):
        arguments["MemoryInMb"] = memory
    written = (root / "index.py", inline) if inline is not None else None
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


def _python_target(properties: Mapping[str, Any], root: Path, is_inline: bool) -> str:
    handler = str(properties.get("Handler", ""))
    module, _, name = handler.rpartition(".")
    if not module or not name:
        raise NotLocal(f'its Handler "{handler}" is not FILE.FUNCTION')
    if is_inline and module != "index":
        raise NotLocal(
            f'inline code is index.py in Lambda too, and its Handler is "{handler}": write index.{name}'
        )
    file = module_file(root, handler)
    if not is_inline and not file.is_file():
        raise NotLocal(f"there is no {file}: correct Handler or CodeUri, or build it")
    return f"function:{file}:{name}" if file.parent == root else f"function:{root}:{handler}"


def _program_target(properties: Mapping[str, Any], root: Path) -> str:
    file = root / "bootstrap"
    if not file.is_file():
        raise NotLocal(f"there is no program {file}: build it there")
    handler = properties.get("Handler") or file.name
    return f"function:{file}" if handler == file.name else f"function:{file}:{handler}"


def _notes(properties: Mapping[str, Any]) -> list[str]:
    if properties.get("Layers"):
        return ["its layers are not unpacked: install what they hold into the gateway's Python"]
    return []


def _number(value: Any, default: float) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return default
