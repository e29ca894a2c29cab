"""Metrics as the benchmarks define them, by name; each module adds its own."""

from __future__ import annotations

from collections.abc import Callable
import importlib

from onellm_ros.evaluation.task import Metric

# name -> module:function, imported when it is used
_WHERE: dict[str, str] = {
    'vqa_accuracy': 'vqa:vqa_accuracy',         # ten people's answers, leave-one-out
    'exact_match': 'vqa:exact_match',           # GQA's
    'answer_accuracy': 'vqa:answer_accuracy',   # one answer, normalised
    'choice_letter': 'choice:choice_letter',    # the letter, or the choice, read from the text
    'choice_circular': 'choice:choice_circular',    # in every turn of the choices: MMBench's
    'choice_likelihood': 'choice:choice_likelihood',
    'class_text': 'choice:class_text',          # the class that the text names
    'cider': 'captions:cider',
    'bleu_1': 'captions:bleu_1',
    'bleu_4': 'captions:bleu_4',
    'rouge_l': 'captions:rouge_l',
    'meteor': 'java:meteor',
    'spice': 'java:spice',
    'spider': 'java:spider',
    'mme': 'mme:mme',
    'judge_mmvet': 'judge:judge_mmvet',
    'judge_class': 'judge:judge_class',
    'robot_world': 'robot:robot_world',         # our own benchmark's rules of right and wrong
}


def metric(name: str) -> Metric:
    """Return a metric.

    :raises KeyError: for an unknown name.
    """
    module, _, function = _WHERE[name].partition(':')
    found: Callable[..., object] = getattr(
        importlib.import_module(f'{__name__}.{module}'), function)
    return found  # type: ignore[return-value]


def names() -> tuple[str, ...]:
    """Return the names of all metrics."""
    return tuple(_WHERE)
