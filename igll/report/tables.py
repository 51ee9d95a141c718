"""Results tables for a terminal and for Markdown.

A row is a mapping from column keys to numbers or words, with three keys of its own:
``oracle`` (true if the method was given edges of the ground truth), ``unavailable``
(a mapping from columns to the reason why they have no value) and ``left_out`` (a mapping from columns
to the numbers of the images that the method filled exactly, and that its mean lacks).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from igll.metrics.names import HIGHER_IS_BETTER

Row = Mapping[str, Any]

ORACLE_MARK = "†"
ORACLE_NOTE = (
    f"{ORACLE_MARK} oracle edges: this method saw the ground truth's edges inside the hole; "
    "compare it only with others that did."
)
_MISSING = "n/a"

# Titles and digits after the point, as papers print them.
_METRICS: dict[str, tuple[str, int]] = {
    "psnr": ("PSNR", 2),
    "psnr_hole": ("PSNR hole", 2),
    "l1_hole": ("L1 hole", 4),
    "ssim": ("SSIM", 4),
    "ms_ssim": ("MS-SSIM", 4),
    "lpips": ("LPIPS", 4),
    "fid": ("FID", 2),
    "kid": ("KID", 4),
    "fd_effnet_lite0": ("FD-effnet-lite0", 2),
}


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        key: Key of its values in the rows.
        title: Its heading.
        digits: Digits after the decimal point.
        best: Which value to mark, if any.
    """

    key: str
    title: str
    digits: int = 2
    best: Literal["highest", "lowest"] | None = None


def metric_columns(names: Iterable[str]) -> list[Column]:
    """Columns for metrics out of ``igll.metrics.METRIC_NAMES``; the arrow shows what is better."""
    columns = []
    for name in names:
        title, digits = _METRICS[name]
        better = HIGHER_IS_BETTER[name]
        columns.append(
            Column(name, f"{title} {'↑' if better else '↓'}", digits, "highest" if better else "lowest")
        )
    return columns


def markdown_table(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    """A Markdown table: best values bold, oracle rows marked, missing values numbered to their reasons.

    The best value is sought among rows without oracle edges, where these are means of the same images.
    Footnotes follow the table.
    """
    cells, notes = _cells(rows, columns, best="**{}**", missing="{} <sup>{}</sup>")
    cells = [[cell.replace("|", "\\|") for cell in line] for line in cells]
    widths = _widths(cells)
    numeric = _numeric(rows, columns)
    lines = [_padded(line, widths, numeric) for line in cells]
    lines.insert(
        1, ["-" * (width - 1) + (":" if right else "-") for width, right in zip(widths, numeric, strict=True)]
    )
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return "\n".join([table, *(["", *(f"{note}  " for note in notes)] if notes else [])]).rstrip() + "\n"


def text_table(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    """The same table for a terminal: best values end in ``*``, decimal points stand below each other."""
    cells, notes = _cells(rows, columns, best="{}*", missing="{} [{}]")
    numeric = _numeric(rows, columns)
    for index, right in enumerate(numeric):
        # A blank where others have the star keeps the decimal points in line.
        if right and any(line[index].endswith("*") for line in cells[1:]):
            for line in cells:
                line[index] += "" if line[index].endswith("*") else " "
    widths = _widths(cells)
    lines = ["  ".join(_padded(line, widths, numeric)).rstrip() for line in cells]
    lines.insert(1, "  ".join("─" * width for width in widths))
    if any("*" in line for line in lines[2:]):
        oracle = any(row.get("oracle") for row in rows)
        notes = ["* best" + (" without oracle edges" if oracle else ""), *notes]
    return "\n".join([*lines, *(["", *notes] if notes else [])]) + "\n"


def _cells(
    rows: Sequence[Row], columns: Sequence[Column], best: str, missing: str
) -> tuple[list[list[str]], list[str]]:
    """Heading and rows as words, and the footnotes."""
    winners = [_best(rows, column) for column in columns]
    reasons: dict[str, list[str]] = {}  # to the columns it explains; the order gives the numbers
    lines = [[column.title for column in columns]]
    for row in rows:
        line = []
        for column, winner in zip(columns, winners, strict=True):
            reason = row.get("unavailable", {}).get(column.key)
            if not _absent(row.get(column.key)):
                cell = _printed(row[column.key], column)
                won = cell == winner and not row.get("oracle")
                line.append(best.format(cell) if won else cell)
            elif reason:
                explained = reasons.setdefault(reason, [])
                if column.title not in explained:
                    explained.append(column.title)
                line.append(missing.format(_MISSING, list(reasons).index(reason) + 1))
            else:
                line.append(_MISSING)
        if row.get("oracle"):
            line[0] += f" {ORACLE_MARK}"
        lines.append(line)
    notes = [ORACLE_NOTE] if any(row.get("oracle") for row in rows) else []
    for number, (reason, titles) in enumerate(reasons.items(), start=1):
        names = ", ".join(title.rstrip(" ↑↓") for title in titles)
        notes.append(f"[{number}] {names}: {reason}")
    return lines, [*notes, *_notes_on_means(rows, columns)]


def _notes_on_means(rows: Sequence[Row], columns: Sequence[Column]) -> list[str]:
    """Which means lack images that were filled exactly."""
    notes = []
    for column in columns:
        counts = [(row[columns[0].key], len(row.get("left_out", {}).get(column.key, ()))) for row in rows]
        if any(count for _, count in counts):
            lacking = ", ".join(f"{name} {count}" for name, count in counts if count)
            others = "" if _of_same_images(rows, column) else "; the means are of different images"
            title = column.title.rstrip(" ↑↓")
            notes.append(f"{title}: images filled exactly are infinite, and left out of {lacking}{others}")
    return notes


def _of_same_images(rows: Sequence[Row], column: Column) -> bool:
    """Whether the rows without oracle edges that have a value are means of the same images."""
    measured = [row for row in rows if not row.get("oracle") and not _absent(row.get(column.key))]
    return len({tuple(row.get("left_out", {}).get(column.key, ())) for row in measured}) < 2


def _absent(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _best(rows: Sequence[Row], column: Column) -> str | None:
    """The best printed value among rows without oracle edges, if there is something to compare."""
    values = [row.get(column.key) for row in rows if not row.get("oracle")]
    numbers = [value for value in values if isinstance(value, (int, float)) and not _absent(value)]
    if column.best is None or len(numbers) < 2 or not _of_same_images(rows, column):
        return None
    return _printed(max(numbers) if column.best == "highest" else min(numbers), column)


def _printed(value: Any, column: Column) -> str:
    """A value as printed; values that print alike share a rank."""
    return f"{value:.{column.digits}f}" if isinstance(value, float) else str(value)


def _numeric(rows: Sequence[Row], columns: Sequence[Column]) -> list[bool]:
    """Which columns hold numbers, and are set flush right."""
    return [
        any(isinstance(row.get(column.key), (int, float)) for row in rows) or column.best is not None
        for column in columns
    ]


def _widths(cells: Sequence[Sequence[str]]) -> list[int]:
    return [max(3, *(len(line[index]) for line in cells)) for index in range(len(cells[0]))]


def _padded(line: Sequence[str], widths: Sequence[int], numeric: Sequence[bool]) -> list[str]:
    return [
        cell.rjust(width) if right else cell.ljust(width)
        for cell, width, right in zip(line, widths, numeric, strict=True)
    ]
