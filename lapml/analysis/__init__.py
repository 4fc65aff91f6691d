"""From finished runs to numbers: statistics, tables, comparisons, mistakes by group, and the diagnosis of mixed images.

In: run folders, and for the diagnosis their data, maps and models; all read only. Out: data frames and text; nothing is drawn here.
"""
