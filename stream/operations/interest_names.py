"""What people call an interest: the first items that the bundle's codebook puts there."""

from collections import defaultdict
from collections.abc import Sequence

from stream.settings import Settings

_TOP_ITEMS = 3


def top_items(settings: Settings) -> dict[int, Sequence[str]]:
    """The first items of each interest; nothing without a bundle."""
    if settings.model.bundle is None:
        return {}
    from lurm_model.bundle import Bundle  # noqa: PLC0415 - torch is slow to import

    names: dict[int, list[str]] = defaultdict(list)
    for item, interest in Bundle.load(settings.model.bundle).codebook.interest_of.items():
        if len(names[interest]) < _TOP_ITEMS:
            names[interest].append(item)
    return dict(names)
