"""Micro-benchmarks of routing, on the stages of `workers.moe`: what is timed, what is drawn for it, what is right."""
