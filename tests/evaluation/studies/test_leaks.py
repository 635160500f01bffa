"""Near-duplicates: what a hash survives and what it does not, and pairs against brute force."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from largescale.evaluation.studies import leaks
from largescale.evaluation.studies.hashes import Hashes, hash_image
from largescale.evaluation.studies.leaks import Pairs, find_by_descriptor, find_by_hash
from largescale.settings import UserError


def bits(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.unpackbits(a[32:] ^ b[32:]).sum())


def jpeg(image: Image.Image, quality: int = 90) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def test_real_photographs_are_known_again_and_not_mistaken(shared_data: Path) -> None:
    """Smaller, worse, brighter: within the default of 10 bits; of other photographs not one pair in 10,000."""
    with tarfile.open(shared_data / "imagenet1k_distract256.tar") as tar:
        members = [member for member in tar if member.isfile()][:150]
        images = [Image.open(io.BytesIO(tar.extractfile(member).read())).convert("RGB") for member in members]  # type: ignore[union-attr]
    hashes = np.stack([hash_image(jpeg(image)) for image in images])
    half = [image.resize((image.width // 2, image.height // 2), Image.Resampling.BICUBIC) for image in images]
    for changed in (half, [ImageEnhance.Brightness(image).enhance(1.2) for image in images]):
        distances = [bits(a, hash_image(jpeg(image, 60))) for a, image in zip(hashes, changed, strict=True)]
        assert np.mean(np.array(distances) <= 10) >= 0.97
    others = [bits(a, b) for i, a in enumerate(hashes) for b in hashes[:i]]
    assert np.mean(np.array(others) <= 10) < 1e-4


def test_an_undecodable_image_is_like_its_own_copy_only() -> None:
    one, other = hash_image(b"no image"), hash_image(b"no image either")
    assert bits(one, hash_image(b"no image")) == 0
    assert bits(one, other) > 30


def test_pairs_by_hash_are_those_of_brute_force() -> None:
    random = np.random.default_rng(0)
    used, trained = random.integers(256, size=(40, 48), dtype=np.uint8), random.integers(256, size=(300, 48), dtype=np.uint8)
    trained[7] = trained[250] = used[3]
    trained[8, 32:] = used[5, 32:]
    trained[8, 40] ^= 0b1011
    trained[9, :8] = used[6, :8]  # the same first bytes are not the same bytes
    pairs = Pairs()
    find_by_hash(pairs, Hashes(used), Hashes(trained), 4, first=1000)
    expected = {(i, 1000 + j): bits(a, b) for i, a in enumerate(used) for j, b in enumerate(trained) if bits(a, b) <= 4}
    assert {key: pair.bits for key, pair in pairs.found.items()} == expected == {(3, 1007): 0, (3, 1250): 0, (5, 1008): 3}
    assert {key for key, pair in pairs.found.items() if pair.same_bytes} == {(3, 1007), (3, 1250)}
    assert [(pair.used, pair.trained) for pair in pairs.sorted()] == [(3, 1007), (3, 1250), (5, 1008)]


def test_pairs_by_descriptor_across_blocks_and_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaks, "BLOCK", 16)
    random = np.random.default_rng(1)
    used, trained = (random.normal(size=(count, 4)).astype(np.float32) for count in (50, 90))
    used, trained = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (used, trained))
    pairs = Pairs()
    find_by_descriptor(pairs, [used[:30], used[30:]], [trained[:41], trained[41:]], 0.95, first=5)
    assert set(pairs.found) == {(i, j + 5) for i, j in np.argwhere(used @ trained.T >= 0.95).tolist()}
    assert len(pairs.found) > 5


def test_thresholds_that_call_everything_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaks, "MOST", 50)
    with pytest.raises(UserError, match="lower bits or raise similarity"):
        find_by_descriptor(Pairs(), [np.ones((10, 1))], [np.ones((10, 1))], 0.5)
