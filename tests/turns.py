"""The cost of this tree's services next to another tree's, in turns: `python tests/turns.py OTHER_TREE --data-dir DIR`.

The services of both trees run all the time, and each turn loads one after the other. A ratio is taken within a turn. The first
tree of a turn alternates. `OTHER_TREE` is a checkout, such as one made by `git worktree add ../before COMMIT`.

A request of one image comes in two kinds: on connections that are kept, and on connections that are opened in the turn itself.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent.parent
LOADS = {"1": (1, 192), "1, new connections": (1, 192), "8": (8, 24), "64": (64, 4), "256": (256, 2)}  # images, clients
IMAGES = 512


def worker(data_dir: Path) -> None:
    import torch

    from workbench import pictures
    from workbench.bench.load import closed_loop
    from workbench.bench.services import ServiceFixture
    from workbench.client import HttpsClient
    from workbench.codecs import Jpeg
    from workbench.data import load
    from workbench.weights import load_pair

    images = load("cifar10", data_dir).test.images[:IMAGES]
    files = Jpeg().encode_each(pictures.to_float(images))
    options = ["--target", "resnet18", "--auxiliary", "vgg13_bn", "--quiet", "--dataset", "cifar10", "--data-dir"]
    labels = torch.zeros(IMAGES, dtype=torch.long)
    noise = load_pair("cifar10", "resnet18", "vgg13_bn").generator.noise
    with ServiceFixture([*options, str(data_dir)], "resnet18", files, labels, noise=noise) as site:
        with HttpsClient(site.edge.url, certs=site.local.certs) as client:
            for at in range(0, IMAGES, 256):
                labels[at : at + 256] = torch.as_tensor(client.recognise_files(files[at : at + 256]).labels)
        print(json.dumps(list(pids(site))), flush=True)
        for line in sys.stdin:
            name, seconds = json.loads(line)
            size, clients = LOADS[name]
            if "new" in name:
                site._edge_connection._http.forget()
                site._run(asyncio.sleep(0.2))
            before = cpu_s(site)
            result = site.load(closed_loop, clients, seconds, size)
            used = cpu_s(site) - before
            rates = {"images_per_s": result.rate, "images_per_cpu_s": result.images / used}
            print(json.dumps({**rates, "errors": dict(result.errors)}), flush=True)


def pids(site: Any) -> Iterator[int]:
    yield os.getpid()
    yield site.edge.process.pid
    yield site.cloud.process.pid


def cpu_s(site: Any) -> float:
    total = 0.0
    for pid in pids(site):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


class Tree:
    def __init__(self, path: Path, data_dir: Path) -> None:
        command = [sys.executable, str(HERE / "tests" / "turns.py"), "--worker", "--data-dir", str(data_dir)]
        self.process = subprocess.Popen(
            command,
            cwd=path,
            env={**os.environ, "PYTHONPATH": str(path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pids: list[int] = self._answer()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def rates(self, load: str, seconds: float) -> dict[str, float]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([load, seconds]) + "\n")
        self.process.stdin.flush()
        answer = self._answer()
        assert not (errors := answer.pop("errors")), errors
        return {name: float(value) for name, value in answer.items()}

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def summary(ratios: list[float]) -> dict[str, float]:
    logs = [math.log(ratio) for ratio in ratios]
    half = 1.96 * statistics.stdev(logs) / math.sqrt(len(logs)) if len(logs) > 1 else math.inf
    mean = statistics.fmean(logs)
    low, high = (math.exp(mean + sign * half) for sign in (-1, 1))
    return {"median": statistics.median(ratios), "value": math.exp(mean), "low": low, "high": high, "n": len(ratios)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, nargs="?")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    data_dir = options.data_dir.resolve()
    if options.worker:
        worker(data_dir)
        return
    trees = [Tree(path, data_dir) for path in (HERE, options.other.resolve())]
    print(json.dumps({"processes": [tree.pids for tree in trees]}), file=sys.stderr, flush=True)
    measured: dict[str, list[tuple[dict[str, float], ...]]] = {name: [] for name in LOADS}
    for turn in range(-1, options.turns):
        for name in LOADS:
            order = (0, 1) if turn % 2 == 0 else (1, 0)
            rates = {which: trees[which].rates(name, options.seconds) for which in order}
            if turn >= 0:  # the first turn warms up
                measured[name].append((rates[0], rates[1]))
    for tree in trees:
        tree.close()
    result = {
        name: {
            unit: {
                "ratio": summary([ours[unit] / theirs[unit] for ours, theirs in pairs]),
                "median": [statistics.median(side[unit] for side in sides) for sides in zip(*pairs, strict=True)],
            }
            for unit in ("images_per_s", "images_per_cpu_s")
        }
        for name, pairs in measured.items()
    }
    sys.path.insert(0, str(HERE))
    from workbench.evaluation import provenance

    print(json.dumps({"seconds": options.seconds, "loads": result, **provenance()}, indent=1))


if __name__ == "__main__":
    main()
