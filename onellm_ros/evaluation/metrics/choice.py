"""Answers among choices: the letter or text read from a reply, the likeliest, a class named."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
import re

from onellm_ros.evaluation.item import Item, Prediction
from onellm_ros.evaluation.metrics.common import check, mean, reply, without
from onellm_ros.evaluation.prompts import LETTERS
from onellm_ros.evaluation.task import Score, Tools

_DECORATION = re.compile(
    r"\\boxed|\\text|</?s>|[*`\"“”${}]|(?<![\w'’])['‘](?=[A-Za-z]['’])|(?<=['‘][A-Za-z])['’]")
_ALONE = re.compile(r'[(\[]?([A-Za-z])[)\]]?[.:,;]?')
_BRACKETED = re.compile(r'[(\[]([A-Za-z])[)\]]')
_LEADING = re.compile(r'[(\[]([A-Za-z])[)\]]|([A-Za-z])[).:](?=\s|$)|([A-Z])\s+-\s')
# Behind "the answer is" a letter stands alone, or before one of these; else A may be an article.
_BECAUSE = r'(?=\s*(?:[.,;:!?)\]\n]|$|\s(?:because|since|as|due|for)\b))'
_STATED = re.compile(
    r'\b(?i:answer|option|choice|letter)\b(?:\s+(?i:is|would be|should be))?\s*:?\s*'
    r'(?:(?i:option|choice|letter)\s+)?'
    rf'(?:[(\[]([A-Za-z])[)\]]|([B-HJ-Z])\b(?![\'’-])|([AI])\b(?![\'’-]){_BECAUSE}'
    r'|(?<=:\s)([a-z])(?=[.)]?$))')
_SOMEWHERE = re.compile(
    r"[(\[]([A-Za-z])[)\]]|(?<![\w.'’-])([B-HJ-Z])(?![\w'’-])"
    r"|(?<![\w.'’-])([AI])(?=[).:,;/&]|\s*$|\s+(?:and|or|nor|/|&)\s+[A-Z]\b)")


def _plain(text: str) -> str:
    """Return lower-case words parted by single blanks, without an article before them."""
    words = re.findall(r"[^\W_]+(?:['’][^\W_]+)*", text.lower())
    return ' '.join(words[1:] if len(words) > 1 and words[0] in ('a', 'an', 'the') else words)


def _named(text: str, choices: Sequence[str]) -> set[int]:
    """Return the choices whose words stand in a text, without those within a longer one there."""
    said, spans = _plain(text), []
    for index, choice in enumerate(choices):
        words = [re.escape(word) for word in _plain(choice).split()]
        if words:
            # "livingroom" names a "living room".
            spans += [(match.start(), match.end(), index)
                      for match in re.finditer(rf"\b{' ?'.join(words)}\b", said)]
    return {index for start, end, index in spans if not any(
        first <= start and end <= last and last - first > end - start for first, last, _ in spans)}


def _listed(said: str, choices: Sequence[str]) -> set[int]:
    """Return the choices that stand in a text behind their letter, as the prompt lists them."""
    return {index for index, (letter, choice) in enumerate(zip(LETTERS, choices)) if re.search(
        rf'(?<!\S)[(\[]?{letter}[).:\]]\s+{re.escape(" ".join(choice.split()))}(?!\w)',
        said, re.IGNORECASE)}


def read_choice(text: str, choices: Sequence[str]) -> int:
    """Return which choice a free reply means, -1 for none or more than one.

    A letter alone counts first (``b``, ``(B)``), then the text of a choice alone (``cat``), a
    letter in front (``B. cat``), a stated one (``The answer is B``), and last a letter or the text
    of a choice somewhere, if only one choice is meant. ``A cat`` is no letter.
    """
    said = ' '.join(_DECORATION.sub(' ', text).split())
    known = LETTERS[:len(choices)]

    def letters(pattern: re.Pattern[str]) -> set[int]:
        found = (next(group for group in match.groups() if group).upper()
                 for match in pattern.finditer(said))
        return {known.index(letter) for letter in found if letter in known}

    alone = _ALONE.fullmatch(said)
    if alone:
        return known.find(alone[1].upper())
    same = [index for index, choice in enumerate(choices)
            if _plain(choice) and _plain(choice) == _plain(said)]
    if same:
        return same[0] if len(same) == 1 else -1
    leading = _LEADING.match(said)
    if leading:
        letter = known.find(next(group for group in leading.groups() if group).upper())
        if letter >= 0:
            others = (letters(_STATED) | letters(_BRACKETED) | _listed(said, choices)) - {letter}
            return -1 if others else letter
    stated = letters(_STATED)
    if stated:
        return stated.pop() if len(stated) == 1 else -1
    somewhere, named = letters(_SOMEWHERE), _named(said, choices)
    meant = somewhere | named
    return meant.pop() if len(meant) == 1 else -1


def read_class(text: str, classes: Sequence[str]) -> int:
    """Return which class a reply names, the longest name that fits; -1 for none or several."""
    found = _named(text, classes)
    return found.pop() if len(found) == 1 else -1


def _chosen(items: Sequence[Item], predictions: Sequence[Prediction],
            choose: Callable[[str, Sequence[str]], int]) -> Score:
    check(items, predictions)
    return without(items, lambda item: item.right < 0, 'right choice') or mean(
        items, [100.0 * (choose(reply(prediction), item.choices) == item.right)
                for item, prediction in zip(items, predictions)])


def choice_letter(items: Sequence[Item], predictions: Sequence[Prediction], tools: Tools) -> Score:
    """Score choices read from replies in percent, see :func:`read_choice`."""
    return _chosen(items, predictions, read_choice)


def choice_circular(items: Sequence[Item], predictions: Sequence[Prediction],
                    tools: Tools) -> Score:
    """Score questions that come with their choices in each turn, in percent of the questions.

    One counts if it is answered rightly in every turn, as MMBench defines it. The copies of a
    question share ``facts['circle']``; an item without it is a question of its own. Where turns
    are missing (a part of the table, ``--limit``) the score's ``why`` tells: it is then too high.
    """
    single = choice_letter(items, predictions, tools)
    if single.value is None:
        return single
    circles: dict[str, list[int]] = {}
    for index, item in enumerate(items):
        circles.setdefault(item.facts.get('circle', f'item {item.id}'), []).append(index)
    firsts = [items[turns[0]] for turns in circles.values()]
    found = mean(firsts, [min(single.items[index] for index in turns)
                          for turns in circles.values()])
    fewer = sum('circle' in items[turns[0]].facts and len(turns) < len(items[turns[0]].choices)
                for turns in circles.values())
    # of questions, not of items
    return replace(found, items=(), why=(
        f'{fewer} of {len(circles)} questions come in fewer turns than they have choices, which '
        'is easier than all turns') if fewer else '')


def class_text(items: Sequence[Item], predictions: Sequence[Prediction], tools: Tools) -> Score:
    """Score classes named in replies in percent, see :func:`read_class`."""
    return _chosen(items, predictions, read_class)


def choice_likelihood(items: Sequence[Item], predictions: Sequence[Prediction],
                      tools: Tools) -> Score:
    """Score the likeliest choices in percent; not computed where no likelihoods were asked."""
    check(items, predictions)
    asked = [prediction for prediction in predictions if prediction.finish_reason != 'broken']
    if asked and not any(prediction.choice >= 0 for prediction in asked):
        return Score(None, why='the predictions hold no likelihoods of the choices')
    return without(items, lambda item: item.right < 0, 'right choice') or mean(
        items, [100.0 * (prediction.choice == item.right and prediction.finish_reason != 'broken')
                for item, prediction in zip(items, predictions)])
