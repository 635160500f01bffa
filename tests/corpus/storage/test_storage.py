import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from largescale.corpus.config import StorageConfig
from largescale.corpus.corpus import Corpus
from largescale.corpus.storage import cache, storage
from largescale.corpus.storage.storage import open_storage
from largescale.distributed import World
from largescale.settings import UserError
from tests.corpora import make_corpus
from tests.corpus.servers import FileServer, serve
from tests.programs import Program
from tests.world import run_world


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("corpus") / "small", shards=6)


@pytest.fixture
def server(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setattr(storage, "FIRST_PAUSE_S", 0.01)
    with serve(corpus) as running:
        yield running


def everything(corpus: Corpus) -> list[bytes]:
    return corpus.read(range(len(corpus.manifest)))


def fetch(where: FileServer, config: StorageConfig, shard: int = 0) -> int:
    """Open a shard; the descriptor."""
    corpus = Corpus.open(where.url, config)
    entry = corpus.manifest.shards[shard]
    return corpus.manifest.storage.open(entry.name, entry.bytes, entry.sha256)


class TestLocal:
    @pytest.mark.slow
    def test_reads_what_was_written(self, corpus: Path) -> None:
        images = everything(Corpus.open(str(corpus)))
        assert all(image.startswith(b"\xff\xd8") for image in images)
        assert len(set(images)) == len(images)

    def test_hashes_a_shard_once(self, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        hashed = []
        monkeypatch.setattr(cache, "sha256_of", lambda path, real=cache.sha256_of: (hashed.append(path.name), real(path))[1])
        for _ in range(2):
            everything(Corpus.open(str(corpus), StorageConfig(cache=tmp_path)))
        assert sorted(hashed) == ["images.arrow", *(f"shard-{i:05d}.tar" for i in range(6))]

    @pytest.mark.slow
    def test_a_shard_that_changes_is_hashed_again(self, tmp_path: Path) -> None:
        folder, config = make_corpus(tmp_path / "changed"), StorageConfig(cache=tmp_path / "cache")
        everything(Corpus.open(str(folder), config))
        shard = folder / "shard-00001.tar"
        content = bytearray(shard.read_bytes())
        content[600] ^= 1
        shard.write_bytes(content)
        with pytest.raises(UserError, match=r"shard-00001\.tar: expected SHA-256 [0-9a-f]{64}, found [0-9a-f]{64}"):
            everything(Corpus.open(str(folder), config))

    def test_a_truncated_shard_names_both_sizes(self, tmp_path: Path) -> None:
        folder = make_corpus(tmp_path / "cut")
        size = (folder / "shard-00000.tar").stat().st_size
        os.truncate(folder / "shard-00000.tar", 1000)
        with pytest.raises(UserError, match=f"shard-00000.tar: expected {size:,} bytes, found 1,000"):
            everything(Corpus.open(str(folder)))

    def test_a_missing_shard_and_a_missing_corpus(self, tmp_path: Path) -> None:
        folder = make_corpus(tmp_path / "missing")
        (folder / "shard-00000.tar").unlink()
        with pytest.raises(UserError, match=r"shard-00000\.tar: the file does not exist"):
            everything(Corpus.open(str(folder)))
        with pytest.raises(UserError, match=r"manifest\.json does not exist"):
            Corpus.open(str(tmp_path / "nowhere"))

    def test_a_cache_that_cannot_be_written_is_done_without(
        self, corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "file").touch()
        unwritable = StorageConfig(cache=tmp_path / "file" / "cache")
        assert everything(Corpus.open(str(corpus), unwritable)) == everything(Corpus.open(str(corpus)))
        assert "so files that were verified are verified again" in caplog.text


class TestHTTP:
    @pytest.mark.slow
    def test_equals_the_folder_and_fetches_once(self, corpus: Path, server: FileServer, tmp_path: Path) -> None:
        config = StorageConfig(cache=tmp_path)
        assert everything(Corpus.open(server.url, config)) == everything(Corpus.open(str(corpus)))
        assert everything(Corpus.open(server.url, config)) == everything(Corpus.open(str(corpus)))
        assert {server.requests[f"shard-{i:05d}.tar"] for i in range(6)} == {1}

    @pytest.mark.slow
    @pytest.mark.parametrize("fault", ["503", "truncated", "corrupt", "short"])
    def test_one_fault_is_overcome(self, server: FileServer, tmp_path: Path, fault: str) -> None:
        server.faults["shard-00000.tar"] = [fault]
        os.close(fetch(server, StorageConfig(cache=tmp_path)))
        assert server.requests["shard-00000.tar"] == 2

    @pytest.mark.slow
    def test_a_broken_connection_is_retried_and_then_explained(self, server: FileServer, tmp_path: Path) -> None:
        server.faults["shard-00000.tar"] = ["503", "truncated", "503"]
        host = server.url.removeprefix("http://")
        with pytest.raises(UserError, match=rf"cannot fetch shard-00000\.tar from {host}: 3 attempts, the last: .*503"):
            fetch(server, StorageConfig(cache=tmp_path, attempts=3))

    @pytest.mark.parametrize(("fault", "message"), [("corrupt", "expected SHA-256"), ("short", "expected .* bytes, found")])
    def test_damage_at_the_source_is_fetched_once_more_only(
        self, server: FileServer, tmp_path: Path, fault: str, message: str
    ) -> None:
        server.faults["shard-00000.tar"] = [fault] * 3
        with pytest.raises(UserError, match=rf"shard-00000\.tar: {message}.*fetched twice"):
            fetch(server, StorageConfig(cache=tmp_path))
        assert server.requests["shard-00000.tar"] == 2
        assert not list((tmp_path / "shards").iterdir())

    def test_a_body_without_end_is_cut_off_at_the_promised_length(self, server: FileServer, tmp_path: Path) -> None:
        server.faults["shard-00000.tar"] = ["endless"] * 2
        with pytest.raises(UserError, match=r"shard-00000\.tar: it has more bytes than the .* that were promised, fetched twice"):
            fetch(server, StorageConfig(cache=tmp_path))
        assert server.sent < 32 << 20
        assert not list((tmp_path / "shards").iterdir())

    def test_missing_files(self, server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(UserError, match=r"manifest\.json does not exist"):
            Corpus.open(f"{server.url}/nowhere", StorageConfig(cache=tmp_path))
        manifest = Corpus.open(server.url, StorageConfig(cache=tmp_path)).manifest
        with pytest.raises(UserError, match=r"gone\.tar does not exist, but the manifest names it"):
            manifest.storage.open("gone.tar", 10, "0" * 64)

    @pytest.mark.slow
    def test_a_damaged_cached_shard_is_replaced(self, server: FileServer, tmp_path: Path) -> None:
        config = StorageConfig(cache=tmp_path)
        os.close(fetch(server, config))
        (cached,) = (tmp_path / "shards").iterdir()
        cached.write_bytes(b"damaged")
        os.close(fetch(server, config))
        assert server.requests["shard-00000.tar"] == 2

    def test_an_unknown_kind_of_storage(self) -> None:
        with pytest.raises(UserError, match="cannot read nothing://there"):
            open_storage("nothing://there", StorageConfig())


class TestBound:
    @pytest.mark.slow
    def test_never_exceeded_while_everything_is_read(self, corpus: Path, server: FileServer, tmp_path: Path) -> None:
        size = max(path.stat().st_size for path in corpus.glob("*.tar"))
        remote = Corpus.open(server.url, StorageConfig(cache=tmp_path, cache_bytes=2 * size))
        local = Corpus.open(str(corpus))
        for image in [*range(len(local.manifest)), 0, 5, 23]:
            assert remote.read([image]) == local.read([image])
            assert sum(path.stat().st_size for path in (tmp_path / "shards").iterdir()) <= 2 * size
        assert server.requests["shard-00000.tar"] == 2

    @pytest.mark.slow
    def test_the_least_recently_opened_goes_first_and_what_is_open_stays(
        self, corpus: Path, server: FileServer, tmp_path: Path
    ) -> None:
        size = max(path.stat().st_size for path in corpus.glob("*.tar"))
        config = StorageConfig(cache=tmp_path, cache_bytes=3 * size)
        held = fetch(server, config, 0)
        for shard in (1, 2, 1, 3):
            os.close(fetch(server, config, shard))
        for shard in (0, 1, 3):
            os.close(fetch(server, config, shard))
        assert [server.requests[f"shard-{shard:05d}.tar"] for shard in range(4)] == [1, 1, 1, 1]
        os.close(fetch(server, config, 2))
        assert server.requests["shard-00002.tar"] == 2
        os.close(held)

    @pytest.mark.slow
    def test_files_of_the_user_in_the_same_folder_are_left_alone(self, server: FileServer, tmp_path: Path) -> None:
        own = [tmp_path / "shards" / "mine.tar", tmp_path / "fetching" / "notes.txt", tmp_path / "shards" / "deep" / "x"]
        for path in own:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"mine" * 1000)
        size = Corpus.open(server.url, StorageConfig(cache=tmp_path)).manifest.shards[0].bytes
        for shard in range(3):
            os.close(fetch(server, StorageConfig(cache=tmp_path, cache_bytes=2 * size), shard))
        assert [path.read_bytes() for path in own] == [b"mine" * 1000] * 3

    def test_a_bound_below_one_shard(self, server: FileServer, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"no room .* raise storage\.cache_bytes"):
            fetch(server, StorageConfig(cache=tmp_path, cache_bytes=1000))

    def test_a_cache_that_is_closed(self, server: FileServer, tmp_path: Path) -> None:
        (tmp_path / "fetching").touch()
        with pytest.raises(UserError, match=r"fetching.*set storage.cache to a folder that has room and can be written"):
            fetch(server, StorageConfig(cache=tmp_path))

    def test_a_disk_that_fills_is_at_fault_and_not_the_server(self, server: FileServer, tmp_path: Path) -> None:
        """A limit of the process stands for the disk: the errors are the same."""
        config = StorageConfig(cache=tmp_path)
        shard = Corpus.open(server.url, config).manifest.shards[0]
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
        try:
            with pytest.raises(UserError, match=r"shards/[0-9a-f]{64}: File too large while fetching into the cache; make room"):
                open_storage(server.url, config).open(shard.name, shard.bytes, shard.sha256)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert server.requests[shard.name] == 1
        assert list((tmp_path / "shards").iterdir()) == []

    def test_a_full_disk(self, server: FileServer, tmp_path: Path) -> None:
        manifest = Corpus.open(server.url, StorageConfig(cache=tmp_path, cache_bytes=2**60)).manifest
        with pytest.raises(UserError, match="free on the disk"):
            manifest.storage.open("shard-00000.tar", 2**59, "0" * 64)


def read_from(world: World, url: str, folder: Path) -> int:
    return len(everything(Corpus.open(url, StorageConfig(cache=folder))))


@pytest.mark.slow
@pytest.mark.distributed
def test_processes_of_a_node_fetch_a_shard_once(server: FileServer, tmp_path: Path) -> None:
    assert run_world(3, read_from, server.url, tmp_path) == [24] * 3
    assert {server.requests[f"shard-{i:05d}.tar"] for i in range(6)} == {1}


@pytest.mark.slow
def test_a_fetch_that_was_killed_leaves_nothing_behind(server: FileServer, tmp_path: Path) -> None:
    server.faults["shard-00000.tar"] = ["stalled"]
    program = (
        "from largescale.corpus.loading import Corpus\nfrom largescale.corpus.config import StorageConfig\n"
        f"Corpus.open({server.url!r}, StorageConfig(cache={str(tmp_path)!r})).read([0])"
    )
    process = Program([sys.executable, "-c", program])
    partial = tmp_path / "shards"
    while not (partial.exists() and any(path.stat().st_size for path in partial.iterdir())):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    os.close(fetch(server, StorageConfig(cache=tmp_path)))
    assert [path.name.startswith(".") for path in partial.iterdir()] == [False]


@pytest.mark.slow
def test_s3(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"ACCESS_KEY_ID": "test", "SECRET_ACCESS_KEY": "test", "DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    s3 = ThreadedMotoServer(port=0, verbose=False)
    s3.start()
    try:
        host, port = s3.get_host_and_port()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        client = boto3.client("s3")
        client.create_bucket(Bucket="photographs")

        def upload(folder: Path) -> None:
            for path in folder.iterdir():
                client.upload_file(str(path), "photographs", f"small/{path.name}")

        upload(corpus)
        remote, unread = (
            Corpus.open("s3://photographs/small", StorageConfig(cache=tmp_path / name)) for name in ("cache", "empty")
        )
        assert everything(remote) == everything(Corpus.open(str(corpus)))
        other = make_corpus(tmp_path / "other", size=48)
        upload(other)  # over the first one
        assert everything(remote) == everything(Corpus.open(str(corpus))), "what is cached stays"
        with pytest.raises(UserError, match=r"shard-00000\.tar: .*fetched twice"):
            everything(unread)
        assert everything(Corpus.open("s3://photographs/small", StorageConfig(cache=tmp_path / "empty"))) == everything(
            Corpus.open(str(other))
        )
        with pytest.raises(UserError, match=r"manifest\.json does not exist"):
            Corpus.open("s3://photographs/nowhere", StorageConfig(cache=tmp_path))
    finally:
        s3.stop()
