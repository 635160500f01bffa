"""Law 1: a run that was interrupted and started again equals the uninterrupted one. Law 2: so does one on another world."""

import os
import signal

import pytest

from tests.distributed.conftest import STEPS
from tests.distributed.runs import finish, kill_all, losses, ranks, run, run_alone, start, wait_for_step


def assert_equal_to_rounding(found: dict[int, float], expected: dict[int, float]) -> None:
    """Rounding grows from step to step; a gradient that is off by a factor shows in the second step already."""
    first = range(1, 9)
    assert [found[step] for step in first] == pytest.approx([expected[step] for step in first], rel=1e-4)
    assert found == pytest.approx(expected, rel=2e-2)


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("processes", [2, 4])
def test_losses_do_not_depend_on_the_number_of_processes(uninterrupted, processes):
    alone = losses(uninterrupted(1))
    assert sorted(alone) == list(range(1, STEPS + 1))
    assert_equal_to_rounding(losses(uninterrupted(processes)), alone)


@pytest.mark.slow
@pytest.mark.distributed
def test_one_process_killed_goes_on(uninterrupted, settings, tmp_path):
    arguments, directory = [*settings, f"runs={tmp_path}"], tmp_path / "default"
    process = start(arguments, "--standalone", "--nproc-per-node", 1)
    wait_for_step(directory, 15, process)
    kill_all(process)
    assert max(losses(directory)) < STEPS
    assert f"is finished: {STEPS} steps" in run_alone(arguments)
    assert losses(directory) == losses(uninterrupted(1))
    # a finished run has nothing to do
    assert f"is finished: {STEPS} steps" in run_alone(arguments)
    assert losses(directory) == losses(uninterrupted(1))


@pytest.mark.slow
@pytest.mark.distributed
def test_stop_signal_to_one_rank_stops_all_and_the_same_command_goes_on(uninterrupted, settings, tmp_path):
    arguments, directory = [*settings, f"runs={tmp_path}"], tmp_path / "default"
    process = start(arguments)
    wait_for_step(directory, 6, process)
    os.kill(ranks(process)[1], signal.SIGTERM)
    output = finish(process)
    assert process.returncode == 0, output
    taken = max(losses(directory))
    assert taken < STEPS
    assert f"is stopped by a stop signal after step {taken} of {STEPS}" in output
    assert "torchrun --nproc-per-node 2 launch/train.py name=default corpus=" in output
    run(arguments, 2)
    assert losses(directory) == losses(uninterrupted(2))


@pytest.mark.slow
@pytest.mark.distributed
def test_torchrun_restarts_after_the_death_of_a_rank(uninterrupted, settings, tmp_path):
    process = start([*settings, f"runs={tmp_path}"], "--standalone", "--nproc-per-node", 2, "--max-restarts", 1)
    wait_for_step(tmp_path / "default", 14, process)
    os.kill(ranks(process)[0], signal.SIGKILL)
    output = finish(process)
    assert process.returncode == 0, output
    assert losses(tmp_path / "default") == losses(uninterrupted(2))


@pytest.mark.slow
@pytest.mark.distributed
def test_death_of_everything_and_fewer_processes_go_on(uninterrupted, settings, tmp_path):
    arguments, directory = [*settings, f"runs={tmp_path}"], tmp_path / "default"
    process = start(arguments, "--standalone", "--nproc-per-node", 4)
    wait_for_step(directory, 14, process)
    kill_all(process)
    assert max(losses(directory)) < STEPS
    run(arguments, 2)
    assert_equal_to_rounding(losses(directory), losses(uninterrupted(4)))
