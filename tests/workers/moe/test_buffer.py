import numpy as np
import pytest

from core.job import MoeBlockJob
from workers.moe import buffer
from workers.moe.buffer import buffer_rows


def job(**fields) -> MoeBlockJob:
    return MoeBlockJob(tokens=8, hidden=4, mlp_dim=4, experts=4, topk=2, **fields)


# experts 0 and 1 are the first device's; 4 is null. Loads 6, 2, 1, 1, and 6 null.
IDS = np.array([[0, 1], [0, 1], [0, 2], [0, 3], [0, 4], [0, 4], [4, 4], [4, 4]], np.int32)


@pytest.mark.parametrize(
    ("fields", "shards", "rows"),
    [
        ({"parallel_mode": "ep"}, 2, 8),
        ({"parallel_mode": "ep_a2a"}, 4, 8),
        ({"parallel_mode": "ep_ring", "buffer_rows": "worst"}, 2, 16),
        ({"parallel_mode": "ep_dense"}, 2, 16),
        ({"null_route_frac": 0.5}, 1, 12),
        ({"null_route_frac": 0.5, "buffer_rows": "worst"}, 1, 16),
        ({"parallel_mode": "staged_dp", "null_route_frac": 0.5}, 2, 8),
        ({"parallel_mode": "staged_dp", "null_route_frac": 0.5}, 4, 4),
    ],
)
def test_buffer_rows_of_a_mode_hold_its_fullest_device_in_whole_steps(monkeypatch, fields, shards, rows):
    monkeypatch.setattr(buffer, "ROW_STEP", 4)
    assert buffer_rows(job(**fields), IDS, shards) == rows


def test_buffer_rows_of_no_real_assignment_are_a_step():
    assert buffer_rows(job(null_route_frac=1.0), np.full((2048, 2), 4, np.int32), 1) == buffer.ROW_STEP == 512
