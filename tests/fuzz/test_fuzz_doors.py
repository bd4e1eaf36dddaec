"""Damaged input at each door of the services: a number of it made by seed (`--payloads`), and what once found something."""

from __future__ import annotations

import mmap
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import fuzz_services  # isort: skip
from doors import DOORS, Answer, Ask, Finding, House, Peak, house, judge, others  # isort: skip

HERE = Path(__file__).resolve().parent
CORPUS = sorted((HERE / "corpus").iterdir())
MOST_MIB = 500  # that a service holds at most, however many inputs there were: one picture at the limits, and no more
LINUX = sys.platform.startswith("linux")


@pytest.fixture(scope="module")
def services() -> Iterator[House]:
    with house() as made:
        yield made


@pytest.mark.timeout(36_000)  # as many as are asked for
@pytest.mark.parametrize("name", DOORS)
def test_hostile_input_is_answered_or_refused_in_one_line(name: str, services: House, request: pytest.FixtureRequest) -> None:
    door, source = DOORS[name](services), random.Random(1)
    for data in (b"", b"\0", *door.seeds()):
        door.knock(data)
    with Peak() as peak:
        for number in range(request.config.getoption("--payloads")):
            data = door.mutated(source)
            try:
                door.knock(data)
            except Finding as finding:
                pytest.fail(f"input {number} of {len(data)} bytes: {finding}")
    assert door.counts[200] > 5
    assert door.counts[400] > 50
    assert peak.grown < MOST_MIB


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_what_once_found_something_is_answered_or_refused(path: Path, services: House) -> None:
    DOORS[path.name.partition("-")[0]](services).knock(path.read_bytes())


def test_every_format_but_two_is_refused_by_its_format(services: House) -> None:
    for file in others().values():
        for ask in (Ask("edge", "/recognize", file, {"Content-Type": "image/jpeg"}), Ask("edge", "/recognize", file)):
            answer = services.ask(ask)
            assert answer.status == 400
            assert b"not a picture of a known format; give a whole JPEG or PNG" in answer.body


# --- whether what judges can fail ------------------------------------------------------------------------------------------

ASK = Ask("edge", "/recognize", b"")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Answer(500, {}, b'{"error": "internal error"}'), "status 500"),
        (Answer(504, {}, b'{"error": "too late"}'), "status 504"),
        (Answer(302, {}, b'{"error": "elsewhere"}'), "status 302"),
        (Answer(400, {}, b"no picture"), "no error in JSON"),
        (Answer(400, {}, b'{"detail": "no picture"}'), "no error in JSON"),
        (Answer(400, {}, b'{"error": "no picture", "trace": []}'), "is no line"),
        (Answer(400, {}, b'{"error": "no\\npicture"}'), "is no line"),
        (Answer(400, {}, b'{"error": ""}'), "is no line"),
        (Answer(400, {}, b'{"error": "no <_io.BytesIO object at 0x7f0123456789>"}'), "place in memory"),
        (Answer(200, {}, b'{"model": "m", "results": [{"scores": [0.5, 0.4]}]}'), "scores that are none"),
    ],
)
def test_an_answer_that_may_not_be_is_a_finding(answer: Answer, message: str) -> None:
    with pytest.raises(Finding, match=message):
        judge(ASK, answer)


def test_a_refusal_and_an_answer_are_none() -> None:
    judge(ASK, Answer(400, {}, b'{"error": "no picture"}'))
    judge(ASK, Answer(200, {}, b'{"model": "m", "results": [{"scores": [0.5, 0.5]}]}'))
    judge(Ask("edge", "/recognize", b"", {"X-Timeout": "0.001"}), Answer(504, {}, b'{"error": "too late"}'))


@pytest.mark.skipif(not LINUX, reason="memory is read from /proc")
def test_memory_that_comes_and_goes_is_seen() -> None:
    with Peak() as peak, mmap.mmap(-1, 80 << 20) as area:  # new pages: what the heap keeps for the next would not be seen
        for _ in range(80):
            area.write(os.urandom(1 << 20))
    assert 64 <= peak.grown < 200


def test_the_script_counts_what_it_tries(capsys: pytest.CaptureFixture[str]) -> None:
    assert fuzz_services.main(["--door", "protocol", "--runs", "60", "--engine", "mutations"]) == 0
    assert re.search(r"protocol: 60 of 60 inputs in \d+ s; 200: \d+, 400: \d+", capsys.readouterr().err)


def test_the_script_ends_with_1_and_saves_what_it_found(tmp_path: Path, services: House) -> None:
    options = ["--door", "protocol", "--engine", "mutations", "--out", str(tmp_path)]
    code = f"import sys; sys.path.insert(0, {str(HERE)!r}); import doors, fuzz_services; doors.MOST_S = 0.0; "
    code += f"sys.exit(fuzz_services.main({options!r}))"  # whatever it tries takes too long
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "FINDING Finding: edge/v2/models/tiny/infer: it took" in done.stderr
    (saved,) = tmp_path.iterdir()
    assert saved.read_bytes() in DOORS["protocol"](services).seeds()
