"""Many comparisons at once: which of them survive a bound on the false discovery rate.

Benjamini & Hochberg, "Controlling the false discovery rate", J. R. Statist. Soc. B 57 (1995) 289-300.
"""

from collections.abc import Sequence


def survivors(p_values: Sequence[float], q: float) -> list[bool]:
    """For each p-value whether it is among the k smallest, k the largest rank with p(k) <= k q / m."""
    m = len(p_values)
    ranked = sorted(p_values)
    last = max((p for rank, p in enumerate(ranked, start=1) if p <= rank * q / m), default=-1.0)
    return [p <= last for p in p_values]
