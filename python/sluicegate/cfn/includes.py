"""What `AWS::Include` gives: local files in place of the objects in S3 that a template names."""

import json
from collections.abc import Mapping
from pathlib import Path

from sluicegate.cfn.placeholders import Placeholder
from sluicegate.cfn.reader import Map, parse, read

_CONFIGURATION = "customer-config.json"


class Includes:
    """The files of one template. `directory` is its folder; `named` has files for the names that the user gave."""

    def __init__(self, directory: Path, named: Mapping[str, Path], region: str) -> None:
        self._directory = directory
        self._named = named
        self._region = region

    def content(self, location: str) -> Map:
        """What is behind the `Location` of an include. Raises `LookupError` with cause and fix, or `YamlError`.

        The configuration of an account is made up where there is none: nothing here uses it.
        """
        name = location.rpartition("/")[2]
        path = self._named.get(name, self._directory / (name if "://" in location else location))
        if path.exists() or name in self._named:
            return read(path)
        if name != _CONFIGURATION:
            raise LookupError(f"{location} is not on this machine", f"put a copy of it at {path}")
        return self._made_up_configuration()

    def _made_up_configuration(self) -> Map:
        region = self._region
        token = Placeholder("AWS::Lambda::Function", "sluicegate-provider", region).arn
        role = Placeholder("AWS::IAM::Role", "sluicegate", region).arn
        text = {region: {"ServiceToken": token, "ServiceRole": role}, "Account": {"ApiKey": "none"}}
        return parse(_CONFIGURATION, json.dumps(text))
