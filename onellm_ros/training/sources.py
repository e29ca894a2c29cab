"""Where the batches of each stage come from, for training and for evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from onellm_ros.config import ModelConfig
from onellm_ros.model.text import Text
from onellm_ros.training.batches import Split, StageBatches
from onellm_ros.training.data import WorldBatches
from onellm_ros.training.errors import TrainingError
from onellm_ros.training.manifests import ManifestBatches
from onellm_ros.training.stages import Stage

EVAL_BATCH = 64


@dataclass(frozen=True)
class Sources:
    """Folders and files that stages read.

    :param worlds: rendered worlds; :param held_out: those for evaluation.
    :param manifests: file by stage; :param held_out_manifests: those for evaluation.
    :param root: folder that the manifests' paths are relative to; None: as they say.
    :param on_broken: what to do with a broken sample of a manifest: ``error`` or ``skip``.
    """

    worlds: Path
    held_out: Path
    manifests: Mapping[str, Path] = field(default_factory=dict)
    held_out_manifests: Mapping[str, Path] = field(default_factory=dict)
    root: Path | None = None
    on_broken: str = 'error'

    def training(self, stage: Stage, config: ModelConfig, text: Text, seed: int, split: Split
                 ) -> StageBatches:
        """Return the batches of a stage.

        :raises TrainingError: if nobody said where its data are.
        :raises DataError: for a manifest that cannot be used.
        """
        if stage.data != 'manifest':
            return WorldBatches(self.worlds, stage, config, text, seed=seed, split=split)
        if stage.name not in self.manifests:
            raise TrainingError(f'stage {stage.name} trains from a manifest: give --manifest '
                                f'{stage.name}=FILE (docs/data.md says what stands in it)')
        return self._manifest(self.manifests[stage.name], stage, config, text, seed, split)

    def evaluation(self, stage: Stage, config: ModelConfig, text: Text, split: Split
                   ) -> StageBatches | None:
        """Return batches that training does not see; None where there are none."""
        size = max(split.ranks, min(stage.batch, EVAL_BATCH) // split.ranks * split.ranks)
        stage = replace(stage, batch=size, accumulate=1)
        split = replace(split, accumulate=1)
        if stage.data != 'manifest':
            return WorldBatches(self.held_out, stage, config, text, seed=1, split=split,
                                as_rendered=True)
        if stage.name not in self.held_out_manifests:
            return None
        return self._manifest(self.held_out_manifests[stage.name], replace(stage, sets=()),
                              config, text, 1, split)

    def _manifest(self, path: Path, stage: Stage, config: ModelConfig, text: Text, seed: int,
                  split: Split) -> ManifestBatches:
        from onellm_ros.datasets import Mix

        mix = Mix.open(path, config, root=self.root, on_broken=self.on_broken, seed=seed)
        return ManifestBatches(mix, stage, config, text, seed=seed, split=split)
