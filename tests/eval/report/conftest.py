"""A headless browser for tests of the page."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from open_page import TIMEOUT_MS


@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next((path for name in names if (path := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"none of {', '.join(names)} is installed")
    api = pytest.importorskip("playwright.sync_api")
    api.expect.set_options(timeout=TIMEOUT_MS)
    with api.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield opened
        opened.close()
