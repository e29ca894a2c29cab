"""Memory before and after a model, the clock of deadlines, and the node's lives with a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
import gc
import json
from pathlib import Path
import re
import signal
import struct
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from onellm_ros import machine
from onellm_ros.config import NANO, to_mapping
from onellm_ros.modality import Modality
from onellm_ros.node_config import NodeConfig, WindowConfig
from onellm_ros.perception import memory
from onellm_ros.perception.pausing import PausingClock
from onellm_ros.perception.results import model_text

rclpy = pytest.importorskip('rclpy')
pytest.importorskip('onellm_msgs.msg')
torch = pytest.importorskip('torch')

from diagnostic_msgs.msg import DiagnosticStatus  # noqa: E402
from golden.tiny import tiny  # noqa: E402
from lifecycle_msgs.msg import Transition  # noqa: E402
from onellm_msgs.srv import Ask  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from std_msgs.msg import Header  # noqa: E402
from test_checkpoint import CONFIG  # noqa: E402
from test_perception_node import BASE_S, Bench, FakeEngine, benches, stamp  # noqa: E402, F401

from onellm_ros.inference.locate import EngineError, find_model  # noqa: E402
from onellm_ros.model.checkpoint import load_model, save_model  # noqa: E402
from onellm_ros.model.onellm import OneLLM  # noqa: E402
from onellm_ros.model.released import released_state  # noqa: E402

S = 1_000_000_000
MIB = 1 << 20
Make = Callable[..., Bench]


# -- the clock of deadlines -------------------------------------------------------------------


class Times:
    sim: int | None = None
    wall = 1000 * S


def pausing() -> tuple[Times, PausingClock]:
    times = Times()
    return times, PausingClock(lambda: times.sim, lambda: times.wall)


def test_without_simulated_time_deadlines_are_on_the_wall_clock() -> None:
    times, clock = pausing()
    begin = clock()
    times.wall += 3 * S
    assert clock() == begin + 3 * S and clock.paused_s == 0


def test_deadlines_stand_still_with_simulated_time_and_go_at_its_pace() -> None:
    times, clock = pausing()
    times.sim = 50 * S
    begin = clock()
    for _ in range(100):                        # an hour's pause
        times.wall += 36 * S
        assert clock() == begin
    assert clock.paused_s == 3600
    times.sim += S // 2                         # it goes on as if nothing had been
    assert clock() == begin + S // 2 and clock.paused_s == 0
    times.wall += S
    times.sim += 10 * S                         # ten times as fast
    assert clock() == begin + S // 2 + 10 * S


def test_deadlines_never_go_back_when_simulated_time_jumps() -> None:
    times, clock = pausing()
    times.sim = 5000 * S
    begin = clock()
    times.wall, times.sim = times.wall + S // 10, 3 * S           # a bag that loops
    assert clock() == begin + S // 10
    times.wall, times.sim = times.wall + S // 10, 90_000 * S      # and one that leaps
    assert clock() == begin + S // 5
    times.wall, times.sim = times.wall + S // 10, times.sim + S // 10
    assert clock() == begin + 3 * S // 10
    times.wall, times.sim = times.wall + 2 * S, None              # simulated no longer
    assert clock() == begin + 23 * S // 10


# -- memory before anything is loaded ---------------------------------------------------------

SMALL = replace(NANO, encoder=replace(NANO.encoder, layers=1),
                llm=replace(NANO.llm, vocab_size=300, layers=2))


@pytest.mark.parametrize('stored', [torch.float16, torch.float32, torch.int8])
def test_the_weights_are_those_that_are_loaded(tmp_path: Path, stored: Any) -> None:
    torch.manual_seed(0)
    save_model(OneLLM(SMALL), tmp_path, stored)
    for kind in (torch.float32, torch.bfloat16):
        model = load_model(tmp_path, dtype=kind)
        need = memory.need_of(tmp_path, kind.itemsize, 7)
        assert need.weights == sum(v.numel() * v.element_size()
                                   for v in model.state_dict().values())
        assert need.windows == 7 * MIB and need.activations > 0
        cache = model.llm.new_cache(1, SMALL.llm.max_positions)
        full = (cache.keys.numel() + cache.values.numel()) * kind.itemsize
        slots = 2 * full if kind == torch.bfloat16 else 0       # a GPU's: see inference/graphs.py
        assert 2 * full + slots < need.cache < 3 * full + slots    # a description and an answer
        assert bool(need.loading) == (stored == torch.int8 and kind == torch.bfloat16)


def test_the_need_of_a_model_in_the_released_layout(tmp_path: Path) -> None:
    model = tiny()
    state = {n: v.half() for n, v in released_state(model, model.config).items()}
    unused = {'llma.clip.transformer.resblocks.0.mlp.c_fc.weight': torch.zeros(999, 9)}
    path = tmp_path / 'consolidated.00-of-01.pth'
    torch.save({**state, **unused}, path)
    (tmp_path / 'config.json').write_text(json.dumps(CONFIG))
    need = memory.need_of(tmp_path, 2, 1)
    assert need.weights == 2 * sum(v.numel() for v in model.state_dict().values())
    assert need.loading > 0
    torch.save(state, path, _use_new_zipfile_serialization=False)
    old = memory.need_of(tmp_path, 2, 1)
    assert need.weights <= old.weights < 2 * need.weights and old.cache == 0


@pytest.mark.parametrize('content', [
    b'', b'\x05', (10**12).to_bytes(8, 'little'), (4).to_bytes(8, 'little') + b'null',
    (2).to_bytes(8, 'little') + b'[]', (9).to_bytes(8, 'little') + b'{"a":"b"}'])
def test_a_damaged_header_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / 'model.safetensors').write_bytes(content)
    with pytest.raises(EngineError, match='model.safetensors: not readable as safetensors'):
        memory.check_memory(NodeConfig(model=str(tmp_path), device='cpu'))


def huge(folder: Path) -> int:
    """Write a model of a terabyte that takes no room on the disk; return its float32 bytes."""
    config = replace(NANO, name='huge', llm=replace(NANO.llm, vocab_size=10**9))
    with torch.device('meta'):
        shapes = {n: list(v.shape) for n, v in OneLLM(config).state_dict().items()}
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 2 * int(torch.Size(shape).numel())
        header[name] = {'dtype': 'F16', 'shape': shape, 'data_offsets': [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with (folder / 'model.safetensors').open('wb') as stream:
        stream.write(struct.pack('<Q', len(text)) + text)
        stream.truncate(8 + len(text) + end)
    (folder / 'config.json').write_text(json.dumps(to_mapping(config)))
    return 2 * end


def test_a_model_that_does_not_fit_is_not_loaded(tmp_path: Path, benches: Make) -> None:  # noqa: F811, E501
    weights = huge(tmp_path)
    before = machine.rss_bytes() or 0
    bench = benches(model=str(tmp_path), device='cpu')
    bench.node._loader = None                   # that of every user
    assert not bench.change(Transition.TRANSITION_CONFIGURE)
    assert (machine.rss_bytes() or 0) - before < 200 * MIB
    with pytest.raises(memory.BudgetError) as error:
        memory.check_memory(NodeConfig(model=str(tmp_path), device='cpu'))
    text = str(error.value)
    assert f'(weights {memory.megabytes(weights)}, cache ' in text and 'windows 256)' in text
    assert 'MB free on cpu; nothing was loaded. Choose a smaller model' in text
    assert bench.node._state_machine.current_state[1] == 'unconfigured'
    assert bench.node.set_parameters([Parameter('model', value='none')])[0].successful
    with pytest.raises(EngineError, match="'none' not found"):
        memory.check_memory(NodeConfig(model='none'))


def test_weights_that_cannot_be_quantized_leave_the_node_as_it_was(benches: Make) -> None:  # noqa: F811, E501
    bench = benches(device='cpu', quantize='fp8')
    bench.node._loader = None
    assert not bench.change(Transition.TRANSITION_CONFIGURE)
    assert bench.node._state_machine.current_state[1] == 'unconfigured'
    pytest.importorskip('torchao', reason='requirements/quantize.txt is not installed')
    assert bench.node.set_parameters([Parameter('quantize', value='int8')])[0].successful
    assert bench.change(Transition.TRANSITION_CONFIGURE)
    assert re.fullmatch('nano@[0-9a-f]{8}[+]int8', model_text(bench.node._engine))


def test_a_budget_is_kept(tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_model(OneLLM(SMALL), tmp_path)
    config = NodeConfig(model=str(tmp_path), device='cpu', window=WindowConfig(kept_mb=1))
    need, text = memory.check_memory(config).parts()
    least = int(memory.megabytes(need))
    memory.check_memory(replace(config, memory_mb=least))
    with pytest.raises(memory.BudgetError) as error:
        memory.check_memory(replace(config, memory_mb=least - 1))
    assert f'needs about {least} MB ({text}), memory_mb allows {least - 1} MB' in str(error.value)
    with pytest.raises(memory.BudgetError, match='windows 64,|windows 64[)]'):
        memory.check_memory(replace(config, memory_mb=least, window=WindowConfig(kept_mb=64)))


def test_a_gpu_and_the_memory_of_its_host_are_both_looked_at(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    save_model(OneLLM(SMALL), tmp_path)
    gpu = torch.device('cuda', 0)
    config = NodeConfig(model=str(tmp_path), device='cuda:0')
    monkeypatch.setattr('onellm_ros.inference.locate.find_device', lambda name: gpu)
    free = {'gpu': 1000 * MIB, 'host': 1000 * MIB}
    monkeypatch.setattr(torch.cuda, 'mem_get_info', lambda device: (free['gpu'], 0))
    monkeypatch.setattr(memory, 'host_free', lambda: free['host'])
    need = memory.check_memory(config)
    assert need == memory.need_of(tmp_path, 2, 256)             # bfloat16
    free['gpu'] = need.weights + need.cache
    with pytest.raises(memory.BudgetError, match='MB free on cuda:0; nothing was loaded'):
        memory.check_memory(config)
    free.update(gpu=1000 * MIB, host=need.weights)
    with pytest.raises(memory.BudgetError, match='while it is read: weights .* on the host'):
        memory.check_memory(config)
    with pytest.raises(memory.BudgetError, match='memory_mb allows 1 MB on cuda:0'):
        memory.check_memory(replace(config, memory_mb=1))


def test_what_is_free_is_the_least_of_machine_and_control_groups(tmp_path: Path) -> None:
    proc, groups = tmp_path / 'proc', tmp_path / 'cgroup'
    (proc / 'self').mkdir(parents=True)
    assert machine.host_free(proc, groups) is None
    (proc / 'meminfo').write_text('MemTotal: 9000 kB\nMemAvailable:    8000 kB\n')
    assert machine.host_free(proc, groups) == 8000 << 10
    inner = groups / 'a/b'
    inner.mkdir(parents=True)

    def limit(folder: Path, most: str, now: int, cached: int, names: tuple[str, str]) -> None:
        for name, value in zip(names, (most, now)):
            (folder / name).write_text(f'{value}\n')
        (folder / 'memory.stat').write_text(f'anon 1\ninactive_file {cached}\n')
    v2, v1 = ('memory.max', 'memory.current'), ('memory.limit_in_bytes', 'memory.usage_in_bytes')
    limit(inner, 'max', 500, 0, v2)
    limit(groups / 'a', '5000000', 3000000, 1000000, v2)        # the limit is above this process
    (proc / 'self/cgroup').write_text('0::/a/b\n')
    assert machine.host_free(proc, groups) == 3000000
    (groups / 'memory/x').mkdir(parents=True)
    limit(groups / 'memory/x', '2000000', 1500000, 0, v1)
    (proc / 'self/cgroup').write_text('4:memory:/x\n2:cpu:/y\n')
    assert machine.host_free(proc, groups) == 500000
    (proc / 'meminfo').write_text('MemAvailable: 100 kB\n')
    assert machine.host_free(proc, groups) == 100 << 10


CYCLES = """
import json, time
import numpy as np, rclpy
from onellm_ros.choose import Selection
from onellm_ros.modality import Modality, Sample
from onellm_ros.machine import rss_bytes
from onellm_ros.ros.perception_node import PerceptionNode
from rclpy.parameter import Parameter
rclpy.init()
node = PerceptionNode(parameter_overrides=[Parameter('describe.max_tokens', value=8)])
rng = np.random.default_rng(0)
rows = []
for _ in range(10):
    row = [rss_bytes()]
    assert node.trigger_configure().name == node.trigger_activate().name == 'SUCCESS'
    picture = rng.integers(0, 255, (480, 640, 3), dtype=np.uint8)
    node._worker.submit(Selection(0, 1, 0, {Modality.IMAGE: (Sample(1, picture),)}))
    while not (node._worker.stats.described or node._worker.stats.failed):
        time.sleep(0.01)
    assert not node._worker.stats.failed, node._worker.stats.failure
    row.append(rss_bytes())
    assert node.trigger_deactivate().name == node.trigger_cleanup().name == 'SUCCESS'
    rows.append([*row, rss_bytes()])
print(json.dumps(rows))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path('/proc/self/statm').exists(), reason='no /proc')
def test_ten_lives_with_a_model_leave_no_memory_behind(
        root: Path, ros_env: dict[str, str]) -> None:
    find_model('nano')
    done = subprocess.run([sys.executable, '-c', CYCLES], cwd=root, env=ros_env, check=False,
                          capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    for before, used, after in rows[1:]:        # the first one also loads the libraries
        assert used - before > 30 * MIB         # the model is there, and then it is not
        assert abs(after - before) < 0.05 * before, rows
    assert rows[-1][2] < 1.05 * rows[1][2], rows


# -- the node ---------------------------------------------------------------------------------

def model_status(bench: Bench) -> Any:
    return next(s for s in bench.diagnostics[-1].status if s.name == 'perception: model')


def values(status: Any) -> dict[str, str]:
    return {v.key: v.value for v in status.values}


def test_a_heartbeat_in_every_state(benches: Make) -> None:  # noqa: F811
    bench = benches(heartbeat_hz=50.0)
    heard: list[Header] = []
    bench.robot.create_subscription(Header, '/perception/heartbeat', heard.append, 100)
    steps = [(None, 'unconfigured'), (Transition.TRANSITION_CONFIGURE, 'inactive'),
             (Transition.TRANSITION_ACTIVATE, 'active'),
             (Transition.TRANSITION_DEACTIVATE, 'inactive'),
             (Transition.TRANSITION_CLEANUP, 'unconfigured'),
             (Transition.TRANSITION_UNCONFIGURED_SHUTDOWN, 'finalized')]
    for step, state in steps:
        if step is not None:
            assert bench.change(step)
        heard.clear()
        bench.until(lambda: [h for h in heard if h.frame_id == state])  # noqa: B023
        now_s = time.time()
        assert abs(heard[-1].stamp.sec - now_s) < 5
    assert bench.node.set_parameters([Parameter('heartbeat_hz', value=0.0)])[0].successful
    time.sleep(0.1)
    heard.clear()
    time.sleep(0.1)
    assert not heard


def test_a_destroyed_node_is_gone_for_others_at_once(benches: Make) -> None:  # noqa: F811
    other = benches()
    bench = benches()
    other.until(lambda: other.robot.get_node_names().count('perception') == 2)
    gc.disable()                                # its services stay until then, if rclpy is let
    try:
        bench.close()
        other.until(lambda: other.robot.get_node_names().count('perception') == 1, 10.0)
    finally:
        gc.enable()


def test_the_engine_in_the_diagnostics(benches: Make) -> None:  # noqa: F811
    bench = benches(stall_s=0.2)
    bench.activate()
    bench.drive(0.6)
    bench.until(lambda: bench.descriptions)
    bench.ask('What?', conversation='a')
    bench.diagnostics.clear()
    bench.until(lambda: bench.diagnostics)
    status = model_status(bench)
    found = values(status)
    assert status.level == DiagnosticStatus.OK and found['computing'] == 'nothing'
    assert int(found['windows_kept']) >= 1 and float(found['windows_kept_mb']) > 0
    assert float(found['windows_kept_to']) >= float(found['windows_kept_from']) > BASE_S
    assert 50 < float(found['memory_mb']) < 100_000 and found['conversations'] == '1'
    assert 0 <= float(found['description_age_s']) < 20 and found['answered'] == '1'
    assert found['last_error'] == '' and float(found['encode_s']) >= 0
    gate, encode = threading.Event(), bench.engine.encode
    bench.engine.encode = lambda tensors: (gate.wait(30), encode(tensors))[1]
    bench.drive(0.4, BASE_S + 2)
    bench.until(lambda: model_status(bench).level == DiagnosticStatus.WARN)
    bench.until(lambda: model_status(bench).level == DiagnosticStatus.ERROR)
    assert model_status(bench).message.startswith('describing: no token for')
    gate.set()
    bench.until(lambda: model_status(bench).level == DiagnosticStatus.OK)


def test_what_can_change_while_the_node_runs_and_what_not(benches: Make) -> None:  # noqa: F811
    bench = benches(modalities=['image', 'imu'])

    def change(name: str, value: Any) -> Any:
        return bench.node.set_parameters([Parameter(name, value=value)])[0]
    bench.activate()
    for name in ('window.length_s', 'window.kept_mb', 'model', 'quantize', 'threads', 'memory_mb'):
        value = {'model': 'other', 'quantize': 'int8'}.get(name, 3.0 if name.endswith('_s') else 3)
        refused = change(name, value)
        assert not refused.successful and f'{name} is fixed while' in refused.reason
        why = 'windows' if name == 'window.length_s' else 'the model was loaded'
        assert f', since {why}' in refused.reason.replace('since open', 'since')
    for name, value in (('describe.rate_hz', 2.0), ('describe.min_interval_s', 0.0),
                        ('describe.temperature', 0.5), ('describe.max_tokens', 5),
                        ('ask.turns', 1), ('describe.preempt', False), ('stall_s', 3.0)):
        assert change(name, value).successful, name
    assert bench.node._worker.describe.rate_hz == 2.0 and bench.node._worker.asking.turns == 1
    for name, value in (('describe.rate_hz', -1.0), ('describe.min_interval_s', 1e9),
                        ('ask.conversation_s', 0.0), ('heartbeat_hz', 1e6)):
        assert not change(name, value).successful, name
    bench.drive(0.6)
    bench.until(lambda: bench.descriptions)
    assert [m.modality for m in bench.descriptions[-1].modalities] == ['image', 'imu']
    assert change('modalities', ['imu']).successful
    bench.drive(0.6, BASE_S + 1)
    bench.until(lambda: [m.modality for m in bench.descriptions[-1].modalities] == ['imu'])
    missing = bench.ask('What?', modalities=['image'])
    assert missing.error_code == Ask.Response.MODALITY_MISSING
    assert change('modalities', ['image']).successful      # back to what was configured
    for more in (['depth', 'imu'], [], ['fmri']):
        refused = change('modalities', more)
        assert not refused.successful and refused.reason, more
    assert 'found depth' in change('modalities', ['depth', 'imu']).reason
    for step in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_ACTIVATE):
        assert bench.change(step)
    assert bench.node._worker.modalities == {Modality.IMAGE}


CLIENT = """
import sys, rclpy
from onellm_msgs.action import AskStream
from onellm_msgs.srv import Ask
from rclpy.action import ActionClient
rclpy.init()
node = rclpy.create_node('mortal')
if sys.argv[1] == 'service':
    client = node.create_client(Ask, '/perception/ask')
    assert client.wait_for_service(20)
    client.call_async(Ask.Request(question='Forever?'))
else:
    client = ActionClient(node, AskStream, '/perception/ask_stream')
    assert client.wait_for_server(20)
    client.send_goal_async(AskStream.Goal(question='Forever?'))
while True:
    rclpy.spin_once(node)
"""


@pytest.fixture
def clients(ros_env: dict[str, str]) -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    made: list[subprocess.Popen[bytes]] = []

    def start(kind: str) -> subprocess.Popen[bytes]:
        made.append(subprocess.Popen([sys.executable, '-c', CLIENT, kind], env=ros_env))
        return made[-1]
    yield start
    for process in made:
        process.kill()
        process.wait(10)


@pytest.mark.parametrize('kind', ['service', 'action'])
def test_a_client_that_dies_blocks_nobody(
        kind: str, benches: Make,  # noqa: F811
        clients: Callable[[str], subprocess.Popen[bytes]]) -> None:
    engine = FakeEngine()
    bench = benches(engine)
    bench.activate()
    bench.drive(0.4)
    bench.until(lambda: bench.windows and bench.descriptions)
    engine.delay_s = 1.0 if kind == 'service' else 0.02     # of the stream: for each word
    process = clients(kind)
    bench.until(lambda: bench.node._worker._running.answering is not None)
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    answered = bench.ask('And I?')
    assert answered.success and answered.queue_s > 0.05, answered
    assert bench.ask('Still there?').success
    bench.until(lambda: bench.node._worker.report().answered == 3)


def test_a_dialogue_over_the_service(benches: Make) -> None:  # noqa: F811
    class Recalling(FakeEngine):
        def ask(self, prefix: Any, question: str, *, history: Any = (), **options: Any) -> Any:
            answer = super().ask(prefix, question, **options)
            answer.text = ' '.join([*(a for _, a in history), question])
            return answer
    bench = benches(Recalling())
    bench.activate()
    bench.drive(0.4)
    bench.until(lambda: bench.windows)
    said = [bench.ask(q, conversation=c).answer for q, c in (
        ('a', 'x'), ('b', 'x'), ('c', ''), ('d', 'y'), ('e', 'x'))]
    assert said == ['a', 'a b', 'c', 'd', 'a a b e']
    assert bench.ask('f', conversation='z' * 300).error_code == Ask.Response.INVALID_OPTION
    unknown = bench.ask('g', sources=['roof'])
    assert unknown.error_code == Ask.Response.INVALID_SOURCE and 'image' in unknown.error_msg
    assert bench.ask('h', sources=['imu']).modalities[0].modality == 'imu'
    assert bench.ask('i', sources=['depth']).error_code == Ask.Response.MODALITY_MISSING
    for step in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_ACTIVATE):
        assert bench.change(step)
    bench.drive(0.4, BASE_S + 5)
    bench.until(lambda: len(bench.node._worker._ring))
    assert bench.ask('j', conversation='x', at=stamp(BASE_S + 9)).answer == 'j'
