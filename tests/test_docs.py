"""README and docs are correct: commands parse, code runs, links resolve, pages open with what the reader can do after them."""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import io
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from workbench import __version__, runs
from workbench.__main__ import _parser
from workbench.certs import ROLES
from workbench.classifiers import CLASSIFIERS
from workbench.data import DATASETS
from workbench.training import PRESETS

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "data/README.md")]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
SHELLS = ("sh", "bash")
ELSEWHERE = "other-machine"  # ```sh other-machine: these commands need a machine that the tests do not have
EXTERNAL = ("cd", "conda", "curl", "git", "jupyter", "openssl", "pip", "pre-commit", "sudo", "ulimit")
OURS = ("make", "papermill", "python", "workbench", ".venv/bin/workbench")
TEST_OPTIONS = ("-k", "--payloads", "--regenerate", "--cycles", "--mutations")


class Command(NamedTuple):
    page: Path
    line: int
    words: list[str]
    in_text: bool

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line} {' '.join(self.words)}"


FENCE = re.compile(r"^ *```([^\n]*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)


def fences(page: Path, *languages: str) -> Iterator[tuple[int, str]]:
    text = page.read_text(encoding="utf-8")
    for match in FENCE.finditer(text):
        if match[1].strip() in languages:
            yield text.count("\n", 0, match.start()) + 2, match[2]


def commands() -> Iterator[Command]:
    for page in PAGES:
        for first, block in fences(page, *SHELLS):
            joined = block.replace("\\\n", " ")  # a backslash at its end continues a line
            for number, line in enumerate(joined.splitlines(), first):
                for part in re.split(r"&&|;", re.sub(r"(^|\s)#.*", "", line)):
                    if words := shlex.split(part, comments=True):
                        yield Command(page, number, words, in_text=False)
        text = FENCE.sub(lambda match: "\n" * match[0].count("\n"), page.read_text(encoding="utf-8"))
        for match in re.finditer(r"`([^`]+)`", text):
            with contextlib.suppress(ValueError):
                words = shlex.split(match[1].replace("\\|", "|"))
                if words and words[0] in OURS and len(words) > 1:
                    yield Command(page, text.count("\n", 0, match.start()) + 1, words, in_text=True)


COMMANDS = list(commands())


parser = functools.cache(_parser)


def parsed(words: list[str]) -> tuple[Any, str]:
    printed = io.StringIO()
    with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(io.StringIO()):
        try:
            return parser().parse_args(words), ""
        except SystemExit as stop:
            return None, printed.getvalue() if stop.code else ""


def names() -> dict[str, Any]:
    (choices,) = (action.choices for action in parser()._actions if isinstance(action.choices, dict))
    return dict(choices)


def check_workbench(command: Command) -> None:
    words = command.words[1:]
    if command.in_text and len(words) <= 2 and words[0] in names():
        choices = [value for action in names()[words[0]]._actions if action.choices for value in action.choices]
        if len(words) == 1 or words[1] in choices:
            return  # a command's name, as text names it
    options, error = parsed(words)
    assert not error, f"{command}\n{error}"
    for key, known in (("dataset", DATASETS), ("target", CLASSIFIERS), ("auxiliary", CLASSIFIERS), ("preset", PRESETS)):
        value = getattr(options, key, None)
        assert not value or value in known, f"{command}: no {key} {value!r}"
    assert set(getattr(options, "notebooks", None) or []) <= set(runs.NOTEBOOKS), command


def check_make(command: Command) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^([a-z-]+):", makefile, re.MULTILINE)
    variables = re.findall(r"^([A-Z_]+) +\?=", makefile, re.MULTILINE)
    target = command.words[1]
    assert target in targets, command
    for name, value in (word.split("=", 1) for word in command.words[2:]):
        assert name in variables, command
        if name == "ARGS" and target == "app":
            assert shlex.split(value)[0] in (*runs.NOTEBOOKS, "-p"), command
        elif name == "ARGS":
            for word in shlex.split(value):
                assert word in TEST_OPTIONS or (ROOT / word).exists() or not word.startswith(("-", "tests/")), command
        elif name == "DATASET":
            assert value in DATASETS, command


def check_papermill(command: Command) -> None:
    notebook = ROOT / command.words[1]
    assert notebook.is_file(), command
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    (source,) = ("".join(cell["source"]) for cell in cells if "parameters" in cell["metadata"].get("tags", []))
    declared = {
        node.target.id
        for node in ast.parse(source).body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    given = [command.words[i + 1] for i, word in enumerate(command.words) if word == "-p"]
    assert set(given) <= declared, command


def check_python(command: Command) -> None:
    script = ROOT / (command.words[2].replace(".", "/") + ".py") if command.words[1] == "-m" else ROOT / command.words[1]
    assert script.is_file(), command
    text = script.read_text(encoding="utf-8")
    assert all(word in (*text.split('"'), "--help") for word in command.words[2:] if word.startswith("--")), command


CHECKS = {"make": check_make, "papermill": check_papermill, "python": check_python, "workbench": check_workbench}


def check_other(command: Command) -> None:
    assert command.words[0] in EXTERNAL, f"unknown program; mark the block `sh {ELSEWHERE}` if it needs another machine"
    made = {file for file in command.words if file.startswith("data/certs/")}
    assert made <= CERTIFICATES, command


def mistake(command: Command) -> str:
    try:
        CHECKS.get(command.words[0].removeprefix(".venv/bin/"), check_other)(command)
    except AssertionError as error:
        return f"{command}: {error}"
    return ""


def test_the_commands_of_the_docs_parse() -> None:
    assert [wrong for command in COMMANDS if (wrong := mistake(command))] == []


CERTIFICATES = {"data/certs/ca.pem", "data/certs/authority/ca.key"}
CERTIFICATES |= {f"data/certs/{role}/{name}" for role in ROLES for name in ("ca.pem", f"{role}.pem", f"{role}.key")}


def test_the_certificates_that_docs_name_are_made(tmp_path: Path) -> None:
    options, _ = parsed(["certs", str(tmp_path)])
    assert options.run(options) == 0
    files = (path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert {f"data/certs/{path.as_posix()}" for path in files} == CERTIFICATES


def test_a_wrong_command_would_be_seen() -> None:
    texts = (
        "workbench evaluate --dataset digits --codek neural",
        "workbench launch --no-such-option",
        "workbench nothing",
        "workbench train generator --preset huge",
        "workbench evaluate --dataset cifar11",
        "workbench reproduce --notebooks bandwith",
        "make everything",
        "make reproduce DATASETS=cifar10",
        "make test ARGS=tests/test_nothing.py",
        "papermill notebooks/nothing.ipynb out.ipynb",
        "papermill notebooks/energy.ipynb out.ipynb -p datasett digits",
        "python tests/nothing.py",
        "python tests/speed_explore.py --nothing",
        "python -m tests.support.nothing",
    )
    commands = [Command(ROOT / "README.md", 1, shlex.split(text), in_text) for text in texts for in_text in (False, True)]
    assert [command for command in commands if not mistake(command)] == []


def test_commands_are_found_in_blocks_and_in_text() -> None:
    assert len(COMMANDS) > 60
    assert {command.in_text for command in COMMANDS} == {False, True}
    used = {command.words[1] for command in COMMANDS if command.words[0].endswith("workbench")}
    assert set(names()) <= used, "every command of `workbench` is in the docs"


def test_no_command_hides_in_an_unmarked_block() -> None:
    marked = [f"{shell} {ELSEWHERE}" for shell in SHELLS]
    for page in PAGES:
        for match in FENCE.finditer(page.read_text(encoding="utf-8")):
            language = match[1].strip()
            assert language in ("", *SHELLS, *marked, "python", "toml", "json", "yaml", "text"), (page, language)
            if language in ("", "text"):
                assert not re.search(r"^\s*\$? ?(workbench|make|papermill|python) ", match[2], re.MULTILINE), (page, match[2])


def test_what_an_example_imports_exists() -> None:
    blocks = [(page, *block) for page in PAGES for block in fences(page, "python")]
    for page, line, block in blocks:
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module:
                module = importlib.import_module(node.module)
                for alias in node.names:
                    assert hasattr(module, alias.name) or find_spec(f"{node.module}.{alias.name}"), (page, line, alias.name)


def test_the_readme_s_example_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORKBENCH_DATA", raising=False)
    ((_, block),) = fences(ROOT / "README.md", "python")
    scope: dict[str, Any] = {}
    exec(compile(block, "README.md", "exec"), scope)
    answer, images = scope["answer"], scope["images"]
    labels = scope["data"].load("samples").test.labels[: len(images)]
    assert (answer.labels == labels).float().mean() >= 0.75
    assert 0 < answer.s2_bytes < 50 < answer.s1_bytes
    assert answer.milliseconds


def slugs(page: Path) -> set[str]:
    found = set()
    for heading in re.findall(r"^#+ +(.*)", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE):
        found.add(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-"))
    return found


def links() -> list[tuple[Path, str]]:
    pattern = r'\]\(([^)\s]+)\)|<img src="([^"]+)"'
    return [
        (page, first or second)
        for page in PAGES
        for first, second in re.findall(pattern, FENCE.sub("", page.read_text(encoding="utf-8")))
        if not (first or second).startswith(("http://", "https://"))
    ]


def test_links_resolve() -> None:
    broken = []
    for page, link in links():
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in slugs(target)):
            broken.append(f"{page.relative_to(ROOT)}: {link}")
    assert not broken
    assert len(links()) > 60


def test_every_page_and_picture_is_linked() -> None:
    linked = {(page.parent / link.partition("#")[0]).resolve() for page, link in links()}
    files = {path for path in (ROOT / "docs").rglob("*") if path.suffix in (".md", ".png")}
    assert files <= linked


def test_a_page_opens_with_what_its_reader_can_do() -> None:
    for page in PAGES:
        blocks = [block for block in page.read_text(encoding="utf-8").split("\n\n") if not block.startswith(("#", "<!--"))]
        assert blocks[0].startswith("After this page you") or not page.is_relative_to(ROOT / "docs"), (page, blocks[0])


def test_pages_and_tables_are_short_and_headings_frequent() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for line in FENCE.sub("", text).splitlines():
            assert not line.startswith("|") or len(re.findall(r"(?<!\\)\|", line)) <= 7, (page, line)
        for part in re.split(r"^#+ ", text, flags=re.MULTILINE):
            assert len(part.splitlines()) <= 60, (page, part[:200])


def test_one_version_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    meta = json.loads((ROOT / "codemeta.json").read_text(encoding="utf-8"))
    changes = re.findall(r"^## \[(\d[^\]]*)\] - (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert {__version__, str(citation["version"]), meta["version"], changes[0][0]} == {project["version"]}
    assert {str(citation["date-released"]), meta["datePublished"], changes[0][1]} == {changes[0][1]}
    assert (meta["identifier"], meta["description"]) == (project["name"], project["description"])
    assert meta["programmingLanguage"]["version"] == project["requires-python"]
    assert citation["license"] == project["license"]
    assert meta["license"] == f"https://spdx.org/licenses/{project['license']}"


def test_the_changelog_keeps_its_format() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## .*", text, re.MULTILINE)[0] == "## [Unreleased]"
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security", "Corrected figures"}
    assert set(re.findall(r"^### (.*)", text, re.MULTILINE)) <= kinds
    assert max(map(len, text.splitlines())) <= 160, "short entries, in the reader's terms"


def test_a_corrected_figure_has_its_old_and_new_value() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    section = text.split("### Corrected figures", 1)[1].split("###", 1)[0]
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if "|" in line]
    assert head == ["figure", "old", "new", "why"]
    assert len(rows) > 15
    for figure, old, new, why in rows:
        assert all((figure, old, new, why))
        assert old != new, figure


def test_the_citation_names_both_papers_as_the_readme_does() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation), "required by the format"
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    meta = json.loads((ROOT / "codemeta.json").read_text(encoding="utf-8"))
    dois = {reference["doi"] for reference in citation["references"]}
    assert len(dois) == 2
    assert {f"https://doi.org/{doi}" for doi in dois} == {paper["@id"] for paper in meta["referencePublication"]}
    for reference in citation["references"]:
        assert f"https://doi.org/{reference['doi']}" in readme
        assert reference["title"] in " ".join(readme.split())
        people = ", ".join(f"{person['given-names']} {person['family-names']}" for person in reference["authors"])
        assert people in " ".join(readme.split())


def test_pre_commit_runs_what_make_check_runs() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    recipe = re.search(r"^check:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert recipe is not None
    lines = [line.strip().replace("$(BIN)", ".venv/bin") for line in recipe[1].splitlines()]
    entries = [hook["entry"] + (" notebooks/*.ipynb" if "files" in hook else "") for hook in hooks]
    assert entries == lines
    assert all(hook["language"] == "system" for hook in hooks)


def test_the_issue_form_is_one() -> None:
    (path,) = (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert {"name", "description", "body"} <= set(form)
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert {field["type"] for field in fields} <= {"input", "textarea", "dropdown", "checkboxes"}
    assert len({field["id"] for field in fields}) == len(fields)
    assert all(field["attributes"]["label"] for field in fields)
    assert all(field["attributes"]["options"] for field in fields if field["type"] == "dropdown")
