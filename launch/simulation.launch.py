"""
Start the simulated robot; its topics are the inputs of the perception node.

``ros2 launch onellm_ros simulation.launch.py seed:=3 namespace:=robot1``
``ros2 launch onellm_ros simulation.launch.py with_perception:=true debug_picture:=true``

With ``with_perception`` the arguments of onellm.launch.py are taken, too.
"""

from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.conditions import IfCondition
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, NotSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

# Arguments that are parameters of the simulation.
WHOLE = ('seed', 'camera_width', 'camera_height', 'cloud_points')
FRACTIONS = ('camera_rate_hz', 'cloud_rate_hz')
SWITCHES = ('realtime', 'normals')
YES_NO = ['true', 'false']

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


def generate_launch_description():
    """Return what ``ros2 launch`` runs."""
    kinds = {**dict.fromkeys(WHOLE, int), **dict.fromkeys(FRACTIONS, float),
             **dict.fromkeys(SWITCHES, bool)}
    node = Node(
        package='onellm_ros', executable='simulation', name='simulation', output='screen',
        namespace=LaunchConfiguration('namespace'), parameters=[{
            name: ParameterValue(LaunchConfiguration(name), value_type=kind)
            for name, kind in kinds.items()}])
    perception = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(Path(__file__).with_name('onellm.launch.py'))),
        launch_arguments={
            'use_sim_time': NotSubstitution(LaunchConfiguration('realtime'))}.items(),
        condition=IfCondition(LaunchConfiguration('with_perception')))
    return LaunchDescription([*ARGUMENTS, node, perception])
