"""A finished run put to use on image files: predicted classes, explanations, and its model in other programs' formats."""
