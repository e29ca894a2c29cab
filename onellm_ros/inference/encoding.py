"""What an engine has encoded and may need again: frames, and whole modalities.

Overlapping windows share samples, and questions look at a part of a window that was described.
What a model input was made of (``preprocess.kept.Origin``) says whether it is the same. Kept are
the features of frames and the modality tokens, so many bytes at most and only while their samples
live; inputs of unknown origin are encoded every time.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from torch import Tensor

from onellm_ros.inference.backend import Backend, Shares
from onellm_ros.modality import Modality
from onellm_ros.preprocess.kept import Frame, Kept, Origin, Ref

_KEPT_BYTES = 64 << 20


def _size(x: Tensor) -> int:
    return x.numel() * x.element_size()


class _Features:
    """Features of frames; a key is the frame, or (the frame, its place in a video)."""

    def __init__(self, kept: Kept) -> None:
        self._kept = kept

    def get(self, key: Hashable) -> Tensor | None:
        """Return the features of a frame, if they are kept."""
        found: Tensor | None = self._kept.get(('features', key))
        return found

    def put(self, key: Hashable, value: Tensor) -> None:
        """Keep the features of a frame."""
        frame = key if isinstance(key, Frame) else key[0]  # type: ignore[index]
        samples: tuple[Ref, ...] = (frame.sample,) if isinstance(frame, Frame) else ()
        self._kept.put(('features', key), value, _size(value), samples)


class WindowEncoder:
    """Encodes windows with a backend and does nothing twice; not for two threads at once.

    :param limit: bytes that are kept at most.
    """

    def __init__(self, limit: int = _KEPT_BYTES) -> None:
        self.kept = Kept(limit)
        self._features = _Features(self.kept)

    def forget(self) -> None:
        """Forget all that is kept."""
        self.kept.clear()

    def encode(self, backend: Backend, inputs: Mapping[Modality, Tensor],
               origins: Mapping[Modality, Origin]) -> tuple[dict[Modality, Tensor], Shares]:
        """Return each modality's tokens [1, M, llm_dim] and the mean weight of each expert.

        :param inputs: checked inputs, each a batch of 1, in the prompt's order.
        :param origins: what they were made of, where that is known.
        :raises ValueError: for a shape that does not fit.
        """
        found: dict[Modality, tuple[Tensor, tuple[float, ...]]] = {}
        fresh: dict[Modality, Tensor] = {}
        for modality, x in inputs.items():
            known = self.kept.get(('tokens', origins[modality].key)) \
                if modality in origins else None
            if known is None:
                fresh[modality] = x.to(backend.device, non_blocking=True)
            else:
                found[modality] = known
        more: dict[str, Any] = {}
        if getattr(backend, 'takes_frames', False):
            more = {'frames': {m: origins[m].frames for m in fresh if m in origins},
                    'store': self._features}
        tokens, shares = backend.encode(fresh, **more) if fresh else ({}, {})
        for modality in fresh:
            found[modality] = tokens[modality], shares[modality]
            if modality in origins:
                origin = origins[modality]
                self.kept.put(('tokens', origin.key), found[modality], _size(tokens[modality]),
                              origin.samples)
        return {m: found[m][0] for m in inputs}, {m: found[m][1] for m in inputs}
