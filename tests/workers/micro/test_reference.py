"""The NumPy reference, against values worked out by hand: two tokens, three experts."""

import math

import numpy as np
import pytest

from core.job import CapacityJob, TopkJob
from workers.micro import reference

IDS = np.asarray([[2, 0], [2, 1], [0, 2]], np.int32)


def test_dispatch_brings_each_experts_assignments_together_in_token_order():
    found = reference.dispatch(IDS, 4, None)
    np.testing.assert_array_equal(found.token, [0, 2, 1, 0, 1, 2])
    np.testing.assert_array_equal(found.slot, [1, 4, 3, 0, 2, 5])
    np.testing.assert_array_equal(found.row, [[3, 0], [4, 2], [1, 5]])
    np.testing.assert_array_equal(found.group_sizes, [2, 1, 3, 0])


def test_dispatch_with_a_capacity_keeps_the_first_tokens_and_fills_up():
    found = reference.dispatch(IDS, 4, 2)
    np.testing.assert_array_equal(found.token, [0, 2, 1, 3, 0, 1, 3, 3])
    np.testing.assert_array_equal(found.slot, [1, 4, 3, 6, 0, 2, 6, 6])
    # the third assignment of expert 2 has no row
    np.testing.assert_array_equal(found.row, [[4, 0], [5, 2], [1, 8]])
    np.testing.assert_array_equal(found.group_sizes, [2, 2, 2, 2])


def test_pack_copies_tokens_and_leaves_other_rows_zero():
    x = np.asarray([[1.0], [2.0], [3.0]], np.float32)
    packed = reference.pack(x, reference.dispatch(IDS, 4, 2))
    np.testing.assert_array_equal(packed[:, 0], [1, 3, 2, 0, 1, 2, 0, 0])


def test_combine_weighs_rows_and_leaves_out_what_was_dropped():
    outputs = np.arange(8, dtype=np.float32)[:, None] * 10
    gates = np.asarray([[0.5, 0.5], [0.25, 0.75], [1.0, 9.0]], np.float32)
    y = reference.combine(outputs, gates, reference.dispatch(IDS, 4, 2).row)
    np.testing.assert_array_equal(y[:, 0], [20, 0.25 * 50 + 0.75 * 20, 10])


def test_renormalised_gates_sum_to_1_where_any_is_kept():
    gates = np.asarray([[0.25, 0.5], [0.25, 0.5], [0.25, 0.5]], np.float32)
    kept = np.asarray([[True, True], [False, True], [False, False]])
    found = reference.renormalised(gates, kept)
    np.testing.assert_allclose(found, [[1 / 3, 2 / 3], [0, 1], [0, 0]], rtol=1e-6)


def test_ffn_sends_each_group_through_its_own_matrices():
    packed = np.asarray([[1.0], [1.0], [-2.0]], np.float32)
    weights = {
        "w1": np.asarray([[[1.0, 0.0]], [[0.0, 2.0]]], np.float32),
        "w2": np.asarray([[[1.0], [5.0]], [[5.0], [3.0]]], np.float32),
    }

    def gelu(x: float) -> float:
        return x * 0.5 * math.erfc(-x / math.sqrt(2))

    found = reference.ffn(packed, weights, np.asarray([1, 2], np.int32))
    np.testing.assert_allclose(found[:, 0], [gelu(1), 3 * gelu(2), 3 * gelu(-4)], rtol=1e-5)


@pytest.mark.parametrize(("renorm", "y"), [(False, [[1.0], [0.25]]), (True, [[1.0], [1.0]])])
def test_reference_of_a_capacity_drops_what_comes_late(renorm, y):
    job = CapacityJob(
        tokens=2, hidden=1, experts=3, topk=2, dtype="float32", capacity_factor=0.5, renorm_after_drop=renorm
    )
    assert job.capacity == 1
    # both tokens choose expert 0 first with gate 0.75; it keeps the first of them
    odds = np.asarray([[9.0, 3.0, 1.0], [9.0, 1.0, 3.0]], np.float32)
    state = reference.reference(job, {"x": np.ones((2, 1), np.float32), "logits": np.log(odds)})
    np.testing.assert_array_equal(state["dispatch"].row, [[0, 1], [3, 2]])
    np.testing.assert_allclose(state["y"], y, rtol=1e-6)


def test_reference_of_softk_divides_logits_by_the_temperature():
    job = TopkJob(tokens=1, experts=2, topk=1, strategy="softk", temperature=0.5, soft_normalize=False)
    state = reference.reference(job, {"logits": np.log(np.asarray([[3.0, 1.0]]))})
    np.testing.assert_allclose(state["gates"], [[0.9]], rtol=1e-6)
