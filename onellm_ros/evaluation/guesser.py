"""A guesser that sees only the question: what accuracy is worth must be more than it reaches."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

from onellm_ros.simulation.language import Question, normalise


class Guesser:
    """Answers with the most frequent answer to the same question, else to its type.

    :param seen: questions with answers to learn from, of other worlds than those asked about.
    """

    def __init__(self, seen: Iterable[Question]) -> None:
        self._texts: dict[str, Counter[str]] = defaultdict(Counter)
        self._types: dict[str, Counter[str]] = defaultdict(Counter)
        forms: dict[str, str] = {}          # the same texts come again and again
        for question in seen:
            text = question.question
            if text not in forms:
                forms[text] = normalise(text)
            self._texts[forms[text]][question.answer] += 1
            self._types[question.type][question.answer] += 1

    def guess(self, question: Question) -> str:
        """Return the guess; empty if nothing like it was ever asked."""
        for counts in (self._texts.get(normalise(question.question)),
                       self._types.get(question.type)):
            if counts:
                # Ties by the text, so that the order of learning does not matter.
                return min(counts, key=lambda answer: (-counts[answer], answer))
        return ''
