"""Micro-benchmarks through the runner, as a process."""

import json
import os
import subprocess
import sys

from core.events import RUNNER_EVENT, Compiled, Environment, Metric, RunEnded, Samples

DEADLINE_S = 120
MOVED = {"tokens": 32, "experts": 4, "topk": 2, "hidden": 8}
KINDS = {
    "topk": {"tokens": 32, "experts": 4, "topk": 2},
    "routing": MOVED,
    "pack": MOVED,
    "pack_only": MOVED,
    "combine_only": MOVED,
    "moe_layer": MOVED,
    "capacity": {**MOVED, "capacity_factor": 0.5},
}


def run(path, *jobs, iters=20):
    slots = [{"slot": slot, "job": job} for slot, job in enumerate(jobs)]
    path.write_text(json.dumps({"visit": 1, "iters": iters, "warmup": 1, "slots": slots}))
    reader, writer = os.pipe()
    command = [sys.executable, "-m", "workers.runner", str(path), "--events", str(writer)]
    process = subprocess.Popen(command, pass_fds=(writer,), stderr=subprocess.PIPE, text=True)
    os.close(writer)
    with os.fdopen(reader) as lines:
        said = [RUNNER_EVENT.validate_json(line) for line in lines]
    _, stderr = process.communicate(timeout=DEADLINE_S)
    return process.returncode, said, stderr


def of(kind, said):
    return [event for event in said if isinstance(event, kind)]


def test_runner_measures_every_kind_by_wall_chain(tmp_path):
    jobs = [{"kind": kind, **fields} for kind, fields in KINDS.items()]
    code, said, stderr = run(tmp_path / "visit.json", *jobs)
    assert code == 0, stderr
    assert of(Environment, said)[0].facts["timer"] == "wall_chain"
    assert [(end.outcome, end.reason) for end in of(RunEnded, said)] == [("ok", "")] * len(jobs)
    # 20 calls in chains of 10
    assert [len(samples.wall_ns) for samples in of(Samples, said)] == [2] * len(jobs)
    assert len({compiled.program for compiled in of(Compiled, said)}) == len(jobs)
    metrics = {(metric.slot, metric.name, metric.scope): metric.value for metric in of(Metric, said)}
    assert metrics[6, "avg_drop_rate", ""] == 0.5
    assert 0 < metrics[5, "routing_share", ""] < 1
    assert metrics[2, "stage_ns", "combine"] > 0


def test_runner_slots_of_two_timers_are_refused_in_one_line(tmp_path):
    path = tmp_path / "visit.json"
    code, said, stderr = run(path, {"kind": "topk", **KINDS["topk"]}, {"kind": "selftest"})
    assert (code, said) == (2, [])
    assert stderr == (
        f"{path}: slots with slot = 0 and 1 are timed by wall_chain and wall_sync (job.kind = topk and selftest);"
        " one process has one timer: write a visit for each\n"
    )
