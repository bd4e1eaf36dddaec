"""Compare the speed of two trees' services in turns: `python tests/turns.py OTHER_TREE --dataset cifar10 ...`.

Each turn runs `workbench bench services` in one tree and then in the other. A ratio is taken within a turn. The order
alternates from turn to turn. `OTHER_TREE` is a checkout, such as one made by `git worktree add ../before COMMIT`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent.parent


def measured(tree: Path, options: list[str]) -> dict[str, float]:
    """Return images a second at saturation, by images a request, from a tree's own benchmark."""
    command = [sys.executable, "-m", "workbench", "bench", "services", "--json", "--rounds", "1", "--requests", "20", *options]
    result = subprocess.run(
        command, cwd=tree, env={**os.environ, "PYTHONPATH": str(tree)}, stdout=subprocess.PIPE, text=True, check=True
    )
    saturated: dict[str, Any] = json.loads(result.stdout)["saturated"]
    return {size: each["images_per_s"]["median"] for size, each in saturated.items() if size not in ("direct", "errors")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path)
    parser.add_argument("--turns", type=int, default=5)
    options, rest = parser.parse_known_args()
    trees, ratios = (HERE, options.other.resolve()), dict[str, list[float]]()
    for turn in range(options.turns):
        order = trees if turn % 2 == 0 else trees[::-1]
        rates = {tree: measured(tree, rest) for tree in order}
        for size, rate in rates[HERE].items():
            ratios.setdefault(size, []).append(rate / rates[trees[1]][size])
        told = {size: round(values[-1], 3) for size, values in ratios.items()}
        print(json.dumps({"turn": turn, "ratio": told}), flush=True)
    medians = {size: round(statistics.median(values), 3) for size, values in ratios.items()}
    print(json.dumps({"turns": options.turns, "median_ratio": medians}))


if __name__ == "__main__":
    main()
