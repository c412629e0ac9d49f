"""An operation as a process: `python -m ltp.tensors.operate run|check|discard` with a spec of one JSON line on standard input.

It prints JSON lines: {"progress": ...} as it goes, and {"result": ...} at the end; a problem is the last line of standard
error, with exit code 1. It stops, keeping what it has for the next try (exit code 3), on SIGTERM and when standard input
closes, that is, when whoever started it is gone.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from typing import Any

from pydantic import ValidationError

from ltp.contracts.checkpoint_recipes import AverageRecipe, check_checkpoint_recipe
from ltp.contracts.faults import faults_of
from ltp.core.errors import ErrorCode, LtpError
from ltp.recipe_text import check_merge
from ltp.tensors.averaging import Average, Soup
from ltp.tensors.differing import Difference
from ltp.tensors.exporting import export_of
from ltp.tensors.lora_extraction import LoraExtraction, LoraRecipe
from ltp.tensors.merge import Merge
from ltp.tensors.operation import Stopped, Wish, Work, carry_out, discard, foresee
from ltp.tensors.selecting import Selection

STOPPED = 3


def _merge(spec: dict[str, Any]) -> Work:
    limit = {"max_file_bytes": spec["max_file_bytes"]} if spec.get("max_file_bytes") else {}
    more = {"threads": spec.get("threads"), "device": _device(spec)} | limit
    return Merge(check_merge(spec["recipe"]), seed=spec.get("seed", 0), **more)


def _lora(spec: dict[str, Any]) -> Work:
    try:
        recipe = LoraRecipe.model_validate(spec["recipe"])
    except ValidationError as error:
        hint = "It takes model, base_model, rank and modules."
        raise LtpError(ErrorCode.INVALID_RECIPE, f"lora: {faults_of(error)}", hint) from error
    return LoraExtraction(recipe, seed=spec.get("seed", 0))


def _average(spec: dict[str, Any]) -> Work:
    recipe: AverageRecipe = check_checkpoint_recipe("average", spec["recipe"])
    if recipe.method == "greedy_soup":
        return Soup(recipe, threads=spec.get("threads"), python=spec.get("python") or sys.executable)
    return Average(recipe, threads=spec.get("threads"), device=_device(spec))


def _device(spec: dict[str, Any]) -> str | None:
    """What computes, by torch's name: `cpu` is the processor without torch where a method needs none, `auto` a GPU where one works.

    Other words are torch's own (`cuda:1`; `cpu:0` is the processor by torch). Raises HOST_UNFIT, NO_HOST.
    """
    asked = spec.get("device", "cpu")
    if asked == "cpu":
        return None
    # torch takes two seconds to load, which other work does not wait for.
    from ltp.tensors.accelerator import must_work

    try:
        name = "cuda" if asked in {"auto", "gpu"} else asked
        must_work(name)
    except LtpError:
        if asked != "auto":
            raise
        return None
    return name


KINDS: dict[str, Callable[[dict[str, Any]], Work]] = {
    "merge": _merge,
    "lora": _lora,
    "average": _average,
    "select": lambda spec: Selection(check_checkpoint_recipe("select", spec["recipe"]), threads=spec.get("threads")),
    "export": lambda spec: export_of(check_checkpoint_recipe("export", spec["recipe"]), threads=spec.get("threads")),
    "diff": lambda spec: Difference(check_checkpoint_recipe("diff", spec["recipe"])),
}


def check(spec: dict[str, Any]) -> dict[str, Any]:
    """The preflight alone: what would be done. Raises what makes it impossible."""
    work = KINDS[spec["kind"]](spec)
    return work.summary() | foresee(work, _wish(spec))


def run(spec: dict[str, Any], stop: Event, tell: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Carry the operation out. Raises Stopped, or LtpError."""
    return carry_out(KINDS[spec["kind"]](spec), _wish(spec), stop, tell)


def _wish(spec: dict[str, Any]) -> Wish:
    return Wish(
        Path(spec["out"]),
        seed=spec.get("seed", 0),
        proof=spec.get("proof", True),
        python=spec.get("python") or sys.executable,
        patience_seconds=spec.get("patience_seconds", 0.0),
        flush=spec.get("flush", False),
    )


def _say(value: dict[str, Any]) -> None:
    print(json.dumps(value), flush=True)


def _watch(stop: Event) -> None:
    """Stop when asked, or when nobody is left to ask."""
    signal.signal(signal.SIGTERM, lambda *_: stop.set())

    def until_closed() -> None:
        # Not through sys.stdin, whose lock would be held when the interpreter ends.
        while os.read(0, 1024):
            pass
        stop.set()

    Thread(target=until_closed, daemon=True).start()


def main() -> int:
    """The command. Returns the exit code."""
    # Threads share the work by weights; BLAS's own would fight with them for the cores. It reads this when it is loaded.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # Loading torch makes a million objects that stay: looking through them for garbage took half a second of a merge.
    gc.set_threshold(500_000)
    verb, spec = sys.argv[1], json.loads(sys.stdin.readline())
    try:
        if verb == "check":
            _say({"result": check(spec)})
            return 0
        if verb == "discard":
            discard(Path(spec["out"]))
            _say({"result": {}})
            return 0
        stop = Event()
        _watch(stop)
        _say({"result": run(spec, stop, lambda progress: _say({"progress": progress}))})
        return 0
    except LtpError as error:
        problem = error
    except OSError as error:
        problem = LtpError(ErrorCode.MERGE_FAILED, f"{error.filename or ''} {error.strerror or error}".strip(), "")
    except Stopped:
        return STOPPED
    print(json.dumps({"code": problem.code, "message": problem.message, "hint": problem.hint}), file=sys.stderr)
    return 1


if __name__ == "__main__":
    ended = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Taking torch apart again would be another part of a second, for nothing.
    os._exit(ended)
