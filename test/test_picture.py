"""The picture of a window: any mixture of modalities, awkward data, its size and its time."""

from __future__ import annotations

import time

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
import numpy as np
import pytest

from onellm_ros.modality import Modality, Sample
from onellm_ros.report.panels import colour_wheel_normals, depth_colours, film_strip, top_view
from onellm_ros.report.picture import window_picture
from onellm_ros.report.words import LINE_SPACING, fitted

RNG = np.random.default_rng(0)


def window() -> dict[Modality, list[Sample]]:
    """Return a window that holds all eight modalities."""
    image = RNG.integers(0, 255, (120, 160, 3), dtype=np.uint8)
    depth = RNG.uniform(0.5, 5.0, (120, 160)).astype(np.float32)
    depth[:20] = np.nan
    normal = RNG.normal(size=(120, 160, 3)).astype(np.float32)
    normal /= np.linalg.norm(normal, axis=2, keepdims=True)
    normal[50:60] = np.nan
    cloud = RNG.uniform(0.0, 1.0, (3000, 6)).astype(np.float32) * [4, 4, 2, 1, 1, 1]
    return {
        Modality.IMAGE: [Sample(0, image)], Modality.DEPTH: [Sample(0, depth)],
        Modality.NORMAL: [Sample(0, normal)], Modality.POINT: [Sample(0, cloud, 'base_link')],
        Modality.VIDEO: [Sample(i * 10 ** 8, image[:60]) for i in range(8)],
        Modality.IMU: [Sample(i * 5_000_000, RNG.normal(size=6)) for i in range(400)],
        Modality.AUDIO: [Sample(i * 10 ** 8, RNG.normal(0, 0.1, 1600).astype(np.float32),
                                rate_hz=16000.0) for i in range(20)],
        Modality.FMRI: [Sample(0, RNG.normal(size=512).astype(np.float32), 'synthetic')]}


def test_a_full_window_is_drawn_in_time() -> None:
    chosen = window()
    window_picture({}, 'warm the fonts')
    start = time.process_time()
    picture = window_picture(chosen, 'A red box costs $3 and $4.', truth='a red box',
                             title='window 1', expert_weights={
                                 m: np.array([[0.2, 0.3, 0.5]]) for m in chosen})
    assert time.process_time() - start < 1.5
    assert picture.size == (1280, 800) and picture.mode == 'RGB'
    assert np.asarray(picture).std() > 20


@pytest.mark.parametrize('modality', list(Modality))
def test_one_modality_alone_differs_from_none(modality: Modality) -> None:
    empty = np.asarray(window_picture({}, 'words', size=(640, 400)))
    alone = np.asarray(window_picture({modality: window()[modality]}, 'words', size=(640, 400)))
    assert alone.shape == (400, 640, 3)
    assert (alone != empty).any(axis=2).mean() > 0.002


def test_awkward_data_is_drawn_all_the_same() -> None:
    nothing = np.full((8, 8), np.nan, np.float32)
    chosen = {
        Modality.IMAGE: [Sample(0, np.zeros((1, 1, 3), np.uint8))],
        Modality.DEPTH: [Sample(0, nothing)],
        Modality.NORMAL: [Sample(0, np.repeat(nothing[..., None], 3, axis=2))],
        Modality.POINT: [Sample(0, np.full((5, 6), np.nan, np.float32))],
        Modality.VIDEO: [Sample(0, np.zeros((3, 200, 3), np.uint8))],
        Modality.IMU: [Sample(0, np.full(6, np.nan))],
        Modality.AUDIO: [Sample(0, np.zeros(0, np.float32), rate_hz=16000.0),
                         Sample(5, np.zeros(3, np.float32), rate_hz=8000.0)],
        Modality.FMRI: [Sample(0, np.zeros(3, np.float32))]}
    picture = window_picture(chosen, 'word ' * 2000, truth='line\n' * 50, size=(800, 500))
    assert picture.size == (800, 500)
    assert window_picture({Modality.IMU: []}, '').size == (1280, 800)
    with pytest.raises(ValueError, match='at least 640'):
        window_picture({}, '', size=(100, 100))
    with pytest.raises(ValueError, match='rate'):
        window_picture({Modality.AUDIO: [Sample(0, np.zeros(9, np.float32))]}, '')


@pytest.mark.parametrize('text', ['WWW MMM ' * 40, 'W' * 900, 'short', 'a\n\nb ' * 9, ''])
def test_words_stay_in_their_box(text: str) -> None:
    figure = Figure(figsize=(4, 1), dpi=100)
    renderer = FigureCanvasAgg(figure).get_renderer()
    lines, points = fitted(renderer, text, 300.0, 90.0, 13.0, 8.0)
    drawn = figure.text(0, 0, lines, fontsize=points, linespacing=LINE_SPACING, parse_math=False)
    box = drawn.get_window_extent(renderer)
    assert box.width <= 301 and box.height <= 92 and 8.0 <= points <= 13.0
    if not lines.endswith(' …'):
        assert lines.split() == text.split()


def test_what_is_too_long_at_the_least_size_ends_with_an_ellipsis() -> None:
    renderer = FigureCanvasAgg(Figure()).get_renderer()
    lines, points = fitted(renderer, 'word ' * 500, 200.0, 50.0, 13.0, 8.0)
    assert lines.endswith(' …') and points == 8.0
    same, large = fitted(renderer, 'a box', 200.0, 50.0, 13.0, 8.0)
    assert (same, large) == ('a box', 13.0)


def test_depth_near_is_warm_and_unmeasured_is_grey() -> None:
    colours = depth_colours(np.array([[1.0, 4.0, np.nan, 0.0, np.inf]]), 1.0, 4.0)[0]
    assert colours[0, 0] > colours[0, 2] and colours[1, 2] > colours[1, 0]
    assert np.all(colours[2:] == colours[2, 0])


def test_a_normal_that_faces_the_camera_is_blue() -> None:
    colours = colour_wheel_normals(np.array([[[0.0, 0.0, -1.0], [np.nan] * 3]]))
    assert np.allclose(colours[0, 0], [0.5, 0.5, 1.0]) and np.ptp(colours[0, 1]) == 0


@pytest.mark.parametrize('optical', [False, True])
def test_a_point_ahead_and_left_lies_up_and_left(optical: bool) -> None:
    place = [-1.0, 0.2, 3.0] if optical else [3.0, 1.0, -0.2]
    cloud = np.array([[*place, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, 0.0, 1.0]])
    picture, (back, front, right, left), coloured = top_view(cloud, optical)
    red = np.argwhere((picture == [1.0, 0.0, 0.0]).all(axis=2)).mean(axis=0)
    blue = np.argwhere((picture == [0.0, 0.0, 1.0]).all(axis=2)).mean(axis=0)
    assert coloured and red[0] < blue[0] and red[1] < blue[1]
    assert back <= 0 < 3 < front and right <= 0 < 1 < left
    assert front - back == pytest.approx(left - right)


def test_a_film_strip_runs_from_old_to_new() -> None:
    strip = film_strip([np.full((10, 10, 3), v, np.uint8) for v in (0, 50, 100, 150, 200)], 3)
    values = [int(v) for v in dict.fromkeys(strip[5, :, 0].tolist())]
    assert values == [0, 255, 100, 200]
