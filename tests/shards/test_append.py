import shutil
from pathlib import Path

import numpy as np
import pytest

from largescale.corpus.config import StorageConfig
from largescale.corpus.corpus import Corpus
from largescale.settings import UserError
from shards.append import append
from shards.images import Encoding
from shards.plan import Sharding
from shards.sources.folder import Folder
from shards.verify import faults_of
from shards.writer import build
from tests.corpora import make_corpus
from tests.shards.photographs import write_photographs

FIRST = [f"{label}/{n}.jpg" for label in ("ash", "elm", "oak") for n in range(4)] + ["lone.jpg"]
MORE = ["elm/7.jpg", "fir/0.jpg", "fir/1.jpg", "other.jpg"]
OPTIONS = {"encoding": Encoding(max_side=30), "sharding": Sharding(shard_images=5)}


def contents(out: Path | list[str], cache: Path | None = None) -> dict[str, tuple[str | None, bytes]]:
    """Label and encoded image of every key, read one by one and in a stream."""
    corpus = Corpus.open(str(out) if isinstance(out, Path) else out, StorageConfig(cache=cache) if cache else None)
    manifest = corpus.manifest
    streamed = [sample for shard in range(len(manifest.shards)) for sample in corpus.stream(shard)]
    assert [id for id, _ in streamed] == list(range(len(manifest)))
    assert [data for _, data in streamed] == corpus.read(range(len(manifest)))
    names = [*manifest.label_names.to_pylist(), None]
    return {
        key: (names[label], data)
        for key, label, (_, data) in zip(manifest.keys.to_pylist(), manifest.label, streamed, strict=True)
    }


@pytest.mark.slow
def test_a_corpus_grows_and_the_old_one_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = write_photographs(tmp_path / "in", FIRST), tmp_path / "trees"
    assert build(Folder(source), out, **OPTIONS, workers=1)
    before, fingerprint = contents(out), Corpus.open(str(out)).manifest.fingerprint
    running = Corpus.open(str(out))
    write_photographs(source, [*FIRST, *MORE])
    append(Folder(source), out, **OPTIONS, workers=1, bad_budget=0.0)
    assert "left out: 13 already in the corpus" in capsys.readouterr().out
    kept = out.with_name(f"trees@{fingerprint}")
    assert contents(kept) == before
    assert [data for _, data in before.values()] == running.read(range(len(before))), "a run on the old corpus goes on"
    grown = contents(out)
    assert {key: grown[key] for key in before} == before
    other = make_corpus(tmp_path / "other", labels=2)
    assert len(contents([str(out), str(other)], tmp_path / "cache")) == len(grown) + len(contents(other))
    assert {key: grown[key][0] for key in grown.keys() - before.keys()} == {
        "elm/7": "elm",
        "fir/0": "fir",
        "fir/1": "fir",
        "other": None,
    }
    manifest = Corpus.open(str(out)).manifest
    assert manifest.fingerprint != fingerprint
    labels = manifest.label[np.flatnonzero(np.diff(manifest.label, prepend=-2))]
    assert sorted(labels[labels >= 0].tolist()) == [0, 1, 2, 3], "the images of a label lie together"
    assert list(faults_of(out, 1)) == list(faults_of(kept, 1)) == []
    shared = {path.name: path.stat().st_ino for path in kept.glob("*.tar")}
    assert {path.name: path.stat().st_ino for path in out.glob("*.tar")}.items() >= {
        name: shared[name] for name in shared if (out / name).exists()
    }.items()
    append(Folder(source), out, **OPTIONS, workers=1, bad_budget=0.0)
    assert "no image that the corpus lacks" in capsys.readouterr().out
    assert Corpus.open(str(out)).manifest.fingerprint == manifest.fingerprint


@pytest.mark.slow
def test_other_options_are_refused_and_a_kill_between_the_names_is_mended(tmp_path: Path) -> None:
    source, out = write_photographs(tmp_path / "in", FIRST), tmp_path / "trees"
    assert build(Folder(source), out, **OPTIONS, workers=1)
    with pytest.raises(UserError, match="max_side was 30, is 20"):
        append(Folder(source), out, Encoding(max_side=20), Sharding(), workers=1, bad_budget=0.0)
    shutil.move(out, tmp_path / ".trees.growing")
    append(Folder(source), out, **OPTIONS, workers=1, bad_budget=0.0)
    assert len(contents(out)) == len(FIRST)
