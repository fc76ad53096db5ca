"""The ten invariants (DESIGN §12), each a function with its number in its name.

Those about a ledger are asked of its rows after every change, by a reader of its own. Those about hosts are asked of
the simulated machines, which know what really runs, after every step.
"""

import json
import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from core.events import Entry
from core.failures import Blame, Kind, blame
from core.ledger import queries
from core.ledger.completeness import ENDED, CellState, condemned, standings
from core.ledger.counting import counted
from core.ledger.rows import Record
from core.lifecycle import OPEN_VISITS, HostState
from core.protocol import Answer, Call
from orchestrator.controller import HELD_S, TICK_S
from orchestrator.link import ANSWER_S, WAIT_S
from orchestrator.plan import USABLE
from tests.simulation.execution import KILL_S, sample_ns
from tests.simulation.machine import ORPHAN_S, Machine, Runner
from tests.simulation.matrices import Nature

if TYPE_CHECKING:
    from tests.simulation.life import Life
    from tests.simulation.world import World

_OPEN = {state.value for state in OPEN_VISITS}

# A tick, the disk's queue, and TERM, grace, KILL.
STOPPING_S = 3.0 + KILL_S
# A call and its answer, after the longest pause before a call.
FRESH_S = WAIT_S + ANSWER_S + HELD_S + TICK_S
# A controller that was just stopped has not had the time to notice what it missed.
AWAKE_S = 10.0


class Violation(AssertionError):
    """An invariant does not hold."""


def hold(condition: object, number: int, what: str) -> None:
    """Raises Violation."""
    if not condition:
        raise Violation(f"I{number}: {what}")


class Rows(NamedTuple):
    """A ledger at one moment."""

    blocks: Mapping[int, sqlite3.Row]
    visits: Mapping[int, sqlite3.Row]
    runs: Mapping[int, tuple[Any, ...]]
    forgiven: Mapping[tuple[int, str], int]
    cells: int
    events: int
    epoch: int


NOTHING = Rows({}, {}, {}, {}, 0, 0, 0)


# -- about a ledger's rows --------------------------------------------------------------------------------------------


def i1_a_block_accepts_one_visit(before: Rows, now: Rows) -> None:
    for block in before.blocks.values():
        if block["accepted_visit"] is not None:
            hold(
                now.blocks[block["id"]]["accepted_visit"] == block["accepted_visit"],
                1,
                f"block {block['id']} has changed its accepted visit",
            )


def i1_a_slot_has_one_run(now: Rows) -> None:
    places = [(run[1], run[2]) for run in now.runs.values()]
    hold(len(set(places)) == len(places), 1, "a slot of a visit has two runs")


def i2_no_cell_vanishes(before: Rows, now: Rows) -> None:
    hold(now.cells >= before.cells, 2, f"of {before.cells} cells {now.cells} are left")


def i3_one_open_visit(now: Rows) -> None:
    opened = [visit for visit in now.visits.values() if visit["state"] in _OPEN]
    for what in ("block", "host"):
        places = [visit[what] for visit in opened]
        hold(len(set(places)) == len(places), 3, f"two open visits of one {what}: {places}")


def i3_ids_only_grow(before: Rows, now: Rows) -> None:
    newest = max(before.visits, default=0)
    hold(all(visit > newest for visit in now.visits.keys() - before.visits.keys()), 3, "a visit's id went back")
    hold(now.epoch >= before.epoch, 3, "the epoch went back")


def i5_a_closed_run_is_frozen(before: Rows, now: Rows) -> None:
    for run in before.runs.values():
        if run[3] is not None:
            hold(now.runs.get(run[0]) == run, 5, f"run {run} has become {now.runs.get(run[0])}")


def i5_events_are_kept(before: Rows, now: Rows) -> None:
    hold(now.events >= before.events, 5, f"of {before.events} events {now.events} are left")


def i8_what_went_wrong_is_said(now: Rows) -> None:
    for visit in now.visits.values():
        if visit["state"] in ("lost", "failed"):
            hold(visit["kind"] and visit["reason"], 8, f"visit {visit['id']} is {visit['state']} and nobody says why")


def i9_an_answered_cancel_is_done(blocks: Sequence[int], now: Rows) -> None:
    left = [b for b in blocks if now.blocks[b]["accepted_visit"] is None and now.blocks[b]["closed"] is None]
    hold(not left, 9, f"a cancel was answered and blocks {left} are open")


# -- about the hosts --------------------------------------------------------------------------------------------------


def i1_a_visit_starts_once(starts: int, visit: int) -> None:
    hold(starts == 1, 1, f"visit {visit} is started {starts} times")


def i3_one_runner(machine: Machine) -> None:
    living = [runner.visit for runner in machine.runners if runner.lives]
    hold(len(living) <= 1, 3, f"{machine.name} has the runners of visits {living}")


def i3_no_runner_beside_an_opening(machine: Machine) -> None:
    living = [runner.visit for runner in machine.runners if runner.lives]
    hold(not living, 3, f"an actor takes {machine.name} beside the runner of visits {living}")


def i3_newest_call(machine: Machine, order: tuple[int, int], newest: tuple[int, int]) -> None:
    hold(order > newest, 3, f"{machine.name} obeys call {order} after call {newest}")


def i4_no_orphan(machine: Machine, runner: Runner, silent_s: float) -> None:
    what = f"the runner of visit {runner.visit} on {machine.name} heard of nobody for {silent_s:.0f} s"
    hold(silent_s <= ORPHAN_S + STOPPING_S, 4, what)


def i5_a_line_is_what_was_written(entry: Entry, written: Entry | None) -> None:
    hold(entry == written, 5, f"line {entry.seq} is {entry} and was {written}")


def i6_a_clean_host_heard_of(life: "Life", host: str) -> None:
    """A lease goes to a host whose present actor's last answer is fresh, is to us and shows a clean probe."""
    hold(host in life.answers, 6, f"a visit is assigned to {host}, whose actor never answered this controller")
    when, seen = life.answers[host]
    silent_s = life.world.now - when
    hold(seen.answer is Answer.OBEYED, 6, f"a visit is assigned to {host}, which answered {seen.answer}")
    is_clean = seen.probe is not None and seen.probe.clean and not seen.draining
    hold(is_clean, 6, f"a visit is assigned to {host}, which shows {seen.probe} {seen.draining}")
    is_fresh = silent_s <= FRESH_S or life.world.now - life.woke_at <= AWAKE_S
    hold(is_fresh, 6, f"a visit is assigned to {host}, which answered {silent_s:.0f} s ago")


def i6_one_visit_a_machine(life: "Life", host: str, now: Rows) -> None:
    boxes = {h.name: h.machine for h in life.hosts}
    for visit in now.visits.values():
        is_beside = visit["host"] != host and boxes[visit["host"]] == boxes[host]
        hold(visit["state"] not in _OPEN or not is_beside, 6, f"two visits on {boxes[host]}, the machine of {host}")


def i7_retried_elsewhere(life: "Life", block: int, host: str, order: Sequence[int], now: Rows) -> None:
    """What failed ambiguously on a host goes to another while there is one: a block, and every job of it."""
    usable = {desk.spec.name for desk in life.drive._desks.values() if desk.state in USABLE}
    row = now.blocks[block]
    slots = json.loads(row["slots"])
    avoided = {row["avoid_host"]} | {failed_on(slots[slot]["job"], row["series"], now) for slot in order}
    what = f"block {block} goes back to {host}, where it or a job of it failed, and not to {usable - avoided}"
    hold(host not in avoided or usable <= avoided, 7, what)


def failed_on(job: str, series: int, now: Rows) -> str | None:
    """The host of a job's last failure that could be its own doing, unless it has run well since or was forgiven."""
    ended = {visit["id"]: visit["ended_at_ns"] or 0 for visit in now.visits.values()}
    for run in sorted(now.runs.values(), key=lambda run: (ended[run[1]], run[0]), reverse=True):
        visit = now.visits[run[1]]
        is_its = run[7] == job and now.blocks[visit["block"]]["series"] == series
        if not is_its or run[3] in (None, "stopped") or visit["ended_at_ns"] is None:
            continue
        if run[3] == "failed" and blame(Kind(run[4])) is Blame.HOST:
            continue
        is_open = run[3] == "failed" and visit["id"] > now.forgiven.get((series, job), 0)
        return str(visit["host"]) if is_open else None
    return None


def i9_acknowledged_is_stored(call: Call, stored: int) -> None:
    what = f"line {call.acked_seq} is acknowledged to a host, and line {stored} is the last in the ledger"
    hold(call.acked_seq <= stored, 9, what)


# -- about a whole ledger ---------------------------------------------------------------------------------------------


def i2_every_cell_has_a_future(record: Record) -> None:
    for standing in standings(record):
        hold(standing.state is not CellState.MISSING, 2, f"{standing.cell.coordinates}: {standing.reason}")


def i7_only_the_guilty_fail(record: Record, world: "World", ledger_id: str) -> None:
    """A good job fails for good only by two strokes that nobody could have told from its own doing."""
    for job, found in condemned(record).items():
        strokes = world.strokes[ledger_id, job]
        could_be = blame(found.kind) is Blame.AMBIGUOUS and strokes >= 2
        what = f"job {job} is good, was struck {strokes} times and failed for good: {found}"
        hold(world.nature(job) is not Nature.GOOD or could_be, 7, what)


def i8_a_host_let_go_has_said_all(host: str, stored: int, shown: int) -> None:
    hold(stored >= shown, 8, f"{host} is let go, and of {shown} lines it has shown {stored} are in the ledger")


def i8_a_gap_is_said(spool_id: str, missing: int, said: str) -> None:
    hold(missing == 0 or spool_id in said, 8, f"{missing} lines of spool {spool_id} are missing and nobody says so")


def i10_a_pair_is_of_one_visit(record: Record) -> None:
    for item in counted(record):
        for run in (item.run, item.partner):
            if run is not None:
                hold(run.visit == item.visit.id, 10, f"run {run.id} counts in visit {item.visit.id}")
                # none where the line that told them is lost
                told = set(run.wall_ns)
                hold(told <= {sample_ns(run.visit, run.slot)}, 10, f"the samples of run {run.id} are another's: {told}")


class Audit:
    """Watches one ledger, by a connection of its own."""

    def __init__(self, world: "World", path: Path) -> None:
        self._world = world
        self._db = sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)
        self._db.row_factory = sqlite3.Row
        self._before = NOTHING
        self._cancels: dict[int, tuple[int, ...]] = {}
        (self._ledger_id,) = self._db.execute("SELECT id FROM ledger").fetchone()

    def close(self) -> None:
        self._db.close()

    def look(self) -> None:
        """After every change."""
        before, now = self._before, self._rows()
        i1_a_block_accepts_one_visit(before, now)
        i1_a_slot_has_one_run(now)
        i2_no_cell_vanishes(before, now)
        i3_one_open_visit(now)
        i3_ids_only_grow(before, now)
        i5_a_closed_run_is_frozen(before, now)
        i5_events_are_kept(before, now)
        i8_what_went_wrong_is_said(now)
        for request in self._answered():
            i9_an_answered_cancel_is_done(self._cancels.pop(request), now)
        self._before = now

    def leasing(self, life: "Life", block: int, host: str, order: Sequence[int]) -> None:
        """Before a lease."""
        i6_a_clean_host_heard_of(life, host)
        i6_one_visit_a_machine(life, host, self._before)
        i7_retried_elsewhere(life, block, host, order, self._before)

    def look_at_all(self) -> None:
        """What takes longer: whenever a controller has ended."""
        for record in self._records():
            i2_every_cell_has_a_future(record)
            i7_only_the_guilty_fail(record, self._world, self._ledger_id)
            i10_a_pair_is_of_one_visit(record)

    def look_at_the_end(self) -> None:
        """When faults have long been over and everything is said to be done."""
        hold(not self.incomplete(), 2, f"nothing is left to do, they say: {self.incomplete()}")
        said = " ".join(row["body"] for row in self._db.execute("SELECT body FROM event WHERE spool = 'ledger'"))
        for spool in self._spools():
            (stored,) = self._db.execute("SELECT COUNT(*) FROM event WHERE spool = ?", (spool["id"],)).fetchone()
            i8_a_gap_is_said(spool["id"], spool["acked_seq"] - stored, said)

    def released(self, life: "Life") -> None:
        """When a controller has let its hosts go."""
        for spool in self._spools():
            machine, desk = self._world.machines[spool["host"]], life.drive._desks[spool["host"]]
            if desk.state is HostState.DRAINED and machine.lock is None:
                i8_a_host_let_go_has_said_all(machine.name, spool["acked_seq"], self._world.last_seq(spool["id"]))

    def asked(self, request: int, verb: str, body: Mapping[str, Any]) -> None:
        """A person's request is on disk, and these are the blocks that a cancel of a whole experiment is about."""
        if verb == "cancel" and not body["where"]:
            rows = self._db.execute(
                "SELECT b.id FROM block b JOIN series s ON s.id = b.series WHERE s.experiment = ?",
                (body["experiment"],),
            )
            self._cancels[request] = tuple(row["id"] for row in rows)

    def incomplete(self) -> str:
        """What is not done yet, in words; "" when every cell has its last word."""
        for record in self._records():
            for standing in standings(record):
                if standing.state not in ENDED:
                    where = f"{record.experiment.id} {standing.cell.coordinates}"
                    return f"{where}: {standing.shown} {standing.reason} {record.experiment.paused or ''}"
        return ""

    def tally(self) -> Counter[str]:
        """Visits by how they ended, and how many were ever given up."""
        rows = self._db.execute("SELECT state, kind, COUNT(*) FROM visit GROUP BY 1, 2").fetchall()
        given_up = "SELECT COUNT(*) FROM event WHERE spool = 'ledger' AND body ->> 'what' = 'lost'"
        tally: Counter[str] = Counter(losses=self._db.execute(given_up).fetchone()[0])
        for state, kind, times in rows:
            tally["visits"] += times
            tally[state] += times
            tally[f"{state} {kind}"] += times
        return tally

    def _rows(self) -> Rows:
        ask = self._db.execute
        return Rows(
            blocks={r["id"]: r for r in ask("SELECT id, series, slots, accepted_visit, closed, avoid_host FROM block")},
            visits={r["id"]: r for r in ask("SELECT id, block, host, state, kind, reason, ended_at_ns FROM visit")},
            runs={r[0]: tuple(r) for r in ask("SELECT id, visit, slot, outcome, kind, reason, process, job FROM run")},
            forgiven={(r["series"], r["job"]): r["visit"] for r in ask("SELECT series, job, visit FROM forgiven")},
            cells=ask("SELECT COUNT(*) FROM cell").fetchone()[0],
            events=ask("SELECT SUM(acked_seq) FROM spool").fetchone()[0],
            epoch=ask("SELECT MAX(epoch) FROM controller").fetchone()[0],
        )

    def _spools(self) -> list[sqlite3.Row]:
        """The newest of every host."""
        spools = "SELECT id, host, acked_seq, MAX(turn) FROM spool WHERE host IS NOT NULL GROUP BY host"
        return self._db.execute(spools).fetchall()

    def _answered(self) -> list[int]:
        """Of the requests that are watched."""
        if not self._cancels:
            return []
        answered = self._db.execute("SELECT id FROM request WHERE answered_at_ns IS NOT NULL")
        return [row["id"] for row in answered if row["id"] in self._cancels]

    def _records(self) -> list[Record]:
        return [queries.record(self._db, experiment) for experiment in queries.experiments(self._db)]
