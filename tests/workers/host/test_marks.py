import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.workers.host.holding import holding
from workers.host.marks import NAME, Marks, Whose
from workers.host.process import Identity, identify


@pytest.fixture
def marks(tmp_path: Path) -> Marks:
    return Marks(tmp_path / "runners")


@pytest.fixture
def runner(tmp_path: Path, marks: Marks) -> Iterator[tuple[Identity, dict[str, str]]]:
    """A marked process that lives, and its mark."""
    mark = marks.new()
    with holding(tmp_path / "anything", mark=mark) as identity:
        yield identity, mark


def test_mark_of_a_recorded_runner_that_lives_is_live(marks: Marks, runner) -> None:
    identity, mark = runner
    marks.record(mark, identity)
    assert marks.whose(identity.pid) is Whose.LIVE


def test_mark_without_a_record_is_stale(marks: Marks, runner) -> None:
    identity, mark = runner
    assert marks.whose(identity.pid) is Whose.STALE
    marks.record(mark, identity)
    marks.forget(mark)
    assert marks.whose(identity.pid) is Whose.STALE


def test_mark_forgotten_that_cannot_be_removed_fails_nobody(marks: Marks, runner) -> None:
    identity, mark = runner
    marks.record(mark, identity)
    record = Path(mark[NAME])
    record.unlink()
    record.mkdir()  # unlink(2) says EISDIR, to root as well
    marks.forget(mark)
    marks.forget_all()
    assert record.exists()
    record.rmdir()
    marks.forget(mark)


def test_mark_of_a_runner_that_is_gone_is_stale_whoever_has_its_pid(marks: Marks, runner) -> None:
    identity, mark = runner
    marks.record(mark, identity._replace(start_time=identity.start_time - 1))
    assert marks.whose(identity.pid) is Whose.STALE


def test_mark_of_a_runner_whose_actor_is_gone_is_stale(marks: Marks, runner) -> None:
    identity, mark = runner
    code = """
import sys
from pathlib import Path
from workers.host.marks import Marks
from workers.host.process import identify
Marks(Path(sys.argv[1])).record({sys.argv[2]: sys.argv[3]}, identify(int(sys.argv[4])))
"""
    folder = str(Path(mark[NAME]).parent)
    subprocess.run([sys.executable, "-c", code, folder, NAME, mark[NAME], str(identity.pid)], check=True)
    assert json.loads(Path(mark[NAME]).read_text())["runner"] == list(identity)
    assert marks.whose(identity.pid) is Whose.STALE


def test_mark_recorded_in_another_boot_or_container_is_foreign(marks: Marks, runner) -> None:
    identity, mark = runner
    marks.record(mark, identity)
    said = json.loads(Path(mark[NAME]).read_text())
    Path(mark[NAME]).write_text(json.dumps(said | {"where": "elsewhere"}))
    assert marks.whose(identity.pid) is Whose.FOREIGN


def test_mark_whose_record_is_torn_is_stale(marks: Marks, runner) -> None:
    identity, mark = runner
    marks.record(mark, identity)
    os.truncate(mark[NAME], 7)
    assert marks.whose(identity.pid) is Whose.STALE


def test_mark_of_another_state_directory_is_foreign(tmp_path: Path, runner) -> None:
    identity, _ = runner
    assert Marks(tmp_path / "others").whose(identity.pid) is Whose.FOREIGN


def test_mark_that_is_not_there_is_foreign(marks: Marks) -> None:
    assert identify(os.getpid()) is not None
    assert marks.whose(os.getpid()) is Whose.FOREIGN
    assert marks.whose(2**22 + 1) is Whose.FOREIGN


def test_mark_of_two_runners_is_never_the_same(marks: Marks) -> None:
    assert marks.new() != marks.new()
