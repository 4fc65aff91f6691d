"""Shared by all packages: sections of settings, records, locks, GPUs, ranks, provenance.

Nothing here depends on data, models or methods.
"""
