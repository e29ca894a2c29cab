"""Text to tokens and back: tokenizer files, chat templates, stops, and training a small tokenizer.

A tokenizer is ``tokenizer.json`` (Hugging Face ``tokenizers``) or ``tokenizer.model``
(SentencePiece, read with the ``sentencepiece`` package where it is installed).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from pathlib import Path
from typing import Any, Protocol

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from onellm_ros.config import ConfigError, TextConfig

TEMPLATES = ('released', 'training', 'plain')
# The system text of the released model.
RELEASED_SYSTEM = (
    'A chat between a curious human and an artificial intelligence assistant. The assistant gives '
    "helpful, detailed, and polite answers to the human's questions.")
PAD, BOS, EOS, STOP = '<pad>', '<s>', '</s>', '###'
_BOS_NAMES = (BOS, '<|begin_of_text|>', '<bos>', '<|endoftext|>')
_EOS_NAMES = (EOS, '<|end_of_text|>', '<eos>', '<|endoftext|>')
_PAD_NAMES = (PAD, '<unk>')


class TextError(ValueError):
    """A tokenizer file that cannot be used."""


class Backend(Protocol):
    """What a tokenizer library must offer."""

    size: int

    def encode(self, text: str) -> list[int]:
        """Return ids of plain text; names of special tokens in it are text."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, special tokens left out."""

    def find(self, token: str) -> int | None:
        """Return the id of a token that exists as one piece."""

    def special(self, token: str) -> int | None:
        """Return the id of a token that plain text never gives."""


class JsonBackend:
    """A ``tokenizer.json`` file or a trained :class:`tokenizers.Tokenizer`."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.tokenizer.encode_special_tokens = True
        self.size: int = tokenizer.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str) -> list[int]:
        """Return ids of plain text."""
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def find(self, token: str) -> int | None:
        """Return a token's id."""
        found: int | None = self.tokenizer.token_to_id(token)
        return found

    def special(self, token: str) -> int | None:
        """Return a special token's id."""
        return next((i for i, t in self.tokenizer.get_added_tokens_decoder().items()
                     if t.special and t.content == token), None)


class SentencePieceBackend:
    """A ``tokenizer.model`` file."""

    def __init__(self, path: Path) -> None:
        try:
            import sentencepiece
        except ImportError:
            raise TextError(f'{path}: a SentencePiece tokenizer needs the sentencepiece package: '
                            'install it, or put a tokenizer.json beside the weights') from None
        self.pieces: Any = sentencepiece.SentencePieceProcessor()
        try:
            self.pieces.Load(str(path))
        except (RuntimeError, OSError) as error:
            raise TextError(f'{path}: not readable as a SentencePiece model: {error}') from error
        self.size: int = self.pieces.GetPieceSize()

    def encode(self, text: str) -> list[int]:
        """Return ids of plain text."""
        return list(self.pieces.EncodeAsIds(text))

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids."""
        return str(self.pieces.DecodeIds([i for i in ids if not self.pieces.IsControl(i)]))

    def find(self, token: str) -> int | None:
        """Return a token's id, if it exists as one piece."""
        found = int(self.pieces.PieceToId(token))
        return found if self.pieces.IdToPiece(found) == token else None

    def special(self, token: str) -> int | None:
        """Return a control token's id."""
        found = self.find(token)
        return found if found is not None and self.pieces.IsControl(found) else None


class Text:
    """A tokenizer with the chat template of a model.

    Attributes: ``bos``, ``eos``, ``pad`` (ids), ``stop_ids`` (ids that end an answer: the end of
    the sequence and, where it is a special token, the stop text), ``size`` (number of ids).
    """

    def __init__(self, backend: Backend | Tokenizer, config: TextConfig) -> None:
        if config.template not in TEMPLATES:
            raise ConfigError(
                f'text.template: expected one of {TEMPLATES}, found {config.template!r}')
        self.config = config
        self.backend: Backend = (
            JsonBackend(backend) if isinstance(backend, Tokenizer) else backend)
        self.size = self.backend.size
        self.bos = self._first(_BOS_NAMES)
        self.eos = self._first(_EOS_NAMES)
        pad = next((i for n in _PAD_NAMES if (i := self.backend.find(n)) is not None), self.eos)
        self.pad = pad
        self.stop_id = self.backend.special(config.stop) if config.stop else None
        self.stop_ids = frozenset({self.eos} | ({self.stop_id} - {None}))

    def _first(self, names: Sequence[str]) -> int:
        for name in names:
            found = self.backend.find(name)
            if found is not None:
                return found
        raise TextError(f'the tokenizer has none of the tokens {", ".join(names)}')

    @classmethod
    def load(cls, directory: str | Path, config: TextConfig) -> Text:
        """Read the tokenizer that ``config`` names from a model directory.

        Where that file is missing, the other of tokenizer.json and tokenizer.model is taken.

        :raises TextError: if there is none, or it cannot be read.
        """
        folder = Path(directory)
        names = dict.fromkeys((config.tokenizer, 'tokenizer.json', 'tokenizer.model'))
        path = next((folder / n for n in names if (folder / n).is_file()), None)
        if path is None:
            raise TextError(f'{folder}: expected a tokenizer file ({" or ".join(names)}), found '
                            'none; copy it beside the weights')
        if path.suffix == '.model':
            return cls(SentencePieceBackend(path), config)
        try:
            return cls(Tokenizer.from_file(str(path)), config)
        except TextError:
            raise
        except Exception as error:  # tokenizers raises bare Exception for a malformed file
            raise TextError(f'{path}: not readable as a tokenizer: {error}') from error

    def encode(self, text: str) -> list[int]:
        """Return the ids of plain text, without special tokens."""
        return self.backend.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids; special tokens are left out."""
        return self.backend.decode(ids)

    def _pieces(self, question: str, history: Sequence[tuple[str, str]]) -> list[str | None]:
        """Return the prompt in pieces; None stands for the stop text."""
        gap = '' if self.config.template == 'released' else ' '
        pieces: list[str | None] = [self.config.system + '\n\n'] if self.config.system else []
        for asked, answered in history:
            pieces += [None, f'{gap}Human: {asked}\n', None, f'{gap}Assistant: {answered}\n']
        return [*pieces, None, f'{gap}Human: {question}\n', None, f'{gap}Assistant:']

    def prompt_text(self, question: str, history: Sequence[tuple[str, str]] = ()) -> str:
        """Return the prompt for a question as the template writes it.

        :param history: earlier (question, answer) turns.
        """
        return ''.join(self.config.stop if p is None else p
                       for p in self._pieces(question, history))

    def encode_prompt(self, question: str, history: Sequence[tuple[str, str]] = ()) -> list[int]:
        """Return the ids that follow BOS and the modality blocks, up to the answer.

        A stop text inside the question stays text where the stop is a token of its own.
        """
        if self.stop_id is None:
            return self.encode(self.prompt_text(question, history))
        ids: list[int] = []
        for piece in self._pieces(question, history):
            ids += [self.stop_id] if piece is None else self.encode(piece)
        return ids

    def encode_answer(self, answer: str, *, closed: bool = True) -> list[int]:
        """Return the ids of an answer as they follow the prompt.

        :param closed: with the stop text that ends it.
        """
        if not closed:
            return self.encode(f' {answer}')
        if self.stop_id is None:
            return self.encode(f' {answer}\n{self.config.stop}')
        return [*self.encode(f' {answer}\n'), self.stop_id]

    def encode_choice(self, answer: str) -> list[int]:
        """Return the ids by which an answer is scored: with its line end, without the stop."""
        return self.encode(f' {answer}\n')


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train a byte-level BPE tokenizer; digits stay single, case is kept.

    Ids 0 to 3 are ``<pad>``, ``<s>``, ``</s>`` and ``###``.

    :raises ValueError: if ``vocab_size`` has no room for the bytes.
    """
    special = [PAD, BOS, EOS, STOP]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if vocab_size < len(alphabet) + len(special):
        raise ValueError(f'vocab_size: expected at least {len(alphabet) + len(special)}, found '
                         f'{vocab_size}')
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=special,
                                  initial_alphabet=alphabet, show_progress=False)
    # Special tokens in the texts must not be learned as merges: plain text would yield them.
    plain = (reduce(lambda t, s: t.replace(s, ' '), special, text) for text in texts)
    tokenizer.train_from_iterator(plain, trainer)
    return tokenizer
