"""``onellm describe``: answers about sensor files, without ROS.

Files are taken as one window: recordings (sound, IMU) end where the window ends, so of a long one
the last seconds count.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
import json
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from onellm_ros.config import MAX_TOKENS
from onellm_ros.files import (
    FileError,
    read_audio,
    read_depth,
    read_fmri,
    read_image,
    read_imu_table,
    read_points,
    read_video,
)
from onellm_ros.inference.locate import EngineError
from onellm_ros.modality import Modality, Sample, parse_modality, spec_of
from onellm_ros.preprocess import PreprocessError, Tensors

if TYPE_CHECKING:
    from onellm_ros.inference.engine import Answer, Engine

END_NS = 10**18             # of the window that the files make; recordings end here
VIDEO_FRAMES = 15           # read from a file; the model takes its own number of these
_RECORDING_S = 60.0         # no model hears or feels longer ago than this
_FAR_M = 200.0              # depth beyond this is probably in another unit

Chosen = dict[Modality, list[Sample]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the subcommand to its parser."""
    files = parser.add_argument_group('sensor files (any of them)')
    files.add_argument('--image', metavar='FILE', help='colour picture: png, jpg, tiff ...')
    files.add_argument('--depth', metavar='FILE',
                       help='depth: 16-bit png or tiff (mm), float tiff or npy (m)')
    files.add_argument('--points', metavar='FILE', help='point cloud: pcd, ply or npy')
    files.add_argument('--imu', metavar='FILE', help='IMU recording: csv or npy')
    files.add_argument('--audio', metavar='FILE', help='sound: wav, flac, ogg or mp3')
    files.add_argument('--video', metavar='FILE', help='video: mp4, mkv, webm, avi ...')
    files.add_argument('--fmri', metavar='FILE', help='voxel responses: npy')
    files.add_argument('--signal', metavar='NAME=FILE', action='append', default=[],
                       help='file of a further modality that the model knows: scan=FILE')
    about = parser.add_argument_group('about the files')
    about.add_argument('--depth-scale', type=float, metavar='M',
                       help='metres of one unit of the depth file (default: 0.001 for integers, '
                            '1 for floats)')
    about.add_argument('--intrinsics', type=float, nargs=4, metavar=('FX', 'FY', 'CX', 'CY'),
                       help='of the depth picture in pixels; surface normals are computed with it')
    about.add_argument('--imu-rate', type=float, metavar='HZ',
                       help='samples a second of an IMU file without times (default: 200)')
    parser.add_argument('--ask', action='append', metavar='QUESTION', default=[],
                        help='ask this instead of describing; may be repeated')
    parser.add_argument('--model', default='nano', help='name or directory (default: nano)')
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda, cuda:N')
    parser.add_argument('--quantize', choices=('none', 'int8', 'int4', 'fp8'), default='none',
                        help="type of the language model's weights: less memory, not exact "
                             '(default: none)')
    parser.add_argument('--max-tokens', type=int, default=MAX_TOKENS,
                        help='length of an answer at most (default: %(default)s)')
    parser.add_argument('--json', action='store_true', help='print one JSON object')


def _read_imu(args: argparse.Namespace, notes: dict[Modality, str]) -> list[Sample]:
    """Read the end of the IMU file, moved so that it ends with the window."""
    table = read_imu_table(args.imu, args.imu_rate)
    last = int(table.stamps_ns.max())
    near = np.flatnonzero(table.stamps_ns >= last - int(_RECORDING_S * 1e9))
    if table.notes:
        notes[Modality.IMU] = '; '.join(table.notes)
    return [Sample(int(table.stamps_ns[i]) - last + END_NS, table.values[i]) for i in near]


def _read_audio(args: argparse.Namespace) -> list[Sample]:
    """Read the end of the sound file, moved so that it ends with the window."""
    sound = read_audio(args.audio, _RECORDING_S)
    length_ns = round(len(sound.data) / sound.rate_hz * 1e9)
    return [replace(sound, stamp_ns=END_NS - length_ns)]


def _read_depth(args: argparse.Namespace, notes: dict[Modality, str]) -> list[Sample]:
    """Read the depth file and look whether its unit is believable."""
    intrinsics = tuple(args.intrinsics) if args.intrinsics else None
    depth = read_depth(args.depth, args.depth_scale, intrinsics)
    valid = depth.data[np.isfinite(depth.data)]
    if len(valid) and float(np.median(valid)) > _FAR_M:
        notes[Modality.DEPTH] = (f'half of it is beyond {float(np.median(valid)):.0f} m: '
                                 'is --depth-scale right?')
    return [depth]


def _read_signal(given: str) -> tuple[Modality, list[Sample]]:
    """Read the file of a registered modality, given as NAME=FILE."""
    name, mark, path = given.partition('=')
    try:
        spec = spec_of(modality := parse_modality(name))
    except ValueError as error:
        raise FileError(f'--signal {given}: {error}') from error
    if not mark or spec is None or spec.read is None:
        raise FileError(f'--signal {given}: expected NAME=FILE, the name of a further modality '
                        'that has files, such as scan')
    return modality, spec.read(path)


def read_files(args: argparse.Namespace) -> tuple[Chosen, dict[Modality, str]]:
    """Read the files named on the command line.

    :returns: samples by modality, and notes about how files were understood.
    :raises FileError: for the first file that cannot be read.
    """
    notes: dict[Modality, str] = {}
    readers: dict[Modality, tuple[str | None, Callable[[], list[Sample]]]] = {
        Modality.IMAGE: (args.image, lambda: [read_image(args.image)]),
        Modality.DEPTH: (args.depth, lambda: _read_depth(args, notes)),
        Modality.POINT: (args.points, lambda: [read_points(args.points)]),
        Modality.IMU: (args.imu, lambda: _read_imu(args, notes)),
        Modality.AUDIO: (args.audio, lambda: _read_audio(args)),
        Modality.VIDEO: (args.video, lambda: read_video(args.video, VIDEO_FRAMES)),
        Modality.FMRI: (args.fmri, lambda: [read_fmri(args.fmri)])}
    chosen = {modality: reader() for modality, (path, reader) in readers.items()
              if path is not None}
    for given in args.signal:
        chosen.update([_read_signal(given)])
    return chosen, notes


def _notes(used: Sequence[Modality], *sources: Mapping[Modality, str]) -> dict[str, str]:
    """Return what is to be said about each used modality."""
    return {modality.value: '; '.join(source[modality] for source in sources
                                      if source.get(modality))
            for modality in used}


def _answers(engine: Engine, prefix: Any, args: argparse.Namespace) -> list[tuple[str, Answer]]:
    """Describe, or answer the questions."""
    if not args.ask:
        answer = engine.describe(prefix, max_tokens=args.max_tokens)
        return [(engine.config.text.describe_prompt, answer)]
    return [(question, engine.ask(prefix, question, max_tokens=args.max_tokens))
            for question in args.ask]


def _print_text(used: Mapping[str, str], left_out: Mapping[Modality, str],
                answers: Sequence[tuple[str, Answer]], asked: bool) -> None:
    """Print the report for people: what was used, what not, and the answers."""
    names = [f'{name} ({note})' if note else name for name, note in used.items()]
    print('used:', ', '.join(names) or 'nothing (text only)')
    for reason in left_out.values():
        print('left out:', reason)
    for question, answer in answers:
        if asked:
            print('Q:', question)
        print(('A: ' if asked else '') + (answer.text or '(no words)'))


def _print_json(engine: Engine, prefix: Any, used: Mapping[str, str],
                left_out: Mapping[Modality, str], answers: Sequence[tuple[str, Answer]]) -> None:
    """Print the report as one JSON object."""
    print(json.dumps({
        'text': answers[0][1].text, 'model': engine.name, 'weights': engine.weights_hash,
        'used': used, 'left_out': {m.value: reason for m, reason in left_out.items()},
        'encode_s': round(prefix.encode_s, 4),
        'answers': [{
            'question': question, 'text': answer.text, 'finish_reason': answer.finish_reason,
            'tokens': answer.tokens, 'confidence': round(answer.confidence, 4),
            'first_token_s': round(answer.first_token_s, 4),
            'total_s': round(answer.total_s, 4)} for question, answer in answers]},
        ensure_ascii=False))


def _fail(message: object) -> int:
    """Print an error on one line; returns the exit status."""
    print('onellm describe: error:', ' '.join(str(message).split()), file=sys.stderr)
    return 2


def _load(args: argparse.Namespace) -> Engine:
    """Load the model that the command line names."""
    from onellm_ros.inference.engine import Engine

    return Engine.load(args.model, args.device, quantize=args.quantize)


def run(args: argparse.Namespace, load: Callable[[argparse.Namespace], Engine] = _load) -> int:
    """Run the subcommand.

    :param load: gives the engine; it is called after the files were read.
    :returns: 0, or 2 with one line on stderr if a file or the model cannot be used.
    """
    if args.max_tokens < 1:
        return _fail(f'--max-tokens: found {args.max_tokens}, expected at least 1')
    try:
        chosen, file_notes = read_files(args)
        if not chosen and not args.ask:
            return _fail('found no file; give at least one of --image --depth --points --imu '
                         '--audio --video --fmri --signal, or a question with --ask')
        engine = load(args)
        tensors: Tensors = engine.preprocessor.tensors(chosen, END_NS)
        if chosen and not tensors:
            return _fail('nothing to go by: ' + '; '.join(tensors.left_out.values()))
        prefix = engine.encode(tensors)
        answers = _answers(engine, prefix, args)
    except (FileError, PreprocessError, EngineError) as error:
        return _fail(error)
    used = _notes(prefix.modalities, tensors.notes, file_notes)
    if args.json:
        _print_json(engine, prefix, used, tensors.left_out, answers)
    else:
        _print_text(used, tensors.left_out, answers, bool(args.ask))
    return 0
