import numpy as np

from workers.moe.routing import expert_load, random_logits, topk_softmax


def test_topk_softmax_known_logits_gives_largest_first_and_their_softmax():
    logits = np.log(np.array([[1, 6, 3, 2], [4, 4, 1, 0.5]], np.float32))
    routing = topk_softmax(logits, 2)
    assert routing.ids.tolist() == [[1, 2], [0, 1]]  # equal logits: the lower expert first
    np.testing.assert_allclose(routing.weights, [[6 / 9, 3 / 9], [0.5, 0.5]], rtol=1e-6)
    assert (routing.ids.dtype, routing.weights.dtype) == (np.int32, np.float32)


def test_random_logits_are_standard_normal():
    logits = random_logits(np.random.Generator(np.random.Philox(key=[1, 2])), 4000, 8)
    assert abs(logits.mean()) < 0.02
    assert abs(logits.std() - 1) < 0.02


def test_expert_load_counts_empty_experts():
    assert expert_load(np.array([[0, 3], [3, 1]], np.int32), 5).tolist() == [1, 1, 0, 2, 0]
