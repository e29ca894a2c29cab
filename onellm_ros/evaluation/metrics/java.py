"""METEOR, SPICE and SPIDEr, which exist only in Java, through the package pycocoevalcap.

Other programs' METEOR gives other figures, so where Java or the package is missing there is no
score, but what to install. The captions' words come from :mod:`onellm_ros.evaluation.metrics.ptb`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import contextlib
import importlib
import importlib.util
import math
import os
from pathlib import Path
import shutil
import subprocess
from typing import Any

from onellm_ros.evaluation.item import Item, Prediction
from onellm_ros.evaluation.metrics.captions import cider, no_references, words_of
from onellm_ros.evaluation.metrics.common import check, grouped, mean, reply
from onellm_ros.evaluation.task import Score, Tools

_PACKAGE = 'pycocoevalcap'
_INSTALL = 'pip install -r requirements/eval.txt -c requirements/constraints.txt'
_MODELS = ('stanford-corenlp-3.6.0.jar', 'stanford-corenlp-3.6.0-models.jar')
_FETCH = (f'python -c "from {_PACKAGE}.spice.get_stanford_models import get_stanford_models; '
          'get_stanford_models()"')
# What the package's scorers raise when their Java process ends early or says something else.
_FAILURES = (OSError, ValueError, KeyError, subprocess.SubprocessError)


def _missing(name: str, tools: Tools) -> str:
    """Return why Java's metrics cannot be computed here, empty if they can."""
    if not shutil.which(tools.java or 'java'):
        return (f'{name} needs Java: found no command {tools.java or "java"!r}; install a Java '
                'runtime (Debian, Ubuntu: default-jre-headless)')
    if Path(tools.java or 'java').name not in ('java', 'java.exe'):
        return f'{name}: found the command {tools.java!r}, expected a path to one called java'
    if importlib.util.find_spec(_PACKAGE) is None:
        return f'{name} needs the package {_PACKAGE} (104 MB): {_INSTALL}'
    return ''


@contextlib.contextmanager
def _environment(tools: Tools) -> Iterator[None]:
    """Let the package's scorers find the ``java`` that is meant, speaking UTF-8."""
    names = ('PATH', 'JAVA_TOOL_OPTIONS')
    before = {name: os.environ.get(name) for name in names}
    if tools.java:
        folder = str(Path(shutil.which(tools.java) or tools.java).resolve().parent)
        os.environ['PATH'] = os.pathsep.join([folder, before['PATH'] or ''])
    os.environ['JAVA_TOOL_OPTIONS'] = ' '.join(
        [before['JAVA_TOOL_OPTIONS'] or '', '-Dfile.encoding=UTF-8']).strip()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _scored(scorer: Any, texts: Sequence[str], references: Sequence[Sequence[str]],
            indices: Sequence[int]) -> tuple[float, Sequence[Any]]:
    """Return a package's score of some captions, and the items'."""
    total, each = scorer.compute_score(
        {index: [text.replace('|||', '') for text in references[index]] for index in indices},
        {index: [texts[index]] for index in indices})
    return float(total), list(each)


def meteor(items: Sequence[Item], predictions: Sequence[Prediction], tools: Tools) -> Score:
    """Score captions by METEOR 1.5 times 100, of all of them together (no mean of the items')."""
    check(items, predictions)
    why = _missing('METEOR', tools)
    lacking = Score(None, why=why) if why else no_references(items)
    if lacking:
        return lacking
    texts, references = words_of(items, predictions)
    if not any(texts):
        return Score(0.0)
    with _environment(tools):
        scorer = importlib.import_module(f'{_PACKAGE}.meteor.meteor').Meteor()
    try:
        value = 100 * _scored(scorer, texts, references, range(len(items)))[0]
        parts = {group: 100 * _scored(scorer, texts, references, indices)[0]
                 for group, indices in grouped(items).items()}
    except _FAILURES as error:
        return Score(None, why=f'METEOR failed in Java: {error!r}')
    finally:
        if scorer.lock.locked():        # after an error the scorer would wait for itself for ever
            scorer.lock.release()
    return Score(value, parts=parts)


def _spice_items(items: Sequence[Item], predictions: Sequence[Prediction],
                 tools: Tools) -> list[float] | str:
    """Return SPICE of each item, 0..1, or why there is none."""
    why = _missing('SPICE', tools)
    if why:
        return why
    package = importlib.util.find_spec(f'{_PACKAGE}.spice')
    folder = Path(str(package.origin)).parent if package and package.origin else Path()
    absent = [name for name in _MODELS if not (folder / 'lib' / name).is_file()]
    if absent:
        return (f'SPICE needs Stanford CoreNLP: found no {" and no ".join(absent)} in '
                f'{folder / "lib"}; fetch it with {_FETCH}')
    texts, references = words_of(items, predictions)
    try:
        with _environment(tools):
            scorer = importlib.import_module(f'{_PACKAGE}.spice.spice').Spice()
            found = _scored(scorer, texts, references, range(len(items)))[1]
        scores = [float(each['All']['f']) for each in found]
    except _FAILURES as error:
        return f'SPICE failed in Java: {error!r}'
    return [0.0 if math.isnan(score) or not reply(prediction) else score
            for score, prediction in zip(scores, predictions)]


def spice(items: Sequence[Item], predictions: Sequence[Prediction], tools: Tools) -> Score:
    """Score captions by SPICE times 100, see :class:`~onellm_ros.evaluation.task.Metric`."""
    check(items, predictions)
    lacking = no_references(items)
    if lacking:
        return lacking
    scores = _spice_items(items, predictions, tools)
    if isinstance(scores, str):
        return Score(None, why=scores)
    return mean(items, [100 * score for score in scores])


def spider(items: Sequence[Item], predictions: Sequence[Prediction], tools: Tools) -> Score:
    """Score captions by SPIDEr times 100, the mean of CIDEr-D and SPICE."""
    found = spice(items, predictions, tools)
    if found.value is None:
        return Score(None, why=found.why)
    other = cider(items, predictions, tools)
    return mean(items, [(one + two) / 2 for one, two in zip(found.items, other.items)])
