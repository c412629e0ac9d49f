"""Many tabs of one browser, and answers that fail at first: every screen becomes usable, and hears the news."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, expect

from tests.e2e.console.browser import Door, Person
from tests.e2e.platform import RECIPE, Platform, eventually, write_rows

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

# Browsers open six connections to one host: more tabs than that are needed.
SCREENS = ("/datasets", "/", "/jobs", "/queues", "/settings", "/evaluations", "/surgery", "/datasets")

# What a page is told when its tab comes to the front, or leaves it.
_SEEN = """(seen) => {
  Object.defineProperty(document, "hidden", { get: () => !seen, configurable: true });
  document.dispatchEvent(new Event("visibilitychange"));
}"""


@pytest.fixture
def running(platform: Platform, model: Path, tmp_path: Path) -> Iterator[str]:
    """A job that writes to its log until the test is over."""
    path = tmp_path / "long.yaml"
    path.write_text(RECIPE.format(model=model, steps=100_000, save_every=100_000).replace("tiny", "long"))
    job_id = str(platform.json("job", "submit", str(path))["job_id"])
    eventually(lambda: platform.json("job", "get", job_id)["state"] == "running")
    yield job_id
    platform.ltp("job", "cancel", job_id)


def tabs_on(door: Door, paths: tuple[str, ...]) -> list[Person]:
    """One browser with a tab for each address, opened one after the other."""
    first = door.person()
    people = [first, *(first.tab() for _ in paths[1:])]
    for person, path in zip(people, paths, strict=True):
        person.open(path)
        person.settle()
    return people


def test_eight_tabs_are_usable_and_hear_the_news(door: Door, platform: Platform, tmp_path: Path) -> None:
    tabs = tabs_on(door, SCREENS)
    name = f"news-{uuid.uuid4().hex[:6]}"
    write_rows(tmp_path / f"{name}.jsonl", 40)
    platform.ltp("dataset", "add", str(tmp_path / f"{name}.jsonl"))
    # Nobody touches them: the first tab and the last hear of it.
    for tab in (tabs[0], tabs[-1]):
        expect(tab.page.get_by_role("link", name=name)).to_be_visible()
    # And each can still ask for something.
    for tab in tabs:
        tab.page.get_by_role("link", name="Pipelines").click()
        expect(tab.page.get_by_role("heading", name="Pipelines", exact=True)).to_be_visible()
        tab.settle()
    assert [fault for tab in tabs for fault in tab.faults] == []


def test_eight_tabs_follow_a_log_and_still_answer(door: Door, running: str) -> None:
    def length(page: Page) -> int:
        return len(page.get_by_role("log").inner_text())

    tabs = tabs_on(door, (f"/jobs/{running}?tab=logs",) * 8)
    for tab in tabs:
        expect(tab.page.get_by_role("log")).to_contain_text("step", timeout=120_000)
    before = [length(tab.page) for tab in tabs]
    eventually(lambda: all(length(tab.page) > then for tab, then in zip(tabs, before, strict=True)))
    tabs[-1].page.get_by_role("tab", name="Checkpoints").click()
    tabs[-1].settle()
    tabs[-1].open("/settings")
    expect(tabs[-1].page.get_by_role("tab", name="Tokens")).to_be_visible()
    assert [fault for tab in tabs for fault in tab.faults] == []


def test_a_tab_without_the_worker_hears_what_it_missed_while_nobody_saw_it(
    door: Door, platform: Platform, tmp_path: Path
) -> None:
    person = door.person()
    page = person.page
    page.add_init_script("delete window.SharedWorker")
    with page.expect_request("**/api/v1/events/stream") as first:
        person.open("/datasets")
    with page.expect_event("requestfailed", lambda request: request == first.value):
        page.evaluate(_SEEN, False)
    name = f"unseen-{uuid.uuid4().hex[:6]}"
    write_rows(tmp_path / f"{name}.jsonl", 40)
    platform.ltp("dataset", "add", str(tmp_path / f"{name}.jsonl"))
    expect(page.get_by_role("link", name=name)).to_have_count(0)
    page.evaluate(_SEEN, True)
    expect(page.get_by_role("link", name=name)).to_be_visible()
    assert person.faults == []


def failing(times: int) -> tuple[list[str], object]:
    """What answers the first requests with a broken connection, and the addresses it broke."""
    broken: list[str] = []

    def answer(route: Route) -> None:
        if len(broken) < times:
            broken.append(route.request.url)
            route.abort()
        else:
            route.continue_()

    return broken, answer


@pytest.mark.parametrize("what", ["**/api/v1/whoami", re.compile(r"/assets/SettingsScreen-.*\.js")])
def test_a_screen_comes_though_the_first_answers_broke(door: Door, what: str | re.Pattern[str]) -> None:
    person = door.person()
    broken, answer = failing(2)
    person.page.route(what, answer)  # pyright: ignore[reportArgumentType]
    person.open("/settings")
    expect(person.page.get_by_role("tab", name="Tokens")).to_be_visible()
    assert len(broken) == 2


def test_a_screen_that_cannot_be_loaded_says_so(door: Door) -> None:
    person = door.person()
    scripts = re.compile(r"/assets/SettingsScreen-.*\.js")
    person.page.route(scripts, lambda route: route.abort())
    person.page.goto(f"{door.url}/settings")
    expect(person.page.get_by_role("alert")).to_contain_text("could not be loaded")
    person.page.unroute(scripts)
    person.page.get_by_role("button", name="Try again").click()
    expect(person.page.get_by_role("tab", name="Tokens")).to_be_visible()
