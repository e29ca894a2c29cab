"""Text to tokens and back: tokenizer files, chat templates, stops, and training a small tokenizer.

A tokenizer is ``tokenizer.json`` (Hugging Face ``tokenizers``) or ``tokenizer.model``
(SentencePiece, read with the ``sentencepiece`` package where it is installed). Which of its tokens
begin and end a text is known by their usual names; in Hugging Face layout the files beside it say.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, Protocol

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from onellm_ros.config import ConfigError, TextConfig
from onellm_ros.model.files import CheckpointError, read_json

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


@dataclass(frozen=True)
class Roles:
    """Which tokens begin, end and fill a text, where files say so.

    :param bos: token that begins a text; empty: known by its name.
    :param eos: token that ends one; empty: known by its name.
    :param pad: token that fills one; empty: known by its name.
    :param ends: ids of further tokens that end an answer.
    """

    bos: str = ''
    eos: str = ''
    pad: str = ''
    ends: tuple[int, ...] = ()


def _read_optional(path: Path) -> dict[str, Any]:
    try:
        return read_json(path) if path.is_file() else {}
    except CheckpointError as error:
        raise TextError(str(error)) from error


def read_roles(folder: Path) -> Roles:
    """Read tokenizer_config.json and generation_config.json (else config.json) of a folder.

    :raises TextError: if one cannot be read.
    """
    names = {**_read_optional(folder / 'special_tokens_map.json'),
             **_read_optional(folder / 'tokenizer_config.json')}

    def name(key: str) -> str:
        """Return a token's text: stated as such, or with its properties."""
        value = names.get(key)
        value = value.get('content') if isinstance(value, dict) else value
        return value if isinstance(value, str) else ''

    values = _read_optional(folder / 'config.json') if names else {}
    values |= _read_optional(folder / 'generation_config.json')
    ends = values.get('eos_token_id')
    ends = ends if isinstance(ends, list) else [ends]
    return Roles(name('bos_token'), name('eos_token'), name('pad_token'),
                 tuple(i for i in ends if isinstance(i, int) and not isinstance(i, bool)))


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
        self.tokenizer.no_truncation()      # files keep what their last user had set
        self.tokenizer.no_padding()
        # the largest id counts: some vocabularies leave ids out
        ids = tokenizer.get_vocab(with_added_tokens=True).values()
        self.size: int = max(ids, default=-1) + 1

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


def _other_files(folder: Path) -> str:
    """Say what to do where a tokenizer stands in files that are not read here."""
    parts = [at / 'vocab.json' for at in (folder, folder / 'llm') if (at / 'vocab.json').is_file()]
    return (f' ({parts[0]} and merges.txt are the older form: load them with transformers, and '
            'save_pretrained writes tokenizer.json)') if parts else ''


class Text:
    """A tokenizer with the chat template of a model.

    Attributes: ``bos``, ``eos``, ``pad`` (ids), ``stop_ids`` (ids that end an answer: the end of
    the sequence and, where it is a special token, the stop text), ``size`` (the largest id and 1).
    """

    def __init__(self, backend: Backend | Tokenizer, config: TextConfig,
                 roles: Roles | None = None) -> None:
        if config.template not in TEMPLATES:
            raise ConfigError(
                f'text.template: expected one of {TEMPLATES}, found {config.template!r}')
        self.config = config
        self.backend: Backend = (
            JsonBackend(backend) if isinstance(backend, Tokenizer) else backend)
        self.size = self.backend.size
        roles = roles or Roles()
        self.bos = self._first(roles.bos, _BOS_NAMES)
        self.eos = self._first(roles.eos, _EOS_NAMES)
        pads = (roles.pad,) if roles.pad else _PAD_NAMES
        pad = next((i for n in pads if (i := self.backend.find(n)) is not None), self.eos)
        self.pad = pad
        self.stop_id = self.backend.special(config.stop) if config.stop else None
        more = {i for i in roles.ends if 0 <= i < self.size}
        self.stop_ids = frozenset({self.eos} | more | ({self.stop_id} - {None}))

    def _first(self, stated: str, names: Sequence[str]) -> int:
        """Return the id of the stated token, else of the first name that is known."""
        if stated:
            found = self.backend.find(stated)
            if found is None:
                raise TextError(f'the tokenizer has no token {stated!r}, although '
                                'tokenizer_config.json names it')
            return found
        for find in (self.backend.special, self.backend.find):      # a word may look like one
            for name in names:
                found = find(name)
                if found is not None:
                    return found
        raise TextError(f'the tokenizer has none of the tokens {", ".join(names)}')

    @classmethod
    def load(cls, directory: str | Path, config: TextConfig) -> Text:
        """Read the tokenizer that ``config`` names from a model directory.

        Where that file is missing, the other of tokenizer.json and tokenizer.model is taken; a
        language model in the folder ``llm`` may keep them there. A folder in Hugging Face layout
        works too.

        :raises TextError: if there is none, or it cannot be read.
        """
        folder = Path(directory)
        names = dict.fromkeys((config.tokenizer, 'tokenizer.json', 'tokenizer.model'))
        path = next((at / n for at in (folder, folder / 'llm') for n in names
                     if (at / n).is_file()), None)
        if path is None:
            raise TextError(f'{folder}: expected a tokenizer file ({" or ".join(names)}), found '
                            f'none{_other_files(folder)}; copy it beside the weights')
        roles = read_roles(path.parent)
        if path.suffix == '.model':
            return cls(SentencePieceBackend(path), config, roles)
        try:
            return cls(Tokenizer.from_file(str(path)), config, roles)
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
