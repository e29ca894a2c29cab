"""A report as Markdown, with the pictures of its examples in a folder beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import re
from typing import Any

from onellm_ros.evaluation.report_examples import Example
from onellm_ros.evaluation.report_html import Examples
from onellm_ros.evaluation.report_tables import (
    NOT_COMPUTED,
    ScoreRow,
    Section,
    best_text,
    facts,
    grid,
    models,
    number,
    parts,
    score_rows,
)

_MARKS = re.compile(r'([\\`*_{}\[\]<>#|~$!])')
_ENDINGS = {b'\xff\xd8': 'jpg', b'\x89PNG': 'png', b'<svg': 'svg'}


def plain(text: object) -> str:
    """Return text on one line in which nothing is markup."""
    return _MARKS.sub(r'\\\1', ' '.join(str(text).split()))


def document(sections: Sequence[Section], shown: Examples, made: str, folder: str = ''
             ) -> tuple[str, dict[str, bytes]]:
    """Return the text, and the pictures that it names.

    :param shown: examples of a section by its place, and why there are none.
    :param folder: of the pictures, from the text's place; empty: none are named.
    """
    names = models(sections)
    pictures: dict[str, bytes] = {}
    out = [f'# {plain(", ".join(names))}', '', plain(made), '']
    rows = []
    for section in sections:
        row = score_rows(section)[0]
        mine = {told.label: place for place, told in enumerate(section.runs)}
        rows.append([section.number or '', plain(_title(section)), plain(row.metric),
                     *(_score(row, mine[name], True) if name in mine else '–' for name in names),
                     number(row.paper, 1), plain(best_text(row))])
    out += _table(['#', 'benchmark', 'metric', *map(plain, names), 'OneLLM-7B', 'best other'],
                  rows, 3)
    out += ['', 'OneLLM-7B and the best other model: as the paper (arXiv 2312.03700) reports '
            'them; fine-tuned: trained on the benchmark.', '']
    for place, section in enumerate(sections):
        found, why = shown.get(place, ((), ''))
        out += _section(section)
        if found:
            out += ['### Examples', '']
            for number_, one in enumerate(found):
                out += _example(one, f'{place}-{number_}', folder, pictures)
        elif why:
            out += [f'No examples: {plain(why)}', '']
    return '\n'.join(out).rstrip() + '\n', pictures


def _title(section: Section) -> str:
    return ', '.join(part for part in (section.title, section.split, section.note) if part)


def _table(head: Sequence[object], rows: Sequence[Sequence[object]], left: int) -> list[str]:
    """Return a table; columns behind the first ``left`` hold figures."""
    line = ['---' if place < left else '---:' for place in range(len(head))]
    return ['| ' + ' | '.join(map(str, cells)) + ' |' for cells in (head, line, *rows)]


def _score(row: ScoreRow, place: int, main: bool) -> str:
    value = row.values[place]
    if value is None:
        return f'{NOT_COMPUTED}: {plain(row.whys[place])}'
    return f'**{number(value)}**' if main else number(value)


def _section(section: Section) -> list[str]:
    """Return one benchmark without its examples."""
    names = [plain(told.label) for told in section.runs]
    which = f'number {section.number} of the paper, ' if section.number else ''
    out = [f'## {plain(_title(section))}', '',
           f'{plain(section.name)} version {section.version}, {which}'
           f'{section.runs[0].result["counts"]["items"]} items', '']
    out += _table(['metric', *names, 'OneLLM-7B', 'best other'],
                  [[plain(row.metric), *(_score(row, j, i == 0) for j in range(len(names))),
                    number(row.paper, 1), plain(best_text(row))]
                   for i, row in enumerate(score_rows(section))], 1)
    groups = parts(section, section.metrics[0])
    if groups:
        out += ['', *_table([f'{plain(section.metrics[0])} by group', *names],
                            [[plain(group), *map(number, values)]
                             for group, values in groups.items()], 1)]
    for told in section.runs:
        found: Mapping[str, Any] = told.result.get('tables') or {}
        whose = f' ({plain(told.label)})' if len(names) > 1 else ''
        for title, table in found.items():
            columns, figures = grid(table)
            out += ['', *_table([plain(title) + whose, *map(plain, columns)],
                                [[plain(cell) for cell in row] for row in figures], 1)]
    for told in section.runs:
        out += ['', f'How {plain(told.label)} was asked:', '',
                *(f'- {plain(key)}: {plain(text)}' for key, text in facts(told).items())]
    return [*out, '']


def _example(one: Example, name: str, folder: str, pictures: dict[str, bytes]) -> list[str]:
    """Return an example in lines; its pictures are added."""
    out = [f'**{one.kind}**: {plain(one.id)}' + (f' ({plain(one.group)})' if one.group else ''),
           '']
    shown = []
    for modality, data in one.pictures.items():
        ending = next(end for start, end in _ENDINGS.items() if data.startswith(start))
        file = f'{name}-{modality}.{ending}'
        pictures[file] = data
        shown.append(f'![{modality}]({folder}/{file})')
    if shown and folder:
        out += [' '.join(shown), '']
    if one.lacking:
        out += [f'not shown: {plain(one.lacking)}', '']
    lines = [f'asked: {plain(one.question)}'] if one.question else []
    if one.choices:
        lines.append(f'choices: {plain(" / ".join(one.choices))}')
    if one.references:
        more = f' … {one.more} more' if one.more else ''
        lines.append(f'expected: {plain("; ".join(one.references))}{more}')
    lines += [f'{plain(reply.label)}: {plain(reply.text)} — {plain(reply.mark)}'
              for reply in one.replies]
    return [*out, *(f'- {line}' for line in lines), '']
