"""Which accuracies are results: those that an answer can miss."""

import numpy as np

TOP = 5  # first answers among which top-5 looks for the class
RECALL = (1, 5)  # neighbours among which Recall@K looks for one of the class


def only_of_class(labels: np.ndarray) -> np.ndarray:
    """(N,) bool: the images that are the only one of their class."""
    _, members, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return counts[members] == 1


def top5_counts(classes: int) -> bool:
    """Whether top-5 can miss: among five classes or fewer every answer is right."""
    return classes > TOP


def recall_counts(k: int, images: int, left_out: int) -> bool:
    """Whether Recall@K exists and can miss: some images count, and there are more than K others."""
    return left_out < images and images - 1 > k
