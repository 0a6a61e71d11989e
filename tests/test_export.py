"Exported programs give what the models give, on other shapes than traced and without the library."

import logging, subprocess, sys, threading, warnings
import numpy as np, pandas as pd, pytest, torch
from recsys_nb.core.files import RecsysError, read_json
from recsys_nb.core.machine import Preset, installed
from recsys_nb.core.runs import new_run, set_state
from recsys_nb.training.settings import EncoderConfig, ScoreConfig
from recsys_nb.models.encoding import quietly
from recsys_nb.models.dual_encoder import DualEncoderSBERT, pad_batch
from recsys_nb.models.export import export_run, same_everywhere
from recsys_nb.models.score_model import ReviewMetadataScoreModel
from test_encoders import Pooling, chat, families, own_base, write_base

cpu = Preset('cpu', False)


def open_onnx(path):
    "A function that ONNX Runtime computes."
    session = pytest.importorskip('onnxruntime').InferenceSession(str(path))

    def run(**inputs):
        found = [torch.tensor(o) for o in session.run(None, {k: v.numpy() for k, v in inputs.items()})]
        return found if len(found) > 1 else found[0]

    return run


def open_program(path):
    if path.suffix == '.jit':
        return torch.jit.load(path)
    return open_onnx(path) if path.suffix == '.onnx' else torch.export.load(path).module()


def programs(paths):
    return [open_program(p) for p in paths]


endings = ['.jit', '.pt2'] + ['.onnx'] * all(map(installed, ('onnx', 'onnxscript', 'onnxruntime')))


@pytest.fixture(scope='module')
def encoder_run(tiny_base, tmp_path_factory):
    model = DualEncoderSBERT(tiny_base, tied=False, max_tokens=48, dim=16).eval()
    with torch.no_grad():
        next(model.tower('product').parameters()).add_(0.1)
    run = new_run(EncoderConfig(data='none'), tmp_path_factory.mktemp('root'))
    model.save(run.path)
    with pytest.raises(RecsysError, match='running'):
        export_run(run)
    set_state(run, 'finished')
    return run, model, export_run(run)


def test_towers_equal_on_other_shapes(encoder_run):
    run, model, paths = encoder_run
    assert [p.name for p in paths] == [f'{side}_tower{e}' for side in ('user', 'product') for e in endings]
    facts = read_json(run.path / 'export.json')
    assert facts['files'] == [p.name for p in paths] and facts['prompts'] == dict(user='', product='')
    assert facts['chat_template'] is False
    texts = ['headset', 'a quiet mechanical keyboard for the office', 'very ' * 60] + ['mouse'] * 8
    for side in ('user', 'product'):
        expected = model.encode(texts, side, preset=cpu)
        for f in programs([p for p in paths if p.name.startswith(side)]):
            for batch in ([0], [1, 0], [2], list(range(11))):
                b = pad_batch(model.tokenize([texts[i] for i in batch]))
                with torch.no_grad():
                    np.testing.assert_allclose(f(**b).numpy(), expected[batch], atol=1e-5)
                wide = {k: torch.nn.functional.pad(v, (0, 7)) for k, v in b.items()}
                with torch.no_grad():
                    np.testing.assert_allclose(f(**wide).numpy(), expected[batch], atol=1e-5)


def test_a_base_with_a_chat_template_is_exported(tmp_path):
    named = dict(pad_token='[PAD]', chat_template=chat)
    model = DualEncoderSBERT(own_base(tmp_path, families['qwen3'][0], Pooling(16, 'lasttoken'), **named), max_tokens=24)
    if not model.has_chat_template:
        pytest.skip('older versions have no templates')
    run = new_run(EncoderConfig(data='none'), tmp_path)
    model.save(run.path)
    set_state(run, 'finished')
    texts = ['kettle', 'a quiet keyboard for the office', 'red ' * 40]
    paths = export_run(run)
    assert read_json(run.path / 'export.json')['chat_template']
    for path, f in zip(paths, programs(paths)):
        side = path.name.split('_')[0]
        with torch.no_grad():
            found = f(**pad_batch(model.tokenize(texts, side=side)))
        np.testing.assert_allclose(found.numpy(), model.encode(texts, side, preset=cpu), atol=1e-5)


def test_towers_that_are_one_are_exported_once(tiny_base, tmp_path, monkeypatch):
    "And without the packages of ONNX the other two are written."
    monkeypatch.setattr('recsys_nb.models.export.find_spec', lambda name: None)
    run = new_run(EncoderConfig(data='none'), tmp_path)
    DualEncoderSBERT(tiny_base, max_tokens=16).save(run.path)
    set_state(run, 'finished')
    paths = export_run(run)
    assert [p.name for p in paths] == ['user_tower.jit', 'user_tower.pt2', 'product_tower.jit', 'product_tower.pt2']
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(paths[:2], paths[2:]))


def test_score_model_equal_on_other_shapes(tiny_base, tmp_path):
    model = ReviewMetadataScoreModel(tiny_base, max_tokens=40).eval()
    run = new_run(ScoreConfig(data='none'), tmp_path)
    model.save(run.path / 'model')
    set_state(run, 'finished')
    products = pd.DataFrame(
        dict(product_id=['A', 'B'], text=['Quiet keyboard', 'Mouse with a long name ' * 9], price=[79.0, None])
    )
    reviews = pd.DataFrame(
        dict(
            review_id=range(5),
            product_id=['A', 'B', '?', 'A', 'B'],
            title='',
            text=['fine', 'so ' * 90, 'no metadata', '', 'broke, returned'],
        )
    )
    expected, inputs = model.predict(reviews, products, preset=cpu), model.inputs(reviews, products)
    for f in programs(export_run(run)):
        for batch in ([0], [1], [2, 3], [0, 1, 2, 3, 4]):
            b = inputs.batch(batch)
            with torch.no_grad():
                score, spread = f(**b)
            np.testing.assert_allclose(score.numpy(), expected.score[batch], atol=1e-5)
            np.testing.assert_allclose(spread.numpy(), expected.spread[batch], atol=1e-5)


def test_a_format_that_a_family_cannot_be_written_in_leaves_the_others(tiny_base, tmp_path, monkeypatch):
    "Longformer has no `torch.export`, Gemma 3 no TorchScript: each ended in a traceback of PyTorch, without a file."

    def fails(module, example):
        raise RuntimeError('unordered_map::at\nand more')

    run = new_run(EncoderConfig(data='none'), tmp_path)
    DualEncoderSBERT(tiny_base, max_tokens=16).save(run.path)
    set_state(run, 'finished')
    monkeypatch.setattr('recsys_nb.models.export.trace', fails)
    with pytest.warns(UserWarning, match=r'user_tower.jit: not written \(RuntimeError: unordered_map::at\)$'):
        paths = export_run(run)
    assert [p.name for p in paths] == [f'{side}_tower{e}' for side in ('user', 'product') for e in endings[1:]]
    assert read_json(run.path / 'export.json')['files'] == [p.name for p in paths]
    assert not list(run.path.glob('*.jit'))
    monkeypatch.setattr('recsys_nb.models.export._export_program', fails)
    with pytest.warns(UserWarning), pytest.raises(RecsysError, match='in no format; .*unordered_map'):
        export_run(run)


def test_a_table_of_word_vectors_is_refused(tmp_path):
    run = new_run(EncoderConfig(data='none'), tmp_path)
    DualEncoderSBERT(write_base(tmp_path, 'static', {})).save(run.path)
    set_state(run, 'finished')
    with pytest.raises(RecsysError, match='table of word vectors'):
        export_run(run)


def test_a_program_that_gives_no_number_is_refused():
    for values in ([1.0, float('nan')], [float('nan'), 1.0]):
        with pytest.raises(RecsysError, match='nan'):
            same_everywhere(lambda x: torch.ones(1), lambda x: x, [dict(x=torch.tensor([v])) for v in values])


def test_two_threads_that_trace_leave_logging_and_warnings_as_they_were():
    "Each put back what the other had switched off, and everything stayed off for good."
    before = logging.root.manager.disable, list(warnings.filters)
    inside, over = threading.Event(), threading.Event()

    def first():
        with quietly():
            inside.set()
            over.wait(0.2)  # the second is let in only when this one is out

    def second():
        inside.wait(5)
        with quietly():
            over.wait(0.4)

    threads = [threading.Thread(target=f) for f in (first, second)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert (logging.root.manager.disable, list(warnings.filters)) == before


torch_program = '''
import sys, torch
from tokenizers import Tokenizer
f, t = torch.jit.load(sys.argv[1] + '/user_tower.jit'), Tokenizer.from_file(sys.argv[1] + '/user_tower/tokenizer.json')
t.enable_truncation(48), t.enable_padding()
e = t.encode_batch(['a quiet keyboard', 'headset'])
v = f(input_ids=torch.tensor([o.ids for o in e]), attention_mask=torch.tensor([o.attention_mask for o in e]))
assert not {'transformers', 'sentence_transformers', 'recsys_nb', 'numpy.testing'} & set(sys.modules)
print(*v.flatten().tolist())
'''
onnx_program = '''
import sys, numpy as np, onnxruntime
from tokenizers import Tokenizer
f, t = onnxruntime.InferenceSession(sys.argv[1] + '/user_tower.onnx'), \
Tokenizer.from_file(sys.argv[1] + '/user_tower/tokenizer.json')
t.enable_truncation(48), t.enable_padding()
e = t.encode_batch(['a quiet keyboard', 'headset'])
v, = f.run(['vector'], \
dict(input_ids=np.array([o.ids for o in e]), attention_mask=np.array([o.attention_mask for o in e])))
assert not {'torch', 'transformers', 'sentence_transformers', 'recsys_nb'} & set(sys.modules)
print(*v.flatten().tolist())
'''


@pytest.mark.parametrize(
    'program, needs', [(torch_program, 'torch'), (onnx_program, 'onnxruntime')], ids=['torch', 'onnxruntime']
)
def test_serving_needs_one_runtime_and_tokenizers_only(encoder_run, tmp_path, program, needs):
    pytest.importorskip(needs)
    run, model, _ = encoder_run
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', program, str(run.path)], capture_output=True, text=True, cwd=tmp_path
    )
    assert not done.returncode, done.stderr
    served = np.array([float(x) for x in done.stdout.split()]).reshape(2, 16)
    np.testing.assert_allclose(served, model.encode(['a quiet keyboard', 'headset'], preset=cpu), atol=1e-5)
