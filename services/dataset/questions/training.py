"""What training would make of a version: profile, loss mask, and the gate before a job."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any

from faststream import Context
from faststream.nats import NatsRouter

from ltp.bus.rpc import answered_by, replies
from ltp.contracts.dataset import (
    DatasetProfile,
    GateAnswer,
    GateAsked,
    MaskAsked,
    MaskedRows,
    ProfileAsked,
)
from ltp.core.errors import ErrorCode, LtpError
from services.dataset import store
from services.dataset.files import PROFILE
from services.dataset.gate import Gate
from services.dataset.handlers import SERVICE
from services.dataset.masks import MaskProcess, Template, judged, masked, rows_by_id, sample
from services.dataset.questions.asked import Db, Settings, fitting, meant, versions_dir
from services.dataset.settings import DatasetSettings
from services.dataset.versions import same_rows

questions = NatsRouter()
Masks = Annotated[MaskProcess, Context("masks")]
Gated = Annotated[Gate, Context("gate")]
_MASK_SECONDS = 240.0


@questions.subscriber(**answered_by(SERVICE, "profile"))
@replies
async def show_profile(asked: ProfileAsked, database: Db, settings: Settings, masks: Masks) -> DatasetProfile:
    source = await meant(asked, database, settings)
    row = (await store.version(database.engine, source.project, source.name, source.version))[0]
    splits = json.loads(await asyncio.to_thread((source.directory / PROFILE).read_text))
    if asked.split is not None:
        splits = {name: found for name, found in splits.items() if name == asked.split}
        if not splits:
            raise LtpError(ErrorCode.NOT_FOUND, f"{source.name} has no split {asked.split!r}.", "")
    without_personal(splits, set(row["personal"] or ()))
    tokens = None
    if asked.model is not None:
        template = Template(_model(settings, asked.model), asked.max_length)
        rows = await asyncio.to_thread(sample, source, asked.split, max(1, min(asked.sample_rows, 50_000)))
        found = await masked(masks, rows, template, detail=False, seconds=_MASK_SECONDS)
        tokens = judged(found, rows.column("row_id").to_pylist(), row["rows"], asked.max_length)
    return DatasetProfile(name=source.name, version=source.version, splits=splits, tokens=tokens)


def without_personal(splits: dict[str, dict[str, Any]], personal: set[str]) -> None:
    """Take the values of marked fields out of profiles; counts of values and nulls stay."""
    for found in splits.values():
        for name in personal & found["fields"].keys():
            found["fields"][name] = {
                k: v for k, v in found["fields"][name].items() if k in {"count", "nulls", "distinct"}
            }
            found["fields"][name]["personal"] = True
        found["crosstabs"] = [table for table in found["crosstabs"] if not personal & {*table["fields"]}]
        found["lengths"] = {k: v for k, v in found["lengths"].items() if k.removeprefix("fields.") not in personal}


@questions.subscriber(**answered_by(SERVICE, "mask"))
@replies
async def show_mask(asked: MaskAsked, database: Db, settings: Settings, masks: Masks) -> MaskedRows:
    source = await meant(asked, database, settings)
    if asked.row_ids:
        rows = await asyncio.to_thread(rows_by_id, source, asked.row_ids)
    else:
        rows = await asyncio.to_thread(sample, source, asked.split, max(1, min(asked.limit, 20)))
    template = Template(_model(settings, asked.model), asked.max_length, asked.truncation)
    found = await masked(masks, rows, template, detail=True, seconds=_MASK_SECONDS)
    named = zip(rows.column("row_id").to_pylist(), rows.column("id").to_pylist(), found, strict=True)
    return fitting(
        MaskedRows(version=source.version, rows=[{"row_id": r, "id": i, **_verdict(f), **f} for r, i, f in named])
    )


def _verdict(found: dict[str, Any]) -> dict[str, str]:
    if "problem" in found:
        return {"verdict": "problem"}
    if found["kept_trained"] == 0:
        return {"verdict": "nothing is trained" if found["trained"] == 0 else "all that is trained is cut off"}
    return {"verdict": "everything is trained" if found["kept_trained"] == found["kept"] else "ok"}


@questions.subscriber(**answered_by(SERVICE, "gate"))
@replies
async def judge_dataset(asked: GateAsked, database: Db, settings: Settings, gate: Gated) -> GateAnswer:
    source = await same_rows(database, versions_dir(settings), asked.dataset.name, asked.dataset.version)
    return await gate.judge(asked.recipe, source)


def _model(settings: DatasetSettings, path: str) -> str:
    """A model's folder: absolute, or under the data directory's `models`."""
    found = settings.root() / "models" / path
    if not found.is_dir():
        message = f"There is no model at {found}."
        raise LtpError(ErrorCode.MODEL_NOT_FOUND, message, "Give the path of a folder with a tokenizer.")
    return str(found)
