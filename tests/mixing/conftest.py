"""Shared: what a mixer makes the host wait for."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

SYNCHRONISING = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique")


class Recorder(TorchDispatchMode):
    """Notes every operator that makes the host wait for a GPU: reading a number, or a size that depends on values."""

    def __init__(self):
        super().__init__()
        self.waits: list[str] = []
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        indices = args[1] if name in ("index", "index_put", "index_put_") else ()
        if name in SYNCHRONISING or any(each is not None and each.dtype == torch.bool for each in indices):
            self.waits.append(name)
        self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture
def recorder() -> type[Recorder]:
    return Recorder
