"""What the stages of one device are made from: a job, and what only its devices and its routing decide."""

from dataclasses import dataclass

from core.job import MoeBlockJob
from core.job.combinations import EXPERT_PARALLEL
from workers.moe.dispatch import Packing
from workers.moe.grouped.matmul import Backend


@dataclass(frozen=True)
class Composition:
    """shards: devices the block is spread over; rows: of a packed buffer (`buffer.buffer_rows`); native: whether the
    devices can exchange ragged rows."""

    job: MoeBlockJob
    backend: Backend
    shards: int
    rows: int
    native: bool

    @property
    def local_experts(self) -> int:
        """Experts whose weights a device holds."""
        return self.job.experts // self.shards if self.job.parallel_mode in EXPERT_PARALLEL else self.job.experts

    @property
    def packing(self) -> Packing:
        """How the assignments of those experts are packed."""
        job, capacity = self.job, self.job.capacity
        padded = job.capacity_policy == "pad"
        return Packing(
            groups=self.local_experts,
            rows=self.local_experts * capacity if padded and capacity else self.rows,
            complete=job.parallel_mode not in EXPERT_PARALLEL and not job.null_route_frac,
            capacity=capacity,
            padded=padded,
            strategy=job.routing_pack_strategy,
            vjp=job.permute_vjp,
        )

    @property
    def home_packing(self) -> Packing:
        """ep_a2a: how a device packs its own tokens for all experts, before the rows travel to them."""
        job = self.job
        return Packing(
            groups=job.experts,
            rows=job.tokens // self.shards * job.topk,
            complete=not job.null_route_frac,
            strategy=job.routing_pack_strategy,
            vjp=job.permute_vjp,
        )
