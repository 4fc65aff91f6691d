"""A finished run put to use on image files: predicted classes, explanations, and its net in other programs' formats."""
