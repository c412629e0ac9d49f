"""The console in Debian's Chromium, over the platform that all end-to-end tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.platform import RECIPE, Platform

pytest.importorskip("playwright", reason="the console's tests drive a browser with playwright (extra `dev`)")

from playwright.sync_api import Browser, sync_playwright

from tests.e2e.console.browser import BUILT, CHROMIUM, Door
from tests.e2e.platform import eventually


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """A headless Chromium, gone before other tests begin: playwright keeps an event loop running, beside which no other can."""
    if not CHROMIUM.exists():
        pytest.skip(f"no {CHROMIUM}: apt-get install chromium")
    if not BUILT.exists():
        pytest.skip("the console is not built: `make console` (needs Node.js 20)")
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="package")
def door(browser: Browser, platform: Platform) -> Door:
    """Windows on the platform's console."""
    url = eventually(lambda: platform.json("status")["urls"]["gateway"])
    return Door(browser, str(url), (platform.data / "secrets" / "token").read_text().strip())


@pytest.fixture(scope="package")
def job(platform: Platform, model: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A job that is over, with metrics, two exported checkpoints and a comparison."""
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(RECIPE.format(model=model, steps=4, save_every=2))
    job_id = str(platform.json("job", "submit", str(path))["job_id"])
    eventually(lambda: platform.json("job", "get", job_id)["state"] == "succeeded", seconds=300)
    return job_id


@pytest.fixture(autouse=True)
def windows_are_closed(browser: Browser) -> Iterator[None]:
    """A test's windows end with it: each follows the news of the platform, and many of them slow the ones that are looked at."""
    yield
    for context in browser.contexts:
        context.close()
