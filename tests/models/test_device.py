"""Freed memory is kept on a CPU, and where it cannot be, nothing happens."""

import ctypes

import pytest

from lapml.models.device import keep_memory
from lapml.training import loop


class Library:
    def __init__(self):
        self.told = {}

    def mallopt(self, option, value):
        self.told[option] = value
        return 1


def test_training_on_a_cpu_tells_glibc(small_run, packed, monkeypatch):
    library = Library()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    loop.fit(small_run("baseline", "train.epochs=1", "train.warmup_epochs=0.0"), packed)
    assert library.told == {-1: 2**31 - 1, -4: 0}  # M_TRIM_THRESHOLD and M_MMAP_MAX of malloc.h


@pytest.mark.parametrize("error", [OSError("no such file"), AttributeError("mallopt")])
def test_another_c_library_is_left_as_it_is(monkeypatch, error):
    def none(name):
        raise error

    monkeypatch.setattr(ctypes, "CDLL", none)
    keep_memory()
