"""Annotation files as benchmarks publish them: rows that know their file and their line.

JSON is read element by element, so that a fault is told by the line where its element starts, even
where an element spans many lines; in a file of one line its place tells it, ``questions[1873]``. A
row is understood with :func:`wanted`, :func:`optional`, :func:`identity`, :func:`texts` and
:func:`parts`; what none of them covers raises :meth:`Row.error`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import csv
from dataclasses import dataclass
import json
from pathlib import Path
from typing import Any

from onellm_ros.evaluation.item import AnnotationError
from onellm_ros.evaluation.json_file import elements, heads

_LONGEST_FIELD = 1 << 28        # of a table, characters: MMBench holds whole pictures
_KINDS = {str: 'a text', int: 'a whole number', float: 'a number', list: 'a list',
          dict: 'an object', bool: 'true or false'}


@dataclass(frozen=True, eq=False)
class Row:
    """One element of an annotation file.

    :param value: what it holds; of a table, texts by column.
    :param path: the file. :param line: where it starts, counted from 1; 0: it has no lines.
    :param name: its place in a JSON file (``questions[3]``); empty: the line is enough.
    :param key: of an element of a JSON object; else empty.
    """

    value: Any
    path: Path
    line: int
    name: str = ''
    key: str = ''

    @property
    def source(self) -> str:
        """Where it stands, as :class:`Item` tells it."""
        line = f', line {self.line}' if self.line else ''       # 0: of a file without lines
        return f'{self.path}{line}' + (f', {self.name}' if self.name else '')

    def error(self, what: str) -> AnnotationError:
        """Return an error that names the file, the line and the element."""
        return AnnotationError(self.path, self.line, f'{self.name}: {what}' if self.name else what)

    def part(self, value: Any, name: str) -> Row:
        """Return something inside this row as a row; its line is this one's."""
        return Row(value, self.path, self.line, self.name + name)


def shown(value: Any) -> str:
    """Return a value as errors show it: short, with its kind where that is not plain."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    text = text if len(text) <= 60 else text[:60] + '...'
    if isinstance(value, str):
        return f'the text {text}' if value else 'an empty text'
    if value is None or isinstance(value, bool):
        return text
    return f'{_KINDS.get(type(value), type(value).__name__)} {text}'


def _is(value: Any, kind: type) -> bool:
    """Return whether a value is of a kind; true and false are no numbers."""
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, int | float) if kind is float else isinstance(value, kind)


def wanted(row: Row, key: str, kind: type) -> Any:
    """Return what a row must have.

    :param kind: ``str`` (one that says something), ``int``, ``float`` (any number), ``list``,
        ``dict`` or ``bool``.
    :raises AnnotationError: if it is not there, or is something else.
    """
    if not isinstance(row.value, Mapping):
        raise row.error(f'found {shown(row.value)}, expected an object with {key!r}')
    if key not in row.value:
        raise row.error(f'found the keys {", ".join(map(str, row.value)) or "none"}, expected '
                        f'{key!r}')
    value = row.value[key]
    if not _is(value, kind) or (kind is str and not value.strip()):
        raise row.error(f'{key}: found {shown(value)}, expected {_KINDS[kind]}')
    return value


def optional(row: Row, key: str, kind: type, default: Any) -> Any:
    """Return what a row may have; null and, for ``str``, an empty text are as if it were absent.

    :raises AnnotationError: if it is there and something else.
    """
    found = row.value.get(key) if isinstance(row.value, Mapping) else None
    if found is None or (kind is str and isinstance(found, str) and not found.strip()):
        return default
    return wanted(row, key, kind)


def identity(row: Row, key: str) -> str:
    """Return an identity: a text or a whole number, as text.

    :raises AnnotationError: if it is not there, or is something else.
    """
    value = row.value.get(key) if isinstance(row.value, Mapping) else None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if value is not None and not isinstance(value, str):
        raise row.error(f'{key}: found {shown(value)}, expected a text or a whole number')
    return str(wanted(row, key, str))


def texts(row: Row, key: str) -> tuple[str, ...]:
    """Return a list of texts, each of which says something.

    :raises AnnotationError: for something else, or an empty list.
    """
    values = wanted(row, key, list)
    for number, value in enumerate(values):
        if not isinstance(value, str) or not value.strip():
            raise row.error(f'{key}[{number}]: found {shown(value)}, expected a text')
    if not values:
        raise row.error(f'{key}: found an empty list, expected texts')
    return tuple(values)


def parts(row: Row, key: str) -> Iterator[Row]:
    """Yield the elements of a list inside a row.

    :raises AnnotationError: if there is no list.
    """
    for number, value in enumerate(wanted(row, key, list)):
        yield row.part(value, f'{"." if row.name else ""}{key}[{number}]')


def new_id(seen: dict[str, int], row: Row, identity: str) -> str:
    """Return an identity that no row before has had, and note it.

    :param seen: the lines of those before.
    :raises AnnotationError: for one that comes again.
    """
    if identity in seen:
        raise row.error(f'found the id {identity!r} again, first in line {seen[identity]}; '
                        'expected each once')
    seen[identity] = row.line
    return identity


def explain(task: str = '') -> str:
    """Return where to read what is to be fetched."""
    return f'`onellm eval --explain {task or "TASK"}` tells what to fetch and where it goes'


def find_file(root: Path, candidates: Sequence[str], task: str = '') -> Path:
    """Return the first of several files that exists below a folder.

    :param task: name of the benchmark, for the error.
    :raises AnnotationError: if none does.
    """
    if not root.is_dir():
        raise AnnotationError(root, 0, f'found no such folder of data; {explain(task)}')
    for candidate in candidates:
        if (root / candidate).is_file():
            return root / candidate
    raise AnnotationError(root, 0, f'found no annotation file, expected {" or ".join(candidates)} '
                                   f'in this folder; {explain(task)}')


def picture(root: Path, candidates: Sequence[str]) -> Path:
    """Return the file of a signal: the first of several that exists, else the first.

    Whether it exists at all is the harness's to ask, which names :attr:`Row.source`: predictions
    are scored again without the files.

    :param candidates: paths below ``root``.
    """
    for candidate in candidates:
        if (root / candidate).is_file():
            return root / candidate
    return root / candidates[0]


def _read(path: Path, task: str) -> str:
    """Return the text of a file, with its marks of line ends as they are.

    :raises AnnotationError: if it is missing, not readable or not UTF-8.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise AnnotationError(path, 0, f'found no such file; {explain(task)}') from None
    except OSError as error:
        raise AnnotationError(path, 0, f'cannot be read: {error.strerror or error}') from None
    try:
        return data.decode('utf-8-sig')
    except UnicodeDecodeError as error:
        raise AnnotationError(path, data.count(b'\n', 0, error.start) + 1, 'found bytes that are '
                              'no UTF-8, expected UTF-8 text; is the file whole?') from None


class Json:
    """A JSON file whose elements are read one after another.

    :param path: the file. :param text: what it holds.
    """

    def __init__(self, path: Path, text: str) -> None:
        self.path, self._text = path, text

    def is_list(self) -> bool:
        """Return whether the file is a list."""
        return self._text.lstrip()[:1] == '['

    def rows(self, *trail: str) -> Iterator[Row]:
        """Yield the elements of a list, or of an object by its keys.

        :param trail: keys of objects that lead there (``'questions'``); none: the whole file.
        :raises AnnotationError: where the file is no JSON, or nothing is there.
        """
        for found in elements(self.path, self._text, trail):
            yield Row(found.value, self.path, found.line, found.name, found.key)

    def heads(self) -> dict[str, Any]:
        """Return the keys of the object: texts and numbers with their value, all else as None.

        :raises AnnotationError: where the file is no JSON.
        """
        return heads(self.path, self._text)


def read_json(path: Path, task: str = '') -> Json:
    """Open a JSON file; its elements are understood when they are read.

    :param task: name of the benchmark, for the error.
    :raises AnnotationError: if it is missing, not readable or empty.
    """
    text = _read(path, task)
    if not text.strip():
        raise AnnotationError(path, 0, 'found an empty file, expected JSON')
    return Json(path, text)


@dataclass(frozen=True, eq=False)
class Captioned:
    """What a COCO-style file says about one image (or video, sound, cloud).

    :param id: of the image, as text. :param name: of its file, empty where it is not named.
    :param captions: by people; empty where the file has none at all.
    :param row: of the image.
    """

    id: str
    name: str
    captions: tuple[str, ...]
    row: Row


def coco_captions(file: Json) -> list[Captioned]:
    """Return the images of a COCO-style caption file in their order, with their captions.

    Two forms: ``{images: [{id, file_name}], annotations: [{image_id, caption}]}``, of which
    ``annotations`` may be absent, and the list ``[{image, caption}]``.

    :raises AnnotationError: for another form, an image that comes twice, a caption of an image
        that is not there, and an image without captions beside others that have some.
    """
    seen: dict[str, int] = {}
    if file.is_list():
        return [_captioned(row, seen) for row in file.rows()]
    captions: dict[str, list[str]] = {}
    images = []
    for row in file.rows('images'):
        image = new_id(seen, row, identity(row, 'id'))
        captions[image] = []
        images.append((image, optional(row, 'file_name', str, ''), row))
    told = 'annotations' in file.heads()
    for row in file.rows('annotations') if told else ():
        image = identity(row, 'image_id')
        if image not in captions:
            raise row.error(f'image_id: found {image!r}, expected the id of one of the '
                            f'{len(images)} images')
        captions[image].append(wanted(row, 'caption', str))
    for image, _, row in images if told else ():
        if not captions[image]:
            raise row.error(f'found no annotation of the image {image!r}, expected a caption')
    return [Captioned(image, name, tuple(captions[image]), row) for image, name, row in images]


def _captioned(row: Row, seen: dict[str, int]) -> Captioned:
    """Return what a row of a list of images with captions says."""
    name = wanted(row, 'image', str)
    one = isinstance(row.value.get('caption'), str)
    found: tuple[str, ...] = (wanted(row, 'caption', str),) if one else texts(row, 'caption')
    image = identity(row, 'image_id') if 'image_id' in row.value else Path(name).stem
    return Captioned(new_id(seen, row, image), name, found, row)


def read_lines(path: Path, task: str = '') -> Iterator[Row]:
    """Yield the lines of a text file that say something, without their ends.

    :raises AnnotationError: if it is missing or not readable.
    """
    for number, line in enumerate(_read(path, task).split('\n'), 1):
        if line.strip():
            yield Row(line.rstrip('\r'), path, number)


def read_jsonl(path: Path, task: str = '') -> Iterator[Row]:
    """Yield the objects of a file that holds one a line.

    :raises AnnotationError: if it is missing, or a line is no JSON object.
    """
    for line in read_lines(path, task):
        try:
            value = json.loads(line.value)
        except (ValueError, RecursionError) as error:
            raise line.error(f'found {line.value[:40]!r}, expected a JSON object ({error})'
                             ) from None
        if not isinstance(value, dict):
            raise line.error(f'found {shown(value)}, expected a JSON object')
        yield Row(value, path, line.line)


def read_table(path: Path, delimiter: str, columns: Sequence[str], header: bool = True,
               task: str = '', encoding: str = 'utf-8-sig') -> Iterator[Row]:
    """Yield the rows of a table; fields may be quoted as spreadsheets and pandas write them.

    :param delimiter: ``,`` or a tab. :param columns: those that must be there; without a header,
        the names of all of them.
    :param header: whether the first line names the columns.
    :raises AnnotationError: if it is missing, a column is, or a row has other fields.
    """
    csv.field_size_limit(_LONGEST_FIELD)
    done = 0
    try:
        with open(path, encoding=encoding, newline='') as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            names = list(columns) if not header else next(reader, [])
            missing = [column for column in columns if column not in names]
            if missing:
                raise AnnotationError(path, 1, f'found the columns {", ".join(names) or "none"}, '
                                               f'expected {", ".join(missing)}')
            done = reader.line_num
            for fields in reader:
                if fields and len(fields) != len(names):
                    raise AnnotationError(path, done + 1, f'found {len(fields)} fields, expected '
                                          f'{len(names)}: {", ".join(names)}')
                if fields:
                    yield Row(dict(zip(names, fields)), path, done + 1)
                done = reader.line_num
    except FileNotFoundError:
        raise AnnotationError(path, 0, f'found no such file; {explain(task)}') from None
    except OSError as error:
        raise AnnotationError(path, 0, f'cannot be read: {error.strerror or error}') from None
    except UnicodeDecodeError:
        raise AnnotationError(path, done + 1, f'found bytes that are no {encoding}, expected '
                                              'text; is the file whole?') from None
    except csv.Error as error:
        raise AnnotationError(path, done + 1, f'found a row that is no table ({error}), expected '
                                              f'{", ".join(columns)}') from None
