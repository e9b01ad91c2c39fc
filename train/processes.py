"""Processes that share the work of a step, as `python -m torch.distributed.run` starts them; alone there is nothing to share."""
import os

import torch

RANK, COUNT = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def begin():
    if COUNT > 1:
        torch.distributed.init_process_group("gloo")


def mine(items):
    """This process's part of what is to be done."""
    return items[RANK::COUNT]


def add(tensors):
    """Replaces tensors by their sums over the processes."""
    for t in tensors if COUNT > 1 else []:
        torch.distributed.all_reduce(t)


def wait():
    """Until all have come here."""
    if COUNT > 1:
        torch.distributed.barrier()
