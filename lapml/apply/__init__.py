"""A finished run put to use on image files: predicted classes, explanations, and its model in other programs' formats.

In: a run folder and images. Out: tables, pictures, ONNX and torch.export files. Nothing of the run is changed; embeddings and
exports may be laid beside its files.
"""
