"""Which accuracies are results: one that no answer can miss says nothing of a model."""

import numpy as np

TOP = 5  # first answers among which top-5 looks for the class
RECALL = (1, 5)  # neighbours among which Recall@K looks for one of the class


def alone(labels: np.ndarray) -> np.ndarray:
    """(N,) bool: the images that are the only one of their class, which no neighbour can be found for."""
    _, members, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return counts[members] == 1


def top5_says(classes: int) -> bool:
    """Whether top-5 can miss: among five classes or fewer every answer is right."""
    return classes > TOP


def recall_says(k: int, images: int, left_out: int) -> bool:
    """Whether Recall@K can be had and can miss: there are images that count, and more than K others to choose from."""
    return left_out < images and images - 1 > k
