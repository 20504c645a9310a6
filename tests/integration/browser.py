"""Debian's Chromium without a window, as a person who opens our pages: what is shown, and what is asked of whom."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

PATIENCE = 60_000.0
"""Milliseconds that a page may take to show something, on a machine that has other work."""

_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)

LOADED = "image => image.complete && image.naturalWidth > 0"
"""Whether a picture is there, for the page to answer."""


def chromium() -> str:
    """Where the browser is; without one a test is skipped, but fails where everything is to be tested."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        missing = "there is no Chromium here: `apt-get install chromium`"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    return found


@dataclass
class View:
    """A page that is open."""

    page: Any
    asked: list[str] = field(default_factory=list)
    """Addresses of all that it has asked for."""
    errors: list[str] = field(default_factory=list)
    """What its scripts threw."""

    @property
    def strangers(self) -> set[str]:
        """Hosts beyond this machine that it has asked for something."""
        hosts = {urllib.parse.urlsplit(url).hostname for url in self.asked}
        return {host for host in hosts if host is not None and host not in ("127.0.0.1", "localhost")}

    def see(self, text: str, *, exact: bool = False) -> Any:
        """Waits until a text is shown; returns where."""
        found = self.page.get_by_text(text, exact=exact).filter(visible=True).first
        found.wait_for(timeout=PATIENCE)
        return found

    def pictures(self, selector: str) -> list[str]:
        """Waits until all pictures of a selector are loaded; returns their addresses."""
        self.page.locator(selector).first.wait_for(timeout=PATIENCE, state="attached")
        deadline = time.monotonic() + PATIENCE / 1000
        while True:
            found = self.page.locator(selector)
            states = found.evaluate_all(f"images => images.map({LOADED})")
            sources = found.evaluate_all("images => images.map(image => image.currentSrc || image.src)")
            if states and all(states):
                return sources
            bad = [source for source, state in zip(sources, states, strict=True) if not state]
            assert time.monotonic() < deadline, f"pictures that do not load: {bad}"
            time.sleep(0.1)

    def overflow(self) -> int:
        """Pixels by which the page is wider than its window."""
        return self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")

    def rows(self, selector: str = "table") -> list[list[str]]:
        """The cells of the first table of a selector, row by row."""
        script = "t => [...t.rows].map(r => [...r.cells].map(c => c.innerText.trim()))"
        return self.page.locator(selector).first.evaluate(script)


@dataclass
class Browser:
    """A browser that answers for nobody but this machine."""

    driver: Any

    @contextmanager
    def open(self, url: str, *, width: int = 1600, height: int = 1100, dark: bool = False) -> Iterator[View]:
        """Opens a page in a window of its own; what it asks of other hosts gets no answer."""
        context = self.driver.new_context(
            viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light"
        )
        view = View(context.new_page())
        view.page.set_default_timeout(PATIENCE)

        def answer(route: Any) -> None:
            view.asked.append(route.request.url)
            route.abort() if view.strangers & {urllib.parse.urlsplit(route.request.url).hostname} else route.continue_()

        context.route("**/*", answer)
        view.page.on("pageerror", lambda error: view.errors.append(str(error)))
        try:
            view.page.goto(url, timeout=PATIENCE)
            yield view
        finally:
            context.close()


@contextmanager
def browser() -> Iterator[Browser]:
    """Starts it with a profile of its own, which is gone afterwards."""
    path = chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        driver = playwright.chromium.launch(executable_path=path, args=list(_FLAGS), timeout=PATIENCE)
        try:
            yield Browser(driver)
        finally:
            driver.close()


@contextmanager
def pages_of(storage: Path, log: Path) -> Iterator[str]:
    """``vltune ui`` on a free port; gives the address."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    command = [sys.executable, "-m", "vltune.cli", "ui", "--storage", str(storage), "--port", str(port)]
    with log.open("a") as said:
        server = subprocess.Popen(command, stdout=said, stderr=said, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while not _answers(address):
            assert server.poll() is None, f"`vltune ui` ended: {log.read_text()}"
            assert time.monotonic() < deadline, f"`vltune ui` does not answer: {log.read_text()}"
            time.sleep(0.2)
        yield address
    finally:
        os.killpg(server.pid, 15)
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, 9)
            server.wait()


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=5) as response:
            return response.status == 200
    except (urllib.error.URLError, OSError):
        return False
