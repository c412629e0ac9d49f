"""A pipeline's graph: references followed, fan-out spelt out, and every fault with the place where it stands. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from ltp.contracts.pipeline import MAX_STAGES, PipelineSpec, StageSpec
from ltp.contracts.stages import STAGE_KINDS, TRIGGER_OUTPUTS, Condition, Reference, Scalar
from ltp.core.graph import cycle, in_order

Place = tuple[int | str, ...]
# Gives the value of a reference.
Lookup = Callable[[Reference], Any]
_RESERVED = ("matrix", "trigger")


@dataclass(frozen=True)
class Fault:
    """Something that makes a pipeline impossible, and where it stands."""

    place: Place
    message: str


@dataclass(frozen=True)
class Node:
    """One stage to be done: a stage of the pipeline, or one of its fan-out."""

    key: str
    stage: str
    kind: str
    # The keys of what must be over before.
    needs: tuple[str, ...]
    # With references to the matrix replaced by their values.
    settings: dict[str, Any]
    when: tuple[dict[str, Any], ...]
    # For each stage it refers to or needs: the nodes of it that it sees; one that it is paired with, or all.
    sees: Mapping[str, tuple[str, ...]]
    # Whether a reference to a stage gives one value, not a list.
    single: frozenset[str]
    reuse: bool


def refuse_faults(spec: PipelineSpec) -> None:
    """Raise a ValidationError that names the place of each fault; return when there is none."""
    faults = _faults(spec)
    if faults:
        details = [
            InitErrorDetails(
                type=PydanticCustomError("pipeline", "{fault}", {"fault": f.message}), loc=f.place, input=""
            )
            for f in faults[:8]
        ]
        raise ValidationError.from_exception_data("PipelineSpec", details)


def expand(spec: PipelineSpec) -> list[Node]:
    """The nodes of a sound pipeline, each after what it needs."""
    instances = {name: _instances(spec, name) for name in spec.stages}
    needs = {name: _needs(stage) for name, stage in spec.stages.items()}
    return [
        _node(spec, name, index, values, instances, needs)
        for name in in_order(needs)
        for index, values in enumerate(instances[name])
    ]


def references(value: Any) -> list[tuple[Place, Reference]]:
    """Every `{from: …}` inside a value, with its place."""
    if isinstance(value, dict):
        mapping = cast("dict[str, Any]", value)
        if set(mapping) == {"from"}:
            return [((), Reference.model_validate(mapping))]
        return [((key, *place), found) for key, inner in mapping.items() for place, found in references(inner)]
    if isinstance(value, list):
        items = cast("list[Any]", value)
        return [((index, *place), found) for index, inner in enumerate(items) for place, found in references(inner)]
    return []


def fill(value: Any, lookup: Lookup) -> Any:
    """The value with each reference replaced by what `lookup` gives for it."""
    if isinstance(value, dict):
        mapping = cast("dict[str, Any]", value)
        if set(mapping) == {"from"}:
            return lookup(Reference.model_validate(mapping))
        return {key: fill(inner, lookup) for key, inner in mapping.items()}
    if isinstance(value, list):
        return [fill(inner, lookup) for inner in cast("list[Any]", value)]
    return value


def literal_paths(spec: PipelineSpec) -> list[str]:
    """Files and model directories that the pipeline names itself, each once."""
    found: dict[str, None] = {}
    for node in expand(spec):
        for path in STAGE_KINDS[node.kind].paths:
            for section, key in places_of(node.settings, path.split(".")):
                found[section[key]] = None
    return list(found)


def places_of(section: Any, keys: Sequence[str]) -> Iterator[tuple[Any, Any]]:
    """The texts to which `keys` lead, each as the mapping or list that holds it and its key there."""
    if isinstance(section, list):
        items = cast("list[Any]", section)
        for index, item in enumerate(items):
            if isinstance(item, str) and not keys:
                yield items, index
            else:
                yield from places_of(item, keys)
    elif isinstance(section, dict) and keys:
        mapping = cast("dict[str, Any]", section)
        value = mapping.get(keys[0])
        if isinstance(value, str) and len(keys) == 1:
            yield mapping, keys[0]
        else:
            yield from places_of(value, keys[1:])


def _faults(spec: PipelineSpec) -> list[Fault]:
    """Faults of one layer at a time: what comes later would only repeat what comes first."""
    for layer in (_local_faults, _graph_faults, _fan_out_faults, _settings_faults):
        found = layer(spec)
        if found:
            return found
    return []


def _local_faults(spec: PipelineSpec) -> list[Fault]:
    faults: list[Fault] = []
    for name, stage in spec.stages.items():
        here: Place = ("stages", name)
        if name in _RESERVED:
            faults.append(Fault(here, f"a stage cannot be called {name!r}: references use that word"))
        if stage.kind not in STAGE_KINDS:
            faults.append(Fault((*here, "kind"), f"unknown kind {stage.kind!r}; there are {', '.join(STAGE_KINDS)}"))
        if stage.matrix is not None and stage.each is not None:
            faults.append(Fault((*here, "each"), "give `matrix` or `each`, not both"))
        try:
            _references_of(stage)
        except ValidationError:
            faults.append(
                Fault((*here, "settings"), "a reference is {from: STAGE.OUTPUT} in lower case, and nothing else")
            )
    return faults


def _graph_faults(spec: PipelineSpec) -> list[Fault]:
    faults: list[Fault] = []
    for name, stage in spec.stages.items():
        here: Place = ("stages", name)
        faults += [
            Fault((*here, "needs", index), f"there is no stage {need!r}")
            for index, need in enumerate(stage.needs)
            if need not in spec.stages
        ]
        if stage.each is not None and stage.each not in spec.stages:
            faults.append(Fault((*here, "each"), f"there is no stage {stage.each!r}"))
        for place, found in _references_of(stage):
            message = _bad_reference(spec, stage, found)
            if message:
                faults.append(Fault((*here, *place), message))
    if faults:
        return faults
    loop = cycle({name: _needs(stage) for name, stage in spec.stages.items()})
    if loop:
        return [Fault(("stages", loop[0]), f"the stages need each other in a circle: {' -> '.join(loop)}")]
    return []


def _fan_out_faults(spec: PipelineSpec) -> list[Fault]:
    faults: list[Fault] = []
    total = 0
    for name in spec.stages:
        count = len(_instances(spec, name, limit=MAX_STAGES + 1))
        total += count
        if count == 0:
            faults.append(Fault(("stages", name, "each"), f"{spec.stages[name].each!r} has no matrix to follow"))
        if total > MAX_STAGES:
            what = f"with its fan-out the pipeline has more than the limit of {MAX_STAGES} stages"
            return [Fault(("stages", name), what)]
    return faults


def _settings_faults(spec: PipelineSpec) -> list[Fault]:
    faults: list[Fault] = []
    seen: set[tuple[Place, str]] = set()
    for node in expand(spec):
        here: Place = ("stages", node.stage)
        lookup = _sampler(spec, node)
        for place, message in _node_faults(spec, node, lookup):
            if (place, message) not in seen:
                seen.add((place, message))
                faults.append(Fault((*here, *place), message))
    return faults


def _node_faults(spec: PipelineSpec, node: Node, lookup: Lookup) -> list[tuple[Place, str]]:
    kind = STAGE_KINDS[node.kind]
    faults: list[tuple[Place, str]] = []
    try:
        kind.settings.model_validate(fill(node.settings, lookup))
    except ValidationError as error:
        faults += [(("settings", *item["loc"]), _worded(item)) for item in error.errors(include_url=False)]
    for index, condition in enumerate(node.when):
        try:
            Condition.model_validate(fill(condition, lookup))
        except ValidationError as error:
            faults += [(("when", index, *item["loc"]), _worded(item)) for item in error.errors(include_url=False)]
    for setting, (wanted, output) in kind.linked.items():
        message = _bad_link(spec, node, setting, wanted, output)
        if message:
            faults.append((("settings", setting), message))
    if node.kind == "export" and not faults:
        message = _never_written(spec, node, fill(node.settings, lookup))
        faults += [(("settings", "step"), message)] if message else []
    return faults


def _bad_link(spec: PipelineSpec, node: Node, setting: str, kind: str, output: str) -> str | None:
    found = references(node.settings.get(setting))
    if len(found) != 1 or found[0][0] or found[0][1].output != output or spec.stages[found[0][1].owner].kind != kind:
        return f"must be {{from: STAGE.{output}}} of a {kind} stage"
    recipe = spec.stages[found[0][1].owner].settings.get("recipe")
    if (
        node.kind == "evaluate"
        and isinstance(recipe, dict)
        and cast("dict[str, Any]", recipe).get("evaluation") is None
    ):
        return f"the recipe of stage {found[0][1].owner!r} has no section `evaluation`, so nothing will be compared"
    return None


def _never_written(spec: PipelineSpec, node: Node, settings: Mapping[str, Any]) -> str | None:
    """Why the checkpoint that an export stage wants will not be; None when it may, or when that is not written down."""
    recipe = spec.stages[Reference.model_validate(node.settings["job"]).owner].settings.get("recipe")
    training = cast("dict[str, Any]", recipe).get("training") if isinstance(recipe, dict) else None
    if not isinstance(training, dict):
        return None
    known, step = cast("dict[str, Any]", training), settings["step"]
    steps, every = known.get("steps"), known.get("save_every")
    if isinstance(steps, int) and step > steps:
        return f"the training has {steps} steps"
    if (
        isinstance(steps, int)
        and (every is None or isinstance(every, int))
        and step != steps
        and step % (every or steps)
    ):
        return f"no checkpoint is written at step {step}: save_every is {every or 'not set'}"
    return None


def _bad_reference(spec: PipelineSpec, stage: StageSpec, found: Reference) -> str | None:
    if found.owner == "matrix":
        axes = _axes(spec, stage)
        known = ", ".join(axes) or "none"
        return None if found.output in axes else f"there is no axis {found.output!r} here; there are: {known}"
    if found.owner == "trigger":
        outputs = _trigger_outputs(spec)
        known = ", ".join(outputs) or "none, since the pipeline has no triggers"
        return None if found.output in outputs else f"no trigger gives {found.output!r}; given by all: {known}"
    if found.owner not in spec.stages:
        return f"there is no stage {found.owner!r}"
    outputs = STAGE_KINDS[spec.stages[found.owner].kind].outputs
    if found.output not in outputs:
        return f"stage {found.owner!r} gives no {found.output!r}; it gives {', '.join(outputs)}"
    return None


def _trigger_outputs(spec: PipelineSpec) -> dict[str, Any]:
    """What every trigger gives: a run may come from any of them."""
    given = [TRIGGER_OUTPUTS[trigger.event] for trigger in spec.triggers]
    return {name: value for name, value in (given[0] if given else {}).items() if all(name in g for g in given)}


def _worded(item: Any) -> str:
    named = {"extra_forbidden": "unknown key", "missing": "missing"}
    return named.get(item["type"], str(item["msg"]).removeprefix("Value error, "))


def _references_of(stage: StageSpec) -> list[tuple[Place, Reference]]:
    found = [(("settings", *place), reference) for place, reference in references(stage.settings)]
    for index, condition in enumerate(stage.when):
        found += [(("when", index, "value", *place), reference) for place, reference in references(condition.value)]
    return found


def _needs(stage: StageSpec) -> list[str]:
    """The stages that must be over before: named, followed, or referred to."""
    named = [*stage.needs, *([stage.each] if stage.each else [])]
    named += [reference.owner for _, reference in _references_of(stage) if reference.owner not in _RESERVED]
    return list(dict.fromkeys(named))


def _family(spec: PipelineSpec, name: str) -> str:
    """The stage whose matrix this one follows; itself when it follows none. Ends, since `each` is a need and needs have no circle."""
    each = spec.stages[name].each
    return name if each is None else _family(spec, each)


def _axes(spec: PipelineSpec, stage: StageSpec) -> list[str]:
    seen = 0
    while stage.each is not None and stage.each in spec.stages and seen <= len(spec.stages):
        stage, seen = spec.stages[stage.each], seen + 1
    return list(stage.matrix or {})


def _instances(spec: PipelineSpec, name: str, limit: int | None = None) -> list[dict[str, Scalar]]:
    """The combinations of a stage's axes; one empty combination without a matrix; none where `each` follows no matrix."""
    matrix = spec.stages[_family(spec, name)].matrix
    if matrix is None:
        return [] if spec.stages[name].each is not None else [{}]
    combinations = itertools.product(*matrix.values())
    return [dict(zip(matrix, values, strict=True)) for values in itertools.islice(combinations, limit)]


def _node(
    spec: PipelineSpec,
    name: str,
    index: int,
    values: Mapping[str, Scalar],
    instances: Mapping[str, Sequence[Mapping[str, Scalar]]],
    needs: Mapping[str, Sequence[str]],
) -> Node:
    stage = spec.stages[name]
    sees: dict[str, tuple[str, ...]] = {}
    single: set[str] = set()
    for need in needs[name]:
        fanned = _fanned(spec, need)
        paired = fanned and _fanned(spec, name) and _family(spec, need) == _family(spec, name)
        keys = [_key(spec, need, i) for i in range(len(instances[need]))]
        sees[need] = (keys[index],) if paired else tuple(keys)
        if paired or not fanned:
            single.add(need)

    def matrix_value(reference: Reference) -> Any:
        return values[reference.output] if reference.owner == "matrix" else {"from": reference.source}

    return Node(
        key=_key(spec, name, index),
        stage=name,
        kind=stage.kind,
        needs=tuple(key for keys in sees.values() for key in keys),
        settings=fill(stage.settings, matrix_value),
        when=tuple(fill(c.model_dump(exclude_none=True), matrix_value) for c in stage.when),
        sees=sees,
        single=frozenset(single),
        reuse=stage.reuse,
    )


def _fanned(spec: PipelineSpec, name: str) -> bool:
    return spec.stages[_family(spec, name)].matrix is not None


def _key(spec: PipelineSpec, name: str, index: int) -> str:
    return f"{name}[{index}]" if _fanned(spec, name) else name


def _sampler(spec: PipelineSpec, node: Node) -> Lookup:
    triggered = _trigger_outputs(spec)

    def sample(reference: Reference) -> Any:
        if reference.owner == "trigger":
            return triggered[reference.output]
        value = STAGE_KINDS[spec.stages[reference.owner].kind].outputs[reference.output]
        return value if reference.owner in node.single else [value] * len(node.sees[reference.owner])

    return sample
