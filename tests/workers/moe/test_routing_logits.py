import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.moe.routing import describe, random_logits, runs_logits
from workers.moe.routing.logits import RUN_LOGIT


def generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[seed, 4]))


def digits(array: np.ndarray) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()[:16]


def first_choices(logits: np.ndarray) -> np.ndarray:
    """[tokens, 1]"""
    return logits.argmax(axis=1, keepdims=True).astype(np.int32)


def runs_of(logits: np.ndarray) -> list[tuple[int, int]]:
    """(expert, length) of each stretch of tokens with one largest logit."""
    runs: list[tuple[int, int]] = []
    for expert in first_choices(logits)[:, 0].tolist():
        if runs and runs[-1][0] == expert:
            runs[-1] = (expert, runs[-1][1] + 1)
        else:
            runs.append((expert, 1))
    return runs


def test_random_logits_are_standard_normal():
    logits = random_logits(generator(1), 4000, 8)
    assert abs(logits.mean()) < 0.02
    assert abs(logits.std() - 1) < 0.02


def test_random_logits_one_seed_gives_the_array_it_always_gave():
    assert digits(random_logits(generator(7), 64, 4)) == "5ec8d5e5b5fe55bb"


def test_runs_logits_one_seed_gives_the_array_it_always_gave():
    logits = runs_logits(generator(7), 64, 4, alpha=0.9, noise_scale=0.35)
    assert (logits.shape, logits.dtype, digits(logits)) == ((64, 4), np.float32, "d952f19df88516ca")


@pytest.mark.parametrize("alpha", [0.0, 0.9])
def test_runs_logits_are_scaled_noise_and_more_on_one_expert_a_token(alpha):
    noise = np.float32(0.35) * random_logits(generator(3), 500, 6)
    more = runs_logits(generator(3), 500, 6, alpha, noise_scale=0.35) - noise
    np.testing.assert_allclose(np.sort(more, axis=1), [[0] * 5 + [RUN_LOGIT]] * 500, atol=1e-6)


def test_runs_logits_setting_of_the_logbooks_has_their_run_lengths():
    """The logbooks drew once and saw runs of mean 50.33, p95 138 and max 327."""
    found = [
        describe(ids, 60, ids < 60)
        for ids in (first_choices(runs_logits(generator(seed), 32768, 60, 0.98, 0.35)) for seed in range(30))
    ]
    drawn = np.array([(one.run_mean, one.run_p95, one.run_max) for one in found])
    assert (abs(drawn.mean(axis=0) - (50.33, 138, 327)) < 2 * drawn.std(axis=0)).all()
    # geometric: mean 1 / 0.02, and 5 % of the runs longer than ln 0.05 / ln 0.98 tokens
    np.testing.assert_allclose(drawn.mean(axis=0)[:2], [50, 148.3], rtol=0.03)


def test_runs_logits_random_setting_of_the_logbooks_has_no_runs():
    ids = first_choices(random_logits(generator(0), 32768, 60))
    found = describe(ids, 60, ids < 60)
    # equal neighbours have a chance of 1 / 60
    assert found.run_mean == pytest.approx(60 / 59, abs=0.005)
    assert (found.run_p95, found.run_max) == (1, 3)


@given(
    seed=st.integers(0, 2**32),
    tokens=st.integers(1, 200),
    experts=st.integers(2, 9),
    alpha=st.sampled_from([0, 0.5, 0.9]),
)
@settings(max_examples=60, deadline=None)
def test_runs_logits_each_run_goes_to_a_least_loaded_expert_that_is_not_the_last(seed, tokens, experts, alpha):
    load, previous = [0] * experts, None
    runs = runs_of(runs_logits(generator(seed), tokens, experts, alpha, noise_scale=0.1))
    for expert, length in runs:
        assert expert != previous
        assert load[expert] == min(load[other] for other in range(experts) if other != previous)
        load[expert] += length
        previous = expert
    assert sum(load) == tokens


def test_runs_logits_equal_loads_are_told_apart_at_random():
    firsts = {int(runs_logits(generator(seed), 1, 4, 0.5, 0.0).argmax()) for seed in range(40)}
    assert firsts == {0, 1, 2, 3}


def test_runs_logits_alpha_zero_gives_every_token_a_run_of_its_own():
    assert {length for _, length in runs_of(runs_logits(generator(5), 300, 4, 0.0, 0.35))} == {1}


@pytest.mark.parametrize(("experts", "alpha"), [(1, 0.5), (3, 1 - 2**-53)])
def test_runs_logits_one_expert_or_endless_run_fills_the_batch(experts, alpha):
    # so many that drawn lengths of 2^53 would add up to more than an int64 holds
    assert [length for _, length in runs_of(runs_logits(generator(5), 5000, experts, alpha, 0.35))] == [5000]
