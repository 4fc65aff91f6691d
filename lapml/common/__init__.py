"""What every room stands on: sections of settings, records that are read back, locks, GPUs, ranks, provenance.

Nothing here knows of data, models or methods; every room may use it.
"""
