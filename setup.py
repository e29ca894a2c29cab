"""The ament_python package onellm_ros."""

from pathlib import Path

from setuptools import find_packages, setup

PACKAGE = 'onellm_ros'
ROOT = Path(__file__).resolve().parent


def shared_files(folder: str) -> list[tuple[str, list[str]]]:
    """
    List the files below ``folder`` for installation below share/onellm_ros.

    :returns: (target folder, its files) pairs as ``data_files`` takes them.
    """
    groups: dict[str, list[str]] = {}
    for path in sorted((ROOT / folder).rglob('*')):
        if path.is_file() and not path.name.startswith('.') and '__pycache__' not in path.parts:
            name = path.relative_to(ROOT)
            groups.setdefault(f'share/{PACKAGE}/{name.parent.as_posix()}', []).append(str(name))
    return list(groups.items())


setup(
    name=PACKAGE,
    version='0.1.0',
    packages=find_packages(include=[PACKAGE, f'{PACKAGE}.*']),
    package_data={PACKAGE: ['py.typed', '**/*.json', '**/*.yaml', '**/*.css', '**/*.js']},
    data_files=[
        ('share/ament_index/resource_index/packages', [f'resource/{PACKAGE}']),
        (f'share/{PACKAGE}', ['package.xml']),
        *shared_files('launch'),
        *shared_files('config'),
        *shared_files('models/nano'),
    ],
    python_requires='>=3.10',
    install_requires=['setuptools'],
    extras_require={'test': ['pytest']},
    zip_safe=False,
    maintainer='onellm_ros maintainers',
    maintainer_email='onellm_ros@example.com',
    description='OneLLM for robots: what the sensors tell, in words.',
    license='Apache-2.0',
    entry_points={
        'console_scripts': [
            'onellm = onellm_ros.cli:main',
            'perception = onellm_ros.ros.scripts:perception',
            'picture = onellm_ros.ros.scripts:picture',
            'simulation = onellm_ros.ros.scripts:simulation',
        ],
        # lmms-eval, where it is installed, finds the models of `onellm eval` through this.
        'lmms_eval.models': ['onellm = onellm_ros.evaluation.lmms:manifest'],
    },
)
