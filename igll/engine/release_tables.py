"""Tables of shipped weights beside the methods without training: each cell, and one line for each of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from igll.engine.compare import PairedDifference, paired_difference
from igll.engine.results import MethodResults, Results, require_same_task
from igll.errors import InputError
from igll.metrics import HIGHER_IS_BETTER, standard_error
from igll.report.files import write_csv, write_json, write_text
from igll.report.tables import ORACLE_NOTE, Column, markdown_table

NAME = "release_scores"
PAIRED = {"psnr_hole": 2, "lpips": 3}  # shown with their differences, and with how many digits
_PAIRED_PARTS = ("difference", "low", "high")


class Score(NamedTuple):
    """One network or method on one family of holes in one dataset.

    Attributes:
        dataset: Its name.
        holes: What tables call the family.
        name: What tables call the network or method.
        network: Whether it is a network.
        results: The evaluation, of this network or method alone.
        method: Its values.
    """

    dataset: str
    holes: str
    name: str
    network: bool
    results: Results
    method: MethodResults

    @property
    def images(self) -> int:
        """Number of images."""
        return len(self.results.images)


@dataclass(frozen=True)
class Cell:
    """All that was measured without oracle edges on one family of holes in one dataset.

    Attributes:
        dataset: Its name.
        holes: What tables call the family.
        scores: Networks first, then the methods, those of most images first and of these the best.
        reference: The network that the others are compared with; None if it was not measured.
        differences: Name → metric → score minus reference, on the images that both have.
    """

    dataset: str
    holes: str
    scores: list[Score]
    reference: Score | None
    differences: dict[str, dict[str, PairedDifference]] = field(default_factory=dict)

    @property
    def images(self) -> int:
        """Number of images that most were measured on."""
        return max(score.images for score in self.scores)

    def best(self, metric: str, networks: bool = True) -> Score | None:
        """The best score by the difference from the reference: that way, fewer images are no advantage.

        Args:
            metric: Out of ``PAIRED``.
            networks: Whether networks take part.
        """
        if self.reference is None or math.isnan(self.reference.method.means.get(metric, math.nan)):
            return None
        sign = 1 if HIGHER_IS_BETTER[metric] else -1
        ranked = [(0.0, self.reference)] if networks else []
        for score in self.scores:
            found = self.differences.get(score.name, {}).get(metric)
            if found and not math.isnan(found.difference) and (networks or not score.network):
                ranked.append((sign * found.difference, score))
        return max(ranked, key=lambda pair: pair[0])[1] if ranked else None


def write_release_tables(
    scores: Sequence[Score], reference: str, out: Path, origins: Sequence[str], notes: Sequence[str]
) -> list[Cell]:
    """Write ``release_scores.md``, ``.csv`` and ``.json`` and print the summary.

    Networks that were given edges of the ground truth stand in tables of their own, and are compared with
    nothing.

    Args:
        scores: All that was measured.
        reference: The network that the others are compared with.
        out: Folder for the files.
        origins: Lines that say what the networks are.
        notes: Lines below the summary, such as what is not measured yet.

    Returns:
        The cells, without oracle edges.

    Raises:
        InputError: Evaluations of one cell differ in images, crop, holes or metrics.
    """
    places = dict.fromkeys((score.dataset, score.holes) for score in scores)
    cells, oracle = [], []
    for place in places:
        here = [score for score in scores if (score.dataset, score.holes) == place]
        blind = [score for score in here if not score.method.oracle]
        oracle += [score for score in here if score.method.oracle]
        if blind:
            cells.append(_cell(blind, reference))
    text = _document(cells, oracle, reference, origins, notes)
    write_text(out / f"{NAME}.md", text)
    rows = [row for cell in cells for row in _records(cell)]
    apart = [_record(score) for score in oracle]
    write_csv(out / f"{NAME}.csv", rows + apart)
    summary = [_summary_record(cell) for cell in cells]
    content = {"reference": reference, "origins": list(origins), "summary": summary, "rows": rows}
    write_json(out / f"{NAME}.json", content | {"oracle_edges": apart})
    print(f"{_summary(cells, reference)}\nwritten below {out}: {NAME}.md, {NAME}.csv, {NAME}.json")
    return cells


def _cell(scores: Sequence[Score], reference: str) -> Cell:
    """The scores of one place, in the order of the table, with their differences."""
    _check_same_task(scores)
    ordered = sorted(scores, key=lambda score: (score.network, score.images, _quality(score)), reverse=True)
    first = next((score for score in scores if score.name == reference), None)
    cell = Cell(scores[0].dataset, scores[0].holes, ordered, first)
    if first is None:
        return cell
    ordered.insert(0, ordered.pop(ordered.index(first)))
    for score in ordered[1:]:
        cell.differences[score.name] = {
            metric: _difference(first, score, metric, score.results.images)
            for metric in score.method.values
            if metric in first.method.values
        }
    return cell


def _check_same_task(scores: Sequence[Score]) -> None:
    """Refuse evaluations of unlike tasks; one of fewer images is like if they are among the others'."""
    most = max(scores, key=lambda score: score.images)
    for score in scores:
        if score.images == most.images:
            require_same_task([most.results, score.results])
            continue
        one, other = most.results.protocol, score.results.protocol
        others = set(score.results.images) - set(most.results.images)
        if others or (one.crop, one.metrics) != (other.crop, other.metrics):
            raise InputError(
                f"{score.results.folder}: was measured on other images, crops or metrics than "
                f"{most.results.folder}; delete one and measure again"
            )


def _quality(score: Score) -> float:
    value = score.method.means.get("psnr_hole", math.nan)
    return -math.inf if math.isnan(value) else value


def _difference(one: Score, other: Score, metric: str, images: Sequence[str]) -> PairedDifference:
    """Other minus one on some images that both have."""
    a, b = (_on(score, metric, images) for score in (one, other))
    return paired_difference(a, b, HIGHER_IS_BETTER[metric])


def _on(score: Score, metric: str, images: Sequence[str]) -> np.ndarray:
    """A score's values of some images, in their order."""
    places = {image: place for place, image in enumerate(score.results.images)}
    return score.method.values[metric][[places[image] for image in images]]


def _document(
    cells: Sequence[Cell],
    oracle: Sequence[Score],
    reference: str,
    origins: Sequence[str],
    notes: Sequence[str],
) -> str:
    """All tables as Markdown."""
    parts = ["\n".join(f"- {line}" for line in origins)]
    parts.append(
        f"Means over the images ± standard error, on 8-bit composites{_lpips_net(cells)}. Differences are "
        "paired, image by image, with the 95 % interval of their mean from 10,000 bootstrap resamples (BCa). "
        f"In the summary they are {reference} − method: PSNR above 0 and LPIPS below 0 say that {reference} "
        f"is ahead. In the other tables they are method − {reference}. The best method without training is "
        "chosen by what is measured here, for each cell and metric anew."
    )
    parts.append(f"## Summary\n\n{_summary(cells, reference).rstrip()}")
    if notes:
        parts.append("\n".join(f"- {note}" for note in notes))
    parts += [_cell_table(cell, reference) for cell in cells]
    if oracle:
        parts.append(_oracle_table(oracle))
    return "\n\n".join(parts) + "\n"


def _lpips_net(cells: Sequence[Cell]) -> str:
    """A word on LPIPS' trunk, if it was measured."""
    nets = {cell.scores[0].results.protocol.metrics.get("lpips_net") for cell in cells} - {None}
    return f"; LPIPS with {'/'.join(sorted(map(str, nets)))}" if nets else ""


def _summary(cells: Sequence[Cell], reference: str) -> str:
    """One line for each cell: who is best, and how far the reference is from the best without training."""
    columns = [
        Column("data", "images"),
        Column("holes", "holes"),
        Column("best_psnr_hole", "best PSNR hole ↑"),
        Column("best_lpips", "best LPIPS ↓"),
        Column("margin_psnr_hole", f"{reference} − best without training, PSNR hole, dB"),
        Column("margin_lpips", "the same, LPIPS"),
    ]
    rows = []
    for cell in cells:
        row: dict[str, Any] = {"data": f"{cell.dataset} ({cell.images})", "holes": cell.holes}
        for metric in PAIRED:
            row[f"best_{metric}"] = _named(cell.best(metric), metric)
            free = cell.best(metric, networks=False)
            found = _margin(cell, free, metric)
            row[f"margin_{metric}"] = "n/a"
            if free is not None and found is not None:
                row[f"margin_{metric}"] = f"{_interval(found, metric)} ({free.name}{_few(free, cell)})"
        rows.append(row)
    return markdown_table(rows, columns)


def _summary_record(cell: Cell) -> dict[str, Any]:
    """The summary's line as unrounded numbers."""
    record: dict[str, Any] = {"dataset": cell.dataset, "holes": cell.holes, "images": cell.images}
    for metric in PAIRED:
        best, free = cell.best(metric), cell.best(metric, networks=False)
        record[f"best_{metric}"] = best and best.name
        record[f"best_without_training_{metric}"] = free and free.name
        found = _margin(cell, free, metric)
        if found is not None:
            record |= {f"margin_{metric}_{part}": getattr(found, part) for part in _PAIRED_PARTS}
            record[f"margin_{metric}_images"] = found.images
    return record


def _margin(cell: Cell, free: Score | None, metric: str) -> PairedDifference | None:
    """Reference minus a method without training, on the images that both have."""
    if free is None or cell.reference is None:
        return None
    return _difference(free, cell.reference, metric, free.results.images)


def _named(score: Score | None, metric: str) -> str:
    if score is None:
        return "n/a"
    return f"{score.name} {score.method.means[metric]:.{PAIRED[metric]}f}"


def _few(score: Score, cell: Cell) -> str:
    """A word on a score of fewer images than the others'."""
    return f", {score.images} images" if score.images < cell.images else ""


def _interval(found: PairedDifference, metric: str) -> str:
    """A difference and its interval as tables show them."""
    if math.isnan(found.low):
        return "n/a"
    low, value, high = (
        f"{number:+.{PAIRED[metric]}f}" for number in (found.low, found.difference, found.high)
    )
    return f"{value} [{low}, {high}]"


def _cell_table(cell: Cell, reference: str) -> str:
    """One cell as Markdown: means, standard errors, differences from the reference."""
    best = {metric: cell.best(metric) for metric in PAIRED}
    rows, few = [], False
    for score in cell.scores:
        bold = {metric for metric, winner in best.items() if winner is score and score.images == cell.images}
        row = _printed_means(score, bold)
        if score.images < cell.images:
            row["method"] += f" ‡ ({score.images})"
            few = True
        for metric in PAIRED:
            found = cell.differences.get(score.name, {}).get(metric)
            row[f"paired_{metric}"] = "–" if found is None else _interval(found, metric)
        rows.append(row)
    columns = [
        *_MEANS,
        Column("paired_psnr_hole", f"PSNR hole − {reference}'s, 95 %"),
        Column("paired_lpips", f"LPIPS − {reference}'s, 95 %"),
    ]
    task = max(cell.scores, key=lambda score: score.images).results.protocol.task_sha256[:12]
    head = f"## {cell.dataset}, {cell.holes}\n\n{cell.images} images, task {task}."
    foot = (
        "\n‡ On so many of the images, evenly spread; means and difference are of these alone.\n"
        if few
        else ""
    )
    return f"{head}\n\n{markdown_table(rows, columns)}{foot}".rstrip()


_MEANS = [
    Column("method", "method"),
    Column("psnr_hole", "PSNR hole ↑"),
    Column("psnr", "PSNR ↑"),
    Column("ssim", "SSIM ↑"),
    Column("lpips", "LPIPS ↓"),
]
_DIGITS = {"psnr_hole": 2, "psnr": 2, "ssim": 3, "lpips": 3}


def _printed_means(score: Score, bold: set[str]) -> dict[str, Any]:
    """Means with their standard errors, as words."""
    row: dict[str, Any] = {"method": score.name}
    for metric, digits in _DIGITS.items():
        mean = score.method.means.get(metric, math.nan)
        if math.isnan(mean):
            row[metric] = "n/a"
            continue
        error = standard_error(score.method.values[metric].tolist())
        text = f"**{mean:.{digits}f}**" if metric in bold else f"{mean:.{digits}f}"
        row[metric] = f"{text} ± {error:.{digits}f}"
    return row


def _oracle_table(scores: Sequence[Score]) -> str:
    """What was given the ground truth's edges, by itself."""
    rows = [
        _printed_means(score, set()) | {"place": f"{score.dataset} ({score.images}), {score.holes}"}
        for score in scores
    ]
    table = markdown_table(rows, [Column("place", "images, holes"), *_MEANS])
    return f"## Oracle edges\n\n{ORACLE_NOTE}\n\n{table.rstrip()}"


def _records(cell: Cell) -> list[dict[str, Any]]:
    """One flat mapping per score, unrounded, with differences from the reference."""
    records = []
    for score in cell.scores:
        record = _record(score)
        for metric, found in cell.differences.get(score.name, {}).items():
            record |= {f"{metric}_{part}": getattr(found, part) for part in _PAIRED_PARTS}
            record[f"{metric}_reference"] = found.mean_a
        records.append(record)
    return records


def _record(score: Score) -> dict[str, Any]:
    """What was measured, unrounded."""
    record: dict[str, Any] = {
        "dataset": score.dataset,
        "holes": score.holes,
        "method": score.name,
        "network": score.network,
        "oracle_edges": score.method.oracle,
        "images": score.images,
        "task_sha256": score.results.protocol.task_sha256,
    }
    for metric, values in score.method.values.items():
        record[metric] = score.method.means[metric]
        record[f"{metric}_standard_error"] = standard_error(values.tolist())
    return record
