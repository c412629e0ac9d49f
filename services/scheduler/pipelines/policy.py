"""What a run of a pipeline does next: pure, from its nodes, where they stand, and the facts heard so far.

The same facts, in whatever order and however often they come, lead to the same end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from ltp.contracts.pipeline import RunState, StageState
from ltp.contracts.pipeline_graph import Node, fill, references
from ltp.contracts.stages import STAGE_KINDS, Condition, Reference
from ltp.core.errors import ErrorCode
from ltp.core.recipe import content_hash
from services.scheduler.pipelines.kinds import KINDS, Facts, Outcome, failed, holds

DONE = frozenset[StageState]({"succeeded", "reused"})
OVER = DONE | {"skipped", "failed", "cancelled"}


@dataclass(frozen=True)
class Stage:
    """Where a stage stands. `settings` are those it was started with."""

    key: str
    state: StageState = "waiting"
    outputs: Mapping[str, Any] | None = None
    digest: str | None = None
    settings: Mapping[str, Any] | None = None
    abort_asked: bool = False


@dataclass(frozen=True)
class World:
    """What the references of a run point to, beside its stages."""

    trigger: Mapping[str, Any] = field(default_factory=dict[str, Any])
    # Path -> digest of its content, pinned when the run was submitted.
    inputs: Mapping[str, str] = field(default_factory=dict[str, str])
    # In which datasets and earlier results are looked for.
    project: str = "default"


@dataclass(frozen=True)
class Start:
    """Begin a stage, or take over what an earlier run made under the same `cache_key`."""

    key: str
    settings: dict[str, Any]
    # None for a stage that is never reused.
    cache_key: str | None
    # What it is made from: name -> digest.
    inputs: dict[str, str]


@dataclass(frozen=True)
class Finish:
    """A stage is over."""

    key: str
    outcome: Outcome


@dataclass(frozen=True)
class Skip:
    """A stage is left out."""

    key: str
    reason: str


@dataclass(frozen=True)
class Cancel:
    """A stage ends because the run should; one that had begun asks its noun to end first (`Abort`)."""

    key: str


@dataclass(frozen=True)
class Abort:
    """Ask the noun of a running stage to end."""

    key: str


Action = Start | Finish | Skip | Cancel | Abort


def decide(
    nodes: Sequence[Node],
    stages: Mapping[str, Stage],
    facts: Mapping[str, Facts],
    world: World,
    *,
    cancel_requested: bool,
) -> list[Action]:
    """The next actions; empty when the run waits for facts or is over."""
    actions: list[Action] = []
    for node in nodes:
        stage = stages[node.key]
        if stage.state == "running":
            action = _of_running(node, stage, facts.get(node.key, {}), cancel_requested=cancel_requested)
        elif stage.state == "waiting":
            action = Cancel(node.key) if cancel_requested else _of_waiting(node, stages, world)
        else:
            continue
        if action is not None:
            actions.append(action)
    return actions


def end_of_run(stages: Mapping[str, Stage], *, cancel_requested: bool) -> RunState | None:
    """The final state of a run for which `decide` has no actions; None while a stage runs."""
    states = {stage.state for stage in stages.values()}
    if "running" in states:
        return None
    if states <= DONE | {"skipped"}:
        return "succeeded"
    return "cancelled" if cancel_requested and "failed" not in states else "failed"


def again(stage: Stage) -> bool:
    """Whether a resumed run does this stage anew: what failed, was cancelled, or was left out for want of those."""
    return stage.state in {"failed", "cancelled", "skipped"}


def _of_running(node: Node, stage: Stage, facts: Facts, *, cancel_requested: bool) -> Action | None:
    kind = KINDS[node.kind]
    outcome = kind.settle(stage.settings or {}, facts)
    if outcome is not None and outcome.state == "cancelled" and not cancel_requested:
        # Somebody ended the job itself: for the pipeline, a stage without its outputs.
        hint = "`ltp pipeline resume` does it again."
        outcome = failed(ErrorCode.STAGE_FAILED, "Its work was cancelled.", hint)
    if outcome is not None:
        return Finish(node.key, outcome)
    if cancel_requested and kind.cancel is None:
        return Cancel(node.key)
    return Abort(node.key) if cancel_requested and not stage.abort_asked else None


def _of_waiting(node: Node, stages: Mapping[str, Stage], world: World) -> Action | None:
    needed = [stages[key] for key in node.needs]
    left_out = [stage.key for stage in needed if stage.state == "skipped"]
    if left_out:
        return Skip(node.key, f"{left_out[0]} was left out")
    if not all(stage.state in DONE for stage in needed):
        return None
    return start(node, stages, world)


def start(node: Node, stages: Mapping[str, Stage], world: World) -> Start | Skip | Finish:
    """Begin a stage whose needs are done, unless a condition forbids it."""

    def value(reference: Reference) -> Any:
        if reference.owner == "trigger":
            return world.trigger[reference.output]
        found = [(stages[key].outputs or {})[reference.output] for key in node.sees[reference.owner]]
        return found[0] if reference.owner in node.single else found

    try:
        for raw in node.when:
            condition = Condition.model_validate(fill(raw, value))
            if not holds(condition):
                return Skip(node.key, f"its condition does not hold: the value is {condition.value!r}")
        settings = fill(node.settings, value)
        STAGE_KINDS[node.kind].settings.model_validate(settings)
    except (ValidationError, KeyError) as error:
        # Of the right type at the door, and out of range now: a value that only an earlier stage could give.
        return Finish(node.key, failed(ErrorCode.STAGE_FAILED, f"Its settings are not valid: {error}"[:1000]))
    reusable = node.reuse and KINDS[node.kind].reusable(settings)
    inputs = _inputs(node, stages, world)
    return Start(node.key, settings, _cache_key(node, stages, world) if reusable else None, inputs)


def _inputs(node: Node, stages: Mapping[str, Stage], world: World) -> dict[str, str]:
    """The digests of what a stage is made from: artefacts of earlier stages, and files it names."""
    made: dict[str, str] = {}
    for keys in node.sees.values():
        made |= {key: digest for key in keys if (digest := stages[key].digest) is not None}
    return made | {text: world.inputs[text] for text in _texts(node.settings) if text in world.inputs}


def _cache_key(node: Node, stages: Mapping[str, Stage], world: World) -> str:
    """Equal for the same kind, settings and contents, whatever ids and paths they came under."""

    def identity(reference: Reference) -> Any:
        if reference.owner == "trigger":
            return world.trigger[reference.output]
        seen = [stages[key] for key in node.sees[reference.owner]]
        return [[s.digest or (s.outputs or {})[reference.output], reference.output] for s in seen]

    settings = _by_content(fill(node.settings, identity), world.inputs)
    return content_hash({"kind": node.kind, "settings": settings})


def _by_content(value: Any, inputs: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {str(key): _by_content(inner, inputs) for key, inner in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, list):
        return [_by_content(inner, inputs) for inner in value]  # pyright: ignore[reportUnknownVariableType]
    return {"content": inputs[value]} if isinstance(value, str) and value in inputs else value


def _texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for inner in value.values() for text in _texts(inner)]  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, list):
        return [text for inner in value for text in _texts(inner)]  # pyright: ignore[reportUnknownVariableType]
    return [value] if isinstance(value, str) else []


def is_known(node: Node, stages: Mapping[str, Stage]) -> bool:
    """Whether all that a stage refers to is known: for looking ahead."""
    return all(
        stages[key].outputs is not None for _, r in _refs(node) if r.owner != "trigger" for key in node.sees[r.owner]
    )


def _refs(node: Node) -> list[Any]:
    return references([node.settings, list(node.when)])
