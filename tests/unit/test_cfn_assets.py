"""Code in the folder that `cdk synth` writes beside a template."""

import json
from pathlib import Path
from typing import Any

import pytest

from sluicegate.cfn.stack import Settings, Stack
from sluicegate.cfn.template import Template, TemplateError


@pytest.fixture
def assembly(tmp_path: Path) -> Path:
    """`cdk.out` with the code of one function, beside a folder that is none of its business."""
    for file in ("cdk.out/asset.1/index.py", "cdk.out/asset.1/pkg/module.py", "outside/index.py"):
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("def handler(event, context): ...\n")
    return tmp_path / "cdk.out"


def bound(directory: Path, asset: Any, **function: Any) -> tuple[dict[str, Any], str]:
    """The Destination that delivers to a function with this `Metadata` or asset path; and what the notes say."""
    metadata = asset if isinstance(asset, dict) else {"aws:asset:path": asset, "aws:asset:property": "Code"}
    properties = {
        "Runtime": "python3.12",
        "Handler": "index.handler",
        "Code": {"S3Bucket": {"Fn::Sub": "assets-${AWS::Region}"}, "S3Key": "1.zip"},
        **function,
    }
    target = {"Name": "d", "DestinationArn": {"Fn::GetAtt": ["F", "Arn"]}}
    resources = {
        "F": {"Type": "AWS::Lambda::Function", "Properties": properties, "Metadata": metadata},
        "Entry": {"Type": "Custom::SluicegateListener", "Properties": {"Destinations": [target]}},
    }
    file = directory / "Demo.template.json"
    file.write_text(json.dumps({"Resources": resources}, indent=1))
    made = Stack(Template.load(file), {}, Settings("demo", "us-east-1", directory / "made"), {})
    (item,) = made.items()
    (destination,) = item.document["Destinations"]
    return destination, "\n".join(note.text for note in made.notes)


def test_code_in_the_folder_of_an_asset(assembly: Path) -> None:
    destination, said = bound(assembly, "asset.1")
    assert destination["DestinationArn"] == f"function:{assembly}/asset.1/index.py:handler"
    assert "Environment" not in destination["Arguments"]
    assert said == ""


def test_a_handler_in_a_package_imports_from_the_root_of_the_asset(assembly: Path) -> None:
    destination, _ = bound(assembly, "asset.1", Handler="pkg.module.handler")
    assert destination["DestinationArn"] == f"function:{assembly}/asset.1:pkg.module.handler"
    assert "Environment" not in destination["Arguments"]


def test_the_template_of_a_stage_shares_the_assets_of_the_whole_app(assembly: Path) -> None:
    stage = assembly / "assembly-Live"
    stage.mkdir()
    destination, _ = bound(stage, "../asset.1")
    assert destination["DestinationArn"] == f"function:{assembly}/asset.1/index.py:handler"
    with pytest.raises(TemplateError, match="leads out of"):
        bound(stage, "../../outside")


@pytest.mark.parametrize("path", ["../outside", "asset.1/../../outside", "{root}/outside", "link"])
def test_a_path_that_leads_out_of_the_assembly_is_refused(assembly: Path, path: str) -> None:
    (assembly / "link").symlink_to(assembly.parent / "outside")
    with pytest.raises(TemplateError) as refused:
        bound(assembly, path.format(root=assembly.parent))
    assert str(refused.value).startswith(f"{assembly}/Demo.template.json:16:23: ")
    assert f"leads out of {assembly}" in str(refused.value)


def test_an_asset_that_is_an_archive_or_missing_is_explained(assembly: Path) -> None:
    (assembly / "asset.2.zip").write_bytes(b"PK")
    destination, said = bound(assembly, "asset.2.zip")
    assert "DestinationArn" not in destination
    assert f"its code is the archive {assembly}/asset.2.zip: give Code.from_asset the unpacked folder" in said
    _, said = bound(assembly, "asset.3")
    assert f"there is no folder {assembly}/asset.3: apply the template where `cdk synth` wrote both" in said


@pytest.mark.parametrize(
    ("metadata", "sentence"),
    [
        ({}, "its code is in S3: name a local directory as CodeUri, or synthesise with asset metadata"),
        ({"aws:asset:path": "asset.1", "aws:asset:property": "Content"}, "its code is in S3"),
        ({"aws:asset:path": ["asset.1"], "aws:asset:property": "Code"}, "its code is in S3"),
    ],
)
def test_metadata_that_names_no_code(assembly: Path, metadata: dict[str, Any], sentence: str) -> None:
    destination, said = bound(assembly, metadata)
    assert "DestinationArn" not in destination
    assert sentence in said


def test_code_that_cannot_run_here_is_named(assembly: Path) -> None:
    image = {"aws:asset:path": "asset.1", "aws:asset:property": "Code.ImageUri"}
    assert "it is a container image" in bound(assembly, image, Code={"ImageUri": "x"}, PackageType="Image")[1]
    _, said = bound(assembly, "asset.1", Runtime="nodejs22.x")
    assert f"there is no {assembly}/asset.1/index.js (.mjs, .cjs): correct Handler" in said
    _, said = bound(assembly, "asset.1", Handler="gone.handler")
    assert f"there is no {assembly}/asset.1/gone.py: correct Handler" in said
