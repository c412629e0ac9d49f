"""A job's life by clicking only: submitted from the form, watched, paused, resumed; what is hostile stays text."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.console.browser import Door
from tests.e2e.platform import Platform, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SOON, LATE = 20_000, 180_000
HOSTILE = "<img src=x onerror=\"document.title='run'\"><script>document.title='run'</script> {{ 7*7 }} ${7*7}"


def fill_recipe(page: Page, model: Path, steps: int, dataset: str = "sums") -> None:
    """Fill in what a preset leaves open."""
    page.locator("#field-model-path").fill(str(model))
    name = page.get_by_role("combobox", name="dataset.name")
    name.fill(dataset)
    name.press("Tab")
    for field, value in (("steps", steps), ("batch_size", 8), ("learning_rate", 0.001), ("max_length", 64)):
        page.locator(f"#field-training-{field}").fill(str(value))


def test_a_job_is_submitted_watched_paused_and_resumed_by_clicking(door: Door, platform: Platform, model: Path) -> None:
    person = door.person()
    page = person.page
    person.open("/")
    page.get_by_role("link", name="New job").first.click()
    fill_recipe(page, model, 100_000)
    expect(page.get_by_label("Recipe (YAML)")).to_have_value(re.compile("steps: 100000"))
    page.get_by_role("button", name="Check the plan").click()
    expect(page.get_by_text("It fits: 1 × CPU.")).to_be_visible(timeout=SOON)
    page.get_by_role("button", name="Submit").click()
    expect(page.get_by_role("heading", name="my-job")).to_be_visible(timeout=SOON)
    job = page.url.rsplit("/", 1)[1].split("?")[0]

    # The curve appears and moves without anybody touching the page.
    loss = page.get_by_role("img", name=re.compile(r"^Loss\."))
    expect(loss).to_be_visible(timeout=LATE)

    def points() -> int:
        return int(re.search(r"train/loss: (\d+) points", loss.get_attribute("aria-label") or "")[1])  # type: ignore[index]

    first = points()
    eventually(lambda: points() > first)
    page.get_by_role("button", name="Pause").click()
    expect(page.locator("[data-state=paused]")).to_be_visible(timeout=LATE)
    assert platform.json("job", "get", job)["state"] == "paused"
    page.get_by_role("button", name="Resume").click()
    expect(page.locator("[data-state=running]")).to_be_visible(timeout=LATE)
    eventually(lambda: "#2" in (loss.get_attribute("aria-label") or ""), seconds=180)

    page.get_by_role("tab", name="Logs").click()
    expect(page.get_by_role("log")).to_contain_text("step", timeout=SOON)
    page.get_by_role("tab", name="Events").click()
    expect(page.get_by_text("job pause requested").first).to_be_visible(timeout=SOON)
    page.reload()
    expect(page.get_by_role("tab", name="Events")).to_have_attribute("aria-selected", "true")
    expect(page.get_by_text("first-admin").first).to_be_visible(timeout=SOON)
    page.get_by_role("tab", name="Checkpoints").click()
    expect(page.get_by_role("table")).to_be_visible(timeout=SOON)

    # From the list, with others, and after being asked.
    page.get_by_role("link", name="Jobs", exact=True).click()
    row = page.get_by_role("row", name=re.compile("my-job")).first
    row.get_by_role("checkbox").click()
    page.get_by_role("button", name="Cancel jobs").click()
    page.get_by_role("alertdialog").get_by_role("button", name="Cancel jobs").click()
    expect(row.locator("[data-state=cancelled]")).to_be_visible(timeout=LATE)
    assert person.faults == []


def test_a_refusal_is_told_with_what_to_do_and_nothing_is_lost(door: Door, model: Path) -> None:
    person = door.person()
    page = person.page
    person.open("/jobs/new")
    fill_recipe(page, model / "missing", 10)
    page.get_by_role("button", name="Submit").click()
    alert = page.get_by_role("alert").first
    expect(alert).to_be_visible(timeout=SOON)
    expect(alert.locator("code")).to_have_text(re.compile("[a-z_]+"))
    expect(page.locator("#field-training-steps")).to_have_value("10")
    # Broken YAML is named, and cannot be sent.
    page.get_by_label("Recipe (YAML)").fill("name: [")
    expect(page.get_by_text("This is no recipe yet")).to_be_visible()
    expect(page.get_by_role("button", name="Submit")).to_be_disabled()


def test_what_is_hostile_is_shown_and_never_run(door: Door, platform: Platform, tmp_path: Path) -> None:
    rows = tmp_path / "hostile.jsonl"
    rows.write_text("\n".join(f'{{"prompt": "{n} <b>x</b>", "response": "ok"}}' for n in range(40)))
    platform.ltp("dataset", "add", str(rows))
    person = door.person()
    page = person.page
    # In the address, in filters, in what the gateway says back, and in a form.
    for path in (f"/jobs?q={HOSTILE}", f"/jobs?state={HOSTILE}&project={HOSTILE}", f"/{HOSTILE}"):
        person.open(path)
        person.settle()
        assert page.title() != "run"
    person.open("/jobs/new")
    page.locator("#field-model-path").fill(HOSTILE)
    page.get_by_role("button", name="Check the plan").click()
    expect(page.get_by_role("alert").first).to_be_visible(timeout=SOON)
    # What others send: names, logs, errors, from an API that would not be ours.
    page.route("**/api/v1/jobs?*", lambda route: route.fulfill(json={"jobs": [hostile_job()], "next_cursor": None}))
    person.open("/jobs")
    expect(page.get_by_text(HOSTILE).first).to_be_visible(timeout=SOON)
    assert page.title() == "Jobs · ltp"
    assert page.locator("img[src=x]").count() == 0
    assert person.faults == []


def hostile_job() -> dict[str, object]:
    job_id = "01a20875-5e8d-7a88-973c-e37110dae6c6"
    recipe = {"algorithm": HOSTILE, "model": {"path": HOSTILE}, "training": {"steps": 1}}
    at = "2026-11-23T12:00:00Z"
    problem = {"code": HOSTILE, "message": HOSTILE, "hint": HOSTILE, "evidence": [HOSTILE]}
    return {"job_id": job_id, "name": HOSTILE, "state": "failed", "recipe": recipe, "problem": problem, "attempt": 1,
            "options": {"project": HOSTILE}, "requested": None, "submitted_at": at, "started_at": at, "ended_at": at}  # fmt: skip


def test_a_killed_gateway_is_told_of_and_the_page_recovers_alone(door: Door, platform: Platform) -> None:
    person = door.person()
    page = person.page
    person.open("/jobs")
    person.settle()
    page.wait_for_timeout(1000)  # the stream of events is open only a moment after the list is there
    before = platform.pid_of("gateway")
    os.kill(before, signal.SIGKILL)
    banner = page.get_by_text("Disconnected: what you see is as of")
    expect(banner).to_be_visible(timeout=SOON)
    expect(banner).to_be_hidden(timeout=LATE)
    assert platform.pid_of("gateway") != before
    # It is not only that the banner went: what happens now is heard again.
    platform.ltp("host", "list")
    expect(page.get_by_role("heading", name="Jobs")).to_be_visible()
    assert person.faults == []
