"""Turns what a window holds into the model's inputs, and says what was left out and why."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from onellm_ros.config import ModelConfig, TokenizerConfig
from onellm_ros.modality import Modality, Sample, in_order, spec_of
from onellm_ros.preprocess.audio import audio_tensor, join_chunks
from onellm_ros.preprocess.depth import depth_tensor, normal_tensor, normals_from_depth
from onellm_ros.preprocess.errors import (
    NoMeasurementError,
    PreprocessError,
    as_tensor,
    shape_text,
)
from onellm_ros.preprocess.image import image_tensor, video_tensor
from onellm_ros.preprocess.imu import resample_imu, standardise_imu
from onellm_ros.preprocess.points import merge_clouds, point_tensor

_LARGEST = 1e6              # of an input: it would drown all else that the model sees
_NORMAL_WIDTH = 224         # wider depth pictures take normals from farther neighbours


class Tensors(dict[Modality, torch.Tensor]):
    """Model inputs by modality, each with a batch dimension of 1, and what was said about them.

    :param left_out: modality -> reason why the window's data of it give no input.
    :param notes: modality -> what was not perfect about an input, or how it came to be.
    """

    def __init__(self) -> None:
        super().__init__()
        self.left_out: dict[Modality, str] = {}
        self.notes: dict[Modality, str] = {}


def fmri_tensor(voxels: Any, count: int) -> torch.Tensor:
    """Turn voxel responses into the fMRI input.

    :param voxels: numbers [count].
    :returns: float32 [1, count].
    :raises PreprocessError: for another length or values that are not finite.
    """
    data = as_tensor(voxels, 'fmri').float()
    if tuple(data.shape) != (count,):
        raise PreprocessError(
            f'fmri: found shape {shape_text(data.shape)}, expected [{count}] voxels; the model '
            "reads one subject's voxels in one order")
    bad = int((~torch.isfinite(data)).sum())
    if bad == count:
        raise NoMeasurementError(f'fmri: none of {count} voxels is finite')
    if bad:
        raise PreprocessError(f'fmri: found {bad} voxels that are not finite, expected none')
    return data[None]


def _prepared(modality: Modality, end_ns: int
              ) -> Callable[[Sequence[Sample]], tuple[torch.Tensor, str]]:
    """Return the maker of a registered modality's input."""
    spec = spec_of(modality)
    assert spec is not None, 'what is not one of the eight is registered'

    def make(samples: Sequence[Sample]) -> tuple[torch.Tensor, str]:
        data = as_tensor(spec.prepare(samples, end_ns), spec.name).float()
        if tuple(data.shape) != spec.shape:
            raise PreprocessError(f'{spec.name}: its preparation gave {shape_text(data.shape)}, '
                                  f'expected {shape_text(spec.shape)}; mend its spec')
        return data, ''

    return make


class Preprocessor:
    """Preprocessing for one model.

    :param tokenizer: the model's input sizes and encodings.
    :param image_size: side of the encoder's pictures in pixels.
    :param derive_normals: compute normals from depth where the window has none and the depth
        picture's intrinsics are known.
    """

    def __init__(self, tokenizer: TokenizerConfig, image_size: int, derive_normals: bool = True
                 ) -> None:
        self.tokenizer = tokenizer
        self.image_size = image_size
        self.derive_normals = derive_normals

    @classmethod
    def from_config(cls, config: ModelConfig, derive_normals: bool = True) -> Preprocessor:
        """Return the preprocessor of a model."""
        return cls(config.tokenizer, config.encoder.image_size, derive_normals)

    def tensors(self, chosen: Mapping[Modality, Sequence[Sample]], end_ns: int,
                strict: bool = True) -> Tensors:
        """Turn a window's samples into model inputs.

        A modality whose data hold no measurement (a depth picture of NaN, an empty cloud) is left
        out with its reason. Data that are not in canonical form raise; with ``strict`` off they
        are left out with the error's text too, so that one bad stream does not silence a window.

        :param chosen: samples by modality, in time order; an absent modality is an absent key.
        :param end_ns: end of the window, integer nanoseconds.
        :returns: image [1,3,S,S]; video [1,T,3,S,S]; depth and normal [1,F,3,S,S] (F = 2 with the
            colour picture first, else 1); audio [1,1,mels,frames]; point [1,N,6]; imu [1,6,n];
            fmri [1,1,V]; of a registered modality as its spec says; all float32 on the CPU.
        :raises PreprocessError: for data that are not in canonical form.
        """
        out = Tensors()
        makers: dict[Modality, Callable[[Sequence[Sample]], tuple[torch.Tensor, str]]] = {
            Modality.IMAGE: self._image,
            Modality.VIDEO: self._video,
            Modality.DEPTH: lambda s: self._depth(s, self._colour(chosen)),
            Modality.NORMAL: lambda s: self._normal(s, self._colour(chosen)),
            Modality.POINT: self._point,
            Modality.AUDIO: lambda s: self._audio(s, end_ns),
            Modality.IMU: lambda s: self._imu(s, end_ns),
            Modality.FMRI: lambda s: (fmri_tensor(s[-1].data, self.tokenizer.fmri_voxels), '')}
        for modality in in_order(chosen):
            samples = chosen[modality]
            if len(samples) > 0:
                maker = makers.get(modality) or _prepared(modality, end_ns)
                self._make(out, modality, maker, samples, strict)
        if self.derive_normals and Modality.NORMAL not in chosen and Modality.DEPTH in out \
                and chosen[Modality.DEPTH][-1].intrinsics is not None:
            self._make(out, Modality.NORMAL, lambda s: self._derived(s, self._colour(chosen)),
                       chosen[Modality.DEPTH], strict)
        return out

    @staticmethod
    def _make(out: Tensors, modality: Modality,
              maker: Callable[[Sequence[Sample]], tuple[torch.Tensor, str]],
              samples: Sequence[Sample], strict: bool) -> None:
        """Fill in one modality, or the reason why it is left out."""
        try:
            tensor, note = maker(samples)
            if not bool((tensor.abs() < _LARGEST).all()):       # NaN is not, either
                raise PreprocessError(f'{modality.value}: found an input of up to '
                                      f'{float(tensor.abs().max()):g}, expected below '
                                      f'{_LARGEST:g}; check the unit')
        except NoMeasurementError as error:
            out.left_out[modality] = str(error)
        except PreprocessError as error:
            if strict:
                raise
            out.left_out[modality] = str(error)
        else:
            out[modality] = tensor[None]
            if note:
                out.notes[modality] = note

    @staticmethod
    def _colour(chosen: Mapping[Modality, Sequence[Sample]]) -> np.ndarray | None:
        """Return the window's colour picture, which depth and normals go with."""
        images = chosen.get(Modality.IMAGE, ())
        return images[-1].data if len(images) else None

    def _image(self, samples: Sequence[Sample]) -> tuple[torch.Tensor, str]:
        return image_tensor(samples[-1].data, self.image_size, self.tokenizer.image_fit), ''

    def _video(self, samples: Sequence[Sample]) -> tuple[torch.Tensor, str]:
        wanted = self.tokenizer.video_frames
        tensor = video_tensor([sample.data for sample in samples], wanted, self.image_size,
                              self.tokenizer.image_fit)
        return tensor, '' if len(samples) >= wanted else f'{len(samples)} frames for {wanted}'

    def _depth(self, samples: Sequence[Sample], rgb: np.ndarray | None
               ) -> tuple[torch.Tensor, str]:
        config = self.tokenizer
        tensor = depth_tensor(samples[-1].data, self.image_size, config.image_fit,
                              config.depth_encoding, rgb)
        return tensor, '' if rgb is not None else 'without a colour picture'

    def _normal(self, samples: Sequence[Sample], rgb: np.ndarray | None
                ) -> tuple[torch.Tensor, str]:
        tensor = normal_tensor(samples[-1].data, self.image_size, self.tokenizer.image_fit, rgb)
        return tensor, '' if rgb is not None else 'without a colour picture'

    def _derived(self, samples: Sequence[Sample], rgb: np.ndarray | None
                 ) -> tuple[torch.Tensor, str]:
        depth, intrinsics = samples[-1].data, samples[-1].intrinsics
        assert intrinsics is not None
        normals = normals_from_depth(depth, intrinsics,
                                     step=max(1, round(depth.shape[1] / _NORMAL_WIDTH)))
        tensor = normal_tensor(normals, self.image_size, self.tokenizer.image_fit, rgb)
        return tensor, 'computed from depth'

    def _point(self, samples: Sequence[Sample]) -> tuple[torch.Tensor, str]:
        cloud = merge_clouds([sample.data for sample in samples])
        found = sum(len(sample.data) for sample in samples)
        if len(cloud) == 0:
            raise NoMeasurementError(f'point: none of {found} points has finite coordinates')
        wanted = self.tokenizer.points
        note = '' if len(cloud) >= wanted else f'{len(cloud)} points for {wanted}'
        return point_tensor(cloud, wanted, self.tokenizer.point_frame), note

    def _audio(self, samples: Sequence[Sample], end_ns: int) -> tuple[torch.Tensor, str]:
        # A little more than the model hears, so that the resampling filter's edge is outside.
        seconds = self.tokenizer.audio_seconds
        wave, rate = join_chunks(samples, end_ns, seconds + 1.0)
        tensor = audio_tensor(wave, rate, self.tokenizer)
        heard = len(wave) / rate
        return tensor, '' if heard >= seconds else f'{heard:.2f} s of {seconds:.2f} s'

    def _imu(self, samples: Sequence[Sample], end_ns: int) -> tuple[torch.Tensor, str]:
        rows = [np.asarray(sample.data, dtype=np.float64) for sample in samples]
        wrong = next((row for row in rows if row.shape != (6,)), None)
        if wrong is not None:
            raise PreprocessError(f'imu: found a sample of shape {shape_text(wrong.shape)}, '
                                  'expected [6]: accelerometer xyz, gyroscope xyz')
        series = resample_imu([sample.stamp_ns for sample in samples], np.stack(rows), end_ns,
                              self.tokenizer.imu_rate_hz, self.tokenizer.imu_samples)
        tensor = torch.from_numpy(np.ascontiguousarray(series.values.T))
        return standardise_imu(tensor) if self.tokenizer.imu_standardise else tensor, series.note
