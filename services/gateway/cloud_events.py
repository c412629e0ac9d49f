"""CloudEvents 1.0 over HTTP: a kept event as the headers and the body of a request. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC
from typing import Any
from urllib.parse import quote

from ltp.contracts import REGISTRY

_EXTENSIONS = {"cause": "causationid", "actor": "actor", "project": "project", "seq": "sequence"}


def attributes(row: Mapping[str, Any]) -> dict[str, str]:
    """The context attributes of an event as the gateway keeps it; `sequence` is where to replay from."""
    kind = REGISTRY.get(row["subject"])
    found = {
        "specversion": "1.0",
        "id": str(row["event_id"]),
        "type": row["subject"],
        "source": f"/{kind.speaker if kind else 'unknown'}",
        "time": row["at"].astimezone(UTC).isoformat().replace("+00:00", "Z"),
    }
    if row["about"]:
        found["subject"] = row["about"]
    return found | {name: str(row[key]) for key, name in _EXTENSIONS.items() if row.get(key) is not None}


def http_form(row: Mapping[str, Any], mode: str) -> tuple[dict[str, str], bytes]:
    """Headers and body. Structured: all in the body, which is signed as a whole; binary: the attributes are headers."""
    said = attributes(row)
    if mode == "binary":
        headers = {f"ce-{name}": quote(value, safe="!#$&'()*+,/:;=?@[]-._~ ") for name, value in said.items()}
        return headers | {"content-type": "application/json"}, _json(row["data"])
    body = said | {"datacontenttype": "application/json", "data": row["data"]}
    return {"content-type": "application/cloudevents+json"}, _json(body)


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode(errors="replace")
