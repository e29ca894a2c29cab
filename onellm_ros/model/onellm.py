"""The whole model: signals of any modality in, prefix embeddings and next-token logits out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from onellm_ros.config import ModelConfig
from onellm_ros.modality import Modality, prompt_order, spec_of
from onellm_ros.model import packing
from onellm_ros.model.encoder import Encoder
from onellm_ros.model.llm import Llama
from onellm_ros.model.modality_tokenizers import (
    PICTURES,
    ModalityTokenizers,
    extra_modalities,
)
from onellm_ros.model.projection import UniversalProjection

# Id of the beginning-of-sequence token, in Llama's tokenizer and in the project's own.
BOS_ID = 1
PARTS = ('encoder', 'tokenizers', 'upm', 'llm')


@dataclass(frozen=True, eq=False)
class Encoded:
    """One modality, ready for the language model.

    :param tokens: [B, M, llm_dim].
    :param expert_weights: [B, K] mean router weights at the modality-token positions.
    """

    tokens: Tensor
    expert_weights: Tensor


class OneLLM(nn.Module):
    """Eight modalities and those that the config names, one encoder, projection and LLM.

    Attributes: ``modalities`` (all that it knows).

    :param config: every size.
    :raises ConfigError: for sizes that do not fit, or a modality that is not registered.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config.encoder)
        width, extra = config.encoder.width, extra_modalities(config.modalities)
        self.modalities = (*Modality, *extra)
        self.tokenizers = ModalityTokenizers(config.tokenizer, width, extra)
        self.upm = UniversalProjection(config.upm, width, config.llm.dim, extra)
        self.llm = Llama(config.llm)

    def part(self, name: str) -> nn.Module:
        """Return a trainable part: ``encoder``, ``tokenizers``, ``upm`` or ``llm``.

        :raises ValueError: for another name.
        """
        if name not in PARTS:
            raise ValueError(f'unknown part {name!r}: expected one of {PARTS}')
        return getattr(self, name)

    def parameters_of(self, name: str) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield (full name, parameter) of one part."""
        for key, value in self.part(name).named_parameters():
            yield f'{name}.{key}', value

    def _check(self, modality: Modality, x: Tensor) -> None:
        """Refuse inputs whose shape cannot be this modality's."""
        if modality not in self.modalities:
            raise ValueError(f'{modality}: the model does not know it, expected one of '
                             f'{", ".join(self.modalities)}')
        size = self.config.encoder.image_size
        tok = self.config.tokenizer
        want: dict[Modality, tuple[int | None, ...]] = {
            Modality.IMAGE: (None, 3, size, size),
            Modality.AUDIO: (None, 1, None, None),
            Modality.POINT: (None, None, 6),
            Modality.IMU: (None, 6, None),
            Modality.FMRI: (None, 1, tok.fmri_voxels)}
        spec = spec_of(modality)
        if spec is not None:
            want[modality] = (None, *spec.shape)
        shape = want.get(modality, (None, None, 3, size, size))
        if x.ndim != len(shape) or not x.numel() or any(
                w is not None and w != f for w, f in zip(shape, x.shape)):
            text = ', '.join('any' if w is None else str(w) for w in shape)
            raise ValueError(f'{modality}: expected an input of shape [{text}], '
                             f'found {list(x.shape)}')
        kernel = {Modality.AUDIO: tok.audio_kernel, Modality.IMU: tok.imu_kernel}.get(modality, 0)
        if min(x.shape[-1], x.shape[-2] if modality is Modality.AUDIO else kernel) < kernel:
            raise ValueError(f'{modality}: expected at least {kernel} steps, found an input of '
                             f'shape {list(x.shape)}')

    def _tokens(self, modality: Modality, x: Tensor) -> tuple[Tensor, Tensor, int]:
        """Tokenize -> (tokens [B x frames, N, D], positions [N + 1, D], frames)."""
        self._check(modality, x)
        # A cloud keeps its precision until its groups are found.
        if modality is not Modality.POINT:
            x = x.to(self.encoder.patch.weight.dtype)
        frames = 1
        if modality in PICTURES:
            if modality is not Modality.IMAGE:
                frames = x.shape[1]
                x = x.flatten(0, 1)
            tokens = self.encoder.patches(x)
            if modality is Modality.VIDEO:
                tokens = self.tokenizers.mark_frames(tokens, frames)
            positions = self.encoder.positions
        else:
            tokens = self.tokenizers(modality, x)
            positions = self.tokenizers.positions[modality.value]
        if tokens.shape[1] + 1 != positions.shape[0]:
            raise ValueError(
                f'{modality}: expected an input of {positions.shape[0] - 1} tokens, found '
                f'{tokens.shape[1]} (input shape {list(x.shape)})')
        return tokens, positions, frames

    def features(self, modality: Modality, x: Tensor) -> Tensor:
        """Tokenize and encode; several frames of a sample are averaged.

        :param x: image [B, 3, S, S]; video, depth, normal [B, T, 3, S, S]; audio
            [B, 1, mels, frames]; point [B, N, 6]; imu [B, 6, n]; fmri [B, 1, V]; of a registered
            modality as its spec says.
        :returns: [B, tokens + 1, D], the class token first.
        :raises ValueError: for a shape that does not fit.
        """
        tokens, positions, frames = self._tokens(modality, x)
        encoded = self.encoder(tokens, positions)
        return encoded if frames == 1 else encoded.unflatten(0, (-1, frames)).mean(1)

    def features_of(self, inputs: Mapping[Modality, Tensor]) -> dict[Modality, Tensor]:
        """Return :meth:`features` of several modalities, in their order, with less work.

        All go through the encoder at once (``packing.py``); with gradients only the pictures
        (image, video, depth, normals) do. The colour picture that stands beside depth and normals
        is encoded once if it is the image.
        """
        if packing.can_pack(self):
            return packing.features(self, inputs)
        pictures = [m for m in inputs if m in PICTURES]
        if len(pictures) < 2:
            return {m: self.features(m, x) for m, x in inputs.items()}
        image = inputs.get(Modality.IMAGE)
        rows: dict[Modality, Tensor] = {}
        shared = set()
        for modality in pictures:
            x = inputs[modality]
            if modality in (Modality.DEPTH, Modality.NORMAL) and image is not None \
                    and x.ndim == 5 and x.shape[1] == 2 and torch.equal(x[:, 0], image):
                shared.add(modality)
                x = x[:, 1:]
            rows[modality] = self._tokens(modality, x)[0]
        encoded = self.encoder(torch.cat(list(rows.values())), self.encoder.positions)
        parts = dict(zip(rows, encoded.split([len(r) for r in rows.values()]), strict=True))
        out = {}
        for modality, x in inputs.items():
            if modality not in rows:
                out[modality] = self.features(modality, x)
            elif modality in shared:
                out[modality] = (parts[Modality.IMAGE] + parts[modality]) / 2
            elif modality is Modality.IMAGE:
                out[modality] = parts[modality]
            else:
                out[modality] = parts[modality].unflatten(0, (-1, x.shape[1])).mean(1)
        return out

    def project(self, modality: Modality, features: Tensor) -> tuple[Tensor, Tensor]:
        """Project features [B, N, D] -> (tokens [B, M, llm_dim], expert weights [B, K])."""
        return self.upm(modality, features)

    def encode_all(self, inputs: Mapping[Modality, Tensor], frames: packing.Frames | None = None,
                   store: packing.FrameStore | None = None) -> dict[Modality, Encoded]:
        """Return :meth:`encode` of several modalities, in their order, in one pass.

        :param frames: of picture modalities what each frame is of, anything that can be a key:
            equal ones are encoded once. For a batch of 1.
        :param store: keeps the features of those frames for later calls.
        :raises ValueError: for a shape that does not fit.
        """
        if not packing.can_pack(self):
            return {m: Encoded(*self.project(m, f)) for m, f in self.features_of(inputs).items()}
        found = packing.features(self, inputs, frames, store)
        return {m: Encoded(*said) for m, said in packing.project(self.upm, found).items()}

    def encode(self, modality: Modality, x: Tensor) -> Encoded:
        """Run everything in front of the language model for one modality."""
        return Encoded(*self.project(modality, self.features(modality, x)))

    def block_embeds(self, modality: Modality, tokens: Tensor) -> Tensor:
        """Return start tag, tokens [B, M, D] and end tag as [B, M + 2, D]."""
        batch = tokens.shape[0]
        start = self.upm.start_tag[modality.value].to(tokens.dtype).expand(batch, -1, -1)
        end = self.upm.end_tag[modality.value].to(tokens.dtype).expand(batch, -1, -1)
        return torch.cat([start, tokens, end], dim=1)

    def prefix_embeds(self, encoded: Mapping[Modality, Tensor], bos: int = BOS_ID,
                      batch: int = 1) -> Tensor:
        """Return the prompt's beginning: BOS, then every modality between its tags.

        Blocks stand in ``prompt_order`` whatever the mapping's order (video before audio).

        :param encoded: modality tokens [B, M, D]; may be empty.
        :param bos: id of the beginning-of-sequence token.
        :param batch: batch size where no modality is given.
        :returns: [B, P, D].
        """
        blocks = [self.block_embeds(m, encoded[m]) for m in prompt_order(encoded)]
        if blocks:
            batch = blocks[0].shape[0]
        ids = torch.full((batch, 1), bos, device=self.llm.tok_embeddings.weight.device)
        first = self.llm.embed(ids)
        return torch.cat([first, *(b.to(first.dtype) for b in blocks)], dim=1)

    @torch.no_grad()
    def match_llm_scale(self) -> float:
        """Set the size of new modality tokens and tags to that of the word embeddings.

        For training from scratch: an output LayerNorm starts at size 1, far above a small
        language model's embeddings, whose layers then hardly move it.

        :returns: the root mean square used.
        """
        rms = float(self.llm.tok_embeddings.weight.float().square().mean().sqrt())
        for modality in self.modalities:
            norm = self.upm.proj_out[modality.value][1]
            nn.init.constant_(norm.weight, rms)
            nn.init.zeros_(norm.bias)
            for tag in (self.upm.start_tag, self.upm.end_tag):
                nn.init.normal_(tag[modality.value], std=rms)
        return rms
