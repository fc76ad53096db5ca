"""Student's t distribution for whole degrees of freedom, without SciPy, whose import costs a reader half a second.

The finite sums of Abramowitz & Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4 are exact there.
"""

import math
from functools import lru_cache


def within(t: float, df: int) -> float:
    """P(|T| <= t) for T with `df` >= 1 degrees of freedom, t >= 0."""
    if math.isinf(t):
        return 1.0
    angle = math.atan(t / math.sqrt(df))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = df % 2
    term = cosine if odd else 1.0
    total = 0.0 if df == 1 else term
    for k in range(2 + odd, df - 1, 2):
        term *= cosine * cosine * (k - 1) / k
        total += term
    return (angle + sine * total) * 2 / math.pi if odd else sine * total


def outside(t: float, df: int) -> float:
    """P(|T| > t): the two-sided p-value of t."""
    return max(0.0, 1.0 - within(abs(t), df))


@lru_cache
def quantile(level: float, df: int) -> float:
    """The t with P(|T| <= t) = level, 0 < level < 1: `level` = 0.95 gives the factor of a 95 % interval."""
    high = 1.0
    while within(high, df) < level:
        high *= 2
    low = 0.0
    while True:
        middle = (low + high) / 2
        if middle in (low, high):
            return middle
        low, high = (middle, high) if within(middle, df) < level else (low, middle)
