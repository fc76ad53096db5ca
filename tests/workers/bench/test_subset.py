import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from workers.bench.subset import closed_subset


@st.composite
def routed(draw):
    experts = draw(st.integers(1, 12))
    topk = draw(st.integers(1, experts))
    tokens = draw(st.integers(1, 400))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    skew = rng.normal(size=experts) * draw(st.sampled_from([0.0, 3.0]))
    ids = np.argsort(rng.normal(size=(tokens, experts)) + skew, axis=1)[:, :topk]
    return ids.astype(np.int32), experts, rng


@given(routed())
def test_closed_subset_any_routing_holds_what_the_rule_names(case):
    ids, experts, rng = case
    tokens = len(ids)
    subset = closed_subset(ids, experts, rng, whole=False)
    load = np.bincount(ids.ravel(), minlength=experts)
    chosen = set(subset.experts)
    assert load.argmax() in chosen
    assert min(load[load > 0]) in load[subset.experts]
    assert 1 <= len(chosen) <= 3
    assert all(load[subset.experts] > 0)
    assert set(np.flatnonzero(np.isin(ids, subset.experts).any(axis=1))) <= set(subset.tokens)
    for expert in np.flatnonzero(load):
        mine = np.flatnonzero((ids == expert).any(axis=1))
        assert {mine[0], mine[-1]} <= set(subset.tokens)
    assert len(subset.tokens) >= min(tokens, 64)
    assert len(set(subset.tokens)) == len(subset.tokens)


def test_closed_subset_whole_is_every_token_and_every_expert_with_rows():
    ids = np.array([[0, 2], [2, 0]], np.int32)
    subset = closed_subset(ids, 4, np.random.default_rng(0), whole=True)
    assert subset.experts.tolist() == [0, 2]
    assert subset.tokens.tolist() == [0, 1]
