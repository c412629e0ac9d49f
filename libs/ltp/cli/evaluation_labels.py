"""`ltp eval draw` and `ltp eval calibrate`: answers for people to label, and a judge held against the labels."""

from __future__ import annotations

import csv
import json as text_json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from ltp.cli.client import Gateway
from ltp.cli.evaluation_lookup import EvaluationId, find
from ltp.cli.output import DataDirOption, JsonOption, reported, show
from ltp.comparison_text import percent
from ltp.contracts.evaluation import Estimate
from ltp.core.errors import ErrorCode, LtpError

_YES, _NO = {"1", "true", "yes", "right", "y"}, {"0", "false", "no", "wrong", "n"}
_COLUMNS = ("row_id", "sample", "prompt", "reference", "response", "right")
LabelsFile = Annotated[Path, typer.Argument(metavar="LABELS", help="A .csv or .jsonl with row_id, sample and right.")]


def draw(
    evaluation: EvaluationId,
    to: Annotated[Path, typer.Argument(metavar="FILE", help="The .csv to write.")],
    count: Annotated[int, typer.Option(min=1, max=5000, help="How many answers.")] = 50,
    seed: Annotated[int, typer.Option(help="Another seed draws others.")] = 0,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Draw judged answers at random into a file whose column `right` a person fills in; the verdicts are not shown."""
    with reported():
        gateway = Gateway.find(data_dir)
        judged = [s for s in _samples(gateway, find(gateway, evaluation)) if s["outcome"] in {"right", "wrong"}]
        drawn = random.Random(seed).sample(judged, min(count, len(judged)))  # noqa: S311 - keeps no secret
        if to.exists():
            raise LtpError(ErrorCode.CONFLICT, f"{to} is there already.", "It may hold labels: name another file.")
        try:
            with to.open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(_COLUMNS)
                writer.writerows(_line(sample) for sample in drawn)
        except OSError as error:
            message = f"{to} cannot be written ({error.strerror})."
            raise LtpError(ErrorCode.DATA_DIR_UNWRITABLE, message, "Choose another place.") from error
        told = f"{len(drawn)} of {len(judged)} answers in {to}: fill in the column `right`, then `ltp eval calibrate`."
        show({"file": str(to), "answers": len(drawn), "of": len(judged)}, json, lambda: told)


def calibrate(
    evaluation: EvaluationId, labels: LabelsFile, data_dir: DataDirOption = None, json: JsonOption = False
) -> None:
    """Hold an evaluation's verdicts against people's labels: agreement, and the accuracy that both imply."""
    with reported():
        gateway = Gateway.find(data_dir)
        path = f"/evaluations/{find(gateway, evaluation)}/calibration"
        found = gateway.post(path, json={"labels": read_labels(labels)})
        show(found, json, lambda: "\n".join(_lines(found)))


def read_labels(file: Path) -> list[dict[str, Any]]:
    """The labels of a file; rows without one are left out. Raises LtpError NOT_FOUND, INVALID_REQUEST with the line."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise LtpError(ErrorCode.NOT_FOUND, f"{file} cannot be read: {error}", "Give a .csv or .jsonl.") from error
    try:
        if file.suffix.lower() == ".csv":
            rows: list[Any] = list(csv.DictReader(text.splitlines(keepends=True)))
        else:
            rows = [text_json.loads(line) for line in text.splitlines() if line.strip()]
    except ValueError as error:
        raise LtpError(ErrorCode.INVALID_REQUEST, f"{file}: {error}", "One JSON object a line.") from error
    found = [label for number, row in enumerate(rows, 1) if (label := _label(file, number, row)) is not None]
    if not found:
        raise LtpError(ErrorCode.INVALID_REQUEST, f"{file} has no labels.", "Fill in the column `right`: yes or no.")
    return found


def _label(file: Path, number: int, row: Any) -> dict[str, Any] | None:
    try:
        said = str(row.get("right") if row.get("right") is not None else "").strip().lower()
        if not said:
            return None
        if said not in _YES | _NO:
            raise ValueError(f"right is {said!r}")
        return {"row_id": str(row["row_id"]), "sample": int(row.get("sample") or 0), "right": said in _YES}
    except (AttributeError, LookupError, ValueError, TypeError) as error:
        hint = "Each has row_id, sample (0 if left out), and right: yes or no."
        message = f"{file}, label {number}: {type(error).__name__}: {error}"
        raise LtpError(ErrorCode.INVALID_REQUEST, message, hint) from error


def _samples(gateway: Gateway, evaluation_id: str) -> Iterator[dict[str, Any]]:
    offset = 0
    while True:
        page = gateway.get(f"/evaluations/{evaluation_id}/samples", offset=offset, limit=200)
        yield from page["samples"]
        offset += len(page["samples"])
        if not page["samples"] or offset >= page["total"]:
            return


def _line(sample: dict[str, Any]) -> tuple[Any, ...]:
    prompt = sample["prompt"][-1]["content"] if sample["prompt"] else ""
    texts = (
        f"'{text}" if text[:1] in {"=", "@"} else text
        for text in (prompt, sample["reference"] or "", sample["response"])
    )
    return (sample["row_id"], sample["sample"], *texts, "")


def _lines(found: dict[str, Any]) -> Iterator[str]:
    def said(name: str, *, share: bool = True) -> str:
        if found[name] is None:
            return "none: judge and labels are all the same" if name == "kappa" else "none: no such labels"
        estimate = Estimate.model_validate(found[name])
        return percent(estimate) if share else f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"

    yield f"{found['evaluation_id']}  {found['scorer']}  {found['labelled']} labels"
    errors = f"{found['false_right']} wrongly taken for right, {found['false_wrong']} for wrong"
    yield f"  agreement    {said('agreement')}, {errors}"
    yield f"  kappa        {said('kappa', share=False)}"
    yield f"  sensitivity  {said('sensitivity')}"
    yield f"  specificity  {said('specificity')}"
    yield f"  accuracy     {said('judged')} by the judge"
    yield f"  corrected    {said('corrected')} by judge and labels"
    yield from (f"  note         {warning}" for warning in found["warnings"])
