import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import largescale
from largescale import Model
from largescale.corpus.corpus import Corpus
from largescale.distributed import World
from largescale.evaluation.stage import embed_task
from largescale.models.sharing.folder import Contents, DescriptorConfig, write_folder
from largescale.models.transform.transform import Transform
from largescale.models.whitening import PCAWhitening
from largescale.settings import UserError
from tests.corpora import encode, make_corpus, photograph
from tests.evaluation.small import SIZE, alone, settings, tiny_network

ROUNDING = 1e-6
"""What the last bits of float32 make of a unit row in another batch."""


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return made(tmp_path / "model")


def made(folder: Path, **values: object) -> Model:
    network = tiny_network()
    settings = DescriptorConfig(**{"size": SIZE, "dim": network.dim, "precision": "fp32"} | values)
    write_folder(folder, Contents(network, settings), "")
    return largescale.load(folder, device="cpu")


@pytest.mark.slow
def test_importing_costs_nothing() -> None:
    code = "import sys, largescale; print('torch' in sys.modules, 'numpy' in sys.modules, dir(largescale))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("False False")
    assert "load" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("scales", ["single", "multi"])
def test_rows_are_those_of_the_evaluation(tmp_path: Path, scales: str) -> None:
    """From shards that kept the bytes: bit for bit, where they go through the network in the same groups."""
    folder = make_corpus(tmp_path / "corpus", labels=2, per_label=4, shards=1, size=60)
    with alone() as world:
        config = settings(tmp_path / "out", gallery=str(folder), scales=scales, precision="auto")
        (expected,) = embed_task(tiny_network(), config, world).gallery.parts
    factors = (1.0,) if scales == "single" else (1.0, 2**-0.5, 0.5)
    encoded = Corpus.open(str(folder)).read(np.arange(8))
    found = made(tmp_path / "model", scales=factors, precision="auto").embed(encoded, batch_size=4)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.slow
def test_whitening_belongs_to_the_model(tmp_path: Path) -> None:
    pictures = [photograph(i, 0, 60, 45) for i in range(40)]
    plain = made(tmp_path / "plain").embed(pictures)
    whitening, network = PCAWhitening.fit(plain), tiny_network()
    contents = Contents(network, DescriptorConfig(size=SIZE, whitening="pca", dim=8, precision="fp32"), whitening)
    write_folder(tmp_path / "whitened", contents, "")
    found = largescale.load(tmp_path / "whitened", device="cpu")
    np.testing.assert_allclose(found.embed(pictures), Transform(1.0, whitening, 8)([plain]), atol=ROUNDING)
    assert found.dim == 8


@pytest.mark.slow
def test_every_kind_of_picture_gives_the_same_row(tmp_path: Path, model: Model) -> None:
    pixels = photograph(0, 0, 60, 45)
    data = encode(pixels, "PNG")
    (tmp_path / "ünïcode name.png").write_bytes(data)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    path = tmp_path / "ünïcode name.png"
    rows = model.embed([path, str(path), data, Image.open(io.BytesIO(data)), pixels, tensor])
    assert rows.shape == (6, model.dim)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, rows[:1].repeat(6, axis=0), atol=ROUNDING)


@pytest.mark.slow
def test_a_row_does_not_depend_on_its_batch(model: Model) -> None:
    pictures = [photograph(i, 0, 60 - i % 2 * 15, 45) for i in range(20)]
    rows = model.embed(pictures)
    for size in (1, 3, 64):
        np.testing.assert_allclose(model.embed(pictures, batch_size=size), rows, atol=ROUNDING)
    np.testing.assert_allclose(np.concatenate([model.embed([picture]) for picture in pictures]), rows, atol=ROUNDING)


@pytest.mark.slow
def test_a_box_is_cut_out_at_the_scale_of_its_picture(model: Model) -> None:
    picture = photograph(0, 0, 60, 45)
    boxed = model.embed([picture, picture], boxes=[(10, 5, 50, 40), None])
    np.testing.assert_allclose(boxed[1], model.embed([picture])[0], atol=ROUNDING)
    assert boxed[0] @ boxed[1] < 0.9999
    for box, said in (
        ((10, 5, 90, 40), "picture 0: the box 10, 5, 90, 40 is not inside its 60 x 45 pixels"),
        ((10, 5, 20), r"picture 0: a box is four numbers, .* found \(10, 5, 20\)"),
        (("a", 5, 20, 30), "picture 0: a box is four numbers"),
    ):
        with pytest.raises(UserError, match=said):
            model.embed([picture], boxes=[box])
    with pytest.raises(UserError, match=r"it is empty$"):
        model.embed([b""], boxes=[(10, 5, 20, 30)])


@pytest.mark.slow
def test_orientation_is_applied(model: Model) -> None:
    upright = Image.fromarray(photograph(0, 0, 60, 45))
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save(buffer, "PNG", exif=exif)
    rows = model.embed([buffer.getvalue(), upright])
    np.testing.assert_allclose(rows[0], rows[1], atol=ROUNDING)


@pytest.mark.slow
def test_pictures_that_cannot_be_used_are_listed(tmp_path: Path, model: Model) -> None:
    good = photograph(0, 0, 60, 45)
    bad = [tmp_path / "none.jpg", b"", b"no picture", encode(good)[:300], good.astype(float), torch.zeros(1, 2)]
    with pytest.raises(UserError) as error:
        model.embed([good, *bad])
    message = str(error.value)
    assert "6 of 7 pictures cannot be used" in message or "5 of 7 pictures" in message
    for part in ("No such file", "it is empty", "it begins with b'no pictu", "found (45, 60, 3)"):
        assert part in message


@pytest.mark.slow
def test_no_pictures_no_rows(model: Model) -> None:
    for single in ("a.jpg", Path("a.jpg"), photograph(0, 0, 60, 45), torch.zeros(3, 9, 9)):
        with pytest.raises(UserError, match=r"a list of pictures, found \w+: write embed\(\[picture\]\)"):
            model.embed(single)  # type: ignore[arg-type]
    assert model.embed([]).shape == (0, model.dim)


@pytest.mark.slow
def test_world_is_not_needed(model: Model) -> None:
    assert isinstance(World, type)
    assert not torch.distributed.is_initialized()
    assert len(model.embed([photograph(0, 0, 60, 45)])) == 1
