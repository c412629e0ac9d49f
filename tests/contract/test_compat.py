"""What counts as breaking a released schema."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from ltp.contracts.compat import breaks
from ltp.event_catalogue import event_schema


def schema() -> dict[str, Any]:
    return deepcopy(event_schema("ltp.evaluation.v1.completed"))


def test_a_schema_gets_along_with_itself() -> None:
    assert breaks(schema(), schema()) == []


def test_an_optional_field_may_be_added() -> None:
    changed = schema()
    changed["properties"]["note"] = {"type": "string", "default": ""}
    assert breaks(schema(), changed) == []


def remove(changed: dict[str, Any]) -> None:
    del changed["properties"]["scorer"]


def require(changed: dict[str, Any]) -> None:
    changed["properties"]["note"] = {"type": "string"}
    changed["required"] = [*changed["required"], "note"]


def retype(changed: dict[str, Any]) -> None:
    changed["properties"]["scorer"] = {"type": "integer"}


def unpromise(changed: dict[str, Any]) -> None:
    changed["required"] = [name for name in changed["required"] if name != "scorer"]


def narrow(changed: dict[str, Any]) -> None:
    changed["properties"]["subject_kind"]["enum"] = ["base"]


def deep(changed: dict[str, Any]) -> None:
    del changed["$defs"]["Score"]["properties"]["total"]


def nullable(changed: dict[str, Any]) -> None:
    changed["properties"]["scorer"] = {"anyOf": [{"type": "string"}, {"type": "null"}]}


@pytest.mark.parametrize("change", [remove, require, retype, unpromise, narrow, deep, nullable])
def test_what_breaks_a_reader_or_a_writer_is_found(change: Any) -> None:
    changed = schema()
    change(changed)
    assert breaks(schema(), changed)
