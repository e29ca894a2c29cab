"""OneLLM in plain NumPy float64, written from its description for comparison; slow and literal.

It reads weights under the released names and in the released layout (interleaved rotary pairs),
and shares no code with the package.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Array = Any
SIGNAL_NAMES = ('audio', 'point', 'imu', 'fmri')


def layer_norm(x: Array, weight: Array, bias: Array, eps: float) -> Array:
    mean = x.mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(((x - mean) ** 2).mean(-1, keepdims=True) + eps) * weight + bias


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    return x / np.sqrt((x ** 2).mean(-1, keepdims=True) + eps) * weight


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def gelu(x: Array) -> Array:
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def convolve(x: Array, weight: Array, stride: int) -> Array:
    """Convolve [C, H, W] with [O, C, kh, kw] -> [O, h, w], pixel by pixel."""
    out, _, kh, kw = weight.shape
    rows = (x.shape[1] - kh) // stride + 1
    columns = (x.shape[2] - kw) // stride + 1
    y = np.zeros((out, rows, columns))
    for i in range(rows):
        for j in range(columns):
            patch = x[:, i * stride:i * stride + kh, j * stride:j * stride + kw]
            y[:, i, j] = (weight * patch).sum((1, 2, 3))
    return y


def farthest(points: Array, count: int) -> list[int]:
    """Choose points: each time the one that is farthest from all chosen ones."""
    chosen = [0]
    away = np.full(len(points), np.inf)
    while len(chosen) < count:
        away = np.minimum(away, ((points - points[chosen[-1]]) ** 2).sum(1))
        chosen.append(int(np.argmax(away)))
    return chosen


def attend(q: Array, k: Array, v: Array, heads: int, causal: bool) -> Array:
    """Attend, head by head; k and v may have fewer heads."""
    size = q.shape[1] // heads
    share = heads // (k.shape[1] // size)
    out = np.zeros_like(q)
    for h in range(heads):
        mine = slice(h * size, (h + 1) * size)
        theirs = slice(h // share * size, (h // share + 1) * size)
        scores = q[:, mine] @ k[:, theirs].T / math.sqrt(size)
        if causal:
            scores = np.where(np.tri(len(q), dtype=bool), scores, -np.inf)
        out[:, mine] = softmax(scores) @ v[:, theirs]
    return out


def turn(x: Array, heads: int, theta: float) -> Array:
    """Apply rotary positions to pairs (2i, 2i + 1), as complex numbers."""
    length, width = x.shape
    size = width // heads
    pairs = x.reshape(length, heads, size // 2, 2)
    number = pairs[..., 0] + 1j * pairs[..., 1]
    speed = theta ** (-np.arange(0, size, 2) / size)
    number = number * np.exp(1j * np.arange(length)[:, None, None] * speed)
    return np.stack([number.real, number.imag], -1).reshape(length, width)


class Reference:
    """The forward pass for one sample.

    :param weights: released name -> array.
    :param config: anything with the attributes of the package's ModelConfig.
    """

    def __init__(self, weights: dict[str, Array], config: Any) -> None:
        self.w = {k.removeprefix('llma.'): np.asarray(v, np.float64) for k, v in weights.items()}
        self.c = config

    def tokens(self, name: str, x: Array) -> list[Array]:
        """Tokenize -> one [N, D] array a frame."""
        w, t = self.w, self.c.tokenizer
        if name not in SIGNAL_NAMES:
            frames = x[None] if x.ndim == 3 else x
            kernel = w['clip.visual.conv1.weight']
            maps = [convolve(f, kernel, kernel.shape[-1]) for f in frames]
            return [m.reshape(len(m), -1).T for m in maps]
        if name == 'audio':
            m = convolve(x, w['conv1.audio.weight'], t.audio_stride)
            return [(m + w['conv1.audio.bias'][:, None, None]).reshape(len(m), -1).T]
        if name == 'imu':
            kernel, stride = w['conv1.imu.weight'], t.imu_stride
            starts = range(0, x.shape[1] - kernel.shape[-1] + 1, stride)
            return [np.stack([(kernel * x[:, i:i + kernel.shape[-1]]).sum((1, 2))
                              for i in starts])]
        if name == 'fmri':
            flat = w['conv1.fmri.weight'] @ x[0] + w['conv1.fmri.bias']
            return [flat.reshape(-1, t.fmri_tokens).T]
        place = x[:, t.point_grouping_channel:t.point_grouping_channel + 3]
        weight, bias = w['conv1.point.conv1.weight'][:, :, 0, 0], w['conv1.point.conv1.bias']
        rows = []
        for c in farthest(place, t.point_centres):
            near = np.argsort(((place - place[c]) ** 2).sum(1), kind='stable')
            rows.append((x[near[:t.point_neighbours]] @ weight.T + bias).max(0))
        return [np.stack(rows)]

    def encode(self, name: str, x: Array) -> Array:
        """Return the encoder's features [N + 1, D], mean over frames."""
        e, w = self.c.encoder, self.w
        table = w[f'positional_embedding.{name}' if name in SIGNAL_NAMES
                  else 'clip.visual.positional_embedding']
        out = []
        for tokens in self.tokens(name, x):
            h = np.concatenate([w['clip.visual.class_embedding'][None], tokens]) + table
            h = layer_norm(h, w['clip.visual.ln_pre.weight'], w['clip.visual.ln_pre.bias'],
                           e.norm_eps)
            for i in range(e.layers):
                h = self.clip_block(h, f'clip.visual.transformer.resblocks.{i}.')
            out.append(layer_norm(h, w['clip.visual.ln_post.weight'],
                                  w['clip.visual.ln_post.bias'], e.norm_eps))
        return np.mean(out, 0)

    def clip_block(self, h: Array, at: str) -> Array:
        w, e = self.w, self.c.encoder
        n = layer_norm(h, w[at + 'ln_1.weight'], w[at + 'ln_1.bias'], e.norm_eps)
        qkv = n @ w[at + 'attn.in_proj_weight'].T + w[at + 'attn.in_proj_bias']
        mixed = attend(*np.split(qkv, 3, 1), e.heads, False)
        h = h + mixed @ w[at + 'attn.out_proj.weight'].T + w[at + 'attn.out_proj.bias']
        n = layer_norm(h, w[at + 'ln_2.weight'], w[at + 'ln_2.bias'], e.norm_eps)
        n = n @ w[at + 'mlp.c_fc.weight'].T + w[at + 'mlp.c_fc.bias']
        n = n * sigmoid(1.702 * n) if e.activation == 'quick_gelu' else gelu(n)
        return h + n @ w[at + 'mlp.c_proj.weight'].T + w[at + 'mlp.c_proj.bias']

    def llama_block(self, h: Array, at: str, heads: int, eps: float, theta: float) -> Array:
        """Apply one block; ``theta`` 0: no positions and no causal mask."""
        w = self.w
        n = rms_norm(h, w[at + 'attention_norm.weight'], eps)
        q, k, v = (n @ w[f'{at}attention.{name}.weight'].T for name in ('wq', 'wk', 'wv'))
        if theta:
            q = turn(q, heads, theta)
            k = turn(k, k.shape[1] * heads // q.shape[1], theta)
        h = h + attend(q, k, v, heads, theta > 0) @ w[at + 'attention.wo.weight'].T
        n = rms_norm(h, w[at + 'ffn_norm.weight'], eps)
        gate = n @ w[at + 'feed_forward.w1.weight'].T
        up = n @ w[at + 'feed_forward.w3.weight'].T
        return h + (gate * sigmoid(gate) * up) @ w[at + 'feed_forward.w2.weight'].T

    def project(self, name: str, features: Array) -> tuple[Array, Array]:
        """Return the modality tokens [M, llm_dim] and the router's weights [M, K]."""
        w, u = self.w, self.c.upm
        x = features @ w[f'clip_proj1.{name}.0.weight'].T + w[f'clip_proj1.{name}.0.bias']
        x = layer_norm(x, w[f'clip_proj1.{name}.1.weight'], w[f'clip_proj1.{name}.1.bias'], 1e-5)
        x = np.concatenate([w[f'resample_tokens.{name}'][0], x])
        r = gelu(x @ w[f'routers.{name}.fc1.weight'].T + w[f'routers.{name}.fc1.bias'])
        r = r @ w[f'routers.{name}.fc2.weight'].T + w[f'routers.{name}.fc2.bias']
        if u.router == 'sigmoid':
            r = sigmoid(r) / sigmoid(r).sum(-1, keepdims=True)
        elif u.router == 'constant':
            r = np.full_like(r, 1 / u.experts)
        else:
            r = softmax(r)
            if u.router == 'sparse':
                r = np.where(r == r.max(-1, keepdims=True), r, 0)
        total = 0
        for k in range(u.experts):
            y = x
            for i in range(u.layers):
                y = self.llama_block(y, f'resample_layers.{k}.{i}.', u.heads, u.norm_eps, 0)
            total = total + y * r[:, k, None]
        count = u.modality_tokens
        y = total[:count] @ w[f'clip_proj2.{name}.0.weight'].T + w[f'clip_proj2.{name}.0.bias']
        y = layer_norm(y, w[f'clip_proj2.{name}.1.weight'], w[f'clip_proj2.{name}.1.bias'], 1e-5)
        return y, r[:count]

    def prompt(self, ids: list[int], blocks: dict[str, Array]) -> Array:
        """Return embeddings: BOS, each block between its tags, the other ids."""
        words = self.w['tok_embeddings.weight'][ids]
        parts = [words[:1]]
        for name, tokens in blocks.items():
            parts += [self.w[f'start_tag.{name}'][0], tokens, self.w[f'end_tag.{name}'][0]]
        return np.concatenate([*parts, words[1:]])

    def logits(self, h: Array) -> Array:
        """Run the language model over embeddings [L, D] -> [L, vocab]."""
        c = self.c.llm
        for i in range(c.layers):
            h = self.llama_block(h, f'layers.{i}.', c.heads, c.norm_eps, c.rope_theta)
        h = rms_norm(h, self.w['norm.weight'], c.norm_eps)
        return h @ self.w.get('output.weight', self.w['tok_embeddings.weight']).T

    def greedy(self, prompt: Array, count: int) -> list[int]:
        """Continue a prompt, running everything anew for each token."""
        out: list[int] = []
        for _ in range(count):
            out.append(int(self.logits(prompt)[-1].argmax()))
            prompt = np.concatenate([prompt, self.w['tok_embeddings.weight'][out[-1:]]])
        return out
