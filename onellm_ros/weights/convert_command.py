"""The command ``onellm convert``."""

from __future__ import annotations

import argparse
from pathlib import Path
import sys

_GB = 1e9


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``onellm convert``."""
    parser.add_argument('source', metavar='SRC',
                        help='model directory: the released layout (consolidated.00-of-01.pth) or '
                             'the own one (model.safetensors); hub:OWNER/NAME after `onellm pull`')
    parser.add_argument('target', type=Path, metavar='DST', help='directory to write')
    parser.add_argument('--to', choices=('hf', 'released'), default='hf',
                        help='hf: safetensors, the language model in Hugging Face layout in '
                             'DST/llm (default); released: consolidated.00-of-01.pth')
    parser.add_argument('--force', action='store_true',
                        help='replace DST, if it is a model directory')
    parser.add_argument('--shard-size', type=float, default=2.0, metavar='GB',
                        help='size of a file of the language model at most (default: %(default)g)')
    parser.add_argument('--drop-unused', action='store_true',
                        help='leave out tensors that the model has no use for (the text side of '
                             'CLIP); the way back then misses them')


def run(args: argparse.Namespace) -> int:
    """Convert; return 0, or 2 with the reason on stderr."""
    from tqdm import tqdm

    from onellm_ros.config import ConfigError
    from onellm_ros.model.files import CheckpointError
    from onellm_ros.weights.cache import SCHEME, find_cached
    from onellm_ros.weights.convert import to_hugging_face, to_released
    from onellm_ros.weights.errors import WeightsError
    from onellm_ros.weights.sources import open_source

    if not args.shard_size > 0:
        return _fail(f'--shard-size: expected a number above 0, found {args.shard_size}')
    try:
        source = open_source(find_cached(args.source) if args.source.startswith(SCHEME)
                             else Path(args.source))
        total = sum(item.bytes for item in (*source.items.values(), *source.unused.values()))
        with tqdm(total=total, unit='B', unit_scale=True, disable=None, desc='convert') as bar:
            if args.to == 'released':
                to_released(source, args.target, force=args.force, told=bar.update)
            else:
                to_hugging_face(source, args.target, force=args.force, told=bar.update,
                                shard=int(args.shard_size * _GB), drop_unused=args.drop_unused)
    except (WeightsError, CheckpointError, ConfigError) as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(f'{error.filename or args.target}: {error.strerror or error}')
    except KeyboardInterrupt:
        return _fail('interrupted; nothing was left behind')
    print(f'{args.target}: {len(source.items)} tensors, {total / _GB:.2f} GB')
    if not source.tokenizer_files():
        where = args.target / 'llm' if args.to == 'hf' else args.target
        print(f'no tokenizer stands beside {args.source}: put its tokenizer.model or '
              f'tokenizer.json into {where}', file=sys.stderr)
    return 0


def _fail(text: str) -> int:
    print(f'onellm convert: {text}', file=sys.stderr)
    return 2
