"""A comparison in one sentence for a person."""

import math

from core.analysis.compare import Comparison
from core.analysis.estimate import Estimate
from core.analysis.verdict import Verdict

# From here on "1.5x faster" reads better than "50 % faster".
_TIMES = 1.5


def sentence(c: Comparison, arm: str, reference: str) -> str:
    """What was found, how well it is known, and the next step when it is not settled. `arm`, `reference`: labels."""
    if c.verdict is Verdict.NO_OP:
        axes = ", ".join(c.tested) or "the axis"
        return f"{arm} and {reference} are one program on the same inputs: {axes} changes nothing (no-op)"
    if c.verdict is Verdict.NOT_COMPARABLE:
        return f"{arm} is not comparable with {reference}: {c.obstacle}"
    if c.estimate is None:
        return f"{arm} has no block to compare with {reference}: {c.standing.shown}{_because(c.standing.reason)}"
    return f"{_finding(c, c.estimate, arm, reference)} ({'; '.join(_grounds(c, c.estimate))}){_next_step(c)}"


def times(log_ratio: float) -> str:
    """A factor with as many digits as are worth reading: 1.03, 3.9, 12."""
    ratio = math.exp(log_ratio)
    if ratio < _TIMES:
        return f"{ratio:.2f}" if abs(ratio - 1) >= 0.02 else f"{ratio:.4f}"
    return f"{ratio:.1f}" if ratio < 10 else f"{ratio:.0f}"


def _finding(c: Comparison, e: Estimate, arm: str, reference: str) -> str:
    match c.verdict:
        case Verdict.WIN | Verdict.LOSS:
            return f"{arm} is {_by(e.mean)} than {reference}"
        case Verdict.LIKELY:
            return f"{arm} is likely {_by(e.mean)} than {reference}"
        case Verdict.EQUIVALENT:
            return f"{arm} and {reference} are equivalent within the noise band of {100 * c.band:g} %"
        case _:
            return f"{arm} against {reference} is not settled: measured {_by(e.mean)}"


def _by(log_ratio: float) -> str:
    word, size = ("faster", log_ratio) if log_ratio >= 0 else ("slower", -log_ratio)
    return f"{times(size)}x {word}" if math.exp(size) >= _TIMES else f"{_percent(size)} % {word}"


def _percent(log_ratio: float) -> str:
    percent = 100 * math.expm1(log_ratio)
    return f"{percent:.1f}" if abs(percent) >= 1 else f"{percent:.2f}"


def _grounds(c: Comparison, e: Estimate) -> list[str]:
    arm_devices, reference_devices = c.devices
    grounds = [_interval(c, e), f"{e.blocks} block{'' if e.blocks == 1 else 's'}, {c.verdict}"]
    if arm_devices != reference_devices:
        grounds.insert(0, f"per device: {arm_devices} devices against {reference_devices}")
    if c.verdict is Verdict.LIKELY:
        grounds.append("it does not survive the correction for the number of comparisons")
    if c.verdict is Verdict.INCONCLUSIVE and e.interval is not None and (e.interval[0] > 0 or e.interval[1] < 0):
        grounds.append(f"the sign is clear, the size reaches into the noise band of {100 * c.band:g} %")
    if c.environments > 1:
        grounds.append(f"measured in {c.environments} environments")
    return [*grounds, f"{c.confidence.level}{_because(c.confidence.why)}"]


def _interval(c: Comparison, e: Estimate) -> str:
    if e.interval is None:
        return "no interval from so few blocks"
    source = " from the ledger's own scatter" if e.borrowed else ""
    low, high = e.interval
    if c.verdict in (Verdict.WIN, Verdict.LOSS, Verdict.LIKELY):
        size = sorted((low, high) if e.mean >= 0 else (-low, -high))
        if math.exp(abs(e.mean)) >= _TIMES:
            return f"95 % interval {times(size[0])}-{times(size[1])}{source}"
        return f"95 % interval {_percent(size[0])} to {_percent(size[1])} %{source}"
    return f"95 % interval x{times(low)}-{times(high)}{source}"


def _next_step(c: Comparison) -> str:
    if c.verdict is Verdict.LIKELY:
        return ": more blocks would settle it: raise blocks in [measure] and run the matrix again"
    if c.verdict is not Verdict.INCONCLUSIVE:
        return ""
    if c.needed is None:
        return ": it lies too near the edge of the noise band for any number of blocks: name a noise_band that matters"
    return f": about {c.needed} blocks would settle it: set blocks = {c.needed} in [measure] and run the matrix again"


def _because(why: str) -> str:
    return f": {why}" if why else ""
