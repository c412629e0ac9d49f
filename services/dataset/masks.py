"""Asks a warm process with verl which tokens are trained, and judges a dataset by a sample of its rows.

The service itself has no torch. The process is started at the first question and ends with the service.
"""

# pyarrow makes its compute functions at import, where no type checker sees them.
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

import asyncio
import json
import tempfile
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import structlog

from ltp.core.errors import ErrorCode, LtpError
from ltp.verl_recipe.verl_0_9 import sft_data_config
from services.dataset.derive import Source
from services.dataset.sketch import Numbers

# One reply holds every token of its rows.
_REPLY_BYTES = 64 * 1024**2
_START_SECONDS = 120.0
_IDLE_SECONDS = 600.0
# What the job's dataset class reads of a row (`ltp_verl.sft_dataset`).
TRAINED_COLUMNS = ("messages", "tools_json", "fields")


@dataclass
class MaskProcess:
    """`ltp_verl.loss_mask`, one question at a time."""

    python: str
    _process: Process | None = None
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _warming: asyncio.Task[None] | None = None
    _asked_at: float = 0.0

    async def ask(self, request: dict[str, Any], seconds: float) -> list[dict[str, Any]]:
        """The rows of the reply. Raises LtpError: DATASET_MASK_EMPTY with what went wrong, SERVICE_UNAVAILABLE."""
        async with self._lock:
            try:
                process = await self._started()
                async with asyncio.timeout(seconds):
                    reply = await _exchange(process, request)
            except (TimeoutError, OSError, ValueError, asyncio.CancelledError) as error:
                # A reply that comes late would be taken for the next question's.
                await self.stop()
                if isinstance(error, asyncio.CancelledError):
                    raise
                message = f"verl did not say which tokens are trained ({type(error).__name__})."
                raise LtpError(ErrorCode.SERVICE_UNAVAILABLE, message, "Ask for fewer rows, or again.") from error
        if "problem" in reply:
            raise LtpError(ErrorCode.DATASET_MASK_EMPTY, reply["problem"], "Check the model's tokenizer and template.")
        rows: list[dict[str, Any]] = reply["rows"]
        return rows

    def warm(self) -> None:
        """Start the process in the background: verl takes seconds to import, and a question will come."""
        if self._process is None and self._warming is None:
            self._warming = asyncio.create_task(self._warmed())

    async def _warmed(self) -> None:
        try:
            async with self._lock:
                try:
                    await self._started()
                except BaseException:
                    # One that says late that it is ready would have that taken for the answer to the first question.
                    await self.stop()
                    raise
        except (LtpError, OSError, TimeoutError) as error:
            # The question itself will say so to whom it concerns.
            structlog.get_logger().info("verl could not be started ahead", reason=type(error).__name__)
        finally:
            self._warming = None

    async def rest_forever(self) -> None:
        """End the process after a time without questions, and with the service."""
        try:
            while True:
                await asyncio.sleep(_IDLE_SECONDS / 4)
                if not self._lock.locked() and asyncio.get_running_loop().time() - self._asked_at > _IDLE_SECONDS:
                    await self.stop()
        finally:
            await self.stop()

    async def stop(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()

    async def _started(self) -> Process:
        self._asked_at = asyncio.get_running_loop().time()
        if self._process is None or self._process.returncode is not None:
            self._process = await asyncio.create_subprocess_exec(
                self.python, "-m", "ltp_verl.loss_mask", stdin=PIPE, stdout=PIPE, stderr=DEVNULL, limit=_REPLY_BYTES
            )
            assert self._process.stdout is not None
            async with asyncio.timeout(_START_SECONDS):
                line = await self._process.stdout.readline()
            if not line:
                code = await self._process.wait()
                message = f"{self.python} cannot run verl (it ended with {code})."
                hint = "Install the extra `training` there, or name its interpreter with LTP_DATASET_PYTHON."
                raise LtpError(ErrorCode.DEPENDENCY_MISSING, message, hint)
        return self._process


async def _exchange(process: Process, request: dict[str, Any]) -> dict[str, Any]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(request).encode() + b"\n")
    await process.stdin.drain()
    line = await process.stdout.readline()
    if not line:
        raise OSError("the process ended")
    found: dict[str, Any] = json.loads(line)
    return found


@dataclass(frozen=True)
class Template:
    """What decides about a mask beside the rows: the model, and the recipe's limit."""

    model: str
    max_length: int
    truncation: str = "right"


async def masked(
    process: MaskProcess, rows: pa.Table, template: Template, *, detail: bool, seconds: float
) -> list[dict[str, Any]]:
    """What verl makes of each row, in order. The rows go through a Parquet file, as they do in training."""
    with tempfile.TemporaryDirectory(prefix="ltp-mask-") as folder:
        file = Path(folder) / "rows.parquet"
        read = [name for name in TRAINED_COLUMNS if name in rows.column_names]
        await asyncio.to_thread(pq.write_table, rows.select(read), file)
        data = sft_data_config(template.max_length, template.truncation)
        request = {"file": str(file), "model": template.model, "data": data, "detail": detail}
        return await process.ask(request, seconds)


def sample(source: Source, split: str | None, count: int) -> pa.Table:
    """Up to `count` rows with messages. Rows lie in the order of their hashes, so the first are a fair sample."""
    found: list[pa.Table] = []
    have = 0
    for name, table in source.tables(rows=min(count, 4096)):
        if split not in {None, name}:
            continue
        read = table.select(["row_id", "id", *(c for c in TRAINED_COLUMNS if c in table.column_names)])
        filled = read.filter(pc.is_valid(table.column("messages"))).slice(0, count - have)
        found.append(filled)
        have += filled.num_rows
        if have >= count:
            break
    if not have:
        where = f"split {split} of {source.name}" if split else source.name
        message = f"No row of {where} has messages, so there is nothing for SFT to train on."
        raise LtpError(ErrorCode.DATASET_MASK_EMPTY, message, "Use a dataset of conversations or of prompt and answer.")
    return pa.concat_tables(found)


def rows_by_id(source: Source, row_ids: Iterable[str]) -> pa.Table:
    """The rows of these names (row_id or id), in the order they are filed. Raises NOT_FOUND for one that is not there."""
    wanted = pa.array(list(row_ids), pa.string())
    found: list[pa.Table] = []
    for split, table in source.tables():
        named = pc.is_in(table.column("row_id"), wanted)
        mask = pc.or_(named, pc.is_in(table.column("id"), wanted))
        rows = table.filter(mask)
        if rows.num_rows:
            found.append(rows.append_column("split", pa.repeat(split, rows.num_rows)))
    table = pa.concat_tables(found) if found else None
    there = set() if table is None else {*table.column("row_id").to_pylist(), *table.column("id").to_pylist()}
    missing = [name for name in wanted.to_pylist() if name not in there]
    if table is None or missing:
        message = f"{source.name} in version {source.version[:12]} has no row {missing[0] if missing else ''}."
        raise LtpError(ErrorCode.NOT_FOUND, message, "`ltp dataset rows` shows rows with their ids.")
    return table


def judged(rows: Sequence[dict[str, Any]], names: Sequence[str], total: int, max_length: int) -> dict[str, Any]:
    """Lengths in tokens, the trained share, and what the limit loses, over the rows that were asked about."""
    good = [(name, row) for name, row in zip(names, rows, strict=True) if "problem" not in row]
    failed = [(name, row["problem"]) for name, row in zip(names, rows, strict=True) if "problem" in row]
    tokens, trained, kept, learnt = (
        np.array([row[key] for _, row in good], dtype=np.int64) for key in ("tokens", "trained", "kept", "kept_trained")
    )
    lengths, responses = Numbers(), Numbers()
    lengths.update(tokens)
    responses.update(trained)
    return {
        "sampled_rows": len(rows),
        "rows": total,
        "max_length": max_length,
        "tokens": lengths.summary(),
        "trained_tokens": responses.summary(),
        "trained_ratio": _ratio(trained.sum(), tokens.sum()),
        "truncated_rows_ratio": _ratio((kept < tokens).sum(), len(good)),
        "tokens_lost_ratio": _ratio((tokens - kept).sum(), tokens.sum()),
        "trained_tokens_lost_ratio": _ratio((trained - learnt).sum(), trained.sum()),
        "zero_trained_rows": int((learnt == 0).sum()),
        "all_trained_rows": int((learnt == kept).sum()),
        "zero_trained_examples": [name for name, row in good if row["kept_trained"] == 0][:10],
        "problem_rows": len(failed),
        "problem_examples": [{"row_id": name, "problem": problem} for name, problem in failed[:5]],
    }


def _ratio(part: Any, whole: Any) -> float:
    return float(part) / float(whole) if whole else 0.0


def verdict(found: dict[str, Any], template: Template) -> LtpError | None:
    """The error that keeps a job from starting; None when there is something to learn and something masked."""
    size, under = found["sampled_rows"], f"under the chat template of {template.model}"
    asked = f"{size} of {found['rows']} rows were asked about"
    if found["problem_rows"] == size:
        message = f"verl refuses every row {under}: {found['problem_examples'][0]['problem']} ({asked})."
        return LtpError(ErrorCode.DATASET_MASK_EMPTY, message, "Use a model whose template takes these conversations.")
    if found["problem_rows"]:
        first = found["problem_examples"][0]
        message = (
            f"verl would stop at {found['problem_rows']} rows {under}, first {first['row_id']}: {first['problem']} "
            f"({asked})."
        )
        hint = "Leave these rows out, or use a model whose template takes them; `ltp dataset mask --row ID` shows one."
        return LtpError(ErrorCode.DATASET_ROW_INVALID, message, hint)
    if found["zero_trained_rows"] == size:
        cut = found["trained_ratio"] > 0
        why = f"max_length {template.max_length} cuts every answer off" if cut else "the loss mask is all zero"
        message = f"No row has a token to train on {under}: {why} ({asked})."
        hint = "Raise training.max_length." if cut else "Use a model whose chat template marks the assistant's turns."
        return LtpError(ErrorCode.DATASET_MASK_EMPTY, message, hint)
    if found["all_trained_rows"] == size:
        message = f"Every token of every row is trained on, the prompts too, {under}: the mask is all one ({asked})."
        return LtpError(
            ErrorCode.DATASET_MASK_EMPTY, message, "Use a model whose chat template has a generation prompt."
        )
    return None
