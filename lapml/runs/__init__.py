"""Run folders: execute a run, keep finished ones, evaluate, tune, and collect runs for tables.

In: settings and data. Out: whole folders with provenance; a finished run is never overwritten silently.
"""
