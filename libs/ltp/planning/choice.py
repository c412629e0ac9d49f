"""From a recipe and hosts to a plan, a ranked report, or the refusal with its remedies: what the service and the CLI both call."""

from __future__ import annotations

from collections.abc import Sequence

from ltp.contracts.plan_report import PlanReport
from ltp.contracts.recipe import Recipe
from ltp.contracts.values import Plan, Problem
from ltp.core.errors import ErrorCode, LtpError
from ltp.core.model_config import Architecture
from ltp.planning.candidates import per_device, samples_of
from ltp.planning.pools import HostFacts, Kind, Pool
from ltp.planning.ranking import pareto, ranked
from ltp.planning.remedies import refusal, remedies_for
from ltp.planning.report import plan_of, rejections
from ltp.planning.search import Found, kinds_of, pools_for, search
from ltp.planning.second_opinion import confirmed
from ltp.planning.space import Margins

MAX_PLANS = 10
MAX_REPORTED = 200


def choose(
    recipe: Recipe,
    arch: Architecture,
    hosts: Sequence[HostFacts],
    *,
    rows: int | None = None,
    margins: Margins | None = None,
) -> Plan:
    """The best plan for a recipe on suitable devices of one host; `rows` are the dataset's, if known.

    Raises LtpError: NO_HOST, INVALID_RECIPE (the recipe contradicts itself or the model), PLAN_DOES_NOT_FIT.
    """
    found = explore(recipe, arch, hosts, rows=rows, margins=margins)
    if not found.fitting:
        raise refusal(recipe, arch, hosts, found)
    order = confirmed(recipe, arch, ranked(recipe, found.fitting), found)
    if not order:
        raise refusal(recipe, arch, hosts, found)
    return plan_of(recipe, arch, order[0], rejections(recipe, order, found))


def report(
    recipe: Recipe,
    arch: Architecture,
    hosts: Sequence[HostFacts],
    *,
    rows: int | None = None,
    margins: Margins | None = None,
) -> PlanReport:
    """As `choose`, with the plans behind the first, the Pareto front, and every near miss; a refusal is in `problem`."""
    found = explore(recipe, arch, hosts, rows=rows, margins=margins)
    order = confirmed(recipe, arch, ranked(recipe, found.fitting), found)
    front = pareto(recipe, order)
    shown = order[:MAX_PLANS]
    shown += [candidate for candidate in front if candidate not in shown][:MAX_PLANS]
    plans = [plan_of(recipe, arch, candidate, []) for candidate in shown]
    if plans:
        plans[0] = plan_of(recipe, arch, order[0], rejections(recipe, order, found))
    best = [shown.index(candidate) for candidate in front if candidate in shown]
    return PlanReport(
        plans=plans,
        pareto=sorted(best),
        candidates=found.considered,
        fitting=len(found.fitting),
        rejected=rejections(recipe, order, found, most=MAX_REPORTED),
        remedies=[] if plans else remedies_for(recipe, arch, hosts, found),
        problem=None if plans else Problem.of(refusal(recipe, arch, hosts, found)),
    )


def explore(
    recipe: Recipe,
    arch: Architecture,
    hosts: Sequence[HostFacts],
    *,
    rows: int | None = None,
    margins: Margins | None = None,
) -> Found:
    """All candidates on the first kind of device on which any fits; of `auto`, the processors come last.

    Raises LtpError: NO_HOST, INVALID_RECIPE.
    """
    first: Found | None = None
    for kind in kinds_of(recipe, hosts) if hosts else []:
        pools = pools_for(recipe, hosts, kind)
        if not pools:
            continue
        _check(recipe, arch, pools, rows)
        found = search(recipe, arch, pools, rows=rows, margins=margins)
        if found.fitting:
            return found
        first = first or found
    if first is None:
        raise _no_host(recipe, hosts)
    return first


def _no_host(recipe: Recipe, hosts: Sequence[HostFacts]) -> LtpError:
    if not hosts:
        return LtpError(ErrorCode.NO_HOST, "No host is registered.", "Add one with `ltp host add`, or start `ltp up`.")
    kind: Kind = kinds_of(recipe, hosts)[0]
    count, spread = recipe.resources.devices, recipe.resources.hosts
    if spread > 1:
        message = f"The recipe asks for {count} equal {kind} devices on {spread} hosts, the same number on each; there are no such hosts."
        return LtpError(
            ErrorCode.NO_HOST, message, "Choose devices as a multiple of hosts, or add a host (`ltp host add`)."
        )
    most = max(sum(device.kind == kind for device in host.devices) for host in hosts)
    hint = f"Set resources.devices to {most} or less" if most else "Use resources.device_kind: auto"
    message = f"The recipe asks for {count} equal {kind} device(s) on one host, and the best host has {most}."
    return LtpError(ErrorCode.NO_HOST, message, f"{hint}, or add a host.")


def _check(recipe: Recipe, arch: Architecture, pools: Sequence[Pool], rows: int | None) -> None:
    """What no choice of the planner can mend: said by the name of the recipe's field (docs/training.md)."""
    training, section = recipe.training, recipe.reinforcement
    if rows is not None and rows < training.batch_size:
        message = f"{rows} rows do not fill one batch: training.batch_size is {training.batch_size}."
        hint = f"Set training.batch_size to {max(rows, 1)} or less, or add rows."
        raise LtpError(ErrorCode.DATASET_TOO_SMALL, message, hint)
    if training.max_length > arch.max_positions:
        what = f"training.max_length is {training.max_length}, and the model has {arch.max_positions} positions"
        raise _contradiction(what, f"Set it to {arch.max_positions} or less.")
    if section is not None and section.max_response_length >= training.max_length:
        what = f"reinforcement.max_response_length {section.max_response_length} leaves no room for a prompt"
        raise _contradiction(what, f"Keep it below training.max_length, which is {training.max_length}.")
    sequences = training.batch_size * samples_of(recipe)
    dividing = [pool for pool in pools if sequences % pool.devices == 0]
    if not dividing:
        count = min(pool.devices for pool in pools)
        what = f"{sequences} sequences a step cannot be shared evenly by {count} devices"
        raise _contradiction(what, f"Make training.batch_size a multiple of {count}.")
    micro = recipe.resources.micro_batch_size
    shares = {per_device(recipe, pool.devices) for pool in dividing}
    if micro is not None and all(share % micro for share in shares):
        what = f"resources.micro_batch_size {micro} does not divide the {max(shares)} sequences of each device"
        raise _contradiction(what, "Choose a divisor, or leave it out.")


def _contradiction(what: str, hint: str) -> LtpError:
    return LtpError(ErrorCode.INVALID_RECIPE, f"The recipe cannot run: {what}.", hint)
