"""How each kind of stage is carried out: the command it puts to the door, and what the events about its noun mean. Pure.

A new kind is one entry in `KINDS` and one in `ltp.contracts.stages.STAGE_KINDS`; the events its noun ends with become facts in
`services.scheduler.outcomes`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from ltp.contracts.admission import What
from ltp.contracts.stages import Condition, GateSettings
from ltp.contracts.values import Problem
from ltp.core.errors import ErrorCode
from ltp.core.recipe import content_hash

# Name of a fact -> the event's data.
Facts = Mapping[str, dict[str, Any]]
Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Outcome:
    """How a stage ended. `digest` names what it made by its content."""

    state: Literal["succeeded", "failed", "cancelled"]
    outputs: dict[str, Any] | None = None
    digest: str | None = None
    problem: Problem | None = None


@dataclass(frozen=True)
class Kind:
    """`settle` says how a stage ended by its settings and the facts so far; None while it goes on."""

    settle: Callable[[Settings, Facts], Outcome | None]
    # What is put to the door; None for a stage that only decides or waits.
    command: Callable[[Settings], tuple[What, dict[str, Any]] | None] = lambda _: None
    # The noun that a stage looks at rather than makes.
    noun: Callable[[Settings], UUID | None] = lambda _: None
    # The command that ends its noun early.
    cancel: What | None = None
    # The output that is a path: what was made before is reused only while it is there.
    place: str | None = None
    reusable: Callable[[Settings], bool] = lambda _: True


def failed(code: ErrorCode, message: str, hint: str = "") -> Outcome:
    """A failure found here, not told by an event."""
    return Outcome("failed", problem=Problem(code=code, message=message, hint=hint))


def _dataset(settings: Settings, facts: Facts) -> Outcome | None:
    frozen = facts.get("frozen")
    if frozen is not None:
        outputs = {"name": frozen["name"], "version": frozen["version"], "rows": frozen["rows"]}
        return Outcome("succeeded", outputs, frozen["version"])
    return _told(facts, "rejected")


def _train(settings: Settings, facts: Facts) -> Outcome | None:
    """Over when the job succeeded and its last checkpoint can be loaded by others; the two come in any order."""
    told = _told(facts, "failed")
    if told is not None:
        return told
    succeeded, exported = facts.get("succeeded"), facts.get("exported")
    if succeeded is None:
        return None
    if exported is None:
        return _told(facts, f"export-failed-{succeeded['steps']}")
    outputs = {
        "job_id": exported["job_id"],
        "path": exported["path"],
        "digest": exported["weights_sha256"],
        "checkpoint_id": exported["checkpoint_id"],
        "steps": exported["step"],
    }
    return Outcome("succeeded", outputs, exported["weights_sha256"])


def _evaluate(settings: Settings, facts: Facts) -> Outcome | None:
    compared = facts.get("compared")
    if compared is None:
        return _told(facts, "evaluation-failed")
    outputs = {name: compared[name] for name in _FROM_COMPARISON}
    outputs |= {"accuracy": compared["trained"]["accuracy"], "base_accuracy": compared["base"]["accuracy"]}
    return Outcome("succeeded", outputs, content_hash({"job": str(settings["job"]), **outputs}))


_FROM_COMPARISON = (
    *("verdict", "difference", "difference_low", "difference_high", "p_value"),
    *("improved", "regressed"),
)


def _operation(settings: Settings, facts: Facts) -> Outcome | None:
    done = facts.get("operation-succeeded")
    if done is None:
        return _told(facts, "failed")
    outputs = {name: done[name] for name in ("operation_id", "path", "digest", "size_bytes")}
    return Outcome("succeeded", outputs, done["digest"])


def _averaged(settings: Settings) -> dict[str, Any]:
    """A linear merge in which every model weighs the same."""
    models = [{"model": path, "parameters": {"weight": 1.0}} for path in settings["models"]]
    recipe = {"merge_method": "linear", "models": models}
    return {"name": settings["name"], "recipe": recipe, "proof": settings.get("proof", True)}


def _export(settings: Settings, facts: Facts) -> Outcome | None:
    step = settings["step"]
    exported, last = facts.get(f"exported-{step}"), facts.get("exported")
    if exported is not None:
        outputs = {name: exported[name] for name in ("path", "checkpoint_id", "step")}
        digest = exported["weights_sha256"]
        return Outcome("succeeded", outputs | {"digest": digest}, digest)
    if last is not None and last["step"] < step:
        return failed(ErrorCode.STAGE_FAILED, f"The training ended at step {last['step']}, before step {step}.")
    return _told(facts, f"export-failed-{step}")


def _gate(settings: Settings, facts: Facts) -> Outcome:
    closed = [c for c in GateSettings.model_validate(settings).conditions if not holds(c)]
    if closed:
        what = "; ".join(f"{c.value!r} is not {_limit(c)}" for c in closed[:5])
        hint = "The stages before it keep their results; see them with `ltp pipeline get`."
        return failed(ErrorCode.GATE_CLOSED, f"The gate is closed: {what}.", hint)
    return Outcome("succeeded", {"passed": True})


def holds(condition: Condition) -> bool:
    """Whether a condition holds for its value, or for every value of a list."""
    values: list[Any] = condition.value if isinstance(condition.value, list) else [condition.value]  # pyright: ignore[reportUnknownVariableType]
    return all(_holds(condition, value) for value in values)


def _holds(c: Condition, value: Any) -> bool:
    if c.at_least is not None:
        return bool(value >= c.at_least)
    if c.above is not None:
        return bool(value > c.above)
    if c.at_most is not None:
        return bool(value <= c.at_most)
    if c.below is not None:
        return bool(value < c.below)
    return bool(value == c.equals) if c.equals is not None else bool(value != c.differs)


def _limit(c: Condition) -> str:
    words = {"at_least": "at least", "above": "above", "at_most": "at most", "below": "below", "equals": "equal to"}
    given = c.model_dump(exclude_none=True, exclude={"value"})
    name, limit = next(iter(given.items()))
    return f"{words.get(name, 'different from')} {limit!r}"


def _told(facts: Facts, name: str) -> Outcome | None:
    """The failure that an event told of, or the door's refusal, or the noun's cancellation by somebody else."""
    for fact in ("refused", name):
        if fact in facts:
            return Outcome("failed", problem=Problem.model_validate(facts[fact]["problem"]))
    return Outcome("cancelled") if "cancelled" in facts else None


KINDS: dict[str, Kind] = {
    "dataset": Kind(
        _dataset,
        command=lambda s: None if s.get("path") is None else ("dataset", dict(s)),
        # Waiting for a version is no work that could be saved.
        reusable=lambda s: s.get("path") is not None,
    ),
    "train": Kind(_train, command=lambda s: ("job", dict(s["recipe"])), cancel="job-cancellation", place="path"),
    "evaluate": Kind(_evaluate, noun=lambda s: UUID(str(s["job"]))),
    "merge": Kind(_operation, command=lambda s: ("operation", dict(s)), cancel="operation-cancellation", place="path"),
    "average": Kind(
        _operation, command=lambda s: ("operation", _averaged(s)), cancel="operation-cancellation", place="path"
    ),
    "export": Kind(_export, noun=lambda s: UUID(str(s["job"])), place="path"),
    # A gate is asked anew each time: that is what it is for.
    "gate": Kind(_gate, reusable=lambda _: False),
}
