"""Whether processes get room for pictures in Fast DDS's shared memory."""

from __future__ import annotations

from pathlib import Path
import shutil
from types import SimpleNamespace
import xml.etree.ElementTree as ElementTree

import pytest

pytest.importorskip('rclpy')

from onellm_ros.ros.transport import large_messages  # noqa: E402

NAME = 'FASTRTPS_DEFAULT_PROFILES_FILE'


def test_processes_get_room_unless_the_user_or_the_machine_says_no(
        root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = [4 << 30]
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: SimpleNamespace(free=free[0]))
    assert large_messages({}, memory=tmp_path) == {NAME: str(root / 'config/fastdds_large.xml')}
    assert large_messages({'RMW_IMPLEMENTATION': 'rmw_fastrtps_dynamic_cpp'}, memory=tmp_path)
    assert large_messages({'RMW_IMPLEMENTATION': 'rmw_cyclonedds_cpp'}, memory=tmp_path) == {}
    assert large_messages({NAME: '/mine.xml'}, memory=tmp_path) == {}
    assert large_messages({'FASTDDS_BUILTIN_TRANSPORTS': 'UDPv4'}, memory=tmp_path) == {}
    free[0] = 64 << 20                      # a container
    assert large_messages({}, memory=tmp_path) == {}
    monkeypatch.undo()
    assert large_messages({}, memory=tmp_path / 'nowhere') == {}


def test_the_profile_has_more_than_a_picture_and_the_network(root: Path) -> None:
    tree = ElementTree.parse(root / 'config/fastdds_large.xml')
    space = {'e': 'http://www.eprosima.com'}
    kinds = {t.findtext('e:transport_id', namespaces=space): t
             for t in tree.iterfind('.//e:transport_descriptor', space)}
    assert {t.findtext('e:type', namespaces=space) for t in kinds.values()} == {'SHM', 'UDPv4'}
    used = [t.text for t in tree.iterfind('.//e:userTransports/e:transport_id', space)]
    assert used == list(kinds)
    size = kinds['large'].findtext('e:segment_size', namespaces=space)
    assert size is not None and int(size) > 10 * 1920 * 1080 * 3
