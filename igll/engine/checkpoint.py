"""Checkpoints: written whole or not at all, read without running anything."""

from __future__ import annotations

import errno
import hashlib
import io
import re
import warnings
import zipfile
from pathlib import Path
from typing import IO, Any

import torch

from igll.errors import InputError
from igll.storage import replacing

FORMAT = 2  # 1 had no digest
_SEAL = b"igll sha256 "
_SEAL_BYTES = len(_SEAL) + 64
_ZIP = b"PK\x03\x04"
_BLOCK_BYTES = 1 << 20


class DamagedCheckpointError(InputError):
    """A checkpoint that is not as it was written: cut off, overwritten, or with other bits than before."""


def save_checkpoint(path: Path, state: dict[str, Any], previous: Path | None = None) -> None:
    """Save a checkpoint of tensors and plain values.

    The file is torch's zip. Its comment, which zip files have at their very end and which torch.load passes
    over, says the SHA-256 of everything before it.

    Args:
        path: Target; replaced only once the new content is on disk.
        state: What to save; the format's number is added.
        previous: Where the older file at ``path`` goes; None: it is replaced.

    Raises:
        OutputError: If the disk is full or the folder cannot be written to; the old file is then untouched.
    """
    # Serialised in memory: writing to a full disk, torch itself raises an error that does not say so.
    buffer = io.BytesIO()
    torch.save({**state, "format": FORMAT}, buffer)
    # The last two bytes of a zip file without a comment are the comment's length.
    buffer.seek(-2, io.SEEK_END)
    buffer.write(_SEAL_BYTES.to_bytes(2, "little"))
    buffer.write(_SEAL + hashlib.sha256(buffer.getbuffer()).hexdigest().encode())
    with replacing(path, durable=True, previous=previous) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def load_checkpoint(path: str | Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Load a checkpoint with ``weights_only=True``: a file that carries code is refused, nothing runs.

    Raises:
        DamagedCheckpointError: If it is not as it was written.
        InputError: If the file is missing, is no checkpoint, is of another format or holds more than weights.
    """
    try:
        with Path(path).open("rb") as file:
            sealed = _check_whole(file, path)
            state = _read(file, path, device)
    except FileNotFoundError:
        raise InputError(f"{path}: no such checkpoint") from None
    except OSError as error:
        kind = DamagedCheckpointError if error.errno == errno.EIO else InputError
        raise kind(f"{path}: not a checkpoint that can be read ({error.strerror or error})") from None
    if not isinstance(state, dict) or not isinstance(number := state.get("format"), int):
        raise InputError(f"{path}: a torch file, but not a checkpoint written by igll-train")
    if number > FORMAT:
        raise InputError(
            f"{path}: checkpoint format {number} of a newer igll, this version reads up to format {FORMAT}; "
            "upgrade igll"
        )
    if number < 1 or not {"generator", "config", "step"} <= state.keys():
        raise InputError(f"{path}: a torch file, but not a checkpoint written by igll-train")
    if number > 1 and not sealed:
        raise DamagedCheckpointError(f"{path}: damaged, the SHA-256 at its end is gone; use another copy")
    if not all(isinstance(state[part], dict) for part in ("generator", "config")):
        raise InputError(f"{path}: damaged, its weights or configuration are not what igll-train writes")
    return state


def _check_whole(file: IO[bytes], path: str | Path) -> bool:
    """Compare a file with the digest in it, or else with the checksums that every zip file has.

    Returns:
        Whether it has a digest.

    Raises:
        DamagedCheckpointError: It differs.
        InputError: It never was a torch file.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(max(size - _SEAL_BYTES, 0))
    seal = file.read()
    file.seek(0)
    if re.fullmatch(re.escape(_SEAL) + rb"[0-9a-f]{64}", seal):
        digest, left = hashlib.sha256(), size - _SEAL_BYTES
        while left and (block := file.read(min(left, _BLOCK_BYTES))):
            digest.update(block)
            left -= len(block)
        if digest.hexdigest().encode() != seal[len(_SEAL) :]:
            raise DamagedCheckpointError(
                f"{path}: damaged, its content does not match the SHA-256 at its end; use another copy"
            )
        return True
    head = file.read(4)
    if not head.strip(b"\0"):
        raise DamagedCheckpointError(f"{path}: damaged, {'begins with zeros' if size else 'empty'}")
    if _ZIP.startswith(head):
        try:
            with zipfile.ZipFile(file) as archive:
                broken = archive.testzip()
        except Exception:  # on damaged bytes zipfile fails with any kind of error
            broken = "cut off"
        if broken:
            raise DamagedCheckpointError(f"{path}: damaged, cut off or overwritten in part; use another copy")
    return False


def _is_torch_file(file: IO[bytes]) -> bool:
    """Whether it begins as those that ``torch.save`` writes: an archive, or in old ones a pickle."""
    file.seek(0)
    return file.read(4).startswith((_ZIP, b"\x80"))


def _read(file: IO[bytes], path: str | Path, device: torch.device | str) -> Any:
    """What a whole torch file holds.

    Raises:
        InputError: It is none, or holds more than weights.
    """
    file.seek(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about odd pickles before it refuses them
            return torch.load(file, map_location=device, weights_only=True)
    except Exception as error:  # on foreign bytes the restricted unpickler fails with any kind of error
        if _is_torch_file(file) and ("weights_only" in str(error) or "Unsupported" in str(error)):
            raise InputError(
                f"{path}: refused, it holds more than weights (loading it could run foreign code); "
                "use a checkpoint written by igll-train"
            ) from None
        raise InputError(f"{path}: not a checkpoint that can be read (of another kind)") from None
