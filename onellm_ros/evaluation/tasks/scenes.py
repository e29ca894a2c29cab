"""Scenes of NYUv2 and SUN RGB-D, seen as depth or as surface normals beside the colour picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
import math
from pathlib import Path
import zlib

from onellm_ros.datasets.depths import DepthSignal, Intrinsics
from onellm_ros.datasets.rows import Signal
from onellm_ros.evaluation.annotations import (
    Row,
    explain,
    find_file,
    new_id,
    optional,
    picture,
    read_json,
    shown,
    wanted,
)
from onellm_ros.evaluation.item import AnnotationError, Item
from onellm_ros.evaluation.task import Paper, Task
from onellm_ros.modality import Modality

NYU_CLASSES = ('bathroom', 'bedroom', 'bookstore', 'classroom', 'dining room', 'home office',
               'kitchen', 'living room', 'office', 'others')
SUN_CLASSES = ('bathroom', 'bedroom', 'classroom', 'computer room', 'conference room', 'corridor',
               'dining area', 'dining room', 'discussion area', 'furniture store', 'home office',
               'kitchen', 'lab', 'lecture theatre', 'library', 'living room', 'office',
               'rest space', 'study space')
# What else NYUv2's 27 kinds of scenes are called: its tenth class.
_NYU_OTHERS = frozenset((
    'basement', 'cafe', 'computer lab', 'conference room', 'dinette', 'excercise room',
    'exercise room', 'foyer', 'furniture store', 'home storage', 'indoor balcony', 'laundry room',
    'office kitchen', 'playroom', 'printer room', 'reception room', 'student lounge', 'study',
    'study room', 'others'))
# Of the colour camera of NYUv2's toolbox, in which its labelled depth is seen, pixels.
NYU_INTRINSICS: Intrinsics = (518.85790, 519.46961, 325.58245, 253.73617)
_PICTURES = ('.jpg', '.png', '.jpeg')
_SUN_HOME = 'SUNRGBD/'


def _class(scene: str) -> str:
    return ' '.join(scene.replace('_', ' ').split()).lower()


def _item(key: str, scene: str, classes: Sequence[str], modality: Modality, signal: Signal,
          source: str) -> Item:
    return Item(key, signals={modality: signal}, answers=(scene,), choices=tuple(classes),
                right=classes.index(scene), source=source)


def _lines(path: Path) -> list[str]:
    """Return the lines of a small text file.

    :raises AnnotationError: if it is missing or not readable.
    """
    try:
        return path.read_text(encoding='utf-8-sig').splitlines()
    except FileNotFoundError:
        raise AnnotationError(path, 0, f'found no such file; {explain()}') from None
    except (OSError, UnicodeDecodeError) as error:
        raise AnnotationError(path, 0, f'cannot be read as text: {error}') from None


def _scene(path: Path) -> str:
    """Return the scene that a file of one line names.

    :raises AnnotationError: if it names none.
    """
    scene = _class(' '.join(_lines(path)))
    if not scene:
        raise AnnotationError(path, 1, 'found nothing, expected the name of a scene')
    return scene


def _nyu_class(scene: str, fault: Row | Path) -> str:
    """Return the class of one of NYUv2's scenes.

    :raises AnnotationError: if it is none of them.
    """
    found = _class(scene)
    if found in NYU_CLASSES:
        return found
    if found in _NYU_OTHERS:
        return 'others'
    what = f'found the scene {scene!r}, expected one of the 27 of NYUv2, such as bedroom'
    raise fault.error(what) if isinstance(fault, Row) else AnnotationError(fault, 1, what)


def _listed(root: Path, path: Path, modality: Modality, classes: Sequence[str],
            task: str) -> Iterator[Item]:
    """Read a list in the keys of the authors' files: image, depth_image or normal_image, scene."""
    seen: dict[str, int] = {}
    for row in read_json(path, task).rows():
        image = new_id(seen, row, wanted(row, 'image', str))
        scene = wanted(row, 'scene', str)
        found = _nyu_class(scene, row) if classes is NYU_CLASSES else _class(scene)
        if found not in classes:
            continue                                        # of another scene than the 19
        colour = picture(root, (image,))
        yield _item(image, found, classes, modality, _listed_signal(root, row, modality, colour),
                    row.source)


def _listed_signal(root: Path, row: Row, modality: Modality, colour: Path) -> Signal:
    key = f'{modality.value}_image'
    if modality is Modality.DEPTH or optional(row, key, str, ''):
        return Signal(picture(root, (wanted(row, key, str),)), colour)
    depth = picture(root, (wanted(row, 'depth_image', str),))
    values = wanted(row, 'intrinsics', list)
    eye = _intrinsics(values)
    if eye is None:
        raise row.error(f'intrinsics: found {shown(values)}, expected fx, fy, cx, cy in pixels')
    return DepthSignal(depth, colour, intrinsics=eye)


def _intrinsics(values: Sequence[object]) -> Intrinsics | None:
    """Return fx, fy, cx, cy of four numbers, or of a camera matrix's nine; None for others."""
    numbers = [float(v) for v in values
               if isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)]
    if len(numbers) == len(values) == 9:
        numbers = [numbers[0], numbers[4], numbers[2], numbers[5]]
    if len(numbers) != 4 or len(values) not in (4, 9) or min(numbers[:2]) <= 0:
        return None
    return numbers[0], numbers[1], numbers[2], numbers[3]


def _nyu(root: Path, split: str, modality: Modality) -> Iterator[Item]:
    task = f'nyuv2-{modality.value}'
    path = find_file(root, (f'{split}.json', f'{split}.txt'), task)
    if path.suffix == '.json':
        yield from _listed(root, path, modality, NYU_CLASSES, task)
        return
    seen: dict[str, int] = {}
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        row = Row(line, path, number)
        name = new_id(seen, row, line.strip())
        told = picture(root, (f'{split}/scene_class/{name}.txt', f'{split}/scene/{name}.txt'))
        scene = _nyu_class(_scene(told), told)
        colour, depth, normal = (root / split / kind / f'{name}.png'
                                 for kind in ('rgb', 'depth', 'normal'))
        signal = DepthSignal(depth, colour, intrinsics=NYU_INTRINSICS)
        if modality is Modality.NORMAL and normal.is_file():
            yield _item(name, scene, NYU_CLASSES, modality, Signal(normal, colour), row.source)
        else:
            yield _item(name, scene, NYU_CLASSES, modality, signal, row.source)


def _only(folder: Path, suffixes: Sequence[str]) -> Path | None:
    """Return the first picture in a folder; None without one."""
    found = sorted(p for p in folder.glob('*') if p.suffix.lower() in suffixes)
    return found[0] if found else None


def _sun_places(root: Path, split: str, task: str) -> Iterator[Row]:
    """Yield the folders of a split, below SUNRGBD/: of the toolbox's allsplit.mat, or a list.

    :raises AnnotationError: if the file is not understood.
    """
    mat = 'SUNRGBDtoolbox/traintestSUNRGBD/allsplit.mat'
    path = find_file(root, (f'{split}.txt', 'allsplit.mat', mat), task)
    if path.suffix == '.txt':
        rows = [Row(line.strip(), path, n) for n, line in enumerate(_lines(path), 1)
                if line.strip()]
    else:
        from scipy.io import loadmat
        from scipy.io.matlab import MatReadError

        try:
            names = loadmat(path, squeeze_me=True)[f'all{split}']
            rows = [Row(str(name), path, 0, f'all{split}[{n}]') for n, name in enumerate(names)]
        except (LookupError, ValueError, TypeError, OSError, NotImplementedError, MatReadError,
                zlib.error) as error:
            raise AnnotationError(path, 0, f'found no all{split} that is understood ({error}), '
                                           "expected SUN RGB-D's own file") from None
    for row in rows:
        _, found, place = row.value.rpartition(_SUN_HOME)
        yield Row((place if found else row.value).strip('/'), path, row.line, row.name)


def _sun(root: Path, split: str, modality: Modality) -> Iterator[Item]:
    task = f'sunrgbd-{modality.value}'
    if (root / f'{split}.json').is_file():
        yield from _listed(root, root / f'{split}.json', modality, SUN_CLASSES, task)
        return
    seen: dict[str, int] = {}
    for row in _sun_places(root, split, task):
        place = root / _SUN_HOME / new_id(seen, row, row.value)
        if not place.is_dir():
            raise row.error(f'found no folder {place}, expected image/, depth_bfx/, scene.txt and '
                            f'intrinsics.txt in it; {explain(task)}')
        scene = _scene(place / 'scene.txt')
        if scene not in SUN_CLASSES:
            continue                                        # rarer scenes are not asked about
        colour = _only(place / 'image', _PICTURES) or place / 'image'
        normal = _only(place / 'normal', _PICTURES) if modality is Modality.NORMAL else None
        signal = Signal(normal, colour) if normal else _sun_depth(place, colour)
        yield _item(row.value, scene, SUN_CLASSES, modality, signal, row.source)


def _sun_depth(place: Path, colour: Path) -> DepthSignal:
    """Return the depth of a folder of SUN RGB-D, filled where it is.

    :raises AnnotationError: for intrinsics that are none.
    """
    path = place / 'intrinsics.txt'
    try:
        eye = _intrinsics([float(word) for line in _lines(path) for word in line.split()])
    except ValueError:
        eye = None
    if eye is None:
        raise AnnotationError(path, 1, "found no camera matrix, expected a camera's nine numbers")
    depth = _only(place / 'depth_bfx', _PICTURES) or _only(place / 'depth', _PICTURES)
    return DepthSignal(depth or place / 'depth_bfx', colour, rotated=True, intrinsics=eye)


_OWN = """
Any other layout: a list in the keys of the authors' files, test.json of
  [{{"image": "a.jpg", "{0}_image": "a_{0}.png", "scene": "bedroom"}}]
with depth of 16 bits in millimetres, or rendered in 8 bits for a model of relative depth.""" \
    .replace('{{', '{').replace('}}', '}')
_NORMALS = """
Normals are read from {}, as pictures of
(n + 1) / 2 in the camera's optical frame; without them they are computed from depth."""
_NYU_FETCH = """\
cs.nyu.edu/~silberman/datasets/nyu_depth_v2.html: nyu_depth_v2_labeled.mat, taken apart by
`nicr_sa_prepare_dataset nyuv2 FOLDER` of github.com/TUI-NICR/nicr-scene-analysis-datasets:
  test.txt   names, one a line
  test/rgb/0000.png  test/depth/0000.png  test/scene_class/0000.txt ..."""
_SUN_FETCH = """\
rgbd.cs.princeton.edu: SUNRGBD.zip and SUNRGBDtoolbox.zip, unpacked:
  SUNRGBDtoolbox/traintestSUNRGBD/allsplit.mat   or test.txt: a folder (kv1/...) a line
  SUNRGBD/kv1/NYUdata/NYU0001/{image,depth_bfx}/  scene.txt  intrinsics.txt ..."""
_RENDERED = ('the released model learned from depth and normals that a network drew from colour '
             'pictures; what a camera measured is another input')


def _task(name: str, title: str, modality: Modality, number: int, score: float, omnivore: float,
          fetch: str, normals: str) -> Task:
    read = _nyu if number == 24 else _sun
    text = fetch + (_NORMALS.format(normals) if modality is Modality.NORMAL else '')
    return Task(f'{name}-{modality.value}', f'{title} from {modality.value}', (modality,), 'G',
                ('class_text',), partial(read, modality=modality), ('test',),
                text + _OWN.replace('{0}', modality.value),
                Paper(number, {'class_text': score}, 'Omnivore', {'class_text': omnivore}, True),
                max_tokens=16, facts={'input': _RENDERED})


TASKS: tuple[Task, ...] = (
    _task('nyuv2', 'NYUv2 scenes (10 classes)', Modality.DEPTH, 24, 50.9, 76.7, _NYU_FETCH, ''),
    _task('nyuv2', 'NYUv2 scenes (10 classes)', Modality.NORMAL, 24, 46.5, 76.7, _NYU_FETCH,
          'test/normal'),
    _task('sunrgbd', 'SUN RGB-D scenes (19 classes)', Modality.DEPTH, 25, 29.0, 64.9, _SUN_FETCH,
          ''),
    _task('sunrgbd', 'SUN RGB-D scenes (19 classes)', Modality.NORMAL, 25, 21.2, 64.9, _SUN_FETCH,
          "a scene's folder normal"),
)
