"""The server on a real socket: many clients, a stop in the middle of an upload, and its page in a browser."""

import http.client
import json
import shutil
import signal
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

import largescale
from largescale.search.index import Index
from largescale.search.server.config import ServeConfig
from tests.evaluation.report.test_report import ARGUMENTS
from tests.programs import Program
from tests.search.photos import make_model, make_photos
from tests.search.served import ask, multipart, serving

ROOT = Path(__file__).parents[2]
CLIENTS, EACH = 50, 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, photographs, and their index."""
    folder = tmp_path_factory.mktemp("served")
    model = make_model(folder / "model")
    Index.build(model, make_photos(folder / "photos"), folder / "index")
    return folder


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    index = Index.open(folder / "index", largescale.load(folder / "model", device="cpu"))
    with serving(index, ServeConfig(index=folder / "index", port=0)) as address:
        yield address


@pytest.mark.slow
def test_fifty_clients_at_once(folder: Path, address: str) -> None:
    pictures = sorted((folder / "photos").rglob("*.jpg"))

    def client(number: int) -> list[bool]:
        chosen = [pictures[(number + i) % len(pictures)] for i in range(EACH)]
        found = [ask(address, "/search?k=1", "pictures", picture)["hits"][0]["key"] for picture in chosen]
        return [key == picture.relative_to(folder / "photos").as_posix() for key, picture in zip(found, chosen, strict=True)]

    with ThreadPoolExecutor(CLIENTS) as pool:
        assert [all(right) for right in pool.map(client, range(CLIENTS))] == [True] * CLIENTS
    metrics = urllib.request.urlopen(f"{address}metrics").read().decode()
    values = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if not line.startswith("#"))
    assert values['largescale_requests_total{path="/search",status="200"}'] == str(CLIENTS * EACH)
    assert float(values["largescale_batches_total"]) < CLIENTS * EACH  # they were answered together


@pytest.mark.slow
def test_a_stop_in_the_middle_of_an_upload_loses_nothing(folder: Path, tmp_path: Path) -> None:
    """What was answered is on disk; what was not sent to its end is not there; the server ends, with status 0."""
    index = Path(shutil.copytree(folder / "index", tmp_path / "index"))
    command = [sys.executable, ROOT / "launch" / "search.py", "serve", f"index={index}", "port=0", "timeout=2"]
    process = Program(command)
    address = next(word for word in process.stdout.readline().split() if word.startswith("http"))
    picture = folder / "photos" / "label 1" / "view 0.jpg"
    answered: list[int] = []

    def client() -> None:
        for number in range(10_000):
            try:
                ask(address, f"/add?key=added{number}", "picture", picture)
            except (OSError, http.client.HTTPException, AssertionError):
                return
            answered.append(number)

    thread = threading.Thread(target=client)
    thread.start()
    host, _, port = address.removeprefix("http://").rstrip("/").partition(":")
    half = socket.create_connection((host, int(port)))
    body, headers = multipart("picture", picture.read_bytes())
    head = f"POST /add?key=half HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: {headers['Content-Type']}\r\n"
    half.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:500])
    while len(answered) < 3 and thread.is_alive():
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0
    thread.join(timeout=60)
    kept = Index.open(index)
    assert len(answered) >= 3
    assert (kept.view.find([f"added{number}" for number in answered]) >= 0).all()
    assert kept.view.find(["half"])[0] < 0


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


def _until(browser: webdriver.Chrome, script: str) -> None:
    WebDriverWait(browser, 30, 0.05).until(lambda b: b.execute_script(f"return {script}"))


def _keys(browser: webdriver.Chrome) -> list[str]:
    _until(browser, "document.querySelector('#status').textContent.includes(' in ')")
    return [element.text for element in browser.find_elements(By.CSS_SELECTOR, ".key")]


def _open(browser: webdriver.Chrome, address: str, picture: Path) -> None:
    browser.get(address)
    _until(browser, "document.querySelector('#about').textContent")
    browser.find_element(By.ID, "file").send_keys(str(picture))


@pytest.mark.slow
def test_the_page_searches_on_draws_a_box_and_filters(folder: Path, address: str, browser: webdriver.Chrome) -> None:
    _open(browser, address, folder / "photos" / "label 2" / "view 1.jpg")
    assert "20 pictures, " in browser.find_element(By.ID, "about").text
    assert _keys(browser)[0] == "label 2/view 1.jpg"
    assert len(_keys(browser)) == 20
    first = browser.find_element(By.CSS_SELECTOR, ".hit")
    assert "1.000" in first.text
    assert "label 2" in first.text
    assert (
        first.find_element(By.CSS_SELECTOR, ".bar i").size["width"] == first.find_element(By.CSS_SELECTOR, ".bar").size["width"]
    )
    _until(browser, "[...document.querySelectorAll('.hit img')].length == 20")
    _until(browser, "[...document.querySelectorAll('.hit img')].every(image => image.naturalWidth > 0)")

    drag = webdriver.ActionChains(browser)
    stage = browser.find_element(By.ID, "picture")
    drag.move_to_element_with_offset(stage, -30, -20).click_and_hold().move_by_offset(50, 40).release().perform()
    assert browser.find_element(By.ID, "box").is_displayed()
    _until(browser, "document.querySelector('.score b')?.textContent != '1.000'")
    browser.find_element(By.CSS_SELECTOR, "body").send_keys(Keys.ESCAPE)
    assert not browser.find_element(By.ID, "box").is_displayed()
    _until(browser, "document.querySelector('.score b')?.textContent == '1.000'")

    body = browser.find_element(By.CSS_SELECTOR, "body")
    body.send_keys(Keys.ARROW_RIGHT)
    browser.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    second = browser.switch_to.active_element
    assert second == browser.find_elements(By.CSS_SELECTOR, ".hit")[1]
    name = second.get_attribute("title")
    second.send_keys(Keys.ENTER)
    _until(browser, f"document.querySelector('#name').textContent == {json.dumps(name)}")
    _until(browser, "document.querySelectorAll('.key').length == 19")
    assert name not in _keys(browser)

    browser.find_element(By.CSS_SELECTOR, "body").send_keys("/")
    assert browser.switch_to.active_element == browser.find_element(By.ID, "label")
    browser.switch_to.active_element.send_keys("label 4", Keys.ENTER)
    _until(browser, "[...document.querySelectorAll('.tag')].length == 4")
    number = browser.find_element(By.ID, "k")
    number.clear()
    number.send_keys("2", Keys.ENTER)
    _until(browser, "document.querySelectorAll('.hit').length == 2")
    body.send_keys(Keys.ESCAPE)
    browser.execute_script("document.activeElement.blur()")
    body.send_keys(Keys.BACKSPACE)
    _until(browser, "document.querySelector('#name').textContent == 'view 1.jpg'")
    assert browser.get_log("browser") == []


@pytest.mark.slow
def test_a_pasted_and_a_bad_picture(address: str, browser: webdriver.Chrome, tmp_path: Path) -> None:
    bad = tmp_path / "no picture.jpg"
    bad.write_text("text")
    _open(browser, address, bad)
    _until(browser, "document.querySelector('#status.wrong')")
    assert "cannot be used" in browser.find_element(By.ID, "status").text
    browser.get_log("browser")  # the browser tells of the 422 itself
    browser.execute_async_script("""
        const done = arguments[0];
        fetch('/thumbnail?key=label%203/view%200.jpg').then(answer => answer.blob()).then(blob => {
            const data = new DataTransfer();
            data.items.add(new File([blob], 'pasted.jpg', {type: 'image/jpeg'}));
            document.dispatchEvent(new ClipboardEvent('paste', {clipboardData: data}));
            done();
        });""")
    _until(browser, "document.querySelector('#name').textContent == 'pasted.jpg'")
    assert _keys(browser)[0] == "label 3/view 0.jpg"


@pytest.mark.slow
@pytest.mark.parametrize("width", [1400, 820, 390])
def test_the_page_fits_screens(folder: Path, address: str, browser: webdriver.Chrome, width: int) -> None:
    screen = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    _open(browser, address, folder / "photos" / "label 0" / "søk 検索 0.jpg")
    assert len(_keys(browser)) == 20
    assert not browser.execute_script("return document.documentElement.scrollWidth > document.documentElement.clientWidth")
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.slow
def test_a_token_is_asked_for(folder: Path, browser: webdriver.Chrome, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("a secret of some length")
    index = Index.open(folder / "index", largescale.load(folder / "model", device="cpu"))
    with serving(index, ServeConfig(index=folder / "index", port=0, token=tmp_path / "token")) as address:
        browser.get(address)
        _until(browser, "document.querySelector('#ask').open")
        browser.find_element(By.ID, "token").send_keys("a secret of some length", Keys.ENTER)
        _until(browser, "document.querySelector('#about').textContent.startsWith('20 pictures')")
        browser.find_element(By.ID, "file").send_keys(str(folder / "photos" / "label 2" / "view 1.jpg"))
        assert _keys(browser)[0] == "label 2/view 1.jpg"
        _until(browser, "[...document.querySelectorAll('.hit img')].length == 20")
