"""Dead letters: messages whose listener failed for good, read from their stream, delivered again or dropped."""

# nats-py leaves some of its signatures half typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false, reportMissingTypeArgument=false
from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from nats.js import JetStreamContext
from nats.js.api import RawStreamMsg
from nats.js.errors import APIError, NotFoundError

from ltp.bus.streams import DEAD, DEAD_SUBJECTS
from ltp.contracts.work import LettersView, LetterView
from ltp.core.errors import ErrorCode, LtpError

# What was written about the failure, and orders to the server about the letter; the message itself goes without them.
_EVIDENCE = ("ltp-", "Nats-")
_NO_SUCH_MESSAGE = 10057


async def read(js: JetStreamContext, after: int, limit: int) -> LettersView:
    """Up to `limit` letters whose number in the stream is greater than `after`, oldest first."""
    state = (await js.stream_info(DEAD)).state
    found: list[LetterView] = []
    seq = after + 1
    while len(found) < limit and seq <= state.last_seq:
        try:
            message = await js.get_msg(DEAD, seq, subject=DEAD_SUBJECTS, next=True)
        except NotFoundError:
            break
        found.append(_letter(message))
        seq = found[-1].seq + 1
    return LettersView(total=state.messages, letters=found)


async def find(js: JetStreamContext, seq: int) -> RawStreamMsg:
    """The letter of this number. Raises NOT_FOUND."""
    try:
        return await js.get_msg(DEAD, seq)
    except NotFoundError:
        hint = "`ltp queue dead list` shows what there is."
        raise LtpError(ErrorCode.NOT_FOUND, f"There is no dead letter {seq}.", hint) from None


async def replay(js: JetStreamContext, seq: int) -> None:
    """Say the message again on its subject, then forget the letter. Listeners that took it in drop it by its event id.

    A letter that is gone was replayed or dropped before: nothing is left to do.
    """
    try:
        message = await find(js, seq)
    except LtpError:
        return
    known = dict(message.headers or {})
    headers = {key: value for key, value in known.items() if not key.startswith(_EVIDENCE)}
    # The first saying's id would be dropped as a duplicate; this one drops a second replay.
    headers["Nats-Msg-Id"] = f"replay-{DEAD}-{seq}"
    await js.publish(known["ltp-subject"], message.data or b"", headers=headers)
    await drop(js, seq)


async def drop(js: JetStreamContext, seq: int) -> None:
    """Forget a letter; one that is gone already is no error."""
    try:
        await js.delete_msg(DEAD, seq)
    except APIError as error:
        # Somebody was faster.
        if error.err_code != _NO_SUCH_MESSAGE:
            raise


def _letter(message: RawStreamMsg) -> LetterView:
    headers = dict(message.headers or {})
    deliveries = headers.get("ltp-deliveries", "")
    return LetterView(
        seq=message.seq or 0,
        subject=headers.get("ltp-subject", message.subject or ""),
        consumer=(message.subject or "").rpartition(".")[2],
        event_id=headers.get("ce-id"),
        error=headers.get("ltp-error", ""),
        deliveries=int(deliveries) if deliveries.isdigit() else 0,
        dead_at=message.time or datetime.now(UTC),
        data=_data(message.data or b""),
    )


def _data(body: bytes) -> Any:
    """The payload as JSON, or as text when it is none: what cannot be parsed is what becomes a dead letter."""
    try:
        return json.loads(body)
    except ValueError:
        return body[:4000].decode(errors="replace")
