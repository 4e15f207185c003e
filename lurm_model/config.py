"""What a SMEN is made of: the numbers that stand in a bundle's manifest and decide the shape of every tensor."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from state.periods import SCALES, Scale, parse_scales


@dataclass(frozen=True, slots=True)
class SmenConfig:
    """Shapes and constants of one model.

    **Units**: ``reference_day`` is a day number (days since 1970-01-01): the newest day of the training data.
    **Source**: the modules are the paper's; every number is our decision.
    """

    n_interests: int
    d_item: int
    reference_day: int
    scales: tuple[str, ...] = ("day", "month")
    n_anchors: int = 10
    n_recurrent: int = 4
    d_anchor: int = 64
    tau: float = 1.0

    @property
    def n_sums(self) -> int:
        """How many anchors carry the plain sum over the life; the others carry the recurrent state."""
        return self.n_anchors - self.n_recurrent

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
        return dataclasses.asdict(self) | {"scales": list(self.scales)}

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> "SmenConfig":
        """The inverse of `to_json`. **Raises** ``TypeError`` or ``ValueError`` for what no `to_json` wrote."""
        names = data.get("scales")
        if not isinstance(names, list):
            raise TypeError("scales must be a list")
        scales = tuple(scale.name for scale in parse_scales(",".join(names)))
        found = cls(**(dict(data) | {"scales": scales}))  # type: ignore[arg-type]  # checked below
        numbers = dataclasses.asdict(found) | {"scales": 0}
        if wrong := [name for name, value in numbers.items() if type(value) not in (int, float)]:
            raise TypeError(f"{wrong[0]} must be a number")
        return found
