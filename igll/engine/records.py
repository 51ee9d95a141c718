"""What a run leaves behind while it goes on: losses, scores, pictures and the best weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from tqdm import tqdm

from igll.config import Config
from igll.engine.collapse import CollapseWatch
from igll.engine.log import RunLog, say, warn
from igll.engine.objectives import Terms
from igll.engine.run_checkpoints import RunCheckpoints
from igll.engine.state import TrainState
from igll.engine.validate import Validation
from igll.errors import OutputError
from igll.report.figures import save_picture


@dataclass
class Records:
    """What a run leaves behind while it goes on: losses, scores, pictures and the best weights.

    Attributes:
        config: How often.
        checkpoints: Where the weights are saved.
        log: Where losses and scores are written.
        collapse: Reads the recorded values for signs of failing adversarial training.
        validation: The fixed images that are scored and shown.
        bar: The progress bar.
    """

    config: Config
    checkpoints: RunCheckpoints
    log: RunLog
    collapse: CollapseWatch
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
            self.log.scalars(step, "train", values)
            self.bar.set_postfix(_short(values))
            for text in self.collapse.see(values):
                self.log.warning(step, text)
        if finished or step % due.eval_every == 0:
            self._validate(state)
        if finished or step % due.sheet_every == 0:
            self._show(state)

    def save(self, state: TrainState, leaving: bool) -> None:
        """Save the checkpoints that are due after a step, and always the last one.

        Raises:
            OutputError: It is the last one and cannot be written.
            NumericsError: A step since the last look was not finite.
        """
        if leaving or self.checkpoints.due(state.step):
            self.log.sync()
            self.checkpoints.save(state, leaving)

    def rescue(self, state: TrainState) -> None:
        """Save what was learnt before something failed; if this fails too, there is only a warning."""
        try:
            self.save(state, leaving=True)
        except OutputError as error:
            warn(str(error))

    def _show(self, state: TrainState) -> None:
        """A picture sheet of the validation images, drawn by the process that writes."""
        sheet = self.validation.sheet(state.evaluated, state.step)
        if sheet is None:
            return
        self.log.picture(state.step, "validation", sheet)
        try:
            save_picture(sheet, self.checkpoints.out / "sheets" / f"step_{state.step:07d}.png")
        except OutputError as error:
            warn(f"{error}; training goes on")

    def _validate(self, state: TrainState) -> None:
        """Score the fixed validation images, and keep the weights if they are the best so far."""
        state.settle()
        scores = self.validation.scores(state.evaluated)
        self.log.scalars(state.step, "val", scores)
        label = " (oracle edges)" if self.validation.oracle else ""
        found = f"hole PSNR {scores['psnr_hole']:.2f} dB{label}"
        if math.isnan(scores["psnr_hole"]) and not self.validation.has_hole():
            found = "no hole PSNR: no validation image has a hole"
        say(f"step {state.step}: {found}")
        self.log.sync()
        self.checkpoints.save_best(state, scores["psnr_hole"])


def _short(values: dict[str, float]) -> dict[str, str]:
    """The losses that fit on a progress bar."""
    shown = {"G": "generator/total", "hole": "generator/local", "D": "discriminator/total"}
    return {label: f"{values[name]:.3f}" for label, name in shown.items() if name in values}
