"""Each modality's rule on windows whose right answer is plain to see."""

from __future__ import annotations

import numpy as np

from onellm_ros.choose import ChoiceSpec, Selection, choose
from onellm_ros.config import NANO, TokenizerConfig
from onellm_ros.modality import Modality, Sample
from onellm_ros.windows import Window

MS = 1_000_000
END = 100_000 * MS
STREAMS = {'image': Modality.IMAGE, 'depth': Modality.DEPTH, 'normal': Modality.NORMAL,
           'points': Modality.POINT, 'imu': Modality.IMU, 'audio': Modality.AUDIO,
           'fmri': Modality.FMRI}


def make(stamps_ms: list[float], frame_id: str = '', topic: str = '', seconds: float = 0.0
         ) -> tuple[Sample, ...]:
    """Return samples at these milliseconds before the window's end."""
    return tuple(Sample(END - round(t * MS), np.zeros(round(seconds * 8000), np.float32), frame_id,
                        8000.0 if seconds else 0.0, topic) for t in sorted(stamps_ms)[::-1])


def taken(members: dict[str, tuple[Sample, ...]], spec: ChoiceSpec | None = None,
          **counts: dict[str, int]) -> tuple[Selection, dict[str, list[float]]]:
    window = Window(END - 1000 * MS, END, 100, members, **counts)
    selection = choose(window, spec or ChoiceSpec(STREAMS, video_frames=4))
    ages = {m.value: [(END - s.stamp_ns) / MS for s in found]
            for m, found in selection.samples.items()}
    return selection, ages


def test_depth_and_normals_go_with_the_image() -> None:
    _, ages = taken({'image': make([700, 300]), 'depth': make([900, 310, 50]),
                     'normal': make([290, 10])})
    assert ages == {'image': [300], 'video': [700, 300], 'depth': [310], 'normal': [290]}
    _, ages = taken({'depth': make([900, 310, 50]), 'normal': make([290, 10])})
    assert ages == {'depth': [50], 'normal': [10]}


def test_old_pictures_serve_the_video_only() -> None:
    _, ages = taken({'image': make([1900, 1400]), 'fmri': make([500, 20])})
    assert ages == {'fmri': [20]}


def test_video_frames_are_spread_evenly() -> None:
    _, ages = taken({'image': make([2500] + [20 + 30 * i for i in range(61)])})
    assert ages['video'] == [1820, 1220, 620, 20]
    # a burst at the end: still four different frames
    _, ages = taken({'image': make([1800, 40, 30, 20, 10])})
    assert len(set(ages['video'])) == 4 and ages['video'][0] == 1800 and ages['video'][-1] == 10
    _, ages = taken({'image': make([400])})
    assert 'video' not in ages


def test_newest_cloud_or_all_of_its_frame() -> None:
    clouds = {'points': tuple(sorted(make([800, 400, 100], 'lidar') + make([500], 'other'),
                                     key=lambda s: s.stamp_ns))}
    assert taken(clouds)[1] == {'point': [100]}
    assert taken(clouds, ChoiceSpec(STREAMS, merge_points=True))[1] == {'point': [800, 400, 100]}


def test_imu_and_audio_reach_back_as_far_as_the_model_listens() -> None:
    spec = ChoiceSpec.for_model(NANO.tokenizer, STREAMS)
    assert spec.imu_ns == 2100 * MS and spec.audio_ns == 3560 * MS
    selection, ages = taken({'imu': make([5 * i + 5 for i in range(600)]),
                             'audio': make([500 * i + 500 for i in range(12)], seconds=0.5)}, spec)
    assert ages['imu'][0] == 2095 and ages['imu'][-1] == 5 and len(ages['imu']) == 419
    assert ages['audio'] == [4000 - 500 * i for i in range(8)]
    assert spec.lookback_ns(Modality.IMU) == 2100 * MS
    released = ChoiceSpec.for_model(TokenizerConfig(), STREAMS)
    assert released.lookback_ns(Modality.AUDIO) == 11_240 * MS


def test_reports_say_what_was_taken_and_lost() -> None:
    selection, _ = taken(
        {'image': make([700, 300], topic='/cam'), 'depth': make([340], topic='/depth'),
         'audio': make([500], topic='/mic', seconds=0.5), 'imu': make([295, 1990], topic='/imu')},
        late={'image': 2}, dropped={'depth': 1}, duplicates={'depth': 3})
    reports = {r.modality.value: r for r in selection.reports}
    assert list(reports) == ['image', 'video', 'depth', 'audio', 'imu']
    assert reports['image'].late == 2 and reports['depth'].dropped == 4
    assert reports['depth'].topics == ('/depth',)
    assert {m: r.max_skew_ns // MS for m, r in reports.items()} == {
        'image': 0, 'video': 0, 'depth': 40, 'audio': 0, 'imu': 5}
    imu = reports['imu']
    assert (imu.count, END - imu.first_ns, END - imu.last_ns) == (2, 1990 * MS, 295 * MS)


def test_only_allowed_modalities() -> None:
    members = {'image': make([700, 300]), 'depth': make([310]), 'lidar2': make([1])}
    spec = ChoiceSpec(STREAMS, frozenset({Modality.DEPTH, Modality.IMAGE}))
    selection, ages = taken(members, spec)
    assert ages == {'image': [300], 'depth': [310]}
    assert spec.lookback_ns(Modality.IMAGE) == 0
    only = selection.restricted({Modality.DEPTH})
    assert list(only.samples) == [Modality.DEPTH]
    assert [r.modality for r in only.reports] == [Modality.DEPTH] and only.end_ns == END


def test_an_empty_choice() -> None:
    selection, ages = taken({'lidar2': make([1])})
    assert ages == {} and selection.reports == ()
