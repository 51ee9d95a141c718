"""What a run leaves to look at: tables, picture sheets, loss curves, and files of numbers."""

from igll.report.figures import loss_curves, paint_hole, picture_sheet
from igll.report.files import write_csv, write_json, write_text
from igll.report.tables import Column, markdown_table, metric_columns, text_table

__all__ = [
    "Column",
    "loss_curves",
    "markdown_table",
    "metric_columns",
    "paint_hole",
    "picture_sheet",
    "text_table",
    "write_csv",
    "write_json",
    "write_text",
]
