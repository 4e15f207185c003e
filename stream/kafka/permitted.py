"""Which topics there are for us, and what the broker lets us do to them."""

from collections.abc import Mapping
from typing import Any, Final

from kafka import KafkaAdminClient

from stream.errors import PermissionMissing

NOT_AUTHORIZED: Final = 29
_OPERATIONS: Final = {"Read": "READ", "Write": "WRITE", "DescribeConfigs": "DESCRIBE_CONFIGS"}


def existing(client: KafkaAdminClient, names: list[str]) -> dict[str, Mapping[str, Any]]:
    """What the broker says of the topics that exist. **Raises** `PermissionMissing` when we may not know."""
    topics = client.describe_topics(names)
    if hidden := [topic["name"] for topic in topics if topic["error_code"] == NOT_AUTHORIZED]:
        raise PermissionMissing(*(f"Describe on topic {name}" for name in hidden))
    return {topic["name"]: topic for topic in topics if topic["error_code"] == 0}


def forbidden(topic: Mapping[str, Any]) -> frozenset[str]:
    """What we may not do to this topic; nothing where the broker does not say."""
    allowed = set(topic.get("authorized_operations") or ())
    if not allowed:
        return frozenset()
    return frozenset(each for each in ("Read", "Write", "DescribeConfigs") if _OPERATIONS[each] not in allowed)
