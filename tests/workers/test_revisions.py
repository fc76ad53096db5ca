"""Slots of other revisions: which runner measures them, in which process, and what becomes of one that cannot."""

import json
import os
import sys
from pathlib import Path

import pytest

from core.events import Environment, Probed, RunEnded, RunnerBegan, VisitEnded
from core.failures import Kind
from core.job import SelftestJob
from core.visit import BundleRef, Slot, Visit, written_for_runner
from tests.workers.test_supervisor import HOST_CODE, SCRIPTED, Bench
from workers.host.code import KEPT_CACHES, CodeMissing, Codes
from workers.supervisor import Supervisor

OLD, OLDER = "0" * 40, "1" * 40
REF = BundleRef(id="a" * 64, code="code of the old revision")
TELL = "say('environment', process=options.process, facts={'cache': options.cache, 'path': os.environ['PYTHONPATH'],"
TELL += " 'file': sys.argv[0], 'code': visit['code'], 'visit': open(options.visit).read()}); [ok(s) for s in slots]"


@pytest.fixture
def bench(tmp_path: Path):
    bench = Bench(tmp_path)
    bundle = tmp_path / "bundles" / REF.id
    (bundle / "workers").mkdir(parents=True)
    (bundle / "workers" / "__init__.py").touch()
    (bundle / "workers" / "runner.py").write_text(SCRIPTED)
    bundle.with_name(f"{REF.id}.python").write_text(sys.executable)
    yield bench
    os.close(bench.lock)


def job(script: str, code: str = "", seed: int = 0) -> SelftestJob:
    return SelftestJob(env={"SCRIPT": script}, code=code, seed=seed)


def visit_of(*jobs: SelftestJob) -> Visit:
    slots = tuple(Slot(slot=number, job=job) for number, job in enumerate(jobs))
    return Visit(visit=3, slots=slots, iters=2, warmup=1, bundles={OLD: REF})


async def finish(bench: Bench, *jobs: SelftestJob) -> tuple[VisitEnded, dict[int, RunEnded]]:
    end = await bench.finish(Supervisor(visit_of(*jobs), bench.journal, bench.workplace))
    return end, {run.slot: run for run in bench.journal.of(RunEnded)}


async def test_slots_of_two_codes_run_in_a_process_each_with_their_own_runner_path_and_cache(bench: Bench) -> None:
    end, ended = await finish(bench, job(TELL, OLD), job(TELL), job(TELL, OLD, seed=1), job(TELL, seed=1))
    assert end == VisitEnded(state="finished")
    assert {slot: run.outcome for slot, run in ended.items()} == dict.fromkeys(range(4), "ok")
    assert [began.slots for began in bench.journal.of(RunnerBegan)] == [(0, 2), (1, 3)]
    assert len(bench.journal.of(Probed)) == 2
    old, own = (said.facts for said in bench.journal.of(Environment))
    assert (old["code"], own["code"]) == (REF.code, HOST_CODE)
    bundle = bench.workplace.codes.bundles / REF.id
    assert old["path"] == str(bundle)
    assert old["file"] == str(bundle / "workers" / "runner.py")
    assert own["path"].split(os.pathsep)[0] == str(Path(__file__).parents[2])
    assert (Path(old["cache"]).name, Path(own["cache"]).name) == (REF.code[:16], HOST_CODE[:16])


async def test_runner_of_another_revision_is_told_nothing_that_it_may_not_know(bench: Bench) -> None:
    await finish(bench, job(TELL, OLD))
    (said,) = bench.journal.of(Environment)
    assert json.loads(said.facts["visit"]) == {
        "visit": 3,
        "slots": [{"slot": 0, "job": {"kind": "selftest", "env": {"SCRIPT": TELL}}}],
        "iters": 2,
        "warmup": 1,
        "code": REF.code,
    }


def test_visit_as_a_runner_reads_it_is_the_same_measurement() -> None:
    visit = visit_of(job("x", OLD), SelftestJob(end="exit", exit_code=7, seed=4))
    read = Visit.model_validate_json(written_for_runner(visit))
    assert [slot.job for slot in read.slots] == [slot.job.model_copy(update={"code": ""}) for slot in visit.slots]
    assert read.model_copy(update={"slots": visit.slots, "bundles": visit.bundles}) == visit


REFUSAL = "print('/x/visit.json: slots.0.job.colour: unknown', file=sys.stderr); sys.exit(2)"
NO_MODULE = "raise ModuleNotFoundError(\"No module named 'einops'\")"


@pytest.mark.parametrize("script", [REFUSAL, NO_MODULE])
async def test_revision_that_cannot_run_its_slots_fails_them_for_good_and_nobody_else(
    bench: Bench, script: str
) -> None:
    end, ended = await finish(bench, job(script, OLD), job(script, OLD, seed=1), job("ok(slots[0])"))
    assert end == VisitEnded(state="finished")
    assert {slot: run.kind for slot, run in ended.items()} == {0: Kind.USER_ERROR, 1: Kind.USER_ERROR, 2: None}
    assert "commit 000000000000 cannot run this job: " in ended[0].reason
    assert ("colour" in ended[0].reason) == (script is REFUSAL)
    assert ended[0].reason.endswith("leave out what it does not know, or name another revision")
    assert len(bench.journal.of(RunnerBegan)) == 2


async def test_revision_that_cannot_run_a_visit_of_its_slots_alone_blames_no_host(bench: Bench) -> None:
    end, ended = await finish(bench, job(REFUSAL, OLD))
    assert end == VisitEnded(state="finished")
    assert {slot: run.kind for slot, run in ended.items()} == {0: Kind.USER_ERROR}


async def test_revision_that_lets_no_runner_start_is_named_in_the_reason(bench: Bench) -> None:
    stillborn = "phase(None, 'init'); sys.exit(1)"
    _, ended = await finish(bench, job(stillborn, OLD), job("ok(slots[0])"))
    assert ended[0].kind is Kind.CRASH
    assert f"code={OLD[:12]}, and not with those of other slots" in ended[0].reason


async def test_exit_2_of_the_hosts_own_code_is_a_crash(bench: Bench) -> None:
    _, ended = await finish(bench, job(REFUSAL))
    assert ended[0].kind is Kind.CRASH


@pytest.mark.parametrize(("code", "says"), [(OLD, "commit 000000000000 is not here"), (OLDER, "names no bundle for")])
async def test_visit_whose_code_is_not_on_the_host_starts_nothing(bench: Bench, code: str, says: str) -> None:
    (bench.workplace.codes.bundles / f"{REF.id}.python").unlink()
    end, ended = await finish(bench, job("ok(slots[0])"), job("ok(slots[0])", code))
    assert (end.state, end.kind) == ("failed", Kind.ENVIRONMENT_MISMATCH)
    assert says in end.reason
    assert (ended, bench.journal.of(RunnerBegan)) == ({}, [])


REMOVED = "import shutil; ok(slots[0]); shutil.rmtree(os.path.dirname(os.path.dirname(sys.argv[0])))"
DIES_WITHOUT = f"{REMOVED.replace('ok(slots[0]); ', '')}; raise ModuleNotFoundError(\"No module named 'workers'\")"


async def test_visit_whose_code_is_removed_between_two_of_its_processes_blames_no_job(bench: Bench) -> None:
    """One process removes what the next would run, as a pruning does whose processes do not name it yet."""
    end, ended = await finish(bench, job(REMOVED, OLD), job("ok(slots[0])", OLD, seed=1))
    assert not (bench.workplace.codes.bundles / REF.id).exists()
    assert (end.state, end.kind) == ("failed", Kind.ENVIRONMENT_MISMATCH)
    assert end.reason.startswith("the code of this visit is not here any more: there is no /")
    assert {slot: run.outcome for slot, run in ended.items()} == {0: "ok"}
    assert len(bench.journal.of(RunnerBegan)) == 1


async def test_visit_whose_code_is_removed_under_its_process_blames_no_job(bench: Bench) -> None:
    end, ended = await finish(bench, job(DIES_WITHOUT, OLD), job("ok(slots[0])"))
    assert not (bench.workplace.codes.bundles / REF.id).exists()
    assert (end.state, end.kind) == ("failed", Kind.ENVIRONMENT_MISMATCH)
    assert (ended, len(bench.journal.of(RunnerBegan))) == ({}, 1)


# -- the codes of a host


def test_codes_of_a_host_mark_what_they_use_so_that_it_is_not_taken_for_unused(tmp_path: Path) -> None:
    mark = tmp_path / f"{REF.id}.python"
    mark.write_text("/env/bin/python\n")
    os.utime(mark, (1, 1))
    Codes(tmp_path / "cache", tmp_path).of(visit_of(job("x", OLD)))
    assert mark.stat().st_mtime > 1


def test_codes_of_a_host_with_a_bundle_of_the_working_tree_run_that_whatever_its_own_is(tmp_path: Path) -> None:
    (tmp_path / f"{REF.id}.python").write_text("/env/bin/python\n")
    visit = visit_of(job("x")).model_copy(update={"bundles": {"": REF}, "code": "the controller's"})
    found = Codes(tmp_path / "cache", tmp_path, own=lambda: "another").of(visit)[""]
    assert (found.code, found.command[0], found.bundle) == (REF.code, "/env/bin/python", tmp_path / REF.id)


def test_codes_of_a_host_that_is_given_none_are_its_own_only(tmp_path: Path) -> None:
    with pytest.raises(CodeMissing, match="no bundle is ever put on this host"):
        Codes(tmp_path).of(visit_of(job("x", OLD)))


def test_compile_caches_of_codes_not_used_for_longest_are_removed(tmp_path: Path) -> None:
    for age in range(KEPT_CACHES + 3):
        (tmp_path / f"old {age}").mkdir()
        os.utime(tmp_path / f"old {age}", (1e9 - age, 1e9 - age))
    own = tmp_path / HOST_CODE[:16]
    own.mkdir()
    os.utime(own, (1, 1))
    Codes(tmp_path, own=lambda: HOST_CODE).of(visit_of(job("x")))
    assert {path.name for path in tmp_path.iterdir()} == {own.name, *(f"old {age}" for age in range(KEPT_CACHES - 1))}
