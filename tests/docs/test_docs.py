"""The documents keep their word: every `ltp` command in them exists with its options, links lead somewhere, references are current.

What is run for real is `tests/docs/test_quick_start.py`; a block that needs what CI lacks says so in the line above it:
`<!-- needs: gpu -->`, `docker`, `network`, `ssh`, `hours`, `grafana`.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.core import TyperGroup

from ltp.cli.reference import command_tree, generated

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"(?P<above>[^\n]*)\n```(?:bash|sh|console)\n(?P<text>.*?)```", re.DOTALL)
NEEDS = re.compile(r"<!-- needs: ([a-z, ]+) -->")
KNOWN_NEEDS = {"gpu", "docker", "network", "ssh", "hours", "grafana", "kubernetes"}


def commands_of(page: Path) -> list[str]:
    """Every `ltp` command in the page's blocks, without what a shell does with its output."""
    found: list[str] = []
    for block in BLOCK.finditer(page.read_text()):
        text = re.sub(r"<<'?(\w+)'?.*?\n\1\n", "\n", block["text"], flags=re.DOTALL).replace("\\\n", " ")
        for line in text.splitlines():
            for part in re.split(r"&&|\|\||;|\|", re.sub(r"(^|\s)#.*", "", line)):
                words = re.sub(r"^\s*\$\s+", "", part).strip()
                if words.startswith("ltp "):
                    found.append(re.sub(r"\s\d?>\s*\S+.*", "", words).rstrip(" &"))
    return found


def explained(words: list[str]) -> str | None:
    """What is wrong with a command line; None when it could be run."""
    command: Any = command_tree()
    rest = words[1:]
    while hasattr(command, "list_commands") and rest:
        found = command.get_command(None, rest[0])
        if found is None:
            if len(rest) < len(words) - 1 and type(command) is not TyperGroup:
                return None  # A noun with a verb that may be left out, as `ltp plan FILE`.
            return f"no command {rest[0]}"
        command, rest = found, rest[1:]
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}
    unknown = [w.partition("=")[0] for w in rest if w.startswith("-") and w != "-" and w.partition("=")[0] not in known]
    return f"no option {unknown}" if unknown else None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_in_a_page_exists(page: Path) -> None:
    wrong = {line: why for line in commands_of(page) if (why := explained(shlex.split(line)))}
    assert not wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        if not re.match(r"[a-z]+:", target):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_block_needs_is_said_in_known_words(page: Path) -> None:
    for needs in NEEDS.findall(page.read_text()):
        assert set(re.split(r",\s*", needs)) <= KNOWN_NEEDS


def test_the_references_are_current() -> None:
    stale = [path for path, text in generated(ROOT).items() if (ROOT / path).read_text() != text]
    assert not stale, "run `ltp docs write`"


def test_a_wrong_command_is_seen() -> None:
    assert explained(["ltp", "job", "submitt", "x.yaml"])
    assert explained(["ltp", "job", "submit", "x.yaml", "--no-such-option"])
    assert explained(["ltp", "job", "submit", "x.yaml", "--key", "k"]) is None
