"""Replies graded by another language model, with the published prompts of MM-Vet and PointLLM.

The model is asked through any OpenAI-compatible endpoint that the user names. Prompts and replies
are recorded, so that a second run asks nothing and anybody can read what was judged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
import math
import re

from onellm_ros.evaluation.item import Item, Prediction
from onellm_ros.evaluation.metrics.common import check, mean, reply, without
from onellm_ros.evaluation.metrics.endpoint import Endpoint, EndpointError, recorded_model
from onellm_ros.evaluation.task import Score, Tools

_AT_ONCE = 4
_TOKENS = 128
_NAMED = 3      # items whose unread replies a text names
MMVET = (
    'Compare the ground truth and prediction from AI models, to give a correctness score '
    'for the prediction. <AND> in the ground truth means it is totally right only when '
    'all elements in the ground truth are present in the prediction, and <OR> means it is'
    ' totally right when any one element in the ground truth is present in the '
    'prediction. The correctness score is 0.0 (totally wrong), 0.1, 0.2, 0.3, 0.4, 0.5, '
    '0.6, 0.7, 0.8, 0.9, or 1.0 (totally right). Just complete the last space of the '
    'correctness score.\n'
    '\n'
    'Question | Ground truth | Prediction | Correctness\n'
    '--- | --- | --- | ---\n'
    'What is x in the equation? | -1 <AND> -5 | x = 3 | 0.0\n'
    'What is x in the equation? | -1 <AND> -5 | x = -1 | 0.5\n'
    'What is x in the equation? | -1 <AND> -5 | x = -5 | 0.5\n'
    'What is x in the equation? | -1 <AND> -5 | x = -5 or 5 | 0.5\n'
    'What is x in the equation? | -1 <AND> -5 | x = -1 or x = -5 | 1.0\n'
    'Can you explain this meme? | This meme is poking fun at the fact that the names of '
    'the countries Iceland and Greenland are misleading. Despite its name, Iceland is '
    'known for its beautiful green landscapes, while Greenland is mostly covered in ice '
    'and snow. The meme is saying that the person has trust issues because the names of '
    'these countries do not accurately represent their landscapes. | The meme talks about'
    " Iceland and Greenland. It's pointing out that despite their names, Iceland is not "
    "very icy and Greenland isn't very green. | 0.4\n"
    'Can you explain this meme? | This meme is poking fun at the fact that the names of '
    'the countries Iceland and Greenland are misleading. Despite its name, Iceland is '
    'known for its beautiful green landscapes, while Greenland is mostly covered in ice '
    'and snow. The meme is saying that the person has trust issues because the names of '
    'these countries do not accurately represent their landscapes. | The meme is using '
    "humor to point out the misleading nature of Iceland's and Greenland's names. "
    'Iceland, despite its name, has lush green landscapes while Greenland is mostly '
    "covered in ice and snow. The text 'This is why I have trust issues' is a playful way"
    ' to suggest that these contradictions can lead to distrust or confusion. The humor '
    'in this meme is derived from the unexpected contrast between the names of the '
    'countries and their actual physical characteristics. | 1.0\n')
SAME_OBJECT = (
    "Analyze two sentences and determine if they're referring to the same general object "
    'or concept, focusing on the type of object, not attributes such as color, size, or '
    "shape. Respond with 'T' if they refer to the same thing and 'F' if not. Also, "
    'provide a brief rationale (no more than 20 words) for your judgment.\n'
    'Example:\n'
    'Input: 1. Spiral staircase that goes from a ground floor. 2. This is a 3D model of '
    'wooden stairs in light brown\n'
    'Output: T#Both refer to a staircase.\n'
    '\n'
    'Now, analyze the following:\n'
    'Input: 1. {truth} 2. {said}\n'
    'Output: ')


def mmvet_prompt(question: str, answer: str, said: str) -> str:
    """Return MM-Vet's prompt: its examples, and the row whose last column is to be filled."""
    truth = answer.replace('<AND>', ' <AND> ').replace('<OR>', ' <OR> ')
    return f'{MMVET}\n{" | ".join((question, truth, said, ""))}'


def read_grade(text: str) -> float:
    """Return the grade (0..1) that a reply begins with, NaN if it begins with none."""
    match = re.match(r'\s*(0(?:\.\d+)?|1(?:\.0+)?|\.\d+)(?=[\s|;]|,\s|\.?$|\.\s)', text)
    return float(match[1]) if match else math.nan


def read_verdict(text: str) -> float:
    """Return 1 for a reply that begins with T, 0 for F, NaN for others."""
    match = re.match(r'\W*([TF])\b', text)
    return float(match[1] == 'T') if match else math.nan


def _judged(items: Sequence[Item], predictions: Sequence[Prediction], tools: Tools,
            prompt: Callable[[Item, str], str], read: Callable[[str], float],
            temperatures: Sequence[float]) -> Score:
    """Score replies by a judge, in percent; an empty one is zero without asking.

    Where no judge is named, what was recorded counts, if it is all there.

    :param temperatures: of one request after the other, until one's reply is understood.
    """
    check(items, predictions)
    lacking = without(items, lambda item: not item.answers, 'answers')
    if lacking:
        return lacking
    model = tools.judge_model if tools.judge else recorded_model(tools.judge_cache)
    if not model:
        return Score(None, why='no judge is named: it needs the address of an OpenAI-compatible '
                               'endpoint and the name of a model there')
    try:
        endpoint = Endpoint(tools.judge, model, tools.judge_key, tools.judge_cache)

        def ask(index: int) -> tuple[float, str]:
            said = reply(predictions[index])
            if not said:
                return 0.0, ''
            answer = ''
            for temperature in temperatures:
                answer = endpoint.ask(prompt(items[index], said), temperature, _TOKENS)
                grade = read(answer)
                if not math.isnan(grade):
                    return grade, answer
            return math.nan, answer

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            found = list(pool.map(ask, range(len(items))))
    except EndpointError as error:
        return Score(None, why=str(error))
    unread = [index for index, (grade, _) in enumerate(found) if math.isnan(grade)]
    if not unread:
        return mean(items, [100 * grade for grade, _ in found])
    named = '; '.join(f'{items[index].id}: {found[index][1][:60]!r}' for index in unread[:_NAMED])
    parts = {'not understood': float(len(unread))}
    if len(unread) < len(items):
        parts['of the understood'] = 100 * sum(
            grade for grade, _ in found if not math.isnan(grade)) / (len(items) - len(unread))
    return Score(None, parts=parts, why=(
        f"{len(unread)} of {len(items)} of the judge's replies were not understood ({named}); "
        'take their lines out of the recorded replies and score again, or name another judge'))


def judge_mmvet(items: Sequence[Item], predictions: Sequence[Prediction], tools: Tools) -> Score:
    """Score free answers by MM-Vet's prompt, in percent.

    :param items: ``answers[0]`` holds what must be said, with ``<AND>`` and ``<OR>``; ``group``
        the capabilities with commas between: the parts are of each.
    """
    score = _judged(items, predictions, tools,
                    lambda item, said: mmvet_prompt(item.question, item.answers[0], said),
                    read_grade, (0.0, 0.5, 1.0, 1.5))
    if not score.items:
        return score
    needed: dict[str, list[float]] = {}
    for item, value in zip(items, score.items):
        for capability in filter(None, (name.strip() for name in item.group.split(','))):
            needed.setdefault(capability, []).append(value)
    return Score(score.value, score.items, parts={
        name: sum(values) / len(values) for name, values in needed.items()})


def judge_class(items: Sequence[Item], predictions: Sequence[Prediction], tools: Tools) -> Score:
    """Score what an object was called by PointLLM's prompt, in percent.

    :param items: ``answers[0]`` says what it is.
    """
    return _judged(items, predictions, tools,
                   lambda item, said: SAME_OBJECT.format(truth=item.answers[0], said=said),
                   read_verdict, (0.0, 0.5, 1.0))
