"""What may become of a record that is read: closed sets, which are labels of metrics too."""

from enum import StrEnum


class Reason(StrEnum):
    """Why an event was rejected; a closed set, used as a metric label."""

    NOT_JSON = "not_json"
    MISSING_FIELD = "missing_field"
    WRONG_TYPE = "wrong_type"
    KEY_MISMATCH = "key_mismatch"
    TOO_LARGE = "too_large"
    FUTURE = "future"
    TOO_OLD = "too_old"
    WRONG_UNIT = "wrong_unit"


class RecordTime(StrEnum):
    """What the time of an event's Kafka record is; a closed set, used as a metric label."""

    ARRIVAL = "arrival"
    NONE = "none"
    BACKDATED = "backdated"
    AHEAD = "ahead"


class ItemOutcome(StrEnum):
    """What became of a record of the items topic; a closed set, used as a metric label."""

    LEARNED = "learned"
    FORGOTTEN = "forgotten"
    IN_BUNDLE = "in_bundle"
    BAD_KEY = "bad_key"
    NOT_JSON = "not_json"
    WRONG_TYPE = "wrong_type"
    OTHER_SPACE = "other_space"
    NO_SUCH_INTEREST = "no_such_interest"
    UNKNOWN = "unknown"
