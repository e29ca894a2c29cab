"""Fixtures that all tests share: recorded data, parity data, a ROS domain of the run's own."""

from __future__ import annotations

import os
from pathlib import Path
import signal

import pytest

from onellm_ros.ros.demo_processes import free_domain

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get('ONELLM_SHARED', ROOT.parent / 'shared'))


def pytest_configure(config: pytest.Config) -> None:
    """Keep this run's nodes to themselves, and make sums come out the same on every machine."""
    os.environ['ROS_DOMAIN_ID'] = str(free_domain())
    os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    # A shell's background job ignores SIGINT, and so would all that the tests start and interrupt.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def shared(name: str) -> Path:
    """Return a folder of the data that stands beside the repository, or skip the test."""
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f'no {folder}: set ONELLM_SHARED to the folder that holds {name}/')
    return folder


@pytest.fixture(scope='session')
def root() -> Path:
    """Return the repository's top folder."""
    return ROOT


@pytest.fixture(scope='session')
def shared_dir() -> Path:
    """Return the folder of shared data; the test is skipped where it does not exist."""
    return shared('.')


@pytest.fixture(scope='session')
def recordings() -> Path:
    """Return the folder of recorded bags and files; the test is skipped without it."""
    return shared('recordings')


@pytest.fixture(scope='session')
def parity() -> Path:
    """Return the folder of outputs of the reference implementation; skipped without it."""
    return shared('parity')


@pytest.fixture(scope='session')
def ros_domain() -> int:
    """Return this run's ROS domain; it is already set in the environment."""
    return int(os.environ['ROS_DOMAIN_ID'])


@pytest.fixture(scope='session')
def ros_env(ros_domain: int) -> dict[str, str]:
    """Return the environment for a child process that runs nodes in this run's domain."""
    return dict(os.environ, ROS_DOMAIN_ID=str(ros_domain))
