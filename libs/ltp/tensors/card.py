"""What a merged model says about itself: manifest.json for programs, README.md with front matter for people and hubs.

Neither holds a time or a duration: the same operation gives the same files, byte for byte.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from ltp.tensors.identity import ENGINE

MANIFEST, CARD = "manifest.json", "README.md"


@dataclass(frozen=True)
class Parent:
    """A model the result was made of. `sha256` (by file) is null where the files were not read as a whole."""

    reference: str
    fingerprint: str
    stamps: list[list[int]]
    sha256: dict[str, str] | None = None


def manifest(
    digest: str,
    kind: str,
    recipe: dict[str, Any],
    seed: int,
    parents: Sequence[Parent],
    files: dict[str, int],
    sha256: dict[str, str] | None,
    proof: dict[str, Any] | None,
) -> dict[str, Any]:
    """The lineage of a result: everything needed to make it again and to know it again."""
    return {
        "digest": digest,
        "kind": kind,
        "recipe": recipe,
        "seed": seed,
        "parents": [parent.__dict__ for parent in parents],
        "files": {name: {"bytes": size, "sha256": (sha256 or {}).get(name)} for name, size in sorted(files.items())},
        "versions": {
            "ltp": metadata.version("ltp"),
            "engine": ENGINE,
            "torch": metadata.version("torch"),
            "python": platform.python_version(),
        },
        "proof": proof,
    }


def read_manifest(directory: Path) -> dict[str, Any] | None:
    """The manifest in a directory; None where there is none that can be read."""
    try:
        found: object = json.loads((directory / MANIFEST).read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None  # pyright: ignore[reportUnknownVariableType]


def card(name: str, found: dict[str, Any], method: str, datasets: Sequence[str] = ()) -> str:
    """The model card, with the front matter that hubs read."""
    references = [parent["reference"] for parent in found["parents"]]
    # A model that was only chosen or converted has no relation that hubs know a word for.
    relation = {"lora": "adapter", "merge": "merge", "average": "merge"}.get(found["kind"])
    front: dict[str, Any] = {"base_model": [_public(reference) for reference in references]}
    if relation:
        front["base_model_relation"] = relation
    front["library_name"] = "peft" if relation == "adapter" else "transformers"
    front["tags"] = list(dict.fromkeys(["ltp", relation or found["kind"], method]))
    if datasets:
        front["datasets"] = list(datasets)
    lines = [f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---", f"# {name}", ""]
    lines += [
        f"Made by ltp {found['versions']['ltp']} with `{method}` from {len(references)} model{'s' if len(references) > 1 else ''}:",
        "",
    ]
    lines += [f"- `{_public(p['reference'])}` (fingerprint `{p['fingerprint'][:12]}`)" for p in found["parents"]]
    recipe = yaml.safe_dump(found["recipe"], sort_keys=False, allow_unicode=True)
    lines += ["", "## Recipe", "", f"```yaml\n{recipe}```", "", f"Seed {found['seed']}, digest `{found['digest']}`."]
    if found["proof"]:
        lines += ["", "## Proof", "", *_proof_lines(found["proof"])]
    return "\n".join(lines) + "\n"


def _proof_lines(proof: dict[str, Any]) -> list[str]:
    lines = [f"- skipped: {proof['skipped']}"] if proof.get("skipped") else []
    if proof.get("loads"):
        lines.append(f"- loads in transformers, {proof['parameters']:,} parameters")
    if proof.get("perplexity") is not None:
        lines.append(f"- perplexity {proof['perplexity']:.2f} on {proof['canary_tokens']} tokens of plain English")
    if proof.get("round_trip") is not None:
        lines.append(f"- tokenizer round trip: {'exact' if proof['round_trip'] else 'not exact'}")
    return lines


def _public(reference: str) -> str:
    """A model's name without the machine's directories."""
    return "+".join(Path(part).name for part in reference.split("+"))
