"""One run of the study: a projection trained on features, scored on held-out worlds.

The trainer, its stages and losses are those of ``onellm train``; only the encoder is left out, for
what it says is known (``features.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
import json
import os
from pathlib import Path
import shutil
import time
from typing import Any

import torch

from onellm_ros.config import PRESETS, ModelConfig
from onellm_ros.model.onellm import OneLLM
from onellm_ros.model.text import Text
from onellm_ros.study.arms import (
    BASE,
    Arm,
    Budget,
    Part,
    StudyError,
    image_stage,
    parts,
    samples,
)
from onellm_ros.study.features import (
    FeatureModel,
    FeatureSources,
    Piece,
    encode_piece,
    encoder_hash,
    part_hash,
    pieces,
)
from onellm_ros.training.checkpoint import STATE
from onellm_ros.training.experts import with_expert_count
from onellm_ros.training.losses import Heads
from onellm_ros.training.pretrained import Beginning, Init
from onellm_ros.training.progress import read_log
from onellm_ros.training.shards import Shards
from onellm_ros.training.stage_run import seed_of
from onellm_ros.training.trainer import Options, Trainer

NEVER = 10**9
RESULTS, IMAGE_RUNS, TEXT = 'results', 'image', 'text'
TOLD, SLOTS = 'scene.', 'slots.'   # of the heads: what the LLM learned from; what reads tokens
_NEEDED = ('encoder', 'tokenizers', 'llm')


@dataclass(frozen=True)
class Setting:
    """What all runs of a study have in common.

    :param model: directories or runs that encoder and LLM are taken from, as ``--init`` of
        ``onellm train`` has them.
    :param data: folder of rendered worlds, those to score on in ``held_out`` below it.
    :param out: folder of the study. :param features: folder of the encoder's features.
    """

    model: tuple[str, ...]
    data: Path
    out: Path
    features: Path
    budget: Budget
    precision: str = 'bf16'


def beginning(setting: Setting) -> Beginning:
    """Return the trained parts that a study begins with, without a projection.

    :raises StudyError: if one is missing. :raises TrainingError: if nothing can be read.
    """
    found = Beginning(PRESETS['nano'], [Init.parse(text) for text in setting.model])
    lacking = [part for part in _NEEDED if part not in found.parts]
    if lacking:
        raise StudyError(f'--model {" ".join(setting.model)}: found {", ".join(found.parts)}, '
                         f'expected a trained {" and ".join(lacking)}, too; give a directory that '
                         'has all, or several (--model encoder,tokenizers=DIR --model llm=DIR)')
    found.parts.pop('upm', None)
    with torch.device('meta'):
        own = {n: v.shape for n, v in Heads(found.config, 1.0).state_dict().items()
               if n.startswith(TOLD)}
    # Those of another version of the slots do not fit, and are as good as none.
    fit = own == {n: v.shape for n, v in found.heads.items() if n.startswith(TOLD)}
    found.heads = {n: found.heads[n] for n in own} if fit else {}
    return found


def text_of(setting: Setting, found: Beginning) -> Text:
    """Return the tokenizer of the language model."""
    folder = setting.out / TEXT
    folder.mkdir(parents=True, exist_ok=True)
    if not found.copy_tokenizer(folder):
        raise StudyError(f'--model {" ".join(setting.model)}: found no tokenizer.json or '
                         'tokenizer.model, expected that of its language model')
    return Text.load(folder, found.config.text)


def whole_model(found: Beginning, config: ModelConfig, seed: int) -> OneLLM:
    """Return the model with what was found; what was not is drawn by the seed."""
    torch.manual_seed(seed)
    return found.model(config)


def on_features(model: OneLLM) -> FeatureModel:
    """Return the same model, to be given features."""
    with torch.device('meta'):
        out = FeatureModel(model.config)
    out.load_state_dict(model.state_dict(), assign=True)
    return out


def all_pieces(setting: Setting, encoder: str) -> tuple[tuple[Piece, ...], tuple[Piece, ...]]:
    """Return the features to train on and to score on, whether they are made or not.

    :param encoder: ``features.encoder_hash``.
    :raises StudyError: if there are too few worlds.
    """
    budget, out = setting.budget, []
    for folder, wanted in ((setting.data, budget.worlds),
                           (setting.data / 'held_out', budget.held_out)):
        there = len(Shards(folder))
        if there < wanted:
            raise StudyError(f'{folder}: found {there} worlds, expected {wanted} at least; take '
                             'fewer (--worlds, --held-out), or another --data')
        out.append(tuple(pieces(folder, range(wanted), encoder, setting.features)))
    return out[0], out[1]


def make_piece(setting: Setting, piece: Piece) -> None:
    """Write the features of a piece."""
    found = beginning(setting)
    encode_piece(piece, whole_model(found, found.config, 0).eval(), setting.precision)


def fingerprint(setting: Setting) -> dict[str, Any]:
    """Return what all results of a study share: sizes, budget and weights."""
    found = beginning(setting)
    model = whole_model(found, found.config, 0)
    return {'model': ' '.join(setting.model), 'encoder': encoder_hash(model),
            'llm': part_hash(model, 'llm'), 'precision': setting.precision,
            'budget': asdict(setting.budget)}


def _sources(setting: Setting, encoder: str) -> FeatureSources:
    training, held_out = all_pieces(setting, encoder)
    return FeatureSources(setting.data, setting.data / 'held_out', made=training,
                          made_held_out=held_out, eval_batch=setting.budget.eval_batch,
                          eval_questions=setting.budget.eval_questions)


def _trained(setting: Setting, part: Part, model: FeatureModel, sources: FeatureSources,
             text: Text, seed: int, out: Path, heads: Mapping[str, torch.Tensor]
             ) -> dict[str, float]:
    """Train a part of an arm in a folder; returns the scores on held-out worlds."""
    shutil.rmtree(out, ignore_errors=True)               # of a run that was killed
    batches = -(-setting.budget.held_out // setting.budget.eval_batch)
    options = Options(seed, workers=0, precision=setting.precision, log_every=10,
                      save_every=NEVER, eval_every=NEVER,
                      eval_batches=batches * len(part.modalities))
    Trainer(model, text, (part.stage,), out, sources, options=options,
            heads=dict(heads)).run()
    return next(line['held_out'] for line in reversed(read_log(out)) if 'held_out' in line)


def image_folder(setting: Setting, seed: int) -> Path:
    """Return the folder of the run on images that all arms of a seed begin with."""
    return setting.out / IMAGE_RUNS / f'seed-{seed}'


def train_on_images(setting: Setting, encoder: str, seed: int) -> None:
    """Train one expert on images, unless that is done."""
    out = image_folder(setting, seed)
    if (out / STATE).exists():
        return
    found = beginning(setting)
    config = with_expert_count(found.config, 1)
    config = replace(config, upm=replace(config.upm, router=BASE.router))
    stage = image_stage(setting.budget)
    _trained(setting, Part(stage.modalities, stage),
             on_features(whole_model(found, config, seed_of(seed, stage.name))),
             _sources(setting, encoder), text_of(setting, found), seed, out, found.heads)


def model_of(setting: Setting, arm: Arm, seed: int
             ) -> tuple[FeatureModel, dict[str, torch.Tensor]]:
    """Return the model that an arm begins with, and the heads."""
    found = beginning(setting)
    drawn = seed_of(seed, arm.name)
    if not arm.image_first:
        config = replace(found.config, upm=replace(
            found.config.upm, experts=arm.experts, router=arm.router))
        return on_features(whole_model(found, config, drawn)), found.heads
    images = Beginning(found.config, [Init(image_folder(setting, seed), ('upm',))])
    found.parts['upm'] = images.parts['upm']
    model = on_features(whole_model(found, images.config, drawn))
    # The copies of the one expert are made by the stage, with the router that the config says.
    model.config = replace(images.config, upm=replace(images.config.upm, router=arm.router))
    slots = {n: v.clone() for n, v in images.heads.items() if n.startswith(SLOTS)}
    return model, {**found.heads, **slots}


def result_path(out: Path, arm: str, seed: int) -> Path:
    """Return the file of a run's result."""
    return out / RESULTS / f'{arm}-seed-{seed}.json'


def run_arm(setting: Setting, encoder: str, arm: Arm, seed: int) -> Path:
    """Train an arm with a seed and write its scores, unless that is done.

    :returns: the file.
    """
    path = result_path(setting.out, arm.name, seed)
    if path.exists():
        return path
    started = time.monotonic()
    sources, text = _sources(setting, encoder), text_of(setting, beginning(setting))
    scores: dict[str, float] = {}
    for part in parts(arm, setting.budget):
        model, heads = model_of(setting, arm, seed)
        out = setting.out / 'arms' / f'{arm.name}-seed-{seed}'
        if len(part.modalities) == 1:
            out = out / part.modalities[0].value
        found = _trained(setting, part, model, sources, text, seed, out, heads)
        scores.update({key: value for key, value in found.items() if ':' in key})
        (out / STATE).unlink()                          # large, and nobody goes on from it
    trained = samples(arm, setting.budget)
    values = {
        'arm': arm.name, 'seed': seed,
        'accuracy': {m.value: scores[f'{m.value}:exact'] for m in trained},
        'samples': {m.value: count for m, count in trained.items()},
        'seconds': round(time.monotonic() - started, 1), 'held_out': scores}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f'.{os.getpid()}')
    temporary.write_text(json.dumps(values, indent=1) + '\n')
    temporary.replace(path)
    return path

