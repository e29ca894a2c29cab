"""
Start the simulated robot; its topics are the inputs of the perception node.

``ros2 launch onellm_ros simulation.launch.py seed:=3 namespace:=robot1``
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

ARGUMENTS = [
    DeclareLaunchArgument('namespace', default_value='', description='Namespace of the node.'),
    DeclareLaunchArgument('seed', default_value='0', description='Which world.'),
    DeclareLaunchArgument('realtime', default_value='true', choices=['true', 'false'],
                          description='Keep to the wall clock; false: the time is on /clock.'),
]


def generate_launch_description():
    """Return what ``ros2 launch`` runs."""
    node = Node(
        package='onellm_ros', executable='simulation', name='simulation', output='screen',
        namespace=LaunchConfiguration('namespace'), parameters=[{
            'seed': ParameterValue(LaunchConfiguration('seed'), value_type=int),
            'realtime': ParameterValue(LaunchConfiguration('realtime'), value_type=bool)}])
    return LaunchDescription([*ARGUMENTS, node])
