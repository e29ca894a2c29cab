"""Pictures that are described or talked about freely: NoCaps, Flickr30K, MM-Vet.

Captions are read from COCO-style files, as the paper's authors use for each caption benchmark, and
from the files that the benchmarks publish.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from onellm_ros.datasets.rows import Signal
from onellm_ros.evaluation.annotations import (
    Json,
    coco_captions,
    find_file,
    identity,
    new_id,
    optional,
    parts,
    picture,
    read_json,
    texts,
    wanted,
)
from onellm_ros.evaluation.item import Item
from onellm_ros.evaluation.task import Paper, Task
from onellm_ros.modality import Modality

_IMAGE = (Modality.IMAGE,)
_METRICS = ('cider', 'bleu_4', 'rouge_l', 'meteor', 'spice')


def _seen(path: Path) -> dict[Modality, Signal]:
    return {Modality.IMAGE: Signal(path)}


def _described(root: Path, file: Json, folders: tuple[str, ...], group: str) -> Iterator[Item]:
    """Yield the images of a COCO-style file.

    :param folders: where pictures may lie, after the place that the file itself names.
    :param group: key of an image's group.
    """
    for image in coco_captions(file):
        name = image.name or f'{image.id}.jpg'
        short = PurePosixPath(name).name
        path = picture(root, [*(f'{folder}/{short}' for folder in folders), name, short])
        yield Item(image.id, '', _seen(path), image.captions,
                   group=optional(image.row, group, str, ''), source=image.row.source)


def _nocaps(root: Path, split: str) -> Iterator[Item]:
    name = 'nocaps_val_4500_captions.json' if split == 'val' else 'nocaps_test_image_info.json'
    file = find_file(root, (name, f'annotations/{name}', f'captions_{split}.json'), 'nocaps')
    return _described(root, read_json(file, 'nocaps'), (split, 'images', 'validation'), 'domain')


def _flickr(root: Path, split: str) -> Iterator[Item]:
    file = read_json(find_file(root, (
        'dataset_flickr30k.json', f'flickr30k_{split}_karpathy.json', f'flickr30k_{split}.json',
        f'captions_{split}.json'), 'flickr30k'), 'flickr30k')
    folders = ('flickr30k-images', 'flickr30k_images', 'images')
    if file.path.name != 'dataset_flickr30k.json':
        yield from _described(root, file, folders, 'domain')
        return
    seen: dict[str, int] = {}
    for row in file.rows('images'):
        if wanted(row, 'split', str) != split:
            continue
        image, name = new_id(seen, row, identity(row, 'imgid')), wanted(row, 'filename', str)
        captions = tuple(wanted(part, 'raw', str) for part in parts(row, 'sentences'))
        if not captions:
            raise row.error('sentences: found an empty list, expected captions')
        path = picture(root, [*(f'{folder}/{name}' for folder in folders), name])
        yield Item(image, '', _seen(path), captions, source=row.source)


def _mmvet(root: Path, split: str) -> Iterator[Item]:
    file = find_file(root, ('mm-vet.json', 'mm-vet/mm-vet.json'), 'mmvet')
    for row in read_json(file, 'mmvet').rows():
        name, abilities = wanted(row, 'imagename', str), texts(row, 'capability')
        path = picture(root, (f'images/{name}', f'mm-vet/images/{name}', name))
        yield Item(row.key, wanted(row, 'question', str), _seen(path),
                   (wanted(row, 'answer', str),), group=','.join(sorted(abilities)),
                   facts={'capabilities': abilities}, source=row.source)


TASKS: tuple[Task, ...] = (
    Task('nocaps', 'NoCaps', _IMAGE, 'D', _METRICS, _nocaps, ('val', 'test'), """\
From nocaps.org, Download:
  nocaps_val_4500_captions.json
  the 4,500 pictures that it names (coco_url; they are pictures of Open Images' validation set)
Layout:
  nocaps_val_4500_captions.json       or captions_val.json, COCO-style of your own
  val/0013ea2087020901.jpg            or images/
The domains (in, near, out) are told apart. test (nocaps_test_image_info.json, pictures in test/)
has no public captions.""",
         Paper(7, {'cider': 115.9}, 'InstructBLIP-7B', {'cider': 123.1}), max_tokens=64),
    Task('flickr30k', 'Flickr30K', _IMAGE, 'D', _METRICS, _flickr, ('test', 'val'), """\
From shannon.cs.illinois.edu/DenotationGraph (a form grants access):
  flickr30k-images.tar.gz (4 GB)
From cs.stanford.edu/people/karpathy/deepimagesent, caption_datasets.zip:
  dataset_flickr30k.json
Layout:
  dataset_flickr30k.json              or captions_test.json, COCO-style
  flickr30k-images/1007129816.jpg     or images/
Karpathy's split: test has 1,000 pictures with five captions each. COCO-style files may also be
named flickr30k_test.json or flickr30k_test_karpathy.json.""",
         Paper(8, {'cider': 78.6}, 'InstructBLIP-13B', {'cider': 82.8}), max_tokens=64),
    Task('mmvet', 'MM-Vet', _IMAGE, 'question', ('judge_mmvet',), _mmvet, ('test',), """\
From github.com/yuweihao/MM-Vet, release v1:
  mm-vet.zip
Layout, as it unpacks:
  mm-vet/mm-vet.json                  or mm-vet.json
  mm-vet/images/v1_0.png              or images/
218 questions. Answers are judged by a language model: name its endpoint.""",
         Paper(11, {'judge_mmvet': 29.1}, 'LLaMA-Adapter v2', {'judge_mmvet': 31.4}),
         max_tokens=256),
)
