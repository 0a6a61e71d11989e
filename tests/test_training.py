"Training survives being killed, spans processes, and refuses what cannot be trained."

import logging, multiprocessing, os, random, subprocess, sys, time
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np, pandas as pd, pytest, torch
from hypothesis import given, strategies as st

import recsys_nb.models.encoding as encoding, recsys_nb.training.encoder as module, recsys_nb.training.loop as loop
from recsys_nb.core.files import RecsysError, read_json, write_json
from recsys_nb.core.machine import resolve_base
from recsys_nb.core.runs import all_runs, new_run, read_metrics, set_state, tell
from recsys_nb.training.settings import EncoderConfig, ScoreConfig
from recsys_nb.data.rows import read_column, read_rows
from recsys_nb.training.datasets import draw_evenly, possible_pairs, tokenize_pairs
from recsys_nb.data.prepare import load_prepared, prepare
from recsys_nb.data.sample_store import make_sample_store
from recsys_nb.models.dual_encoder import DualEncoderSBERT
from recsys_nb.training.encoder import EncoderTask, train_encoder, validation_sample
from recsys_nb.training.loop import Plan, Team, seed_step


def make_tiny(folder, seed=0):
    "A random two-layer BERT as a SentenceTransformer folder."
    from sentence_transformers import SentenceTransformer

    try:
        from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    except ImportError:
        from sentence_transformers.models import Pooling, Transformer
    from transformers import AutoTokenizer, BertConfig, BertModel

    torch.manual_seed(seed)
    BertModel(
        BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    ).save_pretrained(folder / 'bert')
    AutoTokenizer.from_pretrained(resolve_base()).save_pretrained(folder / 'bert')
    SentenceTransformer(modules=[Transformer(str(folder / 'bert')), Pooling(32)], device='cpu').save(
        str(folder / 'tiny'), create_model_card=False
    )
    return str(folder / 'tiny')


@pytest.fixture(scope='module')
def corner(tmp_path_factory):
    "A small prepared data set with a tiny base encoder: (root, config)."
    root = tmp_path_factory.mktemp('corner')
    store = make_sample_store(root / 'raw', n_products=60, n_reviews=500)
    prepare([store.reviews], [store.meta], 'corner', root=root)
    return root, EncoderConfig(
        data='corner',
        base=make_tiny(root),
        epochs=2,
        batch_size=32,
        piece=32,
        lr=3e-3,
        frozen=False,
        max_tokens=32,
        query_tokens=32,
    )


def data_of(corner):
    return load_prepared('corner', corner[0])


def figures(run):
    "What must not depend on interruptions."
    return [{k: v for k, v in r.items() if 'seconds' not in k} for r in read_metrics(run)], read_json(
        run.path / 'evaluation.json'
    )


def child(root, out, config, resume):
    torch.set_num_threads(1)
    train_encoder(
        load_prepared('corner', root), config, root=out, resume=resume, preset='cpu', save_steps=2, screen=False
    )


def test_killed_at_three_random_moments(corner, tmp_path):
    "kill -9 three times and resume: the same weights and figures as without."
    root, config = corner
    config = replace(config, dropout=True, query_tokens=16, max_tokens=16, epochs=3)
    context, rng = multiprocessing.get_context('forkserver'), random.Random(0)
    context.set_forkserver_preload(['recsys_nb.training.encoder'])

    def start(out, resume=None):
        p = context.Process(target=child, args=(root, out, config, resume))
        p.start()
        return p

    start(tmp_path / 'warm-up').join()  # the server's imports are not part of the time
    begun = time.time()
    start(tmp_path / 'whole').join()
    took, killed = time.time() - begun, 0
    while killed < 3:
        runs = all_runs('encoder', tmp_path / 'killed')
        p = start(tmp_path / 'killed', runs[0].name if runs else None)
        p.join(rng.uniform(0.2, 0.8) * took)
        if not p.is_alive():
            break  # it got through between two kills
        p.kill(), p.join()
        killed += 1
    (run,) = all_runs('encoder', tmp_path / 'killed')
    if run.state != 'finished':
        assert run.state == 'interrupted'
        start(tmp_path / 'killed', run.name).join()
    assert killed and run.state == 'finished'
    assert figures(run) == figures(all_runs('encoder', tmp_path / 'whole')[0])


def in_two_processes(script):
    "Run a script under `accelerate launch`."
    launch = [
        sys.executable,
        '-m',
        'accelerate.commands.launch',
        '--cpu',
        '--num_processes',
        '2',
        '--num_machines',
        '1',
        '--mixed_precision',
        'no',
        '--dynamo_backend',
        'no',
        '--main_process_port',
        '0',
        str(script),
    ]
    done = subprocess.run(
        launch,
        capture_output=True,
        text=True,
        env=os.environ | dict(OMP_NUM_THREADS='1', PYTHONPATH=str(Path(__file__).parents[1])),
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_two_processes_give_the_losses_of_one(corner, tmp_path):
    root, config = corner
    config = replace(config, epochs=1, piece=8)
    one = train_encoder(data_of(corner), config, root=tmp_path / 'one', preset='cpu')
    script = tmp_path / 'train.py'
    script.write_text(
        'from recsys_nb.training.encoder import train_encoder\n'
        'from recsys_nb.training.settings import EncoderConfig\n'
        'from recsys_nb.data.prepare import load_prepared\n'
        f'train_encoder(load_prepared("corner", {str(root)!r}), {config!r}, '
        f'root={str(tmp_path / "two")!r}, preset="cpu")\n'
    )
    in_two_processes(script)
    (two,) = all_runs('encoder', tmp_path / 'two')
    a, b = (read_metrics(r)[1] for r in (one, two))
    assert abs(float(a['train_loss']) - float(b['train_loss'])) < 2e-3 * float(a['train_loss'])
    assert abs(float(a['val_ndcg@10']) - float(b['val_ndcg@10'])) < 0.03


@pytest.mark.parametrize('settings', [dict(), dict(tied=False, dim=16), dict(temperature=0.2, frozen=True)])
def test_gradient_in_pieces_is_the_plain_gradient(corner, settings):
    root, config = corner

    def gradient(piece):
        c = replace(config, piece=piece, **settings)
        task = EncoderTask(data_of(corner), c)
        task.load(task.available)
        seed_step(0, 0)
        loss = task.backward(task.train_batches(1)[0])
        return {n: p.grad for n, p in task.model.named_parameters() if p.grad is not None} | dict(loss=loss)

    whole, pieces = gradient(32), gradient(5)
    assert whole.keys() == pieces.keys()
    for name, g in whole.items():
        torch.testing.assert_close(
            pieces[name], g, rtol=1e-4, atol=1e-6 + 3e-5 * float(g.abs().max())
        )  # sums in another order


def test_a_learning_rate_that_blows_up_is_named(corner, tmp_path):
    with pytest.raises(RecsysError, match='learning rate|temperature'):
        train_encoder(data_of(corner), replace(corner[1], lr=1e30, clip=1e30), root=tmp_path, preset='cpu')
    (run,) = all_runs('encoder', tmp_path)
    assert run.state == 'interrupted'


def test_a_temperature_that_no_number_survives_is_named_before_there_is_a_run(corner, tmp_path):
    "Trying it for the plan spoiled the weights, and the message blamed the learning rate."
    with pytest.raises(RecsysError, match='the weights are fine.* and at the temperature'):
        train_encoder(data_of(corner), replace(corner[1], temperature=1e-40), root=tmp_path, preset='cpu')
    assert not all_runs('encoder', tmp_path)


def test_other_base_weights_are_not_resumed(corner, tmp_path):
    root, config = corner
    base = make_tiny(tmp_path)
    c = replace(config, base=base)
    run = train_encoder(data_of(corner), c, root=tmp_path, preset='cpu', max_steps=1)
    make_tiny(tmp_path, seed=1)
    set_state(run, 'interrupted')
    with pytest.raises(RecsysError, match='other base weights'):
        train_encoder(data_of(corner), c, root=tmp_path, resume=run.name)
    with pytest.raises(RecsysError, match='was made with base'):
        train_encoder(data_of(corner), config, root=tmp_path, resume=run.name)


def test_a_run_is_resumed_on_the_reviews_it_began_with(corner, tmp_path):
    data, again = data_of(corner), data_of(corner)
    run = train_encoder(data, corner[1], root=tmp_path, preset='cpu', max_steps=1)
    assert run.config.data == 'corner'
    with pytest.raises(RecsysError, match='nothing to resume'):
        train_encoder(data, corner[1], root=tmp_path, resume=run.name)
    set_state(run, 'interrupted')
    again.train = again.train[::2]
    with pytest.raises(RecsysError, match='other reviews'):
        train_encoder(again, corner[1], root=tmp_path, resume='latest')
    notes = [run.path / 'data.json', run.path / 'base.json']
    for note in notes:
        note.unlink()  # as if its process had been killed before it wrote them
    assert train_encoder(data, None, root=tmp_path, preset='cpu', resume='latest', max_steps=1).name == run.name
    assert run.state == 'finished' and all(note.exists() for note in notes)


def test_a_run_under_way_is_left_alone(corner, tmp_path, monkeypatch):
    "A second program that resumes it is refused, to the very end of the run."
    real = module.evaluate_retrieval

    def evaluate(*args, **kwargs):
        (run,) = all_runs('encoder', tmp_path)
        with pytest.raises(RecsysError, match='another process'):
            train_encoder(data_of(corner), None, root=tmp_path, preset='cpu', resume=run.name)
        assert run.state == 'running'
        monkeypatch.setattr(module, 'evaluate_retrieval', real)
        return real(*args, **kwargs)

    monkeypatch.setattr(module, 'evaluate_retrieval', evaluate)
    assert train_encoder(data_of(corner), corner[1], root=tmp_path, preset='cpu', max_steps=1).state == 'finished'


def test_every_process_has_a_pair_to_train_on(corner, tmp_path, monkeypatch):
    monkeypatch.setattr(Team, 'of', lambda preset: Team(count=20))
    with pytest.raises(RecsysError, match='at least 40'):
        train_encoder(data_of(corner), corner[1], root=tmp_path)


def test_the_evaluation_runs_where_the_training_ran(corner, tmp_path, monkeypatch):
    seen, real = [], module.evaluate_retrieval
    monkeypatch.setattr(
        module,
        'evaluate_retrieval',
        lambda *args, preset, **kwargs: seen.append(preset) or real(*args, preset=preset, **kwargs),
    )
    train_encoder(data_of(corner), corner[1], root=tmp_path, preset='cpu', max_steps=1)
    assert [p.device for p in seen] == ['cpu']


def test_what_cannot_be_trained_leaves_no_run(corner, tmp_path):
    for change, cause in (
        (dict(batch_size=10**6), 'larger than the data'),
        (dict(batch_size=1), 'at least 2'),
    ):
        with pytest.raises(RecsysError, match=cause):
            train_encoder(data_of(corner), replace(corner[1], **change), root=tmp_path)
    assert not all_runs('encoder', tmp_path)


def test_weights_that_are_trained_are_evaluated_by_torch(corner, tmp_path, monkeypatch):
    "And not converted for another runtime after each epoch; the finished model may be."
    seen, during, real, evaluate = [], [], encoding._quickest_way, EncoderTask.evaluate
    monkeypatch.setattr(
        encoding,
        '_quickest_way',
        lambda what, config, preset, *rest: seen.append(preset.runtime) or real(what, config, preset, *rest),
    )
    monkeypatch.setattr(
        EncoderTask, 'evaluate', lambda self: [evaluate(self), during.append(seen.copy()), seen.clear()][0]
    )
    train_encoder(data_of(corner), corner[1], root=tmp_path, preset='cpu', max_steps=1)
    assert len(during) == 2 and {r for one in during for r in one} == {'torch'} and set(seen) == {'auto'}


def test_a_review_without_a_title_is_a_pair():
    products = pd.DataFrame(dict(product_id=['A', 'B'], family_id=['A', 'B'], text=['x', 'y']))
    train = pd.DataFrame(
        dict(
            review_id=['1', '2'], product_id=['A', 'B'], title=['t', None], text=['one two', 'three'], informative=True
        )
    )
    data = SimpleNamespace(products=products, train=train)
    t = tokenize_pairs(data, possible_pairs(data), lambda texts, n, side: [[1] * len(o.split()) for o in texts])
    assert t.queries.lengths.tolist() == [3, 1]


@pytest.mark.parametrize('half', [torch.float16, torch.bfloat16])
def test_a_base_in_half_precision_is_trained_in_float32(corner, tmp_path, half):
    from sentence_transformers import SentenceTransformer

    SentenceTransformer(corner[1].base, device='cpu').to(half).save(str(tmp_path / 'half'), create_model_card=False)
    run = train_encoder(
        data_of(corner),
        replace(corner[1], base=str(tmp_path / 'half'), dim=8),
        root=tmp_path,
        preset='cpu',
        max_steps=3,
    )
    assert {p.dtype for p in DualEncoderSBERT.load(run).parameters()} == {torch.float32}


def test_gathering_alone_changes_nothing():
    rows = torch.randn(3, 2, requires_grad=True)
    assert Team().gather(rows, 3) is rows


# ---- settings

configs = (EncoderConfig, ScoreConfig)


def bad_values(config, name):
    "Values that the setting must refuse."
    value = getattr(config(), name)
    if name == 'time':
        return ['soon', '-5m', '0s', '5']
    if isinstance(value, bool):
        return ['maybe', 3]
    if isinstance(value, str):
        return [None, ['a']]
    return [-1, 'many', float('nan'), float('inf')]


@pytest.mark.parametrize('config,name', [(c, f.name) for c in configs for f in fields(c)])
def test_every_setting_has_a_range(config, name):
    "A value out of it is refused in one line that names the setting, given or typed."
    for value in bad_values(config, name):
        with pytest.raises(RecsysError, match=f'^{name}=.*: expected ') as e:
            config(**{name: value})
        assert '\n' not in str(e.value)
    for value in bad_values(config, name):
        if isinstance(value, str):
            with pytest.raises(RecsysError, match=f'^{name}='):
                config.of([f'{name}={value}'])


@pytest.mark.parametrize('config', configs)
def test_every_default_survives_being_typed(config):
    words = [f'{f.name}={f.default}' for f in fields(config) if f.default is not None]
    assert config.of(words) == config()


def test_upper_limits_and_unknown_settings():
    for word in ('warmup=1.1', 'weight_decay=2', 'keep_base=1'):
        with pytest.raises(RecsysError, match='expected a number from 0 to '):
            EncoderConfig.of([word])
    with pytest.raises(RecsysError, match='no such setting; there are: data, base, epochs'):
        EncoderConfig(hard_negatives=1)
    with pytest.raises(RecsysError, match='star_share'):
        ScoreConfig.of(['temperature=1'])
    with pytest.raises(RecsysError, match='NAME=VALUE'):
        ScoreConfig.of(['epochs'])
    assert EncoderConfig.of(['epochs=3'], lr=None, seed=1) == EncoderConfig(epochs=3, seed=1)


def test_a_run_of_another_version_names_the_setting_that_is_unknown(tmp_path):
    run = new_run(EncoderConfig(data='toys'), tmp_path)
    now = read_json(run.path / 'config.json')
    assert run.config == EncoderConfig(data='toys')
    write_json(run.path / 'config.json', now | dict(rainbows=1))
    with pytest.raises(RecsysError, match='config.json: rainbows: no such setting'):
        run.config


# ---- a plan, and what it draws


def test_too_little_time_means_less_data_and_a_resumed_run_keeps_to_the_plan(corner, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, 'measure_rate', lambda task: 10.0)
    config = replace(corner[1], time='15s')
    run = train_encoder(data_of(corner), config, root=tmp_path, preset='cpu', max_steps=1, screen=False)
    plan = Plan(**read_json(run.path / 'plan.json'))
    assert (plan.epochs, plan.limit) == (1, 15) and 32 <= plan.examples < plan.available
    assert f'{plan.examples:,} of {plan.available:,} pairs' in (run.path / 'model_card.md').read_text()
    assert 'plan: ' in (run.path / 'train.log').read_text()
    set_state(run, 'interrupted')
    monkeypatch.setattr(loop, 'measure_rate', lambda task: 1e6)  # a faster machine
    train_encoder(data_of(corner), None, root=tmp_path, preset='cpu', resume='latest', max_steps=1, screen=False)
    assert Plan(**read_json(run.path / 'plan.json')) == plan


def test_a_run_keeps_its_record_while_logging_is_switched_off(tmp_path):
    "As by a thread that converts a model meanwhile: a log that Python's `logging` kept was once found empty."
    run = new_run(EncoderConfig(data='toys'), tmp_path)
    logging.disable(logging.CRITICAL)
    try:
        tell(run, 'plan: all', screen=False)
    finally:
        logging.disable(logging.NOTSET)
    assert (run.path / 'train.log').read_text().endswith(' plan: all\n')


def test_trying_a_step_changes_nothing(corner):
    task = EncoderTask(data_of(corner), corner[1])
    before = {k: v.clone() for k, v in task.model.state_dict().items()}
    ticks = iter(range(0, 1000, 2))
    assert (
        loop.measure_rate(task, clock=lambda: next(ticks)) == len(task.train_batches(1)[:4]) * corner[1].batch_size / 2
    )  # each try took as long
    assert all(torch.equal(v, before[k]) for k, v in task.model.state_dict().items())
    assert all(p.grad is None for p in task.model.parameters())


@given(
    st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=1, max_size=60),
    st.integers(1, 60),
    st.integers(0, 3),
)
def test_families_take_turns(examples, n, seed):
    family, says = (np.array(o) for o in zip(*examples))
    drawn = draw_evenly(family, says, n, seed)
    assert len(drawn) == min(n, len(family)) and (np.diff(drawn) > 0).all()
    taken, there = (np.bincount(f, minlength=10) for f in (family[drawn], family))
    assert all(taken[f] >= min(there[f], taken.max() - 1) for f in range(10))
    for f in range(10):  # none that says nothing before one that says something
        left = np.setdiff1d(np.flatnonzero(family == f), drawn)
        assert not (says[left].any() and (~says[drawn[family[drawn] == f]]).any())


def test_from_disk_or_from_memory_the_same(corner):
    disk, memory = data_of(corner), data_of(corner)
    memory.train, memory.products, memory.val
    assert 'train' in vars(memory) and 'train' not in vars(disk)
    assert possible_pairs(disk, False).equals(possible_pairs(memory, False))
    rows = np.array([0, 5, 6, 300])
    assert read_rows(disk, 'train', rows, ['text', 'rating']).equals(
        read_rows(memory, 'train', rows, ['text', 'rating'])
    )
    assert (read_column(disk, 'products', 'family_id') == memory.products.family_id).all()
    a, b = (validation_sample(d, queries=20, candidates=30) for d in (disk, memory))
    assert a.val.equals(b.val) and a.products.equals(b.products)
    assert len(a.val) == 20 and len(a.products) == 30 and set(a.val.product_id) <= set(a.products.product_id)


def test_training_never_reads_a_whole_table(corner, monkeypatch):
    "Not the reviews, and not the products: only pieces of them."
    data = data_of(corner)
    task = EncoderTask(data, corner[1])
    task.load(64)
    task.evaluate()
    loop._data_fingerprint(data)
    assert not {'train', 'val', 'test', 'products'} & set(vars(data))
