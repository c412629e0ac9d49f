"""Every screen in both languages and themes: no violation of accessibility, nothing too wide, nothing untranslated, a picture kept."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from tests.e2e.console.browser import CONSOLE, Door, Person

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

JOB_TABS = ("curves", "memory", "logs", "events", "samples", "checkpoints", "recipe")
# A key that no string stands behind shows itself: `jobs.title`.
RAW_KEY = re.compile(
    r"\b(frame|home|jobs?|newjob|queues|pipelines|settings|login|planner|datasets|sample|evaluations|compare|surgery|lineage)\.[a-z]+[A-Za-z.]*\b"
)
VARIANTS = [(locale, theme) for locale in ("en", "zh") for theme in ("light", "dark")]


def addresses(person: Person, job: str) -> Iterator[str]:
    """All that the navigation shows, and what is reached from there."""
    person.open("/")
    for link in person.page.locator("nav a").all():
        yield str(link.get_attribute("href"))
    yield from (f"/jobs/{job}?tab={tab}" for tab in JOB_TABS)
    yield from (f"/settings?tab={tab}" for tab in ("secrets", "tokens", "webhooks"))
    yield from (f"/queues?tab={tab}" for tab in ("workers", "work", "letters"))
    yield from ("/pipelines/new", "/pipelines?tab=armed", "/pipelines?tab=schedules", "/no/such/screen", "/login")


def name_of(path: str) -> str:
    return re.sub(r"[^a-z]+", "-", re.sub(r"[0-9a-f-]{36}", "one", path)).strip("-") or "home"


@pytest.mark.parametrize(("locale", "theme"), VARIANTS)
def test_every_screen_is_accessible_fits_and_speaks_one_language(door: Door, job: str, locale: str, theme: str) -> None:
    person = door.person(locale=locale, theme=theme)
    phone = door.person(locale=locale, theme=theme, size=(360, 740))
    faults: list[str] = []
    for path in list(addresses(person, job)):
        for one, kind in ((person, "desk"), (phone, "phone")):
            one.open(path)
            one.settle()
            one.page.wait_for_timeout(400)  # charts are drawn in the frame after their data came
            one.picture(f"{name_of(path)}-{locale}-{theme}-{kind}")
            if one.overflow() > 0:
                faults.append(f"{path} {kind}: {one.overflow()} pixels too wide")
        faults += [f"{path}: {violation}" for violation in person.axe()]
        text = person.page.locator("main").inner_text()
        # Workers are called by what they do: `surgery.export`.
        if "workers" not in path:
            faults += [f"{path}: raw key {found[0]}" for found in RAW_KEY.finditer(_without_code(text))]
        if locale == "zh" and not re.search("[\u4e00-\u9fff]", text):
            faults.append(f"{path}: not a word of Chinese")
    faults += person.faults + phone.faults
    assert not faults, "\n".join(faults)


def _without_code(text: str) -> str:
    """Recipe keys and event names look like keys of strings, and are shown on purpose."""
    return "\n".join(line for line in text.splitlines() if not re.search(r"ltp\.|training\.|\.(py|md|yaml|json)", line))


def test_every_screen_folder_has_its_strings(door: Door) -> None:
    for folder in (CONSOLE / "src" / "screens").iterdir():
        assert {"route.ts", "en.json", "zh.json"} <= {file.name for file in folder.iterdir()}, folder.name


def test_the_keyboard_reaches_everything(door: Door) -> None:
    person = door.person()
    person.open("/jobs")
    person.settle()
    page = person.page
    page.locator("body").press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="New job")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="New job")).to_be_focused()
