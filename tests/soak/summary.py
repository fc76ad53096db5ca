"""What a soak cost, in a plain table: faults by kind, retries, time lost, how long things took."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from tests.soak.faults import Fault, Fired
from tests.soak.proofs import hits
from tests.soak.record import Record, Visit


def rows(
    record: Record,
    fired: Sequence[Fired],
    ends: Mapping[int, int],
    poisoned: Mapping[str, Collection[str]],
    strays: int,
    chaos_s: float,
    wall_s: float,
) -> list[tuple[str, str]]:
    """Name and value, in the order they are printed. `ends`: exit status of controllers -> how many; `poisoned`:
    experiment -> jobs that failed for two of our kills."""
    count = Counter(f.fault for f in fired)
    accepted = {block.accepted for block in record.blocks}
    taken = [visit for visit in record.visits if visit.id in accepted]
    spent = [visit for visit in record.visits if visit.id not in accepted]
    hosts = len({visit.host for visit in record.visits})
    good_s, lost_s = sum(map(_seconds, taken)), sum(map(_seconds, spent))
    why = Counter(f"{visit.state} ({visit.kind})" if visit.kind else visit.state for visit in spent)
    decided = Counter(record.decided)
    done = sum(run.outcome == "ok" and run.visit in accepted for run in record.runs)
    return [
        ("faults done", f"{len(fired)} in {chaos_s:.0f} s"),
        *((f"  {fault.value}", str(count[fault])) for fault in Fault),
        ("  of the killed runners, died of it", f"{hits(record, fired)} of {count[Fault.RUNNER_KILL]}"),
        ("controllers by their exit status", ", ".join(f"{n} of {status}" for status, n in sorted(ends.items()))),
        ("children that runners left behind", str(strays)),
        ("blocks", f"{len(record.blocks)}, of which {decided['make-up']} make up for a part of another"),
        ("visits", f"{len(record.visits)}, of which {len(spent)} were beyond those needed"),
        *((f"  {state}", str(n)) for state, n in sorted(why.items())),
        ("jobs failed for two kills of their runner, and retried", str(sum(map(len, poisoned.values())))),
        ("runs", f"{done} good ones in accepted visits"),
        ("hosts quarantined", str(decided["quarantined"])),
        ("hosts recovered", str(recoveries(record))),
        ("visits given up as lost", f"{decided['lost']}, taken back {decided['taken back']}"),
        ("wall time", f"{wall_s:.0f} s"),
        ("throughput", f"{60 * done / wall_s:.0f} good runs a minute, {60 * len(taken) / wall_s:.1f} visits"),
        ("device time of accepted visits", f"{good_s:.0f} s"),
        ("device time of other visits", f"{lost_s:.0f} s"),
        ("idle time of the hosts", f"{max(0.0, hosts * wall_s - good_s - lost_s):.0f} s of {hosts * wall_s:.0f} s"),
        ("longest wait of a block for its first visit", f"{max(first_waits(record), default=0.0):.0f} s"),
        ("longest wait of a block between two visits", f"{max(further_waits(record), default=0.0):.0f} s"),
    ]


def table(rows: Sequence[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def recoveries(record: Record) -> int:
    """How often an idle host that was not clean was clean again."""
    clean: dict[str, bool] = {}
    turns = 0
    for probe in record.probes:
        turns += probe.clean and not clean.get(probe.host, True)
        clean[probe.host] = probe.clean
    return turns


def first_waits(record: Record) -> list[float]:
    """Seconds from the queueing of a series to the first visits of the blocks that were made then."""
    firsts: dict[int, int] = {}
    for visit in record.visits:
        firsts.setdefault(visit.block, visit.leased_ns)
    return [
        (firsts[block.id] - block.queued_ns) / 1e9
        for block in record.blocks
        if block.origin == "first" and block.id in firsts
    ]


def further_waits(record: Record) -> list[float]:
    """Seconds from the end of a block's visit to the beginning of its next."""
    ended: dict[int, int | None] = {}
    waits = []
    for visit in record.visits:
        if (before := ended.get(visit.block)) is not None and before < visit.leased_ns:
            waits.append((visit.leased_ns - before) / 1e9)
        ended[visit.block] = visit.ended_ns
    return waits


def _seconds(visit: Visit) -> float:
    return 0.0 if visit.ended_ns is None else (visit.ended_ns - visit.leased_ns) / 1e9
