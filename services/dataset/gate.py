"""Keeps a job from starting on data it cannot learn from: asked at the gateway's door, before a device is leased."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

from ltp.contracts.dataset import GateAnswer
from ltp.contracts.recipe import Recipe
from ltp.core.algorithms import family_of
from ltp.core.errors import ErrorCode, LtpError
from services.dataset.derive import Source
from services.dataset.masks import MaskProcess, Template, judged, masked, sample, verdict
from services.dataset.pairs import both_answers, demand_pairs

# Verdicts kept; a platform rarely trains on more versions at a time.
_CACHE = 256
_SECONDS = 20.0
_Key = tuple[str, str, float, str, int, str]


@dataclass
class Gate:
    """Verdicts by version, split, model, template and limit, each over a sample of the rows."""

    masks: MaskProcess
    rows: int
    _known: dict[_Key, GateAnswer | LtpError] = field(default_factory=dict[_Key, GateAnswer | LtpError])

    async def judge(self, recipe: Recipe, source: Source) -> GateAnswer:
        """What a sample of the training split says.

        SFT and DPO have a loss mask over their rows, DPO over both answers; RL is rewarded for what it generates. Raises
        DATASET_MASK_EMPTY when nothing, or everything, is trained, DATASET_ROW_INVALID when verl would stop at a row and
        for DPO over rows that are no pairs. A dataset of which some sampled rows have nothing to learn from may be
        trained on: the answer counts them.
        """
        family = family_of(recipe.algorithm)
        if family == "dpo":
            await asyncio.to_thread(demand_pairs, source, recipe.dataset.train_split)
        if family == "rl":
            return GateAnswer(checked=False, why=f"{recipe.algorithm} has no loss mask over the dataset's rows")
        model = Path(recipe.model.path)
        if not await asyncio.to_thread(model.is_dir):
            return GateAnswer(checked=False, why=f"{model} is not on this machine")
        split, length = recipe.dataset.train_split, recipe.training.max_length
        key = (source.version, split, _stamp(model), str(model), length, family)
        if key not in self._known:
            template = Template(str(model), recipe.training.max_length)
            found = await self._asked(source, recipe.dataset.train_split, template, pairs=family == "dpo")
            while len(self._known) >= _CACHE:
                del self._known[next(iter(self._known))]
            self._known[key] = found
        known = self._known[key]
        if isinstance(known, LtpError):
            raise known
        return known

    async def _asked(self, source: Source, split: str, template: Template, *, pairs: bool) -> GateAnswer | LtpError:
        try:
            rows = await asyncio.to_thread(both_answers if pairs else sample, source, split, self.rows)
            found = await masked(self.masks, rows, template, detail=False, seconds=_SECONDS)
        except LtpError as error:
            if error.code in {ErrorCode.DATASET_MASK_EMPTY, ErrorCode.DATASET_ROW_INVALID}:
                return error
            raise
        total = source.manifest()["splits"].get(split, {}).get("rows", 0)
        counted = judged(found, rows.column("row_id").to_pylist(), total, template.max_length)
        return verdict(counted, template) or GateAnswer(checked=True, found=counted)


def _stamp(model: Path) -> float:
    """When the tokenizer or its template last changed."""
    names = (p for p in model.iterdir() if "token" in p.name or "template" in p.name)
    return max((path.stat().st_mtime for path in names), default=0.0)
