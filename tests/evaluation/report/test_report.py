"""The report in a real browser: every image loads, every link leads somewhere, nothing is complained about."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urldefrag

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from largescale.corpus.corpus import Corpus
from largescale.evaluation.report import RankedPictures, mirror, write_comparison, write_report
from largescale.evaluation.results import (
    CorpusUsed,
    CurvePoint,
    Histogram,
    Interval,
    Mark,
    Missed,
    Neighbor,
    PrecisionRecall,
    ProtocolResult,
    QueryRecord,
    Results,
    Suspect,
    Suspects,
    read_results,
    record_file,
    write_results,
)
from largescale.evaluation.scoring.compare import compare_results, pairs
from largescale.tracking import TrackingConfig
from tests.corpora import make_corpus

QUERIES = 130
ANCHORED = """return [...document.querySelectorAll('a[href*="#"]')]
    .every(link => link.pathname != location.pathname || document.querySelector(link.hash))"""
MARKS: list[Mark] = ["right", "wrong", "junk", "distractor", "self"]
ARGUMENTS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--allow-file-access-from-files"),
)


def _record(number: int, gain: float = 0.0) -> QueryRecord:
    top = [
        Neighbor(rank // 5 if mark == "distractor" else rank, f"image <{rank}>", part, 0.9 - rank / 50, mark)
        for rank, mark in enumerate(MARKS * 4)
        for part in (["distractors" if mark == "distractor" else "gallery"])
    ]
    ap = None if number == 7 else min(1 - number / QUERIES + gain * (number % 3 - 0.5), 1)
    box = (3.0, 4.0, 20.0, 18.0) if number % 2 else None
    return QueryRecord(
        id=number,
        key=f"query/{number}",
        box=box,
        label=f"label & name {number % 26}",
        ap=ap,
        positives=7,
        first_hit=0,
        metrics={} if ap is None else {"map_rectangle": ap},
        top=top,
        missed=[Missed(1, "lost <1>", 99, 0.1), Missed(2, "lost <2>", 42, 0.2)],
        precision=[] if ap is None else [1 - i / 12 for i in range(10)],
    )


def _evaluation(folder: Path, corpora: Path, gain: float = 0.0) -> Path:
    """A folder with results on the corpora."""
    metrics = {"map_rectangle": Interval(0.5 + gain, 0.4, 0.6), "recall_at_1": Interval(0.7, 0.6, 0.8)}
    curve = [CurvePoint(count, metrics) for count in (0, 5, 10)]
    histogram = Histogram([0.0, 0.25, 0.5, 0.75, 1.0], [0, 1, 2, 3], [5, 4, 0, 0], [3, 0, 0, 0])
    pr = PrecisionRecall([0.0, 0.5, 1.0], [1.0, 0.6, 0.2])
    with record_file(folder / "queries-labels.jsonl") as append:
        append(_record(number, gain) for number in range(QUERIES))
    counts = (QUERIES, 1, 26, QUERIES, 10)
    unseen = Neighbor(9, "far <9>", "distractors", 0.3, "distractor")  # in no record
    suspects = Suspects(1000, 4321, [Suspect(unseen, 29, 130, [5, 1, 2, 3, 129]), Suspect(unseen, 40, 2, [5, 6])])
    of_queries = (metrics, curve, histogram, pr, suspects, "queries-labels.jsonl")
    result = ProtocolResult("labels", 1, "0" * 64, "leave one out", "map_rectangle", *counts, *of_queries)
    used = [CorpusUsed(str(corpora / name), name, count) for name, count in (("gallery", QUERIES), ("distractors", 10))]
    scored = ("w.safetensors", "0", {}, {"size": 32})
    write_results(folder, Results(*scored, used[0], used[0], used[1:], [result], {"device": "cpu"}, {"embed": 1.0}))
    return folder


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an evaluation with its results, and the corpora that it names."""
    folder = tmp_path_factory.mktemp("evaluation")
    make_corpus(folder / "gallery", labels=26, per_label=5)
    make_corpus(folder / "distractors", labels=0, unlabeled=10)
    return _evaluation(folder, folder)


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no chromium and chromedriver on this machine")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ARGUMENTS:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield chrome
    chrome.quit()


def _pictures(evaluation: Path) -> RankedPictures:
    gallery = Corpus.open(str(evaluation / "gallery"))
    return RankedPictures(gallery, gallery, [Corpus.open(str(evaluation / "distractors"))])


@pytest.fixture(scope="module")
def report(evaluation: Path) -> Path:
    """Its first page."""
    return write_report(evaluation, _pictures(evaluation))


def _links(browser: webdriver.Chrome) -> set[str]:
    links = [element.get_attribute("href") or "" for element in browser.find_elements(By.CSS_SELECTOR, "a")]
    return {urldefrag(link).url for link in links}


def _visit(browser: webdriver.Chrome, first: Path) -> set[str]:
    """Open every page that links lead to, with all images; nothing is missing, nothing is complained about."""
    todo, seen = {first.as_uri()}, set[str]()
    while todo - seen:
        browser.get((todo - seen).pop())
        seen.add(urldefrag(browser.current_url).url)
        # what is further down, or folded away, loads only when it is shown
        browser.execute_script("document.querySelectorAll('details').forEach(details => details.open = true)")
        browser.execute_script("document.querySelectorAll('img').forEach(image => image.loading = 'eager')")
        loaded = "return [...document.images].every(image => image.complete)"
        for _ in range(100):
            if browser.execute_script(loaded):
                break
        broken = "return [...document.images].filter(image => !image.naturalWidth).map(image => image.src)"
        assert browser.execute_script(broken) == []
        assert browser.get_log("browser") == []
        links = _links(browser)
        assert all(Path(link.removeprefix("file://")).exists() for link in links)
        assert browser.execute_script(ANCHORED)
        todo |= links
    return {Path(url).name for url in seen}


def _fits_a_phone(browser: webdriver.Chrome, page: Path) -> bool:
    """Nothing is wider than the screen, or must be scrolled aside."""
    screen = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    browser.get(page.as_uri())
    wide = "return [document.documentElement, ...document.querySelectorAll('table')].some(x => x.scrollWidth > x.clientWidth)"
    fits = not browser.execute_script(wide)
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    return fits


@pytest.mark.slow
def test_pages_in_a_browser(report: Path, browser: webdriver.Chrome) -> None:
    assert _visit(browser, report) == {"index.html", "labels-1.html", "labels-2.html"}


@pytest.mark.slow
def test_two_evaluations_side_by_side(evaluation: Path, browser: webdriver.Chrome, tmp_path: Path) -> None:
    both = pairs(evaluation, _evaluation(tmp_path / "b", evaluation, gain=0.05))
    page = write_comparison(both, compare_results(both), tmp_path / "compared")
    assert _visit(browser, page) == {"index.html", "0-1.html", "0-2.html"}
    browser.get(page.as_uri())
    cells = [cell.text for cell in browser.find_elements(By.CSS_SELECTOR, ".summary tbody td")]
    assert cells[0] == "labels +10"
    assert sum(map(int, cells[-3:])) == QUERIES - 1  # wins, losses and ties of the queries that have a positive
    browser.get(browser.find_element(By.CSS_SELECTOR, ".pages a").get_attribute("href"))  # returns when it is loaded
    gains = [float(element.text) for element in browser.find_elements(By.CSS_SELECTOR, ".asked strong")]
    assert len(gains) == 100
    assert [abs(gain) for gain in gains] == sorted((abs(gain) for gain in gains), reverse=True)
    assert max(gains) == pytest.approx(7.5, abs=0.01)
    assert len(browser.find_element(By.CSS_SELECTOR, ".query").find_elements(By.CSS_SELECTOR, ".ranking")) == 2
    assert _fits_a_phone(browser, page)


@pytest.mark.slow
def test_suspects_are_listed_with_their_queries(report: Path, browser: webdriver.Chrome) -> None:
    browser.get(report.as_uri())
    listed = browser.find_elements(By.CSS_SELECTOR, ".suspects li")
    assert ["#30, 130 queries" in listed[0].text, "#41, 2 queries" in listed[1].text, len(listed)] == [True, True, 2]
    links = listed[0].find_elements(By.CSS_SELECTOR, "a")
    assert [a.text for a in links] == ["1", "2", "3", "4", "5"]
    ends = [str(a.get_attribute("href")).rpartition("/")[2] for a in links]
    assert ends == ["labels-2.html#q5", "labels-2.html#q1", "labels-2.html#q2", "labels-2.html#q3", "labels-1.html#q129"]
    text = browser.find_element(By.CSS_SELECTOR, "body").text
    assert "4,321 distractors stand before a positive of two or more queries, among the first 1,000 rows of each" in text
    assert "Shown are the 2 that reach the best places in two queries." in text


@pytest.mark.slow
def test_queries_are_sorted_worst_first(report: Path, browser: webdriver.Chrome) -> None:
    browser.get((report.parent / "labels-1.html").as_uri())
    aps = [float(element.text.removeprefix("AP ")) for element in browser.find_elements(By.CSS_SELECTOR, ".asked strong")]
    assert len(aps) == 100
    assert aps == sorted(aps)
    strip = browser.find_element(By.CSS_SELECTOR, ".ranking").find_elements(By.CSS_SELECTOR, "li")
    assert [item.get_attribute("class") for item in strip] == MARKS * 4
    assert len({item.find_element(By.CSS_SELECTOR, "b").text for item in strip}) == len(MARKS)
    assert len(browser.find_elements(By.CSS_SELECTOR, ".box")) > 0


@pytest.mark.slow
def test_keyboard_and_narrow_screens(report: Path, browser: webdriver.Chrome) -> None:
    browser.get((report.parent / "labels-1.html").as_uri())
    body = browser.find_element(By.CSS_SELECTOR, "body")
    body.send_keys("j")
    body.send_keys("j")
    browser.switch_to.active_element.send_keys("k")
    first = browser.find_element(By.CSS_SELECTOR, ".query")
    assert browser.switch_to.active_element == first
    assert not first.find_element(By.CSS_SELECTOR, ".missed").get_attribute("open")
    browser.switch_to.active_element.send_keys("m")
    assert first.find_element(By.CSS_SELECTOR, ".missed").get_attribute("open")
    assert "#100" in first.find_element(By.CSS_SELECTOR, ".missed li").text
    browser.switch_to.active_element.send_keys("n", Keys.NULL)
    assert browser.current_url.endswith("labels-2.html")
    assert _fits_a_phone(browser, report.parent / "labels-2.html")
    assert _fits_a_phone(browser, report)


@pytest.mark.slow
def test_wandb_mirrors_scores_and_worst_queries(evaluation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setattr("largescale.evaluation.report.tables.MOST", 3)
    copy = shutil.copytree(evaluation, tmp_path / "copy", ignore=shutil.ignore_patterns("report*"))
    mirror(copy, _pictures(evaluation), TrackingConfig(wandb="offline"))
    tables = [json.loads(path.read_text()) for path in copy.rglob("*.table.json")]
    by_columns = {tuple(table["columns"][:2]): table for table in tables}
    scores, queries = by_columns["protocol", "distractors"], by_columns["query", "label"]
    assert [row[:4] for row in scores["data"] if row[2] == "map_rectangle"] == [
        ["labels", n, "map_rectangle", 0.5] for n in (0, 5, 10)
    ]
    assert [row[0] for row in queries["data"]] == ["query/129", "query/128", "query/127"]
    assert queries["columns"][-1] == "strip"
    pictures = [path for path in tmp_path.rglob("staging/*") if path.read_bytes().startswith(b"\x89PNG")]
    assert len(pictures) == 3
    assert by_columns["distractor", "corpus"]["data"] == [["far <9>", 0, 130, 30, 0.3], ["far <9>", 0, 2, 41, 0.3]]


@pytest.mark.slow
def test_without_pictures_names_stand_in(evaluation: Path, tmp_path: Path) -> None:
    shutil.copytree(evaluation, tmp_path / "copy", ignore=shutil.ignore_patterns("report*"))
    page = write_report(tmp_path / "copy").parent / "labels-1.html"
    text = page.read_text()
    assert "<img" not in text
    assert "image &lt;3&gt;" in text  # names are text, whatever they hold


@pytest.mark.slow
def test_a_gallery_that_lacks_images_of_its_benchmark_is_no_score_of_it(evaluation: Path, tmp_path: Path) -> None:
    shutil.copytree(evaluation, tmp_path / "copy", ignore=shutil.ignore_patterns("report*"))
    assert "Incomplete" not in write_report(tmp_path / "copy").read_text()
    found = read_results(tmp_path / "copy")
    lacking = replace(found.protocols[0], incomplete="4,961 of 5,063 images")
    write_results(tmp_path / "copy", replace(found, protocols=[lacking]))
    assert "<b>Incomplete:</b> 4,961 of 5,063 images; this is no score of labels." in write_report(tmp_path / "copy").read_text()
