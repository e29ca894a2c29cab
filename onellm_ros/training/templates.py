"""What the LLM reads and what it is to say: captions and conversations as token ids.

A caption follows the signal without any template and ends with the end of the sequence. A
conversation stands in the chat template of the model (``text.template``: ``training`` writes a
space behind each ``###``, ``released`` none, as the authors' training and inference code do);
answers are to be said with the ``###`` that closes them. Segments of one row are laid one behind
another and do not see each other (``losses.block_mask``).
"""

from __future__ import annotations

from collections.abc import Sequence
import copy
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from onellm_ros.model.text import Text

IGNORE = -100


@dataclass(frozen=True)
class Segment:
    """Token ids that follow a prefix, and which of them the model is to say.

    :param ids: all tokens. :param wanted: of the same length. :param type: name for the log.
    :param cut: tokens at the end that found no room.
    """

    ids: list[int]
    wanted: list[bool]
    type: str
    cut: int = 0

    @classmethod
    def of(cls, prompt: list[int], answer: list[int], kind: str) -> Segment:
        """Return a segment of one question and its answer."""
        return cls(prompt + answer, [False] * len(prompt) + [True] * len(answer), kind)

    def within(self, limit: int) -> Segment:
        """Return it with at most so many tokens; ``cut`` tells how many were left out."""
        if len(self.ids) <= limit:
            return self
        return Segment(self.ids[:limit], self.wanted[:limit], self.type,
                       self.cut + len(self.ids) - limit)


def with_template(text: Text, template: str) -> Text:
    """Return the same tokenizer with another chat template; empty: the same."""
    if not template or template == text.config.template:
        return text
    other = copy.copy(text)
    other.config = replace(text.config, template=template)
    return other


def caption_segment(text: Text, caption: str) -> Segment:
    """Return a caption as alignment has it: no question, no template, closed by the end."""
    return Segment.of([], [*text.encode(caption), text.eos], 'caption')


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Return how many tokens two sequences share from their beginning."""
    for index, (x, y) in enumerate(zip(a, b)):
        if x != y:
            return index
    return min(len(a), len(b))


def _told(text: Text, turns: Sequence[tuple[str, str]]) -> list[int]:
    """Return the ids of a conversation up to the end of its last answer."""
    *history, (question, answer) = turns
    if text.stop_id is None:
        # A tokenizer without pieces for the stop reads the whole text at once, as inference does.
        return text.encode(f'{text.prompt_text(question, history)} {answer}\n{text.config.stop}')
    return text.encode_prompt(question, history) + text.encode_answer(answer)


def conversation_segment(text: Text, turns: Sequence[tuple[str, str]], kind: str = 'answer'
                         ) -> Segment:
    """Return a conversation in the chat template; its answers are wanted.

    :param turns: (question, answer) pairs, one at least.
    """
    ids = _told(text, turns)
    wanted = [False] * len(ids)
    for number, (question, _) in enumerate(turns):
        start = _common(ids, text.encode_prompt(question, turns[:number]))
        end = _common(ids, _told(text, turns[:number + 1]))
        wanted[start:end] = [True] * (end - start)
    return Segment(ids, wanted, kind)


@dataclass
class Packed:
    """Segments of a batch, padded: each segment sees the prefix and itself.

    ``ids``, ``segments`` (0 = padding) and ``positions`` (from the prefix' end on) are int64
    [B, L]; ``labels`` [B, L] holds the tokens that are to be said, each at its own place, else
    IGNORE. ``cut`` counts tokens without room.
    """

    ids: Tensor
    segments: Tensor
    positions: Tensor
    labels: Tensor
    types: list[list[str]]
    cut: int = 0

    def to(self, device: torch.device) -> Packed:
        """Return the same on a device."""
        return replace(self, **{k: getattr(self, k).to(device, non_blocking=True)
                                for k in ('ids', 'segments', 'positions', 'labels')})


def pack_segments(rows: list[list[Segment]], pad: int, multiple: int = 16) -> Packed:
    """Lay the segments of each row one behind another.

    :raises ValueError: for a segment without a question behind another one: its answer would
        follow from what stands before it.
    """
    lengths = [sum(len(s.ids) for s in row) for row in rows]
    width = max(1, -(-max(lengths) // multiple)) * multiple
    shape = (len(rows), width)
    ids = np.full(shape, pad, np.int64)
    segments, positions = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    labels = np.full(shape, IGNORE, np.int64)
    for b, row in enumerate(rows):
        at = 0
        for number, segment in enumerate(row, 1):
            if at and segment.wanted[:1] == [True]:
                raise ValueError(f'segment {number} of a row: found an answer without a question, '
                                 'expected it in a row of its own')
            end = at + len(segment.ids)
            ids[b, at:end] = segment.ids
            segments[b, at:end] = number
            positions[b, at:end] = np.arange(len(segment.ids))
            labels[b, at:end] = np.where(segment.wanted, segment.ids, IGNORE)
            at = end
    return Packed(torch.from_numpy(ids), torch.from_numpy(segments), torch.from_numpy(positions),
                  torch.from_numpy(labels), [[s.type for s in row] for row in rows],
                  sum(s.cut for row in rows for s in row))
