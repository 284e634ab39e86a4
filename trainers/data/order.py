"""The order in which rows are trained."""


def rows_of_epoch(seed: int, epoch: int, rows: int, drawn: int) -> list[int]:
    """The rows of one epoch in the order in which they are trained: an order of its own for every epoch.

    Args:
        seed: The recipe's.
        epoch: From 0.
        rows: How many there are.
        drawn: How many make whole optimizer steps; the rest is left out of this epoch.
    """
    import torch

    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order: list[int] = torch.randperm(rows, generator=generator).tolist()
    return order[:drawn]
