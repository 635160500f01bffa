"""A slice of what `make torture` does: every kind of file, every stage."""

from pathlib import Path

from tests.evaluation.small import alone
from tests.torture import flips, kills


def test_no_flipped_byte_alters_what_is_read_without_a_word(tmp_path: Path) -> None:
    with alone() as world:
        found = flips.flips(flips.build_kinds(tmp_path, world), 6)
    assert len(found) >= 16
    assert {name: dict(of) for name, of in found.items() if of["altered"] or of["traceback"]} == {}
    assert sum(of["refused"] + of["repaired"] for of in found.values()) > 60


def test_killed_work_ends_as_undisturbed_work(tmp_path: Path) -> None:
    made = kills.stages(tmp_path / "inputs")
    for name in ("training", "mining"):
        assert kills.torture(name, made[name], tmp_path / name, 3)["ends compared"] >= 1
