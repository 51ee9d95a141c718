"""Text for LaTeX."""

from __future__ import annotations

import re

_ESCAPES = {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"}
_SYMBOLS = (
    ("†", "$^{\\dagger}$"),
    ("↑", "$\\uparrow$"),
    ("↓", "$\\downarrow$"),
    ("×", "$\\times$"),
    ("⁹", "$^{9}$"),
    ("–", "--"),
)


def escape(text: str) -> str:
    """Text with LaTeX's special characters escaped, and marks such as ``[1]`` and signs set as such."""
    text = re.sub(r"[\\{}$&#%_^~]", lambda found: _ESCAPES.get(found[0], "\\" + found[0]), text)
    text = re.sub(r" ?\[(\d+)\]", r"$^{\1}$", text)
    text = re.sub(r" (?=[†↑↓])", "", text)
    for plain, command in _SYMBOLS:
        text = text.replace(plain, command)
    return re.sub(r"^-(?=\d)", "$-$", text)
