"""From tables to what people read: figures, one self-contained page, the gallery, and published copies of all of it.

In: run folders and tables, read only. Out: results/SUITE/report and results/published/SUITE.
"""
