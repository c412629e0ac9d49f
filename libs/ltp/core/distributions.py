"""The few probability distributions that our statistics need and the standard library lacks."""

from __future__ import annotations

from functools import lru_cache
from math import exp, inf, lgamma, log, log1p
from statistics import NormalDist

_TINY = 1e-300
_TERMS = 10_000


def normal_quantile(probability: float) -> float:
    """The standard normal quantile. Raises ValueError outside (0, 1)."""
    if not 0 < probability < 1:
        raise ValueError(f"a probability lies between 0 and 1, not {probability}")
    return NormalDist().inv_cdf(probability)


def log_beta(a: float, b: float) -> float:
    """The logarithm of the beta function."""
    return lgamma(a) + lgamma(b) - lgamma(a + b)


def beta_cdf(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b), by Lentz's continued fraction.

    Source: W. H. Press et al., Numerical Recipes, 3rd ed., §6.4 (the fraction is DLMF 8.17.22). Raises ValueError unless
    a and b are positive.
    """
    if a <= 0 or b <= 0:
        raise ValueError(f"a beta distribution needs positive parameters, not {a} and {b}")
    if x <= 0:
        return 0.0
    if x >= 1:
        return 1.0
    front = exp(a * log(x) + b * log1p(-x) - log_beta(a, b))
    # The fraction converges fast only below the mean; above it the mirrored one is used.
    if x < (a + 1) / (a + b + 2):
        return front * _fraction(x, a, b) / a
    return 1.0 - front * _fraction(1 - x, b, a) / b


def binomial_cdf(k: int, n: int, p: float) -> float:
    """P(X <= k) for X of Binomial(n, p)."""
    if k < 0:
        return 0.0
    return 1.0 if k >= n else beta_cdf(1 - p, n - k, k + 1)


def binomial_pmf(k: int, n: int, p: float) -> float:
    """P(X = k) for X of Binomial(n, p)."""
    if p in {0.0, 1.0}:
        return float(k == n * p)
    ways = lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)
    return exp(ways + k * log(p) + (n - k) * log1p(-p))


def t_cdf(t: float, degrees: float) -> float:
    """P(T <= t) for Student's T."""
    tail = beta_cdf(degrees / (degrees + t * t), degrees / 2, 0.5) / 2
    return 1 - tail if t > 0 else tail


@lru_cache(maxsize=256)
def t_quantile(probability: float, degrees: float) -> float:
    """The quantile of Student's T, by bisection of the tail. Raises ValueError outside (0, 1) or without a degree."""
    if not 0 < probability < 1 or degrees <= 0:
        raise ValueError(f"no quantile of T at {probability} with {degrees} degrees of freedom")
    if probability < 0.5:
        return -t_quantile(1 - probability, degrees)
    tail = 1 - probability
    low, high = 0.0, 1.0
    while t_cdf(-high, degrees) > tail and high < inf:
        low, high = high, high * 2
    for _ in range(200):
        middle = (low + high) / 2
        if middle in {low, high}:
            break
        low, high = (middle, high) if t_cdf(-middle, degrees) > tail else (low, middle)
    return (low + high) / 2


def _fraction(x: float, a: float, b: float) -> float:
    c, d = 1.0, 1 / _safe(1 - (a + b) * x / (a + 1))
    found = d
    for m in range(1, _TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d, c = 1 / _safe(1 + even * d), _safe(1 + even / c)
        found *= d * c
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d, c = 1 / _safe(1 + odd * d), _safe(1 + odd / c)
        step = d * c
        found *= step
        if abs(step - 1) < 1e-16:
            break
    return found


def _safe(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
