"""What a run leaves behind while it goes on: losses, scores, pictures and the best weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from igll.config import Config
from igll.distributed import failing_together
from igll.engine.log import RunLog
from igll.engine.objectives import Terms
from igll.engine.state import TrainState
from igll.engine.validate import Validation


@dataclass
class Records:
    """What a run leaves behind while it goes on: losses, scores, pictures and the best weights.

    Attributes:
        config: How often.
        out: The run's folder.
        log: Where losses and scores are written; None in all processes but the one that writes.
        validation: The fixed images that are scored and shown.
        bar: The progress bar.
    """

    config: Config
    out: Path
    log: RunLog | None
    validation: Validation
    bar: tqdm[Any]

    def write(self, state: TrainState, terms: Terms, finished: bool) -> None:
        """Record what is due after a step, and everything after the last one."""
        step, due = state.step, self.config.train
        self.bar.update()
        if finished or step % due.log_every == 0:
            state.settle()
            stacked = torch.stack([term.float() for term in terms.values()])
            values = dict(zip(terms, stacked.tolist(), strict=True))
            if self.log is not None:
                self.log.scalars(step, "train", values)
            self.bar.set_postfix(_short(values))
        if finished or step % due.eval_every == 0:
            self._validate(state)
        if finished or step % due.sheet_every == 0:
            with failing_together():
                if self.log is not None:
                    self.log.picture(step, "validation", self.validation.sheet(state.evaluated, step))

    def _validate(self, state: TrainState) -> None:
        """Score the fixed validation images, and keep the weights if they are the best so far."""
        state.settle()
        scores = self.validation.scores(state.evaluated)
        if self.log is not None:
            self.log.scalars(state.step, "val", scores)
            label = " (oracle edges)" if self.validation.oracle else ""
            self.bar.write(f"step {state.step}: hole PSNR {scores['psnr_hole']:.2f} dB{label}")
        best = self.out / "checkpoints" / "best.pt"
        if scores["psnr_hole"] > state.best or not best.exists():
            state.best = scores["psnr_hole"]
            state.save(best, self.config)


def _short(values: dict[str, float]) -> dict[str, str]:
    """The losses that fit on a progress bar."""
    shown = {"G": "generator/total", "hole": "generator/local", "D": "discriminator/total"}
    return {label: f"{values[name]:.3f}" for label, name in shown.items() if name in values}
