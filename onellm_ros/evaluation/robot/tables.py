"""The tables of robot-world: shares in percent, confidences 0..1, metres, degrees, ms."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
import math
from statistics import mean

import numpy as np

from onellm_ros.evaluation.calibration import calibration
from onellm_ros.evaluation.item import Item, Prediction
from onellm_ros.evaluation.robot import measures
from onellm_ros.evaluation.robot.counting import (
    Cells,
    Table,
    accuracy,
    confidence,
    errors,
    grouped,
    paired,
    percent,
    sureness,
    unknown,
)
from onellm_ros.evaluation.robot.noise import KINDS, LEVELS
from onellm_ros.evaluation.robot.plan import AGES_S, FALLBACK, VAIN
from onellm_ros.evaluation.robot.scoring import Row, caption_scores, rows_of, says, says_unknown
from onellm_ros.evaluation.task import Tables
from onellm_ros.modality import Modality
from onellm_ros.simulation.language import QUESTION_TYPES

COMBINATIONS = {'seen': 'objects together in training', 'new': 'objects never together'}
_NAMES = tuple(m.value for m in Modality)
PARTS = ('alone', 'together', 'missing', 'noisy', 'stale', 'agree', 'contradict', 'unrelated',
         'measure', 'caption')


def tables(items: Sequence[Item], predictions: Sequence[Prediction]) -> Tables:
    """Return all tables that the items allow."""
    rows = rows_of(items, predictions)
    by_id = {row.item.id: row for row in rows}
    parts = grouped(rows, lambda row: row.condition, PARTS)
    out: dict[str, Table] = {'conditions': {name: accuracy(found)
                                            for name, found in parts.items()}}
    out |= _alone(parts.get('alone', []))
    out |= _captions(parts.get('caption', []))
    out['together'] = _together(parts.get('together', []), by_id)
    out |= _missing(parts.get('missing', []), by_id)
    out |= _noisy(parts.get('noisy', []), by_id)
    out |= _stale(parts.get('stale', []))
    out |= _contradictions(parts, by_id)
    out |= _measured(parts.get('measure', []))
    out |= _calibration(parts)
    out['time to first token, ms'] = _times(rows)
    return {title: table for title, table in out.items() if table}


def _answerable(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row.item.facts['type'] != 'unknown']


def _alone(rows: Sequence[Row]) -> dict[str, Table]:
    """Each modality and question type; 'unknown' counts under its type alone."""
    told = _answerable(rows)
    matrix: Table = {}
    for name, found in grouped(rows, lambda row: row.item.facts['source'], _NAMES).items():
        by_type = grouped(found, lambda row: row.item.facts['type'], QUESTION_TYPES)
        matrix[name] = {kind: percent(row.right for row in by_type.get(kind, []))
                        for kind in QUESTION_TYPES}
    types = [kind for kind in QUESTION_TYPES if any(row[kind] is not None
                                                    for row in matrix.values())]
    met = grouped([row for row in told if 'objects' in row.item.facts],
                  lambda row: row.item.facts['objects'])
    return {
        'modalities': {name: accuracy(found) | {'says unknown': unknown(found)}
                       for name, found in grouped(
                           told, lambda row: row.item.facts['source'], _NAMES).items()},
        'question types': {name: accuracy(found) for name, found in grouped(
            rows, lambda row: row.item.facts['type'], QUESTION_TYPES).items()},
        'modality and question': {name: {kind: row[kind] for kind in types}
                                  for name, row in matrix.items()},
        'worlds by their objects': {COMBINATIONS[name]: accuracy(found)
                                    for name, found in met.items()}}


def _captions(rows: Sequence[Row]) -> dict[str, Table]:
    """Descriptions: means of what is scored, in percent."""
    out: Table = {}
    for name, found in grouped(rows, lambda row: row.item.facts['told']).items():
        scores: dict[str, list[float]] = defaultdict(list)
        for row in found:
            for score, value in caption_scores(row.item, row.text).items():
                scores[score].append(value)
        out[name] = {score: round(100.0 * mean(values), 1) for score, values in scores.items()}
    return {'captions': out}


def _half(row: Row) -> bool:
    """Whether a question across two senses got the answer of one of them."""
    return any(says((part,), row.item, row.text) for part in row.item.answers[0].split(' and '))


def _together(rows: Sequence[Row], by_id: dict[str, Row]) -> Table:
    """Sets beside the same questions asked of one modality alone."""
    out: Table = {}
    for name, found in grouped(rows, lambda row: row.item.facts['set']).items():
        told, vain = _answerable(found), [r for r in found if r.item.facts['type'] == 'unknown']
        mixed = [row for row in told if row.item.facts['type'] == 'mixed']
        same, alone = paired(told, by_id)
        out[name] = {
            **accuracy(told), 'same questions': percent(row.right for row in same),
            'asked alone': percent(row.right for row in alone),
            'across two': percent(row.right for row in mixed),
            'one half of it': percent(not row.right and _half(row) for row in mixed),
            'unknown when due': percent(row.right for row in vain)}
    return out


def _missing(rows: Sequence[Row], by_id: dict[str, Row]) -> dict[str, Table]:
    """Asked in vain: is it said? Told by others: is it still answered?"""
    by_case = grouped(rows, lambda row: row.item.facts['case'])
    vain: Table = {}
    told: Table = {}
    for name, *_ in VAIN:
        if name in by_case:
            found = by_case[name]
            _, alone = paired(found, by_id)
            vain[name] = {
                'says unknown': percent(row.right for row in found),
                'guesser': percent(row.guessed for row in found),
                'right with it': percent(row.right for row in alone),
                'confidence': confidence(found),
                'confidence when it makes up': confidence(r for r in found if not r.right),
                'questions': len(found)}
    for name, *_ in FALLBACK:
        if name in by_case:
            found = by_case[name]
            _, alone = paired(found, by_id)
            told[name] = {**accuracy(found), 'right with it': percent(r.right for r in alone),
                          'says unknown': unknown(found), 'confidence': confidence(found)}
    return {'missing: asked in vain': vain, 'missing: others can tell': told}


def _noisy(rows: Sequence[Row], by_id: dict[str, Row]) -> dict[str, Table]:
    """Accuracy of the disturbed sensor beside that of the same questions undisturbed."""
    right: Table = {}
    sure: Table = {}
    for kind, found in grouped(rows, lambda row: row.item.facts['noise'], tuple(KINDS)).items():
        cells: Cells = {}
        confidences: Cells = {}
        for level in LEVELS:
            at = [row for row in found if row.item.facts['level'] == level]
            same, clean = paired(at, by_id)
            cells[f'clean ({level})'] = percent(row.right for row in clean)
            cells[f'level {level}'] = percent(row.right for row in at)
            confidences[f'clean ({level})'] = confidence(clean)
            confidences[f'level {level}'] = confidence(at)
            confidences[f'error {level}'] = (sureness(at) or {}).get('error')
        cells['unknown at 3'] = unknown(r for r in found if r.item.facts['level'] == LEVELS[-1])
        cells['guesser'] = percent(row.guessed for row in found)
        cells['questions'] = len(found)
        right[kind], sure[kind] = cells, confidences
    return {'noisy': right, 'noisy: confidence': sure}


def _stale(rows: Sequence[Row]) -> dict[str, Table]:
    """Old evidence: right now, right then, and how far the world itself has gone on."""
    ages = {f'{age:g} s old': [row for row in rows if row.item.facts['age_s'] == age]
            for age in AGES_S}
    out: Table = {}
    matrix: Table = {}
    for name, found in ages.items():
        if not found:
            continue
        changed = [r for r in found if r.item.facts['then'] and not r.item.facts['same']]
        gone = [r for r in found if not r.item.facts['then']]
        out[name] = {
            **accuracy(found),
            'unchanged': percent(row.item.facts['same'] for row in found),
            'right if unchanged': percent(r.right for r in found if r.item.facts['same']),
            'changed: right now': percent(row.right for row in changed),
            'changed: says then': percent(says(r.item.facts['then'], r.item, r.text)
                                          for r in changed),
            'not to be seen then: says unknown': unknown(gone),
            'confidence': confidence(found)}
        matrix[name] = {m: percent(row.right for row in found if row.item.facts['source'] == m)
                        for m in _NAMES}
    return {'stale': out, 'stale: by modality': matrix}


def _pair(row: Row) -> str:
    return str(row.item.facts['pair'])


def _contradictions(parts: dict[str, list[Row]], by_id: dict[str, Row]) -> dict[str, Table]:
    """Two worlds at once: which one is followed, and is it told by the confidence?"""
    out: Table = {}
    for name, found in grouped(parts.get('contradict', []), _pair).items():
        _, agree = paired(found, by_id, 'agree')
        first = [says(r.item.facts['first'], r.item, r.text) for r in found]
        second = [says(r.item.facts['second'], r.item, r.text) for r in found]
        no = [says_unknown(row.text) for row in found]
        out[name] = {
            'follows the first': percent(first), 'follows the second': percent(second),
            'says unknown': percent(no),
            'neither': percent(not any(f) for f in zip(first, second, no, strict=True)),
            'right when they agree': percent(row.right for row in agree),
            'confidence': confidence(found), 'when they agree': confidence(agree),
            'questions': len(found)}
    apart: Table = {}
    for name, found in grouped(parts.get('unrelated', []), _pair).items():
        _, alone = paired(found, by_id)
        apart[name] = {**accuracy(found), 'asked alone': percent(row.right for row in alone),
                       'confidence': confidence(found), 'confidence alone': confidence(alone)}
    return {'contradicting': out, 'another world beside': apart}


def _measured(rows: Sequence[Row]) -> dict[str, Table]:
    """Errors in metres and degrees, beside those of the guesser and of the right words."""
    titles = {measures.DISTANCE: 'distance, m', measures.FREE: 'free way ahead, m',
              measures.PLACE: 'bearing by words, degrees',
              measures.DEGREES: 'bearing asked for in degrees'}
    out: dict[str, Table] = {}
    for kind, title in titles.items():
        digits = 2 if kind in (measures.DISTANCE, measures.FREE) else 1
        asked = [row for row in rows if row.item.facts['kind'] == kind]
        table: Table = {}
        for name, found in grouped(asked, lambda row: row.item.facts['set']).items():
            true = [float(row.item.facts['true']) for row in found]
            said, guess, words = ([measures.said_in(kind, text) for text in texts] for texts in (
                [row.text for row in found], [row.item.facts['guess'] for row in found],
                [row.item.answers[0] for row in found]))
            table[name] = {
                **errors(list(zip(true, said, strict=True)), digits),
                'right': percent(row.right for row in found),
                'guesser median': errors(list(zip(true, guess, strict=True)), digits)['median'],
                'guesser mean': errors(list(zip(true, guess, strict=True)), digits)['mean'],
                'right words mean': errors(list(zip(true, words, strict=True)), digits)['mean'],
                'questions': len(found)}
        out[title] = table
    return out


def _calibration(parts: dict[str, list[Row]]) -> dict[str, Table]:
    """Expected calibration error by condition, and the bins of what is asked undisturbed."""
    found = {name: sureness(rows) for name, rows in parts.items() if name != 'caption'}
    clean = [row for name in ('alone', 'together') for row in parts.get(name, [])]
    bins = calibration([(row.prediction.confidence, row.right) for row in clean])
    table: Table = {} if bins is None else {
        f'{b["from"]:.1f} to {b["to"]:.1f}': {
            'confidence': b['confidence'], 'accuracy': round(100 * b['accuracy'], 1),
            'questions': b['questions']} for b in bins['bins']}
    return {'calibration': {name: cells for name, cells in found.items() if cells},
            'confidence, alone and together': table}


def _times(rows: Sequence[Row]) -> Table:
    """Milliseconds from the request to the first token, the evidence being encoded."""
    sets = {'one modality': [r for r in rows if len(r.item.facts['blocks']) == 1],
            'two or more': [r for r in rows if 1 < len(r.item.facts['blocks']) < len(_NAMES)],
            'all eight': [r for r in rows if len(r.item.facts['blocks']) == len(_NAMES)],
            'all questions': list(rows)}
    out: Table = {}
    for name, found in sets.items():
        known = [1e3 * r.prediction.first_token_s for r in found
                 if not math.isnan(r.prediction.first_token_s)]
        if known:
            out[name] = {'median': round(float(np.median(known)), 2),
                         'p95': round(float(np.quantile(known, 0.95)), 2),
                         'questions': len(known)}
    return out
