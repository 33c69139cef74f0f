"""A real headless Chromium for tests of pages. Tests that need it are skipped, with the reason, if none is found."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def find_chromium() -> str:
    """Return the path of a browser; skip the calling test if there is none."""
    for name in NAMES:
        if found := shutil.which(name):
            return found
    pytest.skip(f"skipped: no browser found (looked for {', '.join(NAMES)} on PATH); apt-get install chromium")


@dataclass
class Opened:
    """An open page, the errors in its console, and the addresses that it requested besides its own."""

    page: Page
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@contextmanager
def open_page(path: Path, width: int = 1440, height: int = 900, dark: bool = False) -> Iterator[Opened]:
    """Open a local file in Chromium.

    Args:
        path: the page.
        width, height: size of the window in pixels.
        dark: whether the page is told to prefer dark colours.

    Yields:
        The page; its errors and requests are collected until the context ends.
    """
    executable = find_chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=list(FLAGS))
        page = browser.new_page(viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light")
        opened = Opened(page)
        address = path.resolve().as_uri()
        page.on("console", lambda message: opened.errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: opened.errors.append(str(error)))
        page.on(
            "request",
            lambda request: (
                None
                if request.url.split("#")[0] == address or request.url.startswith("data:")
                else opened.requests.append(request.url)
            ),
        )
        page.goto(address)
        yield opened
        browser.close()
