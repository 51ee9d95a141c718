"""Makes docs/tutorial.ipynb of docs/tutorial.py and runs every cell: the outputs are those of this code.

Usage: python scripts/tutorial.py            # about two minutes; needs igll[dev]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from ipykernel.kernelspec import write_kernel_spec
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

DOCS = Path(__file__).resolve().parents[1] / "docs"
_MARK = "# %%"


def read_cells(source: Path) -> nbformat.NotebookNode:
    """A notebook without outputs of a Python file in which ``# %%`` begins a cell.

    ``# %% [markdown]`` begins text, each line of it a comment. What stands above the first cell is for
    readers of the file alone.
    """
    notebook = nbformat.v4.new_notebook()
    _, *cells = f"\n{source.read_text(encoding='utf-8')}".split(f"\n{_MARK}")
    for number, cell in enumerate(cells):
        head, _, body = cell.partition("\n")
        body = body.strip("\n")
        if head.strip() == "[markdown]":
            text = "\n".join(line.removeprefix("#").removeprefix(" ") for line in body.splitlines())
            made = nbformat.v4.new_markdown_cell(text)
        else:
            made = nbformat.v4.new_code_cell(body)
            if "parameters" in head:
                made.metadata["tags"] = ["parameters"]
        made["id"] = f"cell-{number}"  # not a random one, which would differ every time
        notebook.cells.append(made)
    return notebook


def execute(notebook: nbformat.NotebookNode, folder: Path) -> None:
    """Run a notebook's cells in this interpreter's environment, and keep what they print and show.

    What goes to the standard error, progress bars and their times, is not kept.

    Args:
        notebook: Outputs are added to it.
        folder: Where it runs.

    Raises:
        nbclient.exceptions.CellExecutionError: A cell failed.
    """
    with tempfile.TemporaryDirectory() as kernels:
        # A kernel of our own: one that is installed under the usual name may belong to another environment.
        write_kernel_spec(Path(kernels) / "igll")
        manager = AsyncKernelManager(
            kernel_name="igll",
            kernel_spec_manager=KernelSpecManager(kernel_dirs=[kernels]),
            connection_file=str(Path(kernels) / "connection.json"),
        )
        place: dict[str, Any] = {"metadata": {"path": str(folder)}}
        quiet = ["--log-level=ERROR"]
        client = NotebookClient(
            notebook, km=manager, timeout=900, resources=place, record_timing=False, extra_arguments=quiet
        )
        client.execute(cleanup_kc=True, env={**os.environ, "IPYTHONDIR": kernels})
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            for output in cell.outputs:
                output.get("data", {}).pop("image/jpeg", None)  # Pillow offers PNG, too, which is lossless
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )


def main() -> int:
    """Write the notebook; nothing is written if a cell fails."""
    argparse.ArgumentParser("tutorial.py", description="Make docs/tutorial.ipynb and run it.").parse_args()
    notebook = read_cells(DOCS / "tutorial.py")
    with tempfile.TemporaryDirectory() as folder:
        execute(notebook, Path(folder))
    nbformat.validate(notebook)
    path = DOCS / "tutorial.ipynb"
    path.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")
    print(f"{path}: {len(notebook.cells)} cells, {path.stat().st_size / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
