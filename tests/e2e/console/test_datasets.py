"""Datasets and the loss mask by clicking: a file is uploaded, looked into, freed of duplicates, checked for leaks."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.console.browser import Door

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

HOSTILE = "<img src=x onerror='window.hacked=1'><script>window.hacked=1</script>"


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sums of two labels; one is hostile, two are nearly the same."""
    name = f"clicked-{uuid.uuid4().hex[:6]}"
    path = tmp_path_factory.mktemp("rows") / f"{name}.jsonl"
    lines = [
        {"prompt": f"What is the sum of {i} and {i + 1}?", "response": str(2 * i + 1), "topic": "odd"}
        for i in range(40)
    ]
    lines += [{"prompt": f"Tell me {HOSTILE}", "response": HOSTILE, "topic": HOSTILE}]
    lines += [{"prompt": f"Please  repeat the word banana{end}", "response": "banana", "topic": "odd"} for end in "!."]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def pick_model(page: Page, model: Path) -> None:
    field = page.get_by_role("combobox", name="Model (its template and tokenizer)")
    field.fill(str(model))
    field.press("Enter")


def test_a_file_becomes_a_dataset_that_can_be_looked_into(door: Door, rows: Path) -> None:
    person = door.person()
    page = person.page
    person.open("/datasets")
    page.get_by_role("button", name="Add a dataset").first.click()
    page.get_by_label("File", exact=True).last.set_input_files(rows)
    page.get_by_role("button", name="Look at it").click()
    expect(page.get_by_text("Read as prompt_response")).to_be_visible(timeout=120_000)
    expect(page.get_by_label("Name", exact=True)).to_have_value(rows.stem)
    page.get_by_role("button", name="Add it").click()
    link = page.get_by_role("link", name=rows.stem)
    expect(link).to_be_visible(timeout=60_000)
    link.click()
    expect(page.get_by_role("heading", name="Label topic")).to_be_visible(timeout=120_000)
    assert person.axe() == []
    page.get_by_role("tab", name="Rows").click()
    expect(page.get_by_text(HOSTILE).first).to_be_visible(timeout=120_000)
    page.get_by_role("tab", name="Duplicates").click()
    page.get_by_role("button", name="Find duplicates").click()
    expect(page.get_by_text("1 of 43 rows would go")).to_be_visible(timeout=60_000)
    page.get_by_role("tab", name="Leaks").click()
    page.get_by_role("button", name="Check for leaks").click()
    expect(page.get_by_text("evaluation rows").first).to_be_visible(timeout=60_000)
    page.wait_for_timeout(400)  # the message fades in, and is read at its full strength
    assert person.axe() == []
    assert page.evaluate("window.hacked") is None
    assert person.faults == []


def test_the_mask_shows_what_is_trained_and_where_the_row_is_cut(door: Door, platform: object, model: Path) -> None:
    person = door.person()
    page = person.page
    person.open("/datasets/sums/sample")
    expect(page.get_by_text("No model chosen.")).to_be_visible()
    pick_model(page, model)
    trained = page.locator("[data-fate=trained]")
    expect(trained.first).to_be_visible(timeout=120_000)
    expect(page.locator("[data-test=cut]")).to_have_count(0)
    page.get_by_label("Longest").fill("24")
    page.get_by_label("Longest").press("Tab")
    expect(page.locator("[data-test=cut]")).to_have_count(1)
    assert person.axe() == []
    page.get_by_role("tab", name="Ids").click()
    expect(page.get_by_role("region", name="Ids").locator(".token").first).to_have_text("258")
    page.get_by_role("button", name="Next row").click()
    expect(page.get_by_text("Row 2 of")).to_be_visible()
    page.reload()
    expect(page.get_by_text("Row 2 of")).to_be_visible()
    page.get_by_role("tab", name="Raw").click()
    expect(page.get_by_role("heading", name="assistant")).to_be_visible()
    assert person.faults == []
