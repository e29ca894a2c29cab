"""
Start the perception node of a normal ROS installation and bring it to the state ``active``.

``ros2 launch onellm_ros onellm.launch.py params_file:=robot.yaml namespace:=robot1``
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode
from launch_ros.parameter_descriptions import ParameterValue

ARGUMENTS = [
    DeclareLaunchArgument('namespace', default_value='', description='Namespace of the node.'),
    DeclareLaunchArgument(
        'params_file', default_value='',
        description='YAML file with parameters of the node; empty: its defaults.'),
    DeclareLaunchArgument(
        'use_sim_time', default_value='false', choices=['true', 'false'],
        description='Take the time from /clock (simulation, a played bag).'),
    DeclareLaunchArgument(
        'model', default_value='',
        description='Name or folder of the model; empty: what params_file says, or the default.'),
    DeclareLaunchArgument(
        'device', default_value='',
        description='cpu, cuda, cuda:N or auto; empty: what params_file says, or the default.'),
    DeclareLaunchArgument(
        'log_level', default_value='info', choices=['debug', 'info', 'warn', 'error', 'fatal'],
        description='What the node logs.'),
    DeclareLaunchArgument(
        'autostart', default_value='true', choices=['true', 'false'],
        description='Configure and activate the node at once.'),
]


def start(context):
    """Return the node; with ``autostart`` it configures and activates itself."""
    def value(name):
        return LaunchConfiguration(name).perform(context)

    parameters = [value('params_file')] if value('params_file') else []
    parameters += [{name: value(name) == 'true'} for name in ('use_sim_time', 'autostart')]
    parameters += [
        {name: ParameterValue(value(name), value_type=str)}
        for name in ('model', 'device') if value(name)]
    return [LifecycleNode(
        package='onellm_ros', executable='perception', name='perception',
        namespace=value('namespace'), output='screen', parameters=parameters,
        arguments=['--ros-args', '--log-level', value('log_level')])]


def generate_launch_description():
    """Return what ``ros2 launch`` runs."""
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=start)])
