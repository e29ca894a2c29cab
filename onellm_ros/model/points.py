"""Farthest point sampling and neighbour search in plain torch, on CPU and GPU, batched.

Both follow the released model: sampling starts at point 0, neighbours are those of the smallest
Euclidean distance (the same ``torch.cdist``, so that near-ties fall alike).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

_HOST_CLOUDS = 2        # of a GPU, that the host takes over


@torch.no_grad()
def farthest_points(positions: Tensor, count: int) -> Tensor:
    """Choose points one after another, each the farthest from those already chosen.

    The first is point 0; ties fall to the smaller index. If fewer distinct points than ``count``
    exist, chosen points repeat.

    :param positions: [B, N, 3] float.
    :param count: how many to choose.
    :returns: [B, count] int64 indices.
    :raises ValueError: for a wrong shape, an empty cloud or a ``count`` below one.
    """
    if positions.ndim != 3 or positions.shape[-1] != 3 or positions.shape[1] == 0 or count < 1:
        raise ValueError(
            'farthest_points: expected positions [B, N >= 1, 3] and count >= 1, found '
            f'{list(positions.shape)} and {count}')
    if _on_host(positions):
        found = [_farthest(cloud.numpy(), count) for cloud in positions.float().cpu()]
        return torch.from_numpy(np.stack(found)).to(positions.device)
    x, y, z = positions.float().unbind(-1)
    x, y, z = x.contiguous(), y.contiguous(), z.contiguous()
    batch, points = x.shape
    chosen = torch.zeros(batch, count, dtype=torch.int64, device=x.device)
    nearest = torch.full((batch, points), torch.inf, dtype=torch.float32, device=x.device)
    last = chosen[:, :1]
    for i in range(1, count):
        dx = x - x.gather(1, last)
        dy = y - y.gather(1, last)
        dz = z - z.gather(1, last)
        distance = dx.mul_(dx).add_(dy.mul_(dy)).add_(dz.mul_(dz))
        torch.minimum(nearest, distance, out=nearest)
        last = nearest.argmax(1, keepdim=True)
        chosen[:, i:i + 1] = last
    return chosen


def _on_host(positions: Tensor) -> bool:
    """Say whether NumPy is to choose: what is on the CPU, and a window's cloud of a GPU.

    The choice is a chain of short steps. A GPU waits ten kernel launches for each, longer than
    the host computes; of many clouds at once it does them all in that time. Not where the tensor
    is traced or captured.
    """
    if type(positions) not in (Tensor, nn.Parameter) or torch.jit.is_tracing() \
            or torch.compiler.is_compiling():
        return False
    return positions.device.type == 'cpu' or (
        positions.device.type == 'cuda' and len(positions) <= _HOST_CLOUDS
        and not torch.cuda.is_current_stream_capturing())


def _farthest(cloud: np.ndarray, count: int) -> np.ndarray:
    """Choose from one cloud float32 [N, 3]; the same numbers in the same order as below.

    A thousand short steps: NumPy needs a quarter of torch's time for each.
    """
    planes = np.ascontiguousarray(cloud.T)
    nearest = np.full(planes.shape[1], np.inf, np.float32)
    away = np.empty_like(planes)
    distance = away[0]
    chosen = np.zeros(count, np.int64)
    last = 0
    for i in range(1, count):
        np.subtract(planes, planes[:, last:last + 1], out=away)
        np.multiply(away, away, out=away)
        np.add(distance, away[1], out=distance)
        np.add(distance, away[2], out=distance)
        np.minimum(nearest, distance, out=nearest)
        last = int(nearest.argmax())
        chosen[i] = last
    return chosen


@torch.no_grad()
def nearest_neighbours(positions: Tensor, centres: Tensor, count: int) -> Tensor:
    """Find the ``count`` points nearest to each centre.

    :param positions: [B, N, 3].
    :param centres: [B, C, 3].
    :returns: [B, C, count] int64 indices into the points, in no promised order.
    :raises ValueError: if the cloud has fewer than ``count`` points.
    """
    if positions.shape[1] < count:
        raise ValueError(
            f'nearest_neighbours: expected at least {count} points, found {positions.shape[1]}; '
            'repeat points or use a larger cloud')
    distance = torch.cdist(positions.float(), centres.float())
    return distance.topk(count, dim=1, largest=False).indices.transpose(1, 2)


def group(positions: Tensor, centres: int, neighbours: int) -> Tensor:
    """Choose centres by farthest point sampling and return each one's nearest points.

    :param positions: [B, N, 3].
    :returns: [B, centres, neighbours] int64 indices.
    """
    chosen = farthest_points(positions, centres)
    middle = positions.gather(1, chosen[..., None].expand(-1, -1, 3))
    return nearest_neighbours(positions, middle, neighbours)
