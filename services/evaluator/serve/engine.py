"""The model behind the server: one worker thread owns it and answers whoever waits, as many at once as fit a batch."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from services.evaluator.serve.adapters import Adapters
from services.evaluator.serve.chatml import CHATML
from services.evaluator.serve.generation import Batch, FinishReason, Row
from services.evaluator.serve.scoring import TokenScore, embed_tokens, score_tokens


@dataclass(frozen=True)
class Piece:
    """What one step added to an answer."""

    text: str
    completion_tokens: int
    finish_reason: FinishReason | None


@dataclass
class _Ticket:
    """A row, and the event loop that waits for its pieces."""

    row: Row
    loop: asyncio.AbstractEventLoop
    pieces: asyncio.Queue[Piece | Exception] = field(default_factory=asyncio.Queue[Piece | Exception])
    sent: int = 0
    closed: bool = False

    def deliver(self, piece: Piece | Exception) -> None:
        try:
            self.loop.call_soon_threadsafe(self.pieces.put_nowait, piece)
        except RuntimeError:  # the loop closed: the server is going down and nobody listens
            self.row.abandoned = True


class Engine:
    """A loaded model and its queue. `start` before use; `stop` ends the worker after the step in flight."""

    def __init__(self, model: Any, tokenizer: Any, *, max_batch: int = 32) -> None:
        self.tokenizer = tokenizer
        self.context = int(model.config.max_position_embeddings)
        self._model, self._max_batch = model, max_batch
        self._adapters = Adapters(model)
        self._eos = _eos_ids(model, tokenizer)
        self._pad = next(i for i in (tokenizer.pad_token_id, *sorted(self._eos), 0) if i is not None)
        # None ends the worker.
        self._waiting: queue.SimpleQueue[_Ticket | None] = queue.SimpleQueue()
        # Held while the model works: for a batch of answers, or for scoring given texts.
        self._busy = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)

    @classmethod
    def load(cls, path: Path, *, max_batch: int = 32) -> Engine:
        """Read a model directory: safetensors only, no code from the checkpoint; float32 without a GPU."""
        on_gpu = torch.cuda.is_available()
        # Any: the stubs of transformers take `to` for a method of a class without it.
        model: Any = AutoModelForCausalLM.from_pretrained(
            path, dtype="auto" if on_gpu else torch.float32, use_safetensors=True, local_files_only=True
        )
        model.to("cuda" if on_gpu else "cpu").eval()
        return cls(model, AutoTokenizer.from_pretrained(path, local_files_only=True), max_batch=max_batch)

    def start(self) -> None:
        """Start the worker."""
        self._thread.start()

    def stop(self) -> None:
        """End the worker."""
        self._waiting.put(None)
        self._thread.join()

    def encode_chat(self, messages: list[dict[str, str]]) -> list[int]:
        """Token ids of a conversation that the assistant shall continue."""
        template = None if self.tokenizer.chat_template else CHATML
        text = self.tokenizer.apply_chat_template(
            messages, chat_template=template, add_generation_prompt=True, tokenize=False
        )
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Token ids of plain text."""
        return self.tokenizer(text, add_special_tokens=special)["input_ids"]

    def adapt(self, name: str, path: Path) -> None:
        """Serve a LoRA adapter under a name. Raises ValueError where it does not fit. Blocks: run in a thread."""
        with self._busy:
            self._adapters.load(name, path)

    def adapters(self) -> list[str]:
        """The names of the adapters that are served."""
        return self._adapters.names()

    def score(self, ids: list[int], top: int, adapter: str | None = None) -> list[TokenScore]:
        """Log-probabilities of given tokens, each after those before it; the first has none. Blocks: run in a thread."""
        with self._busy, self._adapters.using(adapter):
            return score_tokens(self._model, ids, top)

    def embed(self, ids: list[int], adapter: str | None = None) -> list[float]:
        """The mean of the last hidden states of a text, of length one. Blocks: run in a thread."""
        with self._busy, self._adapters.using(adapter):
            return embed_tokens(self._model, ids)

    async def generate(self, row: Row) -> AsyncIterator[Piece]:
        """The pieces of the answer as they come; the last one carries a finish reason."""
        ticket = _Ticket(row, asyncio.get_running_loop())
        self._waiting.put(ticket)
        try:
            while True:
                piece = await ticket.pieces.get()
                if isinstance(piece, Exception):
                    raise piece
                yield piece
                if piece.finish_reason is not None:
                    return
        finally:
            row.abandoned = True

    def _work(self) -> None:
        while (tickets := self._take()) is not None:
            live = [ticket for ticket in tickets if not ticket.row.abandoned]
            # One forward pass goes through one adapter.
            for adapter in dict.fromkeys(ticket.row.adapter for ticket in live):
                together = [ticket for ticket in live if ticket.row.adapter == adapter]
                try:
                    with self._busy, self._adapters.using(adapter):
                        self._answer(together)
                except Exception as error:  # one bad batch must not end the server; its callers hear of it
                    for ticket in together:
                        if ticket.row.finish_reason is None:
                            ticket.deliver(error)

    def _take(self) -> list[_Ticket] | None:
        """Wait for a request, and take those that wait beside it. None when the engine stops."""
        tickets: list[_Ticket] = []
        while len(tickets) < self._max_batch:
            try:
                ticket = self._waiting.get(block=not tickets)
            except queue.Empty:
                break
            if ticket is None:
                # What was taken before the end is still answered.
                self._waiting.put(None)
                return tickets or None
            tickets.append(ticket)
        return tickets

    def _answer(self, tickets: list[_Ticket]) -> None:
        batch = Batch(self._model, [ticket.row for ticket in tickets], self._eos, self._pad)
        by_row = {id(ticket.row): ticket for ticket in tickets}
        while batch.rows:
            for row in batch.advance():
                self._send(by_row[id(row)])

    def _send(self, ticket: _Ticket) -> None:
        row = ticket.row
        if ticket.closed:
            return
        text = self.tokenizer.decode(row.tokens, skip_special_tokens=True)
        ends = [place for stop in row.stops if (place := text.find(stop)) >= 0]
        if ends:
            # The batch drops the row at its next step; the caller has its answer now.
            text, row.finish_reason, row.abandoned = text[: min(ends)], "stop", True
        # A character of several tokens decodes to U+FFFD until its last one is there: hold it back.
        if row.finish_reason is None and text.endswith("\ufffd"):
            return
        ticket.closed = row.finish_reason is not None
        # What may be the beginning of a stop text is held back until it is known not to be.
        held = 0 if ticket.closed else max((len(stop) - 1 for stop in row.stops), default=0)
        upto = max(ticket.sent, len(text) - held)
        ticket.deliver(Piece(text[ticket.sent : upto], len(row.tokens), row.finish_reason))
        ticket.sent = upto


def _eos_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Every token that ends an answer: what the generation config says, and what the tokenizer says."""
    configured = model.generation_config.eos_token_id
    ids = configured if isinstance(configured, list) else [configured]
    return frozenset(i for i in (*ids, tokenizer.eos_token_id) if i is not None)
