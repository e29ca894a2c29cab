"""The command ``onellm pull``."""

from __future__ import annotations

import argparse
from pathlib import Path
import sys

_GB = 1e9


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``onellm pull``."""
    parser.add_argument('name', metavar='NAME', help='repository on the hub: OWNER/NAME')
    parser.add_argument('--revision', default=None,
                        help='branch, tag or commit (default: main)')
    parser.add_argument('--to', type=Path, metavar='DIR',
                        help='write the files there instead of into the cache (HF_HUB_CACHE)')
    parser.add_argument('--endpoint', metavar='URL',
                        help="address of the hub (default: HF_ENDPOINT, or Hugging Face's)")
    parser.add_argument('--all', action='store_true',
                        help='fetch also files in formats that are not read here')


def run(args: argparse.Namespace) -> int:
    """Fetch; return 0, or 2 with the reason on stderr."""
    from tqdm import tqdm

    from onellm_ros.weights.cache import MAIN, SCHEME, parse_name
    from onellm_ros.weights.errors import WeightsError
    from onellm_ros.weights.pull import pull

    try:
        repo, revision = parse_name(args.name)
        if args.revision and revision != MAIN:
            raise WeightsError(f'{args.name}: names a revision, and so does --revision')
        revision = args.revision or revision
        parse_name(f'{repo}@{revision}')
        with tqdm(unit='B', unit_scale=True, disable=None, desc=repo) as bar:
            done = pull(repo, revision, to=args.to, endpoint=args.endpoint, everything=args.all,
                        told=bar.update, total=bar.reset)
    except WeightsError as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(f'{error.filename or args.to or args.name}: {error.strerror or error}')
    except KeyboardInterrupt:
        return _fail('interrupted; what was fetched is kept, and the same command goes on')
    if done.note:
        print(f'{done.note}: taken from the cache', file=sys.stderr)
    if done.skipped:
        print(f'left out (formats that are not read here): {", ".join(done.skipped)}',
              file=sys.stderr)
    size = sum(file.size for file in done.files) / _GB
    print(f'{done.folder}: {len(done.files)} files, {size:.2f} GB, commit {done.commit[:12]}, '
          'checksums agree')
    named = SCHEME + repo + (f'@{revision}' if revision != MAIN else '')
    print(f'use it with --model {args.to or named}')
    return 0


def _fail(text: str) -> int:
    print(f'onellm pull: {text}', file=sys.stderr)
    return 2
