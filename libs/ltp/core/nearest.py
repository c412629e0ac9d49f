"""What somebody may have meant by a name that is not there."""

from __future__ import annotations

from collections.abc import Iterable


def or_nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean X?` for the known name most like `name`, or all of them where none is and they are few."""
    from difflib import get_close_matches  # only where something is wrong

    names = sorted(known)
    close = get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; there are {', '.join(names)}" if len(names) <= 20 else ""
