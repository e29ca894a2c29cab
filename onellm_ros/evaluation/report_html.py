"""A report as one HTML file: no script, nothing beside it, nothing asked of a network."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
import hashlib
import math
from pathlib import Path
from typing import Any

from onellm_ros.evaluation.report_examples import Example, Reply
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
from onellm_ros.report.html_window import safe

_STYLE = Path(__file__).parent / 'report_page.css'
_SIZES = ('', '', ' two')       # by how many pictures an example has, so that they fit in a row
Examples = Mapping[int, tuple[Sequence[Example], str]]     # by place of the section


def page(sections: Sequence[Section], shown: Examples, made: str) -> str:
    """Return the page.

    :param shown: examples of a section, and why there are none.
    :param made: when and with what the report was made.
    """
    style = _STYLE.read_text(encoding='utf-8')
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode('ascii')
    policy = ("default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
              f"style-src 'sha256-{digest}'")
    names = models(sections)
    head = (f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f'<link rel="icon" href="data:,"><title>{safe(", ".join(names))} – onellm eval</title>'
            f'<style>{style}</style></head><body><header><p class="kicker">onellm eval</p>'
            f'<h1>{safe(", ".join(names))}</h1><p class="sub">{safe(made)}</p></header>')
    body = [_overview(sections, names)]
    body += [_section(place, section, *shown.get(place, ((), '')))
             for place, section in enumerate(sections)]
    return '\n'.join([head, *body, '</body></html>\n'])


def _row(cells: Sequence[str]) -> str:
    return f'<tr>{"".join(cells)}</tr>'


def _head(names: Sequence[str], figures: int = 0) -> str:
    """Return a row of headlines; the last ``figures`` of them stand above figures."""
    first = len(names) - figures
    return _row([f'<th{"" if place < first else " class=n"}>{safe(name)}</th>'
                 for place, name in enumerate(names)])


def _table(rows: Sequence[str], kind: str = '') -> str:
    return f'<div class="wide"><table{f" class={kind}" if kind else ""}>{"".join(rows)}' \
           '</table></div>'


def _score(row: ScoreRow, place: int, main: bool) -> str:
    """Return the cell of a score."""
    value = row.values[place]
    if value is None:
        return f'<td class="n lack">{NOT_COMPUTED}: {safe(row.whys[place])}</td>'
    above = ' above' if row.paper is not None and value >= row.paper else ''
    note = f' title="{safe(row.whys[place])}"' if row.whys[place] else ''
    return f'<td class="n{" main" if main else ""}{above}"{note}>{number(value)}</td>'


def _overview(sections: Sequence[Section], names: Sequence[str]) -> str:
    """Return the main score of each benchmark, one column a model."""
    rows = [_head(['#', 'benchmark', 'metric', *names, 'OneLLM-7B', 'best other'],
                  len(names) + 2)]
    for place, section in enumerate(sections):
        row = score_rows(section)[0]
        mine = {told.label: i for i, told in enumerate(section.runs)}
        cells = [f'<td>{section.number or ""}</td>',
                 f'<td><a href="#s{place}">{safe(_title(section))}</a></td>',
                 f'<td>{safe(row.metric)}</td>']
        for name in names:
            cells.append(_score(row, mine[name], True) if name in mine else '<td class="n">–</td>')
        cells += [f'<td class="n">{number(row.paper, 1)}</td>',
                  f'<td class="n">{safe(best_text(row))}</td>']
        rows.append(_row(cells))
    return (f'<h3>Main scores</h3>{_table(rows)}<p class="sub">OneLLM-7B and the best other '
            'model: as the paper (arXiv 2312.03700) reports them; fine-tuned: trained on the '
            'benchmark. A score at or above OneLLM-7B is green.</p>')


def _title(section: Section) -> str:
    split = f', {section.split}' if section.split else ''
    return f'{section.title}{split}' + (f', {section.note}' if section.note else '')


def _section(place: int, section: Section, found: Sequence[Example], why: str) -> str:
    """Return one benchmark: scores, further figures, examples, facts."""
    names = [told.label for told in section.runs]
    which = f'number {section.number} of the paper, ' if section.number else ''
    counts = ', '.join(
        f'{told.result["counts"]["broken"]} of {told.label} broken' for told in section.runs
        if told.result['counts']['broken'])
    out = [f'<section id="s{place}"><h2>{safe(_title(section))}</h2>',
           f'<p class="sub">{safe(section.name)} version {section.version}, {which}'
           f'{section.runs[0].result["counts"]["items"]:,} items'
           f'{safe(", " + counts if counts else "")}</p>']
    told_by = ['OneLLM-7B', 'best other'] if section.paper else []
    rows = [_head(['metric', *names, *told_by], len(names) + len(told_by))]
    for i, row in enumerate(score_rows(section)):
        cells = [f'<td>{safe(row.metric)}</td>',
                 *(_score(row, j, i == 0) for j in range(len(names)))]
        if told_by:
            cells += [f'<td class="n">{number(row.paper, 1)}</td>',
                      f'<td class="n">{safe(best_text(row))}</td>']
        rows.append(_row(cells))
    out += [_table(rows), *_parts(section, names), *_tables(section)]
    if found:
        out.append('<h3>Examples</h3><div class="cards">'
                   + ''.join(_card(one) for one in found) + '</div>')
    elif why:
        out.append(f'<p class="note">No examples: {safe(why)}</p>')
    for told in section.runs:
        lines = [f'<tr><th>{safe(key)}</th><td>{safe(text)}</td></tr>'
                 for key, text in facts(told).items()]
        out.append(f'<details><summary>How {safe(told.label)} was asked</summary>'
                   f'{_table(lines, "facts")}</details>')
    return '\n'.join([*out, '</section>'])


def _parts(section: Section, names: Sequence[str]) -> list[str]:
    """Return the main metric by groups of items."""
    found = parts(section, section.metrics[0])
    if not found:
        return []
    rows = [_head(['group', *names], len(names))]
    rows += [_row([f'<td>{safe(group)}</td>', *(f'<td class="n">{number(v)}</td>'
                                                for v in values)])
             for group, values in found.items()]
    return [f'<details><summary>{safe(section.metrics[0])} by group ({len(found)})</summary>'
            f'{_table(rows)}</details>']


def _tables(section: Section) -> list[str]:
    """Return the benchmark's further figures, table by table."""
    out = []
    for told in section.runs:
        found: Mapping[str, Any] = told.result.get('tables') or {}
        whose = f' of {told.label}' if len(section.runs) > 1 else ''
        inner = []
        for title, table in found.items():
            columns, figures = grid(table)
            rows = [_head(['', *columns], len(columns))]
            rows += [_row([f'<td>{safe(name)}</td>', *(f'<td class="n">{safe(cell)}</td>'
                                                       for cell in cells)])
                     for name, *cells in figures]
            inner.append(f'<h3>{safe(title)}</h3>{_table(rows)}')
        if inner:
            out.append(f'<details><summary>Further figures{safe(whose)} ({len(inner)} tables)'
                       f'</summary>{"".join(inner)}</details>')
    return out


# ---- examples -----------------------------------------------------------------------------------

def _card(one: Example) -> str:
    """Return an example: what was shown, what was asked, what is right, what each model said."""
    figures = ''.join(
        f'<figure><img alt="{safe(name)}" src="data:{_kind(data)};base64,'
        f'{base64.b64encode(data).decode("ascii")}"><figcaption>{safe(name)}</figcaption></figure>'
        for name, data in one.pictures.items())
    size = _SIZES[len(one.pictures)] if len(one.pictures) < len(_SIZES) else ' many'
    group = f' · {one.group}' if one.group else ''
    parts_ = [f'<article class="card {one.kind}{size}"><p class="id">'
              f'<span class="mark {_colour(one.kind)}">{one.kind}</span> '
              f'{safe(one.id + group)}</p>',
              f'<div class="shown">{figures}</div>' if figures else '',
              f'<p class="note">not shown: {safe(one.lacking)}</p>' if one.lacking else '',
              f'<p class="ask">{safe(one.question)}</p>' if one.question else '']
    if one.choices:
        parts_.append(f'<p class="sub">{safe("  /  ".join(one.choices))}</p>')
    terms = [f'<dt>expected</dt><dd>{safe("; ".join(one.references))}'
             f'{f" … {one.more} more" if one.more else ""}</dd>'] if one.references else []
    terms += [_reply(reply) for reply in one.replies]
    return ''.join([*parts_, f'<dl>{"".join(terms)}</dl></article>'])


def _reply(reply: Reply) -> str:
    sure = '' if not math.isfinite(reply.confidence) else \
        f' <span class="sub">({reply.confidence:.2f})</span>'
    colour = 'mid' if reply.good is None else 'good' if reply.good else 'bad'
    return (f'<dt>{safe(reply.label)}</dt><dd>{safe(reply.text)}{sure} '
            f'<span class="mark {colour}">{safe(reply.mark)}</span></dd>')


def _colour(kind: str) -> str:
    return 'good' if kind in ('right', 'high') else 'bad'


def _kind(picture: bytes) -> str:
    """Return the media type of a small picture."""
    if picture.startswith(b'\x89PNG'):
        return 'image/png'
    return 'image/svg+xml' if picture.startswith(b'<svg') else 'image/jpeg'
