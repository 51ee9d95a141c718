"""Shipped weights beside the methods without training, on the same images and holes of several datasets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from igll.baselines import CLASSICAL_TITLES, require_packages
from igll.config import Config, load_config
from igll.data.files import list_images, read_mask
from igll.data.real_masks import write_masks
from igll.engine.edge_maps import sees_ground_truth_edges
from igll.engine.release_tables import Score, write_release_tables
from igll.engine.results import load_results
from igll.engine.reuse import is_measured, measure
from igll.engine.trained import load_generator
from igll.engine.weights_source import WeightsSource, find_weights
from igll.errors import InputError
from igll.metrics import average
from igll.storage import make_folder


class Family(NamedTuple):
    """Holes of one sort.

    Attributes:
        title: What tables call it.
        rules: Settings that make the holes; empty where they are cut out of mask files.
    """

    title: str
    rules: tuple[str, ...] = ()


# With 256 pixels the sets of the same names in docs/protocols.md.
FAMILIES: dict[str, Family] = {
    "square10": Family("square 10 %", ("mask.kind=square", "mask.ratio=0.1", "mask.placement=paper")),
    "square25": Family("square 25 %", ("mask.kind=square", "mask.ratio=0.25", "mask.placement=paper")),
    "square77": Family("square 77 %", ("mask.kind=square", "mask.ratio=0.77", "mask.placement=paper")),
    "irregular25": Family("irregular 25 %", ("mask.kind=irregular", "mask.ratio=0.25")),
    "clouds": Family("real clouds"),
    "gaps": Family("real SLC-off gaps"),
}


class ReleaseRequest(NamedTuple):
    """What to measure.

    Attributes:
        config: YAML of the task.
        out: Folder of everything.
        data: Name of a dataset → its folder of images.
        masks: Family without rules → mask files that its holes are cut out of; families that are not here
            are left out.
        networks: Name → weights, whatever :func:`igll.load` takes; the first is the one that the others are
            compared with.
        methods: Methods without training, in the order in which they are measured.
        limits: Method → number of images of each dataset, evenly spread, that it is measured on.
        steps: What to do, out of ``networks``, ``methods`` and ``tables``.
        overrides: ``key.sub=value`` for all.
    """

    config: Path
    out: Path
    data: Mapping[str, Path]
    masks: Mapping[str, Sequence[Path]]
    networks: Mapping[str, str | Path]
    methods: Sequence[str]
    limits: Mapping[str, int]
    steps: Sequence[str] = ("networks", "methods", "tables")
    overrides: Sequence[str] = ()


class _Task(NamedTuple):
    """One evaluation: a network's or a method's, on a family of holes in a dataset."""

    dataset: str
    family: str
    name: str
    folder: Path
    config: Config
    checkpoint: WeightsSource | None


def release_scores(request: ReleaseRequest) -> int:
    """Measure networks, then methods, and write the tables; what is measured already is left as it is.

    A method's evaluations do not depend on the weights: with others, only the network is measured again.
    Below ``out``: ``masks/``, ``methods/DATASET/FAMILY/METHOD``, ``networks/NAME-HASH/DATASET/FAMILY`` and
    ``release_scores.md``, ``.csv`` and ``.json``.

    Returns:
        0.

    Raises:
        InputError: If the input has to change, or the first network is given edges of the ground truth: blind
            and oracle never share a table; see the message.
    """
    if not request.networks and set(request.steps) != {"methods"}:
        raise InputError("--checkpoint: nothing to compare the methods with; name the weights")
    networks = {name: find_weights(given) for name, given in request.networks.items()}
    origins = _origins(networks)
    require_packages(request.methods)
    make_folder(request.out)
    _mean_share.cache_clear()  # the images, and with them the masks, may be others since
    families = [name for name, family in FAMILIES.items() if family.rules or request.masks.get(name)]
    holes = {
        (dataset, family): _holes(request, dataset, family) for dataset in request.data for family in families
    }
    tasks = [*_network_tasks(request, networks, holes), *_method_tasks(request, holes)]
    measured: list[_Task] = []
    missing: list[_Task] = []
    for number, task in enumerate(tasks, start=1):
        wanted = ("methods" if task.checkpoint is None else "networks") in request.steps
        source = task.checkpoint
        # The folder of a network carries the hash of its weights, so a newer date of the file says nothing.
        there = is_measured(task.folder, task.config, None)
        if wanted and not there:
            print(f"\n{number} of {len(tasks)}: {task.name}, {task.dataset}, {task.family}", flush=True)
            measure(task.config, None if source is None else source.named, task.folder)
        (measured if wanted or there else missing).append(task)
    if "tables" in request.steps:
        scores = [_score(task) for task in measured]
        notes = [f"Not measured yet: {task.name} on {task.dataset}, {task.family}." for task in missing]
        write_release_tables(scores, next(iter(request.networks)), request.out, origins, notes)
    return 0


def _holes(request: ReleaseRequest, dataset: str, family: str) -> tuple[str, ...]:
    """The settings that make a family's holes on a dataset; writes those that are cut out of files."""
    rules = FAMILIES[family].rules
    if rules:
        return rules
    folder = request.data[dataset]
    masks = write_masks(folder, request.masks[family], request.out / "masks" / dataset / family)
    return ("mask.kind=files", f"mask.root={_quoted(masks.resolve())}")


def network_folder(out: Path, name: str, checkpoint: WeightsSource) -> Path:
    """Where a network's evaluations are; weights of another content have a folder of their own.

    Raises:
        InputError: The weights cannot be read.
    """
    word = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)
    return out / "networks" / f"{word}-{checkpoint.sha256[:8]}"


def _network_tasks(
    request: ReleaseRequest,
    networks: Mapping[str, WeightsSource],
    holes: Mapping[tuple[str, str], Sequence[str]],
) -> Iterator[_Task]:
    """Every network on every dataset and family."""
    for name, checkpoint in networks.items():
        folder = network_folder(request.out, name, checkpoint)
        for (dataset, family), rules in holes.items():
            config = _config(request, dataset, [*rules, "eval.floors=[]"])
            yield _Task(dataset, family, name, folder / dataset / family, config, checkpoint)


def _method_tasks(request: ReleaseRequest, holes: Mapping[tuple[str, str], Sequence[str]]) -> Iterator[_Task]:
    """Every method on every dataset and family; a method is through with all before the next one begins."""
    for method in request.methods:
        own = [f"eval.floors=[{method}]"]
        if method in request.limits:
            own.append(f"data.test_limit={request.limits[method]}")
        for (dataset, family), rules in holes.items():
            folder = request.out / "methods" / dataset / family / method
            config = _config(request, dataset, [*rules, *own])
            yield _Task(dataset, family, CLASSICAL_TITLES[method], folder, config, None)


def _config(request: ReleaseRequest, dataset: str, rules: Sequence[str]) -> Config:
    place = f"data.val_root={_quoted(request.data[dataset].resolve())}"
    return load_config(request.config, [*request.overrides, place, *rules])


def _score(task: _Task) -> Score:
    """An evaluation under the name that tables have for it."""
    results = load_results(task.folder)
    method = next(iter(results.methods.values()))
    return Score(task.dataset, _title(task), task.name, task.checkpoint is not None, results, method)


def _title(task: _Task) -> str:
    """What tables call the holes; of those cut out of files with their mean share of missing pixels."""
    title = FAMILIES[task.family].title
    if task.config.mask.root is None:
        return title
    return f"{title}, {100 * _mean_share(Path(task.config.mask.root)):.0f} %"


@cache
def _mean_share(masks: Path) -> float:
    return average([float(read_mask(path).mean()) for path in list_images(masks)])


def _origins(networks: Mapping[str, WeightsSource]) -> list[str]:
    """Which files the networks came from, one line each.

    Raises:
        InputError: The first, with which the others are compared, is given edges of the ground truth.
    """
    lines: list[str] = []
    for name, source in networks.items():
        _, trained, step = load_generator(source.path)
        if not lines and sees_ground_truth_edges(trained):
            raise InputError(
                f"{source.named}: is given the ground truth's edges; name blind weights as --checkpoint, "
                "and these with --also"
            )
        prior, digest = trained.model.structure_prior, source.sha256[:16]
        lines.append(f"{name}: `{source.title}`, SHA-256 {digest}…, {step:,} steps, structure prior {prior}.")
    return lines


def _quoted(path: Path) -> str:
    """A path as YAML text, whatever is in its name."""
    return "'" + str(path).replace("'", "''") + "'"
