"""Runs of arbitrary pipelines: facts in any order and twice, cancelled or resumed at any moment, come to the one right end."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ltp.contracts.pipeline import PipelineSpec
from ltp.contracts.pipeline_graph import Node, expand
from services.scheduler.pipelines.policy import (
    DONE,
    Abort,
    Cancel,
    Finish,
    Skip,
    Stage,
    Start,
    World,
    again,
    decide,
    end_of_run,
)


class Engine:
    """What the store does, in memory."""

    def __init__(self, nodes: list[Node]) -> None:
        self.nodes = nodes
        self.stages = {node.key: Stage(node.key) for node in nodes}
        self.facts: dict[str, dict[str, dict[str, Any]]] = {node.key: {} for node in nodes}
        self.starts: list[str] = []
        self.cancel_requested = False

    def go_on(self) -> None:
        options = {"cancel_requested": self.cancel_requested}
        while actions := decide(self.nodes, self.stages, self.facts, World(), **options):
            for action in actions:
                stage = self.stages[action.key]
                if isinstance(action, Start):
                    node = next(n for n in self.nodes if n.key == action.key)
                    assert all(self.stages[need].state in DONE for need in node.needs)
                    self.starts.append(action.key)
                    self.facts[action.key] = {}
                    change: dict[str, Any] = {"state": "running", "settings": action.settings}
                elif isinstance(action, Finish):
                    outcome = action.outcome
                    change = {"state": outcome.state, "outputs": outcome.outputs, "digest": outcome.digest}
                elif isinstance(action, Skip):
                    change = {"state": "skipped"}
                elif isinstance(action, Cancel):
                    change = {"state": "cancelled"}
                else:
                    assert isinstance(action, Abort)
                    assert not stage.abort_asked
                    change = {"abort_asked": True}
                self.stages[action.key] = replace(stage, **change)

    def hear(self, key: str, good: bool) -> None:
        """The noun's last word; a second time changes nothing."""
        if good:
            self.facts[key].setdefault("frozen", {"name": key, "version": "0" * 64, "rows": 1})
        else:
            self.facts[key].setdefault("rejected", {"problem": {"code": "dataset_empty", "message": "empty"}})

    def running(self) -> list[str]:
        return [key for key, stage in self.stages.items() if stage.state == "running"]


def pipeline(count: int, edges: set[tuple[int, int]]) -> list[Node]:
    stages = {
        f"s{i}": {
            "kind": "dataset",
            "settings": {"name": f"d{i}", "path": f"/d{i}"},
            "needs": [f"s{a}" for a, b in sorted(edges) if b == i],
        }
        for i in range(count)
    }
    return expand(PipelineSpec.model_validate({"name": "p", "stages": stages}))


dags = st.integers(1, 8).flatmap(
    lambda n: st.tuples(
        st.just(n),
        st.sets(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)).filter(lambda e: e[0] < e[1]), max_size=14),
        st.sets(st.integers(0, n - 1), max_size=2),
    )
)


def run_to_the_end(engine: Engine, bad: set[str], chance: random.Random) -> None:
    engine.go_on()
    while waiting := engine.running():
        key = chance.choice(waiting)
        for _ in range(chance.choice([1, 2])):
            engine.hear(key, key not in bad)
        engine.go_on()


@settings(max_examples=150, deadline=None)
@given(dags, st.randoms(use_true_random=False))
def test_each_stage_starts_once_after_its_needs_and_the_end_does_not_depend_on_the_order(
    dag: tuple[int, set[tuple[int, int]], set[int]], chance: random.Random
) -> None:
    count, edges, broken = dag
    bad = {f"s{i}" for i in broken}
    engine = Engine(pipeline(count, edges))
    run_to_the_end(engine, bad, chance)
    assert len(engine.starts) == len(set(engine.starts))
    blocked: set[str] = set()
    for node in engine.nodes:
        if set(node.needs) & (blocked | bad):
            blocked.add(node.key)
    for key, stage in engine.stages.items():
        assert stage.state == ("waiting" if key in blocked else "failed" if key in bad else "succeeded")
    assert end_of_run(engine.stages, cancel_requested=False) == ("failed" if bad - blocked else "succeeded")


@settings(max_examples=100, deadline=None)
@given(dags, st.randoms(use_true_random=False))
def test_a_resumed_run_does_only_what_was_not_done(
    dag: tuple[int, set[tuple[int, int]], set[int]], chance: random.Random
) -> None:
    count, edges, broken = dag
    engine = Engine(pipeline(count, edges))
    run_to_the_end(engine, {f"s{i}" for i in broken}, chance)
    done = {key for key, stage in engine.stages.items() if stage.state == "succeeded"}
    engine.stages = {k: Stage(k) if again(s) else s for k, s in engine.stages.items()}
    engine.starts.clear()
    run_to_the_end(engine, set(), chance)
    assert sorted(engine.starts) == sorted(set(engine.stages) - done)
    assert end_of_run(engine.stages, cancel_requested=False) == "succeeded"


@settings(max_examples=100, deadline=None)
@given(dags, st.integers(0, 5), st.randoms(use_true_random=False))
def test_a_cancelled_run_starts_nothing_more_and_ends(
    dag: tuple[int, set[tuple[int, int]], set[int]], after: int, chance: random.Random
) -> None:
    count, edges, _ = dag
    engine = Engine(pipeline(count, edges))
    engine.go_on()
    for _ in range(after):
        if engine.running():
            engine.hear(chance.choice(engine.running()), good=True)
            engine.go_on()
    before = list(engine.starts)
    engine.cancel_requested = True
    engine.go_on()
    assert engine.starts == before
    states = {stage.state for stage in engine.stages.values()}
    expected = "succeeded" if states == {"succeeded"} else "cancelled"
    assert end_of_run(engine.stages, cancel_requested=True) == expected
