"""The tests' own layout: short names, helpers in tests/support, marks that pytest knows, two commands without a test in both."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
FILES = sorted(TESTS.rglob("*.py"))
LONGEST = 60
MAKEFILE = (TESTS.parent / "Makefile").read_text(encoding="utf-8")


def long_names(text: str) -> list[str]:
    return [name for name in re.findall(r"^\s*(?:async )?def (test_\w+)", text, re.MULTILINE) if len(name) > LONGEST]


def borrowed(text: str) -> list[str]:
    imports = re.findall(r"^\s*(?:from ([\w.]+) )?import (\([^)]*\)|.*)", text, re.MULTILINE)
    modules = {f"{base}.{name}".lstrip(".") for base, names in imports for name in re.findall(r"[\w.]+", names)}
    return sorted(module for module in modules if re.search(r"(^|\.)(test_|conftest(\.|$))", module))


def test_names_are_short_and_helpers_come_from_support() -> None:
    texts = {path.relative_to(TESTS).as_posix(): path.read_text(encoding="utf-8") for path in FILES}
    wrong = {path: [*long_names(text), *borrowed(text)] for path, text in texts.items()}
    assert not {path: names for path, names in wrong.items() if names}, f"at most {LONGEST} characters; use tests/support"


def test_a_long_name_and_an_import_from_a_test_are_seen() -> None:
    assert long_names(f"def test_{'x' * 55}(): pass") == []
    assert long_names(f"class A:\n    async def test_{'x' * 56}(): pass") == [f"test_{'x' * 56}"]
    assert borrowed("from tests.support.sshd import until\nimport pytest") == []
    assert borrowed("from .test_a import x\nfrom tests.services.conftest import y\nfrom . import test_b\nimport test_c") == [
        "test_a.x",
        "test_b",
        "test_c",
        "tests.services.conftest.y",
    ]


def test_every_test_runs_in_one_of_the_two_commands() -> None:
    selections = re.findall(r'-m "?([a-z ]+)"? \$\(ARGS\)', MAKEFILE)
    assert len(selections) == 3
    for system in (False, True):
        for timing in (False, True):
            chosen = [eval(each, {}, {"system": system, "timing": timing}) for each in selections]
            assert chosen.count(True) == 1, (system, timing)


def test_a_mark_that_leaves_a_test_out_is_declared_and_used(pytestconfig: pytest.Config) -> None:
    for name in ("system", "timing"):
        assert any(line.startswith(f"{name}:") for line in pytestconfig.getini("markers")), name
        assert any(f"pytest.mark.{name}" in path.read_text(encoding="utf-8") for path in FILES if path != Path(__file__)), name
