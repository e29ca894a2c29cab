"""Turns what a window holds into the model's inputs, and says what was left out and why."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any
import weakref

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
from onellm_ros.preprocess.image import image_tensor, spread_indices
from onellm_ros.preprocess.imu import resample_imu, standardise_imu
from onellm_ros.preprocess.kept import Frame, Kept, Origin
from onellm_ros.preprocess.points import merge_clouds, point_tensor

_LARGEST = 1e6              # of an input: it would drown all else that the model sees
_NORMAL_WIDTH = 224         # wider depth pictures take normals from farther neighbours
_KEPT_BYTES = 32 << 20      # of pictures and clouds, for windows that share samples


class Tensors(dict[Modality, torch.Tensor]):
    """Model inputs by modality, each with a batch dimension of 1, and what was said about them.

    :param left_out: modality -> reason why the window's data of it give no input.
    :param notes: modality -> what was not perfect about an input, or how it came to be.
    :param origins: modality -> what an input was made of, where that can be told: an engine takes
        from it what it knows from earlier windows. An input that is put in or changed later has
        to lose its origin.
    """

    def __init__(self) -> None:
        super().__init__()
        self.left_out: dict[Modality, str] = {}
        self.notes: dict[Modality, str] = {}
        self.origins: dict[Modality, Origin] = {}

    def only(self, modalities: Collection[Modality]) -> Tensors:
        """Return those of some modalities, with all that was said about them."""
        out = Tensors()
        out.update({m: x for m, x in self.items() if m in modalities})
        for mine, theirs in ((self.left_out, out.left_out), (self.notes, out.notes)):
            theirs.update({m: text for m, text in mine.items() if m in modalities})
        out.origins.update({m: o for m, o in self.origins.items() if m in modalities})
        return out

    def __getstate__(self) -> dict[str, Any]:
        """Leave the origins behind: a copy in another process knows no samples."""
        return {**self.__dict__, 'origins': {}}

    def __setitem__(self, modality: Modality, tensor: torch.Tensor) -> None:
        """Put an input in; what was known about the origin of an earlier one is forgotten."""
        getattr(self, 'origins', {}).pop(modality, None)
        super().__setitem__(modality, tensor)


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
    """Preprocessing for one model, which may be used by several threads.

    Pictures and clouds are kept for as long as their samples live, so that the colour picture of
    depth, normals and video is resized once, and nothing again for windows that share samples.

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
        self.kept = Kept(_KEPT_BYTES)

    @classmethod
    def from_config(cls, config: ModelConfig, derive_normals: bool = True) -> Preprocessor:
        """Return the preprocessor of a model."""
        return cls(config.tokenizer, config.encoder.image_size, derive_normals)

    def forget(self) -> None:
        """Forget what is kept of earlier samples."""
        self.kept.clear()

    def tensors(self, chosen: Mapping[Modality, Sequence[Sample]], end_ns: int,
                strict: bool = True) -> Tensors:
        """Turn a window's samples into model inputs.

        A modality whose data hold no measurement (a depth picture of NaN, an empty cloud) is left
        out with its reason. Data that are not in canonical form raise; with ``strict`` off they
        are left out with the error's text too, so that one bad stream does not silence a window.

        :param chosen: samples by modality, in time order; an absent modality is an absent key. An
            empty sequence of normals keeps them from being computed from depth.
        :param end_ns: end of the window, integer nanoseconds.
        :returns: image [1,3,S,S]; video [1,T,3,S,S]; depth and normal [1,F,3,S,S] (F = 2 with the
            colour picture first, else 1); audio [1,1,mels,frames]; point [1,N,6]; imu [1,6,n];
            fmri [1,1,V]; of a registered modality as its spec says; all float32 on the CPU.
        :raises PreprocessError: for data that are not in canonical form.
        """
        out = Tensors()
        makers: dict[Modality, Callable[[Sequence[Sample]], tuple[torch.Tensor, str]]] = {
            Modality.IMAGE: lambda s: (self._rgb(s[-1]).clone(), ''),
            Modality.VIDEO: self._video,
            Modality.DEPTH: lambda s: self._pair(self._depth, s, self._colour(chosen)),
            Modality.NORMAL: lambda s: self._pair(self._normal, s, self._colour(chosen)),
            Modality.POINT: self._point,
            Modality.AUDIO: lambda s: self._audio(s, end_ns),
            Modality.IMU: lambda s: self._imu(s, end_ns),
            Modality.FMRI: lambda s: (fmri_tensor(s[-1].data, self.tokenizer.fmri_voxels), '')}
        for modality in in_order(chosen):
            samples = chosen[modality]
            if len(samples) > 0:
                maker = makers.get(modality) or _prepared(modality, end_ns)
                self._make(out, modality, maker, samples, strict)
                self._trace(out, modality, modality.value, chosen, end_ns)
        if self.derive_normals and Modality.NORMAL not in chosen and Modality.DEPTH in out \
                and chosen[Modality.DEPTH][-1].intrinsics is not None:
            self._make(out, Modality.NORMAL,
                       lambda s: (self._pair(self._derived, s, self._colour(chosen))[0],
                                  'computed from depth'), chosen[Modality.DEPTH], strict)
            self._trace(out, Modality.NORMAL, 'derived', chosen, end_ns)
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

    def _trace(self, out: Tensors, modality: Modality, kind: str,
               chosen: Mapping[Modality, Sequence[Sample]], end_ns: int) -> None:
        """Say what an input was made of."""
        samples = chosen[Modality.DEPTH if kind == 'derived' else modality]
        colour = self._colour(chosen)
        if modality not in out or not all(isinstance(s, Sample) for s in samples):
            return
        frames: tuple[Frame, ...] = ()
        if modality is Modality.IMAGE:
            frames = (self._frame('rgb', samples[-1]),)
        elif modality is Modality.VIDEO:
            frames = tuple(self._frame('rgb', samples[i])
                           for i in spread_indices(len(samples), self.tokenizer.video_frames))
        elif modality in (Modality.DEPTH, Modality.NORMAL):
            frames = (*([self._frame('rgb', colour)] if colour is not None else ()),
                      self._frame(kind, samples[-1]))
        if frames:
            out.origins[modality] = Origin((modality, frames), tuple(f.sample for f in frames),
                                           frames)
        else:
            refs = tuple(weakref.ref(s) for s in samples)
            until_ns = 0 if modality in (Modality.POINT, Modality.FMRI) else end_ns
            out.origins[modality] = Origin((modality, self.kept, until_ns, refs), refs[:1])

    def _frame(self, kind: str, sample: Sample) -> Frame:
        return Frame(kind, self.kept, weakref.ref(sample))

    def _once(self, kind: str, sample: Sample, make: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Return what ``make`` makes of a sample, from an earlier call if there was one."""
        if not isinstance(sample, Sample):
            return make()
        frame = self._frame(kind, sample)
        found: torch.Tensor | None = self.kept.get(frame)
        if found is None:
            found = make()
            self.kept.put(frame, found, found.numel() * found.element_size(), (frame.sample,))
        return found

    @staticmethod
    def _colour(chosen: Mapping[Modality, Sequence[Sample]]) -> Sample | None:
        """Return the window's colour picture, which depth and normals go with."""
        images = chosen.get(Modality.IMAGE, ())
        return images[-1] if len(images) else None

    def _rgb(self, sample: Sample) -> torch.Tensor:
        return self._once('rgb', sample, lambda: image_tensor(
            sample.data, self.image_size, self.tokenizer.image_fit))

    def _video(self, samples: Sequence[Sample]) -> tuple[torch.Tensor, str]:
        wanted = self.tokenizer.video_frames
        frames = [self._rgb(samples[i]) for i in spread_indices(len(samples), wanted)]
        return torch.stack(frames), (
            '' if len(samples) >= wanted else f'{len(samples)} frames for {wanted}')

    def _pair(self, make: Callable[[Sample], torch.Tensor], samples: Sequence[Sample],
              colour: Sample | None) -> tuple[torch.Tensor, str]:
        """Return the newest sample's picture [F, 3, S, S] behind the colour picture beside it."""
        picture = make(samples[-1])
        if colour is None:
            return picture[None].clone(), 'without a colour picture'
        return torch.stack([self._rgb(colour), picture]), ''

    def _depth(self, sample: Sample) -> torch.Tensor:
        config = self.tokenizer
        return self._once('depth', sample, lambda: depth_tensor(
            sample.data, self.image_size, config.image_fit, config.depth_encoding)[0])

    def _normal(self, sample: Sample) -> torch.Tensor:
        return self._once('normal', sample, lambda: normal_tensor(
            sample.data, self.image_size, self.tokenizer.image_fit)[0])

    def _derived(self, sample: Sample) -> torch.Tensor:
        def make() -> torch.Tensor:
            assert sample.intrinsics is not None
            normals = normals_from_depth(sample.data, sample.intrinsics,
                                         step=max(1, round(sample.data.shape[1] / _NORMAL_WIDTH)))
            return normal_tensor(normals, self.image_size, self.tokenizer.image_fit)[0]

        return self._once('derived', sample, make)

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
