"""The error tree."""

from __future__ import annotations

from workbench import errors
from workbench.errors import UsageError, WorkbenchError, unknown

KINDS = [name for name in errors.__all__ if name.endswith("Error")]


def test_the_tree_has_one_root_and_ten_branches() -> None:
    branches = {kind.__name__ for kind in WorkbenchError.__subclasses__()}
    assert branches == set(KINDS) - {"WorkbenchError"}
    assert len(branches) == 10
    assert [name for name in KINDS if issubclass(getattr(errors, name), ValueError)] == ["UsageError"]
    assert {str(getattr(errors, name)("disk full: free space")) for name in KINDS} == {"disk full: free space"}


def test_unknown_names_the_value_and_suggests_the_nearest() -> None:
    error = unknown("codec", "jpg", ("webp", "png", "jpeg"))
    assert isinstance(error, UsageError)
    assert str(error) == "unknown codec 'jpg': did you mean 'jpeg'? choose one of jpeg, png, webp"


def test_unknown_suggests_nothing_if_nothing_is_similar() -> None:
    assert str(unknown("codec", "zzz", ("png", "jpeg"))) == "unknown codec 'zzz': choose one of jpeg, png"
    assert str(unknown("codec", 7, iter(["png"]))) == "unknown codec 7: choose one of png"
