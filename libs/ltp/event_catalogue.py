"""Every event as a document: `docs/events.md` for people, AsyncAPI 3 for programs. Made from the contracts, never written by hand."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from ltp.bus.permissions import FEED
from ltp.contracts import REGISTRY
from ltp.contracts.event import Event

_MESSAGE = "#/components/messages/"
_HEADERS = {
    "ce-specversion": "Always 1.0.",
    "ce-id": "The event's id (UUIDv7): the same however often and wherever it is told.",
    "ce-type": "The event's type, which is its subject.",
    "ce-source": "The service that said it, as /scheduler.",
    "ce-subject": "The id of what it tells of.",
    "ce-time": "When it was said (UTC, RFC 3339).",
    "ce-causationid": "The id of the event that led to it, where one did.",
    "ce-actor": "Whose request led to it, where one did.",
    "ce-project": "The project it belongs to, where it belongs to one.",
    "ltp-seq": "Its place among all events: what `after` takes.",
}


def event_schema(subject: str) -> dict[str, Any]:
    """The JSON Schema of an event's payload, named by its subject."""
    schema = REGISTRY[subject].model_json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": f"urn:ltp:event:{subject}", **schema}


def asyncapi() -> dict[str, Any]:
    """What other systems can listen to, as AsyncAPI 3: a channel for each type of event, on the feed of subscribers."""
    headers = {name: {"type": "string", "description": text} for name, text in _HEADERS.items()}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "ltp events",
            "version": "1",
            "description": "Every fact the platform says, for subscribers over NATS (`ltp bus add`) and webhooks (`ltp webhook add`).",
        },
        "defaultContentType": "application/json",
        "servers": {
            "nats": {
                "host": "127.0.0.1:4222",
                "protocol": "nats",
                "description": f"Where yours is, the account says. Kept events lie in the stream {FEED}.",
                "security": [{"$ref": "#/components/securitySchemes/account"}],
            }
        },
        "channels": {subject: _channel(subject) for subject in sorted(REGISTRY)},
        "operations": {
            f"hear {subject}": {
                "action": "receive",
                "channel": {"$ref": f"#/channels/{subject}"},
                "messages": [{"$ref": f"#/channels/{subject}/messages/event"}],
            }
            for subject in sorted(REGISTRY)
        },
        "components": {
            "messages": {subject: _message(subject, event) for subject, event in sorted(REGISTRY.items())},
            "messageTraits": {"cloudEvent": {"headers": {"type": "object", "properties": headers}}},
            "securitySchemes": {"account": {"type": "userPassword", "description": "As `ltp bus add` prints it once."}},
        },
    }


def _channel(subject: str) -> dict[str, Any]:
    return {
        "address": f"ltp-feed.{{project}}.{subject}",
        "messages": {"event": {"$ref": _MESSAGE + subject}},
        "parameters": {"project": {"description": "The project, `~` for each dot in its name; `_` for none."}},
    }


def _message(subject: str, event: type[Event]) -> dict[str, Any]:
    schema = event.model_json_schema(mode="serialization", ref_template=f"{_MESSAGE}{subject}/payload/$defs/{{model}}")
    return {
        "name": event.__name__,
        "title": subject,
        "summary": _sentence(event),
        "contentType": "application/json",
        "traits": [{"$ref": "#/components/messageTraits/cloudEvent"}],
        "payload": schema,
    }


def markdown() -> str:
    """The reference of all events."""
    parts = [_INTRODUCTION, "## Headers\n", "| header | what it says |", "|---|---|"]
    parts += [f"| `{name}` | {text} |" for name, text in _HEADERS.items()]
    parts.append("\n## Types\n")
    for noun, subjects in groupby(sorted(REGISTRY), key=lambda subject: subject.split(".")[1]):
        parts.append(f"### {noun}\n")
        for subject in subjects:
            parts += _described(subject, REGISTRY[subject])
    return "\n".join(parts).rstrip() + "\n"


def _described(subject: str, event: type[Event]) -> list[str]:
    schema = event.model_json_schema(mode="serialization")
    required = set(schema.get("required", ()))
    lines = [f"#### `{subject}`\n", f"{_sentence(event)} Said by the {event.speaker}.\n"]
    fields = schema.get("properties", {})
    if not fields:
        return [*lines, "It has no fields.\n"]
    rows = [
        f"| `{name}` | {_type_of(field)} | {'yes' if name in required else 'no'} |" for name, field in fields.items()
    ]
    return [*lines, "| field | type | always |", "|---|---|---|", *rows, ""]


def _type_of(field: dict[str, Any]) -> str:
    if "$ref" in field:
        return str(field["$ref"]).rpartition("/")[2]
    if "anyOf" in field:
        return " or ".join(_type_of(part) for part in field["anyOf"])
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "const" in field:
        return f"`{field['const']}`"
    kind = str(field.get("type", "any"))
    if kind == "array":
        return f"list of {_type_of(field.get('items', {}))}"
    if kind == "object" and isinstance(field.get("additionalProperties"), dict):
        return f"map to {_type_of(field['additionalProperties'])}"
    return str(field.get("format", kind))


def _sentence(event: type[Event]) -> str:
    return " ".join((event.__doc__ or "").split())


_INTRODUCTION = """# Events

Generated by `ltp proto write` from `libs/ltp/contracts`; never edited. The same as AsyncAPI 3 is served at `/asyncapi`.

Every change in the platform is told as an event: an immutable fact in the past tense, a CloudEvent 1.0. Within a version a
type only gains optional fields. There are four ways to listen, and all of them tell the same ids and sequence numbers:

| way | for | from a point | gives |
|---|---|---|---|
| `GET /api/v1/events?after=SEQ` | reading back, at any time | `after`, or `since` a time | each once |
| `GET /api/v1/events/stream` (SSE), `/api/v1/events/ws` | pages and scripts that follow live | `Last-Event-ID`, `after` | each once |
| a webhook (`ltp webhook add URL`) | systems that take HTTP | `ltp webhook replay` | at least once |
| an account on NATS (`ltp bus add NAME`) | systems that take many | `ltp bus replay` | at least once |

A listener that may hear an event twice drops what it has seen by the event's id.

## Over NATS

On the machine itself `nats sub 'ltp.>' -s URL` (the URL: `ltp status`) hears every event live, without an account and without a
right to say anything; `LTP_BUS_CLOSED=1` for `ltp up` ends that. All others, and all who want what was kept, have accounts:

`ltp bus add billing --subject 'ltp.job.v1.*'` prints a user, a password (once), a consumer and an inbox prefix. The account
hears `ltp-feed.PROJECT.TYPE` for its own project and the types it was made for, and nothing else; it can publish nothing. Kept
events are taken from its consumer in the stream `LTP_FEED` (seven days), each given again until it is acknowledged:

- Python: `docs/examples/subscriber.py`
- the `nats` command: `docs/examples/subscriber.sh`

Clients must be told the inbox prefix: the common one is closed, because answers to others pass there. `ltp bus revoke billing`
ends the account at once, open connections included. The NATS of `ltp up` and that of `docker-compose.yml` are set up for this. Another one needs an
`authorization { include "users.conf" }` whose folder the gateway can write (`LTP_GATEWAY_BUS_FOLDER`), and a user of its
system account (`LTP_GATEWAY_BUS_SYSTEM_URL`), through which it is told to read the file anew.

## Webhooks

`ltp webhook add https://example.com/hooks --subject 'ltp.job.v1.*'` prints a signing secret (once). Each event is a POST with a
CloudEvent: `structured` (all in a JSON body, `application/cloudevents+json`) or `binary` (attributes in `ce-` headers, the
payload as the body; the signature covers the body and the id). Requests are signed after Standard Webhooks: `webhook-id` (the
event's id), `webhook-timestamp`, `webhook-signature` (`v1,` and the base64 HMAC-SHA256 of `id.timestamp.body`). After
`ltp webhook rotate-secret` both secrets sign for 24 hours.

Any 2xx within 15 seconds is a receipt; everything else, redirects too, is tried again after 5 s, 20 s, 80 s … (a fifth more
or less, six hours at most), ten times, and is then a dead letter (`ltp webhook deliveries NAME --state dead`). Who fails for
five days, or answers 410, is disabled, which is an event of its own; `ltp webhook enable` goes on where it stopped. Order is
kept in the main and not promised: `sequence` tells it. Private, link-local and loopback addresses are refused unless
`LTP_GATEWAY_WEBHOOK_NETWORKS` (a JSON list, `["10.1.0.0/16"]`) opens them.
"""
