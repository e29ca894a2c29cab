"""A window and a question in, words out: encoding, describing and answering.

This module owns the encoded windows that are kept, and what becomes of an engine's errors. It has
no thread and no queue: the node calls it through ``worker.py``, which lets a question go on beside
a description (``tasks.py``), a replay directly.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
import math
import threading
import time
from typing import Any

from onellm_ros.choose import Selection
from onellm_ros.config import ConfigError
from onellm_ros.modality import Modality, parse_modality
from onellm_ros.node_config import DescribeConfig
from onellm_ros.perception.results import Described, EngineLike, Question, Reply, model_text
from onellm_ros.perception.tasks import FAILURES, Steps, finish

PREFIXES_KEPT = 2           # encoded windows
# How an engine's errors begin that are about what was asked.
_CODES = {'question:': 'INVALID_QUESTION', 'choices:': 'INVALID_CHOICES'}


class _Refused(Exception):
    """The window cannot answer what was asked about; ``code`` is an error code of Ask.srv."""

    def __init__(self, text: str, code: str = 'MODALITY_MISSING') -> None:
        super().__init__(text)
        self.code = code


def allowed_modalities(engine: EngineLike, names: Sequence[str]) -> frozenset[Modality]:
    """Return what the model is shown: what it knows, less what the user left out.

    :param names: modalities; none: all that it knows.
    :raises ConfigError: if nothing remains.
    """
    knows = frozenset(getattr(engine, 'modalities', ()) or Modality)
    wanted = frozenset(parse_modality(name) for name in names) or knows
    if not wanted & knows:
        raise ConfigError(
            f'modalities: found {sorted(m.value for m in wanted)}, expected some of what the '
            f'model knows: {sorted(m.value for m in knows)}')
    return wanted & knows


@dataclass(frozen=True, eq=False)
class _Encoded:
    """An encoded window.

    :param window: as it was given; held, so that its identity stays its own.
    :param seen: what of it was looked at.
    :param left_out: modalities that gave the model no input, and why.
    """

    window: Selection
    seen: Selection
    prefix: Any
    left_out: Mapping[Modality, str]


class Answerer:
    """Describes and answers with one engine; not for two threads at once.

    :param modalities: what the model may be shown; may be changed at any time.
    """

    def __init__(self, engine: EngineLike, modalities: frozenset[Modality]) -> None:
        self.engine = engine
        self.model = model_text(engine)
        self.modalities = modalities
        self._prefixes: OrderedDict[Any, _Encoded] = OrderedDict()

    def forget(self) -> None:
        """Forget the encoded windows, and what the engine keeps of their samples."""
        self._prefixes.clear()
        getattr(self.engine, 'forget', lambda: None)()

    def _encoded(self, selection: Selection, modalities: frozenset[Modality] | None = None,
                 sources: tuple[str, ...] = ()) -> tuple[_Encoded, bool]:
        """Return the encoded window, and whether it was made now.

        :raises _Refused: for sources that are not known.
        """
        allowed = self.modalities if modalities is None else modalities & self.modalities
        key = (id(selection), modalities, allowed, sources)
        if key in self._prefixes:
            self._prefixes.move_to_end(key)
            return self._prefixes[key], False
        seen = selection
        if sources:
            try:
                seen = selection.of_sources(sources)
            except ValueError as error:
                raise _Refused(str(error), 'INVALID_SOURCE') from error
        if modalities is not None:
            seen = seen.restricted(
                modalities | ({Modality.DEPTH} if Modality.NORMAL in modalities else set()))
        chosen = seen.samples
        if Modality.NORMAL not in allowed and Modality.DEPTH in chosen \
                and Modality.NORMAL not in chosen:
            chosen = {**chosen, Modality.NORMAL: ()}    # nobody looks at normals of the depth
        tensors = self.engine.preprocessor.tensors(chosen, seen.end_ns, strict=False)
        # With them goes what they were made of: the engine knows what it has encoded already.
        known = tensors.only(allowed) if hasattr(tensors, 'only') \
            else {m: t for m, t in tensors.items() if m in allowed}
        prefix = self.engine.encode(known)
        left_out = {m: why for m, why in tensors.left_out.items() if m in allowed}
        out = self._prefixes[key] = _Encoded(selection, seen, prefix, left_out)
        while len(self._prefixes) > PREFIXES_KEPT:
            self._prefixes.popitem(last=False)
        return out, True

    def describe(self, selection: Selection, settings: DescribeConfig, *, skipped: int = 0,
                 cancel: threading.Event | None = None) -> Described:
        """Describe a window; without anything that the model could see, ``answer`` is None.

        :param skipped: windows since the one described before.
        :raises Exception: some of ``FAILURES``, whatever the model does.
        """
        return finish(self.engine, self.describing(selection, settings, skipped=skipped,
                                                   cancel=cancel))

    def describing(self, selection: Selection, settings: DescribeConfig, *, skipped: int = 0,
                   cancel: threading.Event | None = None) -> Steps[Described]:
        """Describe a window token by token, see :meth:`describe` and ``tasks.py``."""
        begin_s = time.monotonic()
        prompt = settings.prompt.strip() or self.engine.config.text.describe_prompt
        found, _ = self._encoded(selection)
        prefix, left_out = found.prefix, found.left_out
        encode_s = time.monotonic() - begin_s
        if not prefix.modalities:
            return Described(selection, prompt, None, {}, self.model, skipped, encode_s, math.nan,
                             encode_s, left_out)
        answer = yield from self._said(prefix, prompt, None, max_tokens=settings.max_tokens,
                                       temperature=settings.temperature, cancel=cancel)
        first_s = encode_s + answer.first_token_s if answer.tokens else math.nan
        return Described(selection, prompt, answer, dict(prefix.expert_weights), self.model,
                         skipped, encode_s, first_s, time.monotonic() - begin_s, left_out)

    def answer(self, selection: Selection, question: Question, *,
               history: Sequence[tuple[str, str]] = (), queue_s: float = 0.0,
               cancel: threading.Event | None = None) -> Reply:
        """Answer a question about a window, or say why not.

        An answer that was cancelled half-way has ``finish_reason`` ``cancelled``.

        :param history: earlier questions and answers of the same conversation, oldest first.
        :param queue_s: seconds that the question has waited; counted in ``total_s``.
        """
        return finish(self.engine, self.answering(selection, question, history=history,
                                                  queue_s=queue_s, cancel=cancel))

    def answering(self, selection: Selection, question: Question, *,
                  history: Sequence[tuple[str, str]] = (), queue_s: float = 0.0,
                  cancel: threading.Event | None = None) -> Steps[Reply]:
        """Answer a question token by token, see :meth:`answer` and ``tasks.py``."""
        begin_s = time.monotonic()
        known: dict[str, Any] = {'model': self.model, 'queue_s': queue_s, 'selection': selection}
        try:
            found, fresh = self._encoded(selection, question.modalities, question.sources)
            known['encode_s'] = time.monotonic() - begin_s if fresh else 0.0
            known['selection'] = found.seen
            self._check(question, found)
            known['weights'] = dict(found.prefix.expert_weights)
            started_s = time.monotonic()
            answer = yield from self._generate(found.prefix, question, history, cancel)
        except _Refused as error:
            return Reply(error.code, str(error), **known,
                         total_s=queue_s + time.monotonic() - begin_s)
        except FAILURES as error:
            text = str(error) or type(error).__name__
            code = next((c for word, c in _CODES.items() if text.startswith(word)), 'MODEL_FAILED')
            return Reply(code, text, **known, total_s=queue_s + time.monotonic() - begin_s)
        known['total_s'] = queue_s + time.monotonic() - begin_s
        if answer.tokens:
            known['first_token_s'] = started_s - begin_s + answer.first_token_s
        reason = 'choice' if question.choices and answer.finish_reason != 'cancelled' \
            else answer.finish_reason
        return Reply(answer=answer, finish_reason=reason, **known)

    def _generate(self, prefix: Any, question: Question, history: Sequence[tuple[str, str]],
                  cancel: threading.Event | None) -> Steps[Any]:
        known: dict[str, Any] = {'history': history} if history else {}
        known |= {'max_tokens': question.max_tokens, 'temperature': question.temperature,
                  'cancel': cancel}
        if question.choices:                    # all of them at once, between two tokens
            return self.engine.ask(prefix, question.text, choices=question.choices, **known)
        return (yield from self._said(prefix, question.text, question.on_delta, **known))

    def _said(self, prefix: Any, text: str, on_delta: Callable[[str, int], None] | None,
              **known: Any) -> Steps[Any]:
        """Answer freely; an engine that has no ``steps`` does it in one go."""
        engine: Any = self.engine
        together = hasattr(engine, 'steps')
        if not together and on_delta is None:
            return engine.ask(prefix, text, **known)
        stream = engine.stream(prefix, text, **known)

        def told(delta: str) -> None:
            if delta and on_delta is not None:
                on_delta(delta, stream.tokens)
        if not together:
            for delta in stream:
                told(delta)
            return stream.answer
        while (due := stream.due()) is not None:
            told(stream.take((yield due)))
        told(stream.rest())
        return stream.answer

    def _check(self, question: Question, found: _Encoded) -> None:
        """Refuse a question about something that the model was not shown."""
        prefix, left_out = found.prefix, found.left_out
        missing = sorted((question.modalities or frozenset()) - set(prefix.modalities))
        if missing:
            first = missing[0]
            if first not in self.modalities:
                why = 'the model does not know it, or the parameter modalities leaves it out'
            else:
                why = left_out.get(first, 'the window holds '
                                   + (', '.join(m.value for m in found.seen.samples) or 'nothing'))
            raise _Refused(f'nothing of {first.value}: {why}')
        if not prefix.modalities:
            held = ', '.join(question.sources)
            raise _Refused(f'the window has nothing of the sources {held}' if held and not left_out
                           else 'nothing in the window can be used: ' + '; '.join(
                               left_out.values()))
