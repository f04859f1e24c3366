"""What the reference's construct library says of Listeners and Destinations (contract sections 1.1 and 1.2)."""

import pytest
from pydantic import ValidationError

from sluicegate.model import Batching, findings


@pytest.mark.parametrize("spelling", ["SizeInMb", "SizeInMB", "size_in_mb"])
def test_the_size_of_a_batch_has_two_spellings(spelling: str) -> None:
    assert Batching.model_validate({spelling: "2.5"}).size_in_mb == 2.5


def test_both_spellings_of_the_size_at_once_are_refused() -> None:
    with pytest.raises(ValidationError) as caught:
        Batching.model_validate({"SizeInMb": 1, "SizeInMB": 1})
    (found,) = findings(caught.value, Batching)
    assert (found.path, found.fix) == (("SizeInMB",), "keep one of the two")
