"""The error tree."""

from __future__ import annotations

import pytest

from workbench import errors
from workbench.errors import UsageError, WorkbenchError, unknown

KINDS = [name for name in errors.__all__ if name.endswith("Error")]


def test_the_tree_has_one_root_and_ten_branches() -> None:
    branches = {kind.__name__ for kind in WorkbenchError.__subclasses__()}
    assert branches == set(KINDS) - {"WorkbenchError"}
    assert len(branches) == 10


@pytest.mark.parametrize("name", KINDS)
def test_every_error_carries_its_message_as_it_is(name: str) -> None:
    kind = getattr(errors, name)
    with pytest.raises(WorkbenchError) as caught:
        raise kind("disk full: free space")
    assert str(caught.value) == "disk full: free space"


def test_a_usage_error_is_a_value_error_and_the_others_are_not() -> None:
    assert [name for name in KINDS if issubclass(getattr(errors, name), ValueError)] == ["UsageError"]


def test_unknown_names_the_value_and_suggests_the_nearest() -> None:
    error = unknown("codec", "jpg", ("webp", "png", "jpeg"))
    assert isinstance(error, UsageError)
    assert str(error) == "unknown codec 'jpg': did you mean 'jpeg'? choose one of jpeg, png, webp"


def test_unknown_suggests_nothing_where_nothing_is_near() -> None:
    assert str(unknown("codec", "zzz", ("png", "jpeg"))) == "unknown codec 'zzz': choose one of jpeg, png"


def test_unknown_takes_a_value_that_is_no_string() -> None:
    assert str(unknown("codec", 7, iter(["png"]))) == "unknown codec 7: choose one of png"
