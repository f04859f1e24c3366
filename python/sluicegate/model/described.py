"""What the docstrings below a class's fields say, for its JSON schema.

They are read when somebody asks. pydantic's `use_attribute_docstrings` reads the sources of all classes at each start
of the program, which was a third of a start's processor time.
"""

import ast
import inspect
import textwrap
from collections.abc import Mapping
from functools import cache
from itertools import pairwise
from types import MappingProxyType


@cache
def descriptions(cls: type) -> Mapping[str, str]:
    """The docstring of each field of `cls` and its bases that has one, by the field's name; none without sources.

    >>> from sluicegate.model import Listener
    >>> descriptions(Listener)["name"]
    'Unique in the gateway; generated when absent.'
    """
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if base.__module__.startswith("pydantic") or not vars(base).get("__annotations__"):
            continue
        try:
            source = inspect.getsource(base)
        except OSError:
            continue
        (parsed,) = ast.parse(textwrap.dedent(source)).body
        for field, text in pairwise([*getattr(parsed, "body", ()), ast.Pass()]):
            match field, text:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(said))):
                    found[name] = inspect.cleandoc(said)
                case ast.AnnAssign(target=ast.Name(id=name)), _:
                    found.pop(name, None)
    return MappingProxyType(found)
