"""The timed step: what one call computes, for each pass. Everything it works on is an argument of it."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from core.job import MoeBlockJob
from workers.moe.block import Composition, composition, moe_block
from workers.moe.experts import Weights

# (x, ids, router_weights, weights) -> the outputs by name.
Step = Callable[[jax.Array, jax.Array, jax.Array, Weights], dict[str, jax.Array]]


def step(job: MoeBlockJob) -> Step:
    """The step a job times."""
    chosen = composition(job)
    return forward(chosen) if job.bench_pass == "forward" else forward_backward(chosen)


def forward(chosen: Composition) -> Step:
    """Returns y: [tokens, hidden]."""

    def forward_step(x: jax.Array, ids: jax.Array, router_weights: jax.Array, weights: Weights) -> dict[str, jax.Array]:
        return {"y": moe_block(chosen, x, ids, router_weights, weights)}

    return forward_step


def forward_backward(chosen: Composition) -> Step:
    """Returns loss = mean(y^2), a float32 scalar, and its gradient with respect to x and every weight: dx, dw1, ..."""

    def forward_backward_step(
        x: jax.Array, ids: jax.Array, router_weights: jax.Array, weights: Weights
    ) -> dict[str, jax.Array]:
        def loss(x: jax.Array, weights: Weights) -> jax.Array:
            y = moe_block(chosen, x, ids, router_weights, weights)
            return jnp.mean(jnp.square(y.astype(jnp.float32)))

        value, (dx, dweights) = jax.value_and_grad(loss, argnums=(0, 1))(x, weights)
        return {"loss": value, "dx": dx, **{f"d{name}": gradient for name, gradient in dweights.items()}}

    return forward_backward_step
