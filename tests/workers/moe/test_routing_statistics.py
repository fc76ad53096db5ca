import math

import numpy as np
import pytest

from workers.moe.routing import describe, expert_load, kept


def test_expert_load_counts_empty_experts():
    assert expert_load(np.array([[0, 3], [3, 1]], np.int32), 5).tolist() == [1, 1, 0, 2, 0]


def test_expert_load_leaves_null_choices_out():
    assert expert_load(np.array([[2, 4], [4, 4]], np.int32), 4).tolist() == [0, 0, 1, 0]


def test_describe_known_routing_gives_its_numbers():
    ids = np.array([[0, 1], [0, 4], [0, 2], [4, 4], [4, 4], [1, 0]], np.int32)
    found = describe(ids, 4, kept(ids, 4, 3))
    # loads 4, 2, 1, 0; runs 0 0 0 | null null | 1
    assert found._asdict() == pytest.approx(
        {
            "null_frac": 5 / 12,
            "drop_frac": 1 / 7,
            "load_min": 0,
            "load_max": 4,
            "load_mean": 7 / 4,
            "load_std": math.sqrt(21 / 4 - 49 / 16),
            "load_cv": math.sqrt(21 / 4 - 49 / 16) / (7 / 4),
            "run_mean": 2,
            "run_p95": 2.9,
            "run_max": 3,
        }
    )
    assert list(found._asdict())[0:2] == ["null_frac", "drop_frac"]
    assert {type(value) for value in found} == {float}


def test_describe_nothing_real_is_all_null_and_even():
    ids = np.full((3, 2), 4, np.int32)
    found = describe(ids, 4, kept(ids, 4, None))
    assert found._asdict() == {
        "null_frac": 1,
        "drop_frac": 0,
        **dict.fromkeys(("load_min", "load_max", "load_mean", "load_std", "load_cv"), 0),
        **dict.fromkeys(("run_mean", "run_p95", "run_max"), 3),
    }


def test_describe_one_token_is_one_run():
    ids = np.array([[1, 0]], np.int32)
    found = describe(ids, 2, kept(ids, 2, 0))
    assert (found.run_mean, found.run_p95, found.run_max) == (1, 1, 1)
    assert (found.null_frac, found.drop_frac, found.load_cv) == (0, 1, 0)
