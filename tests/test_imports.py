"""A file imports only from floors below its own, and there is no circle, inside folders and under TYPE_CHECKING as well."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.support import floors
from tests.support.floors import FLOOR, FOLDERS, GRAPH, MODULES, PACKAGE, inside, levels


def top(module: str) -> str:
    return module.split(".")[1]


def test_every_file_has_a_floor() -> None:
    tops = {top(module) for module in MODULES} - {"__init__"}
    assert tops == set(FLOOR)


def test_the_drawing_in_the_docs_is_up_to_date() -> None:
    text = floors.DRAWING.read_text(encoding="utf-8")
    drawn = text.partition(floors.BEGIN)[2].partition(floors.END)[0]
    assert drawn == floors.drawing(), "run `python -m tests.support.floors`"


def test_no_import_from_a_floor_above() -> None:
    above = {
        module: over
        for module in set(MODULES) - {"workbench.__init__"}
        if (over := {target for target in GRAPH[module] if FLOOR.get(top(target), 0) > FLOOR[top(module)]})
    }
    assert not above


def test_no_circle_inside_a_folder() -> None:
    for folder in FOLDERS:
        levels(inside(folder))  # raises an error that names the circle


def test_a_circle_is_named() -> None:
    graph = {"low": set[str](), "a": {"b", "low"}, "b": {"c"}, "c": {"a"}}
    with pytest.raises(ValueError, match="circle of imports: a -> b -> c -> a"):
        levels(graph)
    assert levels({"a": {"b"}, "b": set(), "c": {"a", "b"}}) == [["b"], ["a"], ["c"]]


FORMS = {
    "from . import b": {"workbench.pack.b"},
    "from .b import name": {"workbench.pack.b"},
    "from .. import errors": {"workbench.errors"},
    "from ..errors import DataError": {"workbench.errors"},
    "import workbench.errors": {"workbench.errors"},
    "from workbench.errors import DataError": {"workbench.errors"},
    "def f():\n    from . import b": {"workbench.pack.b"},
    "if TYPE_CHECKING:\n    from .b import B": {"workbench.pack.b"},
    "from ..audit import Audit": {"workbench.audit.__init__"},
    "import numpy": set[str](),
}


def test_every_form_of_import_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floors, "ROOT", tmp_path)
    monkeypatch.setitem(floors.MODULES, "workbench.pack.b", tmp_path)
    path = tmp_path / "workbench" / "pack" / "a.py"
    path.parent.mkdir(parents=True)
    for source, modules in FORMS.items():
        path.write_text(source, encoding="utf-8")
        assert floors.imports(path) == modules, source


def test_files_and_folders_become_one_graph() -> None:
    graph = {
        "p.__init__": {"p.a"},
        "p.a": {"p.sub.x", "q.z"},
        "p.sub.__init__": set[str](),
        "p.sub.x": {"p.b"},
        "p.b": set[str](),
        "q.z": set[str](),
    }
    assert inside("p", graph) == {"__init__": {"a"}, "a": {"sub"}, "sub": {"b"}, "b": set()}


def test_no_file_name_occurs_twice() -> None:
    names = [path.name for path in MODULES.values() if path.name != "__init__.py"]
    assert sorted({name for name in names if names.count(name) > 1}) == []


def test_the_package_itself_imports_nothing() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
