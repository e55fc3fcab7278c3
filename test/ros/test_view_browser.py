"""The page in headless Chromium, with a real node behind it: what a person would see."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import rclpy
from chromium import chromium
from node_bench import Bench, as_image, picture, wait_until
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import Image

from fassst_ros.ros.view import View
from fassst_ros.ros.view_server import Board, PageServer


class Viewer:
    """View and page server in a thread, as the process has them; `restart` is a server that comes back."""

    def __init__(self, context: Context) -> None:
        self._node = rclpy.create_node("view_node", context=context)
        self._executor = SingleThreadedExecutor(context=context)
        self._executor.add_node(self._node)
        self._board = Board()
        self._view = View(self._node, "", self._board)
        self._view.update()
        self.server = PageServer(self._board, "127.0.0.1", 0)
        self.server.start()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._spin)
        self._thread.start()

    def _spin(self) -> None:
        while not self._ending.is_set():
            self._executor.spin_once(timeout_sec=0.05)
            self._view.update()

    def restart(self) -> None:
        self.server = PageServer(self._board, "127.0.0.1", self.server.server_address[1])
        self.server.start()

    def stop(self) -> None:
        self._ending.set()
        self._thread.join(60)
        with contextlib.suppress(OSError):
            self.server.stop()
        self._executor.shutdown()
        self._node.destroy_node()


@pytest.fixture
def viewer(context: Context) -> Iterator[Viewer]:
    made = Viewer(context)
    yield made
    made.stop()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("browser")) as started:
        yield started


def text(browser: Any, selector: str) -> str:
    return str(browser.execute_script(f"return document.querySelector({selector!r})?.innerText ?? ''"))


def see(browser: Any, selector: str, words: str) -> None:
    """Wait until an element of the page holds `words`."""
    seen = [""]

    def there() -> bool:
        seen[0] = text(browser, selector)
        return words in seen[0]

    try:
        wait_until(there)
    except BaseException:
        print(f"{selector}: {seen[0]!r}")
        raise


@pytest.fixture
def camera(bench: Bench) -> Iterator[Callable[..., Any]]:
    """Starts a node with cameras that send pictures until the end of the test."""
    ending = threading.Event()
    threads: list[threading.Thread] = []

    def begin(**parameters: Any) -> Any:
        _, driver = bench.active(diagnostics_period=0.1, **parameters)
        topics = parameters.get("image_topics", ["image"])
        publishers = [driver.publisher(Image, f"/{topic}") for topic in topics]

        def send() -> None:
            while not ending.wait(0.05):
                for publisher in publishers:
                    publisher.publish(as_image(picture()))

        threads.append(threading.Thread(target=send))
        threads[-1].start()
        return driver

    yield begin
    ending.set()
    for thread in threads:
        thread.join(60)


def test_overlay_and_numbers_come_back_by_themselves(
    viewer: Viewer, browser: Any, camera: Callable[..., Any]
) -> None:
    browser.get(viewer.server.url)
    see(browser, "#note", "No segmentation node is heard yet")
    driver = camera()
    see(browser, "#state", "active")
    see(browser, "#node", "/segment_node")
    see(browser, "#facts", "tiny 1")
    wait_until(
        lambda: browser.execute_script("return document.querySelector('section img')?.naturalWidth") == 128
    )
    see(browser, "h2", "/image")
    see(browser, ".classes", "2 car")
    see(browser, ".classes", "1 person")
    see(browser, "tbody", "infer")
    wait_until(lambda: float(text(browser, ".numbers span:nth-child(2) b")) > 0)  # pictures shown
    assert text(browser, "#note") == ""

    viewer.server.stop()
    see(browser, "#state", "offline")
    see(browser, "#note", "Trying again")
    assert browser.execute_script("return document.querySelector('section').classList.contains('stale')")
    viewer.restart()
    see(browser, "#state", "active")
    before = browser.execute_script("return document.querySelector('section img').src")
    wait_until(lambda: browser.execute_script("return document.querySelector('section img').src") != before)

    assert driver.change("deactivate")
    see(browser, "#state", "inactive")
    wait_until(
        lambda: browser.execute_script("return document.querySelector('section').className") == "stale"
    )
    assert driver.change("cleanup")
    see(browser, "#note", "The node has no cameras in this state: unconfigured")
    assert driver.change("configure")
    assert driver.change("activate")
    see(browser, "#state", "active")
    shown = browser.execute_script("return document.querySelector('section img').src")
    wait_until(lambda: browser.execute_script("return document.querySelector('section img').src") != shown)
    problems = [line for line in browser.get_log("browser") if "ERR_CONNECTION" not in line["message"]]
    assert problems == []


def test_two_cameras_on_a_phone(viewer: Viewer, browser: Any, camera: Callable[..., Any]) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True},
    )
    try:
        camera(image_topics=["left/image", "right/image"])
        browser.get(viewer.server.url)
        see(browser, "section:nth-child(1) h2", "/left/image")
        see(browser, "section:nth-child(2) h2", "/right/image")
        for place in (1, 2):
            see(browser, f"section:nth-child({place}) .classes", "2 car")
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
