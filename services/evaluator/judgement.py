"""What a checkpoint's evaluation means for its job: the best so far, an alarm, the gate. Load, decide, tell."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy.engine import RowMapping

from ltp.contracts.evaluation import BestCheckpointChanged, PromotionDecided, RegressionFound, Result
from ltp.contracts.evaluation_questions import ComparisonRecord
from ltp.contracts.gate import Gate
from ltp.core.errors import LtpError
from ltp.store.database import Unit
from services.evaluator import store, store_samples
from services.evaluator.comparing import Side, compare
from services.evaluator.samples import Sample


async def judge(unit: Unit, row: RowMapping, result: Result, samples: list[Sample]) -> None:
    """Follow a checkpoint's score where the job's policy asks for it: each checkpoint, or a gate."""
    made = await store.job(unit, row["job_id"])
    spec = made.recipe.evaluation if made is not None else None
    if spec is None or row["checkpoint_id"] is None or result.accuracy is None:
        return
    if spec.checkpoints == "final" and spec.gate is None:
        return
    best = await store.lock_best(unit, row["job_id"])
    against = UUID(best["evaluation_id"]) if best else await _base(unit, row["job_id"])
    compared = await _compared(unit, against, row, samples)
    about: dict[str, Any] = {"job_id": row["job_id"], "checkpoint_id": row["checkpoint_id"], "step": row["step"] or 0}
    about["evaluation_id"] = row["evaluation_id"]
    if best is None or result.accuracy.value > best["accuracy"]:
        ids = {"evaluation_id": str(row["evaluation_id"]), "checkpoint_id": str(row["checkpoint_id"])}
        await store.set_best(unit, row["job_id"], {**ids, "accuracy": result.accuracy.value})
        unit.emit(BestCheckpointChanged(**about, accuracy=result.accuracy.value), about=row["checkpoint_id"])
    for alarm in _alarms(compared, about):
        unit.emit(alarm, about=row["checkpoint_id"])
    if spec.gate is not None:
        promoted, reasons = decide(spec.gate, result, compared)
        unit.emit(PromotionDecided(**about, promoted=promoted, reasons=reasons), about=row["checkpoint_id"])


def decide(gate: Gate, result: Result, compared: ComparisonRecord | None) -> tuple[bool, list[str]]:
    """Whether a model may be promoted, with the facts for or against. Pure."""
    against: list[str] = []
    facts: list[str] = []
    if result.accuracy is None:
        return False, ["there is no accuracy"]
    if gate.min_accuracy is not None:
        said = f"accuracy {result.accuracy.value:.1%}, at least {gate.min_accuracy:.1%} asked for"
        (facts if result.accuracy.value >= gate.min_accuracy else against).append(said)
    if compared is not None:
        if compared.verdict == "worse":
            against.append(f"worse than before: {compared.headline}")
        elif gate.max_loss is not None and compared.difference.low < -gate.max_loss:
            low = f"{-compared.difference.low:.1%}"
            against.append(f"a loss of {low} is not excluded; at most {gate.max_loss:.1%} is allowed")
        else:
            facts.append(f"not worse than before: {compared.headline}")
        against += [
            f"worse on {part.label}={part.value}: {part.difference.value:+.1%}"
            for part in compared.slices
            if part.label in gate.slices and part.verdict == "worse"
        ]
    elif gate.max_loss is not None:
        against.append("there is nothing to compare with")
    return not against, against or facts


async def _base(unit: Unit, job_id: UUID) -> UUID | None:
    return (await store.finished(unit, job_id)).get("base")


async def _compared(
    unit: Unit, against: UUID | None, row: RowMapping, samples: list[Sample]
) -> ComparisonRecord | None:
    if against is None or against == row["evaluation_id"]:
        return None
    before = await store.evaluation(unit, against)
    if before is None:
        return None
    earlier = Side.of(before, await store_samples.samples_of(unit, against))
    try:
        return compare(earlier, Side.of(row, samples), [])
    except LtpError:
        # Other rows, or too few in common: then there is nothing to say, and the gate says that.
        return None


def _alarms(compared: ComparisonRecord | None, about: dict[str, Any]) -> list[RegressionFound]:
    if compared is None:
        return []
    found: list[RegressionFound] = []
    if compared.verdict == "worse":
        found.append(
            RegressionFound(
                **about,
                than_evaluation_id=compared.before_id,
                difference=compared.difference.value,
                p_value=compared.p_value,
            )
        )
    return found + [
        RegressionFound(
            **about,
            than_evaluation_id=compared.before_id,
            slice=f"{part.label}={part.value}",
            difference=part.difference.value,
            p_value=part.adjusted_p,
        )
        for part in compared.slices
        if part.verdict == "worse"
    ]
