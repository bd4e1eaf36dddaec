"""Fuzz a door of the services for any length of time, guided by coverage (atheris) or not.

    python tests/fuzz/fuzz_services.py --door image --runs 200000
    python tests/fuzz/fuzz_services.py --door payload --runs 50000 --engine mutations --seed 7
    python tests/fuzz/fuzz_services.py --door protocol --runs 1000000 --corpus build/protocol
    python tests/fuzz/fuzz_services.py --door image --input tests/fuzz/corpus/image-scans

The exit status is 1 if an input crashes a service, makes it respond with 5xx or more than one line of error, or takes too long.
That input is then saved in the folder `--out`. atheris: pip install -e '.[fuzz]'.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from doors import Door

INSTRUMENTED = ["workbench", "PIL", "python_multipart", "starlette"]
MOST = 1 << 14  # bytes of a generated input
REPORT_S = 2.0  # between two lines of progress


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    atheris: Any = None
    if options.engine == "atheris" and options.input is None:
        try:
            import atheris  # type: ignore[no-redef]
        except ImportError:
            print("atheris is not here: pip install -e '.[fuzz]', or give --engine mutations", file=sys.stderr)
            return 2
        with atheris.instrument_imports(include=INSTRUMENTED):
            import doors
    else:
        import doors
    with doors.house() as house:
        door = doors.DOORS[options.door](house)
        run = Run(door, options.runs, options.out)
        if options.input is not None:
            run.one(options.input.read_bytes())
        elif atheris is not None:
            _guided(atheris, door, run, options)
        else:
            source = random.Random(options.seed)
            for data in door.seeds():
                run.one(data)
            while run.count < options.runs:
                run.one(door.mutated(source))
    return 0


def _parser() -> argparse.ArgumentParser:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--door", required=True, choices=("image", "payload", "protocol"))
    parser.add_argument("--runs", type=int, default=200_000, metavar="N", help="inputs to try (200000)")
    parser.add_argument("--engine", default="atheris", choices=("atheris", "mutations"), help="default: atheris")
    parser.add_argument("--seed", type=int, default=1, help="of what is made by chance (1)")
    parser.add_argument(
        "--corpus", type=Path, metavar="DIR", help="where atheris keeps what reached new code (a folder that goes)"
    )
    parser.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="where a finding is saved (here)")
    parser.add_argument("--input", type=Path, metavar="FILE", help="try this one input again")
    return parser


class Run:
    def __init__(self, door: Door, runs: int, out: Path) -> None:
        self.door, self.runs, self.out = door, runs, out
        self.count, self._start, self._reported_at = 0, time.monotonic(), 0.0
        self._before = _peak()

    def one(self, data: bytes) -> None:
        self.count += 1
        try:
            self.door.knock(data)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            self._end(data, error)
        if time.monotonic() - self._reported_at > REPORT_S or self.count == self.runs:
            self._reported_at = time.monotonic()
            print(self, end="\n" if self.count == self.runs else "\r", file=sys.stderr, flush=True)

    def __str__(self) -> str:
        passed = time.monotonic() - self._start
        statuses = ", ".join(f"{status}: {count}" for status, count in sorted(self.door.counts.items()))
        return (
            f"{self.door.name}: {self.count:,} of {self.runs:,} inputs in {passed:.0f} s; {statuses}; "
            f"slowest {self.door.slowest:.2f} s; peak {self._before} -> {_peak()} MiB "
        )

    def _end(self, data: bytes, error: BaseException) -> None:
        path = self.out / f"{self.door.name}-{hashlib.sha1(data).hexdigest()[:16]}"
        self.out.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        print(f"\n{self}\nFINDING {type(error).__name__}: {error}\nthe input is in {path}", file=sys.stderr, flush=True)
        os._exit(1)  # atheris would save the input a second time


def _guided(atheris: Any, door: Door, run: Run, options: argparse.Namespace) -> None:
    corpus = options.corpus or Path(tempfile.mkdtemp(prefix="fuzz-"))
    corpus.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(door.seeds()):
        (corpus / f"seed-{number:03d}").write_bytes(data)
    options.out.mkdir(parents=True, exist_ok=True)

    def changed(data: bytes, most: int, seed: int) -> bytes:
        source = random.Random(seed)
        if source.random() < 0.3:
            return door.mutated(source)[:most]
        mutate: Callable[[bytes, int], bytes] = atheris.Mutate
        return mutate(data, most)

    given = [f"-runs={options.runs}", f"-seed={options.seed}", f"-max_len={MOST}", "-timeout=60"]
    given += ["-rss_limit_mb=16384"]  # atheris itself stores about 10 KB for each input
    given += ["-error_exitcode=1", "-timeout_exitcode=1", f"-artifact_prefix={options.out}/{door.name}-", "-verbosity=0"]
    atheris.Setup([sys.argv[0], *given, "-print_final_stats=0", str(corpus)], run.one, custom_mutator=changed)
    atheris.Fuzz()


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> (20 if sys.platform == "darwin" else 10)


if __name__ == "__main__":
    sys.exit(main())
