"""What a person sees: a line a visit, and on a terminal what is left, with an estimate."""

import io

from rich.console import Console

from core.failures import Kind
from core.ledger.writer import EndedRun, EndedVisit
from core.lifecycle import Outcome, VisitState
from orchestrator.progress import Progress, visit_line


def ended(**changes: object) -> EndedVisit:
    runs = (EndedRun(0, "a", Outcome.OK, None, 10), EndedRun(1, "b", Outcome.OK, None, 20))
    good = EndedVisit(3, 2, "h", "first", VisitState.FINISHED, None, "", True, None, {}, runs, 7.94)
    return good._replace(**changes)


def test_visit_line_of_a_good_visit_is_short() -> None:
    assert visit_line(ended()) == "visit 3 on h: block 2 of first, 2 ok, 7.9 s"


def test_visit_line_of_a_cut_visit_says_what_happens_next() -> None:
    runs = (EndedRun(0, "a", Outcome.OK, None, 10), EndedRun(1, "b", Outcome.STOPPED, None, None))
    cut = ended(state=VisitState.FAILED, kind=Kind.WORKER_LOST, reason="the actor died", make_up=9, runs=runs)
    line = visit_line(cut)
    assert "1 ok, 1 stopped" in line
    assert "failed: the actor died" in line
    assert "block 9" in line


def test_visit_line_of_a_condemned_job_gives_advice() -> None:
    runs = (EndedRun(0, "a", Outcome.FAILED, Kind.NUMERICS, None),)
    line = visit_line(ended(runs=runs, condemned={"a": Kind.NUMERICS}))
    assert "1 numerics" in line
    assert "the kernel is at fault" in line


def test_visit_line_of_a_useless_visit_says_that_it_is_repeated() -> None:
    useless = ended(state=VisitState.FAILED, kind=Kind.DISK, reason="disk full", accepted=False, runs=())
    assert visit_line(useless).endswith("no runs, 7.9 s; failed: disk full; its block is measured again")


def test_progress_shows_what_hosts_say_as_it_is_and_lets_none_of_it_steer_the_terminal() -> None:
    odd = "cannot open [/dev/vfio/0]: [bold]busy :smile: \x1b[2J\x07\x9b31m\u202e \udc80"
    shown = r"cannot open [/dev/vfio/0]: [bold]busy :smile: \x1b[2J\x07\x9b31m\u202e \udc80"
    out = io.StringIO()
    with Progress(Console(file=out, force_terminal=True, color_system=None, width=300), lambda: 0.0) as progress:
        progress.say(odd)
        progress.left(visits=1, running=0, machines=1, doing=f"one: {odd}")
    written = out.getvalue()
    assert f"{shown}\n" in written
    assert f"so far. one: {shown}" in written
    assert not any(each in written for each in ("\x1b[2J", "\x07", "\x9b", "\u202e", "\udc80"))


def test_progress_on_a_terminal_estimates_what_is_left_and_elsewhere_prints_lines_only() -> None:
    for terminal in (True, False):
        out = io.StringIO()
        console = Console(file=out, force_terminal=terminal, width=120)
        with Progress(console, lambda: 0.0) as progress:
            progress.visit_ended("visit 1", 10.0)
            progress.left(visits=6, running=1, machines=2, doing="")
        assert "visit 1" in out.getvalue()
        assert ("6 visits to go, 1 running, about 30 s left" in out.getvalue()) is terminal
