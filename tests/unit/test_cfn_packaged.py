"""The packaged templates, and the mapping that existing templates include."""

import json
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner

from sluicegate.cfn import provider
from sluicegate.cfn.packaged import FORMS
from sluicegate.cfn.reader import parse
from sluicegate.cfn.template import Template
from sluicegate.cli import main

DEPLOY = Path(__file__).parents[2] / "deploy/cloudformation"
BODY_LIMIT = 51_200  # CloudFormation's, for a template that is not in S3


@pytest.mark.parametrize("form", FORMS)
def test_the_files_are_what_the_program_prints(form: str) -> None:
    text = (DEPLOY / f"{form}.yaml").read_text()
    assert text == FORMS[form](), "write them anew: python -m sluicegate.cfn.packaged deploy/cloudformation"
    assert len(text.encode()) < BODY_LIMIT
    assert CliRunner().invoke(main, ["cfn", "template", form]).output == text
    template = Template(Path(form), parse(form, text))
    assert "ServiceToken" in template.outputs


def test_the_function_s_code_is_the_provider() -> None:
    template = Template(Path("lambda"), parse("lambda", FORMS["lambda"]()))
    code = template.resources["Provider"].properties["Code"]["ZipFile"]
    assert code.rstrip() == Path(provider.__file__).read_text().rstrip()
    assert template.resources["Provider"].properties["Handler"] == "index.lambda_handler"


def test_bootstrap_writes_the_mapping_and_keeps_other_regions(tmp_path: Path) -> None:
    file = tmp_path / "customer-config.json"
    run = CliRunner().invoke
    for region in ("us-east-1", "eu-west-1"):
        token = f"arn:aws:lambda:{region}:111122223333:function:provider"
        options = ["--region", region, "--service-token", token, "--api-key", "sg_1_x"]
        role = "arn:aws:iam::111122223333:role/gateway"
        made = run(main, ["cfn", "bootstrap", *options, "--service-role", role, str(file)])
        assert made.exit_code == 0, made.output
    written = json.loads(file.read_text())
    assert written["us-east-1"] == {
        "ServiceToken": "arn:aws:lambda:us-east-1:111122223333:function:provider",
        "ServiceRole": "arn:aws:iam::111122223333:role/gateway",
    }
    assert set(written) == {"us-east-1", "eu-west-1", "Account"}
    assert written["Account"] == {"ApiKey": "sg_1_x"}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "sg_1_x" not in made.output


def test_bootstrap_does_not_overwrite_what_it_cannot_read(tmp_path: Path) -> None:
    file = tmp_path / "customer-config.json"
    file.write_text("{")
    refused = CliRunner().invoke(
        main, ["cfn", "bootstrap", "--region", "us-east-1", "--service-token", "arn:x", str(file)]
    )
    assert refused.exit_code == 1
    assert "is not JSON" in refused.output
    assert file.read_text() == "{"
