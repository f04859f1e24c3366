"""Templates as CloudFormation reads them: values of every function, and sentences with lines for what cannot be had."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from sluicegate.cfn.parameters import Parameters
from sluicegate.cfn.reader import Map, parse
from sluicegate.cfn.resolve import Resolver, origins
from sluicegate.cfn.template import Template, TemplateError

PSEUDO = {
    "AWS::AccountId": "000000000000",
    "AWS::Region": "eu-west-1",
    "AWS::StackName": "demo",
    "AWS::Partition": "aws",
}


class Things:
    """Resources: `Ref` gives the id in lower case, `GetAtt` `id/attribute`, and `Names` a list."""

    def ref(self, logical_id: str) -> str:
        return logical_id.lower()

    def attribute(self, logical_id: str, name: str) -> str | list[str]:
        if name == "Nothing":
            raise LookupError(f"{logical_id} has no attribute {name}", "it has: Arn")
        return ["one", "two"] if name == "Names" else f"{logical_id.lower()}/{name}"


def no_include(location: str) -> Map:
    raise LookupError(f"{location} is not here", "put it there")


def template(text: str) -> Template:
    return Template(Path("t.yaml"), parse("t.yaml", text))


def resolver(text: str, include: Any = no_include, **given: str) -> Resolver:
    made = template(text)
    return Resolver(made, Parameters(made, given), PSEUDO, Things(), include)


def value(expression: str, sections: str = "", include: Any = no_include, **given: str) -> Any:
    """`expression` as the only property of a resource."""
    text = (
        f"{sections}\nResources:\n  Thing: {{ Type: A::B::C }}\n  User:\n    Type: A::B::C\n"
        f"    Properties:\n      P: {expression}\n"
    )
    made = template(text)
    found = Resolver(made, Parameters(made, given), PSEUDO, Things(), include).properties(
        made.resources["User"].properties
    )
    return found.get("P")


def problem(expression: str, sections: str = "", **given: str) -> str:
    with pytest.raises(TemplateError) as caught:
        value(expression, sections, **given)
    return str(caught.value.findings[0])


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("plain", "plain"),
        ("100", "100"),
        ("012345678901", "012345678901"),
        ("1.10", "1.10"),
        ("TRUE", "true"),
        ("[a, !Ref Thing]", ["a", "thing"]),
        ("!Ref Thing", "thing"),
        ('{ "Ref": "AWS::Region" }', "eu-west-1"),
        ("!GetAtt Thing.Arn", "thing/Arn"),
        ("!GetAtt [Thing, Arn]", "thing/Arn"),
        ('{ "Fn::GetAtt": ["Thing", "A.B"] }', "thing/A.B"),
        ("!Sub '${AWS::StackName}-${Thing}-${Thing.Arn}-${!Kept}'", "demo-thing-thing/Arn-${Kept}"),
        ("!Sub ['${A}/${Thing}', { A: !Ref AWS::Region }]", "eu-west-1/thing"),
        ('!Join [":", [a, !Ref Thing, c]]', "a:thing:c"),
        ('!Join ["", [a]]', "a"),
        ("!Select [1, !GetAtt Thing.Names]", "two"),
        ("!Select [1, !Split [',', 'a,b,c']]", "b"),
        ("!Split ['/', !GetAtt Thing.Arn]", ["thing", "Arn"]),
        ("!Base64 hello", base64.b64encode(b"hello").decode()),
        ("[a, !Ref AWS::NoValue, b]", ["a", "b"]),
        ("{ A: !Ref AWS::NoValue, B: x }", {"B": "x"}),
        ("!Ref AWS::NoValue", None),
        ("null", None),
    ],
)
def test_a_value(expression: str, expected: Any) -> None:
    assert value(expression) == expected


def test_a_map_with_keys_from_functions() -> None:
    mappings = "Mappings: { M: { eu-west-1: { Token: t, List: [a, b] } } }"
    assert value("!FindInMap [M, !Ref AWS::Region, Token]", mappings) == "t"
    assert value("!FindInMap [M, !Ref AWS::Region, List]", mappings) == ["a", "b"]
    assert value("!FindInMap [M, other, Token, { DefaultValue: d }]", mappings) == "d"
    assert "M has no us-east-1, it has: eu-west-1" in problem("!FindInMap [M, us-east-1, Token]", mappings)


def test_an_included_mapping() -> None:
    asked: list[str] = []

    def include(location: str) -> Map:
        asked.append(location)
        return parse(
            "customer-config.json", '{"eu-west-1": {"ServiceToken": "st"}, "Account": {"ApiKey": "k"}}'
        )

    mappings = """
Mappings:
  Config:
    Fn::Transform:
      Name: AWS::Include
      Parameters:
        Location: !Sub "s3://config-${AWS::Region}/${AWS::AccountId}/customer-config.json"
"""
    assert value("!FindInMap [Config, !Ref AWS::Region, ServiceToken]", mappings, include) == "st"
    assert value("!FindInMap [Config, Account, ApiKey]", mappings, include) == "k"
    assert asked[0] == "s3://config-eu-west-1/000000000000/customer-config.json"
    assert "is not here" in problem("!FindInMap [Config, Account, ApiKey]", mappings)


CONDITIONS = """
Parameters: { Stage: { Type: String, Default: dev }, Open: { Type: String, Default: "false" } }
Conditions:
  Prod: !Equals [!Ref Stage, prod]
  Open: !Equals [!Ref Open, true]
  Both: !And [!Condition Prod, Condition: Open]
  Either: !Or [!Condition Prod, !Condition Open]
  Neither: !Not [!Condition Either]
"""


@pytest.mark.parametrize(
    ("stage", "is_open", "both", "either", "neither"),
    [
        ("dev", "false", "no", "no", "yes"),
        ("prod", "false", "no", "yes", "no"),
        ("prod", "true", "yes", "yes", "no"),
    ],
)
def test_conditions(stage: str, is_open: str, both: str, either: str, neither: str) -> None:
    for name, expected in (("Both", both), ("Either", either), ("Neither", neither)):
        assert value(f"!If [{name}, 'yes', 'no']", CONDITIONS, Stage=stage, Open=is_open) == expected


def test_a_condition_that_depends_on_itself() -> None:
    circle = "Conditions: { A: !Not [!Condition B], B: !Not [!Condition A] }"
    assert "the condition A depends on itself" in problem("!If [A, x, y]", circle)


def test_parameters() -> None:
    declared = """
Parameters:
  Nets: { Type: CommaDelimitedList, Default: "10.0.0.0/8, ::1/128" }
  Count: { Type: Number, Default: 10, MinValue: 1, MaxValue: 100 }
  Stage: { Type: String, Default: dev, AllowedValues: [dev, prod] }
  Key: { Type: String, Default: abcd, AllowedPattern: "[a-z]+", MinLength: 4, NoEcho: true }
  Needed: { Type: String }
  Stored: { Type: "AWS::SSM::Parameter::Value<String>", Default: /a/b }
"""
    assert value("!Ref Nets", declared) == ["10.0.0.0/8", "::1/128"]
    assert value("!Ref Nets", declared, Nets="192.0.2.0/24") == ["192.0.2.0/24"]
    assert value("!Ref Count", declared, Count="12") == "12"
    assert value("!Ref Stored", declared, Stored="given") == "given"
    assert "at least 1 and at most 100" in problem("x", declared, Count="101")
    assert "it is not a number" in problem("x", declared, Count="many")
    assert 'Stage cannot be "test": the allowed values are dev, prod' in problem("x", declared, Stage="test")
    assert "SECRET" not in problem("x", declared, Key="SECRET")
    assert "--parameter Needed=VALUE" in problem("!Ref Needed", declared)
    assert "--parameter Stored=VALUE" in problem("!Ref Stored", declared)
    assert "no parameter Other, its parameters are: Nets, Count" in problem("x", declared, Other="1")


@pytest.mark.parametrize(
    ("expression", "sentence"),
    [
        ("!Ref Missing", "t.yaml:7:10: there is no Missing in this template"),
        ("!GetAtt Thing.Nothing", "Thing has no attribute Nothing, it has: Arn"),
        ("!GetAtt Thing", "Fn::GetAtt takes a resource and an attribute"),
        ("!ImportValue other", "Fn::ImportValue reads the exports of another stack"),
        ("!GetAZs ''", "Fn::GetAZs is not resolved locally"),
        ("!Select [5, [a, b]]", "the list has 2 items, not one at 5"),
        ("!Join [a]", "Fn::Join takes 2 values"),
        ("!Sub '${Thing.Names}'", "needs text and got a list"),
        ("'{{resolve:ssm:/a:1}}'", "is read from AWS (ssm)"),
        ("!If [Nope, a, b]", "there is no condition Nope"),
    ],
)
def test_what_cannot_be_had_is_named_with_its_line(expression: str, sentence: str) -> None:
    shown = problem(expression)
    assert sentence in shown
    assert shown.startswith("t.yaml:7:")


def test_a_reference_to_a_resource_whose_condition_is_false() -> None:
    text = """
Conditions: { Never: !Equals [a, b] }
Resources:
  Thing: { Type: A::B::C, Condition: Never }
  User: { Type: A::B::C, Properties: { P: !Ref Thing } }
"""
    made = resolver(text)
    with pytest.raises(TemplateError, match="Thing is not made, because its condition Never is false"):
        made.properties(template(text).resources["User"].properties)


def test_where_a_value_comes_from() -> None:
    assert origins(value("!Join ['-', [!Ref Thing, x]]")) == {"Thing"}
    assert origins(value("!Sub '${Thing.Arn}/*'")) == {"Thing"}
    assert origins(value("!Select [0, !Split ['/', !Ref Thing]]")) == {"Thing"}
    assert origins(value("{ A: [!Ref AWS::Region, b] }")) == frozenset()


def test_resources_come_after_what_they_need() -> None:
    made = template("""
Resources:
  Last: { Type: A::B::C, DependsOn: [Policy], Properties: { X: !Sub "${Middle.Arn}" } }
  Middle: { Type: A::B::C, Properties: { X: { Y: [!Ref First] } } }
  First: { Type: A::B::C }
  Policy: { Type: A::B::C, Properties: { X: !GetAtt First.Arn } }
""")
    order = [one.logical_id for one in made.order()]
    assert order.index("First") < order.index("Middle") < order.index("Last")
    assert order.index("Policy") < order.index("Last")


def test_resources_that_wait_for_each_other() -> None:
    made = template("Resources: { A: { Type: X::Y::Z, DependsOn: B }, B: { Type: X::Y::Z, DependsOn: A } }")
    with pytest.raises(TemplateError, match="these resources wait for each other: "):
        made.order()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[]", "this is not a template"),
        ("", "this is not a template"),
        ("Resource: {}", "t.yaml:1:11: CloudFormation has no section `Resource`"),
        ("Parameters: {}", "the template has no `Resources`"),
        ("Resources: []", "`Resources` must be a mapping"),
        ("Resources: { A: {} }", "the resource A has no `Type`"),
        ("Resources: { a-b: { Type: X } }", '"a-b" cannot be a logical id'),
        ("Resources: { A: { Type: X, DependsOn: B } }", "A depends on B, which is not in this template"),
        ("Resources: { A: { Type: X }, A: { Type: Y } }", "the key `A` stands here twice"),
        ("Resources: &a { A: *a }", "an alias leads back to itself"),
        ("Resources:\n\tA: x", "t.yaml:2:1: a tab is used for indentation"),
    ],
)
def test_what_is_no_template(
    text: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t.yaml").write_text(text)
    with pytest.raises(TemplateError) as caught:
        Template.load(Path("t.yaml"))
    assert sentence in str(caught.value)


def test_json_reads_as_yaml_does(tmp_path: Path) -> None:
    document = {
        "Resources": {"A": {"Type": "X", "Properties": {"Emoji": "\U0001f600", "Slash": "a/b", "N": 1}}}
    }
    file = tmp_path / "t.json"
    file.write_text(json.dumps(document, indent="\t").replace("a/b", "a\\/b"))
    properties = Template.load(file).resources["A"].properties
    assert dict(properties) == {"Emoji": "\U0001f600", "Slash": "a/b", "N": "1"}
