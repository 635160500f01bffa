"""The embedded corpus: its geometry against brute force, its pairs, its determinism, its difficulty."""

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from largescale.corpus.manifest import Manifest
from shards.demo import corpus
from shards.demo.camera import Camera
from shards.demo.corpus import Demo, DemoSource, build_demo, compare
from shards.demo.obstacles import place_obstacles
from shards.demo.photograph import Viewpoint
from shards.demo.render import rasterize, visible
from shards.demo.scene import Atlas, Mesh, Scene
from shards.demo.textures import WHITE, Texture
from shards.verify import Unchecked, verify

TINY = Demo(landmarks=4, views=6, test_landmarks=3, test_views=4, distractors=20, size=64)


@pytest.fixture(scope="module")
def train() -> DemoSource:
    return TINY.sources()[0]


@pytest.fixture(scope="module")
def scene(train: DemoSource) -> Scene:
    return train.scene(0)


def look_from(scene: Scene, azimuth: float, away: float = 1.6, zoom: float = 1.1) -> Viewpoint:
    """A view without obstacles, `azimuth` degrees to the right of the front and `away` sizes of the scene from its middle."""
    angle = np.deg2rad(azimuth)
    position = scene.middle + away * scene.size * np.array([np.sin(angle), -np.cos(angle), 0.1])
    return Viewpoint(
        Camera.aim(position, scene.middle, 0.0, zoom), Mesh(np.zeros((0, 3, 3)), np.zeros((0, 3, 2)), np.zeros(0, int))
    )


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def test_rays_and_projection_are_inverse() -> None:
    camera = Camera.aim(np.array([3.0, -20.0, 4.0]), np.array([0.0, 0.0, 5.0]), 0.2, 1.3)
    places, depth = camera.project(camera.position[:, None] + 7 * camera.rays(8, np.arange(64)).astype(float))
    grid = (np.arange(8) + 0.5) / 8
    np.testing.assert_allclose(depth, 7, rtol=1e-5)
    np.testing.assert_allclose(places.reshape(2, 8, 8), np.stack(np.meshgrid(grid, grid)), atol=1e-5)


@pytest.mark.slow
def test_rasterizer_agrees_with_casting_every_ray_at_every_triangle() -> None:
    rng = np.random.default_rng(0)
    corners = rng.normal(0, 1, (40, 1, 3)) + rng.normal(0, 0.7, (40, 3, 3))  # some reach behind the camera
    mesh = Mesh(corners, rng.random((40, 3, 2)), np.zeros(40, int))
    atlas = Atlas.pack([Texture.plain(WHITE, np.ones((4, 4), np.float32))])
    camera, size = Camera.aim(np.array([0.2, -2.5, 0.3]), np.zeros(3), 0.3, 0.9), 48
    hits = rasterize(mesh, atlas, camera, size)
    nearness, triangle, st = cast(mesh, camera, size)
    np.testing.assert_allclose(hits.nearness, nearness, rtol=1e-4, atol=1e-5)
    seen = np.flatnonzero(nearness)
    order = np.argsort(hits.pixel)
    assert len(seen) > size * size / 3
    np.testing.assert_array_equal(hits.pixel[order], seen)
    np.testing.assert_array_equal(hits.triangle[order], triangle[seen])
    np.testing.assert_allclose(hits.st.T[order], st[seen], atol=2e-3)


def cast(mesh: Mesh, camera: Camera, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nearness, triangle and place on the texture of each pixel, one ray and one triangle at a time."""
    nearness, triangle, st = np.zeros(size * size), np.full(size * size, -1), np.zeros((size * size, 2))
    for number, (a, b, c) in enumerate(mesh.corners):
        normal = np.cross(b - a, c - a)
        for pixel, ray in enumerate(camera.rays(size, np.arange(size * size)).T.astype(float)):
            if normal @ ray < 0:
                u, v, depth = np.linalg.solve(np.stack([b - a, c - a, -ray], 1), camera.position - a)
                if min(u, v, 1 - u - v) >= 0 and depth > 0 and 1 / depth > nearness[pixel]:
                    nearness[pixel], triangle[pixel] = 1 / depth, number
                    st[pixel] = np.array([1 - u - v, u, v]) @ mesh.st[number]
    return nearness, triangle, st


def test_holes_of_a_texture_show_what_is_behind() -> None:
    square = np.array([[-1, 0, -1], [1, 0, -1], [1, 0, 1], [-1, 0, 1.0]])
    halves = [[0, 1, 2], [0, 2, 3]]
    st = np.array([[0, 0], [1, 0], [1, 1], [0, 1.0]])[halves]
    whole, left_only = (Texture.plain(WHITE, np.array([[1, right]] * 2, np.float32)) for right in (1, 0))
    mesh = Mesh(np.concatenate([square[halves], square[halves] + [0, 3, 0]]), np.tile(st, (2, 1, 1)), np.array([0, 0, 1, 1]))
    camera = Camera.aim(np.array([0, -4.0, 0]), np.zeros(3), 0, 1.5)
    hits = rasterize(mesh, Atlas.pack([left_only, whole]), camera, 32)
    nearness = hits.nearness.reshape(32, 32)[16]
    np.testing.assert_allclose(nearness[8:15], 1 / 4, rtol=1e-5)
    np.testing.assert_allclose(nearness[17:20], 1 / 7, rtol=1e-5)


@pytest.mark.slow
def test_visible_points_have_the_color_of_their_texture(scene: Scene) -> None:
    size, view = 2048, look_from(scene, 25)  # pixels well below texels
    hits = rasterize(scene.mesh, scene.atlas, view.camera, size)
    seen = visible(scene.points, view.camera, hits)
    picture = np.zeros((size * size, 3))
    picture[hits.pixel] = colors(scene, scene.mesh.texture[hits.triangle], hits.st)
    column, row = (view.camera.project(scene.points[seen].T)[0] * size).astype(int)
    truth = colors(scene, scene.points_texture, scene.points_st.T)[seen]
    difference = np.abs(picture[row * size + column] - truth).max(1)
    assert seen.sum() > 60
    assert np.mean(difference < 0.05) > 0.8
    assert np.mean(np.abs(picture[row * size + column] - truth[::-1]).max(1) < 0.05) < 0.4


def colors(scene: Scene, texture: np.ndarray, st: np.ndarray) -> np.ndarray:
    return scene.atlas.color(scene.atlas.find(texture, st)).T


def test_the_back_shares_few_points_with_the_front(scene: Scene) -> None:
    views = [look_from(scene, azimuth) for azimuth in (-10, 10, 180)]
    overlap = compare(scene, views, 256)["overlap"]
    assert overlap[0, 1] > 0.6
    assert overlap[0, 2] < 0.1


def test_twice_as_far_is_half_as_large(scene: Scene) -> None:
    views = [look_from(scene, 0, away=8), look_from(scene, 0, away=16), look_from(scene, 0, away=8, zoom=3.3)]
    found = compare(scene, views, 512)
    assert found["scale"][0, 1] == pytest.approx(2, rel=0.1)
    assert found["scale"][0, 2] == pytest.approx(3, rel=1e-6)
    assert found["distance"][0, 1] == pytest.approx(8 * scene.size * np.hypot(1, 0.1))
    assert found["distance"][0, 2] == 0


def test_obstacles_only_hide(scene: Scene, train: DemoSource) -> None:
    hidden = 0
    for number in range(12):
        view = train.view(0, number)
        free = dataclasses.replace(view, obstacles=look_from(scene, 0).obstacles)
        with_them, without = view.sees(scene, 128), free.sees(scene, 128)
        assert not (with_them & ~without).any()
        hidden += int((without & ~with_them).sum())
    assert hidden > 0


def test_obstacles_stand_on_the_ground_before_the_camera(scene: Scene) -> None:
    camera = look_from(scene, 40).camera
    mesh = place_obstacles(np.random.default_rng(5), scene, camera)
    assert len(mesh.corners)
    assert mesh.corners[:, :, 2].min() == 0
    assert (camera.project(mesh.corners.reshape(-1, 3).T)[1] > 0).all()


def test_comparison_is_symmetric_where_it_should_be(train: DemoSource, scene: Scene) -> None:
    found = compare(scene, [train.view(0, view) for view in range(6)], 64)
    for name in ("inliers", "scale", "distance"):
        np.testing.assert_allclose(found[name], found[name].T)
    np.testing.assert_array_equal(np.diag(found["overlap"]), 1)
    np.testing.assert_array_equal(np.diag(found["scale"]), 1)
    np.testing.assert_allclose(found["overlap"], found["inliers"] / np.diag(found["inliers"])[:, None])
    assert (found["scale"] >= 1).all()


@pytest.mark.slow
def test_pairs_are_views_of_one_landmark_that_share_enough(train: DemoSource) -> None:
    pairs = train.pairs()
    assert pairs is not None
    landmark, query = np.divmod(pairs["query"], train.views)
    np.testing.assert_array_equal(landmark, pairs["positive"] // train.views)
    assert (pairs["query"] != pairs["positive"]).all()
    assert (pairs["inliers"] >= corpus.MIN_INLIERS).all()
    assert (pairs["overlap"] >= corpus.MIN_OVERLAP).all()
    assert (pairs["scale"] <= corpus.MAX_SCALE).all()
    assert np.bincount(pairs["query"]).max() > 1
    row = len(landmark) // 2
    views = [train.view(landmark[row], view) for view in range(train.views)]
    again = compare(train.scene(landmark[row]), views, train.size)
    for name, values in again.items():
        assert pairs[name][row] == values[query[row], pairs["positive"][row] % train.views]


@pytest.mark.slow
def test_same_seed_same_bytes_other_seed_other_bytes() -> None:
    first, other = (Demo(seed=seed, landmarks=2, size=64).sources()[0] for seed in (0, 1))
    places = [item.place for item in first.items()][:13:6]
    before = [first.read(place) for place in places]
    corpus._scene.cache_clear()
    assert [first.read(place) for place in reversed(places)] == before[::-1]
    assert len({*before, *(other.read(place) for place in places)}) == 6


@pytest.mark.slow
def test_build_end_to_end(tmp_path: Path) -> None:
    build_demo(tmp_path, TINY, workers=2)
    manifests = {source.split: Manifest.open(Unchecked(tmp_path / source.split)) for source in TINY.sources()}
    assert {split: len(manifest) for split, manifest in manifests.items()} == {"train": 24, "test": 12, "distractors": 20}
    assert all(verify(tmp_path / split, workers=1) == 0 for split in manifests)
    np.testing.assert_array_equal(manifests["train"].label, np.repeat(np.arange(4), 6))
    np.testing.assert_array_equal(manifests["test"].label, np.repeat(np.arange(3), 4))
    np.testing.assert_array_equal(manifests["distractors"].label, -1)
    names = [set(manifest.label_names.to_pylist()) for manifest in manifests.values()]
    keys = [set(manifest.keys.to_pylist()) for manifest in manifests.values()]
    assert not names[0] & names[1]
    assert len(set().union(*keys)) == 56
    expected = TINY.sources()[0].pairs()
    assert expected is not None
    for name, values in expected.items():
        np.testing.assert_allclose(manifests["train"].pairs[name], values, rtol=1e-6)
    for source in TINY.sources():  # worker processes drew what this one draws
        manifest, place = manifests[source.split], list(source.items())[-1].place
        tar = (tmp_path / source.split / manifest.shards[-1].name).read_bytes()
        assert tar[manifest.offset[-1] :][: manifest.size[-1]] == source.read(place)


@pytest.mark.slow
def test_color_statistics_are_poor() -> None:
    _, test, distractors = Demo(test_landmarks=10, test_views=4, distractors=250, size=64).sources()
    images = np.stack([pixels(source.read(item.place)) for source in (test, distractors) for item in source.items()]) / 255.0
    label = np.concatenate([np.repeat(np.arange(10), 4), np.full(250, -1)])
    thumbnail = images.reshape(-1, 8, 8, 8, 8, 3).mean((2, 4)).reshape(len(images), -1)
    assert mean_average_precision(images.mean((1, 2)), label) < 0.1
    assert mean_average_precision(thumbnail, label) < 0.2


def mean_average_precision(descriptors: np.ndarray, label: np.ndarray) -> float:
    """Leave-one-out over the labeled rows."""
    precisions = []
    for query in np.flatnonzero(label >= 0):
        order = np.argsort(np.linalg.norm(descriptors - descriptors[query], axis=1), kind="stable")
        right = label[order[order != query]] == label[query]
        precisions.append((np.cumsum(right) / np.arange(1, len(right) + 1))[right].mean())
    return float(np.mean(precisions))
