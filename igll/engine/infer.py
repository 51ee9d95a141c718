"""Filling the holes of image files and of georeferenced scenes (``igll-infer``)."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Literal, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from igll.data.files import read_image, read_mask
from igll.data.masks import grow_hole
from igll.engine.fillers import Filler, MethodFiller, NetworkFiller
from igll.engine.infer_plan import Inputs, Job, Share, plan_jobs
from igll.engine.large_picture import fill_in_tiles, fills_in_tiles
from igll.engine.pasted import PASTED, PastedReference
from igll.engine.picture_io import Picture, read_picture, write_picture
from igll.engine.scene import SceneOptions, fill_scene
from igll.engine.scene_work import work_path
from igll.engine.weights_source import find_weights
from igll.errors import InputError, OutputError, interruptions_first
from igll.geo.holes import HoleSources
from igll.inpainter import Inpainter
from igll.launch import launch
from igll.method_inpainter import MethodInpainter
from igll.schema import ClassicalName
from igll.storage import make_folder

# After these, no later image could be written either.
_HOPELESS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@dataclass(frozen=True)
class InferRequest:
    """What to fill, and with what.

    Attributes:
        inputs: The images, their masks and guides, and where results go.
        checkpoint: Whatever :func:`igll.load` takes, None for the best weights that ship with igll; or else
        method: A method without training, or ``PASTED``: the reference itself, in the scene's colours.
        hole: What marks a missing pixel in a mask: ``white``, ``black`` or ``nonzero``; by default white in
            a picture's mask, nonzero in a scene's.
        scenes: How georeferenced scenes are filled; their masks are those of ``inputs``.
        share: The part of the images that is filled.
        overrides: ``device=…``, ``eval.weights=…``, ``eval.amp=…``, ``edges.*=…``.
    """

    inputs: Inputs
    checkpoint: str | Path | None = None
    method: ClassicalName | Literal["pasted_reference"] | None = None
    hole: str | None = None
    scenes: SceneOptions = field(default_factory=lambda: SceneOptions(HoleSources()))
    share: Share = field(default_factory=Share)
    overrides: Sequence[str] = ()


def infer(request: InferRequest) -> int:
    """Fill every image; one that cannot be filled does not stop the others.

    Known pixels of the written files are read back and compared bit by bit with the input's.

    Returns:
        0 if all are filled; 1 if some failed, after listing them on stderr.

    Raises:
        InputError: Nothing can start: a missing file or folder, an image without mask, two images with one
            result, weights that cannot be used, an oracle model without guide.
    """
    every = plan_jobs(request.inputs)
    _check_pictures(every, request.scenes)
    jobs = every[request.share.number - 1 :: request.share.count]
    if not jobs:
        print(f"done: nothing to do for part {request.share.number} of {request.share.count}")
        return 0
    inpainter, filler = _model(request, every)
    make_folder(every[0].out.parent if len(every) == 1 else request.inputs.out)

    failures: list[str] = []
    filled = 0
    with _leaving_cleanly(jobs):
        for job in tqdm(jobs, desc="images", unit="image", disable=len(jobs) == 1 and jobs[0].scene):
            try:
                if job.scene:
                    _fill_scene(filler, job, request)
                else:
                    _fill_picture(inpainter, filler, job, request)
                filled += 1
            except (InputError, OutputError) as error:
                if len(every) == 1:
                    raise
                failures.append(_named(job, str(error)))
                if isinstance(error.__cause__, OSError) and error.__cause__.errno in _HOPELESS:
                    break
            except (MemoryError, RuntimeError) as error:
                if not _memory_ran_out(error):
                    raise
                failures.append(f"{job.image}: not enough memory to fill it; {_smaller(job)}")
                if len(every) == 1:
                    raise OutputError(failures[0]) from error
    return _report(request.inputs.out, filled, len(jobs), failures)


def _model(request: InferRequest, jobs: Sequence[Job]) -> tuple[Inpainter | None, Filler]:
    """What fills pictures, and what fills scenes: the same model."""
    inputs = request.inputs
    if request.method is not None and request.overrides:
        raise InputError(
            f"'{request.overrides[0]}': --method {request.method} has no settings; leave it out, or name the "
            "image by its path"
        )
    if request.method == PASTED:
        if inputs.reference is None:
            raise InputError(f"--method {PASTED}: name the image that is to be pasted with --reference")
        for job in jobs:
            if not job.scene:
                raise InputError(f"{job.image}: --method {PASTED} is for scenes, and this is a picture")
        return None, PastedReference()
    if request.method is not None:
        inpainter: Inpainter = MethodInpainter(request.method)
        filler: Filler = MethodFiller(request.method)
    else:
        source = find_weights(request.checkpoint)
        inpainter = Inpainter.from_checkpoint(source.path, _on_own_gpu(request.overrides))
        filler = NetworkFiller(inpainter, source)
        if request.checkpoint is None and launch().rank == 0:
            print(f"fills with {source.title}, which ships with igll; --checkpoint and --method name others")
    try:
        inpainter.check_guide(inputs.edges is not None, inputs.reference is not None)
    except InputError as error:
        raise InputError(f"{filler.name}: {error}") from None
    if inputs.reference is not None:
        _ = inpainter.detector  # missing weights are found now, not at every image
    return inpainter, filler


def _on_own_gpu(overrides: Sequence[str]) -> list[str]:
    """Under torchrun, every process of a machine takes the GPU of its local rank."""
    chosen = any(override.partition("=")[0].strip() == "device" for override in overrides)
    if chosen or "LOCAL_RANK" not in os.environ or not torch.cuda.is_available():
        return list(overrides)
    return [*overrides, f"device=cuda:{launch().local_rank % torch.cuda.device_count()}"]


def _fill_picture(inpainter: Inpainter | None, filler: Filler, job: Job, request: InferRequest) -> None:
    """Read, fill, write and check one picture."""
    # Narrows: pictures without a mask, or with what fills scenes alone, are refused before.
    assert inpainter is not None and job.mask is not None  # noqa: S101
    picture = read_picture(job.image)
    mask_HW = _hole(job.mask, job.image, picture.image, request)
    if job.edges is None and job.reference is None and mask_HW.any() and fills_in_tiles(picture.image):
        image = fill_in_tiles(picture.image, mask_HW, job.out, request.scenes, filler)
    else:
        edge_HW = None if job.edges is None else read_image(job.edges, channels=1)[:, :, 0]
        # As stored: a stretch that the model was trained with is the reference's too.
        reference = None if job.reference is None else read_picture(job.reference).image
        try:
            image = inpainter.inpaint(picture.image, mask_HW, edges=edge_HW, reference=reference)
        except InputError as error:
            raise InputError(f"{job.image}: {error}") from None
    write_picture(job.out, Picture(image, picture.extras), picture.image, mask_HW)
    if not mask_HW.any():
        tqdm.write(f"{job.image}: nothing to fill, as {job.mask} marks nothing; copied to {job.out}")


def _hole(mask: Path, path: Path, image: Image.Image, request: InferRequest) -> NDArray[np.bool_]:
    """The hole that a picture's mask marks: hole_HW."""
    hole_HW = read_mask(mask, request.hole or "white")
    (height, width), size = hole_HW.shape, (image.height, image.width)
    if (height, width) != size:
        raise InputError(
            f"{mask}: {height}×{width} pixels (height × width), but {path} has {size[0]}×{size[1]}; "
            "give a mask of the image's size"
        )
    if hole_HW.all():
        raise InputError(
            f"{mask}: marks every pixel as missing, so nothing is known to fill from; "
            "check which colour marks the hole (--hole)"
        )
    grown_HW = grow_hole(hole_HW, request.scenes.sources.dilate)
    if grown_HW.all():
        raise InputError(
            f"{mask}: --dilate {request.scenes.sources.dilate} grows its holes over the whole image; "
            "give a smaller number"
        )
    return grown_HW


def _fill_scene(filler: Filler, job: Job, request: InferRequest) -> None:
    """Fill one scene, and say how much of it."""
    hole = None if job.mask is None else request.hole
    sources = replace(request.scenes.sources, masks=job.mask, hole=hole, quality=job.quality)
    result = fill_scene(job.image, job.out, replace(request.scenes, sources=sources), filler, job.reference)
    counts = result.counts
    if result.note:
        tqdm.write(f"{job.image}: {result.note}")
    if counts is None:
        tqdm.write(f"{job.out}: is there already, of the same request; left as it is")
        return
    left = ""
    if counts.void:
        how = "--collar fill fills" if sources.fills_nodata else "--nodata fills gaps among"
        left = f"; {counts.void:,} without a value stay so ({how} them)"
    filled = counts.hole + counts.gap
    total = filled + counts.known + counts.void
    if filled:
        tqdm.write(f"{job.out}: {filled:,} of {total:,} pixels filled ({filled / total:.2%}){left}")
    else:
        tqdm.write(f"{job.image}: nothing to fill; copied to {job.out}{left}")


def _named(job: Job, message: str) -> str:
    """One line that starts with a file's path."""
    paths = (job.image, job.out, job.mask, job.reference, job.quality)
    return message if message.startswith(tuple(f"{path}:" for path in paths)) else f"{job.image}: {message}"


def _smaller(job: Job) -> str:
    return (
        "choose a smaller --tile" if job.scene else "choose a smaller --tile, or cut it into smaller images"
    )


def _memory_ran_out(error: MemoryError | RuntimeError) -> bool:
    """CUDA raises its own type; the CPU allocator a bare RuntimeError."""
    out_of_memory = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    return out_of_memory or "allocate memory" in str(error)


def _report(out: Path, filled: int, total: int, failures: list[str]) -> int:
    """Say what happened, and return the exit code."""
    if not failures:
        where = out if out.is_file() else f"{out}/"
        print(f"done: {filled} {'image' if filled == 1 else 'images'} in {where}")
        return 0
    sys.stdout.flush()
    for line in failures:
        print(f"failed: {line}", file=sys.stderr)
    skipped = total - filled - len(failures)
    rest = f", {skipped} not tried" if skipped else ""
    print(f"error: {len(failures)} of {total} failed{rest}; {filled} in {out}/", file=sys.stderr)
    return 1


def _check_pictures(jobs: Sequence[Job], scenes: SceneOptions) -> None:
    """Refuse options that would be without effect."""
    sources = scenes.sources
    given = {
        "--clouds": sources.clouds, "--nodata": sources.nodata, "--collar": sources.collar != "keep",
        "--cog": scenes.cog, "--stretch": scenes.stretch != "auto",
    }  # fmt: skip
    named = ", ".join(name for name, is_given in given.items() if is_given)
    for job in jobs:
        if named and not job.scene:
            raise InputError(f"{job.image}: is filled as a picture, and {named} is for scenes; leave it out")


@contextmanager
def _leaving_cleanly(jobs: Sequence[Job]) -> Iterator[None]:
    """SIGTERM leaves as Ctrl-C does, through the blocks that remove half-written files; exit codes 143, 130.

    Where there are scenes, or work on a large picture is left, it is told how to go on.
    """

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(143)

    previous = signal.signal(signal.SIGTERM, leave)
    try:
        with interruptions_first():
            yield
    except (KeyboardInterrupt, SystemExit) as end:
        resumable = any(job.scene or work_path(job.out).is_dir() for job in jobs)
        again = "; run the same command again to go on" if resumable else ""
        sys.stdout.flush()
        print(f"error: interrupted{again}", file=sys.stderr)
        raise SystemExit(end.code if isinstance(end, SystemExit) else 130) from None
    finally:
        signal.signal(signal.SIGTERM, previous)
