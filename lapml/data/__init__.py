"""From an archive or a folder to batches: fetched, read by its layout, packed into one array, cut into views.

In: the settings of a data set. Out: an index, packed images, and batches of them with their random draws. Source images are
never changed.
"""
