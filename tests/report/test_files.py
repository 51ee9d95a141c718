"""Result files: whole or absent, and readable by strict readers."""

from __future__ import annotations

import csv
import json
import math
import os
from pathlib import Path

import pytest

from igll.errors import OutputError
from igll.report import write_csv, write_json, write_text
from igll.storage import replacing


def test_json_is_strict_and_keeps_order(tmp_path):
    path = tmp_path / "new" / "folder" / "metrics.json"
    write_json(
        path, {"b": math.nan, "a": [math.inf, -math.inf, 1.5, 3, True, None], "where": Path("x"), "ü": ("t",)}
    )
    text = path.read_text(encoding="utf-8")
    content = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert content == {"b": None, "a": ["inf", "-inf", 1.5, 3, True, None], "where": "x", "ü": ["t"]}
    assert list(content) == ["b", "a", "where", "ü"]
    assert float(content["a"][0]) == math.inf
    assert [file.name for file in path.parent.iterdir()] == ["metrics.json"]


def test_csv_round_trip(tmp_path):
    path = tmp_path / "images.csv"
    rows = [
        {"image": 'a,"b".png', "psnr": 0.1 + 0.2, "lpips": math.nan},
        {"image": "c", "ssim": 1, "psnr": math.inf},
    ]
    write_csv(path, rows)
    with path.open(newline="", encoding="utf-8") as file:
        read = list(csv.DictReader(file))
    assert list(read[0]) == ["image", "psnr", "lpips", "ssim"]
    assert read[0]["image"] == 'a,"b".png' and float(read[0]["psnr"]) == 0.1 + 0.2
    assert read[0]["lpips"] == "" and read[0]["ssim"] == "" and read[1]["psnr"] == "inf"
    write_csv(path, rows, ["psnr", "image"])
    assert path.read_text().splitlines()[0] == "psnr,image"
    write_csv(path, [], ["psnr"])
    assert path.read_text() == "psnr\n"


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "metrics.json"
    write_json(path, {"psnr": 1.0})
    with pytest.raises(KeyboardInterrupt), replacing(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    with pytest.raises(TypeError):
        write_json(path, {"psnr": object()})
    assert json.loads(path.read_text()) == {"psnr": 1.0}
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.json"]


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OutputError, match=r"table\.md: cannot be written \(No space left on device\)"):
        write_text(tmp_path / "table.md", "x")
    assert list(tmp_path.iterdir()) == []


def test_a_file_where_a_folder_should_be(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(OutputError, match=r"metrics\.json: cannot be written"):
        write_json(tmp_path / "runs" / "metrics.json", {})


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="Permission denied"):
        write_json(tmp_path / "metrics.json", {})


def test_what_utf8_cannot_hold_is_escaped(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    write_json(tmp_path / "a.json", {"root": name})
    write_csv(tmp_path / "a.csv", [{"image": name}])
    assert json.loads((tmp_path / "a.json").read_bytes()) == {"root": name}
    assert (tmp_path / "a.csv").read_text(encoding="utf-8") == "image\ncaf\\udce9.png\n"
