"""
Start the simulated robot; its topics are the inputs of the perception node.

``ros2 launch onellm_ros simulation.launch.py seed:=3 namespace:=robot1``
``ros2 launch onellm_ros simulation.launch.py with_perception:=true debug_picture:=true``

With ``with_perception`` the arguments of onellm.launch.py are taken, too, and the simulation
publishes where the node then listens.
"""

from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.conditions import IfCondition
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, NotSubstitution
from launch_ros.actions import Node

from onellm_ros.ros.up import feed_remaps
from onellm_ros.ros.up_params import INPUTS, UpError, read_params_file

# Arguments that are parameters of the simulation.
WHOLE = ('seed', 'camera_width', 'camera_height', 'cloud_points')
FRACTIONS = ('camera_rate_hz', 'cloud_rate_hz')
SWITCHES = ('realtime', 'normals')
YES_NO = ['true', 'false', 'True', 'False']     # other launch files pass Python's words

ARGUMENTS = [
    DeclareLaunchArgument('namespace', default_value='', description='Namespace of the nodes.'),
    DeclareLaunchArgument('seed', default_value='0', description='Which world.'),
    DeclareLaunchArgument('realtime', default_value='true', choices=YES_NO,
                          description='Keep to the wall clock; false: the time is on /clock.'),
    DeclareLaunchArgument('camera_width', default_value='640', description='Pixels.'),
    DeclareLaunchArgument('camera_height', default_value='480', description='Pixels.'),
    DeclareLaunchArgument('camera_rate_hz', default_value='5.0',
                          description='Pictures a second, as far as the CPU can.'),
    DeclareLaunchArgument('normals', default_value='false', choices=YES_NO,
                          description='Publish surface normals, too.'),
    DeclareLaunchArgument('cloud_points', default_value='4096', description='Points of a cloud.'),
    DeclareLaunchArgument('cloud_rate_hz', default_value='5.0', description='Clouds a second.'),
    DeclareLaunchArgument('with_perception', default_value='false', choices=YES_NO,
                          description='Start the perception node, too.'),
]


def parameters(value):
    """
    Return the parameters of the simulation.

    :param value: gives the text of an argument by its name.
    :raises UpError: for what is no number.
    """
    found = {name: value(name).lower() == 'true' for name in SWITCHES}
    for names, kind, what in ((WHOLE, int, 'a whole number'), (FRACTIONS, float, 'a number')):
        for name in names:
            try:
                found[name] = kind(value(name))
            except ValueError:
                raise UpError(f'{name}: found {value(name)!r}, expected {what}') from None
    return found


def start(context):
    """Return the simulation; with the perception node it publishes where that listens."""
    given = context.launch_configurations

    def value(name):
        return LaunchConfiguration(name).perform(context)

    rules = []
    try:
        chosen = parameters(value)
        if value('with_perception').lower() == 'true':
            rules = [(name, given[name]) for name in INPUTS if given.get(name)]
            if given.get('params_file'):
                namespace = value('namespace')
                if not namespace.startswith('/'):
                    namespace = f'{given.get("ros_namespace") or ""}/{namespace}'
                told = read_params_file(given['params_file'], namespace)
                rules += [tuple(rule.split(':=')) for rule in feed_remaps(told)]
    except UpError as error:
        raise RuntimeError(f'simulation.launch.py: {error}') from error
    return [Node(package='onellm_ros', executable='simulation', name='simulation',
                 output='screen', namespace=value('namespace'), parameters=[chosen],
                 remappings=rules)]


def generate_launch_description():
    """Return what ``ros2 launch`` runs."""
    perception = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(Path(__file__).with_name('onellm.launch.py'))),
        launch_arguments={
            'use_sim_time': NotSubstitution(LaunchConfiguration('realtime'))}.items(),
        condition=IfCondition(LaunchConfiguration('with_perception')))
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=start), perception])
