"""Weights from the Hugging Face hub; nothing but safetensors is ever fetched, so nothing can run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from igll.errors import InputError

MODEL_FILE = "model.safetensors"
"""The weights in a repo or in a folder of its layout, as huggingface_hub's PyTorchModelHubMixin has it."""

_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_FILE_ENDS = (".pt", ".pth", ".ckpt", ".bin", ".zip", ".safetensors")


def is_repo(name: str) -> bool:
    """Whether a name may be a repo's: OWNER/NAME, and not what looks like a path to a file of weights."""
    return _REPO.fullmatch(name) is not None and not name.lower().endswith(_FILE_ENDS)


def download_weights(repo: str, revision: str | None = None) -> tuple[Path, str]:
    """Fetch a repo's weights, or find them in huggingface_hub's cache.

    Where the hub is, where the cache is and whether to go without a network are huggingface_hub's variables:
    ``HF_ENDPOINT``, ``HF_HUB_CACHE``, ``HF_HUB_OFFLINE``.

    Args:
        repo: OWNER/NAME.
        revision: Branch, tag or full commit; None: the main branch.

    Returns:
        The file, and the commit that it is of.

    Raises:
        InputError: The package huggingface_hub is missing, there is no such repo, revision or file, or the
            hub cannot be reached.
    """
    try:
        from huggingface_hub import utils as hub
    except ImportError:
        raise InputError(
            f"{repo}: no such file or folder here, and a Hugging Face repo needs the package "
            'huggingface_hub; pip install "igll[hub]"'
        ) from None
    named = repo if revision is None else f"{repo}@{revision}"
    try:
        with _only_errors_logged():
            path = _fetched(repo, revision)
    except hub.GatedRepoError:
        reason = "access to this repo has to be asked for on its page, and then a token (hf auth login)"
    except hub.RepositoryNotFoundError:
        reason = (
            "no such file or folder here, and no such Hugging Face repo (a private one takes hf auth login)"
        )
    except hub.RevisionNotFoundError:
        reason = "the Hugging Face repo has no such revision; give a branch, a tag or a full commit"
    except (hub.LocalEntryNotFoundError, ConnectionError) as error:
        reason = (
            "no such file or folder here, and the Hugging Face hub cannot be reached "
            f"({_first_line(error.__cause__ or error)})"
        )
    except hub.EntryNotFoundError:
        reason = f"the Hugging Face repo has no {MODEL_FILE}, and igll loads nothing else from there"
    except Exception as error:  # over a network that fails, the client raises any kind of error
        reason = f"cannot be had from the Hugging Face hub ({_first_line(error)})"
    else:
        return path, path.parent.name  # the cache keeps every commit in a folder of its name
    raise InputError(f"{named}: {reason}")


def _fetched(repo: str, revision: str | None) -> Path:
    """The file in the cache, fetched unless it is there.

    Raises:
        ConnectionError: The hub does not answer, and the cache has no such file.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub import utils as hub

    try:
        hf_hub_download(repo, MODEL_FILE, revision=revision, local_files_only=True)
    except hub.LocalEntryNotFoundError:
        # Without a cached file the download asks six times over half a minute; this asks once.
        try:
            get_hf_file_metadata(hf_hub_url(repo, MODEL_FILE, revision=revision), library_name="igll")
        except hub.HfHubHTTPError:  # an answer
            raise
        except Exception as error:  # of the HTTP client, which is another from release to release
            raise ConnectionError(_first_line(error)) from error
    return Path(hf_hub_download(repo, MODEL_FILE, revision=revision, library_name="igll"))


@contextmanager
def _only_errors_logged() -> Iterator[None]:
    """Keep huggingface_hub from warning on stderr of what ends in one line anyway."""
    from huggingface_hub.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity(max(before, logging.ERROR))
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
