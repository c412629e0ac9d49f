"""The address holds what a screen shows: after going elsewhere and back, after a refresh, and for somebody who is sent the link."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.e2e.console.browser import Door
from tests.e2e.platform import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

Step = Callable[[Page], None]


@dataclass(frozen=True)
class Known:
    """What addresses need: ids of one thing of each kind."""

    job: str
    before: str
    after: str
    run: str
    operation: str


@pytest.fixture(scope="module")
def known(door: Door, job: str) -> Known:
    with httpx.Client(base_url=f"{door.url}/api/v1", headers={"Authorization": f"Bearer {door.token}"}) as client:

        def scored() -> list[str]:
            all_of = client.get("/evaluations", params={"job_id": job}).json()["evaluations"]
            return [one["evaluation_id"] for one in all_of if one["state"] == "completed"]

        after, before = eventually(lambda: found if len(found := scored()) > 1 else None)
        stage = {"kind": "dataset", "settings": {"name": "sums"}}
        run = client.post("/pipeline-runs", json={"name": "addresses", "stages": {"data": stage}})
        checkpoints = client.get(f"/jobs/{job}/checkpoints").raise_for_status().json()
        paths = [one["exported"]["path"] for one in checkpoints]
        spec = {"kind": "average", "name": f"mean-{uuid.uuid4().hex[:6]}", "recipe": {"models": paths}, "proof": False}
        made = client.post("/operations", json=spec)
        return Known(job, before, after, _id(run, "run_id"), _id(made, "operation_id"))


def _id(answer: httpx.Response, key: str) -> str:
    body: dict[str, Any] = answer.json()
    assert answer.is_success, body
    return str(body[key])


def types(label: str, text: str) -> tuple[Step, Step]:
    """Write into a field; it still says so."""

    def act(page: Page) -> None:
        page.get_by_label(label, exact=True).first.fill(text)
        page.keyboard.press("Tab")

    return (
        act,
        lambda page: expect(page.get_by_label(label, exact=True).first).to_have_value(text),
    )


def opens(tab: str) -> tuple[Step, Step]:
    """Open a tab; it is still the open one."""
    return (
        lambda page: page.get_by_role("tab", name=tab, exact=True).click(),
        lambda page: expect(page.get_by_role("tab", name=tab, exact=True)).to_have_attribute("aria-selected", "true"),
    )


def presses(button: str | re.Pattern[str]) -> tuple[Step, Step]:
    """Press one of several buttons; it is still the pressed one."""
    return (
        lambda page: page.get_by_role("button", name=button).first.click(),
        lambda page: expect(page.get_by_role("button", name=button).first).to_have_attribute("aria-pressed", "true"),
    )


def chooses(label: str, option: str) -> tuple[Step, Step]:
    """Choose from a list; it is still chosen."""

    def act(page: Page) -> None:
        page.get_by_role("combobox", name=label, exact=True).click()
        page.get_by_role("option", name=option, exact=True).click()

    return act, lambda page: expect(page.get_by_role("combobox", name=label, exact=True)).to_contain_text(option)


def switches(label: str) -> tuple[Step, Step]:
    """Turn a switch on; it is still on."""
    return (
        lambda page: page.get_by_role("switch", name=label).check(),
        lambda page: expect(page.get_by_role("switch", name=label)).to_be_checked(),
    )


def sorts(column: str) -> tuple[Step, Step]:
    """Sort by a column, the largest first; it still is."""

    def act(page: Page) -> None:
        page.get_by_role("columnheader", name=column).get_by_role("button").click()
        page.get_by_role("columnheader", name=column).get_by_role("button").click()

    return (
        act,
        lambda page: expect(page.get_by_role("columnheader", name=column)).to_have_attribute("aria-sort", "descending"),
    )


NEXT_ROW: tuple[Step, Step] = (
    lambda page: page.get_by_role("button", name="Next row").click(),
    lambda page: expect(page.get_by_text("Row 2 of")).to_be_visible(timeout=20_000),
)
NAME: tuple[Step, Step] = (
    lambda page: page.locator("#field-name").fill("half-written"),
    lambda page: expect(page.locator("#field-name")).to_have_value("half-written"),
)
STAGE: tuple[Step, Step] = (
    lambda page: page.get_by_role("group").get_by_role("button", name="data").first.click(),
    lambda page: expect(page.get_by_role("heading", name="data")).to_be_visible(timeout=20_000),
)
# Screen, what is changed on it, and how the address says so ("": it is kept in the tab, a text that no address holds).
SCREENS: dict[str, tuple[str, tuple[Step, Step], str]] = {
    "jobs": ("/jobs", types("Search name, model or id", "ti"), "q=ti"),
    "jobs sorted": ("/jobs", sorts("Name"), "sort=-name"),
    "datasets sorted": ("/datasets", sorts("Rows"), "sort=-rows"),
    "checkpoints sorted": ("/jobs/{job}?tab=checkpoints", sorts("Step"), "sort=-step"),
    "operations sorted": ("/surgery", sorts("Name"), "sort=-name"),
    "runs sorted": ("/pipelines", sorts("State"), "sort=-state"),
    "schedules sorted": ("/pipelines?tab=schedules", sorts("Next"), "sort=-next_at"),
    "queues sorted": ("/queues", sorts("Waiting"), "sort=-waiting"),
    "tokens sorted": ("/settings?tab=tokens", sorts("Name"), "sort=-name"),
    "job": ("/jobs/{job}", opens("Checkpoints"), "tab=checkpoints"),
    "curves": ("/jobs/{job}", switches("Logarithmic"), "log=1"),
    "log": ("/jobs/{job}?tab=logs", types("Only lines with …", "step"), "find=step"),
    "samples": ("/jobs/{job}?tab=samples", presses("Unchanged"), "change=unchanged"),
    "newjob": ("/jobs/new", NAME, ""),
    "planner": ("/planner", types("Hardware instead of this platform's hosts", "h100:4"), "hardware=h100:4"),
    "datasets": ("/datasets", types("Search name or version", "sums"), "q=sums"),
    "dataset": ("/datasets/sums", opens("Leaks"), "tab=leaks"),
    "rows": ("/datasets/sums?tab=rows", chooses("Split", "test"), "split=test"),
    "duplicates": ("/datasets/sums?tab=duplicates", chooses("Method", "Exact"), "method=exact"),
    "sample": ("/datasets/sums/sample", NEXT_ROW, "at=1"),
    "evaluations": ("/evaluations", types("Search models", "ti"), "q=ti"),
    "evaluation": ("/evaluations/{after}", types("Search answers", "1"), "contains=1"),
    "compare": ("/compare?before={before}&after={after}", presses(re.compile("^Unchanged")), "change=unchanged"),
    "newsurgery": ("/surgery/new", presses("Export"), "kind=export"),
    "window": ("/surgery/new?kind=average&job={job}", types("Name of the result", "mean"), "name=mean"),
    "lineage": ("/lineage?kind=job&id={job}", presses("Everything"), "depth=9"),
    "pipelines": ("/pipelines", opens("Schedules"), "tab=schedules"),
    "pipelinerun": ("/pipelines/{run}", STAGE, "stage=data"),
    "newpipeline": ("/pipelines/new", types("Pipeline (YAML)", "name: half-written"), ""),
    "queues": ("/queues", opens("Workers"), "tab=workers"),
    "settings": ("/settings", opens("Tokens"), "tab=tokens"),
}


@pytest.mark.parametrize("screen", SCREENS)
def test_a_screen_is_as_it_was_after_going_back_after_a_refresh_and_by_its_link(
    door: Door, known: Known, screen: str
) -> None:
    path, (act, holds), said = SCREENS[screen]
    person = door.person()
    page = person.page
    person.open(path.format(**vars(known)))
    person.settle()
    act(page)
    holds(page)
    if said:
        expect(page).to_have_url(re.compile(re.escape(said)))
    address = page.url
    page.get_by_role("navigation").get_by_role("link", name="Home").click()
    expect(page.get_by_role("heading", name="Home", exact=True)).to_be_visible()
    page.go_back()
    expect(page).to_have_url(address)
    holds(page)
    page.reload()
    holds(page)
    expect(page).to_have_url(address)
    if said:
        other = door.person()
        other.page.goto(address)
        holds(other.page)
        assert other.faults == []
    assert person.faults == []


@pytest.mark.parametrize("path", ["/", "/surgery", "/surgery/{operation}"])
def test_a_screen_without_filters_is_there_by_its_link_and_after_a_refresh(door: Door, known: Known, path: str) -> None:
    person = door.person()
    person.open(path.format(**vars(known)))
    heading = person.page.locator("h1").first.inner_text()
    person.page.reload()
    expect(person.page.locator("h1").first).to_have_text(heading)
    assert person.faults == []


def test_a_list_longer_than_a_page_is_sorted_as_a_whole(door: Door, job: str) -> None:
    """Not only what was read of it: the gateway is asked in the order of the address."""
    person = door.person()
    with person.page.expect_request(re.compile(r"/api/v1/jobs\?.*sort=-name")) as asked:
        person.open("/jobs?sort=-name")
    assert "cursor" not in asked.value.url
    expect(person.page.get_by_role("columnheader", name="Name")).to_have_attribute("aria-sort", "descending")
    expect(person.page.get_by_role("link", name="tiny").first).to_be_visible()
    # A heading that is clicked asks anew, and a wrong word in the address asks for nothing.
    with person.page.expect_request(re.compile(r"/api/v1/jobs\?.*sort=submitted_at")):
        person.page.get_by_role("columnheader", name="Submitted").get_by_role("button").click()
    with person.page.expect_request(re.compile(r"/api/v1/jobs\?")) as plain:
        person.open("/jobs?sort=nothing")
    assert "sort=" not in plain.value.url
    assert person.faults == []
