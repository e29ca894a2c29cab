"""What the launch files do with their arguments, run with a small stand-in for ``launch``.

The wheels of ROS 2 lack launch and launch_ros. The stand-in takes the arguments that theirs take
in Jazzy and no others, keeps what it is given, and performs launch configurations; so the files
are executed, and a call that launch would refuse fails here.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
import importlib.util
import inspect
from pathlib import Path
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml

pytest.importorskip('lifecycle_msgs.srv')
pytest.importorskip('onellm_msgs.msg')

from lifecycle_msgs.msg import State  # noqa: E402
from lifecycle_msgs.srv import GetState  # noqa: E402

# ---- the stand-in -------------------------------------------------------------------------------


class Kept:
    """A thing that keeps what it was made with, by the names of its signature."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        bound = inspect.signature(self.made).bind(*args, **kwargs)
        bound.apply_defaults()
        self.given = SimpleNamespace(**bound.arguments)

    def made(self) -> None:
        """Hold the signature; of a class below that has one of its own."""


def _kept(name: str, made: Callable[..., Any], *bases: type[Kept]) -> type[Kept]:
    def plain(self: Any, *args: Any, **kwargs: Any) -> None:
        made(*args, **kwargs)
    plain.__signature__ = inspect.Signature([                        # type: ignore[attr-defined]
        inspect.Parameter('self', inspect.Parameter.POSITIONAL_ONLY),
        *inspect.signature(made).parameters.values()])
    return type(name, bases or (Kept,), {'made': plain})


class Event:
    """An event."""


class Configuration(Kept):
    """``LaunchConfiguration``."""

    def made(self, variable_name, *, default=None) -> None:          # type: ignore[override]
        """Hold the signature."""

    def perform(self, context: Any) -> str:
        """Return the argument's text."""
        return context.launch_configurations[self.given.variable_name]


class OpaqueFunction(Kept):
    """Runs a function with the context."""

    def made(self, *, function, args=None, kwargs=None, condition=None) -> None:  # type: ignore
        """Hold the signature."""


# As in launch 3.4 and launch_ros 0.26, less what no launch file here could want.
DeclareLaunchArgument = _kept('DeclareLaunchArgument', lambda name, *, default_value=None,
                              description=None, choices=None, condition=None: None)
Process = _kept('ExecuteProcess', lambda *, cmd, name=None, cwd=None, env=None, output='log',
                additional_env=None, respawn=False, respawn_delay=None, on_exit=None,
                sigterm_timeout='5', sigkill_timeout='5', condition=None: None)
Node = _kept('Node', lambda *, executable, package=None, name=None, namespace=None,
             exec_name=None, parameters=None, remappings=None, ros_arguments=None, arguments=None,
             output='log', respawn=False, respawn_delay=None, condition=None: None)
LifecycleNode = _kept('LifecycleNode', lambda *, name, namespace, executable, package=None,
                      parameters=None, remappings=None, ros_arguments=None, arguments=None,
                      output='log', respawn=False, respawn_delay=None, condition=None: None, Node)
MODULES: dict[str, dict[str, Any]] = {
    'launch': {
        'Event': Event,
        'EventHandler': _kept('EventHandler', lambda *, matcher, entities=None,
                              handle_once=False: None),
        'LaunchDescription': _kept('LaunchDescription', lambda initial_entities=None, *,
                                   deprecated_reason=None: None)},
    'launch.actions': {
        'DeclareLaunchArgument': DeclareLaunchArgument, 'ExecuteProcess': Process,
        'OpaqueFunction': OpaqueFunction,
        'EmitEvent': _kept('EmitEvent', lambda *, event, condition=None: None),
        'IncludeLaunchDescription': _kept(
            'IncludeLaunchDescription', lambda launch_description_source, *,
            launch_arguments=None, condition=None: None),
        'LogInfo': _kept('LogInfo', lambda *, msg, condition=None: None),
        'RegisterEventHandler': _kept('RegisterEventHandler',
                                      lambda event_handler, *, condition=None: None),
        'TimerAction': _kept('TimerAction', lambda *, period, actions, cancel_on_shutdown=True,
                             condition=None: None)},
    'launch.conditions': {'IfCondition': _kept('IfCondition', lambda predicate_expression: None)},
    'launch.event_handlers': {
        'OnProcessExit': _kept('OnProcessExit', lambda *, on_exit, target_action=None,
                               handle_once=False: None),
        'OnProcessStart': _kept('OnProcessStart', lambda *, on_start, target_action=None,
                                handle_once=False: None)},
    'launch.events': {
        'Shutdown': _kept('Shutdown', lambda *, reason='', due_to_sigint=False: None)},
    'launch.launch_description_sources': {
        'PythonLaunchDescriptionSource': _kept('PythonLaunchDescriptionSource',
                                               lambda launch_file_path: None)},
    'launch.substitutions': {
        'LaunchConfiguration': Configuration,
        'NotSubstitution': _kept('NotSubstitution', lambda value: None)},
    'launch_ros': {},
    'launch_ros.actions': {'Node': Node, 'LifecycleNode': LifecycleNode},
    'launch_ros.parameter_descriptions': {
        'ParameterValue': _kept('ParameterValue', lambda value, *, value_type=None: None)},
    'launch_ros.ros_adapters': {'get_ros_node': lambda context: context.ros_node},
}


@pytest.fixture
def load(root: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Return what reads a launch file with the stand-in in the place of launch."""
    for name, members in MODULES.items():
        module = ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)

    def read(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(
            f'stood_in_{name}', root / 'launch' / f'{name}.launch.py')
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.generate_launch_description()
        return module
    return read


def context_of(module: ModuleType, **values: str) -> Any:
    """Return a context after the arguments were declared."""
    configurations = dict(values)
    for argument in module.ARGUMENTS:
        given = argument.given
        if given.default_value is not None:
            configurations.setdefault(given.name, given.default_value)
        assert given.choices is None or configurations[given.name] in given.choices
    return SimpleNamespace(launch_configurations=configurations, is_shutdown=False)


def parameters_of(node: Kept) -> tuple[list[str], dict[str, Any]]:
    """Return a node's parameter files and its other parameters, in the order of launch."""
    files, values = [], {}
    for item in node.given.parameters:
        if isinstance(item, str):
            assert not values, 'a file would override what the arguments say'
            files.append(item)
        else:
            values.update({key: value.given.value if isinstance(value, Kept) else value
                           for key, value in item.items()})
    return files, values


# ---- the node -----------------------------------------------------------------------------------

def test_without_arguments_the_parameters_are_the_nodes_own(load: Any) -> None:
    module = load('onellm')
    node, = module.start(context_of(module))
    assert type(node) is LifecycleNode
    assert (node.given.package, node.given.executable) == ('onellm_ros', 'perception')
    assert parameters_of(node) == ([], {}) and node.given.remappings == []
    assert node.given.ros_arguments == ['--log-level', 'info'] and node.given.respawn is False


def test_arguments_reach_the_nodes(load: Any) -> None:
    module = load('onellm')
    nodes = module.start(context_of(
        module, namespace='robot1', use_sim_time='True', autostart='false', model='nano',
        device='cpu', log_level='debug', respawn='true', respawn_delay='0.5',
        enclave='/onellm/', debug_picture='True', image='/cam/compressed', points='lidar'))
    assert [n.given.executable for n in nodes] == ['perception', 'picture']
    for node in nodes:
        assert parameters_of(node) == ([], {'use_sim_time': True, 'autostart': False,
                                            'model': 'nano', 'device': 'cpu'})
        assert node.given.remappings == [('image/compressed', '/cam/compressed'),
                                         ('points', 'lidar')]
        assert node.given.ros_arguments == ['--log-level', 'debug', '--enclave',
                                            f'/onellm/{node.given.name}']
        assert (node.given.namespace, node.given.respawn, node.given.respawn_delay) == (
            'robot1', True, 0.5)


def written(path: Path, values: dict[str, Any], section: str = '/**') -> str:
    """Write a parameter file."""
    path.write_text(yaml.safe_dump({section: {'ros__parameters': values}}), encoding='utf-8')
    return str(path)


def test_what_the_parameter_file_says_holds_unless_an_argument_is_given(
        load: Any, tmp_path: Path) -> None:
    module = load('onellm')
    file = written(tmp_path / 'p.yaml', {'use_sim_time': True, 'autostart': False}, 'perception')
    node, picture = module.start(context_of(module, params_file=file, debug_picture='true'))
    assert parameters_of(node) == ([file], {'use_sim_time': True, 'autostart': False})
    assert parameters_of(picture)[1]['use_sim_time'] is True    # the section is not its own
    node, = module.start(context_of(module, params_file=file, use_sim_time='false',
                                    autostart='true'))
    assert parameters_of(node) == ([file], {'use_sim_time': False, 'autostart': True})


def test_a_parameter_file_is_found_as_it_was_checked(
        load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('HOME', str(tmp_path))
    module = load('onellm')
    file = written(tmp_path / 'p.yaml', {'threads': 1})
    node, = module.start(context_of(module, params_file='~/p.yaml'))
    assert parameters_of(node)[0] == [file]                     # launch_ros knows no ~


def test_a_parameter_file_is_judged_for_the_namespace_that_is_pushed(
        load: Any, tmp_path: Path) -> None:
    module = load('onellm')
    file = written(tmp_path / 'p.yaml', {'threads': 1}, '/robot1/inner/perception')
    for namespace, inside in (('inner', '/robot1'), ('/robot1/inner', '/other'),
                              ('', '/robot1/inner'), ('robot1/inner', '')):
        node, = module.start(context_of(module, params_file=file, namespace=namespace,
                                        ros_namespace=inside))
        assert node.given.namespace == namespace                # launch_ros puts them together
    with pytest.raises(RuntimeError, match='expected some for /inner/perception'):
        module.start(context_of(module, params_file=file, namespace='inner'))


@pytest.mark.parametrize('text', ['soon', '-1', 'inf', 'nan'])
def test_a_delay_is_a_number_of_seconds(load: Any, text: str) -> None:
    module = load('onellm')
    with pytest.raises(RuntimeError, match=f"respawn_delay: found '{text}', expected a number"):
        module.start(context_of(module, respawn_delay=text))


# ---- a recording --------------------------------------------------------------------------------

def ros2_bag_play() -> argparse.ArgumentParser:
    """Return a parser of the options used here, as strict as that of ``ros2 bag play``."""
    def positive(text: str) -> float:
        if not float(text) > 0.0:
            raise ValueError(text)
        return float(text)
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument('bag')
    for name in ('--rate', '--delay', '--start-offset', '--clock'):
        parser.add_argument(name, type=positive)
    for name in ('--loop', '--disable-keyboard-controls'):
        parser.add_argument(name, action='store_true')
    parser.add_argument('--remap', nargs='+', default=[])
    return parser


def played(module: ModuleType, bag: Path, **values: str) -> argparse.Namespace:
    """Return what ``ros2 bag play`` understands of the arguments."""
    given = {'rate': '1.0', 'start_offset': '0.0', 'remaps': '', **values}
    words = module.player_command(str(bag), given['rate'], given['start_offset'],
                                  values.get('loop') == 'true', given['remaps'])
    assert words[:3] == ['ros2', 'bag', 'play']
    return ros2_bag_play().parse_args(words[3:])


def test_the_player_takes_its_command(load: Any, tmp_path: Path) -> None:
    module = load('replay')
    plain = played(module, tmp_path)
    assert plain.start_offset is None           # the player refuses an offset of 0
    assert plain.clock and plain.delay and not plain.loop
    given = played(module, tmp_path, rate='2', start_offset='1.5', remaps='/a:=/image /b:=/imu',
                   loop='true')
    assert (given.rate, given.start_offset, given.loop, given.remap) == (
        2.0, 1.5, True, ['/a:=/image', '/b:=/imu'])
    assert given.delay is None                  # it would wait before each round


def test_a_recorded_clock_is_the_only_one(load: Any, tmp_path: Path) -> None:
    module = load('replay')
    topics = [{'topic_metadata': {'name': name}} for name in ('/image', '/clock')]
    for found, metadata in (
            (True, {'rosbag2_bagfile_information': {'topics_with_message_count': topics}}),
            (False, {'rosbag2_bagfile_information': {'topics_with_message_count': topics[:1]}}),
            (False, {'rosbag2_bagfile_information': None}), (False, 'no metadata')):
        (tmp_path / 'metadata.yaml').write_text(yaml.safe_dump(metadata), encoding='utf-8')
        assert (played(module, tmp_path).clock is None) is found, metadata


def test_a_recording_of_ros_1_is_refused(load: Any, tmp_path: Path) -> None:
    module = load('replay')
    (tmp_path / 'old.bag').touch()
    with pytest.raises(RuntimeError, match='ROS 1 .* use onellm replay'):
        module.play(context_of(module, bag=str(tmp_path / 'old.bag')))


class Loop:
    """An event loop whose time passes when told."""

    def __init__(self) -> None:
        self.later: list[Callable[[], None]] = []

    def call_later(self, seconds: float, call: Callable[[], None]) -> None:
        """Keep a call."""
        assert seconds > 0.0
        self.later.append(call)

    def call_soon_threadsafe(self, call: Callable[..., None], *args: Any) -> None:
        """Call at once."""
        call(*args)

    def passes(self) -> None:
        """Let one round of calls happen."""
        calls, self.later = self.later, []
        for call in calls:
            call()


class Client:
    """A client of ``get_state`` that answers what it is told to."""

    def __init__(self) -> None:
        self.ready, self.state, self.asked = False, State.PRIMARY_STATE_UNKNOWN, 0

    def service_is_ready(self) -> bool:
        """Tell whether the service is there."""
        return self.ready

    def call_async(self, _: GetState.Request) -> Any:
        """Return a future that is done."""
        self.asked += 1
        response = GetState.Response()
        response.current_state.id = self.state
        future = SimpleNamespace(exception=lambda: None, result=lambda: response)
        future.add_done_callback = lambda call: call(future)
        return future


def handlers(module: ModuleType, context: Any) -> dict[str, Kept]:
    """Return the event handlers that a replay registers, by their class."""
    return {type(a.given.event_handler).__name__: a.given.event_handler
            for a in module.play(context)}


def test_the_recording_begins_when_the_node_says_that_it_is_active(
        load: Any, tmp_path: Path) -> None:
    module = load('replay')
    context, client, emitted = context_of(module, bag=str(tmp_path)), Client(), []
    names: list[str] = []

    def create_client(kind: Any, name: str) -> Client:
        assert kind is GetState
        names.append(name)
        return client
    context.ros_node = SimpleNamespace(create_client=create_client)
    context.asyncio_loop, context.emit_event_sync = Loop(), emitted.append
    found = handlers(module, context)
    node = LifecycleNode(name='perception', namespace='', executable='perception')
    node.node_name = '/robot1/perception'                            # type: ignore[attr-defined]
    start = found['OnProcessStart'].given
    assert start.handle_once and start.target_action(node)
    assert not start.target_action(Process(cmd=['ros2']))
    assert start.on_start(SimpleNamespace(action=node), context) is None
    assert names == ['/robot1/perception/get_state']
    context.asyncio_loop.passes()
    assert client.asked == 0 and not emitted                    # the service is not there yet
    client.ready, client.state = True, State.PRIMARY_STATE_INACTIVE
    context.asyncio_loop.passes()
    assert client.asked == 1 and not emitted
    client.state = State.PRIMARY_STATE_ACTIVE
    context.asyncio_loop.passes()
    context.asyncio_loop.passes()
    begin = found['EventHandler'].given
    assert len(emitted) == 1 and not context.asyncio_loop.later and begin.handle_once
    assert begin.matcher(emitted[0]) and not begin.matcher(Event())
    assert [type(e) for e in begin.entities] == [Process]


def test_nobody_is_asked_after_the_end(load: Any, tmp_path: Path) -> None:
    module = load('replay')
    context, client = context_of(module, bag=str(tmp_path)), Client()
    client.ready = True
    context.ros_node = SimpleNamespace(create_client=lambda *_: client)
    context.asyncio_loop, context.is_shutdown = Loop(), True
    module.ask_until_active(
        SimpleNamespace(action=SimpleNamespace(node_name='/perception')), context)
    assert client.asked == 0 and not context.asyncio_loop.later


def test_what_follows_the_end_of_a_recording(load: Any, tmp_path: Path) -> None:
    module = load('replay')
    for stop, status, ends in (('false', 0, False), ('true', 0, True), ('True', 0, True),
                               ('false', 2, True)):
        context = context_of(module, bag=str(tmp_path), stop_at_end=stop)
        ended = handlers(module, context)['OnProcessExit'].given.on_exit
        actions = ended(SimpleNamespace(returncode=status), context)
        assert ('TimerAction' in [type(a).__name__ for a in actions]) is ends
        context.is_shutdown = True              # ctrl-c: a timer would hold launch up
        assert ended(SimpleNamespace(returncode=status), context) is None


# ---- the simulation -----------------------------------------------------------------------------

def test_the_simulation_publishes_where_the_node_listens(load: Any, tmp_path: Path) -> None:
    module = load('simulation')
    node, = module.start(context_of(module, seed='3', realtime='False', image='/ignored'))
    assert node.given.remappings == []          # no node listens
    assert node.given.parameters[0]['seed'] == 3
    assert node.given.parameters[0]['realtime'] is False
    file = written(tmp_path / 'p.yaml', {
        'sources': ['lidar'], 'source': {'lidar': {'topic': '/roof', 'modality': 'point'}}},
        '/robot1/perception')
    for namespace, inside in (('robot1', ''), ('', '/robot1')):
        node, = module.start(context_of(
            module, with_perception='true', namespace=namespace, ros_namespace=inside,
            image='/cam', params_file=file))
        assert node.given.remappings == [('image', '/cam'), ('points', '/roof')]


@pytest.mark.parametrize(('name', 'text'), [('seed', 'x'), ('camera_rate_hz', 'fast')])
def test_the_simulation_names_what_is_no_number(load: Any, name: str, text: str) -> None:
    module = load('simulation')
    with pytest.raises(RuntimeError, match=f"{name}: found '{text}', expected a"):
        module.start(context_of(module, **{name: text}))
