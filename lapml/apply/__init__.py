"""A finished run put to use on image files: predicted classes, explanations, and its model in other programs' formats.

In: a run folder and images. Out: lines, pictures, ONNX and TorchScript files. The run folder is never changed.
"""
