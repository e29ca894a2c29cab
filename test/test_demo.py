"""`make demo` as a user runs it, with a simulated robot and with recordings; and its parts."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
import itertools
import json
import os
from pathlib import Path
import signal
import subprocess
import sys
import time

from PIL import Image
import pytest

from onellm_ros.simulation.truth import SeenObject, Truth

pytest.importorskip('rclpy')
pytest.importorskip('onellm_msgs')

BOX = SeenObject(3, 'box', 'red', 'left', 1.5, 0.4, 0.05, 0.9)
BALL = SeenObject(4, 'ball', 'blue', 'right', 1.5, -0.4, 0.045, 0.9)
TRUTH = Truth(7, (BOX,), 'turning left', 'a bell', 'wood', 'white', 2.5)
MODEL_SECONDS = 15.0


@pytest.fixture(scope='module')
def model(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the model that ships with the package, or a tiny one with random weights."""
    shipped = root / 'models' / 'nano'
    if (shipped / 'config.json').exists():
        return shipped
    import torch

    from onellm_ros.config import NANO
    from onellm_ros.model.checkpoint import save_model
    from onellm_ros.model.onellm import OneLLM
    from onellm_ros.model.text import train_tokenizer
    from onellm_ros.simulation.language import vocabulary_texts

    torch.manual_seed(0)
    config = replace(
        NANO, encoder=replace(NANO.encoder, width=48, layers=1, heads=2, image_size=56),
        upm=replace(NANO.upm, layers=1, heads=2, modality_tokens=4),
        llm=replace(NANO.llm, dim=48, layers=1, heads=2, vocab_size=300))
    folder = tmp_path_factory.mktemp('model')
    save_model(OneLLM(config), folder)
    texts = list(itertools.islice(vocabulary_texts(), 300))
    train_tokenizer(texts, 300).save(str(folder / config.text.tokenizer))
    return folder


def command(out: Path, model: Path | str, *words: object) -> list[str]:
    return [sys.executable, '-m', 'onellm_ros.ros.demo', '--out', str(out), '--model', str(model),
            '--startup', '160', *map(str, words)]


def ran(out: Path, model: Path | str, *words: object) -> tuple[int, str]:
    """Run the demonstration to its end; returns exit code and everything that it printed."""
    done = subprocess.run(command(out, model, *words), stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=420)
    return done.returncode, done.stdout


def users_of(out: Path) -> list[str]:
    """Return the command lines of processes that write into a folder's logs."""
    found = []
    for entry in Path('/proc').glob('[0-9]*'):
        # 1 and 2 are its log from the start; other files come and go while they are looked at.
        for number in ('1', '2'):
            with suppress(OSError):
                if os.readlink(entry / 'fd' / number).startswith(str(out)):
                    found.append((entry / 'cmdline').read_text().replace('\0', ' '))
                    break
    return found


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_the_simulated_robot_from_start_to_end(model: Path, tmp_path: Path) -> None:
    out = tmp_path / 'out'
    code, text = ran(out, model, '--seconds', MODEL_SECONDS, '--seed', 3, '--camera', '160x120')
    assert code == 0, text
    assert 'first description after' in text
    assert text.count('says:') >= 1 and 'truth: ' in text
    assert 'asked: What is the largest thing you see?' in text
    picture = out / 'what_the_robot_sensed.png'
    assert f'picture of one window: {picture}' in text
    with Image.open(picture) as opened:
        assert opened.size == (1280, 800)
    assert 'descriptions by' in text and 'median latency: window end to text' in text
    assert 'against the truth of' in text and 'questions: ' in text
    figures = json.loads((out / 'summary.json').read_text())
    assert figures['descriptions'] == text.count('says:')
    assert figures['median_latency_s']['whole text'] > 0
    assert users_of(out) == []


@pytest.mark.slow
@pytest.mark.timeout(500)
@pytest.mark.parametrize('name', ['soccer_goal', 'kapture_t265'])
def test_short_recordings_give_a_description(model: Path, recordings: Path, tmp_path: Path,
                                             name: str) -> None:
    """A recording shorter than a window is one window, and is asked about after its end."""
    out = tmp_path / 'out'
    code, text = ran(out, model, '--bag', recordings / 'bags' / name, '--seconds', 20)
    assert code == 0, text
    assert '-> ' in text and 'playing the recording once' in text
    assert 'says:' in text and 'truth:' not in text
    assert text.count('asked:') == 3
    assert (out / 'what_the_robot_sensed.png').exists()
    assert users_of(out) == []


def test_what_is_no_recording_is_refused_in_one_line(tmp_path: Path) -> None:
    empty, broken = tmp_path / 'empty.mcap', tmp_path / 'broken.bag'
    empty.write_bytes(b'')
    broken.write_bytes(b'#ROSBAG V2.0\n' + bytes(range(256)) * 8)
    for bag in (tmp_path / 'missing', empty, broken):
        code, text = ran(tmp_path / 'out', 'nano', '--bag', bag)
        assert code == 2, text
        lines = [line for line in text.splitlines() if line.startswith('demo: ')]
        assert len(lines) == 1 and bag.name in lines[0], text
        assert 'Traceback' not in text
    assert users_of(tmp_path) == []


def test_wrong_topics_are_refused(recordings: Path, tmp_path: Path) -> None:
    bag = recordings / 'bags' / 'soccer_goal'
    for word, expected in (('/camera/image_raw', 'expected TOPIC=MODALITY'),
                           ('/nothing=image', "found no topic '/nothing'"),
                           ('/camera/image_raw=smell', "unknown modality 'smell'"),
                           ('/camera/image_raw=none', 'switched off by the user')):
        code, text = ran(tmp_path / 'out', 'nano', '--bag', bag, '--topics', word)
        assert code == 2 and expected in text, text
        assert 'Traceback' not in text


@pytest.mark.timeout(300)
def test_a_process_that_fails_is_told_with_its_log(tmp_path: Path) -> None:
    out = tmp_path / 'out'
    code, text = ran(out, 'no_such_model', '--seconds', 5)
    assert code == 1, text
    assert 'perception ended with exit code 1' in text and 'no_such_model' in text
    assert 'Traceback' not in text
    assert users_of(out) == []


@pytest.mark.timeout(300)
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_demonstration_leaves_nothing_behind(model: Path, tmp_path: Path,
                                                            number: signal.Signals) -> None:
    out = tmp_path / 'out'
    process = subprocess.Popen(command(out, model, '--camera', '64x48'), stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    end = time.monotonic() + 100
    while not (out / 'simulation.log').exists() and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(number)
    text, _ = process.communicate(timeout=120)
    if number != signal.SIGKILL:
        assert process.returncode == 130, text
        assert 'interrupted' in text and 'Traceback' not in text
        assert users_of(out) == []
    while users_of(out) and time.monotonic() < end + 60:
        time.sleep(0.1)
    assert users_of(out) == []


def test_answers_are_judged_by_the_world() -> None:
    from onellm_ros.ros.demo_questions import QUESTIONS

    seen, heard, motion = QUESTIONS
    assert seen.truth(TRUTH) == 'a red box' and seen.is_right(TRUTH, 'A red box.') is True
    assert seen.is_right(TRUTH, 'a blue box') is False
    two = replace(TRUTH, seen=(BOX, BALL))
    assert not seen.has_answer(two) and seen.is_right(two, 'a red box') is None
    assert seen.truth(two) == 'no single one: a red box, a blue ball'
    assert seen.truth(replace(TRUTH, seen=())) == 'nothing that stands out'
    assert heard.truth(TRUTH) == 'a bell' and heard.is_right(TRUTH, 'a motor') is False
    assert motion.is_right(TRUTH, 'The robot is turning left.') is True


def test_picture_samples_are_those_that_the_description_reports() -> None:
    import numpy as np
    from onellm_msgs.msg import Description, ModalityReport

    from onellm_ros.modality import Modality, Sample
    from onellm_ros.ros.demo_recorder import shown_samples, span_of
    from onellm_ros.ros.messages_out import set_stamp

    def report(modality: str, first: int, last: int, count: int) -> ModalityReport:
        message = ModalityReport(modality=modality, count=count)
        set_stamp(message.first_stamp, first)
        set_stamp(message.last_stamp, last)
        return message
    plane = np.full((12, 16), 2.0, np.float32)
    cameras = (10.0, 10.0, 7.5, 5.5)
    recorded = {
        Modality.IMAGE: [Sample(s, np.zeros((12, 16, 3), np.uint8)) for s in (1, 5, 9, 14)],
        Modality.DEPTH: [Sample(9, plane, intrinsics=cameras)],
        Modality.IMU: [Sample(s, np.zeros(6)) for s in range(20)]}
    description = Description(modalities=[
        report('image', 9, 9, 1), report('video', 1, 9, 3), report('depth', 9, 9, 1),
        report('imu', 4, 9, 6), report('audio', 2, 9, 1)])
    chosen = shown_samples(description, recorded)
    stamps = {m.value: [s.stamp_ns for s in samples] for m, samples in chosen.items()}
    assert stamps == {'image': [9], 'video': [1, 5, 9], 'depth': [9], 'imu': [4, 5, 6, 7, 8, 9],
                      'normal': [9]}
    normal = chosen[Modality.NORMAL][0].data
    np.testing.assert_allclose(normal[4:8, 4:12], np.broadcast_to([0, 0, -1], (4, 8, 3)),
                               atol=1e-4)
    assert span_of(description) == (1, 9)
