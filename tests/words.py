"""Check the project's prose: banned phrases, docstrings that only repeat a name, and long sentences.

`python tests/words.py` prints a line for each finding. It reads docstrings, comments and messages of Python files, the text of
notebooks, and Markdown outside code.
"""

from __future__ import annotations

import ast
import io
import json
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SUFFIXES = (".py", ".ipynb", ".md", ".j2", ".js", ".css", ".html", ".toml", ".yml", ".yaml", ".cff")
EXEMPT = ("tests/words.py", "tests/test_words.py")  # they quote the phrases

RULES = {  # in any case, over line ends
    r"\banew\b": "write 'again'",
    r"\banother now\b": "write what changed",
    r"\blet(s|ting)? go of\b": "write 'release' or 'close'",
    r"\b(see|sees|saw) to (it|the|that)\b": "name the action",
    r"\bbeside\b": "write 'next to' or 'in addition to'",
    r"\bthose that\b": "name the noun",
    r"\bby itself\b": "write 'alone' or 'automatically'",
    r"\bwho(ever|mever)\b": "name the client, the attacker, the user",
    r"\b(told|(is|are|was|were) (said|asked))\b": "programs report, log, request",
    r"\bthat there (is|are) not\b": "write 'unknown' or 'missing'",
    r"\bwhere (nothing|none|nobody|no|there (is|are)|it (is|has|does|can|may)|that is)\b": "write 'if'",
    r"\bwhat (there is|is there)\b": "name the noun",
    r"\btake note\b": "name the action",
    r"\b(now and then|time and again|in the midst of)\b": "write 'at intervals', 'repeatedly' or 'during'",
    r"—[^—\n]*—": "use a full stop, not dashes",
    r"^Read again\b": "state what changed",
    r";\s[^.;:!?|{}]*;\s": "one semicolon a sentence",
}
CASED = {  # as written: He is a name, too
    r"\b(he|his|him|himself|His|He(?! et al)(?! init))\b": "write 'the attacker', 'the user' or 'they'",
    r"\bWho (asks|sends|learns|replays|reads|knows|waits|has)\b": "name the client, the attacker, the user",
}
PATTERNS = [
    (re.compile(pattern.replace(" ", r"\s+"), re.MULTILINE | flag), way_out)
    for rules, flag in ((RULES, re.IGNORECASE), (CASED, re.RegexFlag(0)))
    for pattern, way_out in rules.items()
]
LONGEST = 35  # words of a docstring's sentence; the rule is about 25
OPENINGS = {"what", "who", "whose", "whoever", "where", "give", "gives"}  # of a docstring
NOUNS = {"a", "an", "the", "its", "one", "two", "whether", "how", "if", "as"}  # a function's docstring opens with a verb
FILLERS = "a all an and are as at by each every for from in into is it its of on one or return returns that the to with"
CODE = re.compile(r"`[^`\n]+`|<[^>\n]+>|https?://\S+")


def findings(text: str) -> Iterator[tuple[int, str]]:
    prose = CODE.sub(lambda match: "x" * len(match[0]), text)
    for pattern, way_out in PATTERNS:
        for match in pattern.finditer(prose):
            phrase = " ".join(match[0].split())
            yield text.count("\n", 0, match.start()) + 1, f"{phrase!r}: {way_out}"


def docstring_findings(text: str) -> Iterator[tuple[int, str]]:
    try:
        tree = ast.parse(text)
    except SyntaxError:  # a notebook's magic
        return
    for node, names in _scopes(tree, ()):
        docstring = ast.get_docstring(node)
        if docstring:
            line = node.body[0].lineno
            yield from ((line, what) for what in _form(node, names, docstring))


Scope = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def _scopes(node: ast.AST, names: tuple[str, ...]) -> Iterator[tuple[Scope, tuple[str, ...]]]:
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        names = (*names, node.name)
    if isinstance(node, Scope):
        yield node, names
    for child in ast.iter_child_nodes(node):
        yield from _scopes(child, names)


def _form(node: Scope, names: tuple[str, ...], docstring: str) -> Iterator[str]:
    opening = re.findall(r"[a-z]+", docstring.lower())[:1]
    if opening and opening[0] in OPENINGS:
        yield f"{docstring.split()[0]!r} opens a docstring: begin with a verb or a noun"
    if opening and opening[0] in NOUNS and _is_plain_function(node):
        yield f"{docstring.split()[0]!r} opens a function's docstring: begin with a verb"
    if names and len(docstring.split()) <= 5 and _stems(docstring) <= _known(node, names):
        yield f"{docstring!r} repeats the name: delete it"
    for sentence in re.split(r"(?<=[.:;])\s|\n\n", re.sub(r"^( +|.*  |==).*$", "", docstring, flags=re.MULTILINE)):
        if (count := len(sentence.split())) > LONGEST:
            yield f"{' '.join(sentence.split()[:4])!r}: a sentence of {count} words, the most are {LONGEST}"


def _is_plain_function(node: Scope) -> bool:
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("test_"):
        return False
    decorators = " ".join(ast.unparse(each) for each in node.decorator_list)
    return not re.search(r"property|fixture|contextmanager", decorators)


def _stems(text: str) -> set[str]:
    words = re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text).lower())
    return {re.sub(r"(?<=...)(ies|ing|ied|es|ed|s|e)$", "", word) for word in words if word not in FILLERS.split()}


def _known(node: Scope, names: tuple[str, ...]) -> set[str]:
    parameters = [] if isinstance(node, ast.Module | ast.ClassDef) else [each.arg for each in node.args.args]
    return _stems(" ".join([*names, *parameters]).replace("_", " "))


def prose_of(path: Path) -> Iterator[tuple[int, str]]:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        yield from _python(text)
    elif path.suffix == ".ipynb":
        for cell in json.loads(text)["cells"]:
            source = "".join(cell["source"])
            yield from _python(source) if cell["cell_type"] == "code" else [(1, source)]
    elif path.suffix == ".md" or path.name.endswith(".md.j2"):
        text = re.sub(r"^```.*?^```|\{[{%].*?[%}]\}", _blank, text, flags=re.MULTILINE | re.DOTALL)
        yield 1, re.sub(r"^\|.*$", lambda row: row[0].translate({ord("—"): "-", ord(";"): ","}), text, flags=re.MULTILINE)
    else:
        yield 1, "\n".join(_comment(line) for line in text.splitlines())


def findings_of(path: Path) -> Iterator[tuple[int, str]]:
    for first, text in prose_of(path):
        yield from ((first + number - 1, what) for number, what in findings(text))
    if path.suffix == ".py":
        yield from docstring_findings(path.read_text(encoding="utf-8"))


def _blank(match: re.Match[str]) -> str:
    return "\n" * match[0].count("\n")


def _comment(line: str) -> str:
    match = re.search(r"(?:^|\s)(?:#|//|/\*|<!--)\s+(.*)|^\s*\*\s+(.*)", line)
    return (match[1] or match[2]) if match else ""


def _python(text: str) -> Iterator[tuple[int, str]]:
    try:
        tree = ast.parse(text)
    except SyntaxError:  # a notebook's magic
        return
    scopes = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        id(n.body[0].value) for n in ast.walk(tree) if isinstance(n, scopes) and n.body and isinstance(n.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            value = node.value if id(node) in docstrings else node.value.replace(";", ",")  # commands and headers have many
            yield node.lineno, value
    block: list[tuple[int, str]] = []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            if block and token.start[0] != block[-1][0] + 1:
                yield block[0][0], "\n".join(line for _, line in block)
                block = []
            block.append((token.start[0], token.string.lstrip("#: ")))
    if block:
        yield block[0][0], "\n".join(line for _, line in block)


def files(root: Path) -> list[str]:
    command = ["git", "-C", str(root), "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return sorted(
        name
        for name in listed
        if name.endswith(SUFFIXES) and name not in EXEMPT and not name.startswith("data/") and (root / name).is_file()
    )


def main() -> int:
    lines = [f"{name}:{line}: {what}" for name in files(ROOT) for line, what in sorted(set(findings_of(ROOT / name)))]
    print("\n".join(lines), end="\n" if lines else "", file=sys.stderr)
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
