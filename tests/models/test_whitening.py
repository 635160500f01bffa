"""Whitening against cirtorch, and on inputs where cirtorch fails."""

from pathlib import Path

import numpy as np
import pytest
import torch

from largescale.distributed import World
from largescale.models import whitening
from largescale.models.whitening import LearnedWhitening, PCAWhitening, RowParts, Whitening
from largescale.settings import UserError
from tests.goldens import Golden, goldens
from tests.world import run_world


def _fit(case: Golden) -> Whitening:
    arrays = case.arrays()
    x = arrays["in_X"].T.astype(case.args["dtype"].replace("f", "float"))
    if "in_qidxs" in arrays:
        return LearnedWhitening.fit(x, arrays["in_qidxs"], arrays["in_pidxs"])
    return PCAWhitening.fit(x)


@pytest.mark.parametrize("case", goldens("whitening", "whitenlearn", "pcawhitenlearn"))
def test_equals_cirtorch(case: Golden) -> None:
    whitener, arrays = _fit(case), case.arrays()
    case.compare("m", whitener.mean[:, None])
    x = torch.tensor(arrays["in_X_apply"].T, dtype=getattr(torch, case.args["dtype"].replace("f", "float")))
    full = whitener.apply(x)
    case.compare("gram_full", full[:40] @ full[:40].T)
    if x.dtype == torch.float32:
        return  # the peer's float32 covariance turns single directions
    case.compare("P", whitener.directions)
    for dim in (32, 16, 1):
        case.compare(f"Y_{dim}", whitener.apply(x, dim).T)


@pytest.mark.parametrize("case", goldens("whitening", "whitenapply"))
def test_application_equals_cirtorch(case: Golden) -> None:
    arrays = case.arrays()
    whitener = Whitening(torch.tensor(arrays["in_m"][:, 0]), torch.tensor(arrays["in_P"]))
    x = torch.tensor(arrays["in_X"].T, dtype=getattr(torch, case.args["dtype"].replace("f", "float")))
    case.compare("Y", whitener.apply(x, case.args["dimensions"] or None).T)


@pytest.mark.parametrize("case", goldens("whitening", "whiten_degenerate"))
def test_degenerate_input(case: Golden) -> None:
    """cirtorch answers with complex numbers up to 7e8, or raises."""
    whitener = _fit(case)
    assert whitener.directions.isfinite().all()
    rows = whitener.apply(case.arrays()["in_X"].T)
    assert rows.isfinite().all()
    assert rows.norm(dim=1).max() <= 1 + 1e-6


def test_worked_example() -> None:
    x = np.array([[1.0, 1], [2, 3], [4, 0], [5, 1]])
    whitener = LearnedWhitening.fit(x, [0, 2], [1, 3])
    np.testing.assert_allclose(whitener.mean, [2.5, 0.5])
    np.testing.assert_allclose(whitener.directions.abs(), [[3.153335, 1.939532], [0.237658, 0.488072]], atol=1e-6)
    differences = torch.tensor([[1, 1.5], [1.5, 2.5]], dtype=torch.float64)
    np.testing.assert_allclose(whitener.directions @ differences @ whitener.directions.T, np.eye(2), atol=1e-9)


@pytest.mark.parametrize("power", [0.0, 0.25, 0.5])
def test_power_of_principal_components(power: float) -> None:
    x = np.random.default_rng(0).normal(size=(500, 6)) * [1, 2, 3, 4, 5, 6]
    whitener = PCAWhitening.fit(x, power)
    variances = ((x - x.mean(0)) @ whitener.directions.numpy().T).var(0)
    np.testing.assert_allclose(variances, np.linalg.eigvalsh(np.cov(x.T, bias=True))[::-1] ** (1 - 2 * power))


def test_blocks_and_memory_maps_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    x, (queries, positives) = random.normal(size=(300, 8)).astype(np.float32), random.integers(300, size=(2, 90))
    np.save(tmp_path / "x.npy", x)
    whole = LearnedWhitening.fit(x, queries, positives)
    monkeypatch.setattr(whitening, "BLOCK", 7)
    blocks = LearnedWhitening.fit(np.load(tmp_path / "x.npy", mmap_mode="r"), queries, positives)
    torch.testing.assert_close(whole.apply(x), blocks.apply(x), atol=1e-6, rtol=0)
    parts = LearnedWhitening.fit(RowParts([x[:100], x[100:100], x[100:]]), queries, positives)
    assert torch.equal(parts.directions, blocks.directions)


def test_the_papers_form() -> None:
    """P = C_S^(-1/2) eig(C_S^(-1/2) C_D C_S^(-1/2)) in plain loops over all pairs."""
    random = np.random.default_rng(0)
    label = np.repeat(np.arange(8), 3)
    x = random.normal(size=(8, 4))[label] + 0.5 * random.normal(size=(24, 4)) * [1, 2, 3, 4]
    same = np.zeros((4, 4))
    other = np.zeros((4, 4))
    matching = [(i, j) for i in range(24) for j in range(i) if label[i] == label[j]]
    for i in range(24):
        for j in range(i):
            (same if label[i] == label[j] else other)[:] += np.outer(x[i] - x[j], x[i] - x[j])
    values, vectors = np.linalg.eigh(same)
    root = vectors @ np.diag(values**-0.5) @ vectors.T
    expected = (root @ np.linalg.eigh(root @ other @ root)[1][:, ::-1]).T * np.sqrt(len(matching))  # a mean over pairs, not a sum
    whitener = LearnedWhitening.fit(x, *np.array(matching).T, form="paper")
    np.testing.assert_allclose(whitener.mean, x.mean(0))
    signs = np.sign((whitener.directions.numpy() * expected).sum(1, keepdims=True))
    np.testing.assert_allclose(whitener.directions, signs * expected, rtol=1e-9)


def test_shrinking() -> None:
    """The covariance of the differences gives way to a sphere: (1 - s) S + s (tr S / D) 1 becomes white."""
    random = np.random.default_rng(0)
    x, (queries, positives) = random.normal(size=(60, 6)) * [1, 2, 3, 4, 5, 6], random.integers(60, size=(2, 40))
    same = (x[queries] - x[positives]).T @ (x[queries] - x[positives]) / 40
    for share in (0.25, 1.0):
        directions = LearnedWhitening.fit(x, queries, positives, shrinkage=share).directions.numpy()
        np.testing.assert_allclose(
            directions @ ((1 - share) * same + share * np.trace(same) / 6 * np.eye(6)) @ directions.T, np.eye(6), atol=1e-9
        )
    turned = LearnedWhitening.fit(x, queries, positives, shrinkage=1.0)
    centered = x - turned.mean.numpy()
    cosines = centered @ centered.T / np.outer(*[np.linalg.norm(centered, axis=1)] * 2)
    np.testing.assert_allclose(turned.apply(x) @ turned.apply(x).T, cosines, atol=1e-5)  # l2_normalize adds 1e-6 to lengths


def test_shrinking_bears_fewer_pairs_than_dimensions() -> None:
    """What no pair spans is scaled as if it had the mean variance, and not by 1e5."""
    x = np.random.default_rng(0).normal(size=(6, 40))
    scales = [
        np.linalg.svd(LearnedWhitening.fit(x, [0, 2], [1, 3], shrinkage=share).directions, compute_uv=False) for share in (0, 0.5)
    ]
    assert scales[0].max() / scales[0].min() > 1e4
    assert scales[1].max() / scales[1].min() < 10


def _fit_in_world(world: World) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    x, (queries, positives) = random.normal(size=(301, 8)).astype(np.float32), random.integers(301, size=(2, 90))
    forms = [LearnedWhitening.fit(x, queries, positives, form, world) for form in ("cirtorch", "paper")]
    return [whitener.apply(x).numpy() for whitener in (*forms, PCAWhitening.fit(x, world=world))]


@pytest.mark.slow
@pytest.mark.distributed
def test_ranks_share_the_work() -> None:
    (alone,) = run_world(1, _fit_in_world)
    for found in run_world(3, _fit_in_world):
        for one, other in zip(found, alone, strict=True):
            np.testing.assert_allclose(np.abs(one), np.abs(other), atol=2e-5)


def test_pairs_are_needed() -> None:
    with pytest.raises(UserError, match="needs pairs"):
        LearnedWhitening.fit(np.eye(3), [0], [])
