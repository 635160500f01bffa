import numpy as np

from largescale.mining.generations import Generation
from largescale.mining.near_labels import near_labels, nearness
from tests.corpus.synthetic import manifest_of


def test_mined_negatives_are_votes() -> None:
    """Label 0 asks twice, 1 once; random negatives (NaN) and images without a label do not count."""
    manifest = manifest_of(np.array([2, 2, 2, 2]), unlabeled=1)
    negatives = np.array([[2, 4, 6], [4, 3, 8], [5, 6, 1]])
    similarities = np.array([[0.9, 0.8, np.nan], [0.9, 0.8, 0.7], [0.5, 0.4, 0.3]], np.float32)
    generation = Generation(0, 0, "", np.array([0, 1, 2]), negatives, similarities, [], {})
    expected = np.zeros((4, 4))
    expected[0, 1], expected[0, 2] = (3 + 2) / 2, (2 + 3) / 2
    expected[1, 2], expected[1, 3], expected[1, 0] = 3, 2, 1
    near = near_labels(manifest, generation)
    np.testing.assert_array_equal(near.toarray(), expected + expected.T)
    assert nearness(near, np.array([[0, 0, 1, 1], [0, 0, 3, 3]]), 2) == 0.5
