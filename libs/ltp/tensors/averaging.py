"""Averages of checkpoints as a kind of work: weights that follow from a rule, then the engine's weighted mean in float32."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from threading import Event
from typing import Any

from ltp.contracts.checkpoint_recipes import AverageRecipe, invalid
from ltp.core.averaging import Trial, first_out_of_order, greedy_soup
from ltp.core.errors import ErrorCode, LtpError
from ltp.recipe_text import check_merge
from ltp.selection_report import step_of
from ltp.tensors.merge import Merge
from ltp.tensors.operation import REPORT, Stopped, Tell
from ltp.tensors.plan import refused

_POLL_SECONDS = 0.2
_CANDIDATE = "candidate"


def mean_of(
    members: Sequence[tuple[str, float]], dtype: str | None, threads: int | None, device: str | None = None
) -> Merge:
    """The weighted mean of models. Raises what makes it impossible; see `ltp.tensors.preflight`."""
    models = [{"model": name, "parameters": {"weight": weight}} for name, weight in members]
    recipe: dict[str, Any] = {"merge_method": "linear", "models": models}
    checked = check_merge(recipe | ({"dtype": dtype} if dtype else {}), "average")
    return Merge(checked, threads=threads, device=device)


class Average:
    """An average that passed its preflight."""

    kind, is_model = "average", True

    def __init__(self, recipe: AverageRecipe, *, threads: int | None = None, device: str | None = None) -> None:
        recipe.check_members()
        if recipe.method in {"last_k", "ema"}:
            _check_order(recipe.models)
        self._members = recipe.members()
        self._merge = mean_of(self._members, recipe.dtype, threads, device)
        self.recipe, self.method, self.models = recipe.settings(), recipe.method, self._merge.models
        self.write_bytes = self._merge.write_bytes

    def summary(self) -> dict[str, Any]:
        """What a person wants to see before saying yes."""
        weights = [{"model": name, "weight": weight} for name, weight in self._members]
        return self._merge.summary() | {"kind": self.kind, "method": self.method, "weights": weights}

    def write(self, directory: Path, digest: str, stop: Event, tell: Tell) -> None:
        """Weights by the engine, then the small files."""
        self._merge.write(directory, digest, stop, tell)


class Soup:
    """A greedy soup: ingredients are added, best first, as long as the loss on held-out texts does not rise.

    Every trial is an average written beside the result and read by transformers in a process of its own, as the proof is. Trials
    are noted, so that an interrupted soup asks nothing twice.
    """

    kind, method, is_model = "average", "greedy_soup", True

    def __init__(self, recipe: AverageRecipe, *, threads: int | None = None, python: str = sys.executable) -> None:
        recipe.check_members()
        held_out = Path(recipe.held_out or "")
        if not held_out.is_file():
            raise invalid("average", f"there is no file {held_out} of held-out texts", "Give a .txt or .jsonl file.")
        self._given, self._threads, self._python, self._held_out = recipe, threads, python, held_out
        # The whole is planned as if every ingredient stayed: it needs the same space, and fails for the same reasons.
        self._merge = mean_of(recipe.members(), recipe.dtype, threads)
        # The texts by their content, so that other texts are another operation.
        digest = hashlib.sha256(held_out.read_bytes()).hexdigest()
        self.recipe, self.models = recipe.settings() | {"held_out_sha256": digest}, self._merge.models
        self.write_bytes = 2 * self._merge.write_bytes

    def summary(self) -> dict[str, Any]:
        """What a person wants to see before saying yes."""
        more = {"write_bytes": self.write_bytes, "held_out": str(self._held_out)}
        return self._merge.summary() | {"kind": self.kind, "method": self.method} | more

    def write(self, directory: Path, digest: str, stop: Event, tell: Tell) -> None:
        """Try, then write the mean of what stayed."""
        known = _Known(directory / REPORT)
        names = self._given.models

        def loss_of(members: tuple[int, ...]) -> float:
            tell({"stage": f"soup: {len(members)} of {len(names)} models together"})
            key = ",".join(map(str, members))
            if key not in known.losses:
                known.note(key, self._measured([names[i] for i in members], directory / _CANDIDATE, stop))
            return known.losses[key]

        losses = [loss_of((index,)) for index in range(len(names))]
        try:
            members, trials = greedy_soup(self._order(losses), loss_of)
        except ValueError as error:
            raise refused(
                f"No soup: {error} on {self._held_out}.", "Are these models, and texts they can read?"
            ) from error
        shutil.rmtree(directory / _CANDIDATE, ignore_errors=True)
        mean_of([(names[i], 1.0) for i in members], self._given.dtype, self._threads).write(
            directory, digest, stop, tell
        )
        known.close(_report(names, members, trials, known.losses))

    def _order(self, losses: list[float]) -> list[float]:
        """What orders the ingredients: scores that were given, else the held-out losses."""
        scores = self._given.scores
        if scores is None:
            return losses
        return scores if self._given.direction == "min" else [-score for score in scores]

    def _measured(self, names: Sequence[str], place: Path, stop: Event) -> float:
        if len(names) == 1 and "+" not in names[0]:
            return _loss(Path(names[0]), self._held_out, self._given.max_rows, self._python, stop)
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        mean_of([(name, 1.0) for name in names], self._given.dtype, self._threads).write(
            place, "", stop, lambda _: None
        )
        return _loss(place, self._held_out, self._given.max_rows, self._python, stop)


class _Known:
    """Losses that were measured, by their members, kept in the report's place until there is one."""

    def __init__(self, path: Path) -> None:
        self._path, self.losses = path, dict[str, float]()
        if path.exists():
            # A restart may find the finished report, which holds the losses too.
            self.losses = json.loads(path.read_text()).get("losses", {})

    def note(self, key: str, loss: float) -> None:
        self.losses[key] = loss
        self.close({"losses": self.losses})

    def close(self, report: dict[str, Any]) -> None:
        partial = self._path.with_suffix(".new")
        partial.write_text(json.dumps(report, indent=2) + "\n")
        partial.rename(self._path)


def _report(names: Sequence[str], members: Sequence[int], trials: Sequence[Trial], losses: dict[str, float]) -> Any:
    tried = [{"members": [names[i] for i in t.members], "loss": t.loss, "kept": t.kept} for t in trials]
    return {
        "metric": "mean loss per token on the held-out texts",
        "kept": [names[i] for i in members],
        "loss": next(t.loss for t in reversed(trials) if t.kept),
        "best_single": min(losses[str(i)] for i in range(len(names))),
        "trials": tried,
        "losses": losses,
    }


def _loss(model: Path, texts: Path, rows: int | None, python: str, stop: Event) -> float:
    """The held-out loss of a model, by a process that has transformers. Raises MERGE_FAILED with its complaint."""
    command = [python, "-m", "ltp.tensors.held_out", str(model), str(texts), *([str(rows)] if rows else [])]
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as complained:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=complained)
        while process.poll() is None:
            if stop.wait(_POLL_SECONDS):
                process.kill()
                process.wait()
                raise Stopped
        said.seek(0)
        complained.seek(0)
        last, problem = said.read().strip().splitlines(), complained.read().strip().splitlines()
    if process.returncode or not last:
        why = problem[-1] if problem else f"it ended with code {process.returncode}"
        raise LtpError(ErrorCode.MERGE_FAILED, f"The held-out loss of {model.name} cannot be measured: {why}"[:800], "")
    return float(json.loads(last[-1])["loss"])


def _check_order(models: Sequence[str]) -> None:
    place = first_out_of_order([step_of(name) for name in models])
    if place is not None:
        raise refused(f"{models[place]} is not after the checkpoint named before it.", "Name them oldest first.")
