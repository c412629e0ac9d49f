"""`ltp dataset profile|mask|rows|diff`: what a version is made of, in a terminal."""

from __future__ import annotations

import json as text_json
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.text import Text

from ltp.cli.client import Gateway
from ltp.cli.datasets import app
from ltp.cli.output import DataDirOption, JsonOption, out, reported, rows_table, show, sparkline

RefArgument = Annotated[str, typer.Argument(help="NAME, NAME@HASH or an id.")]
SplitOption = Annotated[str | None, typer.Option(help="One split only.")]
RowOption = Annotated[list[str] | None, typer.Option("--row", help="A row by its row_id or id; may be repeated.")]


@app.command()
def rows(
    ref: RefArgument,
    split: SplitOption = None,
    row: RowOption = None,
    offset: Annotated[int, typer.Option(min=0)] = 0,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 10,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Show rows in the normal form."""
    with reported():
        params = {"split": split, "row": row, "offset": offset, "limit": limit}
        found = Gateway.find(data_dir).get(f"/datasets/{ref}/rows", **params)
        lines = [text_json.dumps(_brief(item), ensure_ascii=False) for item in found["rows"]]
        show(found, json, lambda: escape("\n".join([*lines, f"{len(lines)} of {found['total']} rows"])))


@app.command()
def profile(
    ref: RefArgument,
    split: SplitOption = None,
    model: Annotated[str | None, typer.Option(help="Also in tokens, under this model's chat template.")] = None,
    max_length: Annotated[int, typer.Option(min=1, help="The recipe's limit, for what truncation loses.")] = 1024,
    sample_rows: Annotated[int, typer.Option(min=1, max=50_000, help="Rows to tokenize.")] = 500,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Show lengths, languages, fields with their values and cross-tables, and what a model's template makes of it."""
    with reported():
        params = {"split": split, "model": model, "max_length": max_length, "sample_rows": sample_rows}
        found = Gateway.find(data_dir).get(f"/datasets/{ref}/profile", **params)
        show(found, json, lambda: escape(_profile(found)))


@app.command()
def mask(
    ref: RefArgument,
    model: Annotated[str, typer.Option(help="The model whose tokenizer and chat template count.")],
    row: RowOption = None,
    split: SplitOption = None,
    max_length: Annotated[int, typer.Option(min=1, help="The recipe's limit.")] = 1024,
    limit: Annotated[int, typer.Option(min=1, max=20)] = 1,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Show token by token what verl would train on: green is trained, grey is masked, red and struck out is cut off."""
    with reported():
        params = {"model": model, "row": row, "split": split, "max_length": max_length, "limit": limit}
        found = Gateway.find(data_dir).get(f"/datasets/{ref}/mask", **params)
        if json:
            show(found, True, lambda: "")
            return
        for item in found["rows"]:
            counts = f"{item.get('kept_trained', 0)} trained of {item.get('kept', 0)} kept of {item.get('tokens', 0)}"
            out.print(f"{item['row_id']}  {item['verdict']}  {counts}", markup=False)
            out.print(item.get("problem") or _coloured(item["detail"]))


@app.command()
def diff(
    before: RefArgument,
    after: Annotated[str, typer.Argument(help="NAME, NAME@HASH or an id.")],
    limit: Annotated[int, typer.Option(min=0, max=1000, help="Row ids to show of each kind.")] = 5,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Show which rows were added, removed, changed or moved to another split."""
    with reported():
        found = Gateway.find(data_dir).get(f"/datasets/{before}/diff", to=after, limit=limit)
        kinds = ("added", "removed", "changed", "moved", "same")
        table = [(kind, found[kind], " ".join(found["examples"].get(kind, []))) for kind in kinds]
        show(found, json, lambda: rows_table(("CHANGE", "ROWS", "FIRST"), table))


def _brief(row: dict[str, Any]) -> dict[str, Any]:
    skipped = {"prompt", "reward_model", "extra_info", "data_source"}
    return {key: value for key, value in row.items() if value is not None and key not in skipped}


def _coloured(detail: list[dict[str, Any]]) -> Text:
    text = Text()
    for token in detail:
        style = "red strike" if token["cut"] else "green" if token["trained"] else "dim"
        text.append(token["text"], style=style)
    return text


def _profile(found: Any) -> str:
    lines = [f"{found['name']}  {found['version']}"]
    for name, split in found["splits"].items():
        languages = ", ".join(f"{code} {ratio:.0%}" for code, ratio in list(split["language"]["ratios"].items())[:6])
        lines += [
            "",
            f"split {name}: {split['rows']} rows",
            f"  language of {split['language']['sampled_rows']}: {languages}",
        ]
        for what, numbers in split["lengths"].items():
            lines.append(f"  {what:24} {_numbers(numbers)}")
        for field, values in split["fields"].items():
            top = ", ".join(f"{v['value']} {v['ratio']:.1%}" for v in values.get("top", [])[:6])
            distinct = "many" if values["distinct"] is None else values["distinct"]
            hidden = "personal" if values.get("personal") else top
            lines.append(f"  {field:24} {distinct} values, {values['nulls']} nulls: {hidden}")
        for table in split["crosstabs"]:
            cells = ", ".join(f"{'/'.join(map(str, c['values']))} {c['count']}" for c in table["cells"][:8])
            lines.append(f"  {' x '.join(table['fields']):24} {cells}")
    if found["tokens"]:
        lines += ["", *_tokens(found["tokens"])]
    return "\n".join(lines)


def _numbers(numbers: Any) -> str:
    if not numbers["count"]:
        return "none"
    shape = sparkline(numbers["histogram"]["counts"])
    ends = f"min {numbers['min']:g}  p50 {numbers['p50']:g}  p95 {numbers['p95']:g}  max {numbers['max']:g}"
    return f"{ends}  mean {numbers['mean']:.1f}  {shape}"


def _tokens(tokens: Any) -> list[str]:
    if not tokens["tokens"]["count"]:
        return [f"verl refuses every one of {tokens['sampled_rows']} rows: {tokens['problem_examples'][0]['problem']}"]
    return [
        f"tokens of {tokens['sampled_rows']} of {tokens['rows']} rows, limit {tokens['max_length']}",
        f"  tokens                   {_numbers(tokens['tokens'])}",
        f"  trained tokens           {_numbers(tokens['trained_tokens'])}",
        f"  trained share            {tokens['trained_ratio']:.1%}",
        f"  rows cut                 {tokens['truncated_rows_ratio']:.1%}",
        f"  tokens lost              {tokens['tokens_lost_ratio']:.1%}",
        f"  trained tokens lost      {tokens['trained_tokens_lost_ratio']:.1%}",
        f"  rows with nothing to learn {tokens['zero_trained_rows']}, all trained {tokens['all_trained_rows']}",
        f"  rows refused by verl     {tokens['problem_rows']}",
    ]
