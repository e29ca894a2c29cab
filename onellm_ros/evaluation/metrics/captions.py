"""CIDEr, BLEU and ROUGE-L as COCO's caption evaluation computes them, without Java.

Own code, because the published package (pycocoevalcap) is a download of 104 MB, nearly all of it
Java and METEOR's data, for these few formulas, and calls Java for its tokenizer. Tests hold both
together to 1e-9.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
import math

from onellm_ros.evaluation.item import Item, Prediction
from onellm_ros.evaluation.metrics.common import check, grouped, mean, reply, without
from onellm_ros.evaluation.metrics.ptb import tokenize
from onellm_ros.evaluation.task import Score, Tools

NGRAMS = 4
_SIGMA = 6.0                    # CIDEr-D's penalty of a length that differs
_BETA = 1.2                     # ROUGE-L's weight of recall
_TINY, _SMALL = 1e-15, 1e-9     # BLEU's guards against 0 / 0

NGram = tuple[str, ...]


def words_of(items: Sequence[Item], predictions: Sequence[Prediction]) -> tuple[
        list[str], list[list[str]]]:
    """Return the words of the predictions, and of each item's references, parted by blanks."""
    flat = iter(tokenize([answer for item in items for answer in item.answers]))
    references = [[next(flat) for _ in item.answers] for item in items]
    return tokenize([reply(prediction) for prediction in predictions]), references


def ngrams(text: str) -> Counter[NGram]:
    """Return how often each run of one to four words occurs."""
    words = text.split()
    return Counter(tuple(words[start:start + size]) for size in range(1, NGRAMS + 1)
                   for start in range(len(words) - size + 1))


def cider_scores(texts: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """Return CIDEr-D of each text against its references, 0..10.

    How much a run of words counts depends on how few items' references hold it, so a score is one
    of the whole set (and zero in a set of one item).
    """
    counted = [[ngrams(text) for text in texts_of] for texts_of in references]
    documents = Counter(ngram for refs in counted for ngram in set().union(*refs))
    log_items = math.log(len(counted))

    def weigh(counts: Counter[NGram]) -> tuple[list[dict[NGram, float]], list[float], int]:
        weights: list[dict[NGram, float]] = [{} for _ in range(NGRAMS)]
        for ngram, count in counts.items():
            rare = log_items - math.log(max(1, documents[ngram]))
            weights[len(ngram) - 1][ngram] = count * rare
        norms = [math.sqrt(sum(value * value for value in each.values())) for each in weights]
        return weights, norms, sum(count for ngram, count in counts.items() if len(ngram) == 2)

    scores = []
    for text, refs in zip(texts, counted):
        said, said_norms, said_length = weigh(ngrams(text))
        total = 0.0
        for ref in refs:
            true, true_norms, true_length = weigh(ref)
            likeness = 0.0
            for size in range(NGRAMS):
                shared = sum(min(value, true[size].get(ngram, 0.0)) * true[size].get(ngram, 0.0)
                             for ngram, value in said[size].items())
                norm = said_norms[size] * true_norms[size]
                likeness += shared / norm if norm else shared
            apart = said_length - true_length
            total += likeness * math.exp(-apart * apart / (2 * _SIGMA * _SIGMA))
        scores.append(10 * total / NGRAMS / len(refs))
    return scores


def bleu_score(texts: Sequence[str], references: Sequence[Sequence[str]], size: int) -> float:
    """Return BLEU of runs of up to ``size`` words over all texts together, 0..1.

    The length is compared with the nearest one of each text's references.
    """
    right, guessed = [0] * size, [0] * size
    length = nearest = 0
    for text, refs in zip(texts, references):
        most: Counter[NGram] = Counter()
        for ref in refs:
            most |= ngrams(ref)
        words = len(text.split())
        length += words
        nearest += min((len(ref.split()) for ref in refs),
                       key=lambda other: (abs(other - words), other))
        for order in range(size):
            guessed[order] += max(0, words - order)
        for ngram, count in (ngrams(text) & most).items():
            if len(ngram) <= size:
                right[len(ngram) - 1] += count
    product = math.prod((yes + _TINY) / (all_ + _SMALL) for yes, all_ in zip(right, guessed))
    ratio = (length + _TINY) / (nearest + _SMALL)
    return product ** (1 / size) * (math.exp(1 - 1 / ratio) if ratio < 1 else 1)


def _common(first: Sequence[str], second: Sequence[str]) -> int:
    """Return the length of the longest common subsequence."""
    row = [0] * (len(second) + 1)
    for word in first:
        before = 0
        for index, other in enumerate(second):
            above = row[index + 1]
            row[index + 1] = before + 1 if word == other else max(above, row[index])
            before = above
    return row[-1]


def rouge_score(text: str, references: Sequence[str]) -> float:
    """Return ROUGE-L of a text, 0..1: the best precision and the best recall over its references.

    A text without a word scores zero, also against a reference without one (COCO's code says 1).
    """
    if not text:
        return 0.0
    words = text.split(' ')
    others = [reference.split(' ') for reference in references]
    common = [_common(words, other) for other in others]
    precision = max(common) / len(words)
    recall = max(length / len(other) for length, other in zip(common, others))
    if not precision or not recall:
        return 0.0
    return (1 + _BETA ** 2) * precision * recall / (recall + _BETA ** 2 * precision)


def no_references(items: Sequence[Item]) -> Score | None:
    """Return why captions cannot be scored, or None."""
    return without(items, lambda item: not item.answers, 'reference captions')


def cider(items: Sequence[Item], predictions: Sequence[Prediction], tools: Tools) -> Score:
    """Score captions by CIDEr-D times 100, see :class:`~onellm_ros.evaluation.task.Metric`."""
    check(items, predictions)
    texts, references = words_of(items, predictions)
    return no_references(items) or mean(
        items, [100 * score for score in cider_scores(texts, references)])


def rouge_l(items: Sequence[Item], predictions: Sequence[Prediction], tools: Tools) -> Score:
    """Score captions by ROUGE-L times 100, see :class:`~onellm_ros.evaluation.task.Metric`."""
    check(items, predictions)
    texts, references = words_of(items, predictions)
    return no_references(items) or mean(
        items, [100 * rouge_score(*each) for each in zip(texts, references)])


def _bleu(size: int) -> Callable[[Sequence[Item], Sequence[Prediction], Tools], Score]:
    def bleu(items: Sequence[Item], predictions: Sequence[Prediction], tools: Tools) -> Score:
        check(items, predictions)
        lacking = no_references(items)
        if lacking:
            return lacking
        texts, references = words_of(items, predictions)

        def of(indices: Sequence[int]) -> float:
            return 100 * bleu_score([texts[index] for index in indices],
                                    [references[index] for index in indices], size)

        # Of all texts together, not a mean of the items' scores.
        return Score(of(range(len(items))), parts={
            group: of(indices) for group, indices in grouped(items).items()})
    bleu.__doc__ = f'Score captions by BLEU-{size} times 100, of all of them together.'
    return bleu


bleu_1 = _bleu(1)
bleu_4 = _bleu(4)
