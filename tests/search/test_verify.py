"""Spatial verification of what a search found, from the command line, from Python and over HTTP."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("cv2")

from fastapi.testclient import TestClient
from PIL import Image

from largescale.corpus.decoding.pictures import given
from largescale.distributed import World
from largescale.evaluation.config import VerificationConfig
from largescale.evaluation.search import local_features
from largescale.evaluation.search.verification import Photographs, Verifier
from largescale.program.extras import Extra
from largescale.search.index import Index
from largescale.search.segment import table_of
from largescale.search.server.app import Server
from largescale.search.server.config import ServeConfig
from largescale.search.source import thumbnail
from largescale.search.writer import writing
from largescale.settings import UserError
from launch import search
from tests.evaluation.search.photographs import VIEWS, WALLS, seen, wall
from tests.search.photos import make_model

KEY, ALL = "wall 1/view 0.png", WALLS * VIEWS


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with random weights, walls from several places, and an index of them."""
    home = tmp_path_factory.mktemp("home")
    for number in range(WALLS):
        for view in range(VIEWS):
            path = home / "photos" / f"wall {number}" / f"view {view}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(seen(wall(number), view)).save(path)
    Index.build(make_model(home / "model"), home / "photos", home / "index", thumbnails=0)
    return home


@pytest.fixture(scope="module")
def index(home: Path) -> Index:
    return Index.open(home / "index", make_model(home / "model"))


@pytest.mark.slow
def test_other_views_come_first_with_the_counts_of_an_evaluation(home: Path, index: Index, tmp_path: Path) -> None:
    picture = home / "photos" / KEY
    hits = index.search(picture, k=ALL, verify=ALL)
    inliers = [hit.inliers or 0 for hit in hits]
    assert {hit.label for hit in hits[:VIEWS]} == {"wall 1"} != {hit.label for hit in index.search(picture, k=VIEWS)}
    assert inliers[:VIEWS] == sorted(inliers[:VIEWS], reverse=True)
    assert max(inliers[VIEWS:]) < VerificationConfig().least <= inliers[VIEWS - 1]
    scores = [hit.score for hit in hits[VIEWS:]]
    assert scores == sorted(scores, reverse=True)
    photographs = Photographs(given([picture])[0], np.zeros(1, int), None, [given([hit.path or "" for hit in hits])[0]])
    with World.start() as world:
        [counts] = Verifier(VerificationConfig(), photographs, tmp_path, world)(0, np.arange(ALL)[None])
    assert inliers == counts.tolist()
    part = index.search(picture, k=ALL, verify=ALL, box=(10, 10, 150, 150))
    assert {hit.label for hit in part[:VIEWS]} == {"wall 1"}
    assert (part[0].inliers or 0) < inliers[0]
    assert [hit.inliers for hit in index.search(picture, k=3)] == [None] * 3


@pytest.mark.slow
def test_expansion_adds_the_verified_alone(home: Path, index: Index) -> None:
    """The query and its verified rows are one query, averaged."""
    views = [home / "photos" / "wall 1" / f"view {view}.png" for view in (0, *range(VIEWS))]
    together = {hit.key: hit.score for hit in index.search(views, k=ALL)}
    for hit in index.search(views[0], k=ALL, verify=ALL, expand=ALL, alpha=0):
        assert hit.score == pytest.approx(together[hit.key], abs=1e-6)


@pytest.mark.slow
def test_small_pictures_stand_for_files(home: Path, index: Index, tmp_path: Path) -> None:
    keys, labels = (index.view.column(name).to_pylist() for name in ("key", "label"))
    rows, small = index.view.take(np.arange(ALL)), [thumbnail(home / "photos" / key, 160) for key in keys]
    for name, columns in (("small", {"thumbnail": small}), ("bare", {})):
        with writing(Index.create(tmp_path / name, rows.shape[1]).folder) as writer:
            writer.append(rows, table_of({"key": keys, "label": labels, **columns}))
    hits = Index.open(tmp_path / "small").search(key=KEY, k=VIEWS - 1, verify=ALL)
    assert {hit.label for hit in hits} == {"wall 1"}
    with pytest.raises(UserError, match=r"neither the file of 'wall 1/view 0.png' nor a small picture of it is there"):
        Index.open(tmp_path / "bare").search(key=KEY, verify=ALL)


@pytest.mark.slow
def test_over_http_and_from_the_command_line(
    home: Path, index: Index, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = [("pictures", ("a.png", (home / "photos" / "wall 1" / f"view {view}.png").read_bytes())) for view in (0, 1)]
    expected = [(hit.key, hit.inliers) for hit in index.search(home / "photos" / KEY, k=5, verify=ALL)]
    asked = ["query", f"index={home / 'index'}", f"pictures=[{home / 'photos' / KEY}]", "k=5", f"verify={ALL}"]
    search.main(asked)
    assert [line.split("\t")[1::2] for line in capsys.readouterr().out.splitlines()] == [[k, str(n)] for k, n in expected]
    server = Server(index, ServeConfig(index=index.folder))
    client = TestClient(server.app, base_url="http://127.0.0.1:8000")
    found = client.post(f"/search?k=5&verify={ALL}", files=pictures[:1]).json()["hits"]
    assert [(hit["key"], hit["inliers"]) for hit in found] == expected
    faults = {"verify=9": (pictures, "compares one picture"), "verify=9&rerank=diffusion": (pictures[:1], "choose one")}
    for options, (sent, message) in faults.items():
        answer = client.post(f"/search?{options}", files=sent)
        assert answer.status_code == 422
        assert message in answer.json()["error"]
    monkeypatch.setattr(local_features, "cv2", Extra("no_cv2", "verification", "spatial verification (verify)"))
    assert "pip install 'largescale[verification]'" in client.post("/search?verify=9", files=pictures[:1]).json()["error"]
    with pytest.raises(UserError, match="needs no_cv2"):
        search.main(asked)
    server.batcher.stop()
