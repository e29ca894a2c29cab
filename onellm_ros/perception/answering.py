"""A window and a question in, words out: encoding, describing and answering, one at a time.

This module owns the encoded windows that are kept, and what becomes of an engine's errors. It has
no thread and no queue: the node calls it through ``worker.py``, a replay directly.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
import math
import threading
import time
from typing import Any

from onellm_ros.choose import Selection
from onellm_ros.modality import Modality
from onellm_ros.node_config import DescribeConfig
from onellm_ros.perception.results import Described, EngineLike, Question, Reply, model_text

_PREFIXES_KEPT = 2
# Whatever a model does to its inputs, its caller lives on and says so.
FAILURES = (ArithmeticError, AssertionError, AttributeError, ImportError, LookupError,
            MemoryError, OSError, RuntimeError, TypeError, ValueError)
# How an engine's errors begin that are about what was asked.
_CODES = {'question:': 'INVALID_QUESTION', 'choices:': 'INVALID_CHOICES'}


class _Missing(Exception):
    """The window has nothing of what was asked about."""


class Answerer:
    """Describes and answers with one engine; not for two threads at once.

    :param modalities: what the model may be shown.
    """

    def __init__(self, engine: EngineLike, modalities: frozenset[Modality]) -> None:
        self.engine = engine
        self.model = model_text(engine)
        self._modalities = modalities
        self._prefixes: OrderedDict[Any, tuple[Any, Mapping[Modality, str]]] = OrderedDict()

    def forget(self) -> None:
        """Forget the encoded windows."""
        self._prefixes.clear()

    def _prefix(self, selection: Selection, modalities: frozenset[Modality] | None
                ) -> tuple[Any, Mapping[Modality, str], bool]:
        """Return the encoded window, why modalities were left out, and whether it was made now."""
        key = (selection.end_ns, id(selection), modalities)
        if key in self._prefixes:
            self._prefixes.move_to_end(key)
            return (*self._prefixes[key], False)
        seen = selection if modalities is None else selection.restricted(
            modalities | ({Modality.DEPTH} if Modality.NORMAL in modalities else set()))
        tensors = self.engine.preprocessor.tensors(seen.samples, seen.end_ns, strict=False)
        allowed = self._modalities if modalities is None else modalities & self._modalities
        left_out = dict(tensors.left_out)
        prefix = self.engine.encode({m: t for m, t in tensors.items() if m in allowed})
        self._prefixes[key] = (prefix, left_out)
        while len(self._prefixes) > _PREFIXES_KEPT:
            self._prefixes.popitem(last=False)
        return prefix, left_out, True

    def describe(self, selection: Selection, settings: DescribeConfig, *, skipped: int = 0,
                 cancel: threading.Event | None = None) -> Described:
        """Describe a window; without anything that the model could see, ``answer`` is None.

        :param skipped: windows since the one described before.
        :raises Exception: some of ``FAILURES``, whatever the model does.
        """
        begin_s = time.monotonic()
        prompt = settings.prompt.strip() or self.engine.config.text.describe_prompt
        prefix, left_out, _ = self._prefix(selection, None)
        encode_s = time.monotonic() - begin_s
        if not prefix.modalities:
            return Described(selection, prompt, None, {}, self.model, skipped, encode_s, math.nan,
                             encode_s, left_out)
        answer = self.engine.ask(prefix, prompt, max_tokens=settings.max_tokens,
                                 temperature=settings.temperature, cancel=cancel)
        first_s = encode_s + answer.first_token_s if answer.tokens else math.nan
        return Described(selection, prompt, answer, dict(prefix.expert_weights), self.model,
                         skipped, encode_s, first_s, time.monotonic() - begin_s, left_out)

    def answer(self, selection: Selection, question: Question, *, queue_s: float = 0.0,
               cancel: threading.Event | None = None) -> Reply:
        """Answer a question about a window, or say why not.

        An answer that was cancelled half-way has ``finish_reason`` ``cancelled``.

        :param queue_s: seconds that the question has waited; counted in ``total_s``.
        """
        begin_s = time.monotonic()
        known: dict[str, Any] = {'model': self.model, 'queue_s': queue_s, 'selection': selection}
        try:
            prefix, left_out, fresh = self._prefix(selection, question.modalities)
            known['encode_s'] = time.monotonic() - begin_s if fresh else 0.0
            _check_modalities(question, selection, prefix, left_out)
            known['weights'] = dict(prefix.expert_weights)
            started_s = time.monotonic()
            answer = self._generate(prefix, question, cancel)
        except _Missing as error:
            return Reply('MODALITY_MISSING', str(error), **known,
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

    def _generate(self, prefix: Any, question: Question, cancel: threading.Event | None) -> Any:
        if question.on_delta is None or question.choices:
            return self.engine.ask(prefix, question.text, choices=question.choices,
                                   max_tokens=question.max_tokens,
                                   temperature=question.temperature, cancel=cancel)
        stream = self.engine.stream(  # type: ignore[attr-defined]
            prefix, question.text, max_tokens=question.max_tokens,
            temperature=question.temperature, cancel=cancel)
        for delta in stream:
            question.on_delta(delta, stream.tokens)
        return stream.answer


def _check_modalities(question: Question, selection: Selection, prefix: Any,
                      left_out: Mapping[Modality, str]) -> None:
    missing = sorted((question.modalities or frozenset()) - set(prefix.modalities))
    if missing:
        why = left_out.get(missing[0], f'the window holds '
                           f'{", ".join(m.value for m in selection.samples)}')
        raise _Missing(f'nothing of {missing[0].value}: {why}')
    if not prefix.modalities:
        raise _Missing('nothing in the window can be used: ' + '; '.join(left_out.values()))
