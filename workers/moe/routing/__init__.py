"""Which experts a token goes to, and with which weight.

Routing is decided on the host with NumPy, so that it is equal on every machine and for every arm of a comparison, and
known before a program runs. `in_step` holds the same rules for programs that route inside the timed step. Knows nothing
of the order the experts are computed in.
"""

from workers.moe.routing.capacity import kept
from workers.moe.routing.choice import Routing, softmax_topk, topk_softmax
from workers.moe.routing.load import expert_load
from workers.moe.routing.logits import random_logits, runs_logits
from workers.moe.routing.nulls import NullMode, null_slots, with_nulls
from workers.moe.routing.statistics import Statistics, describe

__all__ = [
    "NullMode",
    "Routing",
    "Statistics",
    "describe",
    "expert_load",
    "kept",
    "null_slots",
    "random_logits",
    "runs_logits",
    "softmax_topk",
    "topk_softmax",
    "with_nulls",
]
