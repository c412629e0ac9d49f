"""What each merge method takes: its parameters, where they may stand, their ranges, and how many models it merges.

Names, defaults and scopes are mergekit's (0.1.5), so that its files are read as they are; the ranges are ours, since a
density of 53 or a `t` of 1.7 merges silently there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from enum import Enum
from math import isfinite
from typing import Any, cast


class Scope(Enum):
    """Whom a parameter belongs to: the merge, every input, or every input but the base."""

    SHARED = "shared"
    INPUT = "input"
    NON_BASE = "non_base"


@dataclass(frozen=True)
class Parameter:
    """One parameter. `default` None means required, unless `optional`."""

    name: str
    kind: type
    scope: Scope
    default: float | int | bool | None = None
    low: float | None = None
    high: float | None = None
    optional: bool = False


@dataclass(frozen=True)
class Method:
    """A merge method's contract. `models` bounds how many inputs it takes, the base counted where `counts_base`."""

    name: str
    needs_base: bool
    models: tuple[int, int | None]
    counts_base: bool
    parameters: tuple[Parameter, ...] = field(default=())

    def parameter(self, name: str) -> Parameter | None:
        """The parameter of that name."""
        return next((p for p in self.parameters if p.name == name), None)


def _weight(scope: Scope = Scope.NON_BASE) -> Parameter:
    return Parameter("weight", float, scope)


def _flag(name: str, default: bool) -> Parameter:
    return Parameter(name, bool, Scope.SHARED, default)


def _task_method(name: str, *extra: Parameter, normalize: bool = False, rescale: bool = False) -> Method:
    shared = (
        _flag("int8_mask", False),
        _flag("normalize", normalize),
        _flag("rescale", rescale),
        Parameter("lambda", float, Scope.SHARED, 1.0),
    )
    density = Parameter("density", float, Scope.NON_BASE, 1.0, 0.0, 1.0)
    return Method(name, True, (1, None), False, (*shared, _weight(), density, *extra))


_GAMMA = Parameter("gamma", float, Scope.NON_BASE, 0.01, 0.0, 1.0)
_EPSILON = Parameter("epsilon", float, Scope.NON_BASE, 0.15, 0.0, 1.0)
_TOLERANCE = Parameter("eps", float, Scope.SHARED, 1e-8, 0.0)

_ALL = (
    Method("linear", False, (1, None), True, (_weight(Scope.INPUT), _flag("normalize", True))),
    Method("slerp", True, (2, 2), True, (Parameter("t", float, Scope.SHARED, None, 0.0, 1.0),)),
    Method(
        "nuslerp",
        False,
        (2, 2),
        False,
        (_weight(), _flag("nuslerp_row_wise", False), _flag("nuslerp_flatten", True)),
    ),
    Method("multislerp", False, (1, None), False, (_weight(), _flag("normalize_weights", True), _TOLERANCE)),
    Method(
        "karcher",
        False,
        (1, None),
        True,
        (
            Parameter("max_iter", int, Scope.SHARED, 10, 1, 1000),
            Parameter("tol", float, Scope.SHARED, 1e-5, 0.0, 1.0),
        ),
    ),
    Method("model_stock", True, (3, None), True, (_flag("filter_wise", False),)),
    Method("nearswap", True, (2, 2), True, (Parameter("t", float, Scope.SHARED, None, 0.0),)),
    Method(
        "sce",
        True,
        (1, None),
        False,
        (_flag("int8_mask", False), Parameter("select_topk", float, Scope.SHARED, 1.0, 0.0, 1.0)),
    ),
    Method("passthrough", False, (1, 1), True, (Parameter("scale", float, Scope.INPUT, optional=True),)),
    _task_method("task_arithmetic"),
    _task_method("ties", normalize=True),
    _task_method("dare_linear", rescale=True),
    _task_method("dare_ties", rescale=True),
    _task_method("breadcrumbs", _GAMMA),
    _task_method("breadcrumbs_ties", _GAMMA),
    _task_method("della", _EPSILON, normalize=True, rescale=True),
    _task_method("della_linear", _EPSILON, rescale=True),
)
METHODS: Mapping[str, Method] = {method.name: method for method in _ALL}
_EVERY_PARAMETER = frozenset(p.name for method in _ALL for p in method.parameters)


@dataclass(frozen=True)
class Fault:
    """Something wrong in a recipe: where (keys and indexes from the root) and what."""

    where: tuple[str | int, ...]
    message: str


def settings_faults(method: Method, settings: object, where: tuple[str | int, ...]) -> list[Fault]:
    """What is wrong with a `parameters:` section: unknown names and values that no parameter takes."""
    if settings is None:
        return []
    if not isinstance(settings, Mapping):
        return [Fault(where, f"parameters are a mapping of names to values, not {settings!r}")]
    faults: list[Fault] = []
    for name, value in cast("Mapping[str, object]", settings).items():
        parameter = method.parameter(name)
        if name not in _EVERY_PARAMETER:
            near = get_close_matches(str(name), [p.name for p in method.parameters], n=1)
            hint = f", did you mean {near[0]}?" if near else ""
            faults.append(Fault((*where, name), f"{method.name} has no parameter {name}{hint}"))
        elif parameter is not None:
            faults += _value_faults(parameter, value, (*where, name))
    return faults


def _value_faults(parameter: Parameter, value: object, where: tuple[str | int, ...]) -> list[Fault]:
    if isinstance(value, Mapping):
        rule = cast("Mapping[str, object]", value)
        strange = sorted(set(rule) - {"filter", "value"})
        if strange or "value" not in rule:
            what = f"unknown key {strange[0]}" if strange else "a rule needs `value`"
            return [Fault(where, f"{parameter.name}: {what}; a rule is {{filter: TEXT, value: ...}}")]
        if not isinstance(rule.get("filter"), str | None):
            return [Fault(where, f"{parameter.name}: a filter is a text, not {rule['filter']!r}")]
        return _value_faults(parameter, rule["value"], where)
    if isinstance(value, list):
        items = cast("list[object]", value)
        if not items:
            return [Fault(where, f"{parameter.name}: the list is empty")]
        return [fault for index, item in enumerate(items) for fault in _value_faults(parameter, item, (*where, index))]
    try:
        checked(parameter, value)
    except ValueError as error:
        return [Fault(where, str(error))]
    return []


def checked(parameter: Parameter, value: object) -> float | int | bool | None:
    """The value as its parameter's type. Raises ValueError with a sentence that names both."""
    if value is None and parameter.optional:
        return None
    if parameter.kind is bool:
        if isinstance(value, bool):
            return value
        if value in (0, 1):
            return bool(value)
        raise ValueError(f"{parameter.name} is true or false, not {value!r}")
    try:
        # YAML reads 1e-5 as a text.
        number = None if isinstance(value, bool) else float(cast("Any", value))
    except (TypeError, ValueError, OverflowError):
        number = None
    if number is None or not isfinite(number):
        raise ValueError(f"{parameter.name} is a finite number, not {value!r}")
    low, high = parameter.low, parameter.high
    if (low is not None and number < low) or (high is not None and number > high):
        span = f"in [{low:g}, {high:g}]" if high is not None else f"at least {low:g}"
        raise ValueError(f"{parameter.name} is {number:g} and must be {span}")
    if parameter.kind is int:
        if number != int(number):
            raise ValueError(f"{parameter.name} is a whole number, not {value!r}")
        return int(number)
    return number


def evaluate(parameter: Parameter, setting: object, tensor: str, t: float) -> float | int | bool | None:
    """The value of a setting for one tensor: first matching filter, and lists as gradients over the layers.

    `t` is the layer's place in its slice, 0 to 1. None when no filter matches, so that the next section is asked.
    """
    if isinstance(setting, Mapping):
        setting = [setting]
    if not isinstance(setting, list):
        return checked(parameter, setting)
    items = cast("list[object]", setting)
    if all(not isinstance(item, Mapping | list) for item in items):
        return _on_gradient(parameter, [checked(parameter, item) for item in items], t)
    for item in items:
        if not isinstance(item, Mapping):
            return evaluate(parameter, item, tensor, t)
        rule = cast("Mapping[str, object]", item)
        wanted = cast("str | None", rule.get("filter"))
        if wanted is None or wanted == "*" or wanted in tensor:
            return evaluate(parameter, rule["value"], tensor, t)
    return None


def _on_gradient(parameter: Parameter, values: Sequence[float | int | bool | None], t: float) -> Any:
    place = t * (len(values) - 1)
    if parameter.kind is bool or any(value is None for value in values):
        return values[int(place)]
    numbers = cast("Sequence[float]", values)
    left = int(place)
    right, share = min(len(values) - 1, left + 1), place - left
    mixed = (1 - share) * numbers[left] + share * numbers[right]
    return int(mixed) if parameter.kind is int else mixed


def resolve(parameter: Parameter, sections: Iterable[Mapping[str, Any] | None], tensor: str, t: float) -> Any:
    """The value for one tensor from sections in falling precedence. Raises ValueError when a required one is missing."""
    for section in sections:
        if section is not None and parameter.name in section:
            value = evaluate(parameter, section[parameter.name], tensor, t)
            if value is not None:
                return value
    if parameter.default is None and not parameter.optional:
        raise ValueError(f"the parameter {parameter.name} is missing for {tensor}")
    return parameter.default
