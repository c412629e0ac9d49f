"""Every screen in both languages and themes: no violation of accessibility, nothing too wide, nothing untranslated, a picture kept."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import expect

from tests.e2e.console.browser import CONSOLE, Door, Person
from tests.e2e.platform import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

JOB_TABS = ("curves", "memory", "logs", "events", "samples", "checkpoints", "recipe")
# A key that no string stands behind shows itself: `jobs.title`.
RAW_KEY = re.compile(
    r"\b(frame|home|jobs?|newjob|queues|pipelines|settings|login|planner|datasets|sample|evaluations|compare|surgery|lineage)\.[a-z]+[A-Za-z.]*\b"
)
VARIANTS = [(locale, theme) for locale in ("en", "zh") for theme in ("light", "dark")]


@pytest.fixture(scope="module")
def made(door: Door, job: str) -> dict[str, str]:
    """Ids of what screens of one thing show: an evaluation of before and after, a run, an operation."""
    with httpx.Client(base_url=f"{door.url}/api/v1", headers={"Authorization": f"Bearer {door.token}"}) as client:

        def scored() -> list[str]:
            all_of = client.get("/evaluations", params={"job_id": job}).json()["evaluations"]
            return [one["evaluation_id"] for one in all_of if one["state"] == "completed"]

        after, before = eventually(lambda: found if len(found := scored()) > 1 else None)
        stage = {"kind": "dataset", "settings": {"name": "sums"}}
        run = client.post("/pipeline-runs", json={"name": "looked-at", "stages": {"data": stage}}).json()["run_id"]
        checkpoints = client.get(f"/jobs/{job}/checkpoints").json()
        recipe = {"models": [one["exported"]["path"] for one in checkpoints]}
        spec = {"kind": "average", "name": f"mean-{uuid.uuid4().hex[:6]}", "recipe": recipe, "proof": False}
        operation = client.post("/operations", json=spec).json()["operation_id"]
        return {"job": job, "after": after, "before": before, "run": run, "operation": operation}


OF_THINGS = (
    *(f"/datasets/sums?tab={tab}" for tab in ("profile", "rows", "duplicates", "leaks", "origin")),
    *(f"/surgery/new?kind={kind}&job={{job}}" for kind in ("merge", "average", "select", "export", "lora", "diff")),
    "/datasets/sums/sample", "/planner?job={job}&planned=1", "/jobs/new?from={job}", "/evaluations/{after}",
    "/compare?before={before}&after={after}", "/pipelines/{run}?stage=data", "/surgery/{operation}",
    "/lineage?kind=job&id={job}",
)  # fmt: skip


def addresses(person: Person, job: str) -> Iterator[str]:
    """All that the navigation shows, and what is reached from there."""
    person.open("/")
    for link in person.page.locator("nav a").all():
        yield str(link.get_attribute("href"))
    yield from (f"/jobs/{job}?tab={tab}" for tab in JOB_TABS)
    yield from (f"/settings?tab={tab}" for tab in ("secrets", "tokens", "webhooks"))
    yield from (f"/queues?tab={tab}" for tab in ("workers", "work", "letters"))
    yield from ("/pipelines/new", "/pipelines?tab=armed", "/pipelines?tab=schedules", "/no/such/screen", "/login")


# What people and the platform named, which no language changes.
OWN = re.compile(r"\b(tiny|sums|train|test|data|numeric)\b")
# What is English in every language: names, units, and what is written into files and requests.
_SAME = re.compile(
    r"\b(pid|URL|YAML|JSON|API|CPU|GPU|RL|SFT|DPO|PPO|GRPO|GSPO|LoRA|Hugging Face|KL|SHA-256|SSH|Ray|Cron|[KMGT]iB|verl)\b"
)
# Headings, labels and buttons, and whole sentences; not code, not what people named, not the platform's own words (lang=en).
_READ_ENGLISH = """() => {
  const shown = (e) => e.checkVisibility() && !e.closest("code, pre, textarea, [lang=en], .uplot, .vue-flow__node");
  const text = (e) => [...e.childNodes].filter((n) => n.nodeType === 3).map((n) => n.data.trim()).filter(Boolean);
  const all = [...document.querySelectorAll("main *")].filter(shown);
  const labels = all.filter((e) => e.closest("th, dt, label, legend, h3, [role=tab], button, .label, .title"));
  const chinese = (t) => /[\u4e00-\u9fff]/.test(t);
  const only = labels.flatMap(text).filter((t) => /[A-Za-z]{3}/.test(t) && !chinese(t));
  const sentences = all.flatMap(text).filter((t) => !chinese(t) && /[a-z]{2,} [a-z]{2,} [a-z]{2,}/.test(t));
  return [...new Set([...only, ...sentences])];
}"""


def english_in(person: Person) -> list[str]:
    """Words that are not Chinese where they should be."""
    found: list[str] = person.page.evaluate(_READ_ENGLISH)
    bare = (OWN.sub("", _SAME.sub("", text)) for text in found)
    return [text for text in bare if re.search("[A-Za-z]{3}", text)]


def name_of(path: str) -> str:
    return re.sub(r"[^a-z]+", "-", re.sub(r"[0-9a-f-]{36}", "one", path)).strip("-") or "home"


@pytest.mark.parametrize(("locale", "theme"), VARIANTS)
def test_every_screen_is_accessible_fits_and_speaks_one_language(
    door: Door, made: dict[str, str], locale: str, theme: str
) -> None:
    person = door.person(locale=locale, theme=theme)
    phone = door.person(locale=locale, theme=theme, size=(360, 740))
    faults: list[str] = []
    for path in [*addresses(person, made["job"]), *(path.format(**made) for path in OF_THINGS)]:
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
        if locale == "zh":
            faults += [f"{path}: English: {text}" for text in english_in(person)]
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
