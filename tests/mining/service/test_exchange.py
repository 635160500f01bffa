"""A run directory in object storage: two folders and a real S3 server between them; programs on both sides."""

import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from largescale.commit import is_complete, write_text
from largescale.config import load
from largescale.mining import Generations
from largescale.mining.service import exchange as module
from largescale.mining.service.exchange import DEAD_S, ServiceExchange, TrainingExchange
from largescale.settings import UserError
from largescale.training.settings.recipe import TrainConfig
from tests.corpora import make_corpus
from tests.distributed.runs import ENVIRONMENT, Program, finish, kill_all, lines, losses, run_alone
from tests.mining.test_generations import write


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Of a run in a bucket of its own."""
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    places = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    for name, value in {**places, "AWS_DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
        monkeypatch.setitem(ENVIRONMENT, name, value)
    bucket = tmp_path.name.replace("_", "-")
    boto3.client("s3").create_bucket(Bucket=bucket)
    module.fsspec.get_filesystem_class("s3").clear_instance_cache()
    yield f"s3://{bucket}/first"
    server.stop()


def objects(url: str) -> set[str]:
    found = boto3.client("s3").list_objects_v2(Bucket=url.split("/")[2]).get("Contents", [])
    return {entry["Key"].removeprefix("first/") for entry in found}


def add(folder: Path, step: int) -> Path:
    write_text(folder / "weights" / f"step-{step:06d}.safetensors", f"weights of step {step}")
    return folder / "weights" / f"step-{step:06d}.safetensors"


@pytest.mark.slow
def test_weights_one_way_generations_the_other(url: str, tmp_path: Path) -> None:
    ours, theirs = tmp_path / "training", tmp_path / "service"
    training, service = TrainingExchange(url, ours), ServiceExchange(url, theirs)
    write_text(ours / "config.yaml", "a: 1")
    first, _ = add(ours, 0), add(ours, 4)
    training.sync()
    service.sync()
    assert (theirs / "weights" / first.name).read_bytes() == first.read_bytes()
    assert (theirs / "config.yaml").read_text() == "a: 1"
    made = write(theirs, 1, step=4)
    (theirs / "negatives" / ".gen-000002-000004.partial").mkdir()  # under way: nobody sees it
    service.sync()
    assert {name for name in objects(url) if name.startswith("negatives")} == {"negatives/gen-000001-000004.tar"}
    training.sync()
    whole, copy = (Generations(place, "abc").read(1, 4) for place in (theirs, ours))
    assert whole is not None
    assert copy is not None
    assert copy.negatives.tobytes() == whole.negatives.tobytes()
    # training removes weights and continues with other settings
    first.unlink()
    write_text(ours / "config.yaml", "a: 22")
    training.sync()
    service.sync()
    assert [path.name for path in (theirs / "weights").iterdir()] == ["step-000004.safetensors"]
    assert (theirs / "config.yaml").read_text() == "a: 22"
    # the next life of the service begins with an empty folder, and knows what was published
    again = tmp_path / "again"
    ServiceExchange(url, again).sync()
    assert is_complete(again / "negatives" / made.name)
    # a run that is begun again: what was found for the first one is gone on every side
    training.clear()
    add(ours, 0)
    service.sync()
    assert not made.exists()
    assert not any(name.startswith("negatives") for name in objects(url))


@pytest.mark.slow
def test_a_second_service_waits_and_takes_over(url: str, tmp_path: Path) -> None:
    now = [0.0]
    first, second = (ServiceExchange(url, tmp_path / name, lambda: now[0]) for name in ("first", "second"))
    first.name, second.name = "process 1 on a", "process 2 on b"
    for _ in range(2):
        assert first.acquire() is not None
        first.sync()
    assert first.acquire() is None
    write_text(tmp_path / "first" / "mining" / "log.jsonl", '{"step": 0}\n')
    for _ in range(3):  # the first beats
        now[0] += DEAD_S
        first.sync()
        second.sync()
        assert (first.acquire(), second.acquire()) == (None, "process 1 on a")
    now[0] += DEAD_S / 2  # the first is dead
    second.sync()
    assert second.acquire() == "process 1 on a"
    now[0] += DEAD_S
    second.sync()
    second.sync()
    assert second.acquire() is None
    assert (tmp_path / "second" / "mining" / "log.jsonl").read_text() == '{"step": 0}\n'
    first.sync()  # it was only slow: it notices
    assert first.acquire() == "process 2 on b"


@pytest.mark.slow
def test_storage_that_is_gone_for_a_while_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SYNC_S", 0.02)
    exchange = TrainingExchange(f"file://{tmp_path}/url", tmp_path / "training")
    (tmp_path / "url").write_text("no folder")
    exchange.start()
    write_text(tmp_path / "training" / "config.yaml", "a: 1")
    add(tmp_path / "training", 3)
    time.sleep(0.2)
    (tmp_path / "url").unlink()
    for kind in ("weights", "negatives"):
        (tmp_path / "url" / kind).mkdir(parents=True)
    exchange.stop()
    assert (tmp_path / "url" / "weights" / "step-000003.safetensors").exists()


@pytest.mark.slow
def test_a_run_whose_service_shares_only_a_bucket(url: str, tmp_path: Path) -> None:
    """With mining.wait=always: every epoch has the negatives of its boundary's weights, and the service ends with the run."""
    corpus = make_corpus(tmp_path / "corpus", 8, 4, shards=2, size=48)
    mining = f"mining={{negatives: 2, home: service, wait: always, exchange: '{url}'}}"
    model = ["model={backbone: 'timm:test_resnet', weights: none}", "images.size=48", "loader.workers=0"]
    plan = ["name=default", "tuples={per_step: 4, per_epoch: 8}", "epochs=2", "tracking={wandb: 'off', every: 1}"]
    command = [sys.executable, "launch/mine.py", url, f"folder={tmp_path}"]
    service = Program(command, ENVIRONMENT)
    try:
        run_alone([f"corpus={corpus}", f"runs={tmp_path}", *plan, *model, mining])
        assert f"the service of {url} ends: the run is finished" in finish(service)
    finally:
        kill_all(service)
    directory = tmp_path / "default"
    assert sorted(losses(directory)) == [1, 2, 3, 4]
    assert [line["mining/age_steps"] for line in lines(directory) if "mining/age_steps" in line] == [0, 0]
    names = {"negatives/gen-000000-000000.tar", "negatives/gen-000001-000002.tar", "mining/log.jsonl"}
    assert names <= objects(url)
    assert "mining/lease" not in objects(url)
    assert not list(tmp_path.glob("mining-*"))


HOSTILE: dict[str, Callable[[tarfile.TarFile], None]] = {
    "climbing": lambda tar: add_member(tar, "../../escaped"),
    "hidden": lambda tar: add_member(tar, ".bashrc"),
    "link": lambda tar: add_member(tar, "part-00000.npy", tarfile.SYMTYPE, "/etc/passwd"),
    "pipe": lambda tar: add_member(tar, "part-00000.npy", tarfile.FIFOTYPE),
}


def add_member(tar: tarfile.TarFile, name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> None:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    tar.addfile(member)


def test_what_a_stranger_puts_at_the_url_stays_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    there, ours = tmp_path / "url", tmp_path / "training"
    for kind in ("weights", "negatives", "mining"):
        (there / kind).mkdir(parents=True)
    for number, (_, put) in enumerate(HOSTILE.items()):
        with tarfile.open(there / "negatives" / f"gen-{number:06d}-000000.tar", "w") as tar:
            put(tar)
    with tarfile.open(there / "negatives" / "gen-000007-000000.tar", "w:gz") as bomb:
        add_member(bomb, "generation.json")
    for name in ("gen-0-0.tar", "gen-000001-000002.tar.gz", f"gen-{'9' * 60}-000001.tar", ".gen-000001-000001.tar"):
        (there / "negatives" / name).write_bytes(b"x")
    (there / ".largescale").write_text("exchange\n")
    exchange = TrainingExchange(f"file://{there}", ours)
    exchange.sync()
    assert not [path for path in ours.rglob("*") if path.is_file()]
    assert not (tmp_path / "escaped").exists()
    assert len(caplog.records) == len(HOSTILE) + 1
    exchange.sync()
    assert len(caplog.records) == len(HOSTILE) + 1, "what was refused is not fetched again"


def test_an_exchange_needs_a_service_and_a_url() -> None:
    for values in ("{exchange: 's3://a/b'}", "{home: service, exchange: runs/x}"):
        with pytest.raises(UserError, match="is a URL through which home=service passes"):
            load(TrainConfig, [f"mining={values}"])
