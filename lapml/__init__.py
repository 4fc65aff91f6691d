"""lapml: localized CutMix and (adaptive) pairwise margin losses for fine-grained image recognition."""

__version__ = "0.1.0"
