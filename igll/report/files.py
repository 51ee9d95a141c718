"""Result files that are either whole or not there: written beside, then moved into place."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from igll.storage import replacing


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file as a whole; what UTF-8 cannot hold, as of file names, is escaped.

    Raises:
        OutputError: It cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")


def write_json(path: Path, content: Any) -> None:
    """Write JSON that every reader accepts: NaN becomes null, infinities the strings "inf" and "-inf".

    Raises:
        OutputError: It cannot be written.
    """
    write_text(path, json.dumps(_plain(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> None:
    """Write a table with a header line; absent values and NaN are empty cells.

    Args:
        path: The file.
        rows: One mapping per line.
        columns: Keys to write, in order; None takes all keys in the order they first appear.

    Raises:
        OutputError: It cannot be written.
    """
    keys = list(columns) if columns is not None else list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(keys)
    for row in rows:
        cells = (row.get(key) for key in keys)
        writer.writerow("" if isinstance(cell, float) and math.isnan(cell) else cell for cell in cells)
    write_text(path, text.getvalue())


def _plain(content: Any) -> Any:
    """The same content with numbers that JSON cannot express replaced."""
    if isinstance(content, Mapping):
        return {str(key): _plain(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_plain(value) for value in content]
    if isinstance(content, Path):
        return str(content)
    if isinstance(content, float) and not math.isfinite(content):
        return None if math.isnan(content) else str(content)
    return content
