"""Annotation files: each element with the line where it starts, or an error naming the line."""

from __future__ import annotations

import json
from pathlib import Path
import random
from typing import Any

import pytest

from onellm_ros.evaluation.annotations import (
    coco_captions,
    find_file,
    picture,
    read_json,
    read_jsonl,
    read_table,
)
from onellm_ros.evaluation.item import AnnotationError


def value(choice: random.Random, depth: int = 0) -> Any:
    """Return something that JSON can hold, with marks that could mislead a scanner."""
    kind = choice.randrange(7 if depth < 3 else 5)
    if kind == 0:
        return choice.choice([None, True, False])
    if kind == 1:
        return choice.choice([-3, 0, 1.5e-7, 10 ** 20])
    if kind < 5:
        return ''.join(choice.choices('ab"\\\\[]{},:\\n\\t é\\u2028\\x0b', k=choice.randrange(6)))
    inner = [value(choice, depth + 1) for _ in range(choice.randrange(4))]
    return inner if kind == 5 else {f'k{n}"': each for n, each in enumerate(inner)}


@pytest.mark.parametrize('seed', range(30))
def test_elements_are_those_of_the_standard_library_with_their_lines(
        seed: int, tmp_path: Path) -> None:
    choice = random.Random(seed)
    elements = [{'mark': f'#{n}#', 'x': value(choice)} for n in range(choice.randrange(1, 6))]
    held: Any = elements if seed % 2 else {each['mark']: each for each in elements}
    whole = {'before': value(choice), 'in': {'rows': held, 'z': value(choice)}, 'after': [held]}
    text = json.dumps(whole, indent=choice.choice([None, 0, 3]),
                      ensure_ascii=choice.choice([False, True]))
    text = choice.choice(['', '\ufeff']) + text.replace(
        '\n', choice.choice(['\n', '\r\n', '\n\n']))
    path = tmp_path / 'a.json'
    path.write_bytes(text.encode())
    rows = list(read_json(path).rows('in', 'rows'))
    assert [row.value for row in rows] == elements
    at = text.index('"rows"')
    for row in rows:
        # The element starts at the brace before its mark; in an object that is a key first.
        at = text.index(f'"mark": "{row.value["mark"]}"', at)
        assert row.line == text[:text.rindex('{', 0, at)].count('\n') + 1
    assert list(read_json(path).heads()) == ['before', 'in', 'after']


@pytest.mark.parametrize(('text', 'line', 'words'), [
    ('{"rows": [\n{"a": 1},\n{"a": }]}', 3, "rows[1]: found '}]}', expected JSON"),
    ('{"rows": [\n{"a": 1}\n{"a": 2}]}', 3, "found '{\"a\": 2}]}', expected ',' or ']'"),
    ('{"rows": [\n{"a": 1},\n]}', 3, "found ']}', expected JSON"),
    ('{"rows": [1],\n "rows": [2]}', 2, "found the key 'rows' again, first in line 1"),
    ('{"rows": [1]}\n\n]', 3, "found ']', expected the end of the file"),
    ('{"rows": [1]\n', 2, 'found the end of the file, expected'),
    ('{"rows": ["a\nb"]}', 1, 'Invalid control character'),
    ('{rows: [1]}', 1, "found 'rows: [1]}', expected a key in quotes"),
    ('{"rows" [1]}', 1, "expected ':'"),
    ('\n\n[1]', 3, "found '[1]', expected an object with 'rows'"),
    ('{"rows":\n 7}', 2, 'expected rows: a list or an object'),
    ('{"rows": [' + '[' * 100000, 1, 'rows[0]: cannot be read as JSON'),
    (' ', 0, 'found an empty file'),
])
def test_what_is_no_json_is_named_with_its_line(text: str, line: int, words: str,
                                                tmp_path: Path) -> None:
    path = tmp_path / 'a.json'
    path.write_text(text)
    with pytest.raises(AnnotationError) as error:
        list(read_json(path).rows('rows'))
    assert (error.value.file, error.value.line) == (path, line), str(error.value)
    assert words in str(error.value)


def test_bytes_that_are_no_text_are_named_with_their_line(tmp_path: Path) -> None:
    for name in ('a.json', 'a.tsv'):
        (tmp_path / name).write_bytes(b'["a",\n"\xff"]')
    with pytest.raises(AnnotationError, match='a.json, line 2: found bytes that are no UTF-8'):
        read_json(tmp_path / 'a.json')
    with pytest.raises(AnnotationError, match='a.tsv, line 1: found bytes that are no'):
        list(read_table(tmp_path / 'a.tsv', '\t', ['a']))


def test_lines_of_json(tmp_path: Path) -> None:
    path = tmp_path / 'a.jsonl'
    path.write_bytes(b'{"a": 1}\r\n\n{"a": "\xe2\x80\xa8"}\n')
    assert [(row.value, row.line) for row in read_jsonl(path)] \
        == [({'a': 1}, 1), ({'a': '\u2028'}, 3)]
    for broken, words in (('{"a": 1', 'expected a JSON object'), ('[3]', 'found a list')):
        path.write_text('{"a": 1}\n' + broken)
        with pytest.raises(AnnotationError, match=f'a.jsonl, line 2: .*{words}'):
            list(read_jsonl(path))


def test_tables_count_lines_within_quotes(tmp_path: Path) -> None:
    path = tmp_path / 'a.csv'
    path.write_bytes('\ufeffb,a\r\n"x\ny, ""z""",1\r\n\r\né,2\r\n'.encode())
    assert [(row.value, row.line) for row in read_table(path, ',', ['a'])] \
        == [({'b': 'x\ny, "z"', 'a': '1'}, 2), ({'b': 'é', 'a': '2'}, 5)]
    path.write_text('1,2\n3,4,5\n')
    with pytest.raises(AnnotationError, match='a.csv, line 2: found 3 fields, expected 2: x, y'):
        list(read_table(path, ',', ['x', 'y'], header=False))
    path.write_text('x,y\n1,"2\n3,4\n')
    with pytest.raises(AnnotationError, match='a.csv, line 2: found a row that is no table'):
        list(read_table(path, ',', ['x', 'y']))
    path.write_text('x,z\n')
    with pytest.raises(AnnotationError, match='line 1: found the columns x, z, expected y'):
        list(read_table(path, ',', ['x', 'y']))


def test_files_are_looked_for(tmp_path: Path) -> None:
    (tmp_path / 'b.txt').write_text('')
    assert find_file(tmp_path, ['a.txt', 'b.txt']) == tmp_path / 'b.txt'
    assert picture(tmp_path, ['a.txt', 'b.txt']) == tmp_path / 'b.txt'
    assert picture(tmp_path, ['a.txt', 'c.txt']) == tmp_path / 'a.txt'
    with pytest.raises(AnnotationError, match='expected a.txt or c.txt in this folder; `onellm '
                                              'eval --explain vatex`'):
        find_file(tmp_path, ['a.txt', 'c.txt'], 'vatex')


def test_captions_in_any_order_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / 'a.json'
    path.write_text('{"annotations": [{"image_id": "2", "caption": "b"}, {"image_id": 1, '
                    '"caption": "a"}, {"image_id": 2, "caption": "c"}],\n'
                    '"images": [{"id": 2},\n{"id": 1}]}')
    assert [(found.id, found.name, found.captions, found.row.line)
            for found in coco_captions(read_json(path))] \
        == [('2', '', ('b', 'c'), 2), ('1', '', ('a',), 3)]
