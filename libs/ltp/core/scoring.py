"""Rules that say whether a response is right; evaluation and the reward of reinforcement learning share them.

A scorer is pure and total: any two strings give True or False, so that one odd response cannot stop a run.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from decimal import Decimal
from math import comb
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
    return numeric_within(response, reference, _RELATIVE, _ABSOLUTE)


def numeric_within(response: str, reference: str, relative: Decimal, absolute: Decimal) -> bool:
    """As `numeric`, with tolerances of one's own."""
    got, wanted = _last_number(response), _last_number(reference)
    if got is None or wanted is None:
        return False
    return abs(got - wanted) <= max(relative * abs(wanted), absolute)


def has_number(text: str) -> bool:
    """Whether `numeric` finds a number in a text; a reference without one can make no answer right or wrong."""
    return _last_number(text) is not None


def normalised(response: str, reference: str) -> bool:
    """Whether both are the same words: as `exact`, without punctuation and the articles a, an, the.

    Source: the evaluation script of SQuAD (P. Rajpurkar et al., EMNLP 2016).
    """
    return _words(response) == _words(reference)


def choice_letter(response: str, letters: str) -> str | None:
    """The letter that an answer to a multiple-choice question chooses; None when it names none, or several.

    Looks for the letter alone, then for one that is announced ("answer: B", "the answer is (B)"), then for the only
    letter in brackets or before a dot or colon at the start of a line.
    """
    text = unicodedata.normalize("NFKC", response).strip()
    bare = text.strip("()[]*.: \n").upper()
    if len(bare) == 1 and bare in letters:
        return bare
    group = f"[{letters}]"
    announced = re.findall(rf"(?i:answer|choice|option)(?i:\s+is)?\s*:?\s*[*(\[]*({group})\b", text)
    if announced:
        return announced[-1]
    named = set(re.findall(rf"[(\[]({group})[)\]]", text)) | set(re.findall(rf"(?m)^\W*({group})[.):]", text))
    return named.pop() if len(named) == 1 else None


def pass_at(k: int, drawn: int, right: int) -> float:
    """The probability that at least one of `k` answers is right, estimated without bias from `right` of `drawn`.

    Source: M. Chen et al., Evaluating Large Language Models Trained on Code (2021), eq. 1. Raises ValueError unless
    `0 < k <= drawn` and `0 <= right <= drawn`.
    """
    if not 0 < k <= drawn or not 0 <= right <= drawn:
        raise ValueError(f"pass@{k} needs k of at most {drawn} answers, {right} of them right")
    return 1 - comb(drawn - right, k) / comb(drawn, k)


SCORERS: Mapping[str, Callable[[str, str], bool]] = MappingProxyType({"exact": exact, "numeric": numeric})


def score(name: str, response: str, reference: str) -> bool:
    """Apply the scorer `name`. Raises ValueError when there is none."""
    scorer = SCORERS.get(name)
    if scorer is None:
        raise ValueError(f"no scorer is called {name!r}; there are: {', '.join(sorted(SCORERS))}")
    return scorer(response, reference)


def _normal(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).rstrip(_END)


def _words(text: str) -> list[str]:
    folded = unicodedata.normalize("NFKC", text).casefold()
    plain = "".join(" " if unicodedata.category(letter).startswith("P") else letter for letter in folded)
    return [word for word in plain.split() if word not in {"a", "an", "the"}]


def _last_number(text: str) -> Decimal | None:
    # NFKC folds full-width digits; the Unicode minus has no such form.
    found = _NUMBER.findall(unicodedata.normalize("NFKC", text).replace("\u2212", "-"))
    return Decimal(found[-1].replace(",", "")) if found else None
