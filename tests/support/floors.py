"""The order of the package's files: floors between folders, levels inside each. docs/architecture.md shows the drawing.

    python -m tests.support.floors     write the drawing into docs/architecture.md

Every import counts: at the top of a file, in a function, and under TYPE_CHECKING.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "workbench"
DRAWING = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- floors: begin -->\n```\n", "```\n<!-- floors: end -->"
FLOORS = (
    "errors terminal streams warning_filter storage processes _compat metrics rows legibility paper pictures samples folders cifar10 data",
    "classifiers rates unet models weights state_dicts checkpoints inference",
    "entropy bitstream codecs",
    "system",
    "training evaluation audit",
    "certs protocol attest services client",
    "ssh bench",
    "remote deployment",
    "plots notebook panels results model_card runs grid",
    "commands __main__",
)
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names.split()}

Graph = dict[str, set[str]]


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


MODULES = {module_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(path: Path) -> set[str]:
    folder, names = path.relative_to(ROOT).parts[:-1], set[str]()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = folder[: len(folder) - node.level + 1] if node.level else ()
            module = ".".join((*base, *([node.module] if node.module else [])))
            for alias in node.names:
                inner = f"{module}.{alias.name}"
                names.add(inner if inner in MODULES or f"{inner}.__init__" in MODULES else module)
    known = {name if name in MODULES else f"{name}.__init__" for name in names}
    return (known & set(MODULES)) - {module_of(path)}


GRAPH: Graph = {module: imports(path) for module, path in MODULES.items()}
FOLDERS = sorted(module.removesuffix(".__init__") for module in MODULES if module.endswith(".__init__"))


def inside(folder: str, graph: Graph = GRAPH) -> Graph:
    """Return the imports between files and folders directly inside a folder."""

    def child(module: str) -> str:
        return module.removeprefix(f"{folder}.").partition(".")[0]

    own: Graph = {child(module): set() for module in graph if module.startswith(f"{folder}.")}
    for module, targets in graph.items():
        if module.startswith(f"{folder}."):
            own[child(module)] |= {child(target) for target in targets if target.startswith(f"{folder}.")} - {child(module)}
    return own


def levels(graph: Graph) -> list[list[str]]:
    """Return the nodes level by level, each importing only from lower levels. Raises ValueError with the name of a circle."""
    left, found = dict(graph), list[list[str]]()
    while left:
        level = sorted(node for node, targets in left.items() if not targets & set(left))
        if not level:
            raise ValueError(f"circle of imports: {' -> '.join(circle(left))}")
        found.append(level)
        left = {node: targets for node, targets in left.items() if node not in level}
    return found


def circle(graph: Graph) -> list[str]:
    path = [min(graph)]
    while path[-1] not in path[:-1]:
        path.append(min(graph[path[-1]] & set(graph)))
    return path[path.index(path[-1]) :]


def drawing() -> str:
    def shown(folder: str, name: str) -> str:
        return f"{name}/" if f"{folder}.{name}.__init__" in MODULES else name

    lines = [f"{number}  {' '.join(shown('workbench', name) for name in names.split())}" for number, names in enumerate(FLOORS)]
    lines.append("")
    for folder in FOLDERS[1:]:
        steps = [[shown(folder, name) for name in level if name != "__init__"] for level in levels(inside(folder))]
        text = " | ".join(" ".join(step) for step in steps if step)
        lines.append(f"{folder.removeprefix('workbench.').replace('.', '/') + '/':24}{text}")
    return "\n".join(lines) + "\n"


def write() -> None:
    text = DRAWING.read_text(encoding="utf-8")
    front, begin, rest = text.partition(BEGIN)
    _, end, back = rest.partition(END)
    if not (begin and end):
        sys.exit(f"{DRAWING} has no marks for the drawing: {BEGIN!r} ... {END!r}")
    DRAWING.write_text(f"{front}{begin}{drawing()}{end}{back}", encoding="utf-8")


if __name__ == "__main__":
    write()
