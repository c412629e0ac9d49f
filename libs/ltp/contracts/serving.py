"""Models that answer people: where one is served now."""

from __future__ import annotations

from ltp.contracts.event import Value


class ServeAsk(Value):
    """Serve the model in this directory, as somebody wants to talk to it."""

    path: str


class ServedModel(Value):
    """An OpenAI-compatible server: `url` ends before `/chat/completions`, `name` is what it calls the model."""

    url: str
    name: str
