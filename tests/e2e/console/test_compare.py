"""Evaluations and their comparison by clicking: the matrix, two scores ticked, the headline, the filters, the keys."""

from __future__ import annotations

import httpx
import pytest
from playwright.sync_api import expect

from tests.e2e.console.browser import Door
from tests.e2e.platform import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

HOSTILE = "<img src=x onerror='window.hacked=1'>"


@pytest.fixture(scope="module")
def pair(door: Door) -> tuple[str, str]:
    """Two evaluations of the same 40 rows: right on 10, and on 30 of which 5 others were right before."""
    found: list[str] = []
    right = (set(range(10)), set(range(5, 35)))
    with httpx.Client(base_url=door.url, headers={"Authorization": f"Bearer {door.token}"}) as client:
        for name, good in zip(("seen-before", "seen-after"), right, strict=True):
            samples = [
                {
                    "doc_id": i, "doc": {"question": f"{HOSTILE} {i}?"}, "target": str(i), "arguments": [[f"{HOSTILE} {i}?", {}]],
                    "resps": [[str(i if i in good else -1)]], "filtered_resps": [str(i if i in good else -1)],
                    "exact_match": float(i in good),
                }
                for i in range(40)
            ]  # fmt: skip
            body = {"model": name, "task": "counting", "metric": "exact_match", "samples": samples}
            answer = client.post("/api/v1/evaluations/import", params={"name": "counting"}, json=body)
            answer.raise_for_status()
            found.append(answer.json()["evaluation_id"])
        for one in found:
            eventually(lambda one=one: client.get(f"/api/v1/evaluations/{one}").json()["state"] == "completed")
    return found[0], found[1]


def test_two_scores_of_the_matrix_are_compared(door: Door, pair: tuple[str, str]) -> None:
    person = door.person()
    page = person.page
    person.open("/evaluations?q=seen-")
    for model in ("seen-before", "seen-after"):
        page.get_by_role("row", name=model).get_by_role("checkbox").check()
    page.get_by_role("button", name="Compare").click()
    expect(page).to_have_url(f"{door.url}/compare?before={pair[0]}&after={pair[1]}")
    expect(page.get_by_text("+50 %")).to_be_visible(timeout=20_000)
    expect(page.get_by_text("better", exact=True)).to_be_visible()
    page.get_by_role("button", name="Regressed (5)").click()
    browse = page.get_by_role("group", name="Answers; keys n and p go on and back")
    expect(browse.get_by_text("1 of 5")).to_be_visible()
    browse.focus()
    page.keyboard.press("n")
    page.keyboard.press("n")
    page.keyboard.press("p")
    expect(browse.get_by_text("2 of 5")).to_be_visible()
    expect(browse.locator("del")).to_have_text("1")
    expect(browse.locator("ins")).to_have_text("-1")
    expect(browse.get_by_text(HOSTILE).first).to_be_visible()
    page.reload()
    expect(browse.get_by_text("2 of 5")).to_be_visible(timeout=20_000)
    assert person.axe() == []
    assert page.evaluate("window.hacked") is None
    assert person.faults == []


def test_an_evaluation_shows_its_answers(door: Door, pair: tuple[str, str]) -> None:
    person = door.person()
    person.open(f"/evaluations/{pair[1]}?outcome=wrong")
    expect(person.page.get_by_text("10 answers")).to_be_visible(timeout=20_000)
    assert person.axe() == []
    assert person.faults == []
