"""From packed images to a trained model: a step mixes (``methods``), takes its loss (``losses``), and the loop repeats it.

In: one run's settings, its data, the maps that it mixes by. Out: the model and its history; nothing is written but a saved state.
"""
