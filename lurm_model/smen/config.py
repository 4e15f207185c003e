"""What a SMEN is made of: the numbers that stand in a bundle's manifest and decide the shape of every tensor."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

from state.periods import MS_PER_DAY, SCALES, TS_MS_MAX, Scale, parse_scales

# No day number of the years 1 to 9999 is larger, whichever its sign.
DAYS_MAX = TS_MS_MAX // MS_PER_DAY
SIZES = ("n_interests", "d_item", "n_vectors", "n_recurrent", "n_condensed", "d_anchor")


@dataclass(frozen=True, slots=True)
class SmenConfig:
    """Shapes and constants of one model.

    **Units**: ``reference_day`` is a day number (days since 1970-01-01): the newest day of the training data;
    ``n_vectors`` is M, an embedding's; ``n_recurrent`` is R, how many anchors carry a recurrent state, and
    ``n_condensed`` how many of the M vectors' worth of numbers is made of these; ``half_lives`` are days, each that of
    one anchor whose sum fades; of few sums at most a third does.
    **Source**: the modules are the paper's; every number is our decision.
    """

    n_interests: int
    d_item: int
    reference_day: int
    scales: tuple[str, ...] = ("day", "month")
    n_vectors: int = 10
    n_recurrent: int = 4
    n_condensed: int = 1
    d_anchor: int = 64
    half_lives: tuple[int, ...] = (30, 365)
    tau: float = 1.0

    @property
    def n_sums(self) -> int:
        """How many anchors carry a sum over the life."""
        return self.n_vectors - self.n_condensed

    @property
    def n_anchors(self) -> int:
        """All anchors: those that carry sums, then those that carry recurrent states."""
        return self.n_sums + self.n_recurrent

    @property
    def fading(self) -> tuple[int, ...]:
        """The half-lives of the sums that do fade."""
        return self.half_lives[: self.n_sums // 3]

    @property
    def kinds_of_sums(self) -> tuple[int, ...]:
        """How many anchors carry each kind of sum: the plain one, then that of every half-life."""
        return (self.n_sums - len(self.fading), *(1 for _ in self.fading))

    @property
    def life_scale(self) -> str:
        """The scale whose periods hold the whole life, each event once: the coarsest."""
        return self.scales[-1]

    @property
    def scale_objects(self) -> tuple[Scale, ...]:
        """The scales themselves, finest first."""
        return tuple(SCALES[name] for name in self.scales)

    def to_json(self) -> dict[str, object]:
        """Plain data for the manifest."""
        return dataclasses.asdict(self) | {"scales": list(self.scales), "half_lives": list(self.half_lives)}

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> "SmenConfig":
        """The inverse of `to_json`. **Raises** ``TypeError`` or ``ValueError`` for what no `to_json` wrote."""
        names, half_lives = data.get("scales"), data.get("half_lives")
        if not isinstance(names, list) or not isinstance(half_lives, list):
            raise TypeError("scales and half_lives must be lists")
        scales = tuple(scale.name for scale in parse_scales(",".join(names)))
        parts = {"scales": scales, "half_lives": tuple(half_lives)}
        found = cls(**(dict(data) | parts))  # type: ignore[arg-type]  # checked below
        numbers = dataclasses.asdict(found) | {"scales": 0, "half_lives": 0, "tau": 0}
        if not all(type(days) is int and 0 < days <= DAYS_MAX for days in half_lives):
            raise ValueError(f"half_lives must be positive numbers of days, at most {DAYS_MAX}")
        if type(found.tau) not in (int, float) or not 0 < found.tau < math.inf:
            raise ValueError("tau must be a positive number")
        if wrong := [name for name, value in numbers.items() if type(value) is not int]:
            raise TypeError(f"{wrong[0]} must be a whole number")
        if abs(found.reference_day) > DAYS_MAX:
            raise ValueError(f"reference_day must be at most {DAYS_MAX} days from 1970")
        if none := [name for name in SIZES if numbers[name] < 1]:
            raise ValueError(f"{none[0]} must be above 0")
        if found.n_condensed > min(found.n_recurrent, found.n_vectors - 1):
            raise ValueError("n_condensed must be at most n_recurrent, and less than n_vectors")
        return found
