"""One Mixture-of-Experts block: every axis of it that a researcher varies.

Which of their combinations have a meaning is in `core.job.combinations`.
"""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from core.job.base import INT32_MAX, BaseJob, Dim, Seed
from core.job.capacity import rows_kept
from core.job.combinations import irrelevant, refusals

Fraction = Annotated[float, Field(ge=0, le=1)]

# What a grouped matmul and its two derivatives are made of.
Product = Literal["forward", "dlhs", "drhs"]
# Rows, contraction and columns of one tile, in the roles of the product it is for.
Tile = Annotated[list[Dim], Field(min_length=3, max_length=3)]


class MoeBlockJob(BaseJob):
    """One Mixture-of-Experts block.

    y[t] = sum_j weight[t, j] * (silu(x[t] @ w1[e]) * (x[t] @ w3[e])) @ w2[e] with e = ids[t, j], plus the shared
    expert's (silu(x[t] @ ws1) * (x[t] @ ws3)) @ ws2.
    """

    kind: Literal["moe_block"] = "moe_block"
    tokens: Dim = Field(description="tokens in a batch")
    hidden: Dim = Field(description="width of a token")
    mlp_dim: Dim = Field(description="width of an expert's hidden layer")
    experts: Dim = Field(description="routed experts")
    topk: Dim = Field(description="experts a token goes to")
    shared_expert_dim: Annotated[int, Field(ge=0, le=INT32_MAX)] = Field(
        0, description="width of the shared expert's hidden layer; 0: there is none"
    )
    shared_fused: bool = Field(False, description="shared expert: w1|w3 as one matmul")
    dtype: Literal["bfloat16", "float32"] = Field("bfloat16", description="parameters, activations and gradients")
    init: Literal["fan_in", "unit"] = Field("fan_in", description="variance of the weights: 1 / fan-in, or 1")
    seed: Seed = Field(0, description="one x, one set of weights, one routing")
    distribution: Literal["random", "runs"] = Field("random", description="how router logits are drawn")
    run_alpha: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.98, description="runs: chance that a run goes on, so that its mean length is 1 / (1 - run_alpha)"
    )
    run_noise_scale: Annotated[float, Field(ge=0)] = Field(0.35, description="runs: scale of the noise in the logits")
    routing: Literal["topk_softmax", "softmax_topk"] = Field(
        "topk_softmax", description="softmax over the chosen, outside the step; or over all, inside it"
    )
    renormalize_topk: bool = Field(False, description="softmax_topk: the chosen weights are made to sum to 1")
    null_route_frac: Fraction = Field(0.0, description="chance that a choice goes to no expert")
    null_routing_mode: Literal["independent", "take_until_null"] = Field(
        "independent", description="each choice on its own, or every choice after a token's first null too"
    )
    renormalize_real_after_null: bool = Field(True, description="the weights that are left are made to sum to 1")
    backend: Literal["gmm", "ragged_dot", "blocked", "tokamax", "hillclimb"] = Field(
        "gmm", description="the grouped matrix multiplication"
    )
    tiles: dict[Product, Tile] = Field(
        default_factory=dict, description="[rows, contraction, columns] of a tile, by product: forward, dlhs, drhs"
    )
    matmul_vjp: Literal["custom", "autodiff"] = Field(
        "custom", description="ragged_dot: our derivative, or JAX's, whose drhs is a dense expansion"
    )
    impl: Literal["baseline", "fused_w13", "preweight", "fused_w13_preweight", "scatter", "fast"] = Field(
        "baseline", description="how the block is composed"
    )
    w13_param: Literal["stored", "concat"] = Field(
        "stored", description="fused impls: w1|w3 stored as one, or joined inside the step"
    )
    bench_pass: Literal["forward", "forward_backward"] = Field("forward", description="what one timed call computes")
    queue_mode: Literal["full", "prequeue"] = Field("full", description="pack inside the timed call, or before it")
    routing_pack_strategy: Literal["argsort", "tuple_sort"] = Field(
        "argsort", description="how assignments are sorted by expert"
    )
    permute_vjp: Literal["custom", "autodiff"] = Field(
        "custom", description="permutations' derivative: a gather by the inverse, or JAX's scatter-add"
    )
    capacity_policy: Literal["none", "drop", "pad"] = Field(
        "none", description="beyond an expert's capacity: kept, zeroed, or zeroed with every expert filled up to it"
    )
    capacity_factor: Annotated[float, Field(ge=0)] = Field(
        0.0, description="capacity = ceil(factor x tokens x topk / experts)"
    )
    buffer_rows: Literal["realised", "worst"] = Field(
        "realised", description="rows of a packed buffer: the largest device's real ones in steps of 512, or all"
    )
    remat_mode: Literal["none", "expert_mlp", "combine"] = Field(
        "none", description="what the backward pass computes again"
    )
    parallel_mode: Literal["none", "ep_dense", "ep", "ep_ring", "ep_a2a", "ref_dp", "staged_dp", "fused_ep"] = Field(
        "none", description="how devices share the block"
    )
    devices: Literal["all", 1] = Field("all", description="parallel modes: over every device of the host, or over one")
    quant_mode: Literal["none", "int8_qdq", "int8", "int8_routed", "int8_all", "int8_routed_prequant"] = Field(
        "none", description="which matmuls are int8: rounded only, shared, routed, both, routed with stored weights"
    )
    quant_vjp: Literal["straight_through", "autodiff"] = Field(
        "straight_through", description="derivative of rounding: the identity, or JAX's zero"
    )
    stage_timing: bool = Field(False, description="time pack, up, down, combine … one by one beside the whole")

    @property
    def capacity(self) -> int | None:
        """Rows an expert keeps under a capacity policy: ceil(factor x tokens x topk / experts)."""
        if self.capacity_policy == "none":
            return None
        return rows_kept(self.capacity_factor, self.tokens, self.topk, self.experts)

    def _refusals(self) -> Iterator[str]:
        return refusals(self)

    def _irrelevant(self) -> Iterator[tuple[str, str]]:
        return irrelevant(self)
