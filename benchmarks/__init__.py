"""Benchmarks. Contenders are interleaved within one process, rounds are repeated, and ratios are taken within a round.

Absolute times on a shared machine are noisy; the ratios, with Student-t intervals over rounds, are what to read.
"""
