"""Float64 in place of float32, where two ways of computing one thing are compared.

In float32 the last bits depend on the CPU, and batch norm over a few, nearly constant pixels makes so much of them that
a ReLU flips: after some steps two right ways are percents apart. In float64 they are 1e-10 apart or less on any CPU.
"""

import contextlib
from collections.abc import Iterator

import pytest
import torch


@contextlib.contextmanager
def in_float64() -> Iterator[None]:
    """Have what is made in this process (networks, splits, losses) be float64."""
    before = torch.get_default_dtype()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(before)
