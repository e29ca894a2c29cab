"""Launch files, configurations of robots and viewers, and the SROS2 policy: do they fit the nodes?

A normal ROS installation runs the launch files for real; where ``launch`` is not installed, their
source is read, and what in them needs no ROS is run.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import fields
import importlib.util
import json
from pathlib import Path
import re
import time
from types import SimpleNamespace
from typing import Any
import xml.etree.ElementTree as ET

import pytest
import yaml

rclpy = pytest.importorskip('rclpy')
pytest.importorskip('onellm_msgs.msg')

from onellm_msgs.msg import Description, WindowReport  # noqa: E402
from rclpy.action import (  # noqa: E402
    get_action_client_names_and_types_by_node,
    get_action_server_names_and_types_by_node,
)
from rclpy.parameter import Parameter  # noqa: E402

from onellm_ros.config import NANO  # noqa: E402
from onellm_ros.modality import Modality  # noqa: E402
from onellm_ros.perception.robot_params import KEYS  # noqa: E402
from onellm_ros.perception.settings import SETTINGS, config_of  # noqa: E402
from onellm_ros.ros.up_params import (  # noqa: E402
    INPUTS,
    LOG_LEVELS,
    OTHERS,
    UpError,
    check_params,
    check_remap,
    check_ros_arguments,
    read_params_file,
)

LAUNCH_FILES = ('onellm', 'simulation', 'replay')
ROBOTS = ('car_lidar_camera', 'oak_d', 'realsense_d435i', 'turtlebot4')
NODES = ('perception', 'perception_picture', 'simulation')
# In the policy for set-ups other than the tests': tf2 is a ROS installation's.
OF_OTHER_SETUPS = {'/tf', '/tf_static'}


# ---- launch files -------------------------------------------------------------------------------

class LaunchSource:
    """What the source of a launch file says."""

    def __init__(self, root: Path, name: str) -> None:
        self.tree = ast.parse((root / 'launch' / f'{name}.launch.py').read_text(encoding='utf-8'))

    def constant(self, name: str) -> Any:
        """Return the value of a constant of the module."""
        for node in self.tree.body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
                return ast.literal_eval(node.value)
        raise KeyError(name)

    def declared(self) -> set[str]:
        """Return the names of the arguments; those declared in a loop stand for its constant."""
        names: set[str] = set()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == 'DeclareLaunchArgument':
                first = node.args[0]
                names |= {str(first.value)} if isinstance(first, ast.Constant) else set(
                    self.constant('TOPICS'))
        return names

    def used(self) -> set[str]:
        """Return the arguments that are read by a name written out."""
        return {str(node.args[0].value) for node in ast.walk(self.tree)
                if isinstance(node, ast.Call) and node.args
                and ast.unparse(node.func) in ('value', 'yes', 'LaunchConfiguration')
                and isinstance(node.args[0], ast.Constant)}

    def function(self, name: str, **given: Any) -> Callable[..., Any]:
        """Return a function of the file that needs nothing of ``launch``, to be run."""
        wanted = [node for node in self.tree.body
                  if isinstance(node, ast.FunctionDef) and node.name == name]
        scope = dict(given)
        exec(compile(ast.Module(wanted, []), name, 'exec'), scope)
        return scope[name]


def test_arguments_are_parameters_and_inputs_of_the_node(root: Path) -> None:
    source = LaunchSource(root, 'onellm')
    parameters = {*source.constant('SWITCHES'), *source.constant('TEXTS')}
    assert parameters <= {*SETTINGS, *OTHERS}
    assert source.constant('TOPICS') and set(source.constant('TOPICS')) == {
        name for name in INPUTS if '/' not in name}
    assert {f'{name}/{last}' for name, last in source.constant('TRANSPORTS').items()} == {
        name for name in INPUTS if '/' in name}
    assert parameters | set(source.constant('TOPICS')) | source.used() == source.declared()
    assert {'params_file', 'namespace', 'log_level', 'respawn', 'respawn_delay'} <= source.used()
    assert set(LOG_LEVELS) == {'debug', 'info', 'warn', 'error', 'fatal'}


def test_arguments_of_the_simulation_are_its_parameters(root: Path) -> None:
    from onellm_ros.ros.simulation_node import SimulationConfig
    source = LaunchSource(root, 'simulation')
    kinds = {**dict.fromkeys(source.constant('WHOLE'), int),
             **dict.fromkeys(source.constant('FRACTIONS'), float),
             **dict.fromkeys(source.constant('SWITCHES'), bool)}
    assert kinds == {f.name: type(f.default) for f in fields(SimulationConfig)}
    assert set(kinds) | source.used() == source.declared()
    text = ast.unparse(source.tree)
    for item in fields(SimulationConfig):               # the same defaults, written as text
        told = re.search(rf"'{item.name}', default_value='([^']*)'", text)
        assert told and yaml.safe_load(told[1]) == item.default, item.name


@pytest.mark.parametrize('name', ['simulation', 'replay'])
def test_what_includes_the_node_gives_it_arguments_that_it_has(root: Path, name: str) -> None:
    given = {str(key.value) for node in ast.walk(LaunchSource(root, name).tree)
             if isinstance(node, ast.keyword) and node.arg == 'launch_arguments'
             for inner in ast.walk(node.value) if isinstance(inner, ast.Dict)
             for key in inner.keys if isinstance(key, ast.Constant)}
    assert given and given <= LaunchSource(root, 'onellm').declared()
    assert (root / 'launch' / 'onellm.launch.py').is_file()


def test_topics_become_remapping_rules(root: Path) -> None:
    source = LaunchSource(root, 'onellm')
    rules = source.function('remappings', TRANSPORTS=source.constant('TRANSPORTS'))
    assert rules({'image': '/a/image_raw', 'depth': '/d/compressedDepth', 'points': ''}) == [
        ('image', '/a/image_raw'), ('depth/compressedDepth', '/d/compressedDepth')]
    assert rules({'image': '/a/compressed', 'imu': '/x/compressed'}) == [
        ('image/compressed', '/a/compressed'), ('imu', '/x/compressed')]


def test_the_command_that_plays_a_bag(root: Path, tmp_path: Path) -> None:
    source = LaunchSource(root, 'replay')
    command = source.function(
        'player_command', Path=Path, UpError=UpError, check_remap=check_remap,
        CLOCK_HZ=source.constant('CLOCK_HZ'), DISCOVERY_S=source.constant('DISCOVERY_S'),
        has_clock=source.function('has_clock', yaml=yaml))
    words = command(str(tmp_path), '2.0', '1.5', True, '/a:=/image /b:=/imu')
    assert words[:4] == ['ros2', 'bag', 'play', str(tmp_path)]
    assert words[-3:] == ['--remap', '/a:=/image', '/b:=/imu'] and '--loop' in words
    assert words[words.index('--rate') + 1] == '2.0'
    assert words[words.index('--start-offset') + 1] == '1.5'
    assert float(words[words.index('--clock') + 1]) > 0
    plain = command(str(tmp_path), '1', '0', False, '')
    assert '--remap' not in plain and '--loop' not in plain
    for bad, text in (((str(tmp_path / 'no'), '1', '0', False, ''), 'found nothing'),
                      ((str(tmp_path), '0', '0', False, ''), "rate: found '0'"),
                      ((str(tmp_path), '1', '-1', False, ''), 'start_offset'),
                      ((str(tmp_path), 'fast', '0', False, ''), 'rate'),
                      ((str(tmp_path), 'inf', '0', False, ''), "rate: found 'inf'"),
                      ((str(tmp_path), 'nan', '0', False, ''), "rate: found 'nan'"),
                      ((str(tmp_path), '1', '0', False, 'imu'), 'expected FROM:=TO')):
        with pytest.raises(UpError, match=text):
            command(*bad)


def load(root: Path, name: str) -> Any:
    """Return a launch file as a module; the test is skipped where there is no launch."""
    pytest.importorskip('launch_ros', reason='launch comes with a full ROS installation only')
    spec = importlib.util.spec_from_file_location(
        f'{name}_launch', root / 'launch' / f'{name}.launch.py')
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize('name', LAUNCH_FILES)
def test_launch_itself_reads_the_files(root: Path, name: str) -> None:
    module = load(root, name)
    from launch import LaunchContext
    description = module.generate_launch_description()
    declared = {a.name for a in description.get_launch_arguments()}
    assert LaunchSource(root, name).declared() <= declared
    context = LaunchContext()
    for argument in module.ARGUMENTS:
        if argument.default_value is not None:
            argument.visit(context)


def test_launch_makes_the_nodes_and_refuses_wrong_arguments(root: Path, tmp_path: Path) -> None:
    module = load(root, 'onellm')
    from launch import LaunchContext

    def started(**values: str) -> Any:
        context = LaunchContext()
        context.launch_configurations.update(values)
        for argument in module.ARGUMENTS:
            argument.visit(context)
        return module.start(context)
    assert len(started()) == 1 and len(started(debug_picture='true', respawn='true')) == 2
    for values, text in (({'params_file': str(tmp_path / 'no.yaml')}, 'no such file'),
                         ({'device': 'gpu'}, 'expected auto'), ({'image': '/a b'}, 'topic'),
                         ({'respawn_delay': 'soon'}, 'soon')):
        with pytest.raises(RuntimeError, match=text):
            started(**values)


# ---- robots -------------------------------------------------------------------------------------

def test_every_robot_is_tested(root: Path) -> None:
    assert {p.stem for p in (root / 'config' / 'robots').glob('*')} == set(ROBOTS)


@pytest.mark.parametrize('name', ROBOTS)
def test_a_robots_parameters_are_those_of_the_node(root: Path, name: str) -> None:
    path = root / 'config' / 'robots' / f'{name}.yaml'
    values = read_params_file(path, 'any/name/space')
    known = {key: value for key, value in values.items() if key in SETTINGS}
    config_of(known)
    for key in set(values) - set(known) - {'sources', 'extrinsics'}:
        group, entry, last = key.split('.')
        assert entry in values[f'{group}s'], key
        assert last in KEYS[group], key
    for source in values['sources']:
        Modality(values[f'source.{source}.modality'])
    required = values.get('window.required', [])
    assert set(required) <= {values[f'source.{s}.modality'] for s in values['sources']}
    check_params(values)
    check_ros_arguments(['--ros-args', '--params-file', str(path)])      # of one type, and so on


@pytest.mark.parametrize('name', ROBOTS)
def test_a_robots_file_ends_with_what_to_run(root: Path, name: str) -> None:
    text = (root / 'config' / 'robots' / f'{name}.yaml').read_text(encoding='utf-8')
    end = text[text.index('\n# Run'):].splitlines()
    assert all(line.startswith('#') for line in end if line)
    assert f'onellm.launch.py params_file:={name}.yaml' in ' '.join(end)
    assert f'onellm up --params-file {name}.yaml' in ' '.join(end)
    arguments = set(re.findall(r'(\w+):=', ' '.join(
        line for line in end if 'onellm.launch.py' in line)))
    assert arguments <= LaunchSource(root, 'onellm').declared()


# ---- viewers ------------------------------------------------------------------------------------

def shown_fields(kind: Any, path: str) -> bool:
    """Tell whether a message type has a field."""
    return path in kind.get_fields_and_field_types()


def test_rviz_shows_topics_that_there_are(root: Path) -> None:
    found = yaml.safe_load((root / 'config' / 'onellm.rviz').read_text(encoding='utf-8'))
    displays = found['Visualization Manager']['Displays']
    topics = {d['Class'].rpartition('/')[2]: d['Topic']['Value'] for d in displays if 'Topic' in d}
    assert topics == {'Image': '/perception_picture/image',
                      'MarkerArray': '/perception_picture/markers', 'PointCloud2': '/points'}
    allowed = permissions(root)['perception_picture']['publish']
    assert {topics['Image'], topics['MarkerArray']} <= allowed
    assert topics['PointCloud2'].strip('/') in INPUTS
    assert {d['Class'] for d in displays} >= {
        f'rviz_default_plugins/{name}' for name in ('Image', 'MarkerArray', 'PointCloud2', 'TF')}
    for display in displays:
        assert display['Enabled'] is True and display['Name']
        assert display.get('Topic', {}).get('Reliability Policy', 'Reliable') in (
            'Reliable', 'Best Effort', 'System Default')
    assert found['Visualization Manager']['Global Options']['Fixed Frame'] == SETTINGS[
        'base_frame'].default


def panels(layout: Any) -> Iterator[str]:
    """Yield the panels of a Foxglove layout's tree."""
    if isinstance(layout, str):
        yield layout
    else:
        assert layout['direction'] in ('row', 'column') and 0 < layout['splitPercentage'] < 100
        yield from panels(layout['first'])
        yield from panels(layout['second'])


def test_foxglove_shows_topics_and_fields_that_there_are(root: Path) -> None:
    found = json.loads((root / 'config' / 'foxglove_layout.json').read_text(encoding='utf-8'))
    by_id = found['configById']
    shown = list(panels(found['layout']))
    assert sorted(shown) == sorted(by_id) and len(set(shown)) == len(shown)
    kinds = {name.partition('!')[0]: config for name, config in by_id.items()}
    assert set(kinds) == {'Image', 'RawMessages', 'DiagnosticSummary', 'Plot'}
    allowed = permissions(root)
    assert kinds['Image']['imageMode']['imageTopic'] in allowed['perception_picture']['publish']
    assert kinds['RawMessages']['topicPath'] in allowed['perception']['publish']
    assert kinds['DiagnosticSummary']['topicToRender'] in allowed['perception']['publish']
    types = {'/perception/description': Description, '/perception/window': WindowReport}
    for path in kinds['Plot']['paths']:
        topic, _, field = path['value'].partition('.')
        assert topic in allowed['perception']['publish']
        assert shown_fields(types[topic], field), path['value']


# ---- security -----------------------------------------------------------------------------------

RULES = {'topics': ('topic', {'publish', 'subscribe'}),
         'services': ('service', {'reply', 'request'}),
         'actions': ('action', {'call', 'execute'})}


def policy(root: Path) -> ET.Element:
    return ET.parse(root / 'config' / 'sros2' / 'policy.xml').getroot()


def permissions(root: Path) -> dict[str, dict[str, set[str]]]:
    """Return node -> what -> full names that the policy allows."""
    out: dict[str, dict[str, set[str]]] = {}
    for profile in policy(root).iter('profile'):
        node, inside = str(profile.get('node')), str(profile.get('ns')).rstrip('/')
        allowed: dict[str, set[str]] = out.setdefault(node, {
            what: set() for _, kinds in RULES.values() for what in kinds})
        for group in profile:
            for item in group:
                name = str(item.text)
                full = name if name.startswith('/') else f'{inside}/{node}/{name[2:]}' \
                    if name.startswith('~/') else f'{inside}/{name}'
                for what in group.attrib:
                    assert full not in allowed[what], f'{full} stands there twice'
                    allowed[what].add(full)
    return out


def test_the_policy_keeps_to_its_schema(root: Path) -> None:
    """The rules of SROS2's policy.xsd, version 0.2.0."""
    top = policy(root)
    assert top.tag == 'policy' and top.attrib == {'version': '0.2.0'}
    assert [child.tag for child in top] == ['enclaves']
    enclaves = list(top[0])
    assert enclaves and {e.tag for e in enclaves} == {'enclave'}
    for enclave in enclaves:
        assert set(enclave.attrib) == {'path'} and str(enclave.get('path')).startswith('/')
        assert [child.tag for child in enclave] == ['profiles']
        profiles = list(enclave[0])
        assert profiles and not enclave[0].attrib
        for profile in profiles:
            assert profile.tag == 'profile' and set(profile.attrib) == {'ns', 'node'}
            for group in profile:
                entry, kinds = RULES[group.tag]
                assert group.attrib and set(group.attrib) <= kinds
                assert set(group.attrib.values()) <= {'ALLOW', 'DENY'}
                assert len(group) and {child.tag for child in group} == {entry}
                for child in group:
                    assert not child.attrib and not len(child)
                    assert re.fullmatch(r'(/|~/)?\w+(/\w+)*', str(child.text)), child.text
    assert [e.get('path') for e in enclaves] == [f'/onellm/{node}' for node in NODES]


def found_permissions(watcher: Any, name: str) -> dict[str, set[str]]:
    """Return what a running node publishes, subscribes, serves and calls, actions as actions."""
    def names(pairs: Any) -> set[str]:
        return {topic for topic, _ in pairs if '/_action/' not in topic}
    return {
        'publish': names(watcher.get_publisher_names_and_types_by_node(name, '/')),
        'subscribe': names(watcher.get_subscriber_names_and_types_by_node(name, '/')),
        'reply': names(watcher.get_service_names_and_types_by_node(name, '/')),
        'request': names(watcher.get_client_names_and_types_by_node(name, '/')),
        'execute': names(get_action_server_names_and_types_by_node(watcher, name, '/')),
        'call': names(get_action_client_names_and_types_by_node(watcher, name, '/'))}


@pytest.fixture
def context(ros_domain: int) -> Iterator[Any]:
    made = rclpy.Context()
    rclpy.init(context=made, domain_id=ros_domain)
    yield made
    made.try_shutdown()


def settled(watcher: Any, name: str, wanted: dict[str, set[str]], seconds: float = 10.0
            ) -> dict[str, set[str]]:
    """Return a node's permissions as soon as they are the wanted ones, or as they are then."""
    end, found = time.monotonic() + seconds, {}
    while time.monotonic() < end:
        try:
            found = found_permissions(watcher, name)
        except rclpy.node.NodeNameNonExistentError:
            pass
        if found == wanted:
            break
        time.sleep(0.05)
    return found


def perception(context: Any) -> Any:
    """Return an active perception node with a model of all modalities that loads nothing."""
    from onellm_ros.ros.perception_node import PerceptionNode
    engine = SimpleNamespace(name='fake', weights_hash='0' * 16, config=NANO, preprocessor=None,
                             modalities=(*Modality, Modality('scan')))
    node = PerceptionNode(loader=lambda *_: engine, context=context, parameter_overrides=[
        Parameter('use_sim_time', value=True)])
    node.trigger_configure()
    node.trigger_activate()
    return node


def picture(context: Any) -> Any:
    module = pytest.importorskip('onellm_ros.ros.picture_node')
    return module.PictureNode(context=context, parameter_overrides=[
        Parameter('use_sim_time', value=True)])


def simulation(context: Any) -> Any:
    from onellm_ros.ros.simulation_node import SimulationNode
    return SimulationNode(context=context, parameter_overrides=[
        Parameter('normals', value=True), Parameter('realtime', value=False)])


@pytest.mark.parametrize(('name', 'make'), zip(NODES, (perception, picture, simulation),
                                               strict=True))
def test_the_policy_allows_what_the_nodes_do_and_nothing_else(
        root: Path, context: Any, name: str, make: Callable[[Any], Any]) -> None:
    wanted = permissions(root)[name]
    wanted['subscribe'] -= OF_OTHER_SETUPS
    if name == 'perception_picture':        # it listens to inputs only when someone looks
        inputs = {f'/{topic}' for topic in INPUTS}
        assert inputs <= wanted['subscribe']
        wanted['subscribe'] -= inputs
        assert wanted['request'] == {'/perception/get_parameters'}
        wanted['request'].clear()
    node = make(context)
    watcher = rclpy.node.Node('policy_watcher', context=context)
    try:
        found = settled(watcher, name, wanted)
    finally:
        node.destroy_node()
        watcher.destroy_node()
    for what, names in wanted.items():
        assert not found[what] - names, f'{name}: config/sros2/policy.xml does not allow {what}'
        assert not names - found[what], f'{name}: the policy allows too much {what}'
