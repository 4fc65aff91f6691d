"""torch, imported when it is first used.

A mixer's settings and its function stand in one file (:mod:`lapml.mixing`), and reading settings must not take the seconds
that importing torch takes. Such a file imports ``from lapml.common.lazy import Tensor, torch``.
"""

from typing import TYPE_CHECKING, Any

__all__ = ["Tensor", "torch"]

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    Tensor = Any  # it stands in annotations only

    class _Torch:
        def __getattr__(self, name: str) -> Any:
            import torch

            return getattr(torch, name)

    torch = _Torch()
