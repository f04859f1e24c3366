"""Assets of the AWS CDK: the folder of code that `cdk synth` writes beside a template, in `cdk.out`.

In the properties of such a function the code is in a bucket of the account. Where it came from stands in the resource's
`Metadata`, for tools that run it without AWS:
`{"aws:asset:path": "asset.HASH", "aws:asset:property": "Code"}`.
"""

from pathlib import Path

from sluicegate.cfn.template import Declared, Template

_PATH = "aws:asset:path"


def code_asset(template: Template, declared: Declared) -> Path | None:
    """The folder or file with a function's code, which need not exist; None where its metadata names none.

    Raises `TemplateError` for a path that leads out of `cdk.out`: a template names no code elsewhere on this machine.
    """
    path = declared.metadata.get(_PATH)
    if not isinstance(path, str) or declared.metadata.get("aws:asset:property") != "Code":
        return None
    directory = template.path.absolute().parent
    root = _root(directory)
    found = (directory / path).resolve()
    if not found.is_relative_to(root.resolve()):
        cause = f"the asset {path} of {declared.logical_id} leads out of {root}"
        fix = "apply the template in the folder where `cdk synth` wrote it, with its assets"
        raise template.refused(declared.metadata.places[_PATH], cause, fix)
    return found


def _root(directory: Path) -> Path:
    """`cdk.out` itself: the template of a Stage lies in `cdk.out/assembly-STAGE`, and its assets in `cdk.out`."""
    while directory.name.startswith("assembly-"):
        directory = directory.parent
    return directory
