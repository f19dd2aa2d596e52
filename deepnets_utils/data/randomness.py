"""Random numbers: every purpose has its own generator, so that no draw moves another one."""

import hashlib

import torch


def derived_seed(purpose: str, seed: int) -> int:
    """Return the seed, 0 to 2**63 - 1, of one purpose ("weights", "order", ...) of a run with `seed`."""
    return int.from_bytes(hashlib.sha256(f"{purpose}:{seed}".encode()).digest()[:8], "big") >> 1


def generator(purpose: str, seed: int) -> torch.Generator:
    """Return a CPU generator for one purpose of a run with `seed`."""
    return torch.Generator().manual_seed(derived_seed(purpose, seed))
