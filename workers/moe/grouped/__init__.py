"""Grouped matrix multiplication: one contract (`matmul`), and one file for each way to compute it."""
