"""Datasets, versions and what was detected in a file, in a few lines each."""

from __future__ import annotations

import json as text_json
from typing import Any

from ltp.cli.output import size


def describe(dataset: Any) -> str:
    """A dataset in a few lines."""
    splits: dict[str, Any] = dataset["splits"] or {}
    parts = ", ".join(f"{name} {split['rows']}" for name, split in sorted(splits.items()))
    lines = [f"{dataset['name']}  {dataset['state']}  {dataset['dataset_id']}"]
    copies = f", {dataset['duplicates']} word-for-word copies left out" if dataset["duplicates"] else ""
    if dataset["version"]:
        lines += [
            f"  version  {dataset['version']}",
            f"  rows     {dataset['rows']} ({parts}){copies}",
            f"  format   {dataset['format']}" + (f" ({dataset['evidence']})" if dataset.get("evidence") else ""),
        ]
    return "\n".join(lines)


def described_version(version: Any) -> str:
    """A version with what it was made of."""
    lines = [describe({**version, "state": "frozen"})]
    lines += [f"  source   {version['source']}"] if version["source"] else []
    if version["parents"]:
        lines.append(f"  made of  {', '.join(p[:12] for p in version['parents'])} ({version['reason']})")
    lines.append(f"  project  {version['project']}  {size(version['size_bytes'])}")
    if version["personal"]:
        lines.append(f"  personal {', '.join(version['personal'])}")
    return "\n".join(lines)


def described_inspection(found: Any) -> str:
    """How a file would be read, and its first rows."""
    columns = ", ".join(f"{ours} <- {theirs}" for ours, theirs in found["columns"].items())
    lines = [
        f"format   {found['format']} ({found['evidence']})",
        f"columns  {columns}",
        f"files    {', '.join(found['files'])}",
        *(text_json.dumps(row, ensure_ascii=False) for row in found["rows"]),
    ]
    return "\n".join(lines)
