"""What a busy chip costs: a matrix driven by the real controller over a real service, with real runners."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.orchestrator.test_end_to_end import rows
from tests.vfio import needs_mounts

pytestmark = pytest.mark.slow


def test_visit_that_meets_a_stale_holder_is_repeated_when_the_ladder_has_ended_it(tmp_path: Path) -> None:
    needs_mounts()
    folder = Path("/dev/vfio")
    made = not folder.exists()
    folder.mkdir(exist_ok=True)
    try:
        command = ["unshare", "--mount", sys.executable, "-m", "tests.workers.host.busy", str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    finally:
        if made:
            folder.rmdir()
    assert done.returncode == 0, done.stdout + done.stderr
    ledger = tmp_path / "ledger.db"
    assert rows(ledger, "SELECT state, kind FROM visit ORDER BY id") == [("failed", "tpu_busy"), ("finished", None)]
    runs = rows(ledger, "SELECT visit, outcome, kind FROM run ORDER BY visit")
    assert runs == [(1, "stopped", None)] * 2 + [(2, "ok", None)] * 2
    steps = rows(ledger, "SELECT body ->> 'step', body ->> 'good' FROM event WHERE event = 'rung' ORDER BY seq")
    assert steps == [("holders", 0), ("term", 1), ("released", 1), ("lockfile", 1), ("trial", 1)]
    ((detail,),) = rows(
        ledger, "SELECT body ->> 'detail' FROM event WHERE event = 'rung' AND body ->> 'step' = 'holders'"
    )
    assert "/dev/vfio/0 is held by pid" in detail
    assert "ours and stale" in detail
    refused = "SELECT at_ns FROM event WHERE event = 'runner_exited' AND visit = 1"
    ((seconds,),) = rows(
        ledger, f"SELECT (min(at_ns) - ({refused})) / 1e9 FROM event WHERE visit = 2 AND event = 'phase'"
    )
    # The wait after a failure of the host is 5 s of these, two starts of Python the most of the others.
    assert 0.0 < seconds < 60.0, seconds
    print(f"{seconds:.1f} s from EBUSY to the job running")
