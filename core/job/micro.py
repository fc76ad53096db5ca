"""Micro-benchmarks of routing: each kind times a part of a Mixture-of-Experts layer whose experts do little or nothing.

What the kinds share is written once: the batch that is routed, its width where tokens move, and the router where it is
part of what is timed. A kind has the fields it uses and no others.
"""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from core.job.base import INT32_MAX, BaseJob, Dim, Seed
from core.job.capacity import rows_kept

Positive = Annotated[float, Field(gt=0)]


class MicroJob(BaseJob):
    """A batch of tokens, each with one router logit per expert, drawn from N(0, 1)."""

    tokens: Dim = Field(description="tokens in a batch")
    experts: Dim = Field(description="routed experts")
    topk: Dim = Field(description="experts a token goes to")
    dtype: Literal["bfloat16", "float32", "float16"] = Field("bfloat16", description="of every array but the ids")
    seed: Seed = Field(17, description="one batch, one routing")

    def _refusals(self) -> Iterator[str]:
        if self.topk > self.experts:
            yield f"topk = {self.topk} is more than experts = {self.experts}: a token goes to distinct experts"
        if self.tokens * self.topk > INT32_MAX:
            yield f"tokens x topk = {self.tokens * self.topk} assignments cannot be indexed with int32"


class MovedJob(MicroJob):
    """The tokens themselves are moved."""

    hidden: Dim = Field(description="width of a token")


class RoutedJob(MicroJob):
    """The router's choice is part of the timed call."""

    strategy: Literal["topk_hard", "top1", "softk"] = Field(
        "topk_hard", description="gates: softmax over the chosen (one: top1), or over all experts, the chosen kept"
    )
    temperature: Positive = Field(1.0, description="softk: logits are divided by it before the softmax")
    soft_normalize: bool = Field(True, description="softk: the gates that are kept are made to sum to 1")
    topk_impl: Literal["lax", "sort", "argmax"] = Field(
        "lax", description="lax.top_k, the head of a whole sort, or topk times the largest that is left"
    )

    def _refusals(self) -> Iterator[str]:
        yield from super()._refusals()
        if self.strategy == "top1" and self.topk != 1:
            yield f"strategy = top1 chooses one expert, topk = {self.topk}; set topk = 1 or strategy = topk_hard"

    def _irrelevant(self) -> Iterator[tuple[str, str]]:
        if self.strategy != "softk":
            yield from dict.fromkeys(("temperature", "soft_normalize"), f"strategy = {self.strategy}").items()


class TopkJob(RoutedJob):
    """Router logits -> the experts of each token, and their gates."""

    kind: Literal["topk"] = "topk"


class RoutingJob(MovedJob, RoutedJob):
    """Route, pack and combine, with experts that return what they get."""

    kind: Literal["routing"] = "routing"


class PackJob(MovedJob):
    """Sort assignments by expert, gather their tokens, and combine them again: the way there and back."""

    kind: Literal["pack"] = "pack"


class PackOnlyJob(MovedJob):
    """Sort assignments by expert and gather their tokens: the way there."""

    kind: Literal["pack_only"] = "pack_only"


class CombineOnlyJob(MovedJob):
    """Gather packed rows and sum each token's by its gates: the way back."""

    kind: Literal["combine_only"] = "combine_only"


class MoeLayerJob(MovedJob):
    """Pack, the experts' gelu(x @ w1) @ w2, and combine."""

    kind: Literal["moe_layer"] = "moe_layer"
    expand: Dim = Field(4, description="width of an expert's hidden layer / hidden")
    backend: Literal["ragged_dot", "blocked"] = Field("ragged_dot", description="the grouped matrix multiplication")

    @property
    def mlp_dim(self) -> int:
        """Width of an expert's hidden layer: expand x hidden."""
        return self.expand * self.hidden

    def _refusals(self) -> Iterator[str]:
        yield from super()._refusals()
        if self.mlp_dim > INT32_MAX:
            yield f"expand x hidden = {self.mlp_dim} is a width that cannot be indexed with int32"


class CapacityJob(MovedJob, RoutedJob):
    """Route, pack and combine with room for `capacity` rows an expert: assignments beyond it are dropped."""

    kind: Literal["capacity"] = "capacity"
    capacity_factor: Positive = Field(description="capacity = ceil(factor x tokens x topk / experts)")
    renorm_after_drop: bool = Field(False, description="the gates a token keeps are made to sum to 1")

    @property
    def capacity(self) -> int:
        """Rows of an expert: ceil(factor x tokens x topk / experts), at least 1."""
        return rows_kept(self.capacity_factor, self.tokens, self.topk, self.experts)

    def _refusals(self) -> Iterator[str]:
        yield from super()._refusals()
        if self.experts * self.capacity > INT32_MAX:
            yield f"experts x capacity = {self.experts * self.capacity} rows cannot be indexed with int32"

    def _irrelevant(self) -> Iterator[tuple[str, str]]:
        yield from super()._irrelevant()
        if self.strategy == "top1":
            yield "renorm_after_drop", "strategy = top1, whose gate is 1"
        elif self.capacity >= self.tokens:
            yield "renorm_after_drop", f"capacity = {self.capacity} drops nothing"
