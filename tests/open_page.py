"""The leaderboard page, open in a browser."""

from pathlib import Path
from typing import Any

# Long, because the machine may be busy.
TIMEOUT_MS = 120_000


class OpenPage:
    """An open page, with its problems and requests."""

    def __init__(self, browser: Any, file: Path, anchor: str = "", **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.context.set_default_timeout(TIMEOUT_MS)
        self.page = self.context.new_page()
        self.problems: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.problems.append(message.text))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("dialog", lambda dialog: self.problems.append("a dialog opened"))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(f"{file.as_uri()}{anchor}")

    def wait_for_address(self, ending: str) -> None:
        """Wait until the address ends so: it may change after the click that asks for it."""
        self.page.wait_for_url(lambda url: url.endswith(ending))

    def resize(self, width: int, height: int) -> None:
        """Set the size of the window and wait until the page has been drawn in it."""
        self.page.set_viewport_size({"width": width, "height": height})
        # What observes sizes runs before the end of a frame.
        self.page.evaluate(
            "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
        )

    def methods(self) -> list[str]:
        return self.page.locator(".headline tbody:not(.reported) .name").all_inner_texts()

    def shown_points(self) -> int:
        return self.page.locator('.point[visibility="visible"]').count()

    def width(self) -> int:
        width: int = self.page.evaluate("document.documentElement.scrollWidth")
        return width
