"""Whether test images are others than those a network was trained on."""

from __future__ import annotations

from pathlib import Path

from igll.config import Config
from igll.errors import InputError


def check_apart(config: Config, trained: Config, checkpoint: str) -> None:
    """Refuse to measure on images that the network was trained on.

    Folders are compared by their places; copies of images elsewhere are not noticed.

    Args:
        config: What is to be measured on.
        trained: What the network was trained with; without its folder if the weights were exported.
        checkpoint: What messages call the network.

    Raises:
        InputError: The same images were split in another way in training, or of the folders of test and
            training images one holds the other.
    """
    data, before = config.data, trained.data
    tested, learned = _place(data.val_root or data.root), _place(before.root)
    if data.name == before.name and tested == learned:
        keys = ("split_seed", "test_fraction", *(("synthetic_images",) if data.name == "synthetic" else ()))
        changed = [key for key in keys if getattr(data, key) != getattr(before, key)]
        if before.val_root or data.val_root:
            changed = ["val_root"]
        if changed:
            raise InputError(
                f"data.{changed[0]}: differs from the training of {checkpoint}, so test images would be "
                "among those it was trained on; use the run's own config.yaml"
            )
    elif tested and learned and (tested.is_relative_to(learned) or learned.is_relative_to(tested)):
        key = "val_root" if data.val_root else "root"
        raise InputError(
            f"data.{key}: {checkpoint} was trained on images of {learned}, and {tested} has some of "
            "them; use the run's own config.yaml, or images of another folder"
        )


def _place(folder: str | None) -> Path | None:
    return None if folder is None else Path(folder).expanduser().resolve()
