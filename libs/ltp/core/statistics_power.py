"""What a number of rows can show: power, the smallest gain that would be seen, and how many rows a gain needs."""

from __future__ import annotations

from math import ceil, sqrt

from ltp.core.distributions import binomial_cdf, binomial_pmf, normal_quantile

_MOST_ROWS = 10_000_000


def mcnemar_power(rows: int, changed: float, gain: float, alpha: float = 0.05) -> float:
    """The probability that the exact two-sided McNemar test shows a gain of accuracy.

    `changed` is the share of rows whose verdict differs between the models, `gain` = share improved - share regressed.
    Exact: sums over the number of changed rows. Terms of probability below 1e-12 are left out.
    Source: R. Connor, Biometrics 43 (1987), 207-211 (its conditional test). Raises ValueError unless `|gain| <= changed <= 1`.
    """
    if rows <= 0 or not 0 < changed <= 1 or abs(gain) > changed + 1e-12:
        raise ValueError(f"no such table: {rows} rows, {changed} changed, gain {gain}")
    better = min(1.0, (changed + abs(gain)) / (2 * changed))
    power, spread = 0.0, 8 * sqrt(rows * changed * (1 - changed)) + 8
    for count in range(max(0, int(rows * changed - spread)), min(rows, ceil(rows * changed + spread)) + 1):
        weight = binomial_pmf(count, rows, changed)
        if weight < 1e-12:
            continue
        critical = _critical(count, alpha)
        # Improvements X of `count` reject upwards when the regressions are at most `critical`.
        if critical >= 0:
            power += weight * binomial_cdf(critical, count, 1 - better)
    return power


def minimum_detectable_gain(rows: int, changed: float, *, power: float = 0.8, alpha: float = 0.05) -> float | None:
    """The smallest gain that `rows` rows show with this power; None when not even a change all in one direction is shown."""
    if mcnemar_power(rows, changed, changed, alpha) < power:
        return None
    low, high = 0.0, changed
    for _ in range(20):  # to a millionth
        middle = (low + high) / 2
        low, high = (low, middle) if mcnemar_power(rows, changed, middle, alpha) >= power else (middle, high)
    return high


def rows_needed(changed: float, gain: float, *, power: float = 0.8, alpha: float = 0.05) -> int:
    """How many rows show a gain with this power: Connor's formula, then corrected upwards by the exact power.

    Raises ValueError unless `0 < |gain| <= changed <= 1`, or when more than 10 million rows are needed.
    """
    if gain == 0 or abs(gain) > changed or changed > 1:
        raise ValueError(f"no number of rows shows a gain of {gain} with a share of {changed} changed")
    z_alpha, z_beta = normal_quantile(1 - alpha / 2), normal_quantile(power)
    rows = ceil((z_alpha * sqrt(changed) + z_beta * sqrt(max(0.0, changed - gain**2))) ** 2 / gain**2)
    while rows <= _MOST_ROWS and mcnemar_power(rows, changed, gain, alpha) < power:
        rows += max(1, rows // 100)
    if rows > _MOST_ROWS:
        raise ValueError(f"a gain of {gain} needs more than {_MOST_ROWS} rows")
    return rows


def _critical(count: int, alpha: float) -> int:
    """The largest number of the rarer direction among `count` changed rows that the exact test rejects; -1 for none."""
    guess = int(count / 2 - normal_quantile(1 - alpha / 2) * sqrt(count) / 2) + 1
    critical = min(guess, (count - 1) // 2)
    while critical >= 0 and 2 * binomial_cdf(critical, count, 0.5) >= alpha:
        critical -= 1
    while critical + 1 <= (count - 1) // 2 and 2 * binomial_cdf(critical + 1, count, 0.5) < alpha:
        critical += 1
    return critical
