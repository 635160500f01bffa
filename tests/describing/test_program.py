"""Pictures without labels or shards, described in real worlds; kills are real."""

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import largescale
from largescale.corpus.config import LoaderConfig
from largescale.describing import parts
from largescale.describing.config import EmbedConfig
from largescale.describing.program import claim, describe_source
from largescale.distributed import World
from largescale.models.sharing.folder import Contents, DescriptorConfig, write_folder
from largescale.processes import StoppedError
from largescale.settings import UserError
from shards.in_place import open_source
from tests.corpora import encode, make_corpus, photograph
from tests.evaluation.small import SIZE, alone, tiny_network
from tests.world import kill_in_world, run_world


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with alone() as world:
        yield world


@pytest.fixture
def config(tmp_path: Path) -> EmbedConfig:
    network = tiny_network()
    write_folder(tmp_path / "model", Contents(network, DescriptorConfig(size=SIZE, dim=network.dim)), "")
    source = tmp_path / "photos"
    source.mkdir()
    for i in range(6):
        (source / f"photo {i}.jpg").write_bytes(encode(photograph(i, 0, 60 - i % 2 * 20, 45)))
    return EmbedConfig(
        model=str(tmp_path / "model"), source=str(source), out=tmp_path / "out", batch_size=4, loader=LoaderConfig(workers=0)
    )


def describe(world: World, config: EmbedConfig, stop_after: int = 1 << 30) -> None:
    asked = iter(range(1 << 30))
    model = largescale.load(config.model, "cpu")
    with claim(config, world):
        source = open_source(config.source, config.out / "listing", world)
        describe_source(model, source, config, world, lambda: next(asked) >= stop_after)


@pytest.mark.slow
def test_rows_are_those_of_python(config: EmbedConfig, world: World) -> None:
    describe(world, config)
    names = (config.out / "names.txt").read_text().splitlines()
    assert names == [f"photo {i}.jpg" for i in range(6)]
    expected = largescale.load(config.model, "cpu").embed([Path(config.source) / name for name in names], batch_size=4)
    np.testing.assert_array_equal(np.load(config.out / "descriptors.npy"), expected)
    assert sorted(path.name for path in config.out.glob("[!.]*")) == ["descriptors.npy", "embed.json", "listing", "names.txt"]


@pytest.mark.slow
def test_what_cannot_be_described_is_listed(config: EmbedConfig, world: World) -> None:
    network, source = tiny_network(), Path(config.source)
    write_folder(Path(config.model), Contents(network, DescriptorConfig(size=SIZE, dim=network.dim, scales=(1.0, 0.5))), "")
    (source / "empty.jpg").touch()
    (source / "tiny.png").write_bytes(encode(photograph(0, 0, 3, 3), "PNG"))
    (source / "half.jpg").write_bytes((source / "photo 0.jpg").read_bytes()[:900])
    describe(world, config)
    bad = dict(line.split("\t") for line in (config.out / "bad.tsv").read_text().splitlines())
    assert sorted(bad) == ["empty.jpg", "half.jpg", "tiny.png"]
    assert bad["tiny.png"].endswith("pixels are too few for the network (scale 0.5)")
    assert len(np.load(config.out / "descriptors.npy")) == len((config.out / "names.txt").read_text().splitlines()) == 6
    assert json.loads((config.out / "embed.json").read_text())["bad"] == 3


@pytest.mark.slow
def test_none_can_be_described(config: EmbedConfig, world: World) -> None:
    for path in Path(config.source).iterdir():
        path.write_bytes(b"no picture")
    with pytest.raises(UserError, match="none of the 6 pictures"):
        describe(world, config)


@pytest.mark.slow
def test_a_folder_of_something_else_is_left_alone(config: EmbedConfig, world: World) -> None:
    config.out.mkdir()
    (config.out / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="not empty, and nothing that this program made"):
        describe(world, config)
    assert (config.out / "thesis.tex").exists()


@pytest.mark.slow
def test_two_passes_into_one_folder_are_refused(config: EmbedConfig, world: World) -> None:
    with claim(config, world), pytest.raises(UserError, match=f"is being written to by process {os.getpid()} on "):
        describe(world, config)
    describe(world, config)


@pytest.mark.slow
def test_another_format_needs_another_folder(config: EmbedConfig, world: World, capsys: pytest.CaptureFixture) -> None:
    describe(world, config)
    (config.out / "parts").mkdir()  # as where it was killed as it tidied
    describe(world, config)
    assert "has the descriptors of all 6 pictures already" in capsys.readouterr().out
    assert not (config.out / "parts").exists()
    whole = (config.out / "descriptors.npy").read_bytes()
    (config.out / "descriptors.npy").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    (config.out / "names.txt").unlink()
    describe(world, config)
    assert "descriptors.npy, names.txt in " in capsys.readouterr().out
    assert (config.out / "descriptors.npy").read_bytes() == whole
    with pytest.raises(UserError, match="format was 'npy', is 'hdf5'"):
        describe(world, config.model_copy(update={"format": "hdf5"}))


def embed_and_die(world: World, config: EmbedConfig, victim: int) -> None:
    write = parts.PassParts.write

    def once(self: parts.PassParts, *arguments: object) -> None:
        if world.rank == victim and any(self.directory.glob("*.json")):
            os.kill(os.getpid(), signal.SIGKILL)
        write(self, *arguments)  # type: ignore[arg-type]

    parts.PassParts.write = once  # type: ignore[method-assign]
    describe(world, config)


@pytest.mark.slow
@pytest.mark.distributed
def test_killed_stopped_and_continued_in_another_world(config: EmbedConfig, world: World, tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", labels=6, per_label=4, shards=6, size=60, mixed=True)
    config = config.model_copy(update={"source": str(corpus)})
    whole = config.model_copy(update={"out": tmp_path / "whole"})
    describe(world, whole)
    kill_in_world(1, embed_and_die, config, 1)
    left = len(list((config.out / "parts").glob("*.json")))
    assert 0 < left < 6
    with pytest.raises(StoppedError):
        describe(world, config, stop_after=2)
    run_world(2, describe, config)
    for name in ("descriptors.npy", "names.txt"):
        assert (config.out / name).read_bytes() == (whole.out / name).read_bytes()
    shutil.rmtree(config.out)


def test_names_that_pairs_cannot_have_are_found_before_the_pass(config: EmbedConfig, world: World) -> None:
    with pytest.raises(UserError, match=r"6 names have spaces, for instance 'photo 0.jpg'"):
        describe(world, config.model_copy(update={"pairs": 2}))
    assert not (config.out / "parts").exists()
