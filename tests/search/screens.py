"""Pictures of the page in three widths for the documentation: `python -m tests.search.screens INDEX PICTURE OUT`."""

import shutil
import sys
import time
from pathlib import Path

from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

import largescale
from largescale.search.index import Index
from largescale.search.manifest import IndexManifest
from largescale.search.server.config import ServeConfig
from tests.evaluation.report.test_report import ARGUMENTS
from tests.search.served import serving

SCREENS = {"wide": (1280, 800), "tablet": (768, 900), "phone": (390, 844)}
COLORS = 96
"""Of a file, so that it stays small."""
SHOWN = """return document.querySelector('#status').textContent.includes(' in ')
    && [...document.querySelectorAll('.hit img')].every(image => image.naturalWidth)"""


def browser() -> webdriver.Chrome:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in ARGUMENTS:
        options.add_argument(argument)
    return webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))


def main(folder: Path, picture: Path, out: Path) -> None:
    location = IndexManifest.read(folder).location
    assert location is not None
    index, chrome = Index.open(folder, largescale.load(location, "cpu")), browser()
    with serving(index, ServeConfig(index=folder, port=0)) as address:
        for name, (width, height) in SCREENS.items():
            screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
            chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
            chrome.get(address)
            WebDriverWait(chrome, 60).until(lambda b: b.find_element(By.ID, "about").text)
            chrome.find_element(By.ID, "file").send_keys(str(picture.absolute()))
            WebDriverWait(chrome, 60).until(lambda b: b.execute_script(SHOWN))
            time.sleep(0.5)  # what fades in has done so
            file = out / f"search-{name}.png"
            chrome.save_screenshot(str(file))
            with Image.open(file) as image:
                image.convert("RGB").quantize(COLORS).save(file, optimize=True)
            print(f"{file}: {file.stat().st_size:,} bytes")
    chrome.quit()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
