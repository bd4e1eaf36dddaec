"""The check of the project's prose: the phrases that it finds, and the text that it reads."""

from __future__ import annotations

import json
from pathlib import Path

import words  # isort: skip


def test_a_banned_phrase_is_found() -> None:
    for text in (
        "The audit is run anew.",
        "The certificate is another now.",
        "It lets go of the socket.",
        "See to it that the port is free.",
        "It stands beside the table.",
        "Of those that remain, take one.",
        "The page is laid out by itself.",
        "Whoever sends it gets a label.",
        "Who asks gets an answer.",
        "The client is told the label.",
        "The edge is asked for evidence.",
        "A path that there is not gives 404.",
        "The attacker sends what he knows.",
        "The attacker keeps his pairs.",
        "A row — with dashes — is hard to read.",
        "First this; then that; and so on.",
        "Read again: the slider.",
        "The status is -1 where nothing is known.",
        "Delete what there is.",
        "Take note of the port.",
        "Poll it now and then.",
    ):
        assert [line for line, _ in words.findings(f"A first line.\n{text}")][:1] == [2], text


def test_plain_english_and_code_pass() -> None:
    for text in (
        "besides",
        "He et al. 2019 call a guess recognisable.",
        "Weights follow He initialisation.",
        "Open the channel; close it at the end.",
        "Run `python anew.py` twice.",
        "The client sends a request. The user asked for a figure.",
        "See tools for the rest.",
    ):
        assert list(words.findings(text)) == [], text


FORMS = {
    "def read_plan(path): 'Read the plan.'": "'Read the plan.' repeats the name: delete it",
    "class Token:\n def header(self): 'Return the headers.'": "'Return the headers.' repeats the name: delete it",
    "def size(): 'What it holds.'": "'What' opens a docstring: begin with a verb or a noun",
    "class Row: 'Whose it is.'": "'Whose' opens a docstring: begin with a verb or a noun",
    "def size(): 'The bytes of a payload.'": "'The' opens a function's docstring: begin with a verb",
    f"def size(): 'Return {'very ' * 35}much.'": "'Return very very very': a sentence of 37 words, the most are 35",
}


def test_a_docstring_of_a_bad_form_is_found() -> None:
    assert {source: [what for _, what in words.docstring_findings(source)] for source in FORMS} == {
        source: [what] for source, what in FORMS.items()
    }


def test_a_docstring_of_a_good_form_passes() -> None:
    for source in (
        "def read_plan(path): 'Read a plan from TOML.'",
        "class Token:\n @property\n def length(self): 'The number of characters.'",
        "class Row: 'A line of the table.'",
        "def test_size(): 'The header counts, too.'",
        f"def size(): 'Return it.\\n\\n::\\n\\n    {'word ' * 40}\\n'",
        "def size(): pass",
    ):
        assert list(words.docstring_findings(source)) == [], source


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def places(path: Path) -> list[int]:
    return sorted({first + number - 1 for first, text in words.prose_of(path) for number, _ in words.findings(text)})


def test_a_python_file_is_read_where_it_has_prose(tmp_path: Path) -> None:
    text = '"""A module.\n\nIt starts anew.\n"""\n\nbeside = 1  # stands beside it\nf"he is {beside} told"\nname = "anew"\n'
    assert places(write(tmp_path / "x.py", text)) == [3, 6, 7]
    assert places(write(tmp_path / "x.py", "# which is taken by\n# itself\nx = 1\n\n# by\nx = 2\n# itself\n")) == [1], (
        "a comment of two lines is one text"
    )


def test_a_notebook_is_read_where_it_has_prose(tmp_path: Path) -> None:
    cells = [
        {"cell_type": "markdown", "source": ["A title\n", "beside it"]},
        {"cell_type": "code", "source": ["x = 1  # told"]},
        {"cell_type": "code", "source": ["%matplotlib inline"]},
    ]
    path = write(tmp_path / "x.ipynb", json.dumps({"cells": cells}))
    assert len([found for _, text in words.prose_of(path) for found in words.findings(text)]) == 2


def test_markdown_is_read_outside_its_code(tmp_path: Path) -> None:
    assert places(write(tmp_path / "x.md", "# A\n\n```sh\nrun anew\n```\n\nrun `anew` anew\n")) == [7]
    assert places(write(tmp_path / "x.md", "| a | — | — |\n| b; c; d; | told |\n")) == [2]
    assert places(write(tmp_path / "x.md.j2", "{% set he = 1 %}\n{{ anew }} told\n")) == [2]
    assert places(write(tmp_path / "x.js", "const he = 1;\n// told\n")) == [2]


def test_a_finding_names_its_line(tmp_path: Path) -> None:
    assert list(words.findings_of(write(tmp_path / "x.md", "Fine.\n\nHe told it."))) == [
        (3, "'told': programs report, log, request"),
        (3, "'He': write 'the attacker', 'the user' or 'they'"),
    ]
