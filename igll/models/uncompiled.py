"""What torch.compile leaves as it is."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

_Given = ParamSpec("_Given")
_Found = TypeVar("_Found")


def uncompiled(function: Callable[_Given, _Found]) -> Callable[_Given, _Found]:
    """A function that torch.compile calls instead of following it, as one that looks at values.

    ``torch.compiler.disable`` does the same, but imports the compiler at once, a second of every start.
    """

    @wraps(function)
    def called(*args: _Given.args, **kwargs: _Given.kwargs) -> _Found:
        if torch.compiler.is_compiling():
            found: _Found = torch.compiler.disable(function)(*args, **kwargs)
            return found
        return function(*args, **kwargs)

    return called
