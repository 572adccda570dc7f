#!/usr/bin/env python3
"""Writes golden.json: what SciPy and others say of the statistics in common/src/compare.

    python3 -m venv v && v/bin/pip install scipy==1.17.1 statsmodels==0.15.0 signal-processing-algorithms==2.1.6
    v/bin/python make.py
"""

import itertools
import json
import pathlib

import numpy as np
from scipy import stats
from scipy.spatial.distance import cdist
from signal_processing_algorithms.energy_statistics.energy_statistics import e_divisive
from statsmodels.stats.multitest import multipletests

RNG = np.random.default_rng(20261122)
ALL = stats.PermutationMethod(n_resamples=np.inf)


def sample(n, ties, shift=0.0):
    """n positive values; with ties they are few different ones."""
    if ties:
        return [float(v) for v in RNG.integers(1, 6, n) + (1 if shift else 0)]
    return [float(v) for v in np.round(np.exp(RNG.normal(3 + shift, 0.2, n)), 6)]


def interval(test, pivots, alpha):
    """The shifts that a test does not reject: an interval whose bounds are among the pivots."""
    pivots = np.unique(pivots)
    middles = np.concatenate([[pivots[0] - 1], (pivots[1:] + pivots[:-1]) / 2, [pivots[-1] + 1]])
    kept = [i for i, d in enumerate(middles) if test(d) > alpha]
    if kept[0] == 0 or kept[-1] == len(middles) - 1:
        return None
    return [float(pivots[kept[0] - 1]), float(pivots[kept[-1]])]


def unpaired(n, m, ties, shift):
    a, b = sample(n, ties), sample(m, ties, shift)
    exact = stats.mannwhitneyu(b, a, method=ALL if ties else "exact")
    close = stats.mannwhitneyu(b, a, method="asymptotic")
    case = {"a": a, "b": b, "ties": ties, "u": float(exact.statistic), "p": float(exact.pvalue),
            "p_approximate": float(close.pvalue), "cliff": float(2 * exact.statistic / (n * m) - 1)}
    logs = stats.ttest_ind(np.log(b), np.log(a), equal_var=False)
    bounds = logs.confidence_interval(0.95)
    case["welch"] = {"p": float(logs.pvalue), "df": float(logs.df), "ratio": [float(np.exp(bounds.low)), float(np.exp(bounds.high))]}
    pivots = np.subtract.outer(b, a).ravel()
    case["shift"] = float(np.median(pivots))
    if not ties:
        test = lambda d: stats.mannwhitneyu(np.array(b) - d, a, method="exact").pvalue
        case["interval"] = interval(test, pivots, 0.05)
    return case


def pairs(n, ties, shift):
    d = [float(v) for v in RNG.integers(-3, 6, n)] if ties else [float(v) for v in np.round(RNG.normal(shift, 1, n), 6)]
    if not any(d):
        d[0] = 1.0
    kept = [v for v in d if v]
    exact = stats.wilcoxon(kept, method=ALL if ties else "exact")
    close = stats.wilcoxon(kept, method="asymptotic", correction=True)
    grew = float(sum(r for r, v in zip(stats.rankdata(np.abs(kept)), kept) if v > 0))
    case = {"d": d, "ties": ties, "w": grew, "p": float(exact.pvalue), "p_approximate": float(close.pvalue)}
    walsh = [(x + y) / 2 for x, y in itertools.combinations_with_replacement(d, 2)]
    case["shift"] = float(np.median(walsh))
    if not ties:
        test = lambda s: stats.wilcoxon(np.array(d) - s, method="exact").pvalue
        case["interval"] = interval(test, walsh, 0.05)
    return case


def corrections():
    cases = []
    for n in [1, 2, 5, 9]:
        p = [float(v) for v in np.round(RNG.beta(0.5, 3, n), 6)]
        holm = [float(v) for v in multipletests(p, method="holm")[1]]
        bh = [float(v) for v in stats.false_discovery_control(p, method="bh")]
        cases.append({"p": p, "holm": holm, "bh": bh})
    return cases


def ranges():
    cases = []
    for n, more in [(8, 1), (8, 2), (12, 1), (19, 1)]:
        base, runs = sample(n, False), sample(more, False, 0.3)
        logs = np.log(base)
        error = logs.std(ddof=1) * np.sqrt(1 / more + 1 / n)
        reach = stats.t.ppf(0.975, n - 1) * error
        z = (np.mean(np.log(runs)) - logs.mean()) / error
        cases.append({"base": base, "runs": runs, "low": float(np.exp(logs.mean() - reach)),
                      "high": float(np.exp(logs.mean() + reach)), "p": float(2 * stats.t.sf(abs(z), n - 1))})
    return cases


def range_power(n, noise, change):
    """How often one run is beyond the 95 % range of n, by the noncentral t distribution."""
    off = np.log1p(change) / (noise * np.sqrt(1 + 1 / n))
    bound = stats.t.ppf(0.975, n - 1)
    return {"n": n, "noise": noise, "change": change,
            "power": float(stats.nct.sf(bound, n - 1, off) + stats.nct.cdf(-bound, n - 1, off))}


def strength(part, at, end):
    """The energy distance as in Matteson and James, summed up pair by pair."""
    x, y = np.array(part[:at])[:, None], np.array(part[at:end])[:, None]
    n, m = len(x), len(y)
    within = lambda v: cdist(v, v).sum() / (len(v) * (len(v) - 1))
    return float(n * m / (n + m) * (2 * cdist(x, y).mean() - within(x) - within(y)))


def series(levels, noise, length):
    np.random.seed(1)
    values = [float(v) for level in levels for v in np.round(RNG.normal(level, noise, length), 6)]
    found = sorted(int(at) for at in e_divisive(values, pvalue=0.01, permutations=199))
    splits = [[at, end, strength(values, at, end)] for at, end in [(5, 20), (10, 25), (12, len(values))]]
    return {"values": values, "changes": found, "splits": splits}


def main():
    sizes = [(3, 3), (4, 4), (5, 5), (5, 7), (6, 6), (10, 10), (4, 12)]
    shapes = [(n, m, ties, shift) for n, m in sizes for ties in [False, True] for shift in [0.0, 0.25]]
    golden = {
        "normal": [[z, float(stats.norm.sf(z))] for z in [-3.0, -0.5, 0.0, 0.3, 1.0, 1.96, 2.8, 2.9, 5.0, 9.0]],
        "student": [[t, df, float(2 * stats.t.sf(t, df))] for t in [0.0, 0.1, 1.0, 2.776, 12.0, 60.0] for df in [1.0, 2.7, 4.0, 19.0, 300.0]],
        "quantiles": [[p, df, float(stats.t.isf(p / 2, df))] for p in [0.001, 0.05, 0.2] for df in [1.0, 2.7, 7.0, 40.0]],
        # All ways of dealing many values with ties are too many for SciPy.
        "unpaired": [unpaired(*shape) for shape in shapes if not (shape[2] and shape[0] + shape[1] > 14)],
        "large": [unpaired(40, 35, False, 0.05)],
        "pairs": [pairs(n, ties, shift) for n in [5, 6, 8, 12] for ties in [False, True] for shift in [0.0, 1.0]],
        "corrections": corrections(),
        "ranges": ranges(),
        "range_power": [range_power(9, 0.03, change) for change in [0.05, 0.1]] + [range_power(15, 0.05, 0.1)],
        "series": [series(levels, 1.0, 15) for levels in [[10, 10, 10], [10, 14, 14], [10, 14, 10], [10, 13, 18]]],
    }
    tied = [float(v) for v in RNG.integers(1, 9, 70)]
    golden["large_tied"] = {"a": tied[:35], "b": tied[35:],
                            "p": float(stats.mannwhitneyu(tied[35:], tied[:35], method="asymptotic").pvalue)}
    out = pathlib.Path(__file__).with_name("golden.json")
    lines = [f"{json.dumps(key)}: [\n" + ",\n".join(json.dumps(v) for v in value) + "\n]" if isinstance(value, list)
             else f"{json.dumps(key)}: {json.dumps(value)}" for key, value in golden.items()]
    out.write_text("{\n" + ",\n".join(lines) + "\n}\n")


main()
