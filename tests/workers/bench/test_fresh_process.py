import os

from core.events import RUNNER_EVENT, RunEnded
from core.job import MoeBlockJob
from core.visit import Slot, Visit
from workers.bench import devices
from workers.bench.wire import Wire
from workers.runner import FRESH_PROCESS_EXIT, execute


def test_execute_memory_that_does_not_return_asks_for_a_fresh_process(monkeypatch):
    job = MoeBlockJob(tokens=8, hidden=4, mlp_dim=4, experts=2, topk=1, backend="blocked")
    visit = Visit(visit=1, iters=1, warmup=0, slots=tuple(Slot(slot=slot, job=job) for slot in (0, 1)))
    in_use = iter([100, 101])
    monkeypatch.setattr(devices, "claim", lambda *_: {})
    monkeypatch.setattr(devices, "bytes_in_use", lambda: next(in_use))
    reader, writer = os.pipe()
    code = execute(visit, Wire(writer), 1, None)
    os.close(writer)
    with os.fdopen(reader) as lines:
        said = [RUNNER_EVENT.validate_json(line) for line in lines]
    assert code == FRESH_PROCESS_EXIT == 75
    assert [(event.slot, event.outcome) for event in said if isinstance(event, RunEnded)] == [(0, "ok")]
