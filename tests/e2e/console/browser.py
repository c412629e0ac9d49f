"""A person at the console: a real Chromium, logged in or not, that notes every error the page makes."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, Page, expect

CONSOLE = Path(__file__).parents[3] / "services/gateway/console"
BUILT = CONSOLE / "dist" / "index.html"
AXE = CONSOLE / "node_modules/axe-core/axe.min.js"
CHROMIUM = Path("/usr/bin/chromium")
# Where the pictures of every screen go, for people to look at.
PICTURES = Path(os.environ.get("LTP_SCREENSHOTS", CONSOLE.parents[2] / ".ltp" / "screenshots"))
# The machine may have other things to do.
expect.set_options(timeout=20_000)
TOKEN_FIELD, ENTER = "#token", "button[type=submit]"

# What a browser says when a server is down, or refuses: the tests cause that themselves.
_EXPECTED = ("net::ERR_", "the server responded with a status of")


@dataclass
class Person:
    """One browser window of one person."""

    page: Page
    url: str
    token: str
    faults: list[str] = field(default_factory=list[str])

    def __post_init__(self) -> None:
        """Note what goes wrong from now on."""

        def note(message: ConsoleMessage) -> None:
            if message.type == "error" and not any(word in message.text for word in _EXPECTED):
                self.faults.append(message.text)

        self.page.on("console", note)
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))

    def tab(self) -> Person:
        """Another tab of the same browser."""
        return Person(self.page.context.new_page(), self.url, self.token)

    def open(self, path: str) -> None:
        """Go to an address of the console and wait for its heading."""
        self.page.goto(self.url + path)
        expect(self.page.locator("h1").first).to_be_visible()

    def settle(self) -> None:
        """Wait until nothing is being read; streams stay open, so the network is never idle."""
        expect(self.page.locator(".reading")).to_have_count(0, timeout=20_000)

    def axe(self) -> list[str]:
        """Violations of WCAG that axe-core calls serious or critical, each with the elements that cause it."""
        if not self.page.evaluate("() => 'axe' in window"):
            self.page.evaluate(AXE.read_text())
        found: dict[str, Any] = self.page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")
        return [
            f"{v['id']} ({v['impact']}): {node['html'][:200]}"
            for v in found["violations"]
            if v["impact"] in {"serious", "critical"}
            for node in v["nodes"][:3]
        ]

    def overflow(self) -> int:
        """By how many pixels the page is wider than its window."""
        root = "document.documentElement"
        return int(self.page.evaluate(f"{root}.scrollWidth - {root}.clientWidth"))

    def picture(self, name: str) -> None:
        """Keep a picture of the page as it is."""
        PICTURES.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=PICTURES / f"{name}.png")


@dataclass
class Door:
    """Makes windows: in a language, a theme, a size, with a token or without."""

    browser: Browser
    url: str
    token: str

    def person(
        self, *, logged_in: bool = True, locale: str = "en", theme: str = "light", size: tuple[int, int] = (1280, 800)
    ) -> Person:
        """A new window whose errors are noted."""
        context = self.browser.new_context(viewport={"width": size[0], "height": size[1]})
        kept = {"ltp.locale": locale, "ltp.theme": theme} | ({"ltp.token": self.token} if logged_in else {})
        context.add_init_script(f"for (const [k, v] of Object.entries({json.dumps(kept)})) localStorage.setItem(k, v)")
        return Person(context.new_page(), self.url, self.token)
