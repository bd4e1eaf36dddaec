"""Train and measure every combination of a target and an auxiliary classifier.

The target is the cloud's classifier, which must recognise protected images. The auxiliary is a classifier that must not. First
all classifiers are trained. Then the generator of each pair (target, auxiliary) is trained, and the pair is measured. With the
neural codec, the compressor of each pair is trained, too.

::

    data/runs/grid/<data set>/  <target>-X-<auxiliary>.json     what `workbench evaluate` prints for the pair, once measured
                                grid.json                       all pairs, the training time, and its estimate for all 64 pairs
                                target.png, auxiliary.png       the two accuracies as heat maps (and as SVG)

Each job is a process. An Executor starts the jobs on this machine, or on Dask workers with a GPU each. The workers must use the
same files. Complete weights are reused, whatever their preset and seed. `grid.json` states the presets and seeds of the
networks. Results of the present weights on the present test images are reused, too.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from . import plots, weights
from .classifiers import CLASSIFIER_NAMES
from .data import Dataset
from .errors import RunError, WeightsError
from .metrics import Estimate
from .processes import Children, cores, run_jobs
from .storage import data_root, replacing, write_json
from .training import ENCODER, PRESETS

__all__ = ["Grid"]


@dataclass(frozen=True)
class Grid:
    """A grid of targets and auxiliaries to train and measure, with the settings of `workbench train` and `workbench evaluate`.

    `data` are the command-line options for the data set: `("--dataset", "cifar10", ...)`. `preset` and `seed` are options of
    `workbench train`. `limit` is the number of test images (None: all). `rate` is the neural codec's rate in [0, 1]. For None,
    the codec is PNG.
    """

    dataset: Dataset
    data: tuple[str, ...]
    targets: tuple[str, ...] = CLASSIFIER_NAMES
    auxiliaries: tuple[str, ...] = CLASSIFIER_NAMES
    preset: str = "quick"
    seed: int = 0
    limit: int | None = None
    rate: float | None = None

    @property
    def family(self) -> str:
        return self.dataset.family

    @property
    def folder(self) -> Path:
        return data_root() / "runs" / "grid" / self.family

    @cached_property
    def _measured_on(self) -> dict[str, Any]:
        return {"limit": self.limit, "images_sha256": self.dataset.test.head(self.limit).sha256()}

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """All pairs of the grid as (target, auxiliary)."""
        return [(target, auxiliary) for target in self.targets for auxiliary in self.auxiliaries]

    def run(self, executor: Executor | None = None) -> dict[str, Any]:
        """Train missing networks, measure all pairs, and return the content of `grid.json`.

        `executor` runs the jobs (None: this machine, one job for each core). A failed job does not stop the others. At the end,
        RunError names the failed jobs. Ctrl-C stops running jobs, and a later call resumes.
        """
        names = dict.fromkeys((*self.targets, *self.auxiliaries))
        common = ("--preset", self.preset, "--seed", str(self.seed), *self.data)
        first = {name: ("train", "classifier", "--target", name, *common) for name in names}
        if ENCODER in PRESETS[self.preset] and not all(self._trained(*pair) for pair in self.pairs):  # generators start from it
            first[ENCODER] = ("train", ENCODER, *common)
        jobs = {name: [job] for name, job in first.items() if not self._complete(name)}
        failed = self._batch("classifiers", jobs, executor)
        jobs = {}
        for target, auxiliary in self.pairs:
            name = weights.generator_name(target, auxiliary)
            trained = self._trained(target, auxiliary)
            needed = {target, auxiliary} if trained else {target, auxiliary, ENCODER}
            if failed.keys().isdisjoint(needed) and not self._measured(target, auxiliary):
                pair = ("--target", target, "--auxiliary", auxiliary)
                train = [] if trained else [("train", "generator", *pair, *common)]
                limit = () if self.limit is None else ("--limit", str(self.limit))
                codec: tuple[str, ...] = ("--codec", "png")
                if self.rate is not None:
                    codec = ("--codec", "neural", "--rate", f"{self.rate:g}")
                    train += [] if self._trained(target, auxiliary, True) else [("train", "compressor", *pair, *common)]
                jobs[name] = [*train, ("evaluate", *pair, *codec, "--json", *limit, *self.data)]
        failed |= self._batch("pairs", jobs, executor)
        result = self._collect()
        if failed:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
            raise RunError(f"{len(failed)} jobs failed, the same command tries only these again: {reasons}")
        return result

    def _batch(self, label: str, jobs: dict[str, list[tuple[str, ...]]], executor: Executor | None) -> dict[str, str]:
        environment = {"WORKBENCH_DATA": str(data_root())}
        if executor is None:
            environment["OMP_NUM_THREADS"] = str(cores() // max(1, min(len(jobs), cores())))
        failed: dict[str, str] = {}

        def done(name: str, outcome: tuple[str, str] | Exception) -> None:
            if isinstance(outcome, Exception):  # a lost worker: executors raise exceptions of any kind
                outcome = "", f"{type(outcome).__name__}: {outcome}"
            out, error = outcome
            if error:
                failed[name] = error
            elif out:
                write_json(self.folder / f"{name}.json", {**json.loads(out), **self._measured_on})
            bar.update()

        with tqdm(total=len(jobs), desc=label, unit="job", file=sys.stderr, disable=not jobs, dynamic_ncols=True) as bar:
            arguments = {name: (commands, environment) for name, commands in jobs.items()}
            # SIGINT, then 30 s for writing a checkpoint
            run_jobs(_run, arguments, executor, done, children=_children, number=signal.SIGINT, patience=30)
        return failed

    def _complete(self, name: str) -> weights.Manifest | None:
        manifest = weights.find(name, self.family)
        return manifest if manifest and manifest.complete else None

    def _trained(self, target: str, auxiliary: str, compressor: bool = False) -> weights.Pair | None:
        if not self._complete(weights.generator_name(target, auxiliary)):
            return None
        try:
            return weights.load_pair(self.family, target, auxiliary, compressor=compressor)
        except WeightsError:
            return None

    def _measured(self, target: str, auxiliary: str) -> dict[str, Any] | None:
        path = self.folder / f"{weights.generator_name(target, auxiliary)}.json"
        if not path.is_file() or not (pair := self._trained(target, auxiliary, self.rate is not None)):
            return None
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        same = result["weights"] == pair.sha256() and result.get("rate") == self.rate
        return result if same and {**result, **self._measured_on} == result else None

    def _collect(self) -> dict[str, Any]:
        found = {pair: kept for pair in self.pairs if (kept := self._measured(*pair)) is not None}
        names = dict.fromkeys((*self.targets, *self.auxiliaries))
        trained = {
            "classifier": list(names),
            "generator": [weights.generator_name(*pair) for pair in found],
            "compressor": [] if self.rate is None else [weights.compressor_name(*pair) for pair in found],
        }
        manifests = {kind: [each for name in some if (each := self._complete(name))] for kind, some in trained.items()}
        presets = sorted({each.training.get("preset", "imported") for some in manifests.values() for each in some})
        seeds = sorted({each.seed for some in manifests.values() for each in some}, key=str)  # None if imported
        encoder = self._complete(ENCODER) if any(ENCODER in PRESETS.get(preset, ()) for preset in presets) else None
        manifests["encoder"] = [encoder] if encoder else []
        seconds = {kind: [float(each.training.get("seconds", 0.0)) for each in some] for kind, some in manifests.items()}
        mean = {kind: sum(each) / len(each) if each else 0.0 for kind, each in seconds.items()}
        pairs = len(CLASSIFIER_NAMES) ** 2
        count = {"classifier": len(CLASSIFIER_NAMES), "encoder": 1, "generator": pairs, "compressor": pairs}
        whole = sum(count[kind] * mean[kind] for kind in count) / 3600
        cost = {"measured_seconds": {k: sum(v) for k, v in seconds.items()}, "all_64_pairs_hours": round(whole, 2)}
        result: dict[str, Any] = {"results": list(found.values()), "asked": len(self.pairs), "presets": presets, "seeds": seeds}
        result["cost"] = cost
        write_json(self.folder / "grid.json", result)
        how = ", ".join(f"{kind} {' and '.join(map(str, some))}" for kind, some in (("preset", presets), ("seed", seeds)))
        for key in ("protected", "auxiliary_protected"):
            if found:
                self._draw(key, found, how)
        return result

    def _draw(self, key: str, found: dict[tuple[str, str], dict[str, Any]], how: str) -> None:
        values = {pair: Estimate(**result[f"{key}_accuracy"]) for pair, result in found.items()}
        who = "target" if key == "protected" else "auxiliary"
        first = next(iter(found.values()))
        title = f"{who} on protected images (%), {first['dataset']}, n = {first['n']}, {how}"
        figure = plots.heatmap(values, list(self.targets), list(self.auxiliaries), title)
        for suffix in ("png", "svg"):
            with replacing(self.folder / f"{who}.{suffix}") as temporary:
                figure.savefig(temporary, format=suffix, dpi=160)


_children = Children()


def _run(commands: Sequence[Sequence[str]], environment: dict[str, str]) -> tuple[str, str]:
    out = ""
    for command in commands:
        with _children.start([sys.executable, "-m", "workbench", *command], env={**os.environ, **environment}) as process:
            out, errors = process.communicate()
        if process.returncode:
            lines = errors.replace("\r", "\n").strip().splitlines() or ["no message"]
            return "", f"workbench {command[0]} ended with {process.returncode} ({lines[-1]})"
        out = out if command[0] == "evaluate" else ""
    return out, ""
