import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core.events import Entry, HostFault, PhaseBegan, RunnerBegan, RunnerExited, Samples, VisitBegan, VisitEnded
from core.failures import Kind
from core.visit import Phase
from workers.host.process import Identity
from workers.host.recovery import open_spool
from workers.host.spool import Spool

ORDER = (2, 7)


def clock_ns() -> int:
    return 5


def phase(slot: int) -> PhaseBegan:
    return PhaseBegan(slot=slot, phase=Phase.MEASURE)


def bodies(spool: Spool, after: int = 0) -> list[object]:
    return [entry.body for entry in spool.read_after(after, max_bytes=1 << 30)]


def reopened(spool: Spool, directory: Path) -> Spool:
    """What the next actor finds."""
    spool.close()
    return Spool(directory, clock_ns)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "ledger-1"


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of 64 KiB."""
    mounted = tmp_path / "small"
    mounted.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", mounted], check=False).returncode:
        pytest.skip("this user cannot mount a small disk")
    yield mounted
    subprocess.run(["umount", "--lazy", mounted], check=True)


def filled(disk: Path) -> Path:
    """Fill the disk; unlinking the file returned frees it."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4096)
        except OSError as error:
            assert error.errno == errno.ENOSPC
    return ballast


def test_spool_append_numbers_from_1_and_keeps_order(directory: Path) -> None:
    spool = Spool(directory, clock_ns)
    spool.append(None, [phase(0), phase(1)])
    spool.append(9, [phase(2)])
    assert spool.read_after(0) == (
        Entry(seq=1, at_ns=5, visit=None, body=phase(0)),
        Entry(seq=2, at_ns=5, visit=None, body=phase(1)),
        Entry(seq=3, at_ns=5, visit=9, body=phase(2)),
    )
    assert spool.last_seq == 3
    assert bodies(spool, after=2) == [phase(2)]


def test_spool_read_after_stops_at_the_size_and_returns_at_least_one(directory: Path) -> None:
    spool = Spool(directory, clock_ns)
    spool.append(1, [phase(slot) for slot in range(10)])
    line_bytes = len(spool.read_after(0)[0].model_dump_json()) + 1
    assert len(spool.read_after(0, max_bytes=3 * line_bytes)) == 3
    assert len(spool.read_after(0, max_bytes=1)) == 1


def test_spool_reopened_has_its_id_its_lines_and_the_highest_visit(directory: Path) -> None:
    spool = Spool(directory, clock_ns)
    spool.begin(4, ORDER, "sitting")
    spool.append(4, [VisitEnded(state="finished")])
    again = reopened(spool, directory)
    assert (again.id, again.read_after(0)) == (spool.id, spool.read_after(0))
    assert (again.started.visit, again.started.order) == (4, ORDER)
    assert [again.may_start(visit) for visit in (3, 4, 5)] == [False, False, True]


def test_spool_begin_at_or_below_a_begun_visit_is_refused(directory: Path) -> None:
    spool = Spool(directory, clock_ns)
    spool.begin(4, ORDER, "sitting")
    for visit in (3, 4):
        with pytest.raises(ValueError, match=f"visit {visit} cannot start: visit 4 has started"):
            spool.begin(visit, ORDER, "sitting")
    assert len(bodies(spool)) == 1


def test_spool_begun_but_file_started_not_written_still_counts(directory: Path) -> None:
    spool = Spool(directory, clock_ns)
    spool.begin(4, ORDER, "sitting")
    (directory / "started").unlink()
    again = reopened(spool, directory)
    assert not again.may_start(4)
    again.append(4, [VisitEnded(state="finished")])
    for segment in directory.glob("*.jsonl"):
        segment.unlink()
    assert not reopened(again, directory).may_start(4)


def test_spool_of_two_ledgers_are_apart(tmp_path: Path) -> None:
    one, other = Spool(tmp_path / "one", clock_ns), Spool(tmp_path / "other", clock_ns)
    one.begin(8, ORDER, "sitting")
    assert one.id != other.id
    assert other.may_start(8)
    assert bodies(other) == []


@pytest.mark.parametrize("name", ["..", "a b", "x" * 65, "é"])
def test_spool_of_a_ledger_that_cannot_be_a_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="cannot name a ledger's folder"):
        Spool(tmp_path / name, clock_ns)


def test_spool_acknowledged_segments_are_deleted_and_numbers_go_on(directory: Path) -> None:
    spool = Spool(directory, clock_ns, segment_bytes=300)
    for slot in range(20):
        spool.append(1, [phase(slot)])
    assert len(list(directory.glob("*.jsonl"))) > 3
    spool.acknowledge(20)
    assert len(list(directory.glob("*.jsonl"))) == 1
    again = reopened(spool, directory)
    assert again.last_seq == 20
    again.append(1, [phase(20)])
    assert [entry.seq for entry in again.read_after(20)] == [21]


def test_spool_acknowledged_in_part_keeps_what_is_not(directory: Path) -> None:
    spool = Spool(directory, clock_ns, segment_bytes=300)
    for slot in range(20):
        spool.append(1, [phase(slot)])
    spool.acknowledge(11)
    assert [entry.seq for entry in reopened(spool, directory).read_after(11)] == list(range(12, 21))


def test_spool_acknowledged_lines_of_an_unfinished_visit_stay_on_disk(directory: Path) -> None:
    spool = Spool(directory, clock_ns, segment_bytes=200)
    spool.begin(4, ORDER, "sitting")
    spool.append(4, [RunnerBegan(process=1, pid=77, start_time=88, slots=(0,))])
    for slot in range(20):
        spool.append(4, [phase(slot)])
    spool.acknowledge(spool.last_seq)
    assert spool.read_after(0) == ()
    unfinished = reopened(spool, directory).unfinished
    assert unfinished is not None
    assert (unfinished.visit, unfinished.runner) == (4, Identity(77, 88))


def test_spool_cut_at_every_byte_of_its_last_line_loses_that_line_alone(directory: Path) -> None:
    spool = Spool(directory, clock_ns)
    spool.append(1, [phase(0), phase(1)])
    spool.append(1, [Samples(slot=0, wall_ns=(1, 2, 3))])
    spool.close()
    (segment,) = directory.glob("*.jsonl")
    whole = segment.read_bytes()
    last = len(whole.splitlines(keepends=True)[-1])
    for cut in range(1, last + 1):
        segment.write_bytes(whole[:-cut])
        again = Spool(directory, clock_ns)
        torn = [] if cut == last else [f"{last - cut} bytes after line 2 of {segment.name}"]
        assert again.id == spool.id
        assert bodies(again) == [phase(0), phase(1), *(HostFault(fault="torn spool line", detail=d) for d in torn)]
        assert [entry.seq for entry in again.read_after(0)] == [1, 2, 3][: 2 + len(torn)]
        again.close()
        assert bodies(Spool(directory, clock_ns)) == bodies(again)


def test_spool_whose_last_segment_ends_in_zeros_is_cut(directory: Path) -> None:
    spool = Spool(directory, clock_ns)
    spool.append(1, [phase(0)])
    spool.close()
    (segment,) = directory.glob("*.jsonl")
    segment.write_bytes(segment.read_bytes() + b"\0" * 100)
    first, second = bodies(Spool(directory, clock_ns))
    assert first == phase(0)
    assert isinstance(second, HostFault)


def test_spool_damaged_before_its_end_goes_on_as_another_and_keeps_the_highest_visit(directory: Path) -> None:
    spool = Spool(directory, clock_ns, segment_bytes=200)
    spool.begin(4, ORDER, "sitting")
    spool.append(4, [VisitEnded(state="finished")])
    for slot in range(9):
        spool.append(1, [phase(slot)])
    first = min(directory.glob("*.jsonl"))
    first.write_bytes(b"x" + first.read_bytes()[1:])
    again = reopened(spool, directory)
    assert again.id != spool.id
    assert not again.may_start(4)
    (fault,) = bodies(again)
    assert isinstance(fault, HostFault)
    assert fault.fault == "spool renewed"
    assert bodies(reopened(again, directory)) == [fault]


def test_spool_with_a_missing_segment_is_renewed(directory: Path) -> None:
    spool = Spool(directory, clock_ns, segment_bytes=200)
    for slot in range(12):
        spool.append(1, [phase(slot)])
    sorted(directory.glob("*.jsonl"))[1].unlink()
    assert reopened(spool, directory).id != spool.id


def test_spool_with_an_unreadable_highest_visit_refuses_to_open(directory: Path) -> None:
    Spool(directory, clock_ns).begin(1, ORDER, "sitting")
    (directory / "started").write_text("{")
    with pytest.raises(ValueError, match="give the host another state directory"):
        Spool(directory, clock_ns)


def test_spool_on_a_full_disk_speaks_from_memory_and_its_name_dies_with_it(full_disk: Path) -> None:
    directory = full_disk / "ledger"
    spool = Spool(directory, clock_ns)
    spool.append(1, [phase(0)])
    filled(full_disk)
    spool.append(1, [Samples(slot=0, wall_ns=tuple(range(4000)))])
    spool.append(1, [VisitEnded(state="failed", kind=Kind.DISK)])
    assert "No space left" in spool.broken
    assert [entry.seq for entry in spool.read_after(0)] == [1, 2, 3]
    again = reopened(spool, directory)
    assert again.id != spool.id
    assert bodies(again) == []


def test_spool_mended_writes_what_was_in_memory_and_keeps_its_name(full_disk: Path) -> None:
    directory = full_disk / "ledger"
    spool = Spool(directory, clock_ns)
    spool.append(1, [phase(0)])
    ballast = filled(full_disk)
    spool.append(1, [Samples(slot=0, wall_ns=tuple(range(4000)))])
    spool.mend()
    assert spool.broken
    ballast.unlink()
    spool.mend()
    assert not spool.broken
    spool.append(1, [phase(2)])
    again = reopened(spool, directory)
    assert again.id == spool.id
    assert again.read_after(0) == spool.read_after(0)
    assert again.last_seq == 3


def test_spool_begin_on_a_full_disk_is_not_a_start(full_disk: Path) -> None:
    spool = Spool(full_disk / "ledger", clock_ns)
    ballast = filled(full_disk)
    # What is left of the last block may still take a line; the visit's number needs a file of its own.
    spool.begin(4, ORDER, "sitting")
    assert spool.broken
    assert not spool.may_start(4)
    ballast.unlink()
    spool.mend()
    assert not reopened(spool, full_disk / "ledger").may_start(4)


@pytest.mark.parametrize("failing", ["write", "fsync"])
def test_spool_whose_disk_fails_shows_no_line_it_does_not_keep(
    directory: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    spool = Spool(directory, clock_ns)
    spool.append(1, [phase(0)])

    def refuse(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, failing, refuse)
        spool.append(1, [phase(1)])
    assert "Input/output error" in spool.broken
    assert [entry.seq for entry in spool.read_after(0)] == [1, 2]
    spool.mend()
    assert [entry.seq for entry in reopened(spool, directory).read_after(0)] == [1, 2]


def test_spool_is_durable_before_it_is_shown(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(directory, clock_ns)
    shown_at_fsync: list[int] = []
    fsync: Callable[[int], None] = os.fsync

    def watching(descriptor: int) -> None:
        shown_at_fsync.append(spool.last_seq)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watching)
    spool.append(1, [phase(0)])
    assert shown_at_fsync == [0]
    assert spool.last_seq == 1


# -- recovery


def test_open_spool_ends_the_unfinished_visit_after_its_runner(directory: Path) -> None:
    spool = Spool(directory, clock_ns)
    spool.begin(4, ORDER, "sitting")
    spool.append(4, [RunnerBegan(process=1, pid=77, start_time=88, slots=(0,))])
    spool.close()
    ended: list[Identity] = []

    def end(identity: Identity) -> list[Identity]:
        ended.append(identity)
        return []

    again = open_spool(directory, clock_ns, end)
    assert ended == [Identity(77, 88)]
    last = bodies(again)[-1]
    assert isinstance(last, VisitEnded)
    assert (last.state, last.kind) == ("failed", Kind.WORKER_LOST)
    assert again.unfinished is None
    again.close()
    assert open_spool(directory, clock_ns, end).last_seq == again.last_seq


def test_open_spool_between_two_runners_looks_for_none(directory: Path) -> None:
    spool = Spool(directory, clock_ns)
    spool.begin(4, ORDER, "sitting")
    spool.append(4, [RunnerBegan(process=1, pid=77, start_time=88, slots=(0,))])
    spool.append(4, [RunnerExited(process=1, exit_status="exit 1")])
    spool.close()

    def end(identity: Identity) -> list[Identity]:
        raise AssertionError(identity)

    assert isinstance(bodies(open_spool(directory, clock_ns, end))[-1], VisitEnded)


def test_open_spool_says_which_runner_would_not_go(directory: Path) -> None:
    spool = Spool(directory, clock_ns)
    spool.begin(4, ORDER, "sitting")
    spool.append(4, [RunnerBegan(process=1, pid=77, start_time=88, slots=(0,))])
    spool.close()
    *_, fault, ended = bodies(open_spool(directory, clock_ns, lambda identity: [identity]))
    assert fault == HostFault(fault="runner survives SIGKILL", detail="pids 77")
    assert isinstance(ended, VisitEnded)


def test_open_spool_of_a_finished_visit_adds_nothing(directory: Path) -> None:
    spool = Spool(directory, clock_ns)
    spool.begin(4, ORDER, "sitting")
    spool.append(4, [VisitEnded(state="finished")])
    spool.close()
    kinds = [type(body) for body in bodies(open_spool(directory, clock_ns))]
    assert kinds == [VisitBegan, VisitEnded]
