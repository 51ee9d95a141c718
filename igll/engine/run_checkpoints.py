"""The checkpoints of a run: which are kept, which one a run goes on from, and what if none can be written."""

from __future__ import annotations

import math
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import IO

import torch

from igll.config import Config
from igll.distributed import is_writer, largest
from igll.engine.checkpoint import DamagedCheckpointError
from igll.engine.log import say, warn
from igll.engine.state import TrainState
from igll.errors import ElsewhereError, InputError, OutputError
from igll.storage import locked

_KEPT = re.compile(r"step_(\d{7,})\.pt")
_TEMPORARY = re.compile(
    r"\.(last|previous|best|step_\d+|metrics|config|unusable_images)\.\d+\.(pt|png|jsonl|yaml|txt)"
)


def run_of(config: Path) -> Path:
    """The folder of the run that a configuration's file is meant for, if no other is named.

    Args:
        config: The file: a run's own ``config.yaml``, beside its checkpoints, or any other.
    """
    if config.name == "config.yaml" and (config.parent / "checkpoints").is_dir():
        return config.parent
    return Path("runs") / config.stem


class RunCheckpoints:
    """The checkpoints in a run's folder.

    ``last.pt`` and ``previous.pt``, the one before it, so that a whole one is there at every moment;
    ``best.pt``; and ``step_0005000.pt``, … as ``train.keep_every`` and ``train.keep`` say.

    Args:
        out: The run's folder.
        config: What is being trained, and how often it is saved.
        resume: Whether to go on with what is there.

    Raises:
        InputError: There is a run already, and it is not to be resumed.
    """

    def __init__(self, out: Path, config: Config, resume: bool) -> None:
        self.out, self.config = out, config
        self.folder = out / "checkpoints"
        self.last, self.previous, self.best = (
            self.folder / f"{name}.pt" for name in ("last", "previous", "best")
        )
        self._newest = ""  # the last good one, for a message
        self._last_is_whole = False
        self._resume = resume
        self._refuse_another_run()

    def _refuse_another_run(self) -> None:
        if self._resume:
            return
        if self.found:
            raise InputError(
                f"{self.out}: already holds a run; add --resume to go on with it, or choose another --out"
            )
        records = self.out / "metrics.jsonl"
        if records.is_file() and records.stat().st_size:
            raise InputError(
                f"{records}: holds the records of a run without a checkpoint; add --resume to begin it anew "
                "and replace them, or choose another --out"
            )

    @property
    def found(self) -> bool:
        """Whether there is anything to go on from."""
        return bool(self._there())

    def claim(self) -> IO[str]:
        """Take the run's folder for this process alone, and remove what a killed one left half-written.

        Returns:
            The lock; held until it is closed or the process ends, however it ends.

        Raises:
            InputError: As when this was made; another process may have come first.
            OutputError: Another process trains there.
        """
        busy = "another process ({holder}) is training there; wait for it, or choose another --out"
        lock = locked(self.out / ".lock", f"{self.out}: {busy}")
        self._refuse_another_run()
        for folder in (self.out, self.folder, self.out / "sheets", self.out / "failures"):
            for path in folder.iterdir() if folder.is_dir() else ():
                if _TEMPORARY.fullmatch(path.name):
                    with suppress(OSError):
                        path.unlink()
        return lock

    def resume(self, state: TrainState, device: torch.device) -> None:
        """Go on from the newest checkpoint that is whole; from none if there is none at all.

        Raises:
            InputError: All are damaged, or one is of another model or not a checkpoint of igll-train.
        """
        there, damaged = self._there(), []
        if self._resume and not there:
            say(f"nothing to go on from in {self.out}; begins anew", sys.stderr)
        if there and self.last not in there:
            warn(f"{self.last}: missing; looking for an older checkpoint")
        for path in there:
            try:
                state.load(path, self.config, device)
            except DamagedCheckpointError as error:
                warn(f"{error}; looking for an older checkpoint")
                damaged.append(path.name)
                continue
            self._last_is_whole = path == self.last
            self._newest = f"{path} (step {state.step})"
            if path != self.last:
                say(f"going on from {path}, step {state.step}", sys.stderr)
            return
        if damaged:
            raise InputError(
                f"{self.folder}: no checkpoint there is whole ({', '.join(damaged)} damaged); put a copy of "
                "one there, or choose another --out to begin anew"
            )

    def due(self, step: int) -> bool:
        """Whether something is to be saved after a step, even if the run goes on."""
        every = self.config.train
        return step % every.checkpoint_every == 0 or self._stays(step)

    def save(self, state: TrainState, leaving: bool) -> None:
        """Save what is due; a run that goes on is only warned if that fails.

        Raises:
            OutputError: The run ends here and could not be saved; says which checkpoint is the last good one.
            NumericsError: A step since the last look was not finite.
        """
        # First what stays: a run that dies in between goes on from before it, and comes here again.
        if self._stays(state.step):
            self._keep(state)
        every = self.config.train.checkpoint_every
        if leaving or state.step % every == 0:
            error = self._save_last(state)
            if error is not None and leaving:
                rest = f"the last good checkpoint is {self._newest}" if self._newest else "there is none"
                raise type(error)(f"{error}; {rest}") from error
            if error is not None:
                warn(f"{error}; training goes on, tried again at step {state.step + every}")

    def save_best(self, state: TrainState, score: float) -> None:
        """Keep the weights if they score better than all before; tried again next time if it fails.

        As long as nothing could be scored the newest weights are kept.
        """
        before = state.best
        unscored = math.isnan(score) and before == -math.inf
        if not score > before and not unscored and not largest(not self.best.exists()):
            return
        # Any score will be better than none.
        state.best = -math.inf if math.isnan(score) else score
        error = self._write(state, self.best)
        if error is not None:
            state.best = before
            warn(f"{error}; training goes on, tried again at the next validation")

    def _save_last(self, state: TrainState) -> OutputError | None:
        # A file that is known to be damaged must not take the place of the good one before.
        error = self._write(state, self.last, self.previous if self._last_is_whole else None)
        if error is None:
            self._last_is_whole = True
            self._newest = f"{self.last} (step {state.step})"
        return error

    def _write(self, state: TrainState, path: Path, previous: Path | None = None) -> OutputError | None:
        """Save a checkpoint; one process writes, and all are told what went wrong, if anything did."""
        state.settle()
        error = None
        if is_writer():
            try:
                state.save(path, self.config, previous)
            except OutputError as obstacle:
                error = obstacle
        if largest(error is not None) and error is None:
            return ElsewhereError(f"{path}: cannot be written by another process")
        return error

    def _stays(self, step: int) -> bool:
        every = self.config.train.keep_every
        return every is not None and step % every == 0

    def _keep(self, state: TrainState) -> None:
        """Save a checkpoint that stays, then remove the oldest of them if they are too many."""
        path = self.folder / f"step_{state.step:07d}.pt"
        error = self._write(state, path)
        if error is not None:
            warn(f"{error}; training goes on")
            return
        for old in self._kept()[self.config.train.keep :]:
            with suppress(OSError):
                old.unlink()

    def _kept(self) -> list[Path]:
        """Those that stay, newest first."""
        found = {path: _KEPT.fullmatch(path.name) for path in self.folder.glob("step_*.pt")}
        steps = {path: int(match[1]) for path, match in found.items() if match}
        return sorted(steps, key=lambda path: steps[path], reverse=True)

    def _there(self) -> list[Path]:
        """All that are there, in the order in which a run would go on from them."""
        return [path for path in (self.last, self.previous, *self._kept(), self.best) if path.is_file()]
