"""
Play a rosbag2 recording with its own time, and have the perception node describe it.

``ros2 launch onellm_ros replay.launch.py bag:=drive_1 image:=/front/image_raw points:=/lidar``
``ros2 launch onellm_ros replay.launch.py bag:=drive_1 params_file:=robot.yaml stop_at_end:=true``
``ros2 launch onellm_ros replay.launch.py bag:=drive_1 remaps:='/cam:=/image /imu/data:=/imu'``

The recording begins when the node is active, so that none of it is missed while the model loads.
All arguments of onellm.launch.py are taken, too; use_sim_time is true. To have a recording
described without playing it, and the same each time, use ``onellm replay``.
"""

from pathlib import Path

from launch import LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    IncludeLaunchDescription,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
    TimerAction,
)
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.event_handlers import OnStateTransition

from onellm_ros.ros.up_params import UpError, check_remap

CLOCK_HZ = '100'
LAST_WINDOWS_S = 3.0        # so long the node may go on after the end
YES_NO = ['true', 'false']

ARGUMENTS = [
    DeclareLaunchArgument('bag', description='Folder or file of the recording.'),
    DeclareLaunchArgument('rate', default_value='1.0', description='Speed; 1 is as recorded.'),
    DeclareLaunchArgument('start_offset', default_value='0.0',
                          description='Seconds left out at the beginning.'),
    DeclareLaunchArgument('loop', default_value='false', choices=YES_NO,
                          description='Begin again at the end.'),
    DeclareLaunchArgument('remaps', default_value='',
                          description='Other names for recorded topics: FROM:=TO FROM:=TO ...'),
    DeclareLaunchArgument('stop_at_end', default_value='false', choices=YES_NO,
                          description='End everything with the recording.'),
    DeclareLaunchArgument('wait_for_node', default_value='true', choices=YES_NO,
                          description='Begin when the node is active; false: at once.'),
]


def player_command(bag, rate, start_offset, loop, remaps):
    """
    Return the command that plays the recording.

    :param remaps: rules FROM:=TO, separated by spaces.
    :raises UpError: for what cannot be.
    """
    if not Path(bag).expanduser().exists():
        raise UpError(f'bag: found nothing at {bag!r}, expected a folder or file of rosbag2')
    for name, text, least in (('rate', rate, 1e-6), ('start_offset', start_offset, 0.0)):
        try:
            fits = float(text) >= least
        except ValueError:
            fits = False
        if not fits:
            raise UpError(f'{name}: found {text!r}, expected a number of at least {least:g}')
    rules = remaps.split()
    for rule in rules:
        check_remap(rule)
    command = ['ros2', 'bag', 'play', str(Path(bag).expanduser()), '--clock', CLOCK_HZ,
               '--rate', rate, '--start-offset', start_offset, '--disable-keyboard-controls']
    command += ['--loop'] if loop else []
    return [*command, *(['--remap', *rules] if rules else [])]


def play(context):
    """Return the player, started when the node is active, and what follows its end."""
    def value(name):
        return LaunchConfiguration(name).perform(context)

    stop, loop = value('stop_at_end') == 'true', value('loop') == 'true'
    try:
        if stop and loop:
            raise UpError('loop, stop_at_end: found both true, expected one: a loop has no end')
        command = player_command(value('bag'), value('rate'), value('start_offset'), loop,
                                 value('remaps'))
    except UpError as error:
        raise RuntimeError(f'replay.launch.py: {error}') from error
    player = ExecuteProcess(cmd=command, name='bag_player', output='screen')

    def ended(event, _):
        how = f'the recording has ended (status {event.returncode})'
        if not stop and event.returncode == 0:
            return [LogInfo(msg=how)]
        return [LogInfo(msg=how), TimerAction(
            period=LAST_WINDOWS_S, actions=[EmitEvent(event=Shutdown(reason=how))])]

    actions = [RegisterEventHandler(OnProcessExit(target_action=player, on_exit=ended))]
    if value('wait_for_node') == 'true':
        actions.append(RegisterEventHandler(OnStateTransition(
            goal_state='active', entities=[player], handle_once=True)))
    else:
        actions.append(player)
    return actions


def generate_launch_description():
    """Return what ``ros2 launch`` runs."""
    perception = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(Path(__file__).with_name('onellm.launch.py'))),
        launch_arguments={'use_sim_time': 'true'}.items())
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=play), perception])
