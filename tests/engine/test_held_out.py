"""Test images have to be others than those a network was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from igll.config import Config, build_config
from igll.engine.held_out import check_apart
from igll.errors import InputError


def data(**keys: Any) -> Config:
    return build_config({"data": {"name": "folder", **keys}})


@pytest.mark.parametrize(
    ("trained", "tested", "key"),
    [
        ({"root": "aid"}, {"root": "aid/Beach"}, "root"),
        ({"root": "aid/train"}, {"root": "aid"}, "root"),
        ({"root": "aid/train"}, {"root": "elsewhere", "val_root": "aid"}, "val_root"),
        ({"root": "aid"}, {"root": "elsewhere", "val_root": "aid/Beach"}, "val_root"),
        ({"root": "aid", "val_root": "aid_val"}, {"root": "link"}, "val_root"),
        ({"root": "aid"}, {"root": "link/Beach"}, "root"),
        ({"root": "aid"}, {"root": "aid", "name": "aid"}, "root"),
        ({"root": "aid"}, {"root": "aid", "split_seed": 3}, "split_seed"),
        ({"root": "aid"}, {"root": "aid", "test_fraction": 0.5}, "test_fraction"),
    ],
    ids=str,
)
def test_images_of_the_training_are_refused(
    trained: dict[str, Any], tested: dict[str, Any], key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("aid").mkdir()
    Path("link").symlink_to("aid")
    with pytest.raises(InputError, match=rf"^data\.{key}: .*trained"):
        check_apart(data(**tested), data(**trained), "last.pt")


@pytest.mark.parametrize(
    ("trained", "tested"),
    [
        ({"root": "aid"}, {"root": "aid"}),
        ({"root": "aid"}, {"root": "aid2"}),
        ({"root": "aid/train", "val_root": "aid/val"}, {"root": "aid/train2", "val_root": "aid/val"}),
        ({"root": "aid"}, {"root": "aid", "val_root": "other"}),
        ({"root": "aid/train", "val_root": "aid"}, {"root": "aid/val"}),
        ({"root": None}, {"root": "aid"}),
    ],
    ids=str,
)
def test_other_images_are_not(trained: dict[str, Any], tested: dict[str, Any]) -> None:
    check_apart(data(**tested), data(**trained), "last.pt")
