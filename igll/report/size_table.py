"""The paper's Table 3, sizes and costs of the models, with measured values beside the printed ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from igll.report.files import write_csv, write_json, write_text
from igll.report.latex import escape
from igll.report.paper import TABLE3, TABLE3_NOTES
from igll.report.tables import Column, markdown_table

NOT_RUN = "not run"
_NO_VALUE = "–"
_CAPTION = (
    "Table 3, sizes: one image of 256 × 256, default settings. G is 10⁹ multiply-adds, counted by "
    "torch.utils.flop_counter, attention included, for a square hole of 25 % or as the heading says."
)
_NOTES = (
    "The paper calls its column GFLOPs and does not name its counter; its rows follow different conventions, "
    "so that it ranks no models and differences to it say little.",
    '"Convolutions" is the part of the true count that profilers report which see convolution layers alone.',
)
_COLUMNS = (
    Column("label", "Model"),
    Column("parameters", "Params (M)", 3),
    Column("parameters_paper", "paper", 3),
    Column("parameters_difference", "diff."),
    Column("true_25", "True, 25 % (G)", 3),
    Column("paper", "paper (G)", 3),
    Column("difference", "diff."),
    Column("convolutions", "Convolutions (G)", 3),
    Column("true_10", "True, 10 % (G)", 3),
    Column("true_77", "True, 77 % (G)", 3),
)


class Measured(NamedTuple):
    """What was counted of a model at 256 × 256.

    Attributes:
        parameters: Their number.
        true: Missing pixels in percent (10, 25, 77) to all multiply-adds.
        convolutions: Multiply-adds of convolutions alone, with a quarter of the pixels missing.
    """

    parameters: int
    true: Mapping[int, int]
    convolutions: int


class SizeTable:
    """Table 3, ready to be written.

    Args:
        measured: Name of a model, as the paper prints it, to what was counted. Those that the paper does
            not have follow the paper's.
    """

    name = "table3"

    def __init__(self, measured: Mapping[str, Measured]) -> None:
        self._measured = {label: measured.get(label) for label in dict.fromkeys([*TABLE3, *measured])}

    def records(self) -> list[dict[str, Any]]:
        """One mapping per model: parameters in millions, multiply-adds in 10⁹, unrounded; None = no value."""
        records = []
        for label, found in self._measured.items():
            paper = TABLE3.get(label)
            record: dict[str, Any] = {"model": label, "status": NOT_RUN if found is None else "run"}
            millions = None if found is None else found.parameters / 1e6
            true = {percent: None if found is None else found.true[percent] / 1e9 for percent in (10, 25, 77)}
            record["parameters"] = millions
            record["parameters_paper"] = None if paper is None else paper.parameters
            record["parameters_difference"] = _minus(millions, record["parameters_paper"])
            record["true_25"] = true[25]
            record["paper"] = None if paper is None else paper.multiply_adds
            record["difference"] = _minus(true[25], record["paper"])
            record["convolutions"] = None if found is None else found.convolutions / 1e9
            record |= {"true_10": true[10], "true_77": true[77]}
            records.append(record)
        return records

    def markdown(self) -> str:
        """Caption, table and footnotes."""
        table = markdown_table(self._rows(), _COLUMNS).rstrip()
        return "\n\n".join([_CAPTION, table, "  \n".join(self._notes())]) + "\n"

    def latex(self) -> str:
        """A ``table`` environment; needs the package booktabs."""
        rows = [[_text(row[column.key], column.digits) for column in _COLUMNS] for row in self._rows()]
        heads = [column.title for column in _COLUMNS]
        return "\n".join(
            [
                "\\begin{table}",
                f"\\caption{{{escape(_CAPTION)}}}",
                f"\\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}",
                "\\toprule",
                f"{' & '.join(map(escape, heads))} \\\\",
                "\\midrule",
                *(f"{' & '.join(map(escape, row))} \\\\" for row in rows),
                "\\bottomrule",
                "\\end{tabular}",
                *(f"\\par{{\\footnotesize {escape(note)}}}" for note in self._notes()),
                "\\end{table}",
                "",
            ]
        )

    def write(self, out: Path) -> list[Path]:
        """Write table3.md, .csv, .tex and .json below ``out`` and return their paths.

        Raises:
            OutputError: A file cannot be written.
        """
        paths = [out / f"{self.name}{suffix}" for suffix in (".md", ".csv", ".tex", ".json")]
        write_text(paths[0], self.markdown())
        write_csv(paths[1], self.records())
        write_text(paths[2], self.latex())
        write_json(paths[3], {"caption": _CAPTION, "rows": self.records(), "notes": self._notes()})
        return paths

    def _rows(self) -> list[dict[str, Any]]:
        """The records with a word wherever there is no number, and marks at models with a footnote."""
        numbers = {label: number for number, label in enumerate(TABLE3_NOTES, start=1)}
        rows = []
        for record in self.records():
            label, run = record["model"], record["status"] != NOT_RUN
            row = {"label": label + (f" [{numbers[label]}]" if label in numbers else "")}
            for column in _COLUMNS[1:]:
                value = record[column.key]
                printed = column.title.startswith(("paper", "diff."))
                if value is None:
                    row[column.key] = _NO_VALUE if printed or run else NOT_RUN
                else:
                    row[column.key] = f"{value:+.3f}" if column.title == "diff." else value
            rows.append(row)
        return rows

    def _notes(self) -> list[str]:
        numbered = enumerate(TABLE3_NOTES.values(), start=1)
        return [*(f"[{number}] {note}" for number, note in numbered), *_NOTES]


def _minus(measured: float | None, paper: float | None) -> float | None:
    return None if measured is None or paper is None else measured - paper


def _text(value: float | str, digits: int) -> str:
    return f"{value:.{digits}f}" if isinstance(value, float) else value
