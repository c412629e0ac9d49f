"""`ltp average`, `ltp select` and `ltp export`: from the checkpoints of a training to the model that is kept."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import typer
import yaml

from ltp.cli.client import Gateway
from ltp.cli.operations import (
    DeviceOption,
    DryRunOption,
    EvaluateOption,
    LocalOption,
    ProofOption,
    WaitOption,
    absolute,
    carry_out,
    describe_report,
    evaluation_of,
)
from ltp.cli.output import DataDirOption, JsonOption, reported, show
from ltp.contracts.checkpoint_recipes import check_checkpoint_recipe
from ltp.core.errors import ErrorCode, LtpError
from ltp.selection_report import decide

OutOption = Annotated[str, typer.Option("--out", help="The result's name: it is written to DATA/models/NAME.")]
DtypeOption = Annotated[
    Literal["bfloat16", "float16", "float32"] | None, typer.Option("--dtype", help="Type of the result.")
]


def average(
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL...", help="Checkpoints, oldest first: paths, names, ids, or a job's id."),
    ],
    out: OutOption,
    last: Annotated[int | None, typer.Option(help="Only the last K (LAWA).")] = None,
    ema: Annotated[float | None, typer.Option(help="Exponential moving average with this decay.")] = None,
    weights: Annotated[str | None, typer.Option(help="Weights, as 1,2,3.")] = None,
    alpha: Annotated[float | None, typer.Option(help="Between two models (WiSE-FT): 0 is the first.")] = None,
    soup: Annotated[
        Path | None,
        typer.Option(metavar="TEXTS", help="Greedy soup by the loss on these held-out texts (.txt, .jsonl)."),
    ] = None,
    scores: Annotated[str | None, typer.Option(help="With --soup: scores that order the models, as 0.5,0.6.")] = None,
    lower_is_better: Annotated[bool, typer.Option(help="With --scores: they are losses.")] = False,
    max_rows: Annotated[int | None, typer.Option(help="With --soup: how many texts to read (512).")] = None,
    dtype: DtypeOption = None,
    device: DeviceOption = "cpu",
    proof: ProofOption = True,
    evaluate: EvaluateOption = None,
    dry_run: DryRunOption = False,
    wait: WaitOption = False,
    local: LocalOption = False,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Average checkpoints: uniformly, unless an option names another way."""
    with reported():
        ways: dict[str, dict[str, Any]] = {
            "last_k": {"k": last},
            "ema": {"decay": ema},
            "weighted": {"weights": _numbers("weights", weights)},
            "interpolate": {"alpha": alpha},
            "greedy_soup": {"held_out": None if soup is None else str(soup.absolute())},
        }
        asked = {name: own for name, own in ways.items() if next(iter(own.values())) is not None}
        if len(asked) > 1:
            options = ", ".join(asked)
            raise LtpError(ErrorCode.INVALID_REQUEST, f"Several ways to average at once: {options}.", "Choose one.")
        method, own = next(iter(asked.items()), ("uniform", dict[str, Any]()))
        own |= {"scores": _numbers("scores", scores), "max_rows": max_rows, "dtype": dtype}
        own |= {"direction": "min"} if lower_is_better else {}
        recipe = {"method": method, "models": [absolute(name) for name in models]}
        recipe |= {key: value for key, value in own.items() if value is not None}
        check_checkpoint_recipe("average", recipe)
        spec = {"kind": "average", "name": out, "recipe": recipe, "proof": proof, "device": device}
        spec |= evaluation_of(evaluate)
        carry_out(spec, dry_run=dry_run, wait=wait, local=local, data_dir=data_dir, json=json)


def select(
    scores: Annotated[
        Path | None,
        typer.Argument(metavar="[SCORES]", help="YAML or JSON: {candidates: [{model, score, stderr, …}], …}."),
    ] = None,
    score: Annotated[list[str] | None, typer.Option(metavar="MODEL=SCORE", help="One candidate; repeat.")] = None,
    evaluation: Annotated[list[str] | None, typer.Option(help="An evaluation to select by; repeat.")] = None,
    report_evaluation: Annotated[
        list[str] | None, typer.Option(help="An evaluation on another split, to report; repeat.")
    ] = None,
    out: Annotated[str | None, typer.Option("--out", help="Also write the chosen model, under this name.")] = None,
    metric: Annotated[str | None, typer.Option(help="What the score is.")] = None,
    direction: Annotated[Literal["max", "min"] | None, typer.Option(help="Whether more or less is better.")] = None,
    tie: Annotated[
        Literal["earliest", "latest", "best"] | None, typer.Option(help="Which one of those that tie.")
    ] = None,
    within: Annotated[float | None, typer.Option(help="How many standard errors still tie (1).")] = None,
    nan: Annotated[Literal["refuse", "skip"] | None, typer.Option(help="What a missing score means.")] = None,
    dtype: DtypeOption = None,
    proof: ProofOption = True,
    evaluate: EvaluateOption = None,
    dry_run: DryRunOption = False,
    wait: WaitOption = False,
    local: LocalOption = False,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Choose a checkpoint by a metric that has an uncertainty; report it on another split than it was chosen by."""
    with reported():
        recipe = _read(scores) if scores else {}
        given = _scored(score or [])
        if evaluation:
            found = _evaluated(Gateway.find(data_dir), evaluation, report_evaluation or [])
            recipe, given = found | recipe, given + found["candidates"]
        recipe["candidates"] = [_plain(c) for c in (*(recipe.get("candidates", []) if scores else []), *given)]
        own = {"metric": metric, "direction": direction, "tie": tie, "within": within, "nan": nan, "dtype": dtype}
        recipe |= {key: value for key, value in own.items() if value is not None}
        checked = check_checkpoint_recipe("select", recipe)
        if out is None:
            decision = decide(checked)
            show(decision, json, lambda: "\n".join(describe_report(decision)))
            return
        spec = {"kind": "select", "name": out, "recipe": recipe, "proof": proof} | evaluation_of(evaluate)
        carry_out(spec, dry_run=dry_run, wait=wait, local=local, data_dir=data_dir, json=json)


def export(
    model: Annotated[str, typer.Argument(help="A checkpoint's id, a directory of verl shards, or a model directory.")],
    out: OutOption,
    dtype: Annotated[
        Literal["keep", "bfloat16", "float16", "float32"], typer.Option("--dtype", help="Type of the result.")
    ] = "keep",
    max_file_bytes: Annotated[int | None, typer.Option(help="Largest file of weights (5 GB).")] = None,
    proof: ProofOption = True,
    evaluate: EvaluateOption = None,
    dry_run: DryRunOption = False,
    wait: WaitOption = False,
    local: LocalOption = False,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Write a model directory that others can load, and compare it with its source."""
    with reported():
        recipe: dict[str, Any] = {"model": absolute(model), "dtype": dtype}
        recipe |= {"max_file_bytes": max_file_bytes} if max_file_bytes else {}
        check_checkpoint_recipe("export", recipe)
        spec = {"kind": "export", "name": out, "recipe": recipe, "proof": proof} | evaluation_of(evaluate)
        carry_out(spec, dry_run=dry_run, wait=wait, local=local, data_dir=data_dir, json=json)


def _numbers(name: str, text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise LtpError(ErrorCode.INVALID_REQUEST, f"--{name} {text!r} is no list of numbers.", "As 1,2,3.") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        value: object = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise LtpError(ErrorCode.NOT_FOUND, f"{path} cannot be read: {error}.", "Give a YAML or JSON file.") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise LtpError(ErrorCode.INVALID_YAML, f"{path}: {error}", "Correct the file.") from error
    if isinstance(value, list):
        return {"candidates": cast("list[Any]", value)}
    if not isinstance(value, dict):
        raise LtpError(ErrorCode.INVALID_RECIPE, f"{path} holds no candidates.", "It has `candidates: [...]`.")
    return cast("dict[str, Any]", value)


def _scored(given: list[str]) -> list[dict[str, Any]]:
    candidates: list[dict[str, Any]] = []
    for text in given:
        model, equals, value = text.rpartition("=")
        try:
            candidates.append({"model": model, "score": float(value)})
        except ValueError:
            equals = ""
        if not equals or not model:
            raise LtpError(ErrorCode.INVALID_REQUEST, f"--score {text!r} is not MODEL=SCORE.", "As step-3=0.71.")
    return candidates


def _plain(candidate: Any) -> Any:
    """A candidate as JSON can carry it: a score that is NaN is one that is missing."""
    if not isinstance(candidate, dict):
        return candidate
    known = cast("dict[str, Any]", candidate)
    plain = {k: v for k, v in known.items() if not (isinstance(v, float) and not math.isfinite(v))}
    return plain | ({"model": absolute(known["model"])} if isinstance(known.get("model"), str) else {})


def _evaluated(gateway: Gateway, ids: list[str], report_ids: list[str]) -> dict[str, Any]:
    """Candidates out of evaluations: models by their accuracy with its interval. Raises CONFLICT for one that is not over."""
    chosen, reports = ([gateway.get(f"/evaluations/{one}") for one in several] for several in (ids, report_ids))
    splits = [_split(records) for records in (chosen, reports)]
    reported = {r["model"]: _accuracy(r)["value"] for r in reports}
    candidates: list[dict[str, Any]] = []
    for record in chosen:
        found = _accuracy(record)
        one = {"model": record["model"], "score": found["value"], "low": found["low"], "high": found["high"]}
        one |= {"step": record["step"]} if record.get("step") is not None else {}
        one |= {"report": reported[record["model"]]} if record["model"] in reported else {}
        candidates.append(one)
    named = zip(("selected_on", "reported_on"), splits, strict=True)
    return {"metric": "accuracy", "candidates": candidates} | {key: split for key, split in named if split}


def _accuracy(record: Any) -> Any:
    found = (record.get("result") or {}).get("accuracy")
    if found is None:
        message = f"Evaluation {record['evaluation_id']} is {record['state']} and has no accuracy."
        raise LtpError(ErrorCode.CONFLICT, message, "Wait for it, or leave it out.")
    return found


def _split(records: list[Any]) -> str | None:
    """The rows that they all are about. Raises INVALID_REQUEST where they are not the same: such scores are not comparable."""
    found = {f"{d['name']}@{d['version'][:12]}/{d['split_name']}" for r in records if (d := r.get("dataset"))}
    if len(found) > 1:
        message = f"The evaluations are over different rows ({', '.join(sorted(found))})."
        raise LtpError(ErrorCode.INVALID_REQUEST, message, "Evaluate every candidate on the same split.")
    return next(iter(found), None)
