"""Images that cannot be used: found before training, counted and listed while it goes on."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import torch
from PIL.Image import Image
from tqdm import tqdm

from igll.config import Config
from igll.data.datasets import InpaintingDataset
from igll.data.files import printable
from igll.data.stand_ins import Replacement, Unusable, decode_replacements, none_usable
from igll.distributed import failing_together, gather, is_writer, largest
from igll.engine.log import RunLog, warn
from igll.engine.validate import Validation
from igll.errors import InputError, OutputError, ProcessFailedError
from igll.models import InpaintingNetwork
from igll.report.files import write_text
from igll.storage import make_folder

T = TypeVar("T")

LIST_NAME = "unusable_images.txt"
_CHUNK = 64  # images that are read before an interrupt is heeded
_ATTEMPTS = 3  # at validation, for files that come and go


class UnusableList:
    """``unusable_images.txt`` in a run's folder: name, reason, and when it was found; tabs between.

    No line has the name and reason of another; control characters are written as escapes.

    Args:
        out: The run's folder.
        keep: Whether an earlier process's lines stay, as when resuming; otherwise its file goes.
    """

    def __init__(self, out: Path, keep: bool) -> None:
        self.path = out / LIST_NAME
        self._lines: dict[tuple[str, ...], str] = {}
        if not self.path.is_file():
            return
        if not keep:
            if is_writer():
                self.path.unlink(missing_ok=True)
        else:
            for line in self.path.read_text(encoding="utf-8", errors="replace").split("\n"):
                if line:
                    self._lines.setdefault(tuple(line.split("\t")[:2]), line)

    def add(self, found: Iterable[Unusable], when: str) -> None:
        """Write down images that are not listed yet; a list that cannot be written is only warned about."""
        before = len(self._lines)
        for image in found:
            name, reason = _cell(image.name), _cell(image.reason)
            self._lines.setdefault((name, reason), f"{name}\t{reason}\t{when}")
        if len(self._lines) > before and is_writer():
            try:
                write_text(self.path, "".join(f"{line}\n" for line in self._lines.values()))
            except OutputError as error:
                warn(f"{error}; training goes on")


def _cell(text: str) -> str:
    """A text without tabs, line breaks and what UTF-8 cannot hold, as some file names have."""
    return printable(text.replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r"))


def check_images(
    config: Config, training: InpaintingDataset, testing: InpaintingDataset, out: Path, resumed: bool
) -> UnusableList:
    """Read the images before anything else, as far as ``data.scan`` and ``data.on_error`` ask for it.

    With ``data.scan`` all of them; with ``data.on_error=skip`` at least those of the validation, from
    which the ones that cannot be used are left out.

    Args:
        config: What is asked for.
        training: Training images.
        testing: Validation images.
        out: The run's folder.
        resumed: Whether the run goes on from a checkpoint.

    Returns:
        The run's list of images that cannot be used, with those found now.

    Raises:
        InputError: Some cannot be used and ``data.on_error`` is ``error``, or none can.
    """
    skip = config.data.on_error == "skip"
    # A scan that refuses to start says what is wrong now, not what once was.
    listing = UnusableList(out, keep=resumed and (skip or not config.data.scan))
    if not (skip or config.data.scan):
        return listing
    make_folder(out)
    broken = find_unusable(training, "training images") if config.data.scan else {}
    unscored = find_unusable(testing, "validation images")
    found = list(dict.fromkeys([*broken.values(), *unscored.values()]))
    if not found:
        return listing
    listing.add(found, "start")
    if not skip:
        raise InputError(
            f"{len(found)} image(s) cannot be used, all listed in {listing.path}; mend or remove them, or "
            f"set data.on_error=skip; the first: {found[0].reason}"
        )
    if len(broken) == len(training):
        raise none_usable(list(broken.values()), "training")
    leave_out(testing, unscored)
    for count, rest in (
        (len(broken), "training image(s) cannot be used, others stand in"),
        (len(unscored), "validation image(s) cannot be used and are left out"),
    ):
        if count:
            warn(f"{count} {rest}; see {listing.path}")
    return listing


def find_unusable(
    dataset: InpaintingDataset, title: str, read: Callable[[int], object] | None = None
) -> dict[int, Unusable]:
    """Read every image of a dataset in some threads; position → image, of those that cannot be used.

    Of several processes one reads, and all are told.

    Args:
        dataset: The images.
        title: What the progress bar says.
        read: Reads the image at a position; None reads the files and sees that a crop can be taken.
    """
    with failing_together():
        found = _find_unusable(dataset, title, read or dataset.checked_scene) if is_writer() else {}
    everybodys = gather([[index, image.name, image.reason] for index, image in found.items()])
    return {index: Unusable(name, reason) for index, name, reason in everybodys[0]}


def _find_unusable(
    dataset: InpaintingDataset, title: str, read_one: Callable[[int], object]
) -> dict[int, Unusable]:
    def attempt(index: int) -> tuple[int, Unusable | None]:
        try:
            read_one(index)
        except InputError as error:
            return index, Unusable(dataset.name(index), str(error))
        return index, None

    found = {}
    bar = tqdm(total=len(dataset), desc=title, unit="image", leave=False, file=sys.stderr)
    with bar, ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as readers:
        for start in range(0, len(dataset), _CHUNK):
            for index, image in readers.map(attempt, range(start, min(start + _CHUNK, len(dataset)))):
                bar.update()
                if image is not None:
                    found[index] = image
    return found


def leave_out(dataset: InpaintingDataset, found: dict[int, Unusable]) -> None:
    """Take validation images out of their dataset; the others keep their crops and holes.

    Raises:
        InputError: None is left.
    """
    if len(found) == len(dataset):
        raise none_usable(list(found.values()), "validation")
    dataset.indices = [scene for index, scene in enumerate(dataset.indices) if index not in found]


class ReplacementRecord:
    """Says, counts and lists which training samples another image stands in for.

    Args:
        listing: Gets the images, with the step that first needed them.
        log: Gets ``data/skipped``, the number of such samples, for every step that has one. That is a
            function of the step and the files alone, so a resumed run's log equals an uninterrupted one's.
    """

    def __init__(self, listing: UnusableList, log: RunLog) -> None:
        self.listing, self.log = listing, log
        self._said: set[Unusable] = set()

    def note(self, step: int, replaced: list[Replacement]) -> None:
        """Record what a finished step's batch went without; every image is warned about once."""
        if not largest(len(replaced)):
            return
        everybodys = gather([replacement.encode() for replacement in replaced])
        replaced = decode_replacements([text for part in everybodys for text in part])
        self.log.scalars(step, "data", {"skipped": len(replaced)})
        for replacement in replaced:
            self.listing.add(replacement.passed_over, f"step {step}")
            for image in replacement.passed_over:
                if image not in self._said:
                    self._said.add(image)
                    warn(f"{image.name} cannot be used, {replacement.stand_in} stands in: {image.reason}")


class TolerantValidation(Validation):
    """Validation that goes on without the images that can no longer be used (``data.on_error=skip``).

    Args:
        dataset: The images.
        config: Batch size.
        device: Where to fill.
        listing: Gets the images that are left out.
        finished_steps: Says how many steps are finished.
    """

    def __init__(
        self,
        dataset: InpaintingDataset,
        config: Config,
        device: torch.device,
        listing: UnusableList,
        finished_steps: Callable[[], int],
    ) -> None:
        super().__init__(dataset, config, device)
        self.listing, self.finished_steps = listing, finished_steps

    def scores(self, generator: InpaintingNetwork) -> dict[str, float]:
        """As :meth:`Validation.scores`, of the images that are left."""
        return self._with_what_is_left(lambda: Validation.scores(self, generator))

    def has_hole(self) -> bool:
        """As :meth:`Validation.has_hole`, of the images that are left."""
        return self._with_what_is_left(lambda: Validation.has_hole(self))

    def sheet(self, generator: InpaintingNetwork, step: int) -> Image | None:
        """As :meth:`Validation.sheet`, of the images that are left."""
        return self._with_what_is_left(lambda: Validation.sheet(self, generator, step))

    def _with_what_is_left(self, work: Callable[[], T]) -> T:
        for _ in range(_ATTEMPTS - 1):
            try:
                return work()
            except (InputError, ProcessFailedError):
                found = find_unusable(self.dataset, "validation images", self.dataset.__getitem__)
                self.listing.add(found.values(), f"step {self.finished_steps()}")
                leave_out(self.dataset, found)
                for image in found.values():
                    warn(
                        f"validation goes on with {len(self.dataset)} image(s), without {image.name}: "
                        f"{image.reason}"
                    )
        return work()


def open_validation(
    config: Config,
    dataset: InpaintingDataset,
    device: torch.device,
    listing: UnusableList,
    finished_steps: Callable[[], int],
) -> Validation:
    """Validation as strict as ``data.on_error`` asks for; arguments as of :class:`TolerantValidation`.

    Warns if there will be nothing to score: the data bring their holes, and none is among its images.
    """
    validation = Validation(dataset, config, device)
    if config.data.on_error == "skip":
        validation = TolerantValidation(dataset, config, device, listing, finished_steps)
    if (config.data.use == "pairs" or config.mask.kind == "files") and not validation.has_hole():
        warn(
            f"none of the {len(dataset)} validation image(s) has a hole: no hole PSNR, and best.pt will be "
            "the newest weights; set train.eval_images higher, or data.val_root to images with holes"
        )
    return validation
