"""Log-ratios: what one block says about an arm and its reference."""

import math
from collections import defaultdict
from statistics import median
from typing import NamedTuple

from core.ledger.counting import Counted, counted
from core.ledger.rows import Record, Run, Visit

Key = tuple[str, str]  # the arm's job, the job it is compared with


class Pair(NamedTuple):
    """One block's answer. `log_ratio` > 0: the arm is faster, per device where the numbers of devices differ."""

    visit: Visit
    arm: Run
    reference: Run
    log_ratio: float


def block_median_ns(run: Run) -> float:
    """The median of a run's iterations. A clock that shows 0 ns is read as 1 ns: it has not resolved the call."""
    return max(median(run.wall_ns), 1.0)


def paired(record: Record) -> dict[Key, list[Pair]]:
    """(arm's job, reference's job) -> its counted pairs, one a block."""
    pairs: dict[Key, list[Pair]] = defaultdict(list)
    for item in counted(record):
        if item.partner is not None and item.run.wall_ns and item.partner.wall_ns:
            pairs[item.run.job, item.partner.job].append(_pair(item, item.partner))
    return dict(pairs)


def _pair(item: Counted, reference: Run) -> Pair:
    device_ns = [block_median_ns(run) * run.devices for run in (reference, item.run)]
    return Pair(item.visit, item.run, reference, math.log(device_ns[0]) - math.log(device_ns[1]))
