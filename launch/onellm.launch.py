"""
Start the perception node of a normal ROS installation and bring it to the state ``active``.

``ros2 launch onellm_ros onellm.launch.py params_file:=robot.yaml namespace:=robot1``
``ros2 launch onellm_ros onellm.launch.py image:=/camera/color/image_raw respawn:=true``

The arguments are checked before anything is started, the parameter file too: the node would ignore
what it does not know. What is empty or not given is what the parameter file says.
"""

from math import isfinite
from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node
from launch_ros.parameter_descriptions import ParameterValue

from onellm_ros.ros.up_params import LOG_LEVELS, UpError, check_launch, read_params_file

# Arguments that become parameters of the node, if they are given.
SWITCHES = ('use_sim_time', 'autostart')
TEXTS = ('model', 'device')
# Inputs that an argument of the same name remaps.
TOPICS = ('image', 'depth', 'normal', 'points', 'imu', 'audio', 'fmri', 'scan', 'camera_info')
# A topic that ends like this is not of the plain input's type, but of this one's.
TRANSPORTS = {'image': 'compressed', 'depth': 'compressedDepth'}
YES_NO = ['true', 'false', 'True', 'False']     # other launch files pass Python's words

ARGUMENTS = [
    DeclareLaunchArgument('namespace', default_value='', description='Namespace of the node.'),
    DeclareLaunchArgument(
        'params_file', default_value='',
        description='YAML file with parameters of the node; empty: its defaults.'),
    DeclareLaunchArgument(
        'use_sim_time', default_value='', choices=['', *YES_NO],
        description='Take the time from /clock (simulation, a played bag); empty: what '
                    'params_file says, or false.'),
    DeclareLaunchArgument(
        'model', default_value='',
        description='Name or folder of the model; empty: what params_file says, or the default.'),
    DeclareLaunchArgument(
        'device', default_value='',
        description='cpu, cuda, cuda:N or auto; empty: what params_file says, or the default.'),
    DeclareLaunchArgument(
        'log_level', default_value='info', choices=list(LOG_LEVELS),
        description='What the node logs.'),
    DeclareLaunchArgument(
        'autostart', default_value='', choices=['', *YES_NO],
        description='Configure and activate the node at once; empty: what params_file says, or '
                    'true.'),
    DeclareLaunchArgument(
        'respawn', default_value='false', choices=YES_NO,
        description='Start the node again when it ends.'),
    DeclareLaunchArgument(
        'respawn_delay', default_value='2.0', description='Seconds until it is started again.'),
    DeclareLaunchArgument(
        'enclave', default_value='',
        description='Path of SROS2 enclaves, such as /onellm: the node takes PATH/perception.'),
    DeclareLaunchArgument(
        'debug_picture', default_value='false', choices=YES_NO,
        description='Start perception_picture, too: an annotated image and a text marker.'),
    *(DeclareLaunchArgument(
        name, default_value='',
        description=f'Topic of the input {name}; empty: not remapped. Sources that params_file '
                    'names are not affected.') for name in TOPICS),
]


def remappings(topics):
    """
    Return the remapping rules of the topics that are given.

    A compressed topic (``image:=/camera/image_raw/compressed``) goes to the input for it.
    """
    rules = []
    for name, topic in topics.items():
        if topic:
            last = topic.rpartition('/')[2]
            rules.append((f'{name}/{last}' if last == TRANSPORTS.get(name) else name, topic))
    return rules


def seconds(name, text):
    """
    Return a number of seconds.

    :raises UpError: for what is none.
    """
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not (isfinite(found) and found >= 0.0):
        raise UpError(f'{name}: found {text!r}, expected a number of seconds, at least 0')
    return found


def start(context):
    """Return the node; with ``autostart`` it configures and activates itself."""
    def value(name):
        return LaunchConfiguration(name).perform(context)

    def yes(name):
        return value(name).lower() == 'true'

    rules = remappings({name: value(name) for name in TOPICS})
    file, namespace = value('params_file'), value('namespace')
    if not namespace.startswith('/'):       # PushRosNamespace around this file goes before it
        inside = context.launch_configurations.get('ros_namespace') or ''
        namespace = f'{inside}/{namespace}'.strip('/')
    try:
        check_launch(file, namespace, value('model'), value('device'), rules)
        told = read_params_file(file, namespace) if file else {}
        delay_s = seconds('respawn_delay', value('respawn_delay'))
    except UpError as error:
        raise RuntimeError(f'onellm.launch.py: {error}') from error
    # launch_ros only warns of a file that is not there, and knows no ~.
    parameters = [str(Path(file).expanduser())] if file else []
    # From the file, too, whose section may be the perception node's alone.
    parameters += [{name: yes(name) if value(name) else told[name]}
                   for name in SWITCHES if value(name) or name in told]
    parameters += [{name: ParameterValue(value(name), value_type=str)}
                   for name in TEXTS if value(name)]

    def common(name):
        words = ['--log-level', value('log_level')]
        if value('enclave'):
            words += ['--enclave', f'{value("enclave").rstrip("/")}/{name}']
        return {'package': 'onellm_ros', 'name': name, 'namespace': value('namespace'),
                'output': 'screen', 'parameters': parameters, 'remappings': rules,
                'ros_arguments': words, 'respawn': yes('respawn'), 'respawn_delay': delay_s}

    nodes = [LifecycleNode(executable='perception', **common('perception'))]
    if yes('debug_picture'):
        nodes.append(Node(executable='picture', **common('perception_picture')))
    return nodes


def generate_launch_description():
    """Return what ``ros2 launch`` runs."""
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=start)])
