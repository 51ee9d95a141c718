"""The tutorial runs from top to bottom, and the notebook that is kept is what its source says."""

from __future__ import annotations

import base64
import importlib.util
import json
import re
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="notebooks need the extra dev")
nbclient = pytest.importorskip("nbclient", reason="notebooks need the extra dev")
pytest.importorskip("ipykernel", reason="notebooks need the extra dev")
pytest.importorskip("rasterio", reason="the tutorial ends with a GeoTIFF")

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "docs" / "tutorial.ipynb"
OF_A_MACHINE = re.compile(r"(^|[\s'\"(])/\w|[A-Z]:\\|it/s|s/it", re.MULTILINE)  # absolute paths and speeds


@pytest.fixture(scope="module")
def tutorial():
    specification = importlib.util.spec_from_file_location("tutorial", ROOT / "scripts" / "tutorial.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def outputs(notebook) -> list:
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def texts(notebook) -> str:
    return "".join(output["text"] for output in outputs(notebook) if "text" in output)


def test_it_runs_from_top_to_bottom(tutorial, tmp_path: Path):
    notebook = tutorial.read_cells(ROOT / "docs" / "tutorial.py")
    place = next(
        number for number, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", [])
    )
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell("steps, scenes = 2, 4"))
    tutorial.execute(notebook, tmp_path)
    told = texts(notebook)
    assert "step 2: hole PSNR" in told and "2 steps, in the hole:" in told
    assert "pixels made up, all others as they were" in told
    assert not list(tmp_path.iterdir()), "it works in a folder of its own"


def test_a_cell_that_fails_is_an_error(tutorial, tmp_path: Path):
    source = tmp_path / "source.py"
    source.write_text("# above\n\n# %% [markdown]\n# Text, #1.\n#\n# More.\n\n# %%\nassert 1 > 2, 'told'\n")
    notebook = tutorial.read_cells(source)
    assert [cell.source for cell in notebook.cells] == ["Text, #1.\n\nMore.", "assert 1 > 2, 'told'"]
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="assert 1 > 2"):
        tutorial.execute(notebook, tmp_path)


def test_the_notebook_that_is_kept_is_of_this_source_with_all_its_outputs(tutorial):
    kept, made = nbformat.read(NOTEBOOK, 4), tutorial.read_cells(ROOT / "docs" / "tutorial.py")
    assert [(cell.cell_type, cell.source) for cell in kept.cells] == [
        (cell.cell_type, cell.source) for cell in made.cells
    ], "run python scripts/tutorial.py"
    code = [cell for cell in kept.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not [output for output in outputs(kept) if output.output_type == "error"]
    assert NOTEBOOK.stat().st_size < 1_500_000
    assert not OF_A_MACHINE.search(texts(kept))
    pictures = [output["data"] for output in outputs(kept) if "data" in output]
    assert len(pictures) == 2 and all(data.keys() == {"image/png", "text/plain"} for data in pictures)
    assert all(base64.b64decode(data["image/png"]).startswith(b"\x89PNG") for data in pictures)
    assert json.loads(NOTEBOOK.read_text())["metadata"]["kernelspec"]["name"] == "python3"
