"""Quantized weights: what they compute, what they take, and what is said where they cannot be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
import shutil
import sys
from typing import Any

import pytest
import torch

from onellm_ros.bench.models import SIZES, check, count, random_engine
from onellm_ros.config import NANO, ConfigError
from onellm_ros.export.layout import MANIFEST
from onellm_ros.inference import quantize
from onellm_ros.inference.engine import Engine
from onellm_ros.inference.locate import EngineError, find_model
from onellm_ros.inference.weights import weights_of
from onellm_ros.model.checkpoint import save_model
from onellm_ros.model.llm import Llama
from onellm_ros.model.onellm import OneLLM
from onellm_ros.node_config import NodeConfig
from onellm_ros.perception import memory
from onellm_ros.perception.results import model_text
from onellm_ros.perception.settings import config_of
from onellm_ros.simulation.world import World

CPU = torch.device('cpu')
GB = 10**9


def needs_torchao() -> Any:
    return pytest.importorskip('torchao', reason=f'torchao is missing: {quantize.INSTALL}')


@pytest.fixture(scope='module')
def engines() -> dict[str, Engine]:
    needs_torchao()
    return {kind: Engine.load('nano', 'cpu', quantize=kind) for kind in ('none', 'int8', 'int4')}


# -- what they compute ------------------------------------------------------------------------

@pytest.mark.parametrize(('rows', 'columns'), [(96, 64), (33, 32), (7, 40), (1030, 1024)])
@pytest.mark.parametrize('count', [1, 5, 40])
@pytest.mark.parametrize('bias', [False, True])
def test_rows_of_int8_multiply_as_the_values_that_they_stand_for(
        rows: int, columns: int, count: int, bias: bool) -> None:
    needs_torchao()
    from onellm_ros.inference.int8_rows import Int8Rows

    torch.manual_seed(0)
    layer = torch.nn.Linear(columns, rows, bias=bias).bfloat16().requires_grad_(False)
    whole = layer.weight.float()
    layer.weight = torch.nn.Parameter(Int8Rows.of(layer.weight, 1000), requires_grad=False)
    stands_for = layer.weight.qdata.float() * layer.weight.scale.float()
    step = whole.abs().amax(1, keepdim=True) / 127
    # Half a step, and what rounding the step itself to bfloat16 moves the largest value by.
    assert bool(((stands_for - whole).abs() <= step * (0.51 + 127 / 512)).all())
    x = torch.randn(2, count, columns).bfloat16()
    wanted = x.float() @ stands_for.t() + (layer.bias.float() if bias else 0)
    with torch.inference_mode():
        found = layer(x)
    assert found.shape == wanted.shape and found.dtype == torch.bfloat16
    assert float((found.float() - wanted).abs().max() / wanted.abs().max()) < 0.01
    ids = torch.tensor([[3, 0, rows - 1]])
    table = torch.nn.Embedding(rows, columns, _weight=whole.bfloat16()).requires_grad_(False)
    table.weight = layer.weight
    assert torch.allclose(table(ids).float(), stands_for[ids], rtol=0.01)


@pytest.mark.parametrize(('kind', 'most'), [('int8', 0.01), ('int4', 0.08)])
def test_a_quantized_model_says_nearly_what_it_said(engines: dict[str, Engine], kind: str,
                                                    most: float) -> None:
    exact, ours = engines['none'], engines[kind]
    assert exact.model is not None and ours.model is not None
    ids = torch.randint(4, 900, (1, 60), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        for length in (60, 6):              # many rows and few: two ways to multiply
            wanted = exact.model.llm(exact.model.llm.embed(ids[:, :length]))
            found = ours.model.llm(ours.model.llm.embed(ids[:, :length])).float()
            assert 0 < float((found - wanted).norm() / wanted.norm()) < most
    seen = World(4).sample()
    answers = {}
    for name in ('none', kind):
        engine = engines[name]
        prefix = engine.encode(engine.preprocessor.tensors(seen.chosen(), seen.stamp_ns))
        answers[name] = engine.ask(prefix, 'What is nearest?', choices=('a box', 'a person'))
        assert engine.describe(prefix).finish_reason == 'stop'
    assert answers['none'].choice_probabilities == pytest.approx(
        answers[kind].choice_probabilities, abs=0.05)


def test_the_plain_path_computes_them_and_the_model_says_so(engines: dict[str, Engine]) -> None:
    exact, ours = engines['none'], engines['int8']
    assert exact.model is not None and ours.model is not None
    assert weights_of(exact.model.llm) is not None and weights_of(ours.model.llm) is None
    assert ours.backend.name == 'torch' and ours.backend_why == 'language model in int8'
    assert ours.weights_hash == f'{exact.weights_hash}+int8'
    assert model_text(ours) == f'{model_text(exact)}+int8'
    whole = sum(p.nbytes for p in OneLLM(NANO).bfloat16().parameters())
    for kind in ('int8', 'int4'):
        model = engines[kind].model
        assert model is not None
        counted = whole - quantize.saved_bytes(OneLLM(NANO).llm, kind, True)
        assert quantize.model_bytes(model) == counted < whole


# -- what they take ---------------------------------------------------------------------------

@pytest.mark.parametrize('tied', [False, True])
def test_the_memory_is_counted_before_anything_is_loaded(
        tmp_path: Path, tied: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_torchao()
    monkeypatch.setattr(memory, '_activation_bytes', lambda *_: 0)  # of nano more than its weights
    torch.manual_seed(0)
    model = OneLLM(replace(NANO, llm=replace(NANO.llm, layers=1, tied_embeddings=tied)))
    save_model(model, tmp_path, torch.float16)
    shutil.copy(find_model('nano') / 'tokenizer.json', tmp_path)
    config = NodeConfig(model=str(tmp_path), device='cpu')
    for kind in ('int8', 'int4'):
        need = memory.check_memory(replace(config, quantize=kind))
        loaded = Engine.load(tmp_path, 'cpu', quantize=kind).model
        assert loaded is not None and need.weights == quantize.model_bytes(loaded)
        # All of it is read in half precision first.
        assert need.weights + need.loading > 2 * sum(p.numel() for p in model.parameters())
        for budget, said in (
                (1, f"'{tmp_path}' in {kind} needs about .* MB .weights "
                    f'{memory.megabytes(need.weights)}, '),
                (int(memory.megabytes(need.parts('weights', 'loading')[0])) - 1,
                 f'while it is read: weights {memory.megabytes(need.weights)}, loading '
                 f'{memory.megabytes(need.loading)}.*on the host')):
            tight = replace(config, quantize=kind, memory_mb=budget, window=replace(
                config.window, kept_mb=1))
            with pytest.raises(memory.BudgetError, match=said):
                memory.check_memory(tight)
    with pytest.raises(memory.BudgetError, match='With quantize int8 it would need [0-9]+ MB'):
        memory.check_memory(replace(config, memory_mb=1))


def test_sizes_with_random_weights_are_counted_and_refused() -> None:
    plain, less = count(SIZES['7b'], 2), count(SIZES['7b'], 2, 'int8')
    llm = 32 * (4 * 4096**2 + 3 * 4096 * 11008) + 32000 * 4096
    assert plain.weights - less.weights == llm - 2 * (32 * (5 * 4096 + 2 * 11008) + 32000)
    assert less.weights + less.making > plain.weights       # made whole, then quantized
    said = '7b takes about .* MB in int4 .* more while it is quantized., found 9537 MB free'
    with pytest.raises(memory.BudgetError, match=said):
        check('7b', SIZES['7b'], CPU, 2, free=10 * GB, quantize='int4')
    needs_torchao()
    sizes = replace(NANO, llm=replace(NANO.llm, layers=1))
    engine = random_engine(sizes, CPU, torch.bfloat16, quantize='int4')
    assert quantize.model_bytes(engine.model) == count(sizes, 2, 'int4').weights
    assert engine.describe(engine.encode({}), max_tokens=5).tokens == 5


# -- what cannot be ---------------------------------------------------------------------------

@pytest.mark.parametrize(('given', 'said'), [
    ({'quantize': 'int3'}, "expected one of none, int8, int4, fp8, found 'int3'"),
    ({'quantize': 'fp8'}, 'expected a CUDA GPU of compute capability 8.9 or later'),
    ({'quantize': 'int8', 'backend': 'onnx'}, 'give the model itself and backend auto'),
    ({'quantize': 'int8', 'dtype': torch.float32}, 'it computes in bfloat16, found torch.float32'),
])
def test_what_cannot_be_quantized_is_said_before_it_is_loaded(
        given: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('onellm_ros.inference.engine.load_model',
                        lambda *_, **__: pytest.fail('it was loaded'))
    with pytest.raises(EngineError, match=said):
        Engine.load('nano', 'cpu', **given)


def test_the_folder_of_an_export_is_refused_before_its_memory_is_counted(tmp_path: Path) -> None:
    for name in (MANIFEST, 'config.json'):
        (tmp_path / name).write_text('{}')
    said = 'ONNX graphs were asked for .backend onnx, or the folder of an export.; give the model'
    with pytest.raises(EngineError, match=said):
        Engine.load(tmp_path, 'cpu', quantize='int8')
    with pytest.raises(EngineError, match=said):
        memory.check_memory(NodeConfig(model=str(tmp_path), device='cpu', quantize='int8'))


def test_an_older_gpu_is_told_what_fp8_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: (8, 7))
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda device: 'Orin')
    with pytest.raises(EngineError, match=r'8\.9 or later, found 8\.7 .Orin.; take int8 or int4'):
        quantize.check('fp8', torch.device('cuda', 0))


def test_without_torchao_the_command_is_named_and_nothing_changes(
        monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n == 'torchao' or n.startswith('torchao.')]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, 'torchao', None)
    threads = torch.get_num_threads()
    with pytest.raises(EngineError, match='pip install -r requirements/quantize.txt'):
        Engine.load('nano', 'cpu', quantize='int8')
    with pytest.raises(EngineError, match='needs torchao'):
        memory.check_memory(NodeConfig(device='cpu', quantize='int8'))
    assert torch.get_num_threads() == threads
    assert Engine.load('nano', 'cpu').describe
    assert memory.check_memory(NodeConfig(device='cpu')).weights


def test_a_failure_half_way_is_an_engine_error(monkeypatch: pytest.MonkeyPatch) -> None:
    needs_torchao()
    done: list[str] = []

    def failing(weight: torch.Tensor, form: str) -> torch.Tensor:
        done.append(form)
        if len(done) == 3:
            raise RuntimeError('no kernel image\nand a long text')
        return weight

    monkeypatch.setattr(quantize, '_on_cpu', failing)
    with pytest.raises(EngineError, match='torchao failed on cpu: no kernel image; leave'):
        Engine.load('nano', 'cpu', quantize='int8')
    monkeypatch.undo()
    assert Engine.load('nano', 'cpu', quantize='int8').weights_hash.endswith('+int8')


def test_the_parameter_is_judged() -> None:
    assert config_of({'quantize': 'int4'}).quantize == 'int4'
    with pytest.raises(ConfigError, match="quantize: found 'int7', expected one of none, int8"):
        config_of({'quantize': 'int7'})


def test_layers_that_do_not_fit_int4_are_int8() -> None:
    llm = Llama(replace(NANO.llm, dim=64, heads=2, hidden=40, vocab_size=50, layers=1,
                        tied_embeddings=False))
    forms = {tuple(m.weight.shape): form for m, form in quantize._forms(llm, 'int4', True)}
    assert forms == {(64, 64): 'int4', (40, 64): 'int8', (64, 40): 'int8', (50, 64): 'int8'}
    on_gpu = {tuple(m.weight.shape): form for m, form in quantize._forms(llm, 'fp8', False)}
    assert on_gpu == {(64, 64): 'fp8'}          # the others stay as they are


@pytest.mark.parametrize(('form', 'most'), [('int8', 0.01), ('fp8', 0.05)])
def test_what_a_gpu_is_given_multiplies_alike(form: str, most: float,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    needs_torchao()
    from torchao.quantization import quant_api

    monkeypatch.setattr(quant_api, '_check_hardware_support', lambda _: None)    # of the GPU
    torch.manual_seed(0)
    layer = torch.nn.Linear(64, 32, bias=False).bfloat16().requires_grad_(False)
    x = torch.randn(3, 64).bfloat16()
    wanted = layer(x)
    quantize._on_gpu(layer, form)
    assert 0 < float((layer(x) - wanted).norm() / wanted.norm()) < most
    assert quantize.tensor_bytes(layer.weight) == quantize._bytes(layer.weight, form, False)
