"""Routing inside a jitted step, by the same rules as on the host: from equal logits, equal experts."""

import jax
import jax.numpy as jnp
from jax import lax


def route(
    logits: jax.Array,
    null: jax.Array | None,
    topk: int,
    renormalize_topk: bool,
    renormalize_real_after_null: bool,
) -> tuple[jax.Array, jax.Array]:
    """The `topk` experts with the largest softmax over all experts, and those softmaxes as weights.

    Without `null` the result is `softmax_topk`'s; with it, `with_nulls` of that. The softmax is computed in float32.
    A constant of the step: no gradient reaches the logits.

    logits: [tokens, experts]; null: bool [tokens, topk] -> ids: int32 [tokens, topk], weights: [tokens, topk] in the
    logits' dtype.
    """
    experts = logits.shape[1]
    # top_k orders -0 below 0, the host holds them equal
    logits = lax.stop_gradient(jnp.where(logits == 0, jnp.zeros_like(logits), logits))
    # of the logits, not of the softmax: it keeps their order, but for what it rounds to equal values
    chosen, ids = lax.top_k(logits, topk)
    chosen = chosen.astype(jnp.float32)

    # Renormalised weights are a softmax over fewer: the chosen, or the chosen that are not null.
    over = chosen if renormalize_topk else logits.astype(jnp.float32)
    if null is not None and renormalize_real_after_null:
        over = jnp.where(null, -jnp.inf, chosen)
    weights = jnp.exp(chosen - jax.nn.logsumexp(over, axis=1, keepdims=True))
    if null is not None:
        ids, weights = jnp.where(null, experts, ids), jnp.where(null, 0, weights)
    return ids, weights.astype(logits.dtype)
