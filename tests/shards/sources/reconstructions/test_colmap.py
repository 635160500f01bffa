from pathlib import Path

import numpy as np
import pytest

from largescale.corpus.manifest import Manifest
from largescale.settings import UserError
from shards.layouts import choose
from shards.sources import Item, Skipped
from shards.sources.layout import Request
from shards.sources.reconstructions.colmap import Colmap, Reconstructions, pairs_of, read_model
from shards.verify import Unchecked
from shards.writer import build
from tests.shards.photographs import write_photographs

pycolmap = pytest.importorskip("pycolmap")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models, one binary and one in text, with an image in common, and an image in neither."""
    root = tmp_path_factory.mktemp("colmap")
    for number, (frames, points) in enumerate(((3, 60), (2, 40))):
        options = pycolmap.SyntheticDatasetOptions()
        options.num_rigs, options.num_frames_per_rig, options.num_points3D = 2, frames, points
        model = pycolmap.synthesize_dataset(options)
        for image in model.images.values():
            image.name = image.name if image.image_id == 1 else f"{'ab'[number]}/{image.name}"
        (root / "sparse" / str(number)).mkdir(parents=True)
        (model.write_text if number else model.write_binary)(str(root / "sparse" / str(number)))
        write_photographs(root / "images", [image.name for image in model.images.values()])
    write_photographs(root / "images", ["alone.png"])
    return root


def test_models_are_labels_and_every_image_belongs_to_one(folder: Path) -> None:
    assert choose(folder).layout.name == "colmap"
    found = list(Colmap().read(Request(folder))[""].items())
    items = [item for item in found if isinstance(item, Item)]
    assert [item.label for item in items] == ["sparse/0"] * 6 + ["sparse/1"] * 3
    assert sorted(item.reason for item in found if isinstance(item, Skipped)) == ["in a second model", "in no model"]


def test_pairs_are_what_the_model_says(folder: Path) -> None:
    model = read_model(folder / "sparse/0")
    reconstruction = pycolmap.Reconstruction(str(folder / "sparse/0"))
    pairs = pairs_of(model, np.ones(len(model.names), bool))
    images = [reconstruction.find_image_with_name(name) for name in model.names]
    assert len(pairs["query"]) == 6 * 5
    for row, (q, i) in enumerate(zip(pairs["query"], pairs["positive"], strict=True)):
        seen = [{point.point3D_id for point in images[n].get_observation_points2D()} for n in (q, i)]
        both = sorted(seen[0] & seen[1])
        points = np.array([reconstruction.points3D[point].xyz for point in both])
        depths = [(images[n].cam_from_world() * points)[:, 2] / images[n].camera.mean_focal_length() for n in (q, i)]
        assert pairs["inliers"][row] == len(both)
        assert pairs["overlap"][row] == len(both) / len(seen[0])
        assert pairs["scale"][row] == pytest.approx(np.exp(abs(np.median(np.log(depths[0] / depths[1])))), rel=1e-5)
        apart = np.linalg.norm(images[q].projection_center() - images[i].projection_center())
        assert pairs["distance"][row] == pytest.approx(apart)


@pytest.mark.slow
def test_a_corpus_has_the_pairs_of_its_images(folder: Path, tmp_path: Path) -> None:
    build(Reconstructions(folder, folder / "images"), tmp_path / "out", workers=1)
    manifest = Manifest.open(Unchecked(tmp_path / "out"))
    assert manifest.pairs is not None
    label = manifest.label
    assert len(manifest.pairs["query"]) == 6 * 5 + 3 * 2
    assert (label[manifest.pairs["query"]] == label[manifest.pairs["positive"]]).all()
    assert set(manifest.pairs) == {"query", "positive", "inliers", "overlap", "scale", "distance"}


def test_a_damaged_model_is_named(folder: Path, tmp_path: Path) -> None:
    for name in ("cameras.bin", "images.bin", "points3D.bin"):
        (tmp_path / name).write_bytes((folder / "sparse/0" / name).read_bytes()[:50])
    with pytest.raises(UserError, match="is no model that pycolmap reads"):
        list(Colmap().read(Request(tmp_path))[""].items())
    with pytest.raises(UserError, match="holds no model"):
        Colmap().read(Request(tmp_path / "nowhere"))


def test_names_that_the_text_format_cuts_are_said(folder: Path, tmp_path: Path) -> None:
    model = pycolmap.Reconstruction(str(folder / "sparse/1"))
    for number, image in enumerate(model.images.values()):
        image.name = f"facade {number}.jpg"
    model.write_text(str(tmp_path))
    with pytest.raises(UserError, match=r"several images called facade: .* export the model as \.bin"):
        read_model(tmp_path)
    model.write_binary(str(tmp_path))
    read_model.cache_clear()
    assert "facade 0.jpg" in read_model(tmp_path).names


def test_panoramas_are_refused(folder: Path, tmp_path: Path) -> None:
    model = pycolmap.Reconstruction(str(folder / "sparse/1"))
    for camera in model.cameras.values():
        camera.model, camera.params = pycolmap.CameraModelId.EQUIRECTANGULAR, [camera.width, camera.height]
    model.write_binary(str(tmp_path))
    with pytest.raises(UserError, match=r"has panoramas \(such as .*\), which have no focal length"):
        read_model(tmp_path)
