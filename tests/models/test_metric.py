"""Rows whose products are similarities by distance."""

import pytest
import torch

from largescale.models.config import ModelConfig
from largescale.models.metric import COSINE, Space


@pytest.mark.parametrize("length", [0.1, 1.0, 22.6, 3000.0])
def test_products_of_lifted_rows_are_similarities_to_the_digits_of_doubles(length: float) -> None:
    generator = torch.Generator().manual_seed(0)
    queries, rows = (length * torch.randn(n, 40, generator=generator) / 40**0.5 for n in (5, 30))
    space = Space.of_length(length)
    products = space.queries(queries).double() @ space.items(rows).double().T
    far = (queries[:, None].double() - rows.double()).square().sum(2)
    torch.testing.assert_close(space.outside(products), 1 - far / 2, rtol=0, atol=1e-12 * length**2 + 1e-15)
    torch.testing.assert_close(space.inside(1 - far / 2), products, rtol=0, atol=1e-12)
    torch.testing.assert_close(space.descriptors(space.items(rows)), rows, rtol=0, atol=0)


def test_of_unit_rows_the_similarity_is_the_cosine() -> None:
    rows = torch.nn.functional.normalize(torch.randn(9, 12, generator=torch.Generator().manual_seed(0)))
    space = Space(1.0)
    torch.testing.assert_close(space.queries(rows) @ space.items(rows).T, rows @ rows.T)
    assert COSINE.items(rows) is rows
    assert COSINE.queries(rows) is rows


@pytest.mark.parametrize(("length", "unit"), [(0.0, 1.0), (float("nan"), 1.0), (1.3, 1.0), (22.6, 16.0), (23.0, 32.0)])
def test_a_unit_is_the_power_of_two_near_a_length(length: float, unit: float) -> None:
    assert Space.of_length(length).unit == unit


def test_descriptors_with_lengths_are_compared_by_distance() -> None:
    assert ModelConfig().metric == "cosine"
    assert ModelConfig(normalize=False).metric == "l2"
    assert ModelConfig(normalize=False, metric="cosine").metric == "cosine"
    with pytest.raises(ValueError, match="metric=l2 puts unit rows in the order that metric=cosine does"):
        ModelConfig(metric="l2")
