"""Many questions on many windows at once: padded passes of one model through encoder and LLM.

For evaluation and other work on files, where nobody waits for the first word. The texts are those
of :class:`onellm_ros.inference.engine.Engine` one at a time; sums over other shapes differ in the
last digits, so in bfloat16 a word may be another one where two are almost equally likely.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
import math

import torch
from torch import Tensor

from onellm_ros.inference.engine import Engine
from onellm_ros.inference.locate import EngineError
from onellm_ros.inference.sampling import Draw, Sampling
from onellm_ros.inference.streaming import Detokenizer
from onellm_ros.modality import Modality, prompt_order
from onellm_ros.model.llm import Llama
from onellm_ros.model.onellm import OneLLM
from onellm_ros.model.text import Text

_CHOICES = 4            # rows of choices at once, in rows of questions


@dataclass(frozen=True)
class Ask:
    """A question of a batch.

    :param evidence: index of the window that it looks at. :param choices: texts whose likelihood
        is asked besides the free answer.
    """

    evidence: int
    question: str
    sampling: Sampling = field(default_factory=Sampling)
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Replied:
    """A free answer and the likelihood of the choices; the fields are those of ``Answer``."""

    text: str
    tokens: int
    finish_reason: str
    confidence: float
    choice: int = -1
    probabilities: tuple[float, ...] = ()


class Rows:
    """Sequences of different length in one cache, with gaps that nothing sees.

    All are extended together and padded at their left, so that their ends lie side by side.

    :param count: of sequences, each empty yet.
    """

    def __init__(self, llm: Llama, count: int) -> None:
        self.llm = llm
        device = llm.tok_embeddings.weight.device
        self._cache = llm.new_cache(count, 0)
        self._seen = torch.zeros(count, 0, dtype=torch.bool, device=device)     # no gap
        self._ends = torch.zeros(count, 1, dtype=torch.long, device=device)     # next positions
        self._gaps = False

    def __len__(self) -> int:
        return len(self._ends)

    def taken(self, rows: Sequence[int], room: int) -> Rows:
        """Return new rows that begin as some of these do, with room for more positions."""
        index = torch.tensor(list(rows), device=self._ends.device)
        new = Rows(self.llm, len(rows))
        old, end = self._cache, self._cache.length
        cache = self.llm.new_cache(len(rows), end + room)
        cache.keys[:, :, :, :end] = old.keys[:, index, :, :end]
        cache.values[:, :, :, :end] = old.values[:, index, :, :end]
        if self.llm.config.sliding_window:
            cache.positions[:, :end] = old.positions[index, :end]
        cache.length = end
        new._cache, new._gaps = cache, self._gaps
        new._seen, new._ends = self._seen[index], self._ends[index]
        return new

    def extend(self, parts: Sequence[Tensor], last_only: bool = True) -> Tensor:
        """Run one part [L, D] more of each row.

        :returns: float32 logits [rows, longest L, vocab], ends side by side; of the last position
            only: [rows, 1, vocab].
        """
        lengths = [len(part) for part in parts]
        longest = max(lengths)
        x = torch.stack([torch.nn.functional.pad(part, (0, 0, longest - len(part), 0))
                         for part in parts])
        pads = torch.tensor([longest - n for n in lengths], device=x.device)[:, None]
        step = torch.arange(longest, device=x.device)
        inside = step >= pads
        positions = self._ends + (step - pads).clamp(min=0)
        self._gaps = self._gaps or min(lengths) < longest
        mask = self._mask(inside) if self._gaps else None
        logits = self.llm(x, positions, mask, self._cache, last_only=last_only)
        self._seen = torch.cat([self._seen, inside], 1)
        self._ends = self._ends + longest - pads
        return logits.float()

    def _mask(self, inside: Tensor) -> Tensor:
        """Return which of all keys each new position may see [rows, 1, L, S].

        A pad sees itself: a position that saw nothing would be no number.
        """
        rows, length = inside.shape
        one = torch.ones(length, length, dtype=torch.bool, device=inside.device)
        new = one.tril() & inside[:, None] | torch.eye(length, dtype=torch.bool,
                                                       device=inside.device)
        past = self._seen[:, None].expand(rows, length, self._seen.shape[1])
        return torch.cat([past, new], -1)[:, None]


class _Text:
    """An answer in the making; ends as ``AnswerStream`` does."""

    def __init__(self, text: Text, stop: str, limit: int) -> None:
        self._ids, self._out, self._limit = text.stop_ids, Detokenizer(text, stop), limit
        self._likelihood = 0.0
        self.tokens, self.reason = 0, '' if limit else 'length'

    def add(self, token: int, logp: float) -> None:
        """Take a token."""
        if token in self._ids:
            self.reason = 'stop'
            return
        self.tokens += 1
        self._likelihood += logp
        self._out.add(token)
        if self._out.stopped:
            self.reason = 'stop'
        elif self.tokens >= self._limit:
            self.reason = 'length'

    def reply(self, probabilities: Sequence[float]) -> Replied:
        """Return the answer."""
        self._out.finish()
        sure = math.exp(self._likelihood / self.tokens) if self.tokens else 0.0
        best = max(range(len(probabilities)), key=probabilities.__getitem__, default=-1)
        return Replied(self._out.emitted, self.tokens, self.reason, sure, best,
                       tuple(probabilities))


@dataclass(frozen=True)
class _Prompt:
    """What is run for a question: its ids, those of its choices, and tokens that may follow."""

    ids: list[int]
    choices: list[list[int]]
    room: int


class Windows:
    """Encoded windows; see :meth:`Batched.encode`.

    Attributes: ``errors``, by the index of a window that cannot be used.
    """

    def __init__(self, rows: Rows | None, places: Mapping[int, int], positions: Mapping[int, int],
                 errors: dict[int, EngineError]) -> None:
        self.rows, self.places, self.positions, self.errors = rows, places, positions, errors


def can_batch(engine: Engine) -> bool:
    """Return whether a model can answer several questions at once: not from ONNX graphs alone.

    Nor where keys depend on how far a pass reaches (dynamic rotary positions).
    """
    return engine.model is not None and not engine.model.llm.rope.grows


class Batched:
    """Answers in batches. Not beside questions of other threads.

    :raises EngineError: for an engine that cannot; see :func:`can_batch`.
    """

    def __init__(self, engine: Engine) -> None:
        if not can_batch(engine):
            raise EngineError(f'model {engine.name}: it answers one question at a time; use a '
                              'batch of 1')
        assert engine.model is not None
        self._engine, self._model = engine, engine.model
        self._llm = engine.model.llm
        self._most = engine.config.llm.max_positions

    @torch.inference_mode()
    def encode(self, windows: Sequence[Mapping[Modality, Tensor]]) -> Windows:
        """Encode windows, those with the same modalities and shapes in one pass.

        :param windows: inputs as ``Preprocessor`` makes them, each a batch of 1; may be empty
            (text only).
        """
        errors: dict[int, EngineError] = {}
        groups: dict[tuple[tuple[Modality, torch.Size], ...], list[int]] = {}
        for index, window in enumerate(windows):
            bad = next((m for m, x in window.items()
                        if x.shape[0] != 1 or not bool(torch.isfinite(x).all())), None)
            if bad is not None:
                errors[index] = EngineError(f'{bad}: expected finite values in a batch of 1, '
                                            f'found an input of shape {list(window[bad].shape)}')
                continue
            key = tuple((m, window[m].shape) for m in prompt_order(window))
            groups.setdefault(key, []).append(index)
        parts: dict[int, Tensor] = {}
        for key, members in groups.items():
            try:
                found = self._prefixes(self._model, [windows[i] for i in members],
                                       [m for m, _ in key])
            except (ValueError, EngineError) as error:
                errors |= dict.fromkeys(members, EngineError(str(error)))
            else:
                parts |= dict(zip(members, found, strict=True))
        if not parts:
            return Windows(None, {}, {}, errors)
        rows = Rows(self._llm, len(parts)).taken(range(len(parts)),
                                                 max(map(len, parts.values())))
        rows.extend(list(parts.values()))
        return Windows(rows, {index: place for place, index in enumerate(parts)},
                       {index: len(part) for index, part in parts.items()}, errors)

    def _prefixes(self, model: OneLLM, windows: Sequence[Mapping[Modality, Tensor]],
                  modalities: Sequence[Modality]) -> Tensor:
        """Return the beginnings [n, P, D] of prompts of windows that have the same inputs."""
        inputs = {m: torch.cat([w[m] for w in windows]).to(self._engine.device)
                  for m in modalities}
        tokens = {m: e.tokens for m, e in model.encode_all(inputs).items()} if inputs else {}
        found = model.prefix_embeds(tokens, self._engine.text.bos, len(windows))
        if found.shape[1] >= self._most:
            raise EngineError(f'{len(modalities)} modalities take {found.shape[1]} positions, the '
                              f'model has {self._most}; use fewer')
        return found

    def _prompt(self, ask: Ask, positions: int) -> _Prompt:
        """Return what is run for a question.

        :raises EngineError: if it does not fit.
        """
        text = self._engine.text
        ask.sampling.check()
        if not ask.question.strip() or not all(c.strip() for c in ask.choices):
            raise EngineError('question: expected text in it and in its choices, found none')
        ids = text.encode_prompt(ask.question.strip())
        choices = [text.encode_choice(choice.strip()) for choice in ask.choices]
        room = self._most - positions
        least = max(map(len, choices), default=1)
        if len(ids) + least > room:
            raise EngineError(f'question: it takes {len(ids)} tokens and its choices {least}, and '
                              f'{max(room, 0)} fit behind what was sensed; ask a shorter one')
        return _Prompt(ids, choices, min(ask.sampling.max_tokens, room - len(ids)))

    @torch.inference_mode()
    def answer(self, windows: Windows, asks: Sequence[Ask]) -> list[Replied | EngineError]:
        """Answer questions in one batch; in place of an answer may stand why there is none."""
        out: list[Replied | EngineError | None] = [None] * len(asks)
        prompts: dict[int, _Prompt] = {}
        for i, ask in enumerate(asks):
            failed = windows.errors.get(ask.evidence)
            try:
                if failed is None:
                    prompts[i] = self._prompt(ask, windows.positions[ask.evidence])
            except EngineError as error:
                failed = error
            out[i] = failed
        if prompts:
            assert windows.rows is not None
            order = list(prompts)
            rows = windows.rows.taken(
                [windows.places[asks[i].evidence] for i in order],
                max(len(p.ids) for p in prompts.values()) + max(p.room for p in prompts.values()))
            logits = self._run(rows, [prompts[i].ids for i in order])[:, -1]
            chances = self._choose(rows, logits, [prompts[i].choices for i in order])
            texts = self._write(rows, logits, [asks[i].sampling for i in order],
                                [prompts[i].room for i in order])
            for i, text, chance in zip(order, texts, chances, strict=True):
                out[i] = text.reply(chance)
        return [found for found in out if found is not None]

    def _run(self, rows: Rows, ids: Sequence[Sequence[int]], last_only: bool = True) -> Tensor:
        """Run ids behind rows; return logits of the words that the tokenizer knows."""
        flat = torch.tensor([i for row in ids for i in row], device=self._engine.device)
        parts = self._llm.embed(flat).split([len(row) for row in ids])
        return rows.extend(parts, last_only)[..., :self._engine.text.size]

    def _choose(self, rows: Rows, logits: Tensor, choices: Sequence[list[list[int]]]
                ) -> list[list[float]]:
        """Return the probabilities of each row's choices, by their mean log likelihood."""
        first = torch.log_softmax(logits, -1)
        asked = [(row, ids) for row, several in enumerate(choices) for ids in several]
        totals = [float(first[row, ids[0]]) for row, ids in asked]
        longer = [n for n, (_, ids) in enumerate(asked) if len(ids) > 1]
        most = _CHOICES * len(rows)
        for start in range(0, len(longer), most):
            some = longer[start:start + most]
            texts = [asked[n][1] for n in some]
            branch = rows.taken([asked[n][0] for n in some], max(map(len, texts)))
            logp = torch.log_softmax(self._run(branch, [t[:-1] for t in texts], False), -1)
            for n, ids, found in zip(some, texts, logp, strict=True):
                rest = torch.tensor(ids[1:], device=found.device)
                totals[n] += float(found[-len(rest):].gather(-1, rest[:, None]).double().sum())
        out: list[list[float]] = [[] for _ in choices]
        for (row, ids), total in zip(asked, totals, strict=True):
            out[row].append(total / len(ids))
        return [torch.softmax(torch.tensor(means, dtype=torch.float64), -1).tolist()
                if means else [] for means in out]

    def _write(self, rows: Rows, logits: Tensor, samplings: Sequence[Sampling],
               limits: Sequence[int]) -> list[_Text]:
        """Write all answers to their ends."""
        stop = self._engine.config.text.stop
        texts = [_Text(self._engine.text, stop, limit) for limit in limits]
        draws = [Draw(s, self._engine.device) if s.temperature else None for s in samplings]
        live = [n for n, text in enumerate(texts) if not text.reason]
        held = list(range(len(texts)))              # which answer each row is
        while live:
            logp, likeliest = torch.log_softmax(logits, -1).max(-1)
            greedy = list(zip(likeliest.tolist(), logp.tolist(), strict=True))
            said = [greedy[row] if (draw := draws[n]) is None or texts[n].reason
                    else draw(logits[row]) for row, n in enumerate(held)]
            for n, one in zip(held, said, strict=True):
                if not texts[n].reason:
                    texts[n].add(*one)
            live = [n for n in live if not texts[n].reason]
            if not live:
                break
            tokens = [token for token, _ in said]
            if 2 * len(live) <= len(held):          # answers that have ended cost no more
                kept = [row for row, n in enumerate(held) if not texts[n].reason]
                rows = rows.taken(kept, max(limits[held[r]] - texts[held[r]].tokens for r in kept))
                held, tokens = [held[r] for r in kept], [tokens[r] for r in kept]
            logits = self._run(rows, [[token] for token in tokens])[:, -1]
        return texts
