"""The HTTP interface in process, asked as clients ask it, and as those ask it who mean no good."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

from largescale import Model
from largescale.config import load
from largescale.search.find import Options
from largescale.search.index import Index
from largescale.search.server.app import Server
from largescale.search.server.batcher import Add, Batcher, Embed, SearchRequest
from largescale.search.server.config import ServeConfig
from largescale.search.server.serve import read_token
from largescale.search.writer import writing
from largescale.settings import UserError
from tests.search.photos import bomb, make_model, make_photos

HOME = "http://127.0.0.1:8000"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def built(model: Model, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Index.build(model, photos, tmp_path_factory.mktemp("built") / "index").folder


@pytest.fixture
def server(model: Model, built: Path, tmp_path: Path) -> Iterator[Server]:
    index = Index.open(shutil.copytree(built, tmp_path / "index"), model)
    server = Server(index, ServeConfig(index=tmp_path / "index", max_mb=0.5, max_megapixels=1))
    yield server
    server.batcher.stop()


@pytest.fixture
def client(server: Server) -> TestClient:
    return TestClient(server.app, base_url=HOME)


def _error(answer, status: int) -> str:
    assert answer.status_code == status, answer.text
    return answer.json()["error"]


def _sent(*data: bytes) -> list:
    return [("pictures", ("a.jpg", part, "image/jpeg")) for part in data]


@pytest.mark.slow
def test_answers_are_those_of_the_index(server: Server, client: TestClient, photos: Path, model: Model) -> None:
    path = photos / "label 2" / "view 1.jpg"
    expected = server.index.search(path, k=4)
    hits = client.post("/search?k=4", files=_sent(path.read_bytes())).json()["hits"]
    assert [(hit["key"], hit["label"]) for hit in hits] == [(hit.key, hit.label) for hit in expected]
    assert [hit["score"] for hit in hits] == pytest.approx([hit.score for hit in expected], abs=1e-6)
    assert set(hits[0]) == {"score", "key", "label", "width", "height", "inliers"}  # no path of this machine
    part = client.post("/search?k=1&box=10,5,60,70", files=_sent(path.read_bytes())).json()["hits"][0]
    assert part["score"] == pytest.approx(server.index.search(path, k=1, box=(10, 5, 60, 70))[0].score, abs=1e-6)
    by_key = client.post("/search", params={"k": 3, "key": "label 2/view 1.jpg"}).json()["hits"]
    assert [hit["key"] for hit in by_key] == [hit.key for hit in server.index.search(key="label 2/view 1.jpg", k=3)]
    several = [photos / "label 3" / f"view {view}.jpg" for view in (0, 1)]
    both = client.post("/search?k=2", files=_sent(*[path.read_bytes() for path in several])).json()["hits"]
    assert [hit["key"] for hit in both] == [hit.key for hit in server.index.search([str(path) for path in several], k=2)]
    only = client.post("/search?k=9&label=label 4&expand=2&rerank=diffusion", files=_sent(path.read_bytes())).json()["hits"]
    assert {hit["label"] for hit in only} == {"label 4"}
    rows = client.post("/embed", files=_sent(path.read_bytes())).json()
    assert np.allclose(rows["rows"], model.embed([path]), atol=1e-6)
    assert rows["model"] == model.digest
    key = {"key": "label 0/søk 検索 0.jpg"}
    assert client.get("/thumbnail", params=key).content == server.index.thumbnail(key["key"])
    assert client.get("/health").json()["rows"] == 20


@pytest.mark.slow
def test_a_picture_that_is_added_is_found_and_on_disk(server: Server, client: TestClient, photos: Path) -> None:
    picture = (photos / "label 1" / "view 0.jpg").read_bytes()
    asked = {"params": {"key": "new/ÿ 1", "label": "mine"}, "files": {"picture": ("x.jpg", picture)}}
    assert client.post("/add", **asked).json() == {"rows": 21}
    assert "in the index already" in _error(client.post("/add", **asked), 409)
    hits = client.post("/search?k=2", files=_sent(picture)).json()["hits"]
    assert {hit["key"] for hit in hits} == {"label 1/view 0.jpg", "new/ÿ 1"}
    opened = Index.open(server.index.folder)
    assert len(opened) == 21
    assert client.get("/thumbnail", params={"key": "new/ÿ 1"}).content == opened.thumbnail("new/ÿ 1")
    assert "is no longer there" in _error(client.post("/search", params={"key": "new/ÿ 1", "box": "0,0,9,9"}), 422)
    with writing(opened.folder) as writer:  # another process changes the index, and the server follows
        writer.remove(writer.view.find(["new/ÿ 1"]))
    assert "is not in the index" in _error(client.post("/search", params={"key": "new/ÿ 1"}), 404)
    assert client.get("/thumbnail", params={"key": "new/ÿ 1"}).status_code == 404


@pytest.mark.slow
def test_an_addition_beside_another_writer_says_so(
    server: Server, client: TestClient, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("largescale.search.server.batcher.LOCK_S", 0.1)
    picture = {"picture": ("x.jpg", (photos / "label 1" / "view 0.jpg").read_bytes())}
    with writing(server.index.folder):
        assert "being changed by process" in _error(client.post("/add?key=a", files=picture), 503)
    assert client.post("/add?key=a", files=picture).status_code == 200


@pytest.mark.slow
def test_bad_requests_are_sentences(client: TestClient, photos: Path) -> None:
    good = (photos / "label 1" / "view 0.jpg").read_bytes()
    cases = [
        ("/search", {}, 400, "send pictures, or the key"),
        ("/search?key=a", {"files": _sent(good)}, 400, "not both"),
        ("/search?box=0,0,5,5", {"files": _sent(good, good)}, 400, "belongs to one picture"),
        ("/search?box=0,0,500,5", {"files": _sent(good)}, 422, "not inside its 96 x 72 pixels"),
        ("/search?key=label 2/view 1.jpg&box=0,0,500,5", {}, 422, "^'label 2/view 1.jpg' cannot be used: the box .* not inside"),
        ("/search?box=a", {"files": _sent(good)}, 422, "box: "),
        ("/search?k=0", {"files": _sent(good)}, 422, "k: "),
        ("/search?sort=up", {"files": _sent(good)}, 422, "sort: "),
        ("/search?key=../../etc/passwd", {}, 404, "'../../etc/passwd' is not in the index"),
        ("/search", {"files": _sent(b"")}, 422, "it is empty"),
        ("/search", {"files": _sent(b"%PDF-1.4")}, 422, "it begins with b'%PDF-1.4'"),
        ("/search", {"files": _sent(good[:900])}, 422, "cannot be used"),
        ("/search", {"files": _sent(bomb(2_000))}, 413, "2000 x 2000 pixels, more than 1 megapixels"),
        ("/search", {"files": _sent(bomb(30_000))}, 422, "exceeds limit of"),
        ("/search", {"files": _sent(bytes(600_000))}, 413, r"0\.5 MiB"),
        ("/search", {"files": _sent(*[good] * 17)}, 413, "17 pictures in one request, 16 are allowed"),
        ("/search", {"content": b"--x", "headers": {"content-type": "multipart/form-data; boundary=x"}}, 400, "."),
        ("/embed", {}, 422, "pictures: "),
        ("/add", {"files": {"picture": ("x.jpg", good)}}, 422, "key: "),
        ("/add?key=a%00b", {"files": {"picture": ("x.jpg", good)}}, 422, "key: "),
        ("/remove", {}, 404, "POST /remove is not here"),
        ("/health", {}, 405, "POST /health is not here"),
    ]
    for path, settings, status, message in cases:
        assert re.search(message, _error(client.post(path, **settings), status)), path
    assert client.get("/page/../../../pyproject.toml").status_code == 404
    assert client.get("/thumbnail?key=/etc/passwd").status_code == 404
    assert client.post("/search", files=_sent(good)).status_code == 200


@pytest.mark.slow
def test_a_body_without_a_length_is_bounded_as_it_comes(client: TestClient) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        head = b'--x\r\ncontent-disposition: form-data; name="pictures"; filename="a"\r\n\r\n'
        for _ in range(100):
            sent += 1
            yield head + bytes(100_000)
            head = b""

    answer = client.post("/search", content=endless(), headers={"content-type": "multipart/form-data; boundary=x"})
    assert "0.5 MiB" in _error(answer, 413)


@pytest.mark.slow
def test_other_sites_and_names_are_refused(client: TestClient) -> None:
    for headers in (
        {"origin": "https://elsewhere.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9999"},
        {"sec-fetch-site": "cross-site"},
    ):
        assert "another site" in _error(client.get("/health", headers=headers), 403)
    for host in ("elsewhere.example", "127.0.0.1.elsewhere.example:8000", "192.0.2.1", ""):
        assert "answers to" in _error(client.get("/health", headers={"host": host}), 403)
    assert client.get("/health", headers={"origin": HOME, "sec-fetch-site": "same-origin"}).status_code == 200
    for host in ("localhost:8000", "[::1]:8000", "127.0.0.1"):
        assert client.get("/health", headers={"host": host}).status_code == 200
    page = client.get("/", headers={"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"})
    assert page.status_code == 200
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    assert "http" not in page.text.replace("http-equiv", "")  # nothing is loaded from elsewhere


@pytest.mark.slow
def test_other_machines_need_a_token(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"host=0.0.0.0 lets other machines ask, so a token is needed"):
        load(ServeConfig, ["index=a", "host=0.0.0.0"])
    (tmp_path / "token").write_text("short\n")
    with pytest.raises(UserError, match="holds 5 characters"):
        read_token(tmp_path / "token")
    (tmp_path / "token").write_text("a secret of some length\n")
    secret = read_token(tmp_path / "token")
    asked = Server(server.index, ServeConfig(index=tmp_path, host="0.0.0.0", token=tmp_path / "token"), secret)
    client = TestClient(asked.app, base_url="http://photos.example")
    assert client.get("/").status_code == 200
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {secret}"}, {"authorization": "Bearer ÿ"}):
        encoded = {name: value.encode() for name, value in headers.items()}
        for path in ("/health", "/metrics", "/openapi.json", "/thumbnail?key=a"):
            assert "needs its token" in _error(client.get(path, headers=encoded), 401)
    assert client.get("/health", headers={"authorization": f"Bearer {secret}"}).json()["rows"] == 20
    asked.batcher.stop()


@pytest.mark.slow
def test_interface_and_metrics_are_described(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert set(paths) == {"/search", "/embed", "/add", "/thumbnail", "/health", "/metrics"}
    names = {parameter["name"] for parameter in paths["/search"]["post"]["parameters"]}
    assert names == {"k", "label", "path", "expand", "alpha", "rerank", "verify", "key", "box"}
    client.post("/search?key=nobody")
    client.get("/etc/passwd")
    text = client.get("/metrics").text
    assert 'largescale_requests_total{path="/search",status="404"} 1' in text
    assert 'largescale_requests_total{path="other",status="404"} 1' in text
    assert "largescale_rows 20" in text
    buckets = [int(n) for n in re.findall(r'_bucket\{path="/search",le="[^"]*"\} (\d+)', text)]
    assert buckets == sorted(buckets)
    assert buckets[-1] == 1


@pytest.mark.slow
def test_a_failure_is_no_traceback(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    client = TestClient(server.app, base_url=HOME, raise_server_exceptions=False)

    def broken(*_: object) -> None:
        raise RuntimeError("secret inside")

    monkeypatch.setattr(server.index, "search_rows", broken)
    assert "failed on this request" in _error(client.post("/search", params={"key": "label 1/view 0.jpg"}), 500)
    monkeypatch.undo()
    assert client.post("/search", params={"key": "label 1/view 0.jpg"}).status_code == 200


@pytest.mark.slow
def test_an_index_that_is_gone_is_a_sentence(server: Server, client: TestClient, photos: Path) -> None:
    shutil.rmtree(server.index.folder)
    picture = (photos / "label 1" / "view 0.jpg").read_bytes()
    for path, settings in (
        ("/search", {"files": _sent(picture)}),
        ("/search?key=a", {}),
        ("/add?key=a", {"files": {"picture": ("x.jpg", picture)}}),
    ):
        assert "there is no index in" in _error(client.post(path, **settings), 503)
    assert "there is no index in" in _error(client.get("/thumbnail?key=a"), 503)
    assert client.get("/health").status_code == 200


@pytest.mark.slow
def test_a_request_that_cannot_be_answered_fails_alone(model: Model, photos: Path, tmp_path: Path) -> None:
    index = Index.create(tmp_path / "index", model.dim, "l2", model=model)
    index.add(photos / "label 1")
    batcher = Batcher(index)
    batcher.stop()
    key = "view 0.jpg"
    jobs = [SearchRequest(key=key, options=Options(expand=2)), SearchRequest(key="\ud800"), SearchRequest(key=key)]
    batcher._try(jobs)
    assert "this index has the metric l2" in str(jobs[0].future.exception())
    assert isinstance(jobs[1].future.exception(), UnicodeEncodeError)
    assert len(jobs[2].future.result()) == 3


@pytest.mark.slow
def test_requests_that_wait_together_are_answered_together(server: Server, photos: Path) -> None:
    data = [path.read_bytes() for path in sorted(photos.rglob("*.jpg"))]
    server.batcher.stop()
    batcher = server.batcher
    jobs = [SearchRequest([picture], options=Options(k=1)) for picture in data[:8]]
    jobs += [
        Embed([data[8]]),
        SearchRequest([b"no picture"]),
        Add([data[9]], key="a"),
        Add([data[9]], key="a"),
        SearchRequest(key="nobody"),
    ]
    batcher._answer(jobs)
    assert [job.future.result()[0].score for job in jobs[:8]] == pytest.approx([1] * 8, abs=1e-5)
    assert jobs[8].future.result().shape == (1, server.index.view.manifest.dim)
    assert jobs[10].future.result() == 21
    messages = [str(jobs[place].future.exception()) for place in (9, 11, 12)]
    assert ["cannot be used" in messages[0], "already" in messages[1], "not in the index" in messages[2]] == [True] * 3
    server.batcher.__init__(server.index)  # type: ignore[misc]
