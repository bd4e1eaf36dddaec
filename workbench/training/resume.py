"""The state of a training, in memory and in a checkpoint file: the next step, and the best network so far."""

from __future__ import annotations

import io
import json
import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..errors import UsageError
from ..storage import replacing
from .objectives import Objective
from .schedules import Outcome, TrainingSettings, equal_steps

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["RunState"]


class RunState:
    """The state of a training, and its checkpoint file at `path`.

    `identity` describes the training: settings, seed, data, loss. A checkpoint with another identity is not loaded. Only the
    number of epochs may differ, if the steps so far do not depend on it (see `equal_steps`). `n` is the number of training
    images.
    """

    def __init__(
        self,
        fabric: Fabric,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        path: Path,
        identity: dict[str, Any],
        n: int,
    ) -> None:
        self.fabric, self.objective, self.optimizer, self.path, self.n = fabric, objective, optimizer, path, n
        self.identity = json.dumps(identity, sort_keys=True)
        self.best: dict[str, Tensor] | None = None
        self.best_loss = math.inf
        self.outcome = Outcome()

    def resume(self) -> int:
        """Load this training's checkpoint, if there is one, and return the step to continue from (else 0).

        Raises UsageError if the number of epochs was changed, but the steps so far already depended on it.
        """
        if not self.path.exists():
            return 0
        try:
            state = torch.load(self.path, map_location=self.fabric.device, weights_only=True)
            if state["identity"] != self.identity and not self._only_longer_or_shorter(state["identity"], state["step"]):
                return self._restart("a checkpoint of other settings lies there")
        except UsageError:
            raise
        except Exception as error:  # torch's zip and pickle readers raise exceptions of any kind
            return self._restart(f"unreadable checkpoint ({type(error).__name__})")
        network = self.objective.network
        fresh = {key: value.clone() for key, value in network.state_dict().items()}
        try:
            network.load_state_dict(state["network"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.outcome = Outcome(**json.loads(state["outcome"]))
            self.best, self.best_loss, step = state["best"], state["best_loss"], int(state["step"])
        except (KeyError, RuntimeError, TypeError, ValueError):
            network.load_state_dict(fresh)
            return self._restart("a checkpoint of another version of this training")
        return step

    def _only_longer_or_shorter(self, identity: str, step: int) -> bool:
        before, now = json.loads(identity), json.loads(self.identity)
        epochs, wanted = before["settings"]["epochs"], now["settings"]["epochs"]
        before["settings"]["epochs"] = wanted
        settings = TrainingSettings.from_json(now["settings"])
        equal = equal_steps(self.n, settings, epochs)
        if before != now or not equal or type(self.objective).at is not Objective.at:  # `at` may use the total of steps
            return False
        if step > equal:
            raise UsageError(
                f"{self.path}: at step {step}, a training of {epochs} epochs can no longer become one of {wanted}: continue "
                f"with --epochs {epochs}, or delete this file to start again"
            )
        return True

    def _restart(self, why: str) -> int:
        tqdm.write(f"{self.path.name}: {why}; starting again", sys.stderr)
        return 0

    def save(self, step: int) -> None:
        """Write the checkpoint atomically. `step` is the step to continue from."""
        if self.fabric.global_rank == 0:
            state = {
                "identity": self.identity,
                "step": step,
                "network": self.objective.network.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "best": self.best,
                "best_loss": self.best_loss,
                "outcome": json.dumps(asdict(self.outcome)),
            }
            buffer = io.BytesIO()
            torch.save(state, buffer)
            with replacing(self.path) as temporary:
                temporary.write_bytes(buffer.getbuffer())
        self.fabric.barrier()

    def remember(self, step: int, running: dict[str, float], means: dict[str, float]) -> None:
        """Add a validation to the history. Keep the network if its loss is the lowest, or if the training is adversarial.

        `running` has the loss and figures of the latest reported training step. `means` has the means over the validation
        split.
        """
        self.outcome.history.append({"step": step, "train": dict(running), "validation": means})
        if means["loss"] < self.best_loss or self.best is None or self.objective.adversarial:
            self.best_loss, self.outcome.best = means["loss"], {**means, "step": float(step)}
            self.best = {key: value.detach().clone() for key, value in self.objective.network.state_dict().items()}

    def restore_best(self) -> None:
        """Load the best state, if there is one, into the network, and set eval mode."""
        if self.best is not None:
            self.objective.network.load_state_dict(self.best)
        self.objective.network.eval()
