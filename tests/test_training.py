"Training survives being killed, spans processes, and refuses what cannot be trained."
import multiprocessing, os, random, subprocess, sys, time, tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np, pytest, torch

import recsys_nb.training.encoder as module
from recsys_nb.core.files import RecsysError, read_json
from recsys_nb.core.machine import resolve_base
from recsys_nb.core.runs import all_runs, read_metrics, set_state
from recsys_nb.training.settings import EncoderConfig
from recsys_nb.training.datasets import TrainingPairs
from recsys_nb.models.dual_encoder import DualEncoderSBERT
from recsys_nb.data.prepare import load_prepared, prepare
from recsys_nb.data.sample_store import make_sample_store
from recsys_nb.training.encoder import EncoderTask, mine_hard_negatives, train_encoder
from recsys_nb.training.loop import Team, gather_rows, seed_step

def make_tiny(folder, seed=0):
    "A random two-layer BERT as a SentenceTransformer folder."
    from sentence_transformers import SentenceTransformer
    try: from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    except ImportError: from sentence_transformers.models import Pooling, Transformer
    from transformers import AutoTokenizer, BertConfig, BertModel
    torch.manual_seed(seed)
    BertModel(BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)).save_pretrained(folder/'bert')
    AutoTokenizer.from_pretrained(resolve_base()).save_pretrained(folder/'bert')
    SentenceTransformer(modules=[Transformer(str(folder/'bert')), Pooling(32)], device='cpu').save(str(folder/'tiny'), create_model_card=False)
    return str(folder/'tiny')

@pytest.fixture(scope='module')
def corner(tmp_path_factory):
    "A small prepared data set with a tiny base encoder: (root, config)."
    root = tmp_path_factory.mktemp('corner')
    store = make_sample_store(root/'raw', n_products=60, n_reviews=500)
    prepare([store.reviews], [store.meta], 'corner', root=root)
    return root, EncoderConfig(data='corner', base=make_tiny(root), epochs=2, batch_size=32, piece=32, lr=3e-3, frozen=0, max_tokens=32, query_tokens=32)

def data_of(corner): return load_prepared('corner', corner[0])

def figures(run):
    "What must not depend on interruptions."
    return [{k: v for k, v in r.items() if 'seconds' not in k} for r in read_metrics(run)], read_json(run.path/'evaluation.json')

def child(root, out, config, resume):
    torch.set_num_threads(1)
    train_encoder(load_prepared('corner', root), config, root=out, resume=resume, preset='cpu', save_steps=2)

def test_killed_at_five_random_moments(corner, tmp_path):
    "kill -9 five times and resume: the same weights and figures as without."
    root, config = corner
    config = replace(config, dropout=True, query_tokens=16, max_tokens=16, epochs=3)
    context, rng = multiprocessing.get_context('forkserver'), random.Random(0)
    context.set_forkserver_preload(['recsys_nb.training.encoder'])
    def start(out, resume=None):
        p = context.Process(target=child, args=(root, out, config, resume))
        p.start()
        return p
    start(tmp_path/'warm-up').join() # the server's imports are not part of the time
    begun = time.time()
    start(tmp_path/'whole').join()
    took, killed = time.time() - begun, 0
    while killed < 5:
        runs = all_runs('encoder', tmp_path/'killed')
        p = start(tmp_path/'killed', runs[0].name if runs else None)
        p.join(rng.uniform(.2, .8)*took)
        if not p.is_alive(): break # it got through between two kills
        p.kill(), p.join()
        killed += 1
    run, = all_runs('encoder', tmp_path/'killed')
    if run.state != 'finished':
        assert run.state == 'interrupted'
        start(tmp_path/'killed', run.name).join()
    assert killed and run.state == 'finished'
    assert figures(run) == figures(all_runs('encoder', tmp_path/'whole')[0])

def in_two_processes(script):
    "Run a script under `accelerate launch`."
    launch = [sys.executable, '-m', 'accelerate.commands.launch', '--cpu', '--num_processes', '2', '--num_machines', '1', '--mixed_precision', 'no', '--dynamo_backend', 'no', '--main_process_port', '0', str(script)]
    done = subprocess.run(launch, capture_output=True, text=True, env=os.environ | dict(OMP_NUM_THREADS='1', PYTHONPATH=str(Path(__file__).parents[1])), timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]

def test_two_processes_give_the_losses_of_one(corner, tmp_path):
    root, config = corner
    config = replace(config, epochs=1, hard_negatives=1, piece=8)
    one = train_encoder(data_of(corner), config, root=tmp_path/'one', preset='cpu')
    script = tmp_path/'train.py'
    script.write_text(f'from recsys_nb.training.encoder import train_encoder\nfrom recsys_nb.training.settings import EncoderConfig\nfrom recsys_nb.data.prepare import load_prepared\n'
                      f'train_encoder(load_prepared("corner", {str(root)!r}), {config!r}, root={str(tmp_path/"two")!r}, preset="cpu")\n')
    in_two_processes(script)
    two, = all_runs('encoder', tmp_path/'two')
    a, b = (read_metrics(r)[1] for r in (one, two))
    assert abs(float(a['train_loss']) - float(b['train_loss'])) < 2e-3*float(a['train_loss'])
    assert abs(float(a['val_ndcg@10']) - float(b['val_ndcg@10'])) < .03

@pytest.mark.parametrize('settings', [dict(), dict(tied=False, dim=16), dict(hard_negatives=3), dict(matryoshka='32,8', learn_temperature=True), dict(symmetric=False, mask_families=False)])
def test_gradient_in_pieces_is_the_plain_gradient(corner, settings):
    root, config = corner
    def gradient(piece):
        c = replace(config, piece=piece, **settings)
        task = EncoderTask(DualEncoderSBERT(c.base, c.tied, c.max_tokens, c.dim), data_of(corner), c)
        seed_step(0, 0)
        loss = task.backward(task.train_batches(1)[0], 32)
        return {n: p.grad for n, p in task.model.named_parameters() if p.grad is not None} | dict(loss=loss)
    whole, pieces = gradient(32), gradient(5)
    assert whole.keys() == pieces.keys()
    for name, g in whole.items(): torch.testing.assert_close(pieces[name], g, rtol=1e-4, atol=1e-6 + 3e-5*float(g.abs().max())) # sums in another order

def test_hard_negatives_keep_the_margin_and_leave_the_family_alone(corner):
    task = EncoderTask(DualEncoderSBERT(corner[1].base, max_tokens=32), data_of(corner), corner[1])
    hard, table = mine_hard_negatives(task.model, task.pairs, 2, margin=.01)
    assert hard.shape == (len(task.pairs), 2)
    assert not (task.pairs.product_family[hard] == task.pairs.family[:, None]).any()
    assert (table['hardest negative'] <= table['own product']).all()

class Vectors:
    "An encoder of `n` texts to a side whose vectors are given."
    def __init__(self, user, product): self.vectors = dict(user=user, product=product)
    def encode_tokens(self, tokens, side='user'): return self.vectors[side]

def made_up(n_pairs, n_products, seed=0):
    "Pairs whose similarities are multiples of 1/8, so that most of them tie."
    rng = np.random.default_rng(seed)
    product, family = rng.integers(n_products, size=n_pairs), np.arange(n_products)//2
    vectors = (rng.integers(0, 3, (n, 4)).astype(np.float32)/4 for n in (n_pairs, n_products))
    return Vectors(*vectors), TrainingPairs([[1]]*n_pairs, product, family[product], [[1]]*n_products, list(range(n_products)), family)

@pytest.mark.parametrize('margin', [-1., .25, 9.])
def test_hard_negatives_are_the_same_for_every_chunk_and_ties_go_by_number(margin):
    model, pairs = made_up(40, 30)
    hard, table = mine_hard_negatives(model, pairs, 5, margin)
    sims = model.vectors['user'] @ model.vectors['product'].T
    for i, row in enumerate(hard):
        others = np.flatnonzero(pairs.product_family != pairs.family[i])
        allowed = others[sims[i, others] < sims[i, pairs.product[i]] - margin]
        expected = sorted(allowed, key=lambda j: (-sims[i, j], j))[:5]
        assert row[:len(expected)].tolist() == expected and len(set(row)) == 5 and set(row) <= set(others)
    for memory in (1, 4*30*7):
        again, table_again = mine_hard_negatives(model, pairs, 5, margin, memory=memory)
        assert (again == hard).all() and table_again.equals(table)

def test_a_small_catalogue_has_fewer_hard_negatives():
    model, pairs = made_up(9, 4)
    assert mine_hard_negatives(model, pairs, 50)[0].shape == (9, 2) # four products in two families

def test_mining_takes_bounded_memory():
    model, pairs = made_up(2_000, 20_000)
    tracemalloc.start()
    hard, _ = mine_hard_negatives(model, pairs, 3, memory=4e6)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert hard.shape == (2_000, 3) and peak < 30e6 # all similarities at once would be 160e6

def test_a_learning_rate_that_blows_up_is_named(corner, tmp_path):
    with pytest.raises(RecsysError, match='learning rate|temperature'):
        train_encoder(data_of(corner), replace(corner[1], lr=1e30, clip=1e30), root=tmp_path, preset='cpu')
    run, = all_runs('encoder', tmp_path)
    assert run.state == 'interrupted'

def test_other_base_weights_are_not_resumed(corner, tmp_path):
    root, config = corner
    base = make_tiny(tmp_path)
    c = replace(config, base=base)
    run = train_encoder(data_of(corner), c, root=tmp_path, preset='cpu', max_steps=1)
    make_tiny(tmp_path, seed=1)
    set_state(run, 'interrupted')
    with pytest.raises(RecsysError, match='other base weights'): train_encoder(data_of(corner), c, root=tmp_path, resume=run.name)
    with pytest.raises(RecsysError, match='was made with base'): train_encoder(data_of(corner), config, root=tmp_path, resume=run.name)

def test_a_run_is_resumed_on_the_reviews_it_began_with(corner, tmp_path):
    data, again = data_of(corner), data_of(corner)
    run = train_encoder(data, corner[1], root=tmp_path, preset='cpu', max_steps=1)
    assert run.config.data == 'corner'
    with pytest.raises(RecsysError, match='nothing to resume'): train_encoder(data, corner[1], root=tmp_path, resume=run.name)
    set_state(run, 'interrupted')
    again.train = again.train[::2]
    with pytest.raises(RecsysError, match='other reviews'): train_encoder(again, corner[1], root=tmp_path, resume='latest')
    assert train_encoder(data, None, root=tmp_path, preset='cpu', resume='latest', max_steps=1).name == run.name
    assert run.state == 'finished'

def test_a_run_under_way_is_left_alone(corner, tmp_path, monkeypatch):
    "A second program that resumes it is refused, to the very end of the run."
    real = module.evaluate_retrieval
    def evaluate(*args, **kwargs):
        run, = all_runs('encoder', tmp_path)
        with pytest.raises(RecsysError, match='another process'): train_encoder(data_of(corner), None, root=tmp_path, preset='cpu', resume=run.name)
        assert run.state == 'running'
        monkeypatch.setattr(module, 'evaluate_retrieval', real)
        return real(*args, **kwargs)
    monkeypatch.setattr(module, 'evaluate_retrieval', evaluate)
    assert train_encoder(data_of(corner), corner[1], root=tmp_path, preset='cpu', max_steps=1).state == 'finished'

def test_every_process_has_a_pair_to_train_on(corner, tmp_path, monkeypatch):
    monkeypatch.setattr(module, 'join_team', lambda preset: Team(count=20))
    with pytest.raises(RecsysError, match='at least 40'): train_encoder(data_of(corner), corner[1], root=tmp_path)

def test_the_evaluation_runs_where_the_training_ran(corner, tmp_path, monkeypatch):
    seen, real = [], module.evaluate_retrieval
    monkeypatch.setattr(module, 'evaluate_retrieval', lambda *args, preset, **kwargs: seen.append(preset) or real(*args, preset=preset, **kwargs))
    train_encoder(data_of(corner), corner[1], root=tmp_path, preset='cpu', max_steps=1)
    assert seen == ['cpu']

def test_what_cannot_be_trained_leaves_no_run(corner, tmp_path):
    for change, cause in ((dict(batch_size=10**6), 'larger than the data'), (dict(batch_size=1), 'at least 2 pairs'), (dict(queries='poems'), 'expected some of'), (dict(frozen=9), 'at most 3')):
        with pytest.raises(RecsysError, match=cause): train_encoder(data_of(corner), replace(corner[1], **change), root=tmp_path)
    assert not all_runs('encoder', tmp_path)

def test_gathering_alone_changes_nothing():
    rows = torch.randn(3, 2, requires_grad=True)
    assert gather_rows(Team(), rows, 3) is rows
