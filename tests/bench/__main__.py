"""Run benchmark suites by name: `python -m tests.bench dispatch planner`; all of them when none is named."""

from __future__ import annotations

import importlib
import pkgutil
import sys

from tests import bench
from tests.bench.result import Result, report


def suites() -> list[str]:
    """Every module or package beside this one that has a `run`."""
    return sorted(m.name for m in pkgutil.iter_modules(bench.__path__) if m.name not in {"__main__", "result"})


def main(names: list[str]) -> int:
    """Exit code: 0 when every bar was met, 1 when one was not, 2 when a suite is unknown."""
    names = [name.replace("-", "_") for name in names]
    unknown = set(names) - set(suites())
    if unknown:
        print(f"No such suite: {', '.join(sorted(unknown))}. There are: {', '.join(suites())}.")
        return 2
    missed = 0
    for name in names or suites():
        results: list[Result] = importlib.import_module(f"tests.bench.{name}").run()
        report(name, results)
        missed += sum(r.met is False for r in results)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
