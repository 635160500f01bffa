import pytest
from pydantic import ValidationError

from largescale.mining import MiningConfig


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"order": "farthest", "similarity_cap": 0.5, "semi_hard": True}, "semi_hard and similarity_cap would do nothing"),
        ({"order": "farthest", "duplicate": 0.9}, "duplicate would do nothing"),
        ({"index_search": "nprobe=4"}, "not with index=auto"),
        ({"index": "exact", "index_search": "nprobe=4"}, "not with index=exact"),
        ({"min_recall": 1.5}, "less than or equal to 1"),
    ],
)
def test_settings_that_contradict_one_another_are_errors(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        MiningConfig(**values)


def test_zero_caps_count_as_caps() -> None:
    with pytest.raises(ValidationError, match="similarity_cap would do nothing"):
        MiningConfig(order="farthest", similarity_cap=0.0)
