"""What ``onellm eval --list`` and ``--explain`` tell about benchmarks."""

from __future__ import annotations

from onellm_ros.evaluation.prompts import FORMS, kind_of, prompt
from onellm_ros.evaluation.task import Task
from onellm_ros.evaluation.tasks import tasks

# What --explain fills a form with.
_QUESTION = 'What is on the table?'
_CHOICES = ('a cup', 'a lamp')


def task_line(task: Task) -> str:
    """Return name, number in the paper, modalities and metrics in one line."""
    number = str(task.paper.number) if task.paper and task.paper.number else '-'
    senses = '+'.join(m.value for m in task.modalities)
    return f'{task.name:24s} {number:>3s}  {senses:14s} {", ".join(task.metrics)}'


def listing() -> str:
    """Return a line for each benchmark, without a headline, so that tools can read it."""
    return '\n'.join(task_line(task) for task in tasks().values())


def _paper(task: Task) -> list[str]:
    """Return what the paper reports of a benchmark, in lines."""
    paper = task.paper
    if paper is None:
        return ['the paper has no figures of it']
    out = []
    for name, value in paper.scores.items():
        other = ''
        if name in paper.best_scores:
            trained = ', fine-tuned on it' if paper.fine_tuned else ''
            other = f'; {paper.best} {paper.best_scores[name]:g}{trained}'
        out.append(f'{name}: OneLLM-7B {value:g}{other}')
    return out


def explanation(task: Task) -> str:
    """Return what to fetch and where it goes, how is asked and scored, and the paper's figures."""
    form = FORMS.get(task.form, task.form)
    example = prompt(task.form, _QUESTION, _CHOICES, kind_of(task))
    number = f', number {task.paper.number} of the paper' \
        if task.paper and task.paper.number else ''
    lines = [
        f'{task.name}: {task.title}{number} (version {task.version})',
        f'shown:    {" and ".join(m.value for m in task.modalities)}',
        f'splits:   {", ".join(task.splits)} (--split; the first is the default)',
        'data:     ' + ('--data DIR: the folder that this describes, or one with it under the '
                        f'name {task.name}' if task.data else 'none is needed')]
    lines += [f'          {line}' for line in task.fetch.strip().splitlines()]
    lines += [f'prompt:   {form}  (--prompt gives another)']
    if example != form:
        lines += ['          for example:', *(f'          | {x}' for x in example.splitlines())]
    lines.append(f'reply:    {task.max_tokens} tokens at most (--max-tokens)')
    if '{options}' in form or '{classes}' in form:
        lines.append('          beside it the likelihood of each '
                     + ('letter' if task.letters else 'choice'))
    lines.append(f'metrics:  {", ".join(task.metrics)} (the first is the main score)')
    for name, value in task.options.items():
        lines.append(f'option:   --set {name}={value}   {task.facts.get(name, "")}')
    lines += [f'{name + ":":9s} {value}' for name, value in task.facts.items()
              if isinstance(value, str) and name not in task.options]
    lines += [f'paper:    {line}' for line in _paper(task)]
    return '\n'.join(line.rstrip() for line in lines)
