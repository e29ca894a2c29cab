"""``onellm eval --report OUT [OUT ...]``: scores beside the paper's, with examples to look at."""

from __future__ import annotations

import argparse
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
import sys
from typing import Any
from urllib.parse import quote

from onellm_ros.evaluation import report_html, report_markdown
from onellm_ros.evaluation.report_examples import Example, examples
from onellm_ros.evaluation.report_tables import Section, read_sections
from onellm_ros.model.files import write_atomically

EXAMPLES = 3                # of right and of wrong answers, each


def add_arguments(parser: Any) -> None:
    """Declare the options of ``--report`` beside those of ``onellm eval``."""
    parser.add_argument('--html', type=Path, metavar='FILE',
                        help='write the report there, one file that needs nothing beside it')
    parser.add_argument('--md', type=Path, metavar='FILE',
                        help='write it as Markdown, the pictures in a folder beside it; without '
                             '--html and --md it is printed')
    parser.add_argument('--examples', type=int, default=EXAMPLES, metavar='N',
                        help='right and wrong answers shown of each task (default: '
                             f'{EXAMPLES} and {EXAMPLES}; --seed draws others)')


def shown_of(sections: list[Section], count: int, seed: int
             ) -> dict[int, tuple[list[Example], str]]:
    """Return the examples of each section, and why it has none."""
    from tqdm import tqdm
    bar = tqdm(sections, 'examples', disable=not sys.stderr.isatty())
    return {place: examples(section, count, seed) for place, section in enumerate(bar)}


def _made() -> str:
    """Return when and with what a report is made."""
    try:
        found = version('onellm_ros')
    except PackageNotFoundError:
        found = '(not installed)'
    return f'Made {datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC by onellm_ros {found}'


def run(args: argparse.Namespace) -> int:
    """Write the report as the options say; returns the exit status.

    :raises ValueError: for runs that cannot be read. :raises OSError: for files that cannot be
        written.
    """
    if args.examples < 0:
        raise ValueError(f'--examples: found {args.examples}, expected 0 or more')
    sections = read_sections(args.report, args.data)
    if not args.html and not args.md:
        print(report_markdown.document(sections, {}, _made())[0], end='')
        return 0
    for file in (args.html, args.md):
        if file:
            file.parent.mkdir(parents=True, exist_ok=True)
    shown, made = shown_of(sections, args.examples, args.seed or 0), _made()
    if args.html:
        text = report_html.page(sections, shown, made).encode('utf-8', 'replace')
        write_atomically(args.html, text)
        print(f'wrote {args.html} ({len(text) / 1e6:.1f} MB)')
    if args.md:
        folder = args.md.with_name(f'{args.md.stem}_pictures')
        written, pictures = report_markdown.document(sections, shown, made, quote(folder.name))
        if pictures:
            folder.mkdir(exist_ok=True)
        for name, data in pictures.items():
            (folder / name).write_bytes(data)
        write_atomically(args.md, written.encode('utf-8', 'replace'))
        print(f'wrote {args.md}' + (f', pictures in {folder}' if pictures else ''))
    return 0
