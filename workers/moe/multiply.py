"""In what numbers rows are multiplied by matrices: the job's dtype, that rounded to int8's values, or int8 itself."""

from enum import Enum, auto
from typing import Any

import jax
from jax import lax

from core.job import MoeBlockJob
from workers.moe.experts import Multiply
from workers.moe.grouped.matmul import Backend, matmul
from workers.moe.int8.arithmetic import AUTODIFF, STRAIGHT_THROUGH, Arithmetic
from workers.moe.int8.quantised import Quantised, quantise_matrices, quantise_rows


class Numbers(Enum):
    """IN_DTYPE: as they are. ROUNDED: int8's values, multiplied in the dtype. INT8: int8 x int8 -> int32."""

    IN_DTYPE = auto()
    ROUNDED = auto()
    INT8 = auto()


def routed_numbers(job: MoeBlockJob) -> Numbers:
    """What the experts' products are computed in."""
    match job.quant_mode:
        case "none" | "int8":
            return Numbers.IN_DTYPE
        case "int8_qdq":
            return Numbers.ROUNDED
        case "int8_routed" | "int8_all" | "int8_routed_prequant":
            return Numbers.INT8


def shared_numbers(job: MoeBlockJob) -> Numbers:
    """What the shared expert's products are computed in."""
    match job.quant_mode:
        case "none" | "int8_routed" | "int8_routed_prequant":
            return Numbers.IN_DTYPE
        case "int8_qdq":
            return Numbers.ROUNDED
        case "int8" | "int8_all":
            return Numbers.INT8


def arithmetic(job: MoeBlockJob) -> Arithmetic:
    return STRAIGHT_THROUGH if job.quant_vjp == "straight_through" else AUTODIFF


def quantised_rows(job: MoeBlockJob, rows: jax.Array) -> Quantised:
    """Rows ready to travel, with no more than a derivative needs. rows: [rows, k]."""
    quantised = quantise_rows(rows)
    if job.bench_pass == "forward":
        return quantised._replace(carrier=rows[:, :0])
    if job.quant_vjp == "straight_through":
        return quantised._replace(scale=lax.stop_gradient(quantised.scale))
    return quantised


def multiply(numbers: Numbers, job: MoeBlockJob, backend: Backend, group_sizes: jax.Array) -> Multiply:
    """The product of each row and its group's matrix. group_sizes: int32 [groups].

    Its rows may be quantised already, and so may its matrices.
    """

    def in_dtype(rows: Any, matrices: Any) -> jax.Array:
        return matmul(backend, rows, matrices, group_sizes)

    def rounded(rows: Any, matrices: Any) -> jax.Array:
        real = arithmetic(job).real
        return in_dtype(real(quantise_rows(rows)), real(quantise_matrices(matrices)))

    def int8(rows: Any, matrices: Any) -> jax.Array:
        a = rows if isinstance(rows, Quantised) else quantised_rows(job, rows)
        b = matrices if isinstance(matrices, Quantised) else quantise_matrices(matrices)
        return arithmetic(job).grouped(backend, a, b, group_sizes)

    match numbers:
        case Numbers.IN_DTYPE:
            return in_dtype
        case Numbers.ROUNDED:
            return rounded
        case Numbers.INT8:
            return int8
