"""The model that lmms-eval loads (``lmms.py`` registers it); nothing else here imports this."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import os
import sys
from typing import Any

import torch
from tqdm import tqdm

try:
    from lmms_eval.api.model import lmms
except ImportError as missing:
    raise ImportError(f'onellm_ros.evaluation.lmms_model is the model that lmms-eval loads, and '
                      f'lmms_eval cannot be imported ({missing}); pip install lmms-eval'
                      ) from missing
try:        # from 0.7 on: what is returned plain and is no text is made a text of (seen in 0.7.3)
    from lmms_eval.api.instance import GenerationResult
except ImportError:
    GenerationResult = None

from onellm_ros.evaluation import models
from onellm_ros.evaluation.lmms_media import MediaError, media_tensors
from onellm_ros.files import FileError
from onellm_ros.inference.batched import Ask, Batched, can_batch
from onellm_ros.inference.engine import Prefix
from onellm_ros.inference.locate import EngineError
from onellm_ros.inference.sampling import Sampling
from onellm_ros.modality import Modality
from onellm_ros.preprocess import PreprocessError

Inputs = dict[Modality, torch.Tensor]
MAX_NEW_TOKENS = 128            # where a task does not say
_MARKS = ('<image>', '<video>', '<audio>')      # places of media in texts: the model has its own
_KNOWN = {'until', 'max_new_tokens', 'max_gen_toks', 'temperature', 'top_p', 'do_sample',
          'num_beams', 'image_aspect_ratio'}


class OneLLM(lmms):     # type: ignore[misc]
    """A OneLLM model as lmms-eval's simple model.

    What several requests in a row show alike is encoded once.

    :param model: name or folder, as ``onellm eval --model``.
    :param batch_size: of lmms-eval: questions at once; ONNX graphs answer one after the other.
    :param device: ``auto``, ``cpu``, ``cuda``, ``cuda:N``; auto with several processes: one each.
    :param max_new_tokens: of a reply where the task does not say.
    :param seed: of sampling, for tasks that ask for a temperature.
    :param backend: ``torch``, ``onnx`` or ``auto``, as ``onellm eval`` has it.
    :raises ValueError: for a parameter that is not known.
    :raises EngineError: if the model cannot be loaded.
    """

    is_simple = True

    def __init__(self, model: str = 'nano', device: str = 'auto', batch_size: Any = 1,
                 max_new_tokens: int = MAX_NEW_TOKENS, seed: int = 0, backend: str = 'auto',
                 **others: Any) -> None:
        super().__init__()
        unknown = sorted(set(others) - {'max_batch_size'})
        if unknown:
            raise ValueError(f'--model_args: found {", ".join(unknown)}, expected some of model, '
                             'device, max_new_tokens, seed, backend')
        if device == 'auto' and torch.cuda.is_available():
            device = f'cuda:{int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count()}'
        self.engine = models.load(model, models.which(model, device, backend), device)
        self.batch_size = max(1, int(batch_size)) if str(batch_size).isdecimal() else 1
        many = self.batch_size > 1 and can_batch(self.engine)
        self._batched = Batched(self.engine) if many else None
        self._max_new_tokens, self._seed = int(max_new_tokens), int(seed)
        self._shown: tuple[str, Prefix] | None = None       # the last that was encoded
        self._told: set[str] = set()

    @classmethod
    def create_from_arg_string(cls, arg_string: str,
                               additional_config: Mapping[str, Any] | None = None) -> OneLLM:
        """Make it from ``--model_args``; what they name stands before lmms-eval's own options."""
        from lmms_eval.utils import simple_parse_args_string
        given = {name: value for name, value in (additional_config or {}).items()
                 if value is not None}
        return cls(**{**given, **simple_parse_args_string(arg_string)})

    @property
    def device(self) -> torch.device:
        """Return where the model computes."""
        return self.engine.device

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Answer; greedy unless a task asks for sampling. A reply ends before a stop string.

        What cannot be shown (a broken file) is told on stderr and answered with no words.
        """
        replies: list[str] = []
        step = self.batch_size if self._batched else 1
        with self._bar(len(requests), 'OneLLM answers') as bar:
            for start in range(0, len(requests), step):
                some = [request.args for request in requests[start:start + step]]
                found = self._together(some) if self._batched else self._alone(some)
                for (context, wanted, *_), reply in zip(some, found, strict=True):
                    self.cache_hook.add_partial('generate_until', (context, wanted), reply)
                replies += found
                bar.update(len(some))
        return replies

    def loglikelihood(self, requests: Sequence[Any]) -> list[Any]:
        """Return how unlikely each continuation is, and whether it is the greedy reply.

        Whatever its interface says, lmms-eval takes the smallest number of several choices: its
        models return losses. So this is the negative mean log likelihood of the tokens, by which
        ``onellm eval`` orders choices, too; that the line ends behind an answer counts.

        :returns: (loss, greedy) each, within a ``GenerationResult`` where there is one.
        """
        found: list[Any] = []
        with self._bar(len(requests), 'OneLLM compares') as bar:
            for request in requests:
                context, target, *rest = request.args
                show, doc_id, task, split = rest if rest else (None, 0, '', '')
                if callable(target):
                    target = target(self.task_dict[task][split][doc_id])
                prefix = self._prefix(show, doc_id, task, split)
                result = (float('inf'), False) if prefix is None else \
                    self._loss(prefix, _plain(context), str(target).strip())
                self.cache_hook.add_partial('loglikelihood', (context, target), result)
                found.append(GenerationResult(result) if GenerationResult else result)
                bar.update()
        return found

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Refuse: the tasks that match have one round.

        :raises NotImplementedError: always.
        """
        raise NotImplementedError(
            'onellm: found a task of several rounds (generate_until_multi_round), expected one '
            'that asks once; leave it out of --tasks')

    # ---- requests -------------------------------------------------------------------------------

    def _bar(self, total: int, title: str) -> Any:
        return tqdm(desc=title, total=total, disable=self.rank != 0 or not sys.stderr.isatty())

    def _shows(self, show: Any, doc_id: Any, task: str, split: str) -> tuple[Inputs, str] | None:
        """Return what a document shows, and its key; None where it cannot be used.

        :raises EngineError: for a modality that the model has not.
        """
        try:
            visuals = [] if show is None else show(self.task_dict[task][split][doc_id])
            if visuals is not None and not isinstance(visuals, list | tuple):
                visuals = [visuals]
            tensors, key = media_tensors(visuals, self.engine.config)
        except (MediaError, FileError, PreprocessError) as error:
            print(f'onellm: {task} {split} {doc_id}: {error}; no answer', file=sys.stderr)
            return None
        missing = [m.value for m in tensors if m not in self.engine.modalities]
        if missing:
            raise EngineError(f'{task}: shows {", ".join(missing)}, and the model '
                              f'{self.engine.name} knows '
                              f'{", ".join(m.value for m in self.engine.modalities)}')
        return tensors, key

    def _prefix(self, show: Any, doc_id: Any, task: str, split: str) -> Prefix | None:
        """Encode what a document shows, if the last one did not show it; None: it cannot be."""
        found = self._shows(show, doc_id, task, split)
        if found is None:
            return None
        tensors, key = found
        if self._shown is None or self._shown[0] != key:
            self._shown = key, self.engine.encode(tensors)
        return self._shown[1]

    def _alone(self, asked: Sequence[Any]) -> list[str]:
        """Answer requests one after the other; each ends as soon as a stop string is there."""
        replies = []
        for context, wanted, *where in asked:
            prefix = self._prefix(*where)
            if prefix is None:
                replies.append('')
                continue
            sampling = self._sampling(wanted)
            stream = self.engine.stream(
                prefix, _plain(context), max_tokens=sampling.max_tokens,
                temperature=sampling.temperature, top_p=sampling.top_p, seed=sampling.seed)
            text = ''
            for delta in stream:
                text += delta
                if (cut := _cut(text, wanted)) != text:
                    stream.close()
                    text = cut
                    break
            replies.append(text)
        return replies

    def _together(self, asked: Sequence[Any]) -> list[str]:
        """Answer requests in one batch; what some show alike is encoded once."""
        assert self._batched is not None
        windows: list[Inputs] = []
        known: dict[str, int] = {}
        asks: list[tuple[int, Ask]] = []
        for place, (context, wanted, *where) in enumerate(asked):
            found = self._shows(*where)
            if found is None:
                continue
            tensors, key = found
            if key not in known:
                known[key] = len(windows)
                windows.append(tensors)
            asks.append((place, Ask(known[key], _plain(context), self._sampling(wanted))))
        replies = [''] * len(asked)
        told = self._batched.answer(self._batched.encode(windows), [ask for _, ask in asks]) \
            if asks else []
        for (place, _), reply in zip(asks, told, strict=True):
            if isinstance(reply, EngineError):
                raise reply
            replies[place] = _cut(reply.text, asked[place][1])
        return replies

    def _sampling(self, wanted: Mapping[str, Any]) -> Sampling:
        """Return how a task's ``generation_kwargs`` say that tokens are drawn.

        What of them is not done is told once.
        """
        beams = wanted.get('num_beams')
        for text in (*(f'generation_kwargs {name}: not known, not used'
                       for name in sorted(set(wanted) - _KNOWN)),
                     *([f'num_beams {beams}: answered without beam search']
                       if beams not in (None, 1) else ())):
            if text not in self._told:
                self._told.add(text)
                print(f'onellm: {text}', file=sys.stderr)
        most = wanted.get('max_new_tokens') or wanted.get('max_gen_toks') or self._max_new_tokens
        temperature = float(wanted.get('temperature') or 0.0)
        if not temperature or wanted.get('do_sample') is False:
            return Sampling(int(most))
        return Sampling(int(most), temperature, float(wanted.get('top_p') or 1.0), self._seed)

    @torch.inference_mode()
    def _loss(self, prefix: Prefix, question: str, target: str) -> tuple[float, bool]:
        """Return the mean loss of an answer's tokens, and whether it is greedy."""
        engine = self.engine
        prompt, ids = engine.text.encode_prompt(question), engine.text.encode_choice(target)
        room = engine.config.llm.max_positions - prefix.positions
        if len(prompt) + len(ids) > room:
            raise EngineError(f'question and answer take {len(prompt) + len(ids)} tokens, and '
                              f'{room} fit behind what is shown; limit the task to shorter ones')
        cache = prefix.cache.copy(prefix.positions + len(prompt) + len(ids))
        logits = [engine.step(prompt, cache)[None]]
        if len(ids) > 1:
            table = torch.tensor([ids[:-1]], device=engine.device)
            logits.append(engine.continuations(table, cache)[0])
        logp = torch.log_softmax(torch.cat(logits).double(), -1)
        picked = torch.tensor(ids, device=logp.device)
        greedy = bool((logp.argmax(-1) == picked).all())
        return -float(logp.gather(-1, picked[:, None]).mean()), greedy


def _plain(context: str) -> str:
    """Return a question without the marks of media places."""
    for mark in _MARKS:
        context = context.replace(mark, '')
    return context.strip()


def _cut(text: str, wanted: Mapping[str, Any]) -> str:
    """Return a reply up to the first of its task's stop strings."""
    until = wanted.get('until') or []
    places = [text.find(stop) for stop in ([until] if isinstance(until, str) else until) if stop]
    found = [place for place in places if place >= 0]
    return text[:min(found)].rstrip() if found else text
