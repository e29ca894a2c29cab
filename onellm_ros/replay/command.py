"""``onellm replay``: what the node would have said about a recording, without playing it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
import math
import os
from pathlib import Path
import re
import sys
import time
from typing import Any

from onellm_ros.config import ConfigError
from onellm_ros.modality import parse_modality
from onellm_ros.node_config import NodeConfig
from onellm_ros.replay.bag_sources import BagError
from onellm_ros.replay.description_bag import check_place, typestore, write_descriptions
from onellm_ros.replay.facts import facts_of_model
from onellm_ros.replay.output import Progress, Sink, open_report
from onellm_ros.replay.params import REPORT, NodeParams, read_params
from onellm_ros.replay.questions_file import one_question, read_questions
from onellm_ros.replay.records import ReplayError, ResultFile, read_results
from onellm_ros.replay.run import (
    Recording,
    Request,
    do_here,
    do_in,
    header_of,
    look_at,
    remaining,
    tasks_of,
)
from onellm_ros.replay.work import Done, Facts, Loader, Task, Work, load_engine
from onellm_ros.ros.conversions import AudioFormat

_PARTS_EACH = 4                 # parts of the recordings for each worker, so that none waits long
_SHORTEST_S = 15.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the subcommand to its parser."""
    parser.add_argument('bags', nargs='+', metavar='BAG',
                        help='rosbag2 folder, .mcap, .db3 or ROS 1 .bag file; several are done '
                             'one after another')
    node = parser.add_argument_group('what the node is told')
    node.add_argument('--params-file', metavar='FILE',
                      help="the node's parameters (default: report.yaml of onellm record, if it "
                           'is in the bag)')
    node.add_argument('--topics', metavar='TOPIC=MODALITY', action='append', default=[],
                      help='use a topic as image, depth, normal, point, imu, audio, fmri, scan '
                           'or none; else they are told by type and content')
    node.add_argument('--model', help='name or folder (default: nano)')
    node.add_argument('--device', help='auto, cpu, cuda, cuda:N')
    node.add_argument('--modalities', metavar='A,B', help='what the model is shown')
    node.add_argument('--prompt', help='what the model is asked for')
    node.add_argument('--max-tokens', type=int, help='length of a description')
    node.add_argument('--window', type=float, metavar='S', help='length of a window')
    node.add_argument('--period', type=float, metavar='S', help='from one window to the next')
    node.add_argument('--audio-format', metavar='RATE:CHANNELS:FORMAT',
                      help='what audio bytes without a format are, such as 44100:2:S16LE')
    which = parser.add_argument_group('which windows, and what is asked of them')
    which.add_argument('--from', dest='from_s', type=float, metavar='S',
                       help='seconds from the begin of the recording, or since 1970')
    which.add_argument('--to', dest='to_s', type=float, metavar='S')
    which.add_argument('--every', default='1', metavar='N|Ns',
                       help='only each N-th window (5), or one of so many seconds (5s)')
    which.add_argument('--questions', metavar='FILE',
                       help='asked of every window: one a line, or YAML with choices and '
                            'modalities')
    which.add_argument('--ask', action='append', default=[], metavar='QUESTION',
                       help='asked of every window; may be repeated')
    which.add_argument('--no-describe', action='store_true', help='only answer questions')
    out = parser.add_argument_group('where it goes')
    out.add_argument('--out', metavar='FILE',
                     help='JSON, one line a window; what is there of the same replay is gone on '
                          'with (default: readable lines on stdout)')
    out.add_argument('--no-times', action='store_true',
                     help='leave out how long things took: the same replay gives the same file')
    out.add_argument('--bag', metavar='OUT', dest='out_bag',
                     help='bag of the descriptions: .mcap or .db3 file, or a folder')
    out.add_argument('--merge', action='store_true',
                     help="with the recording's own messages in it")
    out.add_argument('--html', metavar='FILE', help='report that a browser shows')
    much = parser.add_argument_group('much to do')
    much.add_argument('--processes', type=int, default=0, metavar='N',
                      help='so many processes of this machine, or actors on Ray')
    much.add_argument('--ray', metavar='ADDRESS',
                      help='a Ray cluster: auto, local, HOST:PORT, ray://HOST:PORT')
    much.add_argument('--segment', type=float, metavar='S',
                      help='length of the parts that are done at once (default: by the number of '
                           'workers)')


# ---- what is asked ------------------------------------------------------------------------------

def _params(args: argparse.Namespace, bags: Sequence[Path]) -> list[NodeParams | None]:
    """Return what is known of each bag's node."""
    if args.params_file:
        return [read_params(args.params_file)] * len(bags)
    out: list[NodeParams | None] = []
    for bag in bags:
        beside = (bag if bag.is_dir() else bag.parent) / REPORT
        out.append(read_params(beside) if beside.is_file() else None)
    known = [p for p in out if p is not None]
    if known and any(p is None or p.config != known[0].config for p in out):
        raise ReplayError(f'the reports ({REPORT}) of these bags give different parameters of '
                          'the node, or some have none; give --params-file, or replay them one '
                          'by one')
    return out


def _config(args: argparse.Namespace, params: NodeParams | None) -> NodeConfig:
    """Return the node's settings with what the command line changes."""
    config = params.config if params is not None else NodeConfig()
    named = {name: getattr(args, name) for name in ('model', 'device')
             if getattr(args, name) is not None}
    if args.modalities is not None:
        try:
            named['modalities'] = tuple(parse_modality(word).value for word in
                                        args.modalities.split(',') if word.strip())
        except ValueError as error:
            raise ReplayError(f'--modalities: {error}') from error
    window = {name: value for name, value in (
        ('length_s', args.window), ('period_s', args.period if args.period is not None
                                    else args.window)) if value is not None}
    for option, value in (('--window', args.window), ('--period', args.period)):
        if value is not None and not 0.01 <= value <= 3600:
            raise ReplayError(f'{option}: found {value}, expected 0.01 to 3600 s')
    described: dict[str, Any] = {}
    if args.prompt is not None:
        described['prompt'] = args.prompt
    if args.max_tokens is not None:
        if not 1 <= args.max_tokens <= 4096:
            raise ReplayError(f'--max-tokens: found {args.max_tokens}, expected 1 to 4096')
        described['max_tokens'] = args.max_tokens
    return replace(config, **named, window=replace(config.window, **window),
                   describe=replace(config.describe, **described))


def _every(text: str) -> tuple[int, float]:
    """Return each how many-th window, and one of how many seconds (0: all)."""
    found = re.fullmatch(r'(\d+)|(\d+(?:\.\d+)?) ?s', text.strip())
    if found and found[1] and int(found[1]):
        return int(found[1]), 0.0
    if found and found[2] and float(found[2]):
        return 1, float(found[2])
    raise ReplayError(f'--every: found {text!r}, expected a number of windows (5) or of seconds '
                      '(5s)')


def _audio_format(text: str) -> AudioFormat:
    parts = text.split(':')
    try:
        return AudioFormat(int(parts[0]), int(parts[1]) if len(parts) > 1 else 1,
                           parts[2].upper().replace('MP3', 'mp3') if len(parts) > 2 else 'S16LE')
    except ValueError as error:
        raise ReplayError(f'--audio-format {text}: {error}; expected RATE:CHANNELS:FORMAT, such '
                          'as 44100:2:S16LE') from error


def request_of(args: argparse.Namespace) -> Request:
    """Check the command line.

    :raises ReplayError: for what cannot be. :raises ConfigError: for parameters that cannot be.
    """
    bags = tuple(Path(bag).expanduser() for bag in args.bags)
    params = _params(args, bags)
    config = _config(args, params[0])
    every, every_s = _every(args.every)
    for option, value in (('--from', args.from_s), ('--to', args.to_s),
                          ('--segment', args.segment)):
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise ReplayError(f'{option}: found {value}, expected seconds from 0')
    if args.from_s is not None and args.to_s is not None and args.from_s >= args.to_s:
        raise ReplayError(f'--from {args.from_s:g} --to {args.to_s:g}: expected the begin first')
    if args.processes < 0:
        raise ReplayError(f'--processes: found {args.processes}, expected a number from 0')
    if args.merge and (not args.out_bag or len(bags) > 1):
        raise ReplayError('--merge: expected --bag OUT and one recording')
    places: dict[Path, str] = {}
    for option, place in (('--out', args.out), ('--html', args.html), ('--bag', args.out_bag)):
        if place and (other := places.setdefault(Path(place).resolve(), option)) != option:
            raise ReplayError(f'{option} {place}: {other} goes there; expected another file')
    overrides = dict(item.rpartition('=')[::2] for item in args.topics)
    if '' in overrides:
        raise ReplayError(f'--topics: found {args.topics}, expected TOPIC=MODALITY')
    questions = tuple(one_question(text, config.ask, '--ask') for text in args.ask)
    if args.questions:
        questions += read_questions(args.questions, config.ask)
    describe = config.describe.enabled and not args.no_describe
    if not describe and not questions:
        raise ReplayError('nothing to do: neither to describe nor to answer; give --questions '
                          'or --ask')
    return Request(bags, config, tuple(params), overrides,
                   _audio_format(args.audio_format) if args.audio_format else None, questions,
                   describe, args.from_s, args.to_s, every, every_s, args.segment or 0.0)


# ---- doing it -----------------------------------------------------------------------------------

def run(args: argparse.Namespace, load: Loader = load_engine) -> int:
    """Run the subcommand.

    :param load: gives the engine; tests pass one of their own.
    :returns: 0; 1: some windows failed; 2: it cannot be done; 130: interrupted; 141: nobody reads
        stdout any more.
    """
    try:
        return _replay(args, request_of(args), load)
    except KeyboardInterrupt:
        again = '; the same command goes on from here' if args.out else ''
        print(f'onellm replay: interrupted{again}', file=sys.stderr)
        return 130
    except BrokenPipeError:                     # such as of: onellm replay BAG | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (ReplayError, BagError, ConfigError, RuntimeError, OSError) as error:
        print(f'onellm replay: error: {" ".join(str(error).split())}', file=sys.stderr)
        return 2


def _replay(args: argparse.Namespace, request: Request, load: Loader) -> int:
    several = args.processes > 1 or bool(args.ray)
    work = Work(load)
    facts = facts_of_model(request.config) if several and load is load_engine \
        else Facts.of_engine(work.engine(request.config))
    if args.out_bag:                            # to fail now, not after hours
        typestore()
        check_place(Path(args.out_bag), request.bags, request.bags[0] if args.merge else None)
    recordings = look_at(request, facts)
    _tell(request, facts, recordings)
    request = _with_segments(request, recordings, args.processes, bool(args.ray))
    tasks = tasks_of(request, facts, recordings)
    if not tasks:
        raise ReplayError(
            '--from and --to: found nothing of the recordings there; expected seconds from 0 to '
            f'{max(r.end_ns - r.start_ns for r in recordings) * 1e-9:.1f}, or since 1970')
    header = header_of(request, facts, recordings)
    file = ResultFile(Path(args.out), header, times=not args.no_times) if args.out else None
    done = file.done if file is not None else []
    finished = file is not None and file.finished
    report = None
    if args.html:
        report = open_report(Path(args.html), header, done, _expected(request, recordings))
    tasks, places = remaining(tasks, done, finished, report and report.windows)
    if done:
        print(f'onellm replay: {args.out} has {len(done)} windows' + (
            ': it is whole' if finished else '; going on'), file=sys.stderr)
    progress = Progress(recordings)
    sink = Sink(recordings, progress, file, report, keep=bool(args.out_bag) and file is None)
    sink.begin(places)
    begun_s = time.monotonic()
    ended = _Troubles(progress, recordings)
    try:
        if several and tasks:
            with _pool(args, request, load) as pool:
                do_in(pool, tasks, sink.take, ended, ended.again)
        else:
            do_here(tasks, work, sink.take, ended)
        summary = sink.close(time.monotonic() - begun_s)
    except BaseException:
        sink.abandon()
        raise
    finally:
        progress.close()
    print('onellm replay: ' + ', '.join(f'{name} {value}' for name, value in summary.items()
                                        if value or name == 'windows'), file=sys.stderr)
    if args.out_bag:
        records = sink.records if file is None else read_results(Path(args.out))[1]
        try:
            count = write_descriptions(
                Path(args.out_bag), records, facts.name, frame=request.config.base_frame,
                merge=request.bags[0] if args.merge else None)
        except BagError as error:
            kept = f'{args.out} is whole: make room and give the same command again' if args.out \
                else 'what is printed is not kept: --out FILE keeps it'
            raise BagError(f'{error}; {kept}') from error
        print(f'onellm replay: {count} descriptions in {args.out_bag}', file=sys.stderr)
    return int(bool(summary['failed']))


def _tell(request: Request, facts: Facts, recordings: Sequence[Recording]) -> None:
    """Say what is read, and what may be unexpected about it."""
    for number, recording in enumerate(recordings):
        print(f'{recording.path}: {(recording.end_ns - recording.start_ns) * 1e-9:.1f} s, '
              f'{recording.messages} messages', file=sys.stderr)
        params = request.params[number]
        problems = (' '.join(p.split()) for p in recording.problems)
        notes = [*recording.plan.lines, *(f'  problem: {p}' for p in problems),
                 *(f'  note: {n}' for n in (params.notes if params else ()))]
        if recording.offset_ns:
            notes.append(f'  note: its stamps are {recording.offset_ns * 1e-9:+.3f} s from the '
                         'time of recording; --from and --to go by the stamps')
        if params is not None and params.model and params.model != facts.name:
            notes.append(f'  note: recorded with the model {params.model}, replayed with '
                         f'{facts.name}: the words will differ')
        print('\n'.join(notes), file=sys.stderr)


def _expected(request: Request, recordings: Sequence[Recording]) -> int:
    """Return about how many windows there will be."""
    period_s = max(request.config.window.period_s * request.every, request.every_s)
    total_s = sum((r.end_ns - r.start_ns) * 1e-9 for r in recordings)
    if len(recordings) == 1 and request.from_s is not None and request.from_s < total_s:
        total_s -= request.from_s
    return round(total_s / period_s)


def _with_segments(request: Request, recordings: Sequence[Recording], processes: int, ray: bool
                   ) -> Request:
    """Choose the length of the parts, if the user did not."""
    if processes < 2 and not ray:
        return replace(request, segment_s=0.0)
    if request.segment_s:
        return request
    total_s = sum((r.end_ns - r.start_ns) * 1e-9 for r in recordings)
    return replace(request, segment_s=max(
        _SHORTEST_S, total_s / (_PARTS_EACH * max(processes, 4))))


def _pool(args: argparse.Namespace, request: Request, load: Loader) -> Any:
    if args.ray:
        from onellm_ros.replay.ray_pool import RayPool
        return RayPool(args.ray, args.processes, load=load,
                       gpu=request.config.device.startswith('cuda'))
    if args.processes > 1:
        from onellm_ros.replay.processes import Processes
        return Processes(args.processes, load)
    return nullcontext()


class _Troubles:
    """Tells what went wrong in tasks, each kind once.

    :param recordings: what is wrong with them by themselves has been told.
    """

    def __init__(self, progress: Progress, recordings: Sequence[Recording]) -> None:
        self._progress = progress
        self._told = {(r.path, problem) for r in recordings for problem in r.problems}

    def __call__(self, task: Task, done: Done) -> None:
        for topic, (count, text) in done.wrong.items():
            self._once(task, topic, f'{topic}: {count} message(s), the first: {text}')
        for text in (*done.events, *done.problems):
            self._once(task, text, text)

    def _once(self, task: Task, key: str, text: str) -> None:
        if (task.path, key) not in self._told:
            self._told.add((task.path, key))
            self._progress.say(f'onellm replay: {task.path}: {text}')

    def again(self, task: Task) -> None:
        """Say that a part is done again."""
        self._progress.say(f'onellm replay: {task.path}: part {task.number + 1} did not begin '
                           'with what the one before ended with; it is done again from the '
                           "recording's begin")
