"""What is looked for before the first step."""

from pathlib import Path

import pytest

from largescale.distributed import World
from largescale.settings import UserError
from largescale.training.preflight import check_shared, clear
from tests.world import run_world


def kept(run: Path) -> list[str]:
    return sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.is_file())


def make(run: Path, *names: str) -> Path:
    for name in names:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).touch()
    return run


def test_what_a_run_leaves_that_was_killed_before_its_first_checkpoint_is_removed_and_nothing_else(tmp_path: Path) -> None:
    copies = ["weights/notes.txt", "weights/step-000008 good.safetensors", "weights/step-000008.safetensors.bak"]
    first = ["weights/step-000000.safetensors", "weights/step-000000.anchors.npy", "negatives/gen-000000-000000/COMPLETE"]
    clear(make(tmp_path, *first, *copies, "config.yaml"))
    assert kept(tmp_path) == ["config.yaml", *copies]


def test_weights_whose_checkpoints_are_gone_are_never_removed(tmp_path: Path) -> None:
    """Somebody has deleted the checkpoints of a finished run, which are large, and gives its command again."""
    names = ["weights/step-000000.safetensors", "weights/step-000500.safetensors"]
    with pytest.raises(UserError, match=r"step-000500.safetensors is there, and no checkpoint .*choose another name="):
        clear(make(tmp_path, *names))
    assert kept(tmp_path) == names


def _shared(world: World, places: list[Path]) -> None:
    check_shared(places[world.rank], world, patience_s=0.3)


@pytest.mark.slow
@pytest.mark.distributed
def test_nodes_with_disks_of_their_own_are_told_before_the_first_step(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    run_world(2, _shared, [one, one])
    with pytest.raises(AssertionError, match=r"rank 1 on .* does not see the .*two of rank 0: the nodes share no run directory"):
        run_world(2, _shared, [one, two])
    assert not list(one.iterdir())
