"""Looking while the rows come in: tests that stay valid however often one looks, and the correction for many slices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import exp, inf, log, log1p
from typing import Literal

from ltp.core.distributions import log_beta
from ltp.core.statistics import Interval

Decision = Literal["improved", "regressed", "undecided"]


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values, in the order given: below alpha means significant with family-wise error at most alpha.

    Source: S. Holm, Scandinavian Journal of Statistics 6 (1979), 65-70.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def evidence_of_change(improved: int, regressed: int) -> float:
    """The evidence (e-value) against "a changed row is as likely to improve as to regress": 1 / e is an always-valid p.

    The likelihood ratio of a uniform mixture over the share of improvements against 1/2. Under equality it is a
    martingale that starts at 1, so by Ville's inequality it ever reaches 1 / alpha with probability at most alpha:
    stopping at the first crossing is honest.
    Source: H. Robbins, Annals of Mathematical Statistics 41 (1970), 1397-1409; R. Johari et al., Operations Research 70
    (2022), 1806-1821. Raises ValueError on negative counts.
    """
    if improved < 0 or regressed < 0:
        raise ValueError(f"counts cannot be negative: {improved} improved, {regressed} regressed")
    exponent = log_beta(1 + improved, 1 + regressed) + (improved + regressed) * log(2)
    return exp(exponent) if exponent < 700 else inf


def decide(improved: int, regressed: int, alpha: float = 0.05) -> Decision:
    """What may be said at this look, whatever the looks before showed; the first direction said is the one that holds."""
    if evidence_of_change(improved, regressed) < 1 / alpha:
        return "undecided"
    return "improved" if improved > regressed else "regressed"


def confidence_sequence(correct: int, total: int, alpha: float = 0.05) -> Interval:
    """An interval of an accuracy that holds at every look at once with probability 1 - alpha.

    All shares p against which the uniform mixture has a likelihood ratio below 1 / alpha. Wider than Wilson's, which
    holds at one look only. Source: as `evidence_of_change`. Raises ValueError unless `0 <= correct <= total`.
    """
    if not 0 <= correct <= total:
        raise ValueError(f"a share needs 0 <= correct <= total, not {correct} of {total}")
    if total == 0:
        return Interval(0.0, 1.0)
    mixture, limit = log_beta(1 + correct, 1 + total - correct), -log(alpha)

    def excluded(p: float) -> bool:
        return mixture - _log_power(p, correct) - _log_power(1 - p, total - correct) >= limit

    share = correct / total
    return Interval(_edge(excluded, share, 0.0), _edge(excluded, share, 1.0))


def _log_power(base: float, exponent: int) -> float:
    if exponent == 0:
        return 0.0
    return exponent * (log1p(base - 1) if base > 0 else -inf)


def _edge(excluded: Callable[[float], bool], inside: float, outside: float) -> float:
    if not excluded(outside):
        return outside
    for _ in range(100):
        middle = (inside + outside) / 2
        inside, outside = (inside, middle) if excluded(middle) else (middle, outside)
    return outside
