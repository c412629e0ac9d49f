"""The contracts as a whole: one speaker a subject, nobody listens in vain, and every document is current."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from ltp.bus.subscriptions import DECLARED
from ltp.cli.proto import generate
from ltp.contracts import REGISTRY, SERVICES
from ltp.contracts.compat import breaks
from ltp.contracts.event import EVENT_SUBJECTS, TELEMETRY_SUBJECTS, Event
from ltp.event_catalogue import asyncapi, event_schema, markdown

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def runtimes() -> dict[str, Any]:
    """The seven services, built but not started."""
    return {name: importlib.import_module(f"services.{name}.app").runtime for name in SERVICES}


def said_by(runtime: Any) -> set[str]:
    """Subjects that a service declares it says."""
    return {p.subject.broker_address for p in runtime.broker.publishers} & set(REGISTRY)


def test_every_event_is_said_by_its_one_speaker(runtimes: dict[str, Any]) -> None:
    speakers: dict[str, set[str]] = {subject: set() for subject in REGISTRY}
    for service, runtime in runtimes.items():
        for subject in said_by(runtime):
            speakers[subject].add(service)
    assert speakers == {subject: {event.speaker} for subject, event in REGISTRY.items()}


def test_every_subject_heard_is_said_by_someone(runtimes: dict[str, Any]) -> None:
    said = set().union(*(said_by(runtime) for runtime in runtimes.values()))
    heard = {s.subject for s in DECLARED if s.service in runtimes}
    assert heard - {EVENT_SUBJECTS, TELEMETRY_SUBJECTS} <= said


def test_every_event_is_heard(runtimes: dict[str, Any]) -> None:
    # The gateway hears all of them for its timeline; nothing is said to nobody.
    assert any(s.service == "gateway" and s.subject == EVENT_SUBJECTS for s in DECLARED)


def test_a_durable_belongs_to_one_subscription(runtimes: dict[str, Any]) -> None:
    durables = [(s.stream, s.durable) for s in DECLARED if s.service in runtimes]
    assert len(set(durables)) == len({(s.stream, s.durable, s.subject) for s in DECLARED if s.service in runtimes})


def test_a_subject_cannot_be_taken_twice() -> None:
    with pytest.raises(TypeError, match="already belongs to JobSubmitted"):
        type("Impostor", (Event,), {"__module__": __name__}, subject="ltp.job.v1.submitted", speaker="gateway")


@pytest.mark.parametrize("subject", ["ltp.job.submitted", "ltp.Job.v1.submitted", "ltp.job.v0.made", "x.job.v1.made"])
def test_a_subject_must_have_its_shape(subject: str) -> None:
    with pytest.raises(TypeError, match="is not ltp"):
        type("Misshapen", (Event,), {"__module__": __name__}, subject=subject, speaker="gateway")


def test_every_document_is_current() -> None:
    stale = [path for path, text in generate().items() if (ROOT / path).read_text() != text]
    assert not stale, "run `make proto`"


def test_schemas_are_valid_and_released_ones_are_kept() -> None:
    for subject in REGISTRY:
        jsonschema.Draft202012Validator.check_schema(event_schema(subject))
    for path in (ROOT / "proto" / "released").glob("*.json"):
        assert breaks(json.loads(path.read_text()), event_schema(path.stem)) == []


def test_asyncapi_documents_name_what_a_service_says_and_hears() -> None:
    document = json.loads((ROOT / "proto" / "asyncapi" / "planner.json").read_text())
    assert document["asyncapi"] == "3.0.0"
    addresses = {channel["address"] for channel in document["channels"].values()}
    assert {"ltp.job.v1.submitted", "ltp.plan.v1.made", "ltp.plan.v1.refused"} <= addresses


def test_subscribers_are_told_of_every_event_and_its_fields() -> None:
    document, page = asyncapi(), markdown()
    assert set(document["channels"]) == set(REGISTRY)
    for subject, event in REGISTRY.items():
        assert f"#### `{subject}`" in page
        assert all(f"| `{field}` |" in page for field in event.model_fields)
        payload = document["components"]["messages"][subject]["payload"]
        for found in re.findall(r'"\$ref": "#(/[^"]+)"', json.dumps(payload)):
            place: Any = document
            for part in found.strip("/").split("/"):
                place = place[part]


def test_the_description_of_rest_names_only_what_it_holds() -> None:
    document = (ROOT / "proto" / "openapi.json").read_text()
    described = json.loads(document)
    for reference in set(re.findall(r'"\$ref":\s*"#/([^"]+)"', document)):
        place = described
        for key in reference.split("/"):
            assert key in place, f"{reference} is nowhere described"
            place = place[key]
