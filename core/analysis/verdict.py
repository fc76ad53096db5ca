"""The verdict on a comparison, in the order that keeps a better-looking answer from hiding a reason not to answer."""

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from core.analysis.estimate import Estimate
from core.analysis.multiplicity import survivors

# Wrong verdicts among all wins and losses of an experiment, at most, on average.
FALSE_DISCOVERY_RATE = 0.05


class Verdict(StrEnum):
    WIN = "win"
    LOSS = "loss"
    LIKELY = "likely"
    EQUIVALENT = "equivalent"
    INCONCLUSIVE = "inconclusive"
    NOT_COMPARABLE = "not-comparable"
    NO_OP = "no-op"


# What `compare --strict` does not take for an answer.
UNDECIDED = frozenset({Verdict.LIKELY, Verdict.INCONCLUSIVE, Verdict.NOT_COMPARABLE})


class Evidence(NamedTuple):
    """What is known of one comparison. `no_op`: one program, the same inputs. `obstacle`: why it is none."""

    no_op: bool
    obstacle: str | None
    estimate: Estimate | None


def judge(evidence: Sequence[Evidence], band: float) -> list[Verdict]:
    """A verdict each, the experiment's comparisons weighed together (Benjamini-Hochberg)."""
    weighed = [i for i, e in enumerate(evidence) if not e.no_op and e.obstacle is None and _known(e.estimate)]
    p_values = [e.p_beyond(band) for i in weighed if (e := evidence[i].estimate) is not None]
    survive = dict(zip(weighed, survivors(p_values, FALSE_DISCOVERY_RATE), strict=True))
    return [_verdict(e, band, survive.get(i, False)) for i, e in enumerate(evidence)]


def _known(estimate: Estimate | None) -> bool:
    return estimate is not None and estimate.sd is not None


def _verdict(e: Evidence, band: float, survives: bool) -> Verdict:
    if e.no_op:
        return Verdict.NO_OP
    if e.obstacle is not None:
        return Verdict.NOT_COMPARABLE
    interval = e.estimate.interval if e.estimate is not None else None
    if interval is None:
        return Verdict.INCONCLUSIVE
    low, high = interval
    if -band <= low and high <= band:
        return Verdict.EQUIVALENT
    if low > band:
        return Verdict.WIN if survives else Verdict.LIKELY
    if high < -band:
        return Verdict.LOSS if survives else Verdict.LIKELY
    return Verdict.INCONCLUSIVE
