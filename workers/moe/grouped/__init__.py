"""Grouped matrix multiplication: one contract (`matmul`), a file for each way to compute it, and the choice of one."""

from workers.moe.grouped.backends import BackendMissing, backend_of, interpreted

__all__ = ["BackendMissing", "backend_of", "interpreted"]
