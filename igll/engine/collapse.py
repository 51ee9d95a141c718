"""Noticing that generator and discriminator have stopped teaching each other."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from statistics import fmean, median
from typing import NamedTuple

WINDOW = 50  # records that a judgement rests on
ALL_RIGHT = 0.99  # share of right judgements from which on the discriminator has nothing left to learn
NO_SIGNAL = 1e-7  # a gradient's norm below which Adam turns rounding into steps
JUMP = 100.0  # times the usual norm of a gradient

Window = Mapping[str, deque[float]]


class Symptom(NamedTuple):
    """One way in which adversarial training fails.

    Attributes:
        needs: The values that it is read from.
        shows: Whether the last :data:`WINDOW` records of those values show it.
        message: What it means and what to do.
    """

    needs: str
    shows: Callable[[deque[float]], bool]
    message: str


SYMPTOMS = (
    Symptom(
        "discriminator/accuracy",
        lambda values: fmean(values) >= ALL_RIGHT,
        f"the discriminator has told at least {ALL_RIGHT:.0%} of real and filled images apart in the last "
        f"{WINDOW} records, so the generator learns little from it; lower train.discriminator_lr or "
        "discriminator.steps",
    ),
    Symptom(
        "gradient/discriminator",
        lambda values: fmean(values) < NO_SIGNAL,
        f"the discriminator's gradient has vanished (mean norm below {NO_SIGNAL:g} in the last {WINDOW} "
        "records): it no longer learns; lower train.discriminator_lr and resume from an earlier checkpoint",
    ),
    Symptom(
        "gradient/generator",
        lambda values: fmean(values) < NO_SIGNAL,
        f"the generator's gradient has vanished (mean norm below {NO_SIGNAL:g} in the last {WINDOW} "
        "records): it no longer learns; lower train.lr and resume from an earlier checkpoint",
    ),
    Symptom(
        "gradient/generator",
        lambda values: values[-1] > JUMP * median(values),
        f"the generator's gradient jumped to more than {JUMP:g} times its usual norm; set "
        "train.clip_gradient if this goes on",
    ),
)


class CollapseWatch:
    """Reads the recorded accuracy and gradient norms, and says once when they show a :data:`SYMPTOMS`.

    A symptom is told again only after it was gone in between. What it says is a function of the records
    alone: fed with those of an earlier process, it goes on as that one would have.
    """

    def __init__(self) -> None:
        self._windows: dict[str, deque[float]] = {symptom.needs: deque(maxlen=WINDOW) for symptom in SYMPTOMS}
        self._told: set[Symptom] = set()

    def see(self, values: Mapping[str, float | None]) -> list[str]:
        """Take note of one record.

        Args:
            values: Recorded values by name; those of no symptom are passed over.

        Returns:
            What is to be said now.
        """
        for name, window in self._windows.items():
            value = values.get(name)
            if value is not None:
                window.append(value)
        showing = {
            symptom
            for symptom in SYMPTOMS
            if len(self._windows[symptom.needs]) == WINDOW and symptom.shows(self._windows[symptom.needs])
        }
        said = [symptom.message for symptom in SYMPTOMS if symptom in showing - self._told]
        self._told = showing
        return said
