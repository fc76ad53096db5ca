"""The router inside a timed step: the experts of each token by three top-k implementations, and their gates.

All three order alike: by logit, and among equal logits the lower expert first. Logits hold no negative zero, which
`lax.top_k` would order below zero.
"""

import jax
import jax.numpy as jnp
from jax import lax

from core.job.micro import RoutedJob


def largest(logits: jax.Array, topk: int, impl: str) -> tuple[jax.Array, jax.Array]:
    """The `topk` largest logits of each token and their experts, the largest first: [tokens, topk], int32 [...]."""
    match impl:
        case "lax":
            return lax.top_k(logits, topk)
        case "sort":
            return _by_sort(logits, topk)
        case "argmax":
            return _by_argmax(logits, topk)
    raise ValueError(f"no top-k implementation is called {impl}")


def _by_sort(logits: jax.Array, topk: int) -> tuple[jax.Array, jax.Array]:
    expert = lax.broadcasted_iota(jnp.int32, logits.shape, 1)
    smallest_first, ids = lax.sort((-logits, expert), dimension=1, num_keys=1, is_stable=True)
    return -smallest_first[:, :topk], ids[:, :topk]


def _by_argmax(logits: jax.Array, topk: int) -> tuple[jax.Array, jax.Array]:
    """One pass over the logits for each choice, each without the experts chosen before."""
    expert = lax.broadcasted_iota(jnp.int32, logits.shape, 1)
    values, ids = [], []
    for _ in range(topk):
        values.append(jnp.max(logits, axis=1))
        ids.append(jnp.argmax(logits, axis=1).astype(jnp.int32))
        logits = jnp.where(expert == ids[-1][:, None], -jnp.inf, logits)
    return jnp.stack(values, axis=1), jnp.stack(ids, axis=1)


def route(job: RoutedJob, logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """logits: [tokens, experts] -> ids: int32 [tokens, topk], gates: [tokens, topk] in the logits' dtype.

    top1, topk_hard: softmax over the chosen logits. softk: softmax over all logits / temperature; of it the gates of
    the chosen, made to sum to 1 under soft_normalize. Softmaxes are computed in float32.
    """
    values, ids = largest(logits, job.topk, job.topk_impl)
    if job.strategy != "softk":
        return ids, jax.nn.softmax(values.astype(jnp.float32), axis=1).astype(logits.dtype)
    over_all = jax.nn.softmax(logits.astype(jnp.float32) / job.temperature, axis=1)
    gates = jnp.take_along_axis(over_all, ids, axis=1)
    if job.soft_normalize:
        gates /= jnp.sum(gates, axis=1, keepdims=True)
    return ids, gates.astype(logits.dtype)
