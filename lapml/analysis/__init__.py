"""From finished runs to numbers: statistics, tables, comparisons, mistakes by group, and the diagnosis of mixed images.

In: run folders, read only. Out: data frames, and text for tables; no figures.
"""
