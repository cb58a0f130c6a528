"""A figure beside its target."""

import math
from dataclasses import dataclass
from typing import Literal

from autoscaling.simulator.compare import Interval

Unit = Literal["", "%", "s", "req/s", "×"]


@dataclass(frozen=True, slots=True)
class Target:
    """The mean must be at least (or at most) ``value``."""

    value: float
    at_most: bool = False

    def met_by(self, mean: float) -> bool:
        return mean <= self.value if self.at_most else mean >= self.value


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. Without a target it informs; without a figure it was not measured.

    ``note`` says what bounds the figure. ``name`` is unique: the figure's name in the JSON file.
    """

    goal: str
    what: str
    figure: Interval | None
    target: Target | None = None
    unit: Unit = ""
    note: str = ""
    verdict: str = ""

    @property
    def name(self) -> str:
        return f"{self.goal}: {self.what}"

    def cells(self) -> list[str]:
        """What, target, figure, its 95 % interval, verdict, note."""
        figure, target, interval = "–", "–", "–"
        if self.target is not None:
            target = ("≤ " if self.target.at_most else "≥ ") + show(self.target.value, self.unit)
        if self.figure is not None:
            figure = show(self.figure.mean, self.unit)
            if not math.isnan(self.figure.half_width):
                interval = f"± {show(self.figure.half_width, self.unit)} (n={self.figure.n})"
            else:
                interval = f"n={self.figure.n}"
        return [self.what, target, figure, interval, self.says(), self.note]

    def says(self) -> str:
        """The verdict: by the mean, with a question mark where the interval says both."""
        if self.verdict or self.target is None or self.figure is None:
            return self.verdict
        figure = self.figure
        met = self.target.met_by(figure.mean)
        ends = {self.target.met_by(end) for end in (figure.low, figure.high)}
        doubt = "?" if not math.isnan(figure.half_width) and len(ends) > 1 else ""
        return ("met" if met else "not met") + doubt


def show(value: float, unit: Unit) -> str:
    if math.isnan(value):
        return "–"
    if unit == "%":
        return f"{100 * value:.1f} %"
    if unit in ("×", ""):
        return f"{value:.3f}{unit}"
    return f"{value:.1f} {unit}"
