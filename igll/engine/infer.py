"""Filling the holes of image files (``igll-infer``)."""

from __future__ import annotations

import errno
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

import torch
from tqdm import tqdm

from igll.data.files import list_images, match_by_stem, read_image, read_mask
from igll.engine.picture_io import Picture, output_suffix, read_picture, write_picture
from igll.errors import InputError, OutputError
from igll.inpainter import Inpainter
from igll.storage import make_folder

# After these, no later image could be written either.
_HOPELESS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@dataclass(frozen=True)
class InferRequest:
    """What to fill.

    Attributes:
        checkpoint: Written by igll-train.
        images: An image or a folder, searched with its subfolders. The other folders and files named here
            are never taken for images, even where they lie inside.
        masks: A mask for all images, or a folder of masks matched by name.
        out: Folder for the results, same relative paths; PNG, or TIFF for TIFF.
        hole: What marks a missing pixel in a mask: ``white``, ``black`` or ``nonzero``.
        edges: Edge map(s) as ``masks``, white = edge, for priors ``oracle`` and ``reference``.
        reference: Instead: image(s) of the same place, as ``masks``.
        overrides: ``device=…``, ``eval.weights=…``, ``edges.*=…``.
    """

    checkpoint: str | Path
    images: Path
    masks: Path
    out: Path
    hole: str = "white"
    edges: Path | None = None
    reference: Path | None = None
    overrides: Sequence[str] = ()


@dataclass(frozen=True)
class _Job:
    """The files of one image."""

    image: Path
    mask: Path
    edges: Path | None
    reference: Path | None
    out: Path


def infer(request: InferRequest) -> int:
    """Fill every image; one that cannot be filled does not stop the others.

    Known pixels of the written files are read back and compared bit by bit with the input's.

    Returns:
        0 if all are filled; 1 if some failed, after listing them on stderr.

    Raises:
        InputError: Nothing can start: a missing file or folder, an image without mask, two images with one
            result, a checkpoint that cannot be used, an oracle model without guide.
    """
    jobs = _plan(request)
    inpainter = Inpainter.from_checkpoint(request.checkpoint, request.overrides)
    inpainter.check_guide(request.edges is not None, request.reference is not None)
    if request.reference is not None:
        _ = inpainter.detector  # missing weights are found now, not at every image
    make_folder(request.out)

    failures: list[str] = []
    filled = 0
    with _unwinding_on_sigterm():
        for job in tqdm(jobs, desc="fill", unit="image"):
            try:
                _fill_file(inpainter, job, request.hole)
                filled += 1
            except (InputError, OutputError) as error:
                failures.append(_named(job, str(error)))
                if isinstance(error.__cause__, OSError) and error.__cause__.errno in _HOPELESS:
                    break
            except (MemoryError, RuntimeError) as error:
                if not _memory_ran_out(error):
                    raise
                failures.append(f"{job.image}: not enough memory to fill it; cut it into smaller images")
    return _report(request.out, filled, len(jobs), failures)


def _fill_file(inpainter: Inpainter, job: _Job, hole: str) -> None:
    """Read, fill, write and check one image."""
    picture = read_picture(job.image)
    mask_HW = read_mask(job.mask, hole)
    edge_HW = None if job.edges is None else read_image(job.edges, channels=1)[:, :, 0]
    reference_HWC = None if job.reference is None else read_image(job.reference)
    image = inpainter.inpaint(picture.image, mask_HW, edges=edge_HW, reference=reference_HWC)
    write_picture(job.out, Picture(image, picture.extras), picture.image, mask_HW)


def _plan(request: InferRequest) -> list[_Job]:
    """Find every image's files and result, and refuse what would end badly."""
    others = [path for path in (request.masks, request.edges, request.reference) if path is not None]
    if request.images.is_file():
        root, images = request.images.parent, [request.images]
    else:
        root = request.images
        images = _without(list_images(root), root, [*others, request.out])
    masks = match_by_stem(images, root, request.masks)
    edges = _guides("edge map", images, root, request.edges)
    references = _guides("reference", images, root, request.reference)
    jobs = [
        _Job(image, mask, edge, reference, _target(image, root, request.out))
        for image, mask, edge, reference in zip(images, masks, edges, references, strict=True)
    ]
    _check_targets(jobs)
    return jobs


def _without(images: list[Path], root: Path, others: list[Path]) -> list[Path]:
    """Images that do not belong to the masks, guides or results."""
    apart = [path.resolve() for path in others]
    if root.resolve() in apart:
        raise InputError(f"{root}: images need a folder of their own, apart from masks, guides and results")
    kept = [image for image in images if not any(image.resolve().is_relative_to(path) for path in apart)]
    if not kept:
        raise InputError(f"{root}: holds no image besides masks, guides and results")
    return kept


def _guides(kind: str, images: list[Path], root: Path, guides: Path | None) -> Sequence[Path | None]:
    """One guide file per image, or None for each."""
    return [None] * len(images) if guides is None else match_by_stem(images, root, guides, kind)


def _target(image: Path, root: Path, out: Path) -> Path:
    return (out / image.relative_to(root)).with_suffix(output_suffix(image))


def _check_targets(jobs: list[_Job]) -> None:
    """Refuse results that would replace each other or an input."""
    inputs = {
        path.resolve() for job in jobs for path in (job.image, job.mask, job.edges, job.reference) if path
    }
    taken: dict[Path, Path] = {}
    for job in jobs:
        if job.out in taken:
            raise InputError(
                f"{taken[job.out]} and {job.image} would both be written to {job.out}; rename one of them"
            )
        taken[job.out] = job.image
        if job.out.resolve() in inputs:
            raise InputError(f"{job.out}: is an input and would be overwritten; choose another --out")


def _named(job: _Job, message: str) -> str:
    """One line that starts with the image's path."""
    return message if message.startswith(f"{job.image}:") else f"{job.image}: {message}"


def _memory_ran_out(error: MemoryError | RuntimeError) -> bool:
    """CUDA raises its own type; the CPU allocator a bare RuntimeError."""
    out_of_memory = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    return out_of_memory or "allocate memory" in str(error)


def _report(out: Path, filled: int, total: int, failures: list[str]) -> int:
    """Say what happened, and return the exit code."""
    if not failures:
        print(f"done: {filled} {'image' if filled == 1 else 'images'} in {out}/")
        return 0
    sys.stdout.flush()
    for line in failures:
        print(f"failed: {line}", file=sys.stderr)
    skipped = total - filled - len(failures)
    rest = f", {skipped} not tried" if skipped else ""
    print(f"error: {len(failures)} of {total} failed{rest}; {filled} in {out}/", file=sys.stderr)
    return 1


@contextmanager
def _unwinding_on_sigterm() -> Iterator[None]:
    """Lets SIGTERM leave as Ctrl-C does, through the blocks that remove half-written files; exit code 143."""

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(143)

    previous = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
