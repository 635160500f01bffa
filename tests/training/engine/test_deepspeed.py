"""DeepSpeed's engines give what others give, at every stage. All in one world, because DeepSpeed takes seconds to start."""

import gc
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from largescale.distributed import World
from tests.training.engine import test_adapting as adapting
from tests.training.engine import test_batch_statistics as statistics
from tests.training.engine import test_class_rows as class_rows
from tests.training.engine import test_engine as engines
from tests.training.engine import test_recompute as recomputing
from tests.world import run_world

Answers = dict[str, Any]
NEEDLESS = ("mlflow", "torch._inductor.compile_fx", "torch._dynamo.eval_frame")
"""What DeepSpeed would import, twice as long as all else, and does not use."""


def _everything(world: World, file: Path, expected: Answers) -> Answers:
    states = statistics.both_engines(world, file)
    needless = [name for name in NEEDLESS if name in sys.modules]
    gc.freeze()  # stage 3 collects garbage as it begins, which need not go through all that has been imported
    compared = {"stages": engines.assert_stages_equal, "class rows": class_rows.assert_stages_equal}
    for name, compare in compared.items():
        compare(world, file, expected[name])
    recomputing.assert_stage_3_equal(world, file)
    adapting.assert_stages_equal(world, file)
    return {"states": states, "needless": needless, "compared": [*compared, "computed again", "what learns"]}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> list[Answers]:
    """Of two ranks, which hash texts in their own ways."""
    file = engines.write_deepspeed_file(tmp_path_factory.mktemp("engines") / "deepspeed.json")
    expected = {"stages": run_world(1, engines.plain)[0], "class rows": run_world(1, class_rows.plain)[0]["adamw"]}
    return run_world(2, _everything, file, expected, hashes=True)


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("compared", ["stages", "class rows", "computed again", "what learns"])
def test_every_stage_equals_ddp(answers: list[Answers], compared: str) -> None:
    """The ranks assert it."""
    assert all(compared in answer["compared"] for answer in answers)


@pytest.mark.slow
@pytest.mark.distributed
def test_statistics_of_batch_normalization_agree(answers: list[Answers]) -> None:
    first, second = (answer["states"] for answer in answers)
    for states in (first, second):
        for state in states:
            for name, value in first[0].items():
                np.testing.assert_allclose(state[name], value, rtol=2e-4, atol=2e-6, err_msg=name)
    for name, value in first[0].items():  # ranks hold the same bits, so a checkpoint of one is that of all
        np.testing.assert_array_equal(second[0][name], value, err_msg=name)


@pytest.mark.slow
@pytest.mark.distributed
def test_a_start_imports_what_it_uses(answers: list[Answers]) -> None:
    assert [answer["needless"] for answer in answers] == [[], []]
