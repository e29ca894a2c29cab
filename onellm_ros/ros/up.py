"""``onellm up``: the perception node and what feeds it, without ``ros2 launch``.

Each node is a process of its own. This one checks all arguments first, starts the others, says
what becomes of them, starts a node that died again if asked, and ends them all with itself.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, fields
import importlib.util
import json
from pathlib import Path
import signal
import sys
import time
from typing import Any

from onellm_ros.modality import parse_modality
from onellm_ros.perception.settings import SETTINGS
from onellm_ros.perception.sources import CAMERA_INFO, camera_beside
from onellm_ros.replay.bag_sources import BagError
from onellm_ros.ros.demo_bag import BagPlan, plan_bag, topic_choices
from onellm_ros.ros.demo_processes import Child
from onellm_ros.ros.up_params import (
    INPUTS,
    LOG_LEVELS,
    NODE,
    OTHERS,
    UpError,
    check_namespace,
    check_params,
    check_place,
    check_remap,
    check_ros_arguments,
    node_name,
    read_params_file,
)
from onellm_ros.ros.up_processes import Processes, Watch, how_it_ended, status_of

LOOK_S = 0.1
RESPAWN_S = 2.0
SETTLE_S = 0.5            # subscriptions come one by one: they are told when no more come
LAST_WINDOWS_S = 3.0      # after a recording that ends everything
WRONG_PARAMETERS = 2      # exit status of a node that cannot be started with what it was given
PICTURE = 'onellm_ros.ros.picture_node'
_SIMULATION, _PLAYER = 'simulation', 'bag_player'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add('--params-file', action='append', default=[], metavar='FILE',
        help='YAML with parameters of the node, such as config/onellm.yaml; repeatable')
    add('--model', default='', help='name or folder of the model')
    add('--device', default='', help='cpu, cuda, cuda:N or auto')
    add('--namespace', default='', help='namespace of all nodes')
    add('--remap', action='append', default=[], metavar='FROM:=TO',
        help='another name for a topic, for all nodes; repeatable')
    add('--use-sim-time', action='store_true',
        help='take the time from /clock; --bag and --simulation then publish it')
    add('--log-level', default='info', choices=LOG_LEVELS, help='what the nodes log')
    add('--no-autostart', action='store_true',
        help='leave the node unconfigured, for a lifecycle manager')
    add('--respawn', nargs='?', type=float, const=RESPAWN_S, metavar='SECONDS',
        help=f'start the node again so long after it ended (default {RESPAWN_S:g})')
    add('--simulation', action='store_true', help='start the simulated robot, too')
    add('--seed', type=int, default=0, help='which simulated world (default 0)')
    add('--bag', type=Path, help='play a rosbag2 or ROS 1 recording into the inputs')
    add('--map', action='append', default=[], metavar='TOPIC=MODALITY',
        help='use a topic of the recording as image, depth, ..., or none; repeatable')
    add('--rate', type=float, default=1.0, help='speed of the recording (default 1)')
    add('--start-offset', type=float, default=0.0, metavar='SECONDS',
        help='leave out the beginning of the recording')
    add('--loop', action='store_true', help='begin the recording again at its end')
    add('--stop-at-end', action='store_true', help='end everything with the recording')
    add('--debug-picture', action='store_true', help='start the node of the annotated image, too')


@dataclass(frozen=True)
class Plan:
    """What is started, checked.

    :param arguments: of each process, by its name: module, then its arguments.
    :param namespace: of the nodes. :param respawn_s: None: a node that ended stays so.
    :param stop_at_end: of the recording. :param lines: said before anything starts.
    """

    arguments: Mapping[str, tuple[str, ...]]
    namespace: str
    respawn_s: float | None
    stop_at_end: bool
    lines: tuple[str, ...]


def plan(args: argparse.Namespace) -> Plan:
    """Check all arguments.

    :raises UpError: for the first one that cannot be.
    """
    check_namespace(args.namespace)
    check_place(args.model, args.device)
    if args.respawn is not None and not 0.0 <= args.respawn <= 3600.0:
        raise UpError(f'--respawn: found {args.respawn:g}, expected 0 to 3600 seconds')
    if args.simulation and args.bag is not None:
        raise UpError('found --simulation and --bag, expected one of them: both feed the inputs')
    if args.bag is None and (args.map or args.loop or args.stop_at_end or args.start_offset
                             or args.rate != 1.0):
        raise UpError('--map, --rate, --start-offset, --loop, --stop-at-end: found no '
                      '--bag, whose playing they are about')
    if args.loop and args.stop_at_end:
        raise UpError('found --loop and --stop-at-end, expected one: a loop has no end')
    lines = [_unknown_input(old) for old, _ in map(check_remap, args.remap)]
    params: dict[str, Any] = {}
    for path in args.params_file:
        params |= read_params_file(path, args.namespace)
    strangers = any('.' not in name for name in set(params) - {*SETTINGS, *OTHERS})
    check_params(params, _known_to_simulation() if args.simulation and strangers else ())
    sim_time = args.use_sim_time or params.get('use_sim_time') is True
    node = _node_arguments(args, sim_time)
    out = {NODE: ('onellm_ros.ros.perception_node', *node,
                  *(['-p', 'autostart:=false'] if args.no_autostart else []))}
    feeds = feed_remaps(params)
    if args.simulation:
        out[_SIMULATION] = (
            'onellm_ros.ros.simulation_node', *node, '-p', 'use_sim_time:=false',
            '-p', f'seed:={args.seed}', '-p', f'realtime:={"false" if sim_time else "true"}',
            *(word for rule in feeds for word in ('-r', rule)))
    if args.bag is not None:
        bag = _bag_plan(args)
        lines += [f'{args.bag}: {bag.seconds:.1f} s; its topics:', *bag.lines]
        out[_PLAYER] = _player_arguments(args, bag, sim_time, feeds)
    if args.debug_picture:
        if importlib.util.find_spec(PICTURE) is None:
            raise UpError(f'--debug-picture: found no module {PICTURE} in this installation')
        out['perception_picture'] = (PICTURE, *node)
    for words in out.values():
        if '--ros-args' in words:
            check_ros_arguments(words[words.index('--ros-args'):])
    return Plan(out, args.namespace, args.respawn, args.stop_at_end, tuple(filter(None, lines)))


def _node_arguments(args: argparse.Namespace, sim_time: bool) -> list[str]:
    """Return the ROS arguments of the perception node, which the others get, too."""
    words = ['--ros-args', *_names(args), '--log-level', args.log_level]
    for path in args.params_file:
        words += ['--params-file', str(Path(path).expanduser())]
    if sim_time:
        words += ['-p', 'use_sim_time:=true']
    for name in ('model', 'device'):
        if getattr(args, name):
            words += ['-p', f'{name}:={json.dumps(getattr(args, name))}']
    return words


def _names(args: argparse.Namespace) -> list[str]:
    words = []
    if args.namespace:
        words += ['-r', f'__ns:={node_name(args.namespace, "").rstrip("/") or "/"}']
    return words + [word for rule in args.remap for word in ('-r', rule)]


def _unknown_input(name: str) -> str:
    """Return a remark on a name that the node does not have."""
    bare = name.rpartition(':')[2]
    if bare in INPUTS or bare.startswith(('/', '~')):
        return ''
    return f'note: --remap {name}: the inputs are {", ".join(INPUTS)}'


def _known_to_simulation() -> list[str]:
    from onellm_ros.ros.simulation_node import SimulationConfig  # numba: only when needed
    return [item.name for item in fields(SimulationConfig)]


def _bag_plan(args: argparse.Namespace) -> BagPlan:
    if not args.rate > 0.0 or not args.start_offset >= 0.0:
        raise UpError(f'--rate {args.rate:g} --start-offset {args.start_offset:g}: expected a '
                      'speed above 0 and an offset of at least 0 seconds')
    try:
        return plan_bag(args.bag, topic_choices(args.map))
    except (BagError, ValueError, OSError) as error:
        raise UpError(f'--bag: {" ".join(str(error).split())}') from error


def _player_arguments(args: argparse.Namespace, bag: BagPlan, sim_time: bool, feeds: list[str]
                      ) -> tuple[str, ...]:
    words = ['onellm_ros.ros.bag_player', *bag.arguments, '--rate', f'{args.rate}', '--start',
             f'{args.start_offset}']
    words += ['--loop'] * args.loop + ['--clock'] * sim_time
    return (*words, '--ros-args', *_names(args), '--log-level', args.log_level,
            *(word for rule in feeds for word in ('-r', rule)))


def feed_remaps(params: Mapping[str, Any]) -> list[str]:
    """Return how a simulation or a recording meets a node whose YAML names its own sources.

    They publish on the default inputs; the first source of each modality gets them.

    :param params: parameters by dotted names.
    :returns: remapping rules; none for a node with the default inputs.
    """
    inputs = {'point': 'points'}
    rules: dict[str, str] = {}
    for name in params.get('sources', ()):
        def told(key: str, name: str = name) -> str:
            return str(params.get(f'source.{name}.{key}', ''))
        if not told('modality') or not told('topic'):
            continue
        modality, topic = parse_modality(told('modality')).value, told('topic')
        transport = topic.rpartition('/')[2]
        entry = inputs.get(modality, modality)
        if transport in ('compressed', 'compressedDepth'):
            entry = f'{entry}/{transport}'
        rules.setdefault(entry, topic)
        if modality in ('image', 'depth'):
            rules.setdefault(CAMERA_INFO, told('camera_info') or camera_beside(topic))
    return [f'{old}:={new}' for old, new in rules.items()]


class Up:
    """Everything that one ``onellm up`` runs.

    :param plan: what; checked.
    """

    def __init__(self, plan: Plan, processes: Processes) -> None:
        self._plan, self._processes = plan, processes
        self._running: dict[str, Child] = {}
        self._again_s: float | None = None
        self._end_s: float | None = None
        self._starts = 0
        self._told: dict[str, str] = {}
        self._seen: dict[str, str] = {}
        self._seen_s = 0.0
        self._twice_told = False
        self._played = False
        self._stop = False
        self._code = 0                        # exit status of the node that ended last,
        self._player_code = 0                 # and of the player that ended all
        self._watch: Watch | None = None

    def stop(self, *_: Any) -> None:
        """End everything (a signal's handler); called again: without waiting."""
        if self._stop:
            self._processes.kill()
        self._stop = True

    def run(self) -> int:
        """Go on until the node or the recording ends, or :meth:`stop`; returns its exit status."""
        self._start(NODE)
        for name in self._plan.arguments:
            if name not in (NODE, _PLAYER):
                self._start(name)
        if _PLAYER in self._plan.arguments:
            say('the recording is played as soon as perception subscribes to something')
        self._watch = Watch(self._plan.namespace, NODE)
        try:
            while not self._stop and self._go_on():
                self._look()
                time.sleep(LOOK_S)
        finally:
            if self._running:
                say(f'ending {", ".join(self._running)}')
            self._processes.stop()
            self._watch.close()
        for name, child in self._running.items():
            code = child.process.wait()
            say(f'{name} {how_it_ended(code)}')
            if name == NODE:
                self._code = code
        return status_of(self._code or self._player_code)

    def _start(self, name: str) -> None:
        module, *arguments = self._plan.arguments[name]
        self._running[name] = self._processes.start(name, module, arguments)
        self._starts += name == NODE
        again = f', start {self._starts}' if name == NODE and self._starts > 1 else ''
        say(f'{name} started (pid {self._running[name].process.pid}{again})')

    def _go_on(self) -> bool:
        """Deal with what has ended; tell whether to go on."""
        now_s = time.monotonic()
        for name, child in list(self._running.items()):
            code = child.process.poll()
            if code is None:
                continue
            del self._running[name]
            self._processes.forget(child)
            if name == NODE:
                self._code = code
                if self._plan.respawn_s is None or code == WRONG_PARAMETERS:
                    say(f'{name} {how_it_ended(code)}')
                    return False
                self._again_s = now_s + self._plan.respawn_s
                say(f'{name} {how_it_ended(code)}; it is started again in '
                    f'{self._plan.respawn_s:g} s')
            else:
                say(f'{name} {how_it_ended(code)}')
                if name == _PLAYER and self._plan.stop_at_end:
                    self._end_s, self._player_code = now_s + LAST_WINDOWS_S, code
        if self._again_s is not None and now_s >= self._again_s:
            self._again_s = None
            self._start(NODE)
        return self._end_s is None or now_s < self._end_s

    def _look(self) -> None:
        """Tell what the node subscribes when that has changed, and start the recording."""
        assert self._watch is not None
        now_s, found = time.monotonic(), self._watch.inputs()
        if found != self._seen:
            self._seen, self._seen_s = found, now_s
        if found and found != self._told and now_s - self._seen_s >= SETTLE_S:
            self._told = found
            say(f'{NODE} subscribes to ' + ', '.join(
                f'{topic} ({kind})' for topic, kind in sorted(found.items())))
            if _PLAYER in self._plan.arguments and not self._played:
                self._played = True
                self._start(_PLAYER)
        if self._starts == 1 and not self._twice_told and self._watch.count() > 1:
            self._twice_told = True
            say(f'warning: another node is called {node_name(self._plan.namespace)} already; give '
                'one of them a --namespace, or another ROS_DOMAIN_ID')


def say(*lines: str) -> None:
    """Print lines at once."""
    for line in lines:
        print(f'up: {line}', flush=True)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the node's exit status (2: wrong use)."""
    try:
        made = plan(args)
    except UpError as error:
        print(f'onellm up: {error}', file=sys.stderr)
        return 2
    say(*made.lines)
    processes = Processes()
    with processes:
        up = Up(made, processes)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, up.stop)
        return up.run()
