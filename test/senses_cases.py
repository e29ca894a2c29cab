"""Annotation files of our making in the public formats of benchmarks, and what they hold."""

from __future__ import annotations

from dataclasses import dataclass, field
import json
from pathlib import Path
from typing import Any

from onellm_ros.datasets.depths import DepthSignal
from onellm_ros.datasets.rows import Signal
from onellm_ros.evaluation.item import Item
from onellm_ros.evaluation.tasks import find_task
from onellm_ros.evaluation.tasks.media import shuffled
from onellm_ros.evaluation.tasks.scenes import NYU_CLASSES, NYU_INTRINSICS, SUN_CLASSES
from onellm_ros.modality import Modality

VIDEO, AUDIO, POINT = Modality.VIDEO, Modality.AUDIO, Modality.POINT
DEPTH, NORMAL, IMU, FMRI = Modality.DEPTH, Modality.NORMAL, Modality.IMU, Modality.FMRI


def lines(*rows: Any) -> str:
    """Return a JSON list, an element a line."""
    return '[\n' + ',\n'.join(json.dumps(row) for row in rows) + '\n]\n'


def coco(*images: dict[str, Any], captions: dict[Any, list[str]]) -> str:
    """Return a caption file in COCO's style, an image and a caption a line."""
    told = [{'id': n, 'image_id': image, 'caption': text} for n, (image, text) in enumerate(
        (image, text) for image, texts in captions.items() for text in texts)]
    return (f'{{"images": {lines(*images)}, "annotations":\n {lines(*told)}, '
            '"type": "captions", "info": {"description": "ours"}}')


@dataclass(frozen=True)
class Case:
    """Files of a benchmark, what its reader makes of them, and what it says of damage.

    :param expected: id, question, signals, answers, choices, right, group of each item.
    :param broken: (file, text in it, text instead, line of the error, part of its text).
    """

    files: dict[str, str]
    expected: list[tuple[Any, ...]]
    broken: list[tuple[str, str, str, int, str]] = field(default_factory=list)
    split: str = ''
    options: dict[str, Any] = field(default_factory=dict)
    there: tuple[str, ...] = ()         # empty files of signals


def how2(key: str, right: str, *wrong: str) -> tuple[tuple[str, ...], int]:
    return shuffled(key, right, wrong)


NEXT = ('video,frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3,a4\n'
        '4010069381,369,640,480,how do the two man play the instrument,0,6,CH,roll,"tap, feet",'
        'strum,hit,pat\n'
        '4010069381,369,640,480,what does he do after,4,7,TN,a,b,c,d,e\n')
HOW2 = ('NOuQuofjk44,[7.2:18.0],10,12,16,how many knife is there?,1\n'
        'NOuQuofjk44,[60.0:60.0],it is,"no, ""it"" was",was,"is it, then?",yes\n')
MUSIC = lines(
    {'video_id': '00000238', 'question_id': 8, 'type': '["Audio-Visual", "Counting"]',
     'question_content': 'How many instruments are sounding in the video?',
     'templ_values': '[]', 'question_deleted': 0, 'anser': 'two'},
    {'video_id': 'sa00007434', 'question_id': 9, 'type': '["Visual", "Counting"]',
     'question_content': 'Are there <Object> and <Object> instruments in the video?',
     'templ_values': '["piano", "ukulele"]', 'question_deleted': 0, 'anser': 'no'},
    {'video_id': 'sa1', 'question_id': 10, 'type': '["Audio", "Comparative"]',
     'question_content': 'Gone?', 'templ_values': '[]', 'question_deleted': 1, 'anser': 'no'})
AVSD = ('{"type": "test", "version": "0.1", "dialogs": ' + lines(
    {'image_id': 'A5JTC', 'caption': 'a man walks', 'summary': 'He walks.', 'dialog': [
        {'question': 'is there a man?', 'answer': 'yes, one'},
        {'question': 'what does he do?', 'answer': '__UNDISCLOSED__'}]},
    {'image_id': 'B6KUD', 'caption': 'c', 'dialog': [
        {'question': 'is it night?', 'answer': '__UNDISCLOSED__'}]}) + '}')
AVSD_ANSWERS = coco({'name': 'A5JTC_1', 'id': 1}, {'name': 'B6KUD_0', 'id': 2},
                    captions={1: ['he walks', 'he is walking'], 2: ['no it is day']})
CLOTHO = ('file_name,caption_1,caption_2,caption_3,caption_4,caption_5\n'
          'Santa Motor.wav,A machine runs.,"A motor, running.",c3,c4,c5\n'
          '"a, b.wav",c1,c2,c3,c4,c5\n')
AQA = ('file_name,QuestionText,answer,confidence\n'
       'fly.wav,Is it a bird?,yes,yes\nfly.wav,Is it a bird?,No,maybe\n'
       'fly.wav,Is it a bird?,no,no\nfly.wav,What is it?,wings,yes\n'
       'fly.wav,What is it?,bird,yes\nfly.wav,What is it?,crow,yes\n'
       'sea.wav,Is it wet?,yes,yes\nsea.wav,Is it wet?,yes,yes\nsea.wav,Is it wet?,yes,yes\n')
POINTS = lines(
    {'object_id': '00f5', 'conversation_type': 'simple_description', 'conversations': [
        {'from': 'human', 'value': '<point>\nWhat is this?'},
        {'from': 'gpt', 'value': 'A red chair.'}]},
    {'object_id': '11aa', 'conversations': [{'from': 'gpt', 'value': 'A ship.'}]})
VATEX = lines({'videoID': 'a_b-c_000179_000189', 'enCap': ['one', 'two']},
              {'videoID': 'xyz_000003_000013', 'enCap': ['three']})
VALOR = lines({'video_id': 'x-2A_30.000_40.000', 'desc': 'A dog barks.'},
              {'video_id': 'y_0.000_10.000', 'desc': ['One.', 'Two.']})
IMU_WINDOWS = coco(
    {'id': 7, 'file_name': 'u', 'video_uid': 'uid-1', 'window_start': 12, 'window_end': 14.0},
    captions={7: ['walks']})
NYU = {'test.txt': '0000\n0007\n', 'test/scene_class/0000.txt': 'living_room',
       'test/scene_class/0007.txt': 'furniture_store\n'}
PLACE = 'SUNRGBD/kv1/NYUdata/NYU0001'
SUN = {'test.txt': f'{PLACE[8:]}\n/n/fs/sun3d/data/{PLACE[:-1]}2/\n',
       f'{PLACE}/scene.txt': 'rest_space', f'{PLACE[:-1]}2/scene.txt': 'cafeteria\n',
       f'{PLACE}/intrinsics.txt': '518.8 0 284.5\n0 519.4 208.7 \n0 0 1\n'}
SUN_THERE = (f'{PLACE}/image/a.jpg', f'{PLACE}/depth/a.png', f'{PLACE}/depth_bfx/a.png')
SUN_EYE = (518.8, 519.4, 284.5, 208.7)
OWN = lines({'image': 'a.jpg', 'depth_image': 'd.png', 'scene': 'living_room',
             'intrinsics': [500, 501, 320, 240]},
            {'image': 'b.jpg', 'depth_image': 'e.png', 'normal_image': 'n.png', 'scene': 'cafe',
             'intrinsics': [500, 501, 320, 240]})


def at(path: str, window: tuple[float, float] | None = None, colour: str = '') -> Signal:
    return Signal(Path(path), Path(colour) if colour else None, window)


def both(path: str, window: tuple[float, float] | None = None) -> dict[Modality, Signal]:
    return {VIDEO: at(path, window), AUDIO: at(path, window)}


def depth(path: str, colour: str, eye: Any, rotated: bool = False) -> DepthSignal:
    return DepthSignal(Path(path), Path(colour), rotated=rotated, intrinsics=eye)


NYU_ITEMS = [('0000', 'test/depth/0000.png', 'test/rgb/0000.png', 'living room'),
             ('0007', 'test/depth/0007.png', 'test/rgb/0007.png', 'others')]


def scenes(modality: Modality, items: list[Any], classes: tuple[str, ...]) -> list[Any]:
    return [(key, '', {modality: signal}, (scene,), classes, classes.index(scene), '')
            for key, signal, scene in items]


CASES = {
    'nextqa': Case(
        {'test.csv': NEXT, 'map_vid_vidorID.json': '{"4010069381": "1106/4010069381"}'},
        [('4010069381_6', 'how do the two man play the instrument',
          {VIDEO: at('NExTVideo/1106/4010069381.mp4')}, (),
          ('roll', 'tap, feet', 'strum', 'hit', 'pat'), 0, 'causal'),
         ('4010069381_7', 'what does he do after',
          {VIDEO: at('NExTVideo/1106/4010069381.mp4')}, (), tuple('abcde'), 4, 'temporal')],
        [('test.csv', ',pat\n', '\n', 2, 'found 12 fields, expected 13'),
         ('test.csv', ',4,7,TN', ',5,7,TN', 3, 'answer: found the text "5", expected'),
         ('test.csv', ',7,TN', ',6,TN', 3, "found the id '4010069381_6' again, first in line 2"),
         ('test.csv', 'TN,a', 'XX,a', 3, 'type: found the text "XX"'),
         ('test.csv', 'qid', 'question_id', 1, 'expected qid'),
         ('map_vid_vidorID.json', '"1106/4010069381"', '1106', 1, 'expected a path of VidOR')],
        there=('NExTVideo/1106/4010069381.mp4',)),
    'how2qa': Case(
        {'how2QA_val_release.csv': HOW2},
        [('NOuQuofjk44_0', 'how many knife is there?',
          {VIDEO: at('videos/NOuQuofjk44.mp4', (7.2, 18.0))}, (),
          *how2('NOuQuofjk44_0', '1', '10', '12', '16'), ''),
         ('NOuQuofjk44_1', 'is it, then?', {VIDEO: at('videos/NOuQuofjk44.mp4', (60.0, 61.0))},
          (), *how2('NOuQuofjk44_1', 'yes', 'it is', 'no, "it" was', 'was'), '')],
        [('how2QA_val_release.csv', '[60.0:60.0]', '[60.0:6.0]', 2, 'the first below the second'),
         ('how2QA_val_release.csv', ',1\n', '\n', 1, 'found 6 fields, expected 7'),
         ('how2QA_val_release.csv', ',yes\n', ',"yes', 2, 'found a row that is no table')]),
    'how2qa jsonl': Case(
        {'how2qa_val.jsonl': '{"qid": "v_1", "vid_name": "ab", "ts": [1.5, 9], "q": "Who?", '
                             '"a0": "A", "a1": "B", "a2": "C", "a3": "D", "answer_idx": 2}\n'},
        [('v_1', 'Who?', {VIDEO: at('videos/ab.mp4', (1.5, 9.0))}, (), tuple('ABCD'), 2, '')],
        [('how2qa_val.jsonl', '"answer_idx": 2', '"answer_idx": true', 1, 'found true'),
         ('how2qa_val.jsonl', '[1.5, 9]', '"soon"', 1, 'ts: found the text "soon"'),
         ('how2qa_val.jsonl', '2}', '2', 1, 'expected a JSON object')]),
    'msvd-qa': Case(
        {'test_qa.json': lines({'answer': 'woman', 'id': 36938, 'question': 'who is eating?',
                                'video_id': 1301}),
         'youtube_mapping.txt': '-4wsuPCjDBc_5_15 vid1\n0lh_UWF9ZP4_157_160 vid1301 \n'},
        [('36938', 'who is eating?', {VIDEO: at('YouTubeClips/0lh_UWF9ZP4_157_160.avi')},
          ('woman',), (), -1, 'who')],
        [('test_qa.json', '1301', '1302', 2, 'video_id: found vid1302, expected one of the 2'),
         ('test_qa.json', '"woman"', 'null', 2, 'answer: found null'),
         ('test_qa.json', '}\n]', '},\n{"id": 1}\n]', 3, "expected 'video_id'"),
         ('youtube_mapping.txt', ' vid1\n', '\n', 1, "found '-4wsuPCjDBc_5_15', expected")]),
    'vatex': Case(
        {'vatex_public_test_english_v1.1.json': VATEX},
        [('a_b-c_000179_000189', '', {VIDEO: at('videos/a_b-c.mp4', (179.0, 189.0))},
          ('one', 'two'), (), -1, ''),
         ('xyz_000003_000013', '', {VIDEO: at('videos/xyz_000003_000013.mkv')}, ('three',), (),
          -1, '')],
        [('vatex_public_test_english_v1.1.json', '["three"]', '[]', 3, 'enCap: found an empty'),
         ('vatex_public_test_english_v1.1.json', ']}\n]', ']', 4, 'the file is cut short'),
         ('vatex_public_test_english_v1.1.json', 'xyz_000003_000013', 'a_b-c_000179_000189', 3,
          'again, first in line 2')],
        there=('videos/a_b-c.mp4', 'videos/xyz_000003_000013.mkv')),
    'vatex coco': Case(
        {'vatex_cococap.json': coco({'id': 3, 'file_name': 'xyz_000003_000013.mp4'},
                                    {'id': 4}, captions={3: ['a', 'b'], 4: ['c']})},
        [('3', '', {VIDEO: at('test/xyz.mp4', (3.0, 13.0))}, ('a', 'b'), (), -1, ''),
         ('4', '', {VIDEO: at('test/4.mp4')}, ('c',), (), -1, '')],
        [('vatex_cococap.json', '"image_id": 4', '"image_id": 5', 9, "image_id: found '5'")],
        there=('test/xyz.mp4',)),
    'vatex list': Case(
        {'captions_val.json': lines({'image': 'val/a.mp4', 'caption': ['a', 'b']})},
        [('a', '', {VIDEO: at('val/a.mp4')}, ('a', 'b'), (), -1, '')],
        [('captions_val.json', '"b"]', '3]', 2, 'caption[1]: found')], split='val',
        there=('val/a.mp4',)),
    'clotho-caption': Case(
        {'clotho_captions_evaluation.csv': CLOTHO},
        [('Santa Motor.wav', '', {AUDIO: at('evaluation/Santa Motor.wav')},
          ('A machine runs.', 'A motor, running.', 'c3', 'c4', 'c5'), (), -1, ''),
         ('a, b.wav', '', {AUDIO: at('evaluation/a, b.wav')}, ('c1', 'c2', 'c3', 'c4', 'c5'),
          (), -1, '')],
        [('clotho_captions_evaluation.csv', 'c1,', ',', 3, 'caption_1: found an empty text'),
         ('clotho_captions_evaluation.csv', '"a, b.wav"', 'Santa Motor.wav', 3, 'again, first')]),
    'clotho-caption coco': Case(
        {'eval_clothocap_ann.json': coco({'id': 0, 'file_name': 'Santa Motor.wav'},
                                         captions={0: ['A machine.']})},
        [('0', '', {AUDIO: at('evaluation/Santa Motor.wav')}, ('A machine.',), (), -1, '')],
        [('eval_clothocap_ann.json', '"caption": "A machine."', '"caption": 5', 6, 'caption')]),
    'clotho-aqa': Case(
        {'clotho_aqa_test.csv': AQA},
        [('fly.wav_0', 'Is it a bird?', {AUDIO: at('audio_files/fly.wav')},
          ('yes', 'no', 'no'), (), -1,
          'yes or no'),
         ('fly.wav_1', 'What is it?', {AUDIO: at('audio_files/fly.wav')},
          ('wings', 'bird', 'crow'), (), -1, 'a word'),
         ('sea.wav_0', 'Is it wet?', {AUDIO: at('audio_files/sea.wav')}, ('yes',) * 3, (), -1,
          'yes or no')],
        [('clotho_aqa_test.csv', 'crow,yes', ',yes', 7, 'answer: found an empty text'),
         ('clotho_aqa_test.csv', 'QuestionText', 'question', 1, 'expected QuestionText')]),
    'clotho-aqa unanimous': Case(
        {'clotho_aqa_test.csv': AQA},
        [('sea.wav_0', 'Is it wet?', {AUDIO: at('audio_files/sea.wav')}, ('yes',) * 3, (), -1,
          'yes or no')], options={'agreement': 'unanimous'}),
    'music-avqa': Case(
        {'avqa-test.json': MUSIC},
        [('8', 'How many instruments are sounding in the video?', both(
            'MUSIC-AVQA-videos-Real/00000238.mp4'), ('two',), (), -1, 'audio-visual counting'),
         ('9', 'Are there piano and ukulele instruments in the video?',
          {VIDEO: at('MUSIC-AVQA-videos-Synthetic/sa00007434.mp4'),
           AUDIO: at('audio/sa00007434.wav')}, ('no',), (), -1, 'visual counting'),
         ('10', 'Gone?', both('MUCIS-AVQA-videos-Synthetic/sa1.mp4'), ('no',), (), -1,
          'audio comparative')],
        [('avqa-test.json', '"[\\"piano\\", \\"ukulele\\"]"', '"[\\"piano\\"]"', 3,
          'templ_values: found 1, expected 2 for <Object>, <Object>'),
         ('avqa-test.json', '"[]"', '"[piano"', 2, 'templ_values: found the text "[piano"'),
         ('avqa-test.json', '"anser": "two"', '"answer": "two"', 2, "expected 'anser'"),
         ('avqa-test.json', '"question_id": 9', '"question_id": 8', 3, 'again, first in line 2')],
        there=('MUSIC-AVQA-videos-Real/00000238.mp4',
               'MUSIC-AVQA-videos-Synthetic/sa00007434.mp4', 'audio/sa00007434.wav',
               'MUCIS-AVQA-videos-Synthetic/sa1.mp4')),
    'valor-32k': Case(
        {'desc_test.json': VALOR},
        [('x-2A_30.000_40.000', '', both('videos/x-2A.mp4', (30.0, 40.0)), ('A dog barks.',),
          (), -1, ''),
         ('y_0.000_10.000', '', both('videos/y_0.000_10.000.mp4'), ('One.', 'Two.'), (), -1, '')],
        [('desc_test.json', '"desc": "A dog barks."', '"caption": "A dog barks."', 2, "'desc'"),
         ('desc_test.json', '["One.", "Two."]', '["One.", 2]', 3, 'desc[1]: found')],
        there=('videos/x-2A.mp4',)),
    'avsd': Case(
        {'test_set4DSTC7-AVSD.json': AVSD, 'test_set4DSTC7-AVSD_multiref.json': AVSD_ANSWERS},
        [('A5JTC', 'Q: is there a man?\nA: yes, one\nQ: what does he do?', both(
            'videos/A5JTC.mp4'), ('he walks', 'he is walking'), (), -1, ''),
         ('B6KUD', 'is it night?', both('videos/B6KUD.mp4'), ('no it is day',), (), -1, '')],
        [('test_set4DSTC7-AVSD.json', 'B6KUD', 'C7', 3, "found 'B6KUD_0' as dialog 2"),
         ('test_set4DSTC7-AVSD.json', '"question": "is it', '"ask": "is it', 3, "'question'"),
         ('test_set4DSTC7-AVSD.json', 'dialogs', 'rows', 1, "'dialogs'"),
         ('test_set4DSTC7-AVSD_multiref.json', '"id": 2}\n', '"id": 3}\n', 9, "found '2'")]),
    'avsd question': Case(
        {'test_set4DSTC7-AVSD.json': AVSD, 'test_set4DSTC7-AVSD_multiref.json': AVSD_ANSWERS},
        [('A5JTC', 'what does he do?', both('videos/A5JTC.mp4'), ('he walks', 'he is walking'),
          (), -1, ''),
         ('B6KUD', 'is it night?', both('videos/B6KUD.mp4'), ('no it is day',), (), -1, '')],
        options={'context': 'question'}),
    'avsd coco': Case(
        {'test_set4DSTC7-AVSD_cococap.json': coco(
            {'id': 5, 'file_name': 'A5JTC.mp4', 'question': 'Where?'}, captions={5: ['Here.']})},
        [('5', 'Where?', both('videos/A5JTC.mp4'), ('Here.',), (), -1, '')],
        [('test_set4DSTC7-AVSD_cococap.json', '"question"', '"query"', 2, "expected 'question'")]),
    'objaverse-caption': Case(
        {'PointLLM_brief_description_val_200_GT.json': POINTS},
        [('00f5', '', {POINT: at('8192_npy/00f5_8192.npy')}, ('A red chair.',), (), -1, ''),
         ('11aa', '', {POINT: at('objaverse_data/11aa_8192.npy')}, ('A ship.',), (), -1, '')],
        [('PointLLM_brief_description_val_200_GT.json', '"gpt", "value": "A s', '"me", "value": "',
          3, 'found no turn of gpt'),
         ('PointLLM_brief_description_val_200_GT.json', '11aa', '00f5', 3, 'again')],
        there=('8192_npy/00f5_8192.npy',)),
    'objaverse-class authors': Case(
        {'pointllm_test.json': '{"00f5": "A chair.",\n "11aa": "A ship."}'},
        [('00f5', '', {POINT: at('objaverse_data/00f5_8192.npy')}, ('A chair.',), (), -1, ''),
         ('11aa', '', {POINT: at('objaverse_data/11aa_8192.npy')}, ('A ship.',), (), -1, '')],
        [('pointllm_test.json', '"A ship."', '["A ship."]', 2, 'expected a description')]),
    'nyuv2-depth': Case(
        NYU, scenes(DEPTH, [(key, depth(path, rgb, NYU_INTRINSICS), scene)
                            for key, path, rgb, scene in NYU_ITEMS], NYU_CLASSES),
        [('test/scene_class/0007.txt', 'furniture_store', 'moon', 1, "found the scene 'moon'"),
         ('test.txt', '0007', '0000', 2, 'again, first in line 1'),
         ('test/scene_class/0000.txt', 'living_room', '', 1, 'found nothing')]),
    'nyuv2-normal': Case(
        NYU, scenes(NORMAL, [('0000', at('test/normal/0000.png', colour='test/rgb/0000.png'),
                              'living room'),
                             ('0007', depth('test/depth/0007.png', 'test/rgb/0007.png',
                                            NYU_INTRINSICS), 'others')], NYU_CLASSES),
        there=('test/normal/0000.png',)),
    'nyuv2-normal own': Case(
        {'test.json': OWN}, scenes(NORMAL, [
            ('a.jpg', depth('d.png', 'a.jpg', (500.0, 501.0, 320.0, 240.0)), 'living room'),
            ('b.jpg', at('n.png', colour='b.jpg'), 'others')], NYU_CLASSES),
        [('test.json', '[500, 501, 320, 240]}', '[500, 0, 320, 240]}', 2, 'expected fx, fy'),
         ('test.json', '"cafe"', '"moon"', 3, "found the scene 'moon'")]),
    'sunrgbd-depth': Case(
        SUN, scenes(DEPTH, [(PLACE[8:], depth(f'{PLACE}/depth_bfx/a.png', f'{PLACE}/image/a.jpg',
                                              SUN_EYE, True), 'rest space')], SUN_CLASSES),
        [('test.txt', '2/', '3/', 2, 'found no folder'),
         (f'{PLACE}/intrinsics.txt', '518.8', 'x', 1, 'expected a camera'),
         (f'{PLACE}/intrinsics.txt', '518.8', '-518.8', 1, 'expected a camera')],
        there=SUN_THERE),
    'ego4d-imu': Case(
        {'imu_2000_cococap.json': IMU_WINDOWS},
        [('7', '', {IMU: at('processed_imu/uid-1.npy', (12.0, 14.0))}, ('walks',), (), -1, '')],
        [('imu_2000_cococap.json', '14.0', '12', 2, 'the first below the second'),
         ('imu_2000_cococap.json', '"uid-1"', '""', 2, 'video_uid: found an empty text')]),
    'nsd-fmri': Case(
        {'fmri_eval_cococap.json': coco({'id': 2, 'file_name': '/data/test/s0.npy'},
                                        captions={2: ['a cat']})},
        [('2', '', {FMRI: at('fmri/s0.npy')}, ('a cat',), (), -1, '')],
        [('fmri_eval_cococap.json', '"file_name"', '"name"', 2, 'found no file_name')],
        there=('fmri/s0.npy',)),
}


def laid(case: Case, root: Path) -> Path:
    """Write the files of a case."""
    for name, text in {**dict.fromkeys(case.there, ''), **case.files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding='utf-8')
    return root


def read(name: str, case: Case, root: Path, **options: Any) -> list[Item]:
    """Return the items that a case's files hold."""
    task = find_task(name.split()[0])
    return list(task.read(root, case.split or task.splits[0],
                          **{**task.options, **case.options, **options}))
