"""The run's records: ``metrics.jsonl``, TensorBoard events and picture sheets."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from igll.errors import OutputError
from igll.report.files import write_text

if TYPE_CHECKING:
    from PIL.Image import Image


class RunLog:
    """Writes scalars and pictures of a run.

    Args:
        folder: The run's folder.
        first_step: Step from which this process goes on; later lines of an earlier process, written
            after the checkpoint that is being resumed, are dropped so that no step stands twice.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.path = folder / "metrics.jsonl"
        kept = [line for line in self._lines() if line["step"] <= first_step]
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = self.path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step + 1)
        self._start = time.monotonic() - (kept[-1].get("time", 0.0) if kept else 0.0)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()
        self._board.close()

    def _lines(self) -> list[dict[str, float]]:
        """Lines of an earlier process; a last line cut off by a crash is left out."""
        if not self.path.exists():
            return []
        lines = []
        for text in self.path.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(text))
            except json.JSONDecodeError:
                break
        return lines

    def scalars(self, step: int, split: str, values: dict[str, float]) -> None:
        """Record named values of a step.

        Args:
            step: Number of finished training steps.
            split: ``"train"`` or ``"val"``.
            values: Name → value.
        """
        line = {"step": step, "time": round(time.monotonic() - self._start, 3), **values}
        # JSON has no NaN or infinity: a value that is not a number is left empty.
        plain = {name: value if math.isfinite(value) else None for name, value in line.items()}
        try:
            self._file.write(json.dumps({**plain, "split": split}) + "\n")
            self._file.flush()
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written ({error.strerror})") from error
        for name, value in values.items():
            self._board.add_scalar(f"{split}/{name}", value, step)

    def picture(self, step: int, name: str, picture: Image) -> None:
        """Record a picture of a step in TensorBoard."""
        self._board.add_image(name, np.asarray(picture), step, dataformats="HWC")
