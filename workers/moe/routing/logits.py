"""Router logits, drawn on the host: every token on its own, or in runs of tokens that prefer one expert."""

from heapq import heapify, heappop, heappush

import numpy as np
from numpy.typing import NDArray

# What a run adds to the logit of its expert: far above the largest of a token's noise, so that it is the first choice.
RUN_LOGIT = 6.0


def random_logits(rng: np.random.Generator, tokens: int, experts: int) -> NDArray[np.float32]:
    """Independent N(0, 1) logits: float32 [tokens, experts]."""
    return rng.standard_normal((tokens, experts), dtype=np.float32)


def runs_logits(
    rng: np.random.Generator, tokens: int, experts: int, alpha: float, noise_scale: float
) -> NDArray[np.float32]:
    """Noise of N(0, noise_scale^2), and RUN_LOGIT more on the expert of a token's run: float32 [tokens, experts].

    A run goes on with probability `alpha`, so lengths are geometric with mean 1 / (1 - alpha); the last is cut at
    `tokens`. Each run goes to one of the experts with the fewest tokens in runs so far, other than the previous run's.
    The noise is drawn first and is `random_logits` of the same rng, whatever `alpha`.
    """
    logits = random_logits(rng, tokens, experts)
    logits *= np.float32(noise_scale)
    lengths = _run_lengths(rng, tokens, alpha)
    preferred = np.repeat(_experts_of_runs(rng, lengths, experts), lengths)
    logits[np.arange(tokens), preferred] += np.float32(RUN_LOGIT)
    return logits


def _run_lengths(rng: np.random.Generator, tokens: int, alpha: float) -> NDArray[np.int64]:
    """Lengths that sum to `tokens`, each at least 1."""
    # as many as could be needed; limited to `tokens`, so that their sum cannot overflow
    ends = np.cumsum(np.minimum(rng.geometric(1 - alpha, size=tokens), tokens))
    runs = int(np.searchsorted(ends, tokens)) + 1
    return np.diff(np.minimum(ends[:runs], tokens), prepend=0)


def _experts_of_runs(rng: np.random.Generator, lengths: NDArray[np.int64], experts: int) -> NDArray[np.int64]:
    """The expert of each run. Equal loads are told apart by a number drawn for each."""
    if experts == 1:
        return np.zeros(len(lengths), np.int64)
    ties = iter(rng.random(experts + len(lengths)).tolist())
    waiting = [(0, next(ties), expert) for expert in range(experts)]
    heapify(waiting)
    chosen = []
    load, _, expert = heappop(waiting)
    for length in lengths.tolist():
        chosen.append(expert)
        # the next is taken before this one waits again: never the same twice in a row
        done = (load + length, next(ties), expert)
        load, _, expert = heappop(waiting)
        heappush(waiting, done)
    return np.array(chosen)
