"""What the Destinations of a template deliver to on this machine, in place of the ARNs that the template names."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

from sluicegate.cfn.aws import NOT_CALLED, AwsParts, is_aws_target
from sluicegate.cfn.functions import Lambdas
from sluicegate.cfn.local_function import LocalFunction
from sluicegate.cfn.placeholders import ACCOUNT_ID
from sluicegate.cfn.resolve import origins
from sluicegate.cfn.template import Declared


class Bindings:
    """Of one template, for a gateway in `region`, which makes its `topics` (logical ids). `note` is told of what has
    no target here."""

    def __init__(
        self,
        lambdas: Lambdas,
        aws: AwsParts,
        region: str,
        topics: Collection[str],
        *,
        note: Callable[[Declared, str], None],
    ) -> None:
        self._lambdas = lambdas
        self._aws = aws
        self._region = region
        self._topics = topics
        self._note = note

    def bind(self, declared: Declared, destination: dict[str, Any]) -> None:
        """Replace `DestinationArn` by a target on this machine. Without one it is left out, and packets are counted."""
        arn = destination.get("DestinationArn")
        name, arguments = str(destination["Name"]), destination.get("Arguments")
        if isinstance(arn, str):
            target = self.target(declared, arn, name, arguments)
            destination["DestinationArn"] = target
        elif isinstance(arn, Mapping):
            # Anything but text the gateway refuses, and says why.
            found = {
                region: self.target(declared, one, name, arguments) if isinstance(one, str) else one
                for region, one in arn.items()
            }
            bound = {region: target for region, target in found.items() if target is not None}
            destination["DestinationArn"] = bound or None
        if destination.get("DestinationArn", "") is None:
            del destination["DestinationArn"]
        function = self.function_of(arn)
        if function is not None:
            self.give(declared, destination, name, function)
        elif not self._aws.use_aws and is_aws_target("", arguments):
            del destination["Arguments"]  # a DestinationArn could bind a package's target to them

    def bind_resource(self, declared: Declared, made: dict[str, Any]) -> bool:
        """Replace `Arn` of a DestinationArn by a target on this machine, with the arguments of a function. False, with
        a note, where there is none."""
        arn, name = made.get("Arn"), str(made.get("Destination", ""))
        if not isinstance(arn, str):
            return True  # the gateway refuses it and says why
        target = self.target(declared, arn, name, made.get("Arguments"))
        function = self.function_of(arn)
        if target is not None:
            made["Arn"] = target
        if function is not None:
            self.give(declared, made, name, function)
        return target is not None

    def target(self, declared: Declared, arn: str, name: str, arguments: Any = None) -> str | None:
        """The target in place of `arn` on this machine; None, with a note, when there is none. `name` is the
        Destination's, and `arguments` are those beside the ARN."""
        logical_id = self._lambdas.named(arn)
        if logical_id is not None:
            function = self._lambdas.used(logical_id)
            if isinstance(function, LocalFunction):
                return function.target
            if self._emulated(declared, arn, name, arguments, f"{logical_id}: {function}"):
                return arn
            self._note(declared, f"packets for {name} are dropped and counted: {logical_id}: {function}")
            return None
        made_by = sorted(origins(arn))
        if made_by or f":{ACCOUNT_ID}:" in arn:
            what = f"{', '.join(made_by)} is not made here" if made_by else f"{arn} is nobody's"
            if made_by and all(one in self._topics for one in made_by):
                what = (
                    f"{made_by[0]} is the gateway's own topic, which takes no packets of Destinations; a function "
                    "may publish to it"
                )
            if self._emulated(declared, arn, name, arguments, what):
                return arn
            self._note(declared, f"packets for {name} are dropped and counted: {what}")
            return None
        if not self._aws.use_aws and is_aws_target(arn, arguments):
            if self._emulated(declared, arn, name, arguments, NOT_CALLED):
                return arn
            self._note(
                declared, f"packets for {name} are dropped and counted: {arn} is at AWS, and {NOT_CALLED}"
            )
            return None
        return arn

    def _emulated(self, declared: Declared, arn: str, name: str, arguments: Any, why: str) -> bool:
        """True, with a note, if an emulator gets the packets for this ARN."""
        emulator = self._aws.emulator
        if emulator is None or not emulator.has(arn, arguments):
            return False
        self._note(declared, f"packets for {name} go to {arn} at the emulator {emulator.url}: {why}")
        return True

    def function_of(self, arn: Any) -> LocalFunction | None:
        """The local function for an ARN. Of a map of regions: for this region, for `*`, or for the first one."""
        if isinstance(arn, Mapping):
            found = arn.get(self._region) or arn.get("*") or next(iter(arn.values()), None)
            return self.function_of(found)
        logical_id = self._lambdas.named(arn) if isinstance(arn, str) else None
        function = self._lambdas.used(logical_id) if logical_id is not None else None
        return function if isinstance(function, LocalFunction) else None

    def give(self, declared: Declared, made: dict[str, Any], name: str, function: LocalFunction) -> None:
        """Replace `Arguments`, which say how Lambda invokes a function, by those of the local function."""
        given = made.get("Arguments")
        dropped = (
            [key for key in given if key not in function.arguments] if isinstance(given, Mapping) else []
        )
        if dropped:
            text = f"{name}: {', '.join(dropped)} of its Arguments has no effect on a local function"
            self._note(declared, text)
        made["Arguments"] = function.arguments
