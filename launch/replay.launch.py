"""
Play a rosbag2 recording with its own time, and have the perception node describe it.

``ros2 launch onellm_ros replay.launch.py bag:=drive_1 image:=/front/image_raw points:=/lidar``
``ros2 launch onellm_ros replay.launch.py bag:=drive_1 params_file:=robot.yaml stop_at_end:=true``
``ros2 launch onellm_ros replay.launch.py bag:=drive_1 remaps:='/cam:=/image /imu/data:=/imu'``

The recording begins when the node is active, so that none of it is missed while the model loads.
The time is the recorded /clock if there is one, or that of the recording.
All arguments of onellm.launch.py are taken, too; use_sim_time is true. To have a recording
described without playing it, and the same each time, use ``onellm replay``.
"""

from pathlib import Path

from launch import Event, EventHandler, LaunchDescription
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
from launch.event_handlers import OnProcessExit, OnProcessStart
from launch.events import Shutdown
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode
from launch_ros.ros_adapters import get_ros_node
from lifecycle_msgs.msg import State
from lifecycle_msgs.srv import GetState
import yaml

from onellm_ros.ros.up_params import UpError, check_remap

CLOCK_HZ = '100'
DISCOVERY_S = '1.0'         # the player's publishers are there so long before it begins
ASK_EVERY_S = 0.5           # for the node's state
LAST_WINDOWS_S = 3.0        # so long the node may go on after the end
YES_NO = ['true', 'false', 'True', 'False']     # other launch files pass Python's words

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


def has_clock(bag):
    """Tell whether a folder of rosbag2 says that it holds /clock; its player judges the rest."""
    try:
        told = yaml.safe_load((bag / 'metadata.yaml').read_text(encoding='utf-8'))
        topics = told['rosbag2_bagfile_information']['topics_with_message_count']
        return any(topic['topic_metadata']['name'] == '/clock' for topic in topics)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError):
        return False


def player_command(bag, rate, start_offset, loop, remaps):
    """
    Return the command that plays the recording.

    :param remaps: rules FROM:=TO, separated by spaces.
    :raises UpError: for what cannot be.
    """
    path = Path(bag).expanduser()
    if not path.exists():
        raise UpError(f'bag: found nothing at {bag!r}, expected a folder or file of rosbag2')
    if path.suffix == '.bag':
        raise UpError(f'bag: found a recording of ROS 1 at {bag!r}, which ros2 bag does not '
                      'play; use onellm replay or onellm up --bag')
    for name, text, least in (('rate', rate, 1e-6), ('start_offset', start_offset, 0.0)):
        try:
            fits = least <= float(text) < float('inf')
        except ValueError:
            fits = False
        if not fits:
            raise UpError(f'{name}: found {text!r}, expected a number of at least {least:g}')
    rules = remaps.split()
    for rule in rules:
        check_remap(rule)
    command = ['ros2', 'bag', 'play', str(path), '--rate', rate, '--disable-keyboard-controls']
    command += [] if has_clock(path) else ['--clock', CLOCK_HZ]
    # ros2 bag refuses an offset of 0, and would wait before each round of a loop.
    command += ['--start-offset', start_offset] if float(start_offset) > 0.0 else []
    command += ['--loop'] if loop else ['--delay', DISCOVERY_S]
    return [*command, *(['--remap', *rules] if rules else [])]


class Active(Event):
    """The perception node has said that it is active."""

    name = 'onellm.Active'


def is_perception(action):
    """Tell whether an action is the node that describes the recording."""
    return isinstance(action, LifecycleNode) and action.node_name.endswith('/perception')


def ask_until_active(event, context):
    """
    Ask a node that has been started for its state, until it is active: then emit ``Active``.

    Its transition events do not do: they are not kept for who finds the node later.
    """
    client = get_ros_node(context).create_client(GetState, f'{event.action.node_name}/get_state')
    loop, told = context.asyncio_loop, []

    def answered(future):
        if not told and future.exception() is None \
                and future.result().current_state.id == State.PRIMARY_STATE_ACTIVE:
            told.append(True)
            context.emit_event_sync(Active())

    def ask():
        if told or context.is_shutdown:
            return
        if client.service_is_ready():
            client.call_async(GetState.Request()).add_done_callback(
                lambda future: loop.call_soon_threadsafe(answered, future))
        loop.call_later(ASK_EVERY_S, ask)
    ask()


def play(context):
    """Return the player, started when the node is active, and what follows its end."""
    def value(name):
        return LaunchConfiguration(name).perform(context)

    def yes(name):
        return value(name).lower() == 'true'

    stop, loop = yes('stop_at_end'), yes('loop')
    try:
        if stop and loop:
            raise UpError('loop, stop_at_end: found both true, expected one: a loop has no end')
        command = player_command(value('bag'), value('rate'), value('start_offset'), loop,
                                 value('remaps'))
    except UpError as error:
        raise RuntimeError(f'replay.launch.py: {error}') from error
    player = ExecuteProcess(cmd=command, name='bag_player', output='screen')

    def ended(event, context):
        if context.is_shutdown:
            return None
        how = f'the recording has ended (status {event.returncode})'
        if not stop and event.returncode == 0:
            return [LogInfo(msg=how)]
        return [LogInfo(msg=how), TimerAction(
            period=LAST_WINDOWS_S, actions=[EmitEvent(event=Shutdown(reason=how))])]

    actions = [RegisterEventHandler(OnProcessExit(target_action=player, on_exit=ended))]
    if yes('wait_for_node'):
        actions.append(RegisterEventHandler(OnProcessStart(
            target_action=is_perception, on_start=ask_until_active, handle_once=True)))
        actions.append(RegisterEventHandler(EventHandler(
            matcher=lambda event: isinstance(event, Active), entities=[player],
            handle_once=True)))
    else:
        actions.append(player)
    return actions


def generate_launch_description():
    """Return what ``ros2 launch`` runs."""
    perception = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(Path(__file__).with_name('onellm.launch.py'))),
        launch_arguments={'use_sim_time': 'true'}.items())
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=play), perception])
