"""A new user's first day, by clicking only: log in, a host, data, the loss mask, a plan, a training, its scores, a merge."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.console.browser import ENTER, TOKEN_FIELD, Door
from tests.e2e.console.test_datasets import pick_model
from tests.e2e.console.test_life import LATE, SOON, fill_recipe
from tests.e2e.platform import eventually, write_rows
from tests.service.runner.sshd import Sshd, needs_sshd

pytestmark = [pytest.mark.e2e, pytest.mark.slow, needs_sshd]

LONG = 400_000


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    """A machine that is reached by SSH."""
    server = Sshd(tmp_path / "sshd").start()
    yield server
    server.stop()


def test_a_new_user_gets_from_a_token_to_a_merged_model_by_clicking(
    door: Door, model: Path, sshd: Sshd, tmp_path: Path
) -> None:
    person = door.person(logged_in=False)
    page = person.page
    person.open("/")
    page.fill(TOKEN_FIELD, door.token)
    page.click(ENTER)
    expect(page.get_by_role("heading", name="Home")).to_be_visible()
    name = f"first-{uuid.uuid4().hex[:6]}"
    registers_and_tests_a_host(page, sshd, tmp_path)
    uploads_data_and_sees_what_is_trained(page, name, model, tmp_path)
    trains_pauses_and_resumes(page, name, model)
    evaluates_and_compares(page, name)
    merges(page, name)
    assert person.faults == []


def registers_and_tests_a_host(page: Page, sshd: Sshd, folder: Path) -> None:
    page.get_by_role("link", name="Settings").click()
    page.get_by_role("button", name="Register a host").click()
    host = f"box-{uuid.uuid4().hex[:6]}"
    for label, value in (
        ("Name of the host", host),
        ("Address", "127.0.0.1"),
        ("User", sshd.user),
        ("Folder on the host", str(folder / "host")),
    ):
        page.get_by_label(label, exact=True).fill(value)
    page.get_by_label("Port").fill(str(sshd.port))
    page.get_by_label("Private key").last.fill(sshd.client_key.read_text())
    page.get_by_role("button", name="Register", exact=True).click()
    card = page.get_by_role("region", name=host)
    card.get_by_role("button", name="Test connection").click()
    # Each step shows as it ends, and at the end whether the host can be used: this one has no environment, and says so.
    expect(card.get_by_role("listitem").first).to_be_visible(timeout=LATE)
    expect(card.get_by_text(re.compile("The host can(not)? be used"))).to_be_visible(timeout=LATE)
    expect(card.get_by_text(sshd.fingerprint).first).to_be_visible(timeout=SOON)
    # It is not what the job is to run on.
    card.get_by_role("button", name="Cordon").click()
    expect(card.locator("[data-state=cordoned]")).to_be_visible(timeout=SOON)


def uploads_data_and_sees_what_is_trained(page: Page, name: str, model: Path, folder: Path) -> None:
    rows = folder / f"{name}.jsonl"
    write_rows(rows)
    page.get_by_role("link", name="Datasets").click()
    page.get_by_role("button", name="Add a dataset").first.click()
    page.get_by_label("File", exact=True).last.set_input_files(rows)
    page.get_by_role("button", name="Look at it").click()
    expect(page.get_by_text("Read as prompt_response")).to_be_visible(timeout=LATE)
    page.get_by_role("button", name="Add it").click()
    page.get_by_role("link", name=name).click(timeout=LATE)
    page.get_by_role("link", name="Loss mask").or_(page.get_by_role("button", name="Loss mask")).first.click()
    pick_model(page, model)
    expect(page.locator("[data-fate=trained]").first).to_be_visible(timeout=LATE)


def trains_pauses_and_resumes(page: Page, name: str, model: Path) -> None:
    page.get_by_role("link", name="New job").first.click()
    fill_recipe(page, model, 400, dataset=name)
    page.locator("#field-name").fill(name)
    page.get_by_role("button", name="Check the plan").click()
    expect(page.get_by_text("It fits: 1 × CPU.")).to_be_visible(timeout=LATE)
    page.get_by_role("button", name="Submit").click()
    expect(page.get_by_role("heading", name=name)).to_be_visible(timeout=SOON)
    loss = page.get_by_role("img", name=re.compile(r"^Loss\."))
    expect(loss).to_be_visible(timeout=LATE)
    before = loss.get_attribute("aria-label")
    eventually(lambda: loss.get_attribute("aria-label") != before)
    page.get_by_role("button", name="Pause").click()
    expect(page.locator("[data-state=paused]")).to_be_visible(timeout=LATE)
    page.get_by_role("button", name="Resume").click()
    expect(page.locator("[data-state=succeeded]")).to_be_visible(timeout=LONG)


def evaluates_and_compares(page: Page, name: str) -> None:
    page.get_by_role("tab", name="Samples").click()
    expect(page.get_by_role("heading", name=re.compile("Base model")).first).to_be_visible(timeout=LATE)
    page.get_by_role("link", name="Evaluations").click()
    boxes = page.get_by_role("checkbox", name=re.compile(f" on {name}"))
    expect(boxes).to_have_count(2, timeout=LATE)
    for box in boxes.all():
        box.check()
    page.get_by_role("button", name="Compare").click()
    expect(page.get_by_role("button", name=re.compile(r"^Unchanged \(\d+\)"))).to_be_visible(timeout=LATE)


def merges(page: Page, name: str) -> None:
    page.get_by_role("link", name="Surgery").click()
    page.get_by_role("button", name="New operation").first.click()
    page.get_by_role("combobox", name="Job").click()
    page.get_by_role("option", name=re.compile(f"^{name} ")).click()
    page.get_by_role("button", name=re.compile(r"^Take these \d")).click(timeout=LATE)
    page.get_by_label("Name of the result").fill(f"{name}-merged")
    page.get_by_role("button", name="Check").click()
    expect(page.get_by_text("What it would take")).to_be_visible(timeout=LATE)
    page.get_by_role("button", name="Start").click()
    expect(page.get_by_role("heading", name=f"{name}-merged")).to_be_visible(timeout=LATE)
    expect(page.locator("[data-state=succeeded]")).to_be_visible(timeout=LATE)
