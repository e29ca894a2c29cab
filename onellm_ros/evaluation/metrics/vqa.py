"""Short answers: VQA accuracy, GQA's exact match, and accuracy against one answer.

The rules are those of the VQA challenge's evaluation (its server's answer processor), oddities
included: a comma between digits removes all punctuation of an answer, only the first 32 full stops
are removed, ``none`` is ``0``, and what looks like a look-behind of full stops is none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
import re

from onellm_ros.evaluation.item import Item, Prediction
from onellm_ros.evaluation.metrics.common import check, mean, reply, without
from onellm_ros.evaluation.task import Score, Tools

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_DIGIT_COMMA = re.compile(r'\d,\d')
_STOP = re.compile(r'(?!<=\d)\.(?!\d)')
_STOPS = 32                 # re.UNICODE, which the evaluation passes in the place of a count
_NUMBERS = {word: str(number) for number, word in enumerate(
    'zero one two three four five six seven eight nine ten'.split())} | {'none': '0'}
_ARTICLES = frozenset(('a', 'an', 'the'))


def _contractions() -> dict[str, str]:
    """Return words without their apostrophe, and with it, as the evaluation lists them."""
    plain = (
        "ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't "
        "he'd he's how'd how'll how's isn't it'd it'll ma'am mightn't might've mustn't "
        "must've needn't not've o'clock oughtn't shan't should've shouldn't somebody'll "
        "somebody's someone'd someone'll someone's something'd something'll that's "
        "there'd there're there's they'd they'll they're they've 'twas wasn't we've "
        "weren't what'll what're what's what've when's where'd where's where've who'd "
        "who'll who's who've why'll why're why's won't would've wouldn't y'all you'd "
        "you'll you're you've").split()
    found = {word.replace("'", ''): word for word in plain}
    for word in ("couldn't hadn't he'd it'd mightn't she'd shouldn't somebody'd someone'd "
                 "something'd there'd they'd we'd who'd wouldn't you'd").split():
        found[word.replace("'", '') + "'ve"] = found[word + 've'] = word + "'ve"
    found.update({
        "ow's'at": "'ow's'at", "'ows'at": "'ow's'at", "'ow'sat": "'ow's'at",
        "somebody'd": 'somebodyd', "yall'll": "y'all'll", "y'allll": "y'all'll",
        "yall'd've": "y'all'd've", "y'alld've": "y'all'd've", "y'all'dve": "y'all'd've"})
    return found


_CONTRACTIONS = _contractions()


def normalize(text: str) -> str:
    """Return an answer as the VQA challenge compares it."""
    text = text.replace('\n', ' ').replace('\t', ' ').strip()
    joined = bool(_DIGIT_COMMA.search(text))
    found = text
    for mark in _PUNCTUATION:
        apart = joined or f'{mark} ' in text or f' {mark}' in text
        found = found.replace(mark, '' if apart else ' ')
    words = [_NUMBERS.get(word, word)
             for word in _STOP.sub('', found, count=_STOPS).lower().split()]
    return ' '.join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def vqa_score(text: str, answers: Sequence[str]) -> float:
    """Return the VQA accuracy of an answer, 0..1: over all people, left out in turn.

    Without one person's answer, each of the others' that is the same is worth a third, three are
    worth all. People's answers are normalized like the model's (the challenge's files hold them so
    already, TextVQA's and VizWiz's do not).
    """
    if not text.strip():
        return 0.0
    said = normalize(text)
    same = [normalize(answer) == said for answer in answers]
    matches = sum(same)
    return sum(min(1.0, (matches - own) / 3) for own in same) / len(same)


def answer_score(text: str, answers: Sequence[str]) -> float:
    """Return 1 for the answer that most people gave, else 0; of equally frequent ones, each."""
    said = normalize(text)
    counts = Counter(normalize(answer) for answer in answers)
    return float(bool(text.strip()) and counts[said] == max(counts.values()))


def exact_score(text: str, answers: Sequence[str]) -> float:
    """Return 1 for a text that is an answer, in lower case and without the full stop behind it."""
    said = text.strip().rstrip('.').lower()
    return float(bool(said) and said in {answer.strip().lower() for answer in answers})


def _scored(items: Sequence[Item], predictions: Sequence[Prediction],
            score: Callable[[str, Sequence[str]], float]) -> Score:
    check(items, predictions)
    return without(items, lambda item: not item.answers, 'answers') or mean(
        items, [100 * score(reply(prediction), item.answers)
                for item, prediction in zip(items, predictions)])


def vqa_accuracy(items: Sequence[Item], predictions: Sequence[Prediction], tools: Tools) -> Score:
    """Score answers against those of (ten) people, in percent, see :func:`vqa_score`."""
    return _scored(items, predictions, vqa_score)


def exact_match(items: Sequence[Item], predictions: Sequence[Prediction], tools: Tools) -> Score:
    """Score answers as GQA does, in percent: the same text.

    GQA's script compares as it is; replies come to it in lower case and without their full stop.
    """
    return _scored(items, predictions, exact_score)


def answer_accuracy(items: Sequence[Item], predictions: Sequence[Prediction],
                    tools: Tools) -> Score:
    """Score answers against the normalized one, in percent; of several people's, most people's."""
    return _scored(items, predictions, answer_score)
