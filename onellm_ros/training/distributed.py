"""Several processes that train one model: starting, sharing out weights, putting them together.

Started by ``torchrun``, each process is a rank; FSDP2 spreads parameters, gradients and optimizer
over all ranks, block by block. Between stages and in checkpoints a model is whole, in the memory
of rank 0. With one rank nothing of this is used.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
import os
from typing import Any

import torch
from torch import Tensor, nn
import torch.distributed as dist

from onellm_ros.model.encoder import EncoderBlock
from onellm_ros.model.llm import LlamaBlock
from onellm_ros.model.projection import ExpertBlock

BLOCKS = (EncoderBlock, ExpertBlock, LlamaBlock)
# Rank 0 renders worlds or reads a large model while the others wait.
PATIENCE = timedelta(hours=12)
Sums = dict[str, list[float]]


@dataclass(frozen=True)
class Ranks:
    """The processes of a run.

    :param rank: this one, from 0. :param size: how many. :param device: where this one computes.
    :param mesh: of the devices; None for one rank.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device('cpu')
    mesh: Any = None

    @property
    def first(self) -> bool:
        """Whether this rank writes files and speaks."""
        return self.rank == 0

    def wait(self) -> None:
        """Return when all ranks are here."""
        if self.size > 1:
            dist.barrier()

    def sum(self, values: Iterable[float]) -> list[float]:
        """Return the sums over all ranks of some numbers."""
        if self.size == 1:
            return list(values)
        numbers = torch.tensor(list(values), dtype=torch.float64)
        dist.all_reduce(numbers)
        return numbers.tolist()

    def merged(self, sums: Sums) -> Sums:
        """Return [sum, count] by name over all ranks; their names may differ."""
        if self.size == 1:
            return sums
        found: list[Sums] = [{} for _ in range(self.size)]
        dist.all_gather_object(found, sums)
        out: Sums = {}
        for one in found:
            add_sums(out, one)
        return out

    def gather(self, items: list[str]) -> list[str]:
        """Return the items of all ranks, those of rank 0 first."""
        if self.size == 1:
            return items
        found: list[list[str]] = [[] for _ in range(self.size)]
        dist.all_gather_object(found, items)
        return [item for one in found for item in one]

    def told(self, value: Any) -> Any:
        """Return what rank 0 says."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box)
        return box[0]

    @contextmanager
    def first_alone(self) -> Iterator[bool]:
        """Let rank 0 do something that the others wait for; whether this is rank 0.

        :raises RuntimeError: on the other ranks, if rank 0 failed.
        """
        failed = ''
        try:
            yield self.first
        except BaseException as error:
            failed = str(error) or type(error).__name__
            raise
        finally:
            failed = self.told(failed)
        if failed:
            raise RuntimeError(f'rank 0 stopped: {failed}')


def add_sums(into: Sums, more: Mapping[str, list[float]]) -> None:
    """Add [sum, count] by name."""
    for name, (value, count) in more.items():
        found = into.setdefault(name, [0.0, 0.0])
        found[0] += value
        found[1] += count


@contextmanager
def started_ranks(device: torch.device) -> Iterator[Ranks]:
    """Join the other processes that ``torchrun`` started; one rank where it did not.

    :param device: as chosen for a single process; of several CUDA processes on a machine each
        takes its own.
    """
    size = int(os.environ.get('WORLD_SIZE', '1'))
    if size == 1:
        yield Ranks(device=device)
        return
    backend = 'gloo'
    if device.type == 'cuda':
        device = torch.device('cuda', int(os.environ.get('LOCAL_RANK', '0')))
        torch.cuda.set_device(device)
        backend = 'cpu:gloo,cuda:nccl'
    dist.init_process_group(backend, timeout=PATIENCE)
    try:
        mesh = dist.init_device_mesh(device.type, (size,))
        yield Ranks(dist.get_rank(), size, device, mesh)
    finally:
        dist.destroy_process_group()


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor that is spread over the ranks as one; to be called by all of them."""
    one = tensor.full_tensor() if isinstance(tensor, dist.tensor.DTensor) else tensor
    return one.detach()


def gathered(tensors: Mapping[str, Tensor], ranks: Ranks) -> dict[str, Tensor]:
    """Return all tensors, whole and on the CPU, on rank 0; nothing on the others."""
    if ranks.size == 1:
        return {name: tensor.detach() for name, tensor in tensors.items()}
    out = {}
    for name, tensor in tensors.items():
        one = whole(tensor)
        if ranks.first:
            out[name] = one.to('cpu', copy=True)
    return out


def like(value: Tensor | None, place: Tensor, ranks: Ranks) -> Tensor:
    """Return what rank 0 has as a tensor spread like ``place``; to be called by all ranks.

    :param value: whole; only rank 0 gives it.
    """
    if not isinstance(place, dist.tensor.DTensor):
        assert value is not None or ranks.size > 1
        one = torch.empty_like(place) if value is None else value.to(place.device, place.dtype)
        if ranks.size > 1:
            dist.broadcast(one, 0)
        return one
    one = torch.empty(place.shape, dtype=place.dtype, device=ranks.device) if value is None \
        else value.to(ranks.device, place.dtype).contiguous()
    dist.broadcast(one, 0)
    # Every rank has it whole now and keeps its own part.
    return dist.tensor.distribute_tensor(one, place.device_mesh, place.placements,
                                         src_data_rank=None)


def shard(module: nn.Module, state: Mapping[str, Tensor], ranks: Ranks) -> None:
    """Spread a module over the ranks and fill it, in place.

    :param module: of the same structure on every rank; its values are lost.
    :param state: its values, on rank 0.
    """
    from torch.distributed.fsdp import fully_shard

    hidden = [name for name, _ in module.named_buffers()]
    assert not hidden, f'buffers {hidden} would keep no value'
    module.to('meta')
    for part in module.modules():
        if isinstance(part, BLOCKS):
            fully_shard(part, mesh=ranks.mesh)
    fully_shard(module, mesh=ranks.mesh)
    module.to_empty(device=ranks.device)
    with torch.no_grad():
        for name, place in module.state_dict().items():
            place.copy_(like(state.get(name), place, ranks))
