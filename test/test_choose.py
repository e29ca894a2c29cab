"""Each modality's rule on windows whose right answer is plain to see."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

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


TWO = {'front': Modality.IMAGE, 'rear': Modality.IMAGE, 'low': Modality.POINT,
       'high': Modality.POINT, 'mic': Modality.AUDIO, 'mic2': Modality.AUDIO}


def test_the_first_source_in_rank_that_speaks_is_taken() -> None:
    spec = ChoiceSpec(TWO, video_frames=4)
    rear = make([900, 400, 100], topic='/rear')
    selection, ages = taken({'front': make([700, 300], topic='/front'), 'rear': rear}, spec,
                            late={'rear': 3})
    assert ages == {'image': [300], 'video': [700, 300]}
    image = selection.reports[0]
    assert (image.topics, image.sources, image.late) == (('/front',), ('front',), 3)
    # the first one's last picture is older than the window: the second stands in
    selection, ages = taken({'front': make([1900, 1400]), 'rear': rear}, spec)
    assert ages == {'image': [100], 'video': [900, 400, 100]}
    assert selection.reports[0].sources == selection.reports[1].sources == ('rear',)
    # no picture of the second that is new: no video of it either
    assert taken({'front': make([200]), 'rear': rear}, spec)[1] == {'image': [200]}
    # a microphone that fell silent within the reach of the sound is behind one that speaks
    members = {'mic': make([5000, 4500], seconds=0.5), 'mic2': make([800, 300], seconds=0.5)}
    assert taken(members, spec)[1] == {'audio': [800, 300]}
    assert taken({'mic': members['mic']}, spec)[1] == {'audio': [5000, 4500]}


def test_a_question_may_name_its_sources() -> None:
    spec = ChoiceSpec(TWO, video_frames=8, further_frames=3)
    frames = [1950 - 100 * i for i in range(20)]
    whole, ages = taken({'front': make(frames), 'rear': make([a + 20 for a in frames if a > 500]),
                         'mic': make([500], seconds=0.5), 'low': make([60]), 'high': make([40])},
                        spec, late={'rear': 1, 'front': 2})
    assert ages['image'] == [50] and len(ages['video']) == 8 and ages['point'] == [60]
    rear = whole.of_sources(['rear', 'high'])
    found = {m.value: [(END - s.stamp_ns) / MS for s in f] for m, f in rear.samples.items()}
    assert found == {'image': [570], 'video': [1970, 1270, 570], 'point': [40]}
    assert [r.modality.value for r in rear.reports] == list(found)
    assert rear.reports[0].late == 1 and whole.reports[0].late == 3
    assert rear.reports[0].max_skew_ns == 520 * MS
    both = whole.of_sources(['rear', 'front'])
    assert both.samples[Modality.IMAGE] == whole.samples[Modality.IMAGE]
    assert whole.of_sources(['mic2']).samples == {}  # known, and silent
    only = whole.restricted({Modality.POINT}).of_sources(['high', 'rear'])
    assert list(only.samples) == [Modality.POINT]
    with pytest.raises(ValueError, match="found 'left', expected some of front, rear, low"):
        whole.of_sources(['left'])
    held = {id(s) for o in whole.offers for s in o.samples} - {
        id(s) for f in whole.samples.values() for s in f}
    assert len(held) <= 5  # a few samples a source that is not taken


def test_clouds_of_several_lidars_are_joined_in_one_frame() -> None:
    members = {'low': make([800, 100], 'low_link'), 'high': make([750, 50], 'high_link')}
    merging = ChoiceSpec(TWO, merge_points=True)
    assert taken(members, merging)[1] == {'point': [800, 100]}  # another frame stays apart

    def place(modality: Modality, sample: Sample) -> Sample:
        assert modality is Modality.POINT
        return replace(sample, frame_id='base_link')
    merging = ChoiceSpec(TWO, merge_points=True, place=place)
    selection, ages = taken(members, merging, late={'high': 1})
    assert ages == {'point': [800, 750, 100, 50]}
    assert selection.reports[0].sources == ('low', 'high') and selection.reports[0].late == 1
    assert (selection.reports[0].count, END - selection.reports[0].last_ns) == (4, 50 * MS)
    high = selection.of_sources(['high'])
    assert [(END - s.stamp_ns) / MS for s in high.samples[Modality.POINT]] == [750, 50]
    assert all(s.frame_id == 'base_link' for s in high.samples[Modality.POINT])
