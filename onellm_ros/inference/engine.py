"""The engine: a loaded model that encodes a window once and answers any number of questions on it.

Thread safety: one lock guards the model and is held for one forward pass at a time, so questions
from several threads interleave token by token; a prefix and its cache are never changed, so any
number of answers may use one. The engine is deterministic at temperature 0 and with a seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
import threading
import time

import torch
from torch import Tensor

from onellm_ros.config import MAX_TOKENS, ModelConfig
from onellm_ros.export.layout import is_export
from onellm_ros.inference import quantize as quantizing
from onellm_ros.inference.answers import Answer, AnswerStream, Prefix
from onellm_ros.inference.backend import Backend, Cache, TorchBackend, Work, template_head
from onellm_ros.inference.choosing import BACKENDS, choose, onnx_backend
from onellm_ros.inference.drafting import Drafts
from onellm_ros.inference.encoding import WindowEncoder
from onellm_ros.inference.locate import EngineError, find_device, find_model
from onellm_ros.inference.onnx_backend import OnnxBackend
from onellm_ros.inference.sampling import Sampling
from onellm_ros.modality import Modality, prompt_order
from onellm_ros.model.checkpoint import CheckpointError, load_model, weights_hash
from onellm_ros.model.onellm import OneLLM
from onellm_ros.model.text import Text, TextError
from onellm_ros.preprocess import Preprocessor

# Below this size one CPU thread is faster than waiting for a second at every small operation.
_SMALL_PARAMETERS = 100_000_000
Turns = Sequence[tuple[str, str]]       # (question, answer), oldest first


class Engine:
    """A model ready to answer.

    Attributes: ``name``, ``weights_hash``, ``config``, ``preprocessor``, ``device``, ``text``,
    ``modalities`` (all that the model knows), ``backend`` and ``backend_why`` (why it is this one,
    empty where there was no choice), ``model`` (None where only an export was loaded), ``drafts``
    (what guesses at answers; ``drafts.most = 0`` ends that).
    """

    def __init__(self, model: OneLLM | OnnxBackend, text: Text, *, weights_hash: str = '') -> None:
        self.model: OneLLM | None = None
        if isinstance(model, OneLLM):
            self.model = model.eval()
            self.backend: Backend = TorchBackend(model, template_head(text))
        else:
            self.backend = model
        self.drafts = Drafts(getattr(self._language, 'drafted', 0))
        self.backend_why = ''
        self.text = text
        self.config: ModelConfig = model.config
        self.name = model.config.name
        self.modalities = model.modalities
        self.weights_hash = weights_hash
        self.device = self.backend.device
        self.preprocessor = Preprocessor(model.config.tokenizer, model.config.encoder.image_size)
        self._windows = WindowEncoder()
        self._lock = threading.Lock()
        if text.size > model.config.llm.vocab_size:
            raise EngineError(f'tokenizer: found {text.size} tokens, expected at most the '
                              f'{model.config.llm.vocab_size} of the model; take the tokenizer '
                              'that belongs to it')

    @classmethod
    def load(cls, model: str | Path = 'nano', device: str = 'auto',
             dtype: torch.dtype | None = None, threads: int = 0,
             backend: str = 'auto', quantize: str = 'none') -> Engine:
        """Load a model.

        :param model: a directory (one that ``onellm export`` wrote, too), or the name of a model
            that ships with the package.
        :param device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        :param dtype: default: float32 on the CPU, bfloat16 on CUDA or where it is quantized.
        :param threads: CPU threads of torch in this process; 0: one for a small model on the CPU
            (a second thread costs it more than it gives), else torch's own choice.
        :param backend: ``torch``, ``onnx`` (needs an export of the weights) or ``auto``: what was
            measured to be faster here, torch where there is no export (docs/onnx.md).
        :param quantize: ``none``, or the type of the language model's weights: ``int8``, ``int4``
            or ``fp8`` (``quantize.py``; not exact). ``weights_hash`` then ends in ``+int8``.
        :raises EngineError: if it cannot be loaded; the text says what to do.
        """
        folder = find_model(model)
        place = find_device(device)
        if threads < 0:
            raise EngineError(f'threads: expected 0 or more, found {threads}')
        if backend not in BACKENDS:
            raise EngineError(f'backend: expected one of {", ".join(BACKENDS)}, found '
                              f'{backend!r}')
        quantizing.check(quantize, place, dtype, 'onnx' if is_export(folder) else backend)
        if is_export(folder) or backend == 'onnx':
            return cls._of_export(model, folder, place, threads, backend)
        less = quantize != 'none'
        kind = dtype or (torch.bfloat16 if place.type == 'cuda' or less else torch.float32)
        try:
            loaded = load_model(folder, dtype=kind, device='cpu' if less else place)
            text = Text.load(folder, loaded.config.text)
            short = weights_hash(folder)
        except (CheckpointError, TextError) as error:
            raise EngineError(f'model {str(model)!r}: {error}') from error
        small = sum(p.numel() for p in loaded.parameters()) < _SMALL_PARAMETERS
        if less:
            loaded, short = quantizing.quantize(loaded, quantize, place), f'{short}+{quantize}'
        if threads or (place.type == 'cpu' and small):
            torch.set_num_threads(threads or 1)
        engine = cls(loaded, text, weights_hash=short)
        engine.backend_why = f'language model in {quantize}' if less else ''
        if backend == 'auto' and not less and isinstance(engine.backend, TorchBackend):
            chosen = choose(engine.backend, folder, short, threads)
            engine.backend, engine.backend_why = chosen.backend, chosen.why
            engine.drafts = Drafts(getattr(engine._language, 'drafted', 0))
        return engine

    @classmethod
    def _of_export(cls, model: str | Path, folder: Path, place: torch.device, threads: int,
                   backend: str) -> Engine:
        """Load an exported model, or the export of a model's weights; torch's are not loaded."""
        if backend == 'torch':
            raise EngineError(f'model {str(model)!r} holds ONNX graphs alone, and backend torch '
                              'was asked for; give the folder of the model itself')
        try:
            graphs = OnnxBackend(folder, place, threads) if is_export(folder) else onnx_backend(
                folder, weights_hash(folder), place, threads)
            text = Text.load(graphs.graphs.folder, graphs.config.text)
        except (CheckpointError, TextError) as error:
            raise EngineError(f'model {str(model)!r}: {error}') from error
        if graphs.graphs.threads:
            torch.set_num_threads(graphs.graphs.threads)    # sampling and grouping of points
        return cls(graphs, text, weights_hash=graphs.graphs.manifest.weights_hash)

    def forget(self) -> None:
        """Forget what came of earlier samples: pictures, features, modality tokens, answers."""
        self.preprocessor.forget()
        self._windows.forget()
        self.drafts.forget()

    @torch.inference_mode()
    def encode(self, tensors: Mapping[Modality, Tensor]) -> Prefix:
        """Encode a window's modalities (none: text only) into a prompt's beginning.

        What earlier windows of the same samples gave is not computed again (``encoding.py``).

        :param tensors: inputs as :class:`Preprocessor` makes them, each with a batch of 1.
        :raises EngineError: for a shape that does not fit, values that are not finite, or too many
            modalities for the model's positions.
        """
        started = time.perf_counter()
        inputs: dict[Modality, Tensor] = {}
        for modality in prompt_order(tensors):
            x = tensors[modality]
            if x.shape[0] != 1:
                raise EngineError(f'{modality}: expected a batch of 1, found shape '
                                  f'{list(x.shape)}')
            if not bool(torch.isfinite(x).all()):
                raise EngineError(f'{modality}: the input has values that are not finite')
            inputs[modality] = x
        with self._lock:
            try:
                tokens, weights = self._windows.encode(self.backend, inputs,
                                                       getattr(tensors, 'origins', {}))
            except ValueError as error:
                raise EngineError(str(error)) from error
            positions = self.backend.prefix_positions(tokens)
            if positions >= self.config.llm.max_positions:
                raise EngineError(f'{len(tokens)} modalities take {positions} positions, the '
                                  f'model has {self.config.llm.max_positions}; use fewer')
            cache = self.backend.prefill(tokens, self.text.bos)
        return Prefix(tuple(tokens), weights, positions, time.perf_counter() - started, cache)

    @property
    def _language(self) -> Backend:
        """Return what computes the language model."""
        return getattr(self.backend, 'language', self.backend)

    @property
    def shares(self) -> bool:
        """Whether two answers cost little more than one, if :meth:`steps` computes them together.

        Where they do not, it is better to compute one after the other.
        """
        return getattr(self._language, 'shares', False)

    def step(self, ids: Sequence[int], cache: Cache) -> Tensor:
        """Run ``ids`` behind a cache and return the float32 logits [vocab] of the last one."""
        return self.steps([(ids, cache, 1)])[0][0]

    @torch.inference_mode()
    def steps(self, work: Sequence[Work]) -> list[Tensor]:
        """Run tokens behind several caches, none of them twice, in one pass where that pays.

        What each gives is what it gives alone; on some processors the last digits may differ.

        :param work: ids, their cache, and of how many of the last ids the logits are wanted (more
            than one only where guesses are made).
        :returns: float32 logits [count, vocab] of each.
        :raises Exception: whatever fails; no cache is longer then.
        """
        together = getattr(self._language, 'steps', None)
        lengths = [cache.length for _, cache, _ in work]
        with self._lock:
            try:
                if together is not None:
                    found = together(work)
                else:
                    found = [self.backend.step(ids, cache)[None] for ids, cache, _ in work]
            except Exception:
                for (_, cache, _), length in zip(work, lengths, strict=True):
                    cache.length = length
                raise
        return [logits[:, :self.text.size] for logits in found]

    @torch.inference_mode()
    def continuations(self, table: Tensor, cache: Cache) -> Tensor:
        """Return float32 logits [n, L, vocab] of rows [n, L] of ids behind one sequence.

        The cache does not change.
        """
        with self._lock:
            return self.backend.continuations(table, cache)[..., :self.text.size]

    def _prompt(self, prefix: Prefix, question: str, history: Turns = (), more: int = 1,
                spare: int = 0) -> tuple[list[int], int]:
        """Encode a question, checking that it and ``more`` tokens fit behind the prefix.

        :param history: of these the newest are put before it that leave ``spare`` tokens more.
        :returns: ids, and how many turns of the history they hold.
        """
        if not question.strip():
            raise EngineError('question: expected text, found none')
        room = self.config.llm.max_positions - prefix.positions - more
        for first in range(len(history)):
            ids = self.text.encode_prompt(question.strip(), history[first:])
            if len(ids) + spare <= room:
                return ids, len(history) - first
        ids = self.text.encode_prompt(question.strip())
        if len(ids) > room:
            raise EngineError(f'question: it takes {len(ids)} tokens, and {max(room, 0)} fit '
                              'behind what was sensed; ask a shorter one')
        return ids, 0

    def stream(self, prefix: Prefix, question: str, *, history: Turns = (),
               max_tokens: int = MAX_TOKENS, temperature: float = 0.0, top_p: float = 1.0,
               seed: int | None = None, cancel: threading.Event | None = None) -> AnswerStream:
        """Answer a question, delta by delta.

        The question is checked at once; the work is done while iterating. ``cancel`` ends it
        within one token.

        :param history: earlier (question, answer) turns, oldest first; the oldest are left out
            where they, the question and ``max_tokens`` do not fit the model's positions.
        :raises EngineError: for an empty or too long question, or sampling that means nothing.
        """
        sampling = Sampling(max_tokens, temperature, top_p, seed)
        sampling.check()
        prompt = self._prompt(prefix, question, history, spare=max_tokens - 1)
        return AnswerStream(self, prefix, prompt, sampling, cancel, self.drafts.of(prompt[0]))

    def ask(self, prefix: Prefix, question: str, *, history: Turns = (),
            choices: Sequence[str] = (), max_tokens: int = MAX_TOKENS, temperature: float = 0.0,
            top_p: float = 1.0, seed: int | None = None,
            cancel: threading.Event | None = None) -> Answer:
        """Answer a question.

        :param history: as :meth:`stream`.
        :param choices: texts to choose from; empty for a free answer. Each is scored by the mean
            log likelihood of its tokens.
        :raises EngineError: as :meth:`stream`; for empty choices too.
        """
        if choices:
            return self._choose(prefix, question, history, choices, cancel)
        stream = self.stream(prefix, question, history=history, max_tokens=max_tokens,
                             temperature=temperature, top_p=top_p, seed=seed, cancel=cancel)
        for _ in stream:
            pass
        assert stream.answer is not None
        return stream.answer

    def describe(self, prefix: Prefix, *, max_tokens: int = MAX_TOKENS, temperature: float = 0.0,
                 top_p: float = 1.0, seed: int | None = None,
                 cancel: threading.Event | None = None) -> Answer:
        """Answer the model's own describing prompt (``config.text.describe_prompt``)."""
        return self.ask(prefix, self.config.text.describe_prompt, max_tokens=max_tokens,
                        temperature=temperature, top_p=top_p, seed=seed, cancel=cancel)

    def _choose(self, prefix: Prefix, question: str, history: Turns, choices: Sequence[str],
                cancel: threading.Event | None) -> Answer:
        """Score choices behind a question and return the likeliest."""
        started = time.perf_counter()
        wanted = [choice.strip() for choice in choices]
        if not all(wanted):
            raise EngineError(f'choices: choice {wanted.index("")} is empty')
        ids = [self.text.encode_choice(choice) for choice in wanted]
        longest = max(map(len, ids))
        if longest >= (room := self.config.llm.max_positions - prefix.positions):
            raise EngineError(f'choices: the longest takes {longest} tokens, and {room} fit '
                              'behind what was sensed; give shorter ones')
        prompt, turns = self._prompt(prefix, question, history, longest)
        if cancel is not None and cancel.is_set():
            return Answer('', 0, 'cancelled', 0.0, time.perf_counter() - started)
        cache = prefix.cache.copy(prefix.positions + len(prompt))
        first = torch.log_softmax(self.step(prompt, cache), -1)
        first_s = time.perf_counter() - started
        means = self._likelihoods(first, ids, cache)
        probabilities = torch.softmax(means, -1).tolist()
        best = max(range(len(ids)), key=probabilities.__getitem__)
        return Answer(wanted[best], sum(map(len, ids)), 'stop', first_s,
                      time.perf_counter() - started, best, tuple(probabilities),
                      probabilities[best], turns)

    @torch.inference_mode()
    def _likelihoods(self, first: Tensor, ids: Sequence[Sequence[int]], cache: Cache) -> Tensor:
        """Return the mean log likelihood of each continuation, given that of all first tokens."""
        longest = max(map(len, ids))
        lengths = torch.tensor([len(i) for i in ids], device=self.device)
        table = torch.tensor([[*i, *[0] * (longest - len(i))] for i in ids], device=self.device)
        total = first[table[:, 0]].double()
        if longest > 1:
            logp = torch.log_softmax(self.continuations(table[:, :-1], cache), -1)
            picked = logp.gather(-1, table[:, 1:, None])[..., 0].double()
            inside = torch.arange(1, longest, device=self.device) < lengths[:, None]
            total = total + (picked * inside).sum(-1)
        return total / lengths
