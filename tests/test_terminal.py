"""Foreign text is safe to print: no character moves the cursor, changes the order of characters, or hides."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from workbench.terminal import printable


def test_what_a_terminal_would_act_on_is_written_as_an_escape() -> None:
    for text, shown in (
        ("\x1b[2J\x1b[1;1Hready", r"\x1b[2J\x1b[1;1Hready"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x1b]8;;https://evil.example\x1b\\click\x1b]8;;\x1b\\", "\\x1b]8;;https://evil.example\\x1b\\click\\x1b]8;;\\x1b\\"),
        ("\x9b31mred", r"\x9b31mred"),
        ("one\r\ntwo\tthree\b\x7f\0", r"one\r\ntwo\tthree\x08\x7f\x00"),
        ("cat\u202egpj.exe", r"cat\u202egpj.exe"),
        ("zero\u200bwidth\ufeff\u2066", r"zero\u200bwidth\ufeff\u2066"),
        ("line\u2028paragraph\u2029next\x85", r"line\u2028paragraph\u2029next\x85"),
        ("name-\udcff", r"name-\udcff"),
        ("tag\U000e0041", r"tag\U000e0041"),
    ):
        assert printable(text) == shown
    assert printable("one\ntwo\r\x1b", keep="\n") == "one\ntwo\\r\\x1b"
    assert printable(ValueError("bad \x1b[1m")) == r"bad \x1b[1m"


def test_ordinary_text_of_any_script_stays_as_it_is() -> None:
    for text in ("", "cat.jpg", "Käse 日本語 العربية ñ", "Bildschirmfoto\u202f12.png", "a\u3000b", "10 µs – 3 €", "🐈"):
        assert printable(text) == text


@given(st.text(alphabet=st.characters()))
def test_no_text_yields_a_control_or_a_formatting_character(text: str) -> None:
    shown = printable(text)
    assert not {unicodedata.category(each) for each in shown} & {"Cc", "Cf", "Cs", "Zl", "Zp", "Co", "Cn"}
    shown.encode("utf-8")
    assert printable(shown) == shown
