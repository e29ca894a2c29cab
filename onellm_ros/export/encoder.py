"""What stands before the language model, in a form that exports.

Each kind of input has a small graph of its own that makes rows of tokens; one graph for all of
them encodes rows and projects samples. Which modality a sample is is an input: what modalities
have for themselves stands in tables, so that the shared weights exist once and one run serves
pictures of several modalities. ``mix`` says which rows a sample is the mean of.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
import torch.nn.functional as F  # noqa: N812

from onellm_ros.export.layers import attend, normed
from onellm_ros.modality import Modality
from onellm_ros.model.encoder import EncoderBlock
from onellm_ros.model.modality_tokenizers import FmriTokenizer, PointTokenizer
from onellm_ros.model.onellm import OneLLM
from onellm_ros.model.projection import Expert, Router


class _Rows(nn.Module):
    """What makes rows: it holds only the weights that it needs, since all of them are written."""

    def __init__(self, model: OneLLM, positions: nn.Parameter) -> None:
        super().__init__()
        self.first = model.encoder.class_embedding
        self.positions = positions

    def placed(self, tokens: Tensor) -> Tensor:
        """Put the class token before tokens [R, N, D] and add positions -> [R, N + 1, D]."""
        first = self.first.expand(tokens.shape[0], 1, -1)
        return torch.cat([first, tokens], 1) + self.positions


class PictureRows(_Rows):
    """Pictures of any modality to rows."""

    def __init__(self, model: OneLLM) -> None:
        super().__init__(model, model.encoder.positions)
        self.patch = model.encoder.patch
        table = model.tokenizers.video_positions
        none = torch.zeros(1, model.config.encoder.width)
        self.register_buffer('marks', none if table is None else torch.cat([none, table.detach()]))

    def forward(self, pictures: Tensor, marks: Tensor) -> Tensor:
        """Return rows [R, N + 1, D].

        :param pictures: [R, 3, S, S].
        :param marks: [R] int64, 0 but for a video's frames where the model tells their order:
            from ``video_frames - T + 1`` to ``video_frames``, the newest last.
        """
        tokens = self.patch(pictures).flatten(2).transpose(1, 2)
        return self.placed(tokens + self.marks[marks][:, None])


class SignalRows(_Rows):
    """A signal (audio, imu, fmri, a registered modality) to rows."""

    def __init__(self, model: OneLLM, modality: Modality) -> None:
        super().__init__(model, model.tokenizers.positions[modality.value])
        self.part = model.tokenizers.kinds[modality.value]

    def forward(self, x: Tensor) -> Tensor:
        """Return rows [R, N + 1, D] of [R, ...]."""
        part = self.part
        if isinstance(part, FmriTokenizer):     # its own reshaping would fix the batch
            tokens = part.linear(x[:, 0]).reshape(x.shape[0], -1, part.tokens).transpose(1, 2)
        else:
            tokens = part(x)
        return self.placed(tokens)


class CloudRows(_Rows):
    """Point clouds and their groups to rows."""

    def __init__(self, model: OneLLM) -> None:
        super().__init__(model, model.tokenizers.positions[Modality.POINT.value])
        self.part = cast(PointTokenizer, model.tokenizers.kinds[Modality.POINT.value])

    def forward(self, x: Tensor, members: Tensor) -> Tensor:
        """Return rows [R, centres + 1, D].

        :param x: [R, P, 6].
        :param members: [R, centres, neighbours] int64, as ``model.points.group`` finds them.
        """
        part = self.part
        values = part.linear(x)
        width = part.linear.out_features
        flat = members.reshape(x.shape[0], -1, 1).expand(-1, -1, width)
        shape = (x.shape[0], part.centres, part.neighbours, width)
        tokens = values.gather(1, flat).reshape(shape).amax(2)
        return self.placed(tokens)


class Encode(nn.Module):
    """Rows of tokens to the blocks of a prompt: encoder and projection, of every modality."""

    def __init__(self, model: OneLLM) -> None:
        super().__init__()
        upm = model.upm
        self.config = upm.config
        self.ln_pre, self.ln_post = model.encoder.ln_pre, model.encoder.ln_post
        self.blocks, self.experts = model.encoder.blocks, upm.experts
        names = [m.value for m in model.modalities]
        self.keep = upm.config.modality_tokens

        def table(name: str, values: list[Tensor]) -> None:
            """Store one row a modality."""
            self.register_buffer(name, torch.stack([v.detach() for v in values]))

        for name, parts in (('into', upm.proj_in), ('out', upm.proj_out)):
            table(f'{name}_weight', [parts[n][0].weight.t() for n in names])
            table(f'{name}_bias', [parts[n][0].bias for n in names])
            table(f'{name}_scale', [parts[n][1].weight for n in names])
            table(f'{name}_shift', [parts[n][1].bias for n in names])
        table('own', [upm.tokens[n][0] for n in names])
        table('start', [upm.start_tag[n][0] for n in names])
        table('end', [upm.end_tag[n][0] for n in names])
        if upm.config.router != 'constant':
            routers = [cast(Router, upm.routers[n]) for n in names]
            table('route1_weight', [r.fc1.weight.t() for r in routers])
            table('route1_bias', [r.fc1.bias for r in routers])
            table('route2_weight', [r.fc2.weight.t() for r in routers])
            table('route2_bias', [r.fc2.bias for r in routers])
        self.norm_in = upm.proj_in[names[0]][1].eps
        self.norm_out = upm.proj_out[names[0]][1].eps

    def _linear(self, name: str, x: Tensor, modality: Tensor) -> Tensor:
        weight = getattr(self, f'{name}_weight')[modality]
        return torch.matmul(x, weight) + getattr(self, f'{name}_bias')[modality][:, None]

    def _projection(self, name: str, x: Tensor, modality: Tensor, eps: float) -> Tensor:
        """Apply a modality's linear and LayerNorm to [B, N, D]."""
        x = self._linear(name, x, modality)
        scale: Tensor = getattr(self, f'{name}_scale')
        x = F.layer_norm(x, [scale.shape[1]], eps=eps)
        return (x * scale[modality][:, None]
                + getattr(self, f'{name}_shift')[modality][:, None])

    def _weights(self, x: Tensor, modality: Tensor) -> Tensor:
        """Return the router's weights [B, M, K]; see ``model.projection.route``."""
        config = self.config
        if config.router == 'constant':
            return x.new_ones(1).expand(x.shape[0], x.shape[1], config.experts) / config.experts
        hidden = F.gelu(self._linear('route1', x, modality))
        scores = self._linear('route2', hidden, modality)
        if config.router == 'sigmoid':
            gates = torch.sigmoid(scores)
            return gates / gates.sum(-1, keepdim=True)
        weights = torch.softmax(scores, -1)
        if config.router == 'sparse':
            best = torch.arange(config.experts) == weights.argmax(-1, keepdim=True)
            weights = weights * best.float()
        return weights

    def forward(self, rows: Tensor, mix: Tensor, modality: Tensor) -> tuple[Tensor, Tensor]:
        """Encode rows and project samples.

        :param rows: [R, N, D] of one of the other graphs.
        :param mix: [B, R] share of each row in a sample; each line sums to one.
        :param modality: [B] index of each sample's modality in the manifest's list.
        :returns: blocks [B, M + 2, llm_dim], each its start tag, M tokens and its end tag;
            expert weights [B, K].
        """
        x = self.ln_pre(rows)
        for block in self.blocks:
            x = _encoder_block(cast(EncoderBlock, block), x)
        x = self.ln_post(x)
        x = torch.matmul(mix, x.flatten(1)).reshape(mix.shape[0], -1, self.own.shape[-1])
        x = self._projection('into', x, modality, self.norm_in)
        x = torch.cat([self.own[modality], x], 1)
        weights = self._weights(x[:, :self.keep], modality)
        mixed: Tensor = x.new_zeros(1)
        for k, expert in enumerate(self.experts):
            mixed = mixed + weights[..., k, None] * _expert(cast(Expert, expert), x, self.keep)
        tokens = self._projection('out', mixed, modality, self.norm_out)
        blocks = torch.cat([self.start[modality], tokens, self.end[modality]], 1)
        return blocks, weights.mean(1)


def _encoder_block(block: EncoderBlock, x: Tensor) -> Tensor:
    """Apply a block of the encoder to [B, N, D]."""
    heads, width = block.heads, block.out.in_features // block.heads
    q, k, v = (t.unflatten(-1, (heads, width)).transpose(1, 2)
               for t in block.qkv(block.ln_1(x)).chunk(3, -1))
    x = x + block.out(attend(q, k, v))
    hidden = block.fc(block.ln_2(x))
    hidden = hidden * torch.sigmoid(1.702 * hidden) if block.quick else F.gelu(hidden)
    return x + block.proj(hidden)


def _expert(expert: Expert, x: Tensor, keep: int) -> Tensor:
    """Apply an expert to [B, N, D] -> [B, keep, D]; its last block computes no more than that."""
    last = len(expert.blocks) - 1
    for i, block in enumerate(expert.blocks):
        part = block.attention
        split = (part.heads, part.wq.in_features // part.heads)
        inner = normed(block.attention_norm, x)
        asked = inner[:, :keep] if i == last else inner
        q, k, v = (layer(t).unflatten(-1, split).transpose(1, 2) for layer, t in (
            (part.wq, asked), (part.wk, inner), (part.wv, inner)))
        x = (x[:, :keep] if i == last else x) + part.wo(attend(q, k, v))
        x = x + block.feed_forward(normed(block.ffn_norm, x))
    return x
