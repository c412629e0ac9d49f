"""Run benchmark suites by name: `python -m tests.bench dispatch planner`; all of them when none is named.

A suite has parts, modules or packages beside this one that have a `run`; a part runs alone under its own name, and
its lines then take the place of the earlier ones in the results of its suite.
"""

from __future__ import annotations

import importlib
import sys

from tests.bench.result import Result, forget, report

SUITES = {
    "dispatch": ("dispatch", "schedules"),
    "planner": ("planner_accuracy", "planner_search"),
    "dataset": ("ingest", "dedup", "search"),
    "surgery": ("surgery",),
    "evaluator": ("evaluator",),
    "gateway": ("gateway",),
    "training": ("training",),
    "telemetry": ("telemetry",),
}
_SUITE_OF = {part: suite for suite, parts in SUITES.items() for part in parts}


def main(names: list[str]) -> int:
    """Exit code: 0 when every bar was met, 1 when one was not, 2 when a suite is unknown."""
    unknown = sorted(set(names) - set(SUITES) - set(_SUITE_OF))
    if unknown:
        print(f"No such suite: {', '.join(unknown)}. There are: {', '.join(SUITES)}; parts: {', '.join(_SUITE_OF)}.")
        return 2
    missed = 0
    for name in names or SUITES:
        if name in SUITES:
            forget(name)
        for part in SUITES.get(name, (name,)):
            results: list[Result] = importlib.import_module(f"tests.bench.{part}").run()
            report(_SUITE_OF[part], results)
            missed += sum(r.met is False for r in results)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
