"""Whitening of an evaluation, from the descriptors of shards."""

from pathlib import Path

import numpy as np
import pytest
import torch

from largescale.corpus.corpus import Corpus
from largescale.evaluation.descriptors.fitting import fitted
from largescale.models.whitening import LearnedWhitening, PCAWhitening
from largescale.settings import UserError
from tests.corpora import make_corpus
from tests.evaluation.small import alone


@pytest.mark.slow
def test_each_kind_is_fitted_once_from_all_shards(tmp_path: Path) -> None:
    manifest = Corpus.open(str(make_corpus(tmp_path / "corpus", labels=10, per_label=3, size=16))).manifest
    rows = np.random.default_rng(0).standard_normal((30, 5)).astype(np.float32)
    pairs = [(image, image + 1) for image in range(29) if image % 3 < 2]
    expected = {
        "pca": PCAWhitening.fit(rows),
        "learned": LearnedWhitening.fit(rows, *np.array(pairs).T),
        "learned_paper": LearnedWhitening.fit(rows, *np.array(pairs).T, form="paper"),
        "learned_shrunk": LearnedWhitening.fit(rows, *np.array(pairs).T, shrinkage=2 / 3),
    }
    with alone() as world:
        for kind, whitening in expected.items():
            path = tmp_path / f"{kind}.npz"
            found = fitted(path, kind, manifest, np.arange(30), [rows[:11], rows[11:]], world)
            torch.testing.assert_close(found.apply(rows).abs(), whitening.apply(rows).abs(), rtol=1e-4, atol=1e-5)
            again = fitted(path, kind, manifest, np.arange(30), [], world)
            assert torch.equal(again.directions, found.directions)


@pytest.mark.slow
def test_nothing_to_learn_from(tmp_path: Path) -> None:
    manifest = Corpus.open(str(make_corpus(tmp_path / "corpus", labels=4, per_label=1, size=16))).manifest
    with alone() as world, pytest.raises(UserError, match=r"whitening=learned_paper: .* neither pairs nor labels"):
        fitted(tmp_path / "x.npz", "learned_paper", manifest, np.arange(4), [np.eye(4, dtype=np.float32)], world)
