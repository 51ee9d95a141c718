"""Which files ``igll-infer`` works on: images, their masks and guides, and where results go."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from igll.config import all_keys
from igll.data.files import IMAGE_SUFFIXES, list_images, match_by_stem
from igll.data.tiffs import log_silenced
from igll.engine.picture_io import output_suffix
from igll.errors import InputError
from igll.geo.mask_files import VECTOR_SUFFIXES
from igll.launch import launch

SCENE_SUFFIXES = (".tif", ".tiff", ".jp2", ".img", ".vrt")
_TIFF = (".tif", ".tiff")


@dataclass(frozen=True)
class Share:
    """Which part of the images this process fills: every ``count``-th, from number ``number`` on.

    Attributes:
        number: From 1 to ``count``.
        count: Number of parts.
    """

    number: int = 1
    count: int = 1

    @classmethod
    def of(cls, text: str | None) -> Share:
        """The share that an argument such as ``2/8`` names, or torchrun's environment variables.

        Raises:
            InputError: It is no such thing.
        """
        if text is None:
            rank, size, _ = launch()
            return cls(rank + 1, size)
        number, _, count = text.partition("/")
        if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
            raise InputError(f"--shard {text}: give NUMBER/COUNT, such as 1/8 to 8/8, counted from 1")
        return cls(int(number), int(count))


@dataclass(frozen=True)
class Inputs:
    """What the user named.

    Attributes:
        images: Images, folders of images, or text files that list images, one path a line.
        out: Folder for the results; for a single image also the file.
        masks: A mask for all images, or a folder of masks matched by name.
        quality: As ``masks``: quality rasters; or ``band:N``.
        edges: As ``masks``: edge maps.
        reference: As ``masks``: images of the same place.
    """

    images: Sequence[Path]
    out: Path
    masks: Path | None = None
    quality: str | None = None
    edges: Path | None = None
    reference: Path | None = None

    @property
    def partners(self) -> list[Path]:
        """Files and folders that are never images themselves."""
        quality = Path(self.quality) if self.quality and not self.quality.startswith("band:") else None
        return [path for path in (self.masks, quality, self.edges, self.reference) if path is not None]


@dataclass(frozen=True)
class Job:
    """The files of one image.

    Attributes:
        image: The image.
        out: Its result.
        scene: Whether it is filled as a georeferenced raster, else as a picture.
        mask: Its mask, if one was named.
        quality: Its quality raster, or ``band:N``.
        edges: Its edge map.
        reference: Its reference.
    """

    image: Path
    out: Path
    scene: bool
    mask: Path | None = None
    quality: str | None = None
    edges: Path | None = None
    reference: Path | None = None


def plan_jobs(inputs: Inputs) -> list[Job]:
    """Find every image's files and result, and refuse what would end badly.

    Raises:
        InputError: A file or folder is missing, an image has no mask, or a result would replace an input or
            another result; says which.
    """
    jobs = []
    for root, images in _sources(inputs):
        masks = _partners("mask", images, root, inputs.masks, (*SCENE_SUFFIXES, *VECTOR_SUFFIXES))
        edges = _partners("edge map", images, root, inputs.edges)
        references = _partners("reference", images, root, inputs.reference, SCENE_SUFFIXES)
        qualities = _qualities(images, root, inputs.quality)
        for place, image in enumerate(images):
            scene = is_scene(image)
            out = _target(image, root, inputs.out, scene)
            job = Job(image, out, scene, masks[place], qualities[place], edges[place], references[place])
            jobs.append(job)
    jobs = _to_one_file(jobs, inputs.out)
    for job in jobs:
        _check(job)
    _check_targets(jobs)
    return jobs


def is_scene(image: Path) -> bool:
    """Whether a file is filled as a raster: TIFF and GDAL's other formats, but palette and 1-bit TIFFs.

    Without rasterio a TIFF is filled as a picture, as far as that loses nothing.
    """
    suffix = image.suffix.lower()
    if suffix not in SCENE_SUFFIXES:
        return False
    if suffix not in _TIFF:
        return True
    if importlib.util.find_spec("rasterio") is None:
        return False
    try:
        with warnings.catch_warnings(), log_silenced():
            # Large scenes are no danger: Pillow only reads the header here. GDAL tells of damage.
            warnings.simplefilter("ignore")
            with Image.open(image) as picture:
                return picture.mode not in ("1", "P", "PA")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return True


def _sources(inputs: Inputs) -> list[tuple[Path, list[Path]]]:
    """Images with the folder that their relative paths count from."""
    found: list[tuple[Path, list[Path]]] = []
    for path in inputs.images:
        if path.is_file() and path.suffix.lower() == ".txt":
            found.extend((image.parent, [image]) for image in _listed(path))
        elif path.is_file():
            _check_suffix(path)
            found.append((path.parent, [path]))
        elif not path.exists():
            setting = "=" in path.name or path.name in all_keys()
            hint = "a setting is written key.sub=value" if setting else "check the path"
            raise InputError(f"{path}: no such file or folder; {hint}")
        else:
            images = list_images(path, tuple(dict.fromkeys((*IMAGE_SUFFIXES, *SCENE_SUFFIXES))))
            # Of a folder of results, what marks the synthetic pixels is no image.
            marks = {synthetic_path(image) for image in images}
            images = [image for image in images if image not in marks]
            found.append((path, _without(images, path, [*inputs.partners, inputs.out])))
    return found


def _listed(path: Path) -> list[Path]:
    """Images that a text file lists; relative paths count from its folder."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a list of images ({error})") from None
    images = [path.parent / line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not images:
        raise InputError(f"{path}: lists no image; write one path a line")
    for image in images:
        if not image.is_file():
            raise InputError(f"{path}: lists {image}, which is no file; check the path")
        _check_suffix(image)
    return images


def _check_suffix(image: Path) -> None:
    known = tuple(dict.fromkeys((*IMAGE_SUFFIXES, *SCENE_SUFFIXES)))
    if image.suffix.lower() not in known:
        raise InputError(f"{image}: its name has the ending of no image; known are {', '.join(known)}")


def _without(images: list[Path], root: Path, others: list[Path]) -> list[Path]:
    """Images that do not belong to the masks, guides or results."""
    apart = [path.resolve() for path in others]
    if root.resolve() in apart:
        raise InputError(f"{root}: images need a folder of their own, apart from masks, guides and results")
    kept = [image for image in images if not any(image.resolve().is_relative_to(path) for path in apart)]
    if not kept:
        raise InputError(f"{root}: holds no image besides masks, guides and results")
    return kept


def _partners(
    kind: str, images: list[Path], root: Path, partners: Path | None, suffixes: Sequence[str] = ()
) -> Sequence[Path | None]:
    """One partner file per image, or None for each."""
    if partners is None:
        return [None] * len(images)
    return match_by_stem(images, root, partners, kind, tuple(dict.fromkeys((*IMAGE_SUFFIXES, *suffixes))))


def _qualities(images: list[Path], root: Path, quality: str | None) -> Sequence[str | None]:
    if quality is None or quality.startswith("band:"):
        return [quality] * len(images)
    found = _partners("quality raster", images, root, Path(quality), SCENE_SUFFIXES)
    return [str(path) for path in found]


def _target(image: Path, root: Path, out: Path, scene: bool) -> Path:
    return (out / image.relative_to(root)).with_suffix(".tif" if scene else output_suffix(image))


def _to_one_file(jobs: list[Job], out: Path) -> list[Job]:
    """Take ``out`` for the result itself where it is named like one."""
    suffix = out.suffix.lower()
    if suffix not in (*IMAGE_SUFFIXES, *SCENE_SUFFIXES) or out.is_dir():
        return jobs
    if len(jobs) > 1:
        raise InputError(f"{out}: is named like one image, but there are {len(jobs)}; give a folder as --out")
    (job,) = jobs
    if suffix not in (*_TIFF, ".png") or (suffix in _TIFF) != (job.out.suffix in _TIFF):
        raise InputError(f"{out}: the result of {job.image} is written as {job.out.suffix}; name it so")
    return [Job(job.image, out, job.scene, job.mask, job.quality, job.edges, job.reference)]


def _check(job: Job) -> None:
    """Refuse partners that the image's kind has no use for."""
    if job.scene and job.edges is not None:
        raise InputError(f"{job.image}: a scene takes no edge maps; give another image of it as --reference")
    if not job.scene and job.mask is None:
        raise InputError(
            f"{job.image}: name its hole with --masks; only rasters say themselves what is missing, and "
            "TIFF with a palette or single bits is filled as a picture"
        )
    if not job.scene and job.quality is not None:
        raise InputError(f"{job.image}: --qa is for rasters; give a picture its hole with --masks")


def _check_targets(jobs: list[Job]) -> None:
    """Refuse results that would replace each other or an input."""
    inputs = {
        Path(path).resolve()
        for job in jobs
        for path in (job.image, job.mask, job.quality, job.edges, job.reference)
        if path
    }
    taken: dict[Path, Path] = {}
    for job in jobs:
        for result in (job.out, synthetic_path(job.out)) if job.scene else (job.out,):
            if result in taken:
                raise InputError(
                    f"{taken[result]} and {job.image} would both be written to {result}; rename one of them"
                )
            taken[result] = job.image
            if result.resolve() in inputs:
                raise InputError(f"{result}: is an input and would be overwritten; choose another --out")


def synthetic_path(out: Path) -> Path:
    """Where the raster goes that marks the synthetic pixels of a scene's result."""
    return out.with_name(f"{out.stem}_synthetic.tif")
