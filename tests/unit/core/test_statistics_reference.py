"""Our statistics against SciPy and statsmodels on 1,000 random tables each, to 1e-9, and against simulation."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from ltp.core.distributions import beta_cdf, binomial_cdf, binomial_pmf, t_cdf, t_quantile
from ltp.core.statistics import Interval, PairedCounts, mcnemar, paired_difference, verdict, wilson
from ltp.core.statistics_means import bootstrap_mean, clustered_mean
from ltp.core.statistics_power import mcnemar_power, minimum_detectable_gain, rows_needed
from ltp.core.statistics_sequential import confidence_sequence, decide, evidence_of_change, holm

np = pytest.importorskip("numpy")
stats = pytest.importorskip("scipy.stats")
special = pytest.importorskip("scipy.special")
proportion = pytest.importorskip("statsmodels.stats.proportion")
tables = pytest.importorskip("statsmodels.stats.contingency_tables")
multitest = pytest.importorskip("statsmodels.stats.multitest")
linear = pytest.importorskip("statsmodels.regression.linear_model")

TABLES = 1000
CLOSE = 1e-9


def test_distributions_agree_with_scipy() -> None:
    draw = random.Random(1)
    for _ in range(TABLES):
        a, b, x = draw.uniform(0.1, 300), draw.uniform(0.1, 300), draw.random()
        assert beta_cdf(x, a, b) == pytest.approx(special.betainc(a, b, x), abs=CLOSE)
        n = draw.randint(1, 3000)
        k, p = draw.randint(0, n), draw.random()
        assert binomial_cdf(k, n, p) == pytest.approx(stats.binom.cdf(k, n, p), abs=CLOSE)
        assert binomial_pmf(k, n, p) == pytest.approx(stats.binom.pmf(k, n, p), abs=CLOSE)
        df, t = draw.randint(1, 500), draw.uniform(-6, 6)
        assert t_cdf(t, df) == pytest.approx(stats.t.cdf(t, df), abs=CLOSE)
        q = draw.uniform(0.6, 0.999)
        assert t_quantile(q, df) == pytest.approx(stats.t.ppf(q, df), rel=CLOSE)


def test_wilson_and_mcnemar_agree_with_statsmodels() -> None:
    draw = random.Random(2)
    for _ in range(TABLES):
        n = draw.randint(1, 5000)
        k, confidence = draw.randint(0, n), draw.choice([0.8, 0.9, 0.95, 0.99])
        found = wilson(k, n, confidence)
        low, high = proportion.proportion_confint(k, n, alpha=1 - confidence, method="wilson")
        assert (found.low, found.high) == pytest.approx((max(low, 0), min(high, 1)), abs=CLOSE)
        a, b, c, d = (draw.randint(0, 400) for _ in range(4))
        theirs = tables.mcnemar([[a, b], [c, d]], exact=True).pvalue
        assert mcnemar(b, c) == pytest.approx(theirs, abs=CLOSE)


def test_clustered_means_agree_with_statsmodels() -> None:
    draw = random.Random(3)
    for _ in range(TABLES):
        groups = draw.randint(2, 30)
        sizes = [draw.randint(1, 6) for _ in range(groups)]
        clusters = [g for g, size in enumerate(sizes) for _ in range(size)]
        values = [draw.gauss(0.3 * (g % 3), 1) for g in clusters]
        ours = clustered_mean(values, clusters)
        fit = linear.OLS(np.array(values), np.ones(len(values))).fit(
            cov_type="cluster", cov_kwds={"groups": np.array(clusters)}, use_t=True
        )
        # statsmodels also multiplies by (n - 1) / (n - k), which is 1 here: k is the one mean.
        assert ours.error == pytest.approx(float(fit.bse[0]), rel=CLOSE)
        assert (ours.interval.low, ours.interval.high) == pytest.approx(tuple(fit.conf_int()[0]), rel=CLOSE, abs=CLOSE)
        assert ours.p_value == pytest.approx(float(fit.pvalues[0]), abs=CLOSE)


def test_a_mean_of_single_rows_is_the_textbook_one() -> None:
    draw = random.Random(4)
    for _ in range(TABLES):
        values = [draw.random() for _ in range(draw.randint(2, 60))]
        theirs = stats.ttest_1samp(values, 0)
        interval = theirs.confidence_interval()
        ours = clustered_mean(values, range(len(values)))
        assert ours.p_value == pytest.approx(theirs.pvalue, abs=CLOSE)
        assert (ours.interval.low, ours.interval.high) == pytest.approx((interval.low, interval.high), abs=CLOSE)


def test_holm_agrees_with_statsmodels(monkeypatch: pytest.MonkeyPatch) -> None:
    # statsmodels collects garbage at each call, which is all the time it takes.
    monkeypatch.setattr("gc.collect", lambda: 0)
    draw = random.Random(5)
    for _ in range(TABLES):
        p_values = [draw.random() ** 3 for _ in range(draw.randint(1, 40))]
        assert holm(p_values) == pytest.approx(list(multitest.multipletests(p_values, method="holm")[1]), abs=CLOSE)


def test_power_agrees_with_summing_every_table() -> None:
    draw = random.Random(6)
    for _ in range(60):
        rows, changed = draw.randint(5, 120), draw.uniform(0.05, 0.9)
        gain = draw.uniform(0, changed)
        up = (changed + gain) / 2 / changed
        power = 0.0
        for m in range(rows + 1):
            rejected = [x for x in range(m + 1) if x > m - x and mcnemar(x, m - x) < 0.05]
            power += stats.binom.pmf(m, rows, changed) * float(sum(stats.binom.pmf(rejected, m, up))) if rejected else 0
        assert mcnemar_power(rows, changed, gain) == pytest.approx(power, abs=CLOSE)


@pytest.mark.parametrize(("rows", "gain", "power"), [(200, 0.05, 0.466), (500, 0.03, 0.447), (1000, 0.03, 0.763)])
def test_power_is_what_the_simulation_of_the_reference_page_found(rows: int, gain: float, power: float) -> None:
    # 4,000 trials there: a standard error of 0.8 percentage points.
    assert mcnemar_power(rows, 0.12, gain) == pytest.approx(power, abs=0.025)


def test_the_smallest_detectable_gain_is_detected_and_no_smaller_one() -> None:
    gain = minimum_detectable_gain(500, 0.12)
    assert gain is not None
    assert mcnemar_power(500, 0.12, gain) == pytest.approx(0.8, abs=1e-4)
    assert minimum_detectable_gain(30, 0.1) is None


def test_the_advised_number_of_rows_suffices_and_is_not_wasteful() -> None:
    for changed, gain in [(0.12, 0.03), (0.3, 0.1), (0.05, 0.02), (0.5, -0.2)]:
        rows = rows_needed(changed, gain)
        assert mcnemar_power(rows, changed, gain) >= 0.8
        assert mcnemar_power(int(rows * 0.93), changed, gain) < 0.8
    with pytest.raises(ValueError, match="no number of rows"):
        rows_needed(0.1, 0.2)


def _covers(interval: Interval, truth: float) -> bool:
    return interval.low <= truth <= interval.high


def test_intervals_cover_as_promised() -> None:
    draw, hits = random.Random(7), {"wilson": 0, "clustered": 0, "bootstrap": 0}
    trials = 600
    for _ in range(trials):
        hits["wilson"] += _covers(wilson(sum(draw.random() < 0.3 for _ in range(80)), 80), 0.3)
        # Four answers a prompt, prompts of different difficulty: independent rows would cover about 70 %.
        values, clusters = [], []
        for group in range(60):
            ease = draw.random()
            values += [float(draw.random() < ease) for _ in range(4)]
            clusters += [group] * 4
        hits["clustered"] += _covers(clustered_mean(values, clusters).interval, 0.5)
        hits["bootstrap"] += _covers(bootstrap_mean(values, clusters, draw, resamples=150), 0.5)
    # Three standard errors of 600 trials at 95 % are 2.7 points; the bootstrap of 60 groups is a little narrow.
    assert 0.923 <= hits["wilson"] / trials <= 0.985
    assert 0.923 <= hits["clustered"] / trials <= 0.985
    assert 0.90 <= hits["bootstrap"] / trials <= 0.985


@pytest.mark.parametrize(("gain", "discordant", "rows"), [(0.0, 0.12, 200), (0.0, 0.3, 60), (0.06, 0.2, 150)])
def test_the_paired_interval_covers_and_a_verdict_is_seldom_false(gain: float, discordant: float, rows: int) -> None:
    up, down = (discordant + gain) / 2, (discordant - gain) / 2
    both = (1 - discordant) * 0.6
    drawn = np.random.default_rng(11).multinomial(rows, [both, up, down, 1 - discordant - both], size=4000)
    covered = false = found = 0
    for table in drawn.tolist():
        counts = PairedCounts(*table)
        interval = paired_difference(counts)
        said = verdict(interval, mcnemar(counts.improved, counts.regressed))
        covered += _covers(interval, gain)
        false += said == "regressed" or (said == "improved" and gain == 0)
        found += said == "improved" and gain > 0
    # Three standard errors of 4,000 trials at 95 % are one point; Newcombe's interval is a little wide, never narrow.
    assert 0.94 <= covered / len(drawn) <= 0.985
    # The exact test keeps below alpha at every size.
    assert false / len(drawn) <= 0.05
    # And it does speak: without a gain now and then, with one at least as often as the exact power says less the interval's say.
    assert false > 0 if gain == 0 else found / len(drawn) >= mcnemar_power(rows, discordant, gain) - 0.05


def test_false_alarms_stay_below_alpha() -> None:
    draw = random.Random(8)
    trials, mcnemar_alarms, peeking_alarms, sequential_alarms, escaped = 800, 0, 0, 0, 0
    for _ in range(trials):
        up = down = right = 0
        peeked = stopped = out = False
        for n in range(1, 301):
            if draw.random() < 0.5:
                up, down = (up + 1, down) if draw.random() < 0.5 else (up, down + 1)
                peeked = peeked or mcnemar(up, down) < 0.05
                stopped = stopped or decide(up, down) != "undecided"
            right += draw.random() < 0.7
            out = out or not _covers(confidence_sequence(right, n), 0.7) if n % 10 == 0 else out
        mcnemar_alarms += mcnemar(up, down) < 0.05
        peeking_alarms += peeked
        sequential_alarms += stopped
        escaped += out
    limit = 0.05 + 3 * (0.05 * 0.95 / trials) ** 0.5
    assert mcnemar_alarms / trials <= limit
    assert sequential_alarms / trials <= limit
    assert escaped / trials <= limit
    # What the always-valid test is for: looking after every row with the ordinary one raises false alarms.
    assert peeking_alarms / trials > 0.1


def test_the_sequential_test_finds_a_real_gain_early() -> None:
    draw = random.Random(9)
    looks = []
    for _ in range(100):
        up = down = 0
        while decide(up, down) == "undecided" and up + down < 500:
            up, down = (up + 1, down) if draw.random() < 0.75 else (up, down + 1)
        assert decide(up, down) == "improved"
        looks.append(up + down)
    assert sorted(looks)[50] < 80


def test_evidence_starts_at_one_and_is_a_martingale() -> None:
    assert evidence_of_change(0, 0) == pytest.approx(1)
    for up in range(12):
        for down in range(12):
            after = (evidence_of_change(up + 1, down) + evidence_of_change(up, down + 1)) / 2
            assert after == pytest.approx(evidence_of_change(up, down))


def test_a_confidence_sequence_narrows_and_contains_the_share() -> None:
    widths = [confidence_sequence(n // 2, n).high - confidence_sequence(n // 2, n).low for n in (10, 100, 1000)]
    assert all(later < earlier for earlier, later in pairwise(widths))
    assert confidence_sequence(0, 0) == Interval(0, 1)
    assert confidence_sequence(0, 50).low == 0
    assert confidence_sequence(50, 50).high == 1


@pytest.mark.parametrize("bad", [([], []), ([1.0], [1, 2])])
def test_a_mean_needs_values_with_clusters(bad: tuple[list[float], list[int]]) -> None:
    with pytest.raises(ValueError, match="clusters"):
        clustered_mean(*bad)


def test_one_cluster_leaves_the_interval_unknown() -> None:
    found = clustered_mean([1.0, 0.0, 1.0], ["a", "a", "a"])
    assert found.interval == Interval(float("-inf"), float("inf"))
    assert found.p_value == 1
