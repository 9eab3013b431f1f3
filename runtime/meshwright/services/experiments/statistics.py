"""Statistics of experiments: intervals, differences, and p-values that hold however often you look.

Pure functions of counts and sums. The always-valid figures are those of the mixture sequential probability
ratio test (Johari and others, 2017): looked at after every task, it finds a difference that is not there in
at most `alpha` of all experiments.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

ALPHA = 0.05
MIN_COUNT = 20
"""Observations of each arm below which nothing is said: the variance is not known well enough."""
_MIXING = 0.05  # variance of the differences that the test expects, as a share of that of one observation
_POWER = 0.95
_NORMAL = NormalDist()
_NOISE = 1e-12  # of a variance, as a share of the squared mean: sums of floats are no more exact
_MOST = 1_000_000_000


class Interval(NamedTuple):
    """The values that fit what was seen."""

    low: float
    high: float


class Sample(NamedTuple):
    """Independent observations: how many, their mean, and the variance of one."""

    count: int
    mean: float
    variance: float

    @classmethod
    def of_sums(cls, count: int, mean: float, mean_square: float) -> Sample:
        """Any numbers, by their mean and the mean of their squares."""
        spread = mean_square - mean * mean
        if count < 2 or spread <= _NOISE * mean * mean:
            return cls(count, mean, 0.0)
        return cls(count, mean, spread * count / (count - 1))

    @classmethod
    def of_share(cls, count: int, mean: float) -> Sample:
        """Observations from 0 to 1. The variance is that of one success and one failure more, so never 0."""
        smoothed = (mean * count + 1) / (count + 2)
        return cls(count, mean, smoothed * (1 - smoothed))


class Difference(NamedTuple):
    """How far the mean of one sample is from that of another, with always-valid interval and p-value."""

    value: float
    low: float
    high: float
    p_value: float


def wilson(successes: float, count: int, alpha: float = ALPHA) -> Interval:
    """The interval of a share, after Wilson."""
    z, share = _NORMAL.inv_cdf(1 - alpha / 2), successes / count
    divisor = 1 + z * z / count
    centre = (share + z * z / 2 / count) / divisor
    width = z / divisor * math.sqrt(max(0.0, share * (1 - share)) / count + z * z / 4 / count / count)
    return Interval(max(0.0, centre - width), min(1.0, centre + width))


def mean_interval(sample: Sample, alpha: float = ALPHA) -> Interval:
    """The interval of a mean, by Student's t."""
    if sample.count < 2 or not sample.variance:
        return Interval(sample.mean, sample.mean)
    low, high, degrees = 0.0, 1e4, sample.count - 1
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if _two_sided(middle, degrees) > alpha else (low, middle)
    width = high * math.sqrt(sample.variance / sample.count)
    return Interval(sample.mean - width, sample.mean + width)


def compare(first: Sample, second: Sample, alpha: float = ALPHA) -> Difference | None:
    """The second mean less the first; None while a sample is too small."""
    if min(first.count, second.count) < MIN_COUNT:
        return None
    error = first.variance / first.count + second.variance / second.count
    return _always_valid(second.mean - first.mean, error, first.variance + second.variance, alpha)


def bounds(sample: Sample, alpha: float = ALPHA) -> Interval | None:
    """The always-valid interval of one mean; None while the sample is too small."""
    if sample.count < MIN_COUNT:
        return None
    interval = _always_valid(sample.mean, sample.variance / sample.count, sample.variance, alpha)
    return Interval(interval.low, interval.high)


def needed(variance: float, difference: float, alpha: float = ALPHA) -> int:
    """How many observations of each arm find a difference of that size in 95 of 100 experiments.

    `variance` is that of one observation of the one arm and one of the other.
    """
    if variance <= 0:
        return MIN_COUNT
    low, high = MIN_COUNT, _MOST

    def is_enough(count: int) -> bool:
        required = _threshold(_MIXING * count, alpha) + _NORMAL.inv_cdf(_POWER)
        return difference * math.sqrt(count / variance) >= required

    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle + 1, high)
    return low


def _always_valid(value: float, error: float, variance: float, alpha: float) -> Difference:
    """`error` is the variance of the value, `variance` that of one observation of it."""
    if error <= 0:
        return Difference(value, value, value, float(not value))
    ratio = _MIXING * variance / error
    exponent = value * value / error * ratio / (2 * (1 + ratio))
    p_value = math.exp(min(0.0, math.log1p(ratio) / 2 - exponent))
    width = _threshold(ratio, alpha) * math.sqrt(error)
    return Difference(value, value - width, value + width, p_value)


def _threshold(ratio: float, alpha: float) -> float:
    """How many standard errors a value is from 0 where its always-valid p-value is alpha."""
    return math.sqrt((1 + ratio) / ratio * (math.log1p(ratio) - 2 * math.log(alpha)))


def _two_sided(t: float, degrees: float) -> float:
    """The probability of a value at least as far from 0 by Student's t."""
    return _incomplete_beta(degrees / 2, 0.5, degrees / (degrees + t * t))


def _incomplete_beta(a: float, b: float, x: float) -> float:
    if x in (0.0, 1.0):
        return x
    logs = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(1 - x)
    if x < (a + 1) / (a + b + 2):
        return math.exp(logs) * _continued(a, b, x) / a
    return 1 - math.exp(logs) * _continued(b, a, 1 - x) / b


def _continued(a: float, b: float, x: float) -> float:
    """The continued fraction of the incomplete beta function, after Lentz."""
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1))
    result = d
    for step in range(1, 300):
        even = step * (b - step) * x / ((a - 1 + 2 * step) * (a + 2 * step))
        odd = -(a + step) * (a + b + step) * x / ((a + 2 * step) * (a + 1 + 2 * step))
        for factor in (even, odd):
            d, c = 1 / (1 + factor * d), 1 + factor / c
            result *= d * c
        if abs(d * c - 1) < 1e-15:
            break
    return result
