"""Headless Chromium for tests that look at pages as people do."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
SWITCHES = (
    *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync"),
    *("disable-background-networking", "disable-component-update", "disable-dev-shm-usage"),
    *("autoplay-policy=no-user-gesture-required", "window-size=1400,1000"),
)


@contextmanager
def chromium(folder: Path) -> Iterator[Any]:
    """A browser (selenium's Chrome) whose profile is in `folder`. Skips the test where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="no selenium: `make test` installs it")
    if not CHROMIUM or not DRIVER:
        pytest.skip("no chromium and chromedriver: apt install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for switch in (*SWITCHES, f"user-data-dir={folder}"):
        options.add_argument(f"--{switch}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options, webdriver.ChromeService(executable_path=DRIVER))
    try:
        yield browser
    finally:
        browser.quit()
