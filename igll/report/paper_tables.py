"""The paper's tables with measured values beside the printed ones.

A cell without a run says "not run". A difference is taken only where the run followed the paper's protocol;
where it did not, a footnote says in what. Runs that were measured in different ways never share a table.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from igll.errors import InputError
from igll.metrics.names import HIGHER_IS_BETTER
from igll.report.files import write_csv, write_json, write_text
from igll.report.latex import escape
from igll.report.paper import METHODS, METRICS, TABLE2, TABLE2_NOTES, TABLE4, TABLE4_NOTES
from igll.report.tables import ORACLE_MARK, ORACLE_NOTE

Result = Mapping[str, Any]  # the content of a metrics.json

NETWORK = "IGLL"  # its name among a result's methods
NOT_RUN = "not run"
_NO_VALUE = "–"
_TITLES = {"ms_ssim": "MS-SSIM", "psnr": "PSNR", "fid": "FID", "lpips": "LPIPS"}
_PAPERS_EDGES = (
    "The paper's own values for IGLL are with oracle edges, as far as the code released with it tells, but "
    "for the row without structure prior."
)
_DATA_NAMES = {"AID": "aid", "RICE": "rice1", "Clear-View": "clearview"}
# What must be the same in all runs of one table; a dataset has its own folder and a hole its own ratio.
_SHARED = ("weights", "lpips_net")
_SHARED_DATA = ("use", "crop_size", "test_crop", "test_fraction", "split_seed", "test_limit")
_SHARED_MASK = ("kind", "placement")


@dataclass
class Line:
    """One line of a table.

    Attributes:
        labels: Text of the first columns.
        paper: The paper's values, by metric.
        result: What was measured, or None if there is no run.
        method: Which of the result's methods this line is about.
        dataset: The paper's name of the dataset.
        percent: Missing pixels in the paper's protocol, in percent.
        prior: The network's structure prior in the paper.
        notes: Footnotes on the paper's values, by metric.
    """

    labels: tuple[str, ...]
    paper: Mapping[str, float]
    result: Result | None
    method: str = NETWORK
    dataset: str = "AID"
    percent: int = 25
    prior: str = "oracle"
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def measured(self) -> Mapping[str, Any]:
        """What was measured of the method; empty without a run."""
        return {} if self.result is None else self.result["methods"][self.method]

    @property
    def oracle(self) -> bool:
        """Whether the measured method was given edges of the ground truth."""
        return bool(self.measured.get("oracle_edges"))


@dataclass
class PaperTable:
    """A table of measured and printed values, ready to be written.

    Attributes:
        name: Name of its files.
        caption: What was measured on what.
        heads: Headings of the first columns.
        lines: Its lines.
        digits: Digits after the decimal point, as the paper prints them.
        mixed: One line per pair of runs that are unlike and stand in it all the same.
    """

    name: str
    caption: str
    heads: tuple[str, ...]
    lines: list[Line]
    digits: int
    mixed: Sequence[str] = ()

    @property
    def heading(self) -> str:
        """The caption, with a warning if the runs are unlike."""
        return self.caption + (" MIXED: other runs differ, see below." if self.mixed else "")

    def markdown(self) -> str:
        """Caption, table and footnotes; readable as plain text too."""
        cells, notes = self._cells()
        heads = [*self.heads, *(title for metric in METRICS for title in (_title(metric), "paper", "diff."))]
        widths = [max(3, *(len(line[index]) for line in [heads, *cells])) for index in range(len(heads))]
        words = len(self.heads)
        lines = [
            [text.ljust(width) if index < words else text.rjust(width) for index, (text, width) in pairs]
            for pairs in (list(enumerate(zip(line, widths, strict=True))) for line in [heads, *cells])
        ]
        rule = ["-" * (width - 1) + ("-" if index < words else ":") for index, width in enumerate(widths)]
        table = "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], rule, *lines[1:]])
        return "\n\n".join([self.heading, table, *(["  \n".join(notes)] if notes else [])]) + "\n"

    def latex(self) -> str:
        """A ``table`` environment; needs the packages booktabs and, for its footnotes' size, nothing else."""
        cells, notes = self._cells()
        words, groups = len(self.heads), len(METRICS)
        rules = " ".join(
            f"\\cmidrule(lr){{{words + 1 + 3 * index}-{words + 3 + 3 * index}}}" for index in range(groups)
        )
        titles = [f"\\multicolumn{{3}}{{c}}{{{escape(_title(metric))}}}" for metric in METRICS]
        return "\n".join(
            [
                "\\begin{table}",
                f"\\caption{{{escape(self.heading)}}}",
                f"\\begin{{tabular}}{{{'l' * words}{'rrr' * groups}}}",
                "\\toprule",
                f"{' & '.join([*[''] * words, *titles])} \\\\",
                rules,
                f"{' & '.join([*map(escape, self.heads), *('measured', 'paper', 'diff.') * groups])} \\\\",
                "\\midrule",
                *(f"{' & '.join(map(escape, line))} \\\\" for line in cells),
                "\\bottomrule",
                "\\end{tabular}",
                *(f"\\par{{\\footnotesize {escape(note)}}}" for note in notes),
                "\\end{table}",
                "",
            ]
        )

    def records(self) -> list[dict[str, Any]]:
        """One mapping per line with unrounded numbers: METRIC, METRIC_paper, METRIC_difference."""
        records = []
        for line in self.lines:
            record: dict[str, Any] = dict(zip(map(str.lower, self.heads), line.labels, strict=True))
            record |= {"status": NOT_RUN if line.result is None else "run", "oracle_edges": line.oracle}
            record["step"] = None if line.result is None else line.result["step"]
            for metric in METRICS:
                value = _number(line.measured.get(metric))
                record[metric] = value
                record[f"{metric}_paper"] = line.paper[metric]
                record[f"{metric}_difference"] = _difference(line, metric)
            records.append(record)
        return records

    def write(self, out: Path) -> list[Path]:
        """Write NAME.md, .csv, .tex and .json below ``out`` and return their paths.

        Raises:
            OutputError: A file cannot be written.
        """
        paths = [out / f"{self.name}{suffix}" for suffix in (".md", ".csv", ".tex", ".json")]
        rows = self.records()
        write_text(paths[0], self.markdown())
        write_csv(paths[1], rows)
        write_text(paths[2], self.latex())
        write_json(paths[3], {"caption": self.heading, "rows": rows, "notes": self._cells()[1]})
        return paths

    def _cells(self) -> tuple[list[list[str]], list[str]]:
        """The cells as text, and the footnotes that they point to."""
        numbered: dict[str, int] = {}

        def mark(note: str) -> str:
            return f" [{numbered.setdefault(note, len(numbered) + 1)}]"

        rows = []
        for line in self.lines:
            *others, label = line.labels
            row = [*others, label + (f" {ORACLE_MARK}" if line.oracle else "")]
            deviations = _deviations(line)
            if deviations:
                row[-1] += mark(
                    f"Not the paper's protocol ({', '.join(deviations)}): no difference is taken."
                )
            for metric in METRICS:
                note = line.notes.get(metric)
                printed = f"{line.paper[metric]:.{self.digits}f}" + (mark(note) if note else "")
                difference = _difference(line, metric)
                taken = _NO_VALUE if difference is None else f"{difference:+.{self.digits}f}"
                row += [self._measured(line, metric, mark), printed, taken]
            rows.append(row)
        notes = [f"[{number}] {note}" for note, number in numbered.items()]
        oracle = [ORACLE_NOTE] if any(line.oracle for line in self.lines) else []
        mixed = [f"MIXED: {difference}" for difference in self.mixed]
        return rows, [*mixed, *oracle, *notes, _PAPERS_EDGES]

    def _measured(self, line: Line, metric: str, mark: Any) -> str:
        if line.result is None:
            return NOT_RUN
        value = _number(line.measured.get(metric))
        if value is not None:
            return f"{value:.{self.digits}f}"
        reason = line.result.get("unavailable", {}).get(metric, "not among eval.metrics")
        return f"n/a{mark(f'{_TITLES[metric]}: {reason}')}"


def table4(results: Mapping[str, Result], mix: bool = False) -> PaperTable:
    """Table 4, the ablation.

    Args:
        results: The paper's name of a row to what was measured of it; rows may be missing.
        mix: Take results that were measured in different ways all the same, and say so below the table.

    Raises:
        InputError: The results were not measured in the same way.
    """
    mixed = check_comparable(results, mix=mix)
    lines = [
        Line(
            (row,),
            paper,
            results.get(row),
            prior="none" if row == "w/o structure prior" else "oracle",
            notes={metric: note for (name, metric), note in TABLE4_NOTES.items() if name == row},
        )
        for row, paper in TABLE4.items()
    ]
    caption = _caption("Table 4, ablation", results.values())
    return PaperTable("table4", caption, ("Method",), lines, 4, mixed)


def table2(results: Iterable[tuple[str, Result]], mix: bool = False) -> PaperTable:
    """Table 2, every dataset, hole and method of the paper.

    A network without oracle edges has a line of its own, below that of the paper's.

    Args:
        results: Where each result comes from, and the result. Those of other datasets or of no ratio in
            the table are left out.
        mix: Take results that were measured in different ways all the same, and say so below the table.

    Raises:
        InputError: Two results are about the same cell, or were not measured in the same way.
    """
    cells: dict[tuple[str, int, str], dict[str, tuple[str, Result]]] = {}
    for source, result in results:
        place = _place(result)
        for method in result["methods"]:
            key = (*place, method) if place is not None else None
            if key is None or key not in TABLE2:
                continue
            cell, label = cells.setdefault(key, {}), _label(method, result)
            if label in cell:
                raise InputError(
                    f"{source}: measures the same cell of Table 2 as {cell[label][0]}; keep one of the two "
                    "below --runs"
                )
            cell[label] = (source, result)
    chosen = dict(found for cell in cells.values() for found in cell.values())
    mixed = check_comparable(chosen, datasets=True, mix=mix)
    lines = []
    for key, paper in TABLE2.items():
        dataset, percent, method = key
        notes = {metric: note for (place, metric), note in TABLE2_NOTES.items() if place == key}
        cell = cells.get(key, {})
        for label in dict.fromkeys((method, *cell)):
            measured = cell[label][1] if label in cell else None
            labels = (dataset, f"{percent} %", label)
            lines.append(Line(labels, paper, measured, method, dataset, percent, notes=notes))
    caption = _caption("Table 2, comparison", chosen.values())
    return PaperTable("table2", caption, ("Dataset", "Missing", "Method"), lines, 3, mixed)


def check_comparable(results: Mapping[str, Result], datasets: bool = False, mix: bool = False) -> list[str]:
    """Refuse results that were not measured in the same way.

    Args:
        results: Name to result.
        datasets: Whether they may differ in dataset, ratio and number of images, and networks in their
            training steps.
        mix: Only say what differs.

    Returns:
        One line per setting and result that differs from the first result; empty if all are alike.

    Raises:
        InputError: They differ, and ``mix`` is false; names the first setting, and both results.
    """
    first: dict[str, tuple[str, Any]] = {}
    differing = []
    for name, result in results.items():
        for key, value in _conditions(result, datasets).items():
            earlier, wanted = first.setdefault(key, (name, value))
            if value != wanted:
                differing.append(f"{key}: {wanted!r} in {earlier}, {value!r} in {name}")
    if differing and not mix:
        raise InputError(f"{differing[0]}; such results share no table without --mix")
    return differing


def _conditions(result: Result, datasets: bool) -> dict[str, Any]:
    """What has to agree, with the names that configurations use; other networks train for other steps."""
    data, mask = dict(result["data"]), dict(result["mask"])
    found = {f"eval.{key}": result[key] for key in _SHARED}
    found["step" + (f" of {_network(result)}" if datasets else "")] = result["step"]
    data_keys, mask_keys = (_SHARED_DATA, _SHARED_MASK) if datasets else (data.keys(), mask.keys())
    # Where the data lie and how many processes read them changes no number.
    found |= {f"data.{key}": data[key] for key in data_keys if key not in ("root", "workers")}
    found |= {f"mask.{key}": mask[key] for key in mask_keys}
    return found if datasets else found | {"images": result["images"]}


def _network(result: Result) -> str:
    """The paper's name of the network that was measured; empty for methods that it does not have."""
    return next((name for name in METHODS if name in result["methods"]), "")


def _place(result: Result) -> tuple[str, int] | None:
    """Dataset and percentage of Table 2 that a result is about, if any."""
    ratio = result["mask"]["ratio"]
    for dataset, name in _DATA_NAMES.items():
        if result["data"]["name"] == name and isinstance(ratio, (int, float)):
            return dataset, round(ratio * 100)
    return None


def _label(method: str, result: Result) -> str:
    """What a line of Table 2 is called: the method, and the network's structure prior if not the paper's."""
    prior = result["structure_prior"]
    return method if method != NETWORK or prior == "oracle" else f"{method}, structure prior {prior}"


def _deviations(line: Line) -> list[str]:
    """The settings in which a run is not the paper's protocol."""
    if line.result is None:
        return []
    data, mask = line.result["data"], line.result["mask"]
    wanted = {"name": _DATA_NAMES[line.dataset], "use": "label", "crop_size": 256, "test_crop": "paper"}
    wanted |= {"test_fraction": 0.2, "val_root": None, "limit": None, "test_limit": None}
    holes = {"kind": "square", "ratio": line.percent / 100, "placement": "paper"}
    found = [f"data.{key}={data[key]}" for key, value in wanted.items() if data[key] != value]
    found += [f"mask.{key}={mask[key]}" for key, value in holes.items() if mask[key] != value]
    prior = line.result["structure_prior"]
    if line.method == NETWORK and prior != line.prior:
        found.append(f"model.structure_prior={prior}")
    return found


def _difference(line: Line, metric: str) -> float | None:
    value = _number(line.measured.get(metric))
    return None if value is None or _deviations(line) else value - line.paper[metric]


def _number(value: Any) -> float | None:
    """A value of metrics.json, which holds null for NaN and words for infinities."""
    return None if value is None else float(value)


def _caption(title: str, results: Iterable[Result]) -> str:
    """What was measured, as far as the runs at hand tell."""
    runs = list(results)
    if not runs:
        return f"{title}: nothing has been run yet."
    first = runs[0]
    steps = {_network(result): result["step"] for result in runs}
    trained = f"{first['step']} training steps"
    if len(set(steps.values())) > 1:
        trained = f"training steps: {', '.join(f'{name} {step}' for name, step in steps.items())}"
    parts = [f"crop {first['data']['crop_size']}", f"{first['mask']['kind']} holes"]
    if title.startswith("Table 4"):
        parts = [f"{first['images']} images of {first['data']['name']}", *parts]
        parts.append(f"ratio {first['mask']['ratio']}")
    parts += [trained, f"{first['weights']} weights", f"LPIPS ({first['lpips_net']})"]
    return f"{title}: {', '.join(parts)}."


def _title(metric: str) -> str:
    return f"{_TITLES[metric]} {'↑' if HIGHER_IS_BETTER[metric] else '↓'}"


def read_results(paths: Sequence[Path]) -> list[tuple[str, Result]]:
    """Read ``metrics.json`` files.

    Raises:
        InputError: One cannot be read or is not what igll-eval writes.
    """
    results = []
    for path in paths:
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
            wanted = {"methods", "data", "mask", "images", "structure_prior", "step", *_SHARED}
            missing = wanted - result.keys()
        except (OSError, ValueError, AttributeError):
            raise InputError(f"{path}: not a metrics.json that can be read; evaluate again") from None
        if missing:
            raise InputError(f"{path}: not a metrics.json of igll-eval ({min(missing)} is missing)")
        results.append((str(path), result))
    return results
