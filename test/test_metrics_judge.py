"""The judge: prompts, replies, retries and recorded answers, against an endpoint here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import json
import math
from pathlib import Path
import threading
from typing import Any

import pytest

from onellm_ros.evaluation.item import Item, Prediction
from onellm_ros.evaluation.metrics import endpoint, metric
from onellm_ros.evaluation.metrics.endpoint import recorded_model
from onellm_ros.evaluation.metrics.judge import mmvet_prompt, read_grade, read_verdict
from onellm_ros.evaluation.runs import Run
from onellm_ros.evaluation.scoring import write_scores
from onellm_ros.evaluation.task import Score, Tools
from onellm_ros.evaluation.tasks import find_task

Answer = tuple[int, dict[str, str], bytes]


def said(text: object) -> Answer:
    return 200, {}, json.dumps({'choices': [{'message': {'content': text}}]}).encode()


class Server:
    """An endpoint that answers by a function, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.answer: Callable[[int, dict[str, Any]], Answer] = lambda number, body: said('1.0')
        lock, outer = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
                with lock:
                    outer.asked.append({'path': self.path, **body})
                    outer.keys.append(self.headers.get('Authorization'))
                    code, headers, data = outer.answer(len(outer.asked), body)
                self.send_response(code)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header('Content-Length', str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        self.url = f'http://127.0.0.1:{self.http.server_port}/v1'
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,))
        self.thread.start()

    def tools(self, cache: Path | None = None) -> Tools:
        return Tools(judge=self.url, judge_model='grader', judge_key='secret', judge_cache=cache)

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join(10)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ('http_proxy', 'HTTP_PROXY', 'all_proxy', 'ALL_PROXY'):
        monkeypatch.delenv(name, raising=False)
    found = Server()
    yield found
    found.close()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    found: list[float] = []
    monkeypatch.setattr(endpoint, '_sleep', found.append)
    return found


ITEMS = [Item('v1', 'What is x?', answers=('-1<AND>-5',), group='ocr,math'),
         Item('v2', 'Who is it?', answers=('Ada<OR>Ada Lovelace',), group='rec'),
         Item('v3', 'How many?', answers=('2',), group='ocr')]


def judged(tools: Tools, texts: tuple[str, ...] = ('x = -1', 'Ada', ''),
           name: str = 'judge_mmvet') -> Score:
    return metric(name)(ITEMS, [Prediction(item.id, text) for item, text in zip(ITEMS, texts)],
                        tools)


def question(body: dict[str, Any]) -> str:
    return str(body['messages'][0]['content']).splitlines()[-1]


def test_grades_by_mmvets_prompt(server: Server, waits: list[float]) -> None:
    server.answer = lambda number, body: said(
        '0.5' if 'What is x?' in question(body) else ' 1.0\n')
    found = judged(server.tools())
    assert found.items == (50, 100, 0) and found.value == 50
    assert found.parts == {'ocr': 25, 'math': 50, 'rec': 100}
    assert sorted(question(body) for body in server.asked) == [     # the empty reply was not asked
        'What is x? | -1 <AND> -5 | x = -1 | ', 'Who is it? | Ada <OR> Ada Lovelace | Ada | ']
    assert server.asked[0]['path'] == '/v1/chat/completions'
    assert server.asked[0]['model'] == 'grader' and server.asked[0]['temperature'] == 0
    assert set(server.keys) == {'Bearer secret'} and not waits


def test_a_second_run_asks_nothing(server: Server, tmp_path: Path) -> None:
    record = tmp_path / 'new' / 'judge.jsonl'
    server.answer = lambda number, body: said('0.3')
    first = judged(server.tools(record))
    asked = len(server.asked)
    server.answer = lambda number, body: said('0.9')
    assert judged(server.tools(record)) == first and len(server.asked) == asked == 2
    rows = [json.loads(line) for line in record.read_text(encoding='utf-8').splitlines()]
    assert {row['reply'] for row in rows} == {'0.3'} and len(rows) == 2
    assert all(row['prompt'].startswith('Compare the ground truth') for row in rows)
    assert 'secret' not in record.read_text(encoding='utf-8')
    judged(server.tools(record), ('x = -5', 'Ada', ''))     # another reply is another question
    assert len(server.asked) == asked + 1


def test_recorded_replies_count_without_the_judge(server: Server, tmp_path: Path) -> None:
    record = tmp_path / 'judge.jsonl'
    server.answer = lambda number, body: said('0.3')
    first = judged(server.tools(record))
    asked = len(server.asked)
    assert judged(Tools(judge_cache=record)) == first and len(server.asked) == asked
    found = judged(Tools(judge_cache=record), ('x = -5', 'Ada', ''))
    assert found.value is None and f'no judge is named, and {record} holds no rep' in found.why
    record.write_bytes(record.read_bytes()[:-20])
    assert recorded_model(record) == 'grader'
    assert judged(Tools(judge_cache=record)).value is None


def test_a_result_names_the_judge(server: Server, tmp_path: Path) -> None:
    predictions = tuple(Prediction(item.id, 'Ada') for item in ITEMS)
    about = dict.fromkeys(('model', 'items', 'prompt', 'decoding', 'batch', 'versions'))
    run = Run(tmp_path, {**about, 'task': {'name': 'mmvet'}}, find_task('mmvet'), tuple(ITEMS),
              predictions, None)
    assert write_scores(run, Tools())['judge'] is None
    for tools in (server.tools(), Tools()):
        result = write_scores(run, tools)
        assert result['judge'] == 'grader' and result['scores']['judge_mmvet']['value'] == 100


def test_a_record_that_a_kill_cut_off_goes_on(server: Server, tmp_path: Path) -> None:
    record = tmp_path / 'judge.jsonl'
    judged(server.tools(record))
    whole = record.read_bytes()
    record.write_bytes(whole[:-20])
    judged(server.tools(record))
    assert len(server.asked) == 3
    assert sorted(record.read_bytes().splitlines()) == sorted(whole.splitlines())
    record.write_bytes(b'{"key": 3}\n' + whole)
    found = judged(server.tools(record))
    assert found.value is None and f'{record}, line 1' in found.why


def test_asks_again_when_a_state_may_pass(server: Server, waits: list[float]) -> None:
    answers: list[Answer] = [
        (429, {'Retry-After': '7'}, b'slow down'), (503, {}, b''), (200, {}, b'<html>'),
        (200, {}, b'{"choices": []}'), said('0.4')]
    server.answer = lambda number, body: answers[number - 1]
    assert judged(server.tools(), ('x = -1', '', '')).items == (40, 0, 0)
    assert waits == [7, 2, 4, 8]


def test_gives_up_with_what_the_server_said(server: Server, waits: list[float]) -> None:
    server.answer = lambda number, body: (500, {}, b'out of memory')
    found = judged(server.tools(), ('x = -1', '', ''))
    assert found.value is None and 'out of memory' in found.why and server.url in found.why
    assert len(server.asked) == endpoint.ATTEMPTS and len(waits) == endpoint.ATTEMPTS - 1


def test_a_refusal_is_not_asked_again(server: Server, waits: list[float]) -> None:
    server.answer = lambda number, body: (401, {}, b'bad key')
    found = judged(server.tools(), ('x = -1', '', ''))
    assert found.value is None and 'HTTP 401: bad key' in found.why
    assert len(server.asked) == 1 and not waits and 'secret' not in found.why


def test_no_server_is_told(waits: list[float], server: Server) -> None:
    url = server.url
    server.http.server_close()
    found = judged(Tools(judge=url, judge_model='grader'), ('x = -1', '', ''))
    assert found.value is None and 'no answer' in found.why and url in found.why


def test_replies_not_understood_are_counted_and_named(
        server: Server, waits: list[float], tmp_path: Path) -> None:
    server.answer = lambda number, body: said(
        '0.6' if 'What is x?' in question(body) else 'It is fine, 8/10')
    record = tmp_path / 'judge.jsonl'
    found = judged(server.tools(record), ('x = -1', 'Ada', '2'))
    assert found.value is None and not found.items
    assert '2 of 3' in found.why and "v2: 'It is fine, 8/10'" in found.why and 'v3' in found.why
    assert found.parts == {'not understood': 2, 'of the understood': 60}
    # Each was asked anew at higher temperatures, and none of it a second time.
    assert sorted(body['temperature'] for body in server.asked) == [
        0, 0, 0, 0.5, 0.5, 1, 1, 1.5, 1.5]
    asked = len(server.asked)
    assert judged(server.tools(record), ('x = -1', 'Ada', '2')) == found
    assert len(server.asked) == asked


def test_a_later_reply_that_is_understood_counts(server: Server) -> None:
    server.answer = lambda number, body: said('0.7' if body['temperature'] >= 1 else None)
    assert judged(server.tools(), ('x = -1', '', '')).items == (70, 0, 0)
    assert [body['temperature'] for body in server.asked] == [0, 0.5, 1]


def test_objects_by_pointllms_prompt(server: Server) -> None:
    items = [Item(str(index), answers=(f'A {name}.',)) for index, name in
             enumerate(('wooden {chair}', 'red car', 'tree'))]
    server.answer = lambda number, body: said(
        'T#Both chairs.' if 'chair' in question_of(body) else 'F')
    found = metric('judge_class')(
        items, [Prediction(str(index), text) for index, text in
                enumerate(('a chair', 'a {plane}', 'T'))], server.tools())
    assert found.items == (100, 0, 0)
    assert sorted(map(question_of, server.asked)) == [
        'Input: 1. A red car. 2. a {plane}', 'Input: 1. A tree. 2. T',
        'Input: 1. A wooden {chair}. 2. a chair']


def question_of(body: dict[str, Any]) -> str:
    return str(body['messages'][0]['content']).splitlines()[-2]


def test_without_an_endpoint_it_says_so() -> None:
    for name in ('judge_mmvet', 'judge_class'):
        for tools in (Tools(), Tools(judge='http://x/v1')):
            found = judged(tools, name=name)
            assert found.value is None and 'OpenAI-compatible' in found.why


@pytest.mark.parametrize(('text', 'grade'), [
    ('0.5', 0.5), (' 1.0\n', 1), ('1', 1), ('0', 0), ('.5', 0.5), ('0.9 because', 0.9),
    ('0.5.', 0.5), ('1.0 | ', 1), ('0.35', 0.35)])
def test_grades_that_are_understood(text: str, grade: float) -> None:
    assert read_grade(text) == grade


@pytest.mark.parametrize('text', [
    '', '10', '1.5', '2.0', '-0.5', '8/10', 'half', 'nan', 'The score is 0.5', '0,5', '1.0/1.0',
    '0.5-0.7'])
def test_grades_that_are_not(text: str) -> None:
    assert math.isnan(read_grade(text))


@pytest.mark.parametrize(('text', 'verdict'), [
    ('T', 1), ('T#Both are chairs.', 1), ('F#No.', 0), (' F', 0), ('T: same', 1), ("'F'", 0)])
def test_verdicts_that_are_understood(text: str, verdict: float) -> None:
    assert read_verdict(text) == verdict


@pytest.mark.parametrize('text', ['', 'True', 'The two differ', 'False', 'Fine', 'no', 't'])
def test_verdicts_that_are_not(text: str) -> None:
    assert math.isnan(read_verdict(text))


def test_mmvets_prompt_ends_with_the_row_to_fill() -> None:
    prompt = mmvet_prompt('Q?', 'a<AND>b', 'c')
    assert prompt.endswith('| 1.0\n\nQ? | a <AND> b | c | ')
    assert prompt.count('\nWhat is x in the equation? | -1 <AND> -5 |') == 5
