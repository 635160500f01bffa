import pytest
import torch

from largescale.mining.search.precision import Bounds, Rounded, product
from largescale.mining.search.select import score_pairs


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("dim", [3, 64, 700])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 300.0])
def test_what_is_below_a_product_is_truly_less(kind: torch.dtype, dim: int, scale: float) -> None:
    """For every query and every two of its products, also of rows that all point one way, and of rows of unequal length."""
    generator = torch.Generator().manual_seed(dim)
    rows = (torch.randn(120, dim, generator=generator) + torch.arange(120)[:, None] / 40) * scale
    asked = torch.randn(20, dim, generator=generator) + 1
    queries, bounds = Rounded.of(asked, kind), Bounds.of(rows, kind)
    scores = product(rows if kind == torch.float64 else rows.to(kind), queries.rows, kind)  # (T, B)
    i, j = torch.arange(120).repeat_interleave(20), torch.arange(20).repeat(120)
    true = score_pairs(rows, asked, i, j).view(120, 20)
    slack = bounds.slack(queries, kind)
    values = scores.to(slack.fixed)
    assert ((values - true).abs() <= slack.fixed + slack.share * values.abs()).all()
    least = slack.below(values)  # (T, B)
    dropped = values[:, None] < least  # (T, T, B): the first is less than the second
    assert dropped.any()
    assert (true[:, None].expand_as(dropped)[dropped] < true[None].expand_as(dropped)[dropped]).all()


def test_nothing_is_below_no_product() -> None:
    queries = Rounded.of(torch.eye(2), torch.float32)
    slack = Bounds.of(torch.eye(2), torch.float32).slack(queries, torch.float32)
    assert slack.below(torch.tensor([-torch.inf, 0.5])).tolist()[0] == -torch.inf


def test_bfloat16_bounds_are_tight_enough_to_be_of_use() -> None:
    """Random unit rows of 512 dimensions lose less than a hundredth together, where the a-priori bound would be 0.016."""
    rows = torch.nn.functional.normalize(torch.randn(200, 512, generator=torch.Generator().manual_seed(0)))
    slack = Bounds.of(rows, torch.bfloat16).slack(Rounded.of(rows, torch.bfloat16), torch.bfloat16)
    assert (2 * slack.fixed).max() < 0.01
