"""Rules that say whether a response is right; evaluation and the reward of reinforcement learning share them.

A scorer is pure and total: any two strings give True or False, so that one odd response cannot stop a run.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from decimal import Decimal
from types import MappingProxyType

# A minus is a sign only where it cannot be a subtraction ("9-4") or a range ("3-5"): not after a digit or letter.
_NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|(?<!\d)\.\d+|\d+(?:\.\d+)?")
_END = ".,;:!? "
_RELATIVE, _ABSOLUTE = Decimal("1e-6"), Decimal("1e-9")


def exact(response: str, reference: str) -> bool:
    """Whether both are the same text, apart from case, white space, Unicode form and trailing punctuation."""
    return _normal(response) == _normal(reference)


def numeric(response: str, reference: str) -> bool:
    """Whether the last number of the response equals the last number of the reference.

    The last, because models reason first and answer last. Reads signs, decimals and thousands commas. Numbers are
    equal within a relative 1e-6 (of the reference) or an absolute 1e-9, so that 0.333333 and 0.3333333 agree and
    whole numbers below 500,000 never blur. False where either has no number.
    """
    got, wanted = _last_number(response), _last_number(reference)
    if got is None or wanted is None:
        return False
    return abs(got - wanted) <= max(_RELATIVE * abs(wanted), _ABSOLUTE)


SCORERS: Mapping[str, Callable[[str, str], bool]] = MappingProxyType({"exact": exact, "numeric": numeric})


def score(name: str, response: str, reference: str) -> bool:
    """Apply the scorer `name`. Raises ValueError when there is none."""
    scorer = SCORERS.get(name)
    if scorer is None:
        raise ValueError(f"no scorer is called {name!r}; there are: {', '.join(sorted(SCORERS))}")
    return scorer(response, reference)


def _normal(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).rstrip(_END)


def _last_number(text: str) -> Decimal | None:
    # NFKC folds full-width digits; the Unicode minus has no such form.
    found = _NUMBER.findall(unicodedata.normalize("NFKC", text).replace("\u2212", "-"))
    return Decimal(found[-1].replace(",", "")) if found else None
