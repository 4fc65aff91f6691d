"""Run folders: a run is executed into one, found finished or kept, evaluated, tuned, and collected for tables.

In: settings and data. Out: whole folders with provenance; a finished run is never overwritten without a word.
"""
