"""Jobs: everything we *choose* for one measurement, one model a kind, told apart by `kind`."""

from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from core.job.base import WORKING_TREE
from core.job.micro import (
    CapacityJob,
    CombineOnlyJob,
    MicroJob,
    MoeLayerJob,
    PackJob,
    PackOnlyJob,
    RoutingJob,
    TopkJob,
)
from core.job.moe_block import MoeBlockJob
from core.job.selftest import SelftestJob

Job = (
    MoeBlockJob
    | TopkJob
    | RoutingJob
    | PackJob
    | PackOnlyJob
    | CombineOnlyJob
    | MoeLayerJob
    | CapacityJob
    | SelftestJob
)
KINDS: dict[str, type[Job]] = {
    "moe_block": MoeBlockJob,
    "topk": TopkJob,
    "routing": RoutingJob,
    "pack": PackJob,
    "pack_only": PackOnlyJob,
    "combine_only": CombineOnlyJob,
    "moe_layer": MoeLayerJob,
    "capacity": CapacityJob,
    "selftest": SelftestJob,
}
JobSpec = Annotated[Job, Field(discriminator="kind")]
_ADAPTER: TypeAdapter[Job] = TypeAdapter(JobSpec)

__all__ = [
    "KINDS",
    "WORKING_TREE",
    "CapacityJob",
    "CombineOnlyJob",
    "Job",
    "JobSpec",
    "MicroJob",
    "MoeBlockJob",
    "MoeLayerJob",
    "PackJob",
    "PackOnlyJob",
    "RoutingJob",
    "SelftestJob",
    "TopkJob",
    "parse_job",
]


def parse_job(fields: dict[str, Any]) -> Job:
    """The job these fields describe. Raises pydantic.ValidationError."""
    return _ADAPTER.validate_python(fields)
