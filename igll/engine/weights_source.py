"""Where weights come from: a file, a folder, the package itself or the Hugging Face hub."""

from __future__ import annotations

import difflib
import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from igll.engine.hub import MODEL_FILE, download_weights, is_repo
from igll.errors import InputError
from igll.weights import ACCEPTED, BEST, SHIPPED

_LONGEST_SHOWN = 80  # characters of a name in an error


@dataclass(frozen=True)
class WeightsSource:
    """A file of weights, and what to call it.

    Attributes:
        path: The file on this machine.
        named: What records say: a path as it was given, a shipped name, or OWNER/NAME@COMMIT.
        title: For people: the path's last part, or the same as ``named``.
    """

    path: Path
    named: str
    title: str

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the file.

        Raises:
            InputError: It cannot be read.
        """
        try:
            return hashlib.sha256(self.path.read_bytes()).hexdigest()
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read ({error.strerror or error})") from None


def find_weights(
    given: str | Path | None = None, revision: str | None = None, sha256: str | None = None
) -> WeightsSource:
    """Find the weights that a user names.

    Args:
        given: None for the best ones that ship with the package; a checkpoint, a file of shared weights or a
            folder with ``model.safetensors``; a shipped name; or a Hugging Face repo, OWNER/NAME or
            OWNER/NAME@REVISION. What exists as a path is a path; a ``Path`` is nothing else; and OWNER/NAME
            alone, where OWNER is a folder here, is a path that does not exist.
        revision: Of a repo: branch, tag or full commit; not another than the name has after @.
        sha256: What the file has to have, in hexadecimal digits.

    Raises:
        InputError: There is nothing of that name, it cannot be fetched, or the file is another than it has
            to be.
    """
    if given is not None and not (isinstance(given, (str, Path)) and str(given)):
        raise InputError(f"{given!r}: names no weights; give {ACCEPTED}")
    if sha256 is not None and not re.fullmatch("[0-9a-fA-F]{64}", str(sha256)):
        raise InputError(f"sha256 '{sha256}': give the 64 hexadecimal digits of a SHA-256")
    source = _found(given, revision)
    if sha256 is not None and source.sha256 != sha256.lower():
        raise InputError(
            f"{source.named}: refused, its SHA-256 is {source.sha256} and not {sha256.lower()}; "
            "it is another file than the one you mean"
        )
    return source


def column_title(given: str) -> str:
    """What weights are called in a figure unless the user says: the run's folder, or the name given.

    Raises:
        InputError: The name is too long to be looked for.
    """
    path = Path(given)
    return path.resolve().parent.parent.name if _exists(path) and path.is_file() else given


def _found(given: str | Path | None, revision: str | None) -> WeightsSource:
    name = BEST if given is None else str(given)
    if given is not None and _exists(Path(given)):
        if revision is None:
            return _local(Path(given), name)
        raise InputError(f"{name}: a path on this machine, which has no revision; leave '{revision}' out")
    if not isinstance(given, Path):
        if name in SHIPPED:
            return _shipped(name, revision)
        repo, sign, after = name.partition("@")
        if is_repo(repo) and sign:
            revision = _one_revision(name, after, revision)
        if is_repo(repo) and (revision is not None or not Path(repo).parent.is_dir()):
            path, commit = download_weights(repo, revision)
            return WeightsSource(path, f"{repo}@{commit}", f"{repo}@{commit}")
    near = [] if name in SHIPPED else difflib.get_close_matches(name, SHIPPED, 1)
    hint = f" (did you mean '{near[0]}'?)" if near else ""
    raise InputError(f"{name}: no such checkpoint{hint}; give {ACCEPTED}")


def _exists(path: Path) -> bool:
    """Whether a path exists; one that cannot even be looked for, as with too long a name, is told so."""
    try:
        return path.exists()
    except OSError as error:
        name = str(path)
        shown = name if len(name) <= _LONGEST_SHOWN else f"{name[:_LONGEST_SHOWN]}…"
        raise InputError(
            f"{shown}: cannot be looked for ({error.strerror or error}); give {ACCEPTED}"
        ) from None


def _one_revision(name: str, after: str, revision: str | None) -> str:
    """The revision of OWNER/NAME@REVISION, beside which no other one may be asked for."""
    if not after:
        raise InputError(f"{name}: has no revision after @; give a branch, a tag or a full commit there")
    if revision not in (None, after):
        raise InputError(f"{name}: names revision '{after}', but '{revision}' is asked for; give one")
    return after


def _local(path: Path, named: str) -> WeightsSource:
    if not path.is_dir():
        return WeightsSource(path, named, path.name)
    if not (path / MODEL_FILE).is_file():
        raise InputError(
            f"{path}: no such checkpoint; a folder of shared weights has {MODEL_FILE} in it, "
            "and a run has its checkpoints in RUN/checkpoints/, such as best.pt"
        )
    return WeightsSource(path / MODEL_FILE, named, path.resolve().name)


def _shipped(name: str, revision: str | None) -> WeightsSource:
    """Weights of the package, once they are seen to be whole."""
    if revision is not None:
        raise InputError(f"{name}: ships with igll and has no revision; leave '{revision}' out")
    source = WeightsSource(SHIPPED[name].path, name, name)
    if not source.path.exists():
        raise InputError(f"{source.path}: is missing, it ships with igll as {name}; install igll again")
    if source.sha256 != SHIPPED[name].sha256:
        raise InputError(
            f"{source.path}: damaged, it is not the file that ships with igll as {name}; install igll again"
        )
    return source
