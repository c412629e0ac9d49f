"""Orders that respect dependencies, and the cycles that make them impossible. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def in_order(needs: Mapping[str, Sequence[str]]) -> list[str]:
    """The names so that each comes after what it needs, otherwise as given (Kahn 1962). Leaves out what hangs on a cycle."""
    waiting = {name: {n for n in needed if n in needs} for name, needed in needs.items()}
    followers: dict[str, list[str]] = {name: [] for name in needs}
    for name, needed in waiting.items():
        for need in needed:
            followers[need].append(name)
    ready = [name for name, needed in waiting.items() if not needed]
    ordered: list[str] = []
    for name in ready:  # grows while it is walked
        ordered.append(name)
        for follower in followers[name]:
            waiting[follower].discard(name)
            if not waiting[follower]:
                ready.append(follower)
    return ordered


def cycle(needs: Mapping[str, Sequence[str]]) -> list[str] | None:
    """One cycle as the names along it, the first again at the end; None when there is none."""
    left = set(needs) - set(in_order(needs))
    if not left:
        return None
    # Whatever is left after the ordering has a need that is left too: walking along needs must come back.
    walked = [min(left)]
    while True:
        after = next(n for n in needs[walked[-1]] if n in left)
        if after in walked:
            return [*walked[walked.index(after) :], after]
        walked.append(after)
