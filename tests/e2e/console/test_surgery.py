"""Planner, surgery and lineage by clicking, over a job that has trained."""

from __future__ import annotations

import re
import uuid

import pytest
from playwright.sync_api import expect

from tests.e2e.console.browser import Door

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def test_a_recipe_is_planned_and_made_a_job(door: Door, job: str) -> None:
    person = door.person()
    page = person.page
    person.open(f"/planner?job={job}")
    recipe = page.get_by_label("Recipe (YAML)")
    expect(recipe).to_have_value(re.compile("name: sums"), timeout=20_000)
    page.get_by_role("button", name="Plan", exact=True).click()
    expect(page.get_by_text("candidates fit")).to_be_visible(timeout=40_000)
    expect(page.get_by_role("img", name="Parameters").first).to_be_visible()
    expect(page.get_by_text("smaller micro batches keep the device less busy").first).to_be_visible()
    assert person.axe() == []
    recipe.fill("name: [")
    page.get_by_role("button", name="Plan", exact=True).click()
    expect(page.get_by_text("Mend the YAML of the recipe.")).to_be_visible()
    recipe.fill("name: handed-over\nalgorithm: sft\n")
    page.get_by_role("button", name="Make a job of it").click()
    expect(page).to_have_url(f"{door.url}/jobs/new")
    expect(page.get_by_text("handed-over").or_(page.locator("textarea")).first).to_be_visible()
    assert person.faults == []


def test_checkpoints_are_averaged_and_the_result_accepted(door: Door, job: str) -> None:
    person = door.person()
    page = person.page
    name = f"mean-{uuid.uuid4().hex[:6]}"
    person.open(f"/surgery/new?kind=average&method=uniform&job={job}")
    page.get_by_role("button", name="Take these 2").click(timeout=120_000)
    page.get_by_label("Name of the result").fill(name)
    page.get_by_role("button", name="Start").is_disabled()
    page.get_by_role("button", name="Check").click()
    expect(page.get_by_text("What it would take")).to_be_visible(timeout=120_000)
    assert person.axe() == []
    page.get_by_role("button", name="Start").click()
    expect(page.get_by_role("heading", name=name)).to_be_visible(timeout=120_000)
    expect(page.locator("[data-state=succeeded]")).to_be_visible(timeout=120_000)
    page.get_by_role("button", name="Accept").click()
    expect(page.locator("[data-state=accepted]")).to_be_visible(timeout=120_000)
    page.get_by_role("link", name="Show its lineage").click()
    graph = page.get_by_role("group", name="Lineage graph")
    made = graph.get_by_role("button", name=name)
    expect(made.first).to_be_visible(timeout=120_000)
    graph.get_by_role("button", name="tiny · 2").click()
    expect(page).to_have_url(re.compile("kind=model"))
    page.go_back()
    expect(page).to_have_url(re.compile("kind=operation"))
    assert person.axe() == []
    assert person.faults == []
