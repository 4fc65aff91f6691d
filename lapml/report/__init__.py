"""From tables to what people read: figures, one self-contained page, the gallery, and published copies of all of it.

In: run folders and tables. Out: results/SUITE/report and diagnosis, and results/published/SUITE; only `restore` writes run folders,
of runs that were published.
"""
