"""Command lines whose mistakes are told in one line."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """A parser that names what is wrong and where help is, instead of printing its usage."""

    def error(self, message: str) -> NoReturn:
        """Leave with exit code 2 and one line."""
        self.exit(2, f"error: {message}; see {self.prog} --help\n")

    def add_out(self, text: str, required: bool = True) -> None:
        """Add ``--out``, a folder to write to.

        Args:
            text: What the help says of it.
            required: Whether it has to be given.
        """
        self.add_argument("--out", type=_folder, required=required, help=text)


def _folder(text: str) -> Path:
    """A folder, for argparse; an empty text, as of a shell's variable that is not set, is none."""
    if not text:
        raise argparse.ArgumentTypeError("is empty; name a folder")
    return Path(text)
