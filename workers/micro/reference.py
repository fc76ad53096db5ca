"""What a micro-benchmark must return, in plain NumPy: one loop over experts, one over choices, nothing clever.

Gates are computed in float64 and rounded to float32, sums and matrix products in float32; packed rows are copies, so
they are compared exactly.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import erfc

from core.job import CapacityJob, MicroJob
from core.job.micro import RoutedJob
from workers.moe.dispatch import Dispatch
from workers.moe.routing import Routing, softmax_topk, topk_softmax
from workers.moe.stages import State


def reference(job: MicroJob, arguments: State) -> State:
    """Everything that can be told from the arguments, by the names the stages use."""
    state = dict(arguments)
    if isinstance(job, RoutedJob):
        state["ids"], state["gates"] = route(job, state["logits"])
    capacity = job.capacity if isinstance(job, CapacityJob) else None
    if "ids" in state and "x" in state:
        state["dispatch"] = dispatch(state["ids"], job.experts, capacity)
        state["packed"] = pack(state["x"], state["dispatch"])
    if "weights" in state:
        state["outputs"] = ffn(state["packed"], state["weights"], state["dispatch"].group_sizes)
    if "gates" in state and "packed" in state:
        where = state["dispatch"]
        gates = np.asarray(state["gates"], np.float32)
        if isinstance(job, CapacityJob) and job.renorm_after_drop:
            gates = renormalised(gates, where.row < len(where.token))
        state["y"] = combine(state.get("outputs", state["packed"]), gates, where.row)
    return state


def route(job: RoutedJob, logits: NDArray[Any]) -> Routing:
    """logits: [tokens, experts] -> ids, weights: [tokens, topk]."""
    if job.strategy != "softk":
        return topk_softmax(logits, job.topk)
    return softmax_topk(logits.astype(np.float64) / job.temperature, job.topk, job.soft_normalize)


def dispatch(ids: NDArray[np.int32], experts: int, capacity: int | None) -> Dispatch:
    """Each expert's assignments one after another, in token order; with a capacity its first ones, on as many rows.

    ids: int32 [tokens, topk]. A row without an assignment has token = tokens, an assignment without a row row = rows.
    """
    tokens, topk = ids.shape
    flat = ids.reshape(-1)
    rows = flat.size if capacity is None else experts * capacity
    token: Any = np.full(rows, tokens, np.int32)
    slot: Any = np.full(rows, flat.size, np.int32)
    row: Any = np.full(flat.size, rows, np.int32)
    sizes: Any = np.zeros(experts, np.int32)
    begin = 0
    for expert in range(experts):
        mine = np.flatnonzero(flat == expert)[:capacity]
        at = np.arange(begin, begin + len(mine))
        token[at], slot[at], row[mine] = mine // topk, mine, at
        sizes[expert] = len(mine) if capacity is None else capacity
        begin += sizes[expert]
    return Dispatch(token, slot, row.reshape(ids.shape), sizes)


def pack(x: NDArray[Any], where: Dispatch) -> NDArray[Any]:
    """packed[r] = x[token[r]], zero where a row holds no token. -> [rows, hidden]."""
    return np.concatenate([x, np.zeros_like(x[:1])])[where.token]


def ffn(packed: NDArray[Any], weights: dict[str, NDArray[Any]], sizes: NDArray[np.int32]) -> NDArray[np.float32]:
    """gelu(packed @ w1) @ w2, each expert on its own rows."""
    outputs = np.empty(packed.shape, np.float32)
    begin = 0
    for expert, rows in enumerate(sizes):
        mine = slice(begin, begin := begin + rows)
        w1, w2 = (weights[name][expert].astype(np.float32) for name in ("w1", "w2"))
        outputs[mine] = gelu(packed[mine].astype(np.float32) @ w1) @ w2
    return outputs


def gelu(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """x times the normal distribution's share below x."""
    return 0.5 * x * erfc(-x / np.sqrt(np.float32(2)))


def combine(outputs: NDArray[Any], gates: NDArray[np.float32], row: NDArray[np.int32]) -> NDArray[np.float32]:
    """y[t] = sum_j gates[t, j] * outputs[row[t, j]], nothing for an assignment without a row. -> [tokens, hidden]."""
    wide = np.concatenate([outputs, np.zeros_like(outputs[:1])]).astype(np.float32)
    y = np.zeros((len(row), outputs.shape[1]), np.float32)
    for choice in range(row.shape[1]):
        y += gates[:, choice, None] * wide[row[:, choice]]
    return y


def renormalised(gates: NDArray[np.float32], kept: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The gates that are kept, made to sum to 1 in each row that keeps any."""
    left = np.where(kept, gates, np.float32(0))
    total = left.sum(axis=1, keepdims=True)
    return np.divide(left, total, out=left, where=total > 0)
