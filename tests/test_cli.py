"The command: what it prints, what it refuses, and that a refusal leaves everything as it was."

import errno, gzip, hashlib, json, os, re, shutil, signal, subprocess, sys
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import httpx, pandas as pd, pytest

from recsys_nb.benchmarks.answers import answers
from recsys_nb.command.cli import _print_frame, main
from recsys_nb.core.files import read_json, write_json
from recsys_nb.core.runs import RunFolder, new_run, set_state
from recsys_nb.training.settings import EncoderConfig, ScoreConfig
from recsys_nb.data.prepare import load_prepared
from recsys_nb.data.sample_store import make_sample_store
from recsys_nb.serve.running import open_port
from test_encoders import write_base


def recsys(*words):
    "Run the command in this process; its exit code."
    with pytest.raises(SystemExit) as e:
        main([str(w) for w in words])
    return e.value.code


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    "A small store, prepared and indexed with the base encoder."
    root = tmp_path_factory.mktemp('root')
    store = make_sample_store(root / 'raw', n_products=60, n_reviews=400)
    assert recsys('prepare', '--reviews', store.reviews, '--meta', store.meta, '--name', 'shop', '--root', root) == 0
    assert recsys('index', '--data', 'shop', '--run', 'base', '--root', root) == 0
    return root


def test_fifty_answers_are_read_from_any_index(root):
    found = answers(quick=True, folder=root)
    assert set(found.named) == {'as answered', 'as ranked'} and sum(found.shown.values()) == len(found.answers)


def test_a_warning_is_a_line(tmp_path):
    (tmp_path / 'r.csv').write_text('user,item,words\nU1,P1,It hums\n')
    (tmp_path / 'm.csv').write_text('item,title\nP1,A kettle\n')
    words = 'prepare', '--reviews', 'r.csv', '--meta', 'm.csv', '--name', 'x', '--root', '.'
    command = [sys.executable, '-c', 'from recsys_nb.command.cli import main; main()', *words]
    told = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path).stderr
    assert re.fullmatch(r'recsys: r.csv: none of the columns user, item, words is known .*\n', told)


def contents(path):
    "Bytes of a file; of those that Qdrant writes again in another order when it opens a folder, what they say."
    return json.loads(path.read_text()) if path.name in ('edge_config.json', 'segment.json') else digest(path)


def written(file):
    "Where a file has data and no hole: begin and end of each stretch."
    end = 0
    while True:
        try:
            start = os.lseek(file, end, os.SEEK_DATA)
        except OSError as e:
            assert e.errno == errno.ENXIO
            return  # only a hole is left
        end = os.lseek(file, start, os.SEEK_HOLE)
        yield start, end


def digest(path, size=2**16):
    "A hash of a file, whose holes are not read: Qdrant's files are gigabytes of them."
    found = hashlib.sha256(str(path.stat().st_size).encode())
    with open(path, 'rb') as f:
        blocks = {n for begin, end in written(f.fileno()) for n in range(begin // size, -(-end // size))}
        for n in sorted(blocks):
            piece = os.pread(f.fileno(), size, n * size)
            if piece != bytes(len(piece)):
                found.update(b'%d ' % n + piece)
    return found.hexdigest()


def snapshot(root):
    return {
        p.relative_to(root).as_posix(): contents(p)
        for p in root.rglob('*')
        if p.is_file() and not p.name.startswith('.')
    }


def test_recommend_prints_a_table(root, capsys):
    assert recsys('--root', root, 'recommend', 'a quiet keyboard for the office under 80 dollars', '--k', 3) == 0
    out = capsys.readouterr().out
    assert all(w in out for w in ('product', 'price', 'similarity', 'why'))


def test_recommend_json_is_one_object_and_nothing_else(root, capsys):
    assert recsys('--root', root, 'recommend', 'a webcam under $100', '--k', 4, '--json') == 0
    found = json.loads(capsys.readouterr().out)
    assert 0 < len(found['recommendations']) <= 4
    assert {'product_id', 'title', 'price', 'similarity', 'score', 'why'} <= set(found['recommendations'][0])
    assert all(r['price'] is not None and r['price'] <= 100 for r in found['recommendations'])
    assert found['understood']


def test_trec_run_and_evaluation(root, tmp_path, capsys):
    (tmp_path / 'q.tsv').write_text('q1\tmechanical keyboard\nq2\twebcam for calls\n')
    assert (
        recsys('--root', root, 'recommend', '--queries', tmp_path / 'q.tsv', '--k', 10, '--out', tmp_path / 'o.run')
        == 0
    )
    lines = [l.split() for l in (tmp_path / 'o.run').read_text().splitlines()]
    assert len(lines) == 20 and all(len(l) == 6 and l[1] == 'Q0' for l in lines)
    assert [int(l[3]) for l in lines[:10]] in (list(range(1, 11)), list(range(10)))
    (tmp_path / 'qrels').write_text(f'q1 0 {lines[0][2]} 1\nq2 0 {lines[10][2]} 1\n')
    capsys.readouterr()
    evaluate = (
        '--root',
        root,
        'evaluate',
        '--index',
        'shop',
        '--queries',
        tmp_path / 'q.tsv',
        '--qrels',
        tmp_path / 'qrels',
        '--json',
    )
    assert recsys(*evaluate) == 1
    assert 'recsys index --known train' in capsys.readouterr().err
    manifest = root / 'outputs' / 'index' / 'shop' / 'manifest.json'
    old = manifest.read_text()
    try:
        manifest.write_text(json.dumps(json.loads(old) | dict(known='train')))
        assert recsys(*evaluate) == 0
    finally:
        manifest.write_text(old)
    found = json.loads(capsys.readouterr().out)
    assert found['n_queries'] == 2 and found['metrics']['ndcg@10'] == pytest.approx(1)


@pytest.mark.filterwarnings('ignore:.*reads at most:UserWarning')
def test_bases_are_compared_and_one_that_is_none_gets_its_line(root, tmp_path, capsys):
    bases = []
    for family in ('bert', 'static'):
        (tmp_path / family).mkdir()
        bases.append(write_base(tmp_path / family, family, {}))
    asked = '--root', root, 'compare', '--data', 'shop', '--bases', ','.join([*bases, str(tmp_path)])
    capsys.readouterr()
    assert recsys(*asked, '--json') == 0
    found = {b['base']: b for b in json.loads(capsys.readouterr().out)['bases']}
    assert list(found)[2] == str(tmp_path) and found[str(tmp_path)]['failed'].startswith('cannot load this encoder')
    for b in bases:
        assert 0 <= found[b]['ndcg@10_low'] <= found[b]['ndcg@10'] <= found[b]['ndcg@10_high'] <= 1
        assert (
            found[b]['texts_per_second'] > 0
            and found[b]['dim'] == 16
            and found[b]['n_queries'] > 10
            and 'failed' not in found[b]
        )
    assert found[bases[0]]['tokens'] == 40 and found[bases[0]]['megabytes'] > found[bases[1]]['megabytes'] > 0
    assert recsys(*asked) == 0
    out = capsys.readouterr().out
    assert all(w in out for w in ('NDCG@10', 'texts/s', 'MB', f'{tmp_path}: cannot load this encoder'))
    assert recsys('--root', root, 'compare', '--data', 'shop', '--bases', f'{tmp_path}, ') == 1
    assert 'cannot load this encoder' in capsys.readouterr().err
    assert recsys('--root', root, 'compare', '--data', 'shop', '--bases', ' ,') == 1


def test_a_warning_is_a_line_without_source_code(root, tmp_path):
    words = '--data', 'shop', '--base', write_base(tmp_path, 'bert', {}), '--set', 'temperature=1e-40'
    code = 'from recsys_nb.command.cli import main; main()'
    done = subprocess.run(
        [sys.executable, '-c', code, 'train-encoder', *words, '--root', str(root)], capture_output=True, text=True
    )
    lines = [line for line in done.stderr.splitlines() if 'Loading weights' not in line]
    assert all(line.startswith('recsys: ') for line in lines) and any('becomes 40' in line for line in lines)


def test_metadata_alone_is_a_catalogue(root, capsys):
    assert recsys('--root', root, 'prepare', '--meta', root / 'raw' / 'meta.jsonl.gz', '--name', 'catalogue') == 0
    assert recsys('--root', root, 'index', '--data', 'catalogue', '--run', 'base') == 0
    assert recsys('--root', root, 'recommend', 'speaker', '--index', 'catalogue', '--json') == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])['recommendations']


@pytest.mark.parametrize(
    'command, settings, wanted',
    [
        (
            'train-encoder',
            ['frozen=no', 'keep_base=0', 'dim=8', 'informative=no'],
            dict(frozen=False, keep_base=0, dim=8, informative=False, epochs=1),
        ),
        ('train-encoder', ['patience=3', 'time=2h', 'tied=0'], dict(patience=3, time='2h', tied=False)),
        ('train-score', ['head_lr=2e-3', 'patience=1'], dict(head_lr=0.002, patience=1, epochs=1)),
    ],
)
def test_any_setting_by_its_name(root, monkeypatch, command, settings, wanted):
    import recsys_nb.training.encoder, recsys_nb.training.score

    asked = []

    def train(data, config, **kw):
        asked.append(config)
        return RunFolder(root)

    module = recsys_nb.training.encoder if command == 'train-encoder' else recsys_nb.training.score
    monkeypatch.setattr(module, command.replace('-', '_'), train)
    assert (
        recsys(command, '--root', root, '--data', 'shop', '--epochs', 1, *(w for s in settings for w in ('--set', s)))
        == 0
    )
    (config,) = asked
    assert {k: getattr(config, k) for k in wanted} == wanted and config.data == 'shop'
    assert all(type(getattr(config, k)) is type(v) or v == 0 for k, v in wanted.items())


def test_words_reach_prepare_and_download(root, monkeypatch, capsys):
    import recsys_nb.data.download, recsys_nb.data.prepare

    got = {}
    monkeypatch.setattr(
        recsys_nb.data.prepare,
        'prepare',
        lambda **kw: got.update(kw) or recsys_nb.data.prepare.load_prepared('shop', root),
    )
    assert (
        recsys(
            'prepare',
            '--meta',
            'm.jsonl',
            '--name',
            'x',
            '--split',
            'blair',
            '--categories',
            'Patio, Lawn & Garden',
            '--categories',
            'Toys',
        )
        == 0
    )
    assert (got['split'], got['cuts'], got['categories']) == ('time', 'blair', ['Patio, Lawn & Garden', 'Toys'])
    monkeypatch.setattr(recsys_nb.data.download, 'download', lambda *args: dict(meta='raw/m.gz', reviews='raw/r.gz'))
    capsys.readouterr()
    assert recsys('download', 'All_Beauty') == 0 and capsys.readouterr().out.split() == ['raw/m.gz', 'raw/r.gz']


def finished(config, root):
    "An empty run, said to be finished."
    run = new_run(config, root)
    set_state(run, 'finished')
    return run


def test_evaluate_takes_the_newest_encoder_of_these_data(root, tmp_path, monkeypatch, capsys):
    import recsys_nb.command.pipeline as pipeline

    shutil.copytree(root / 'data', tmp_path / 'data')
    own, score, other, old = (
        finished(c, tmp_path)
        for c in (EncoderConfig(data='shop'), ScoreConfig(data='shop'), *[EncoderConfig(data='other')] * 2)
    )
    write_json(
        old.path / 'config.json', read_json(old.path / 'config.json') | dict(hard_negatives=5)
    )  # of an earlier version
    seen = []

    class Report:
        def to_dict(self):
            return {}

    for name in ('_evaluate_encoder', '_evaluate_score'):
        monkeypatch.setattr(
            pipeline, name, lambda data, run, name=name: seen.append((name, run and run.path)) or Report()
        )
    for name in ('latest', score.path, other.path, 'base'):
        assert recsys('--root', tmp_path, 'evaluate', '--data', 'shop', '--run', name) == 0
    assert seen == [
        ('_evaluate_encoder', own.path),
        ('_evaluate_score', score.path),
        ('_evaluate_encoder', other.path),
        ('_evaluate_encoder', None),
    ]


def test_histories_are_not_ranked_by_an_encoder_of_other_products(root, tmp_path, capsys):
    shutil.copytree(root / 'data', tmp_path / 'data')
    finished(EncoderConfig(data='other'), tmp_path)
    assert recsys('--root', tmp_path, 'evaluate', '--data', 'shop', '--histories', tmp_path / 'h.jsonl') == 1
    assert "no finished encoder run on data set 'shop'" in capsys.readouterr().err


def test_a_run_may_be_named_from_where_it_lies(root, tmp_path, monkeypatch):
    "So that it is compared with others of its root folder, whatever the name begins with."
    import recsys_nb.command.pipeline as pipeline

    run, seen = finished(EncoderConfig(data='shop'), tmp_path), []
    encoder = lambda *args, **kw: None
    encoder.load = encoder
    monkeypatch.setattr('recsys_nb.models.dual_encoder.DualEncoderSBERT', encoder)
    monkeypatch.setattr('recsys_nb.evaluation.retrieval.evaluate_retrieval', lambda *args, **kw: None)
    monkeypatch.setattr(pipeline, '_finished', lambda data, kind, root: seen.append(root) or [])
    monkeypatch.chdir(tmp_path / 'outputs')
    pipeline.evaluate_model(load_prepared('shop', root), RunFolder(Path('sbert', run.name)))
    assert seen == [tmp_path]


def test_a_run_of_an_earlier_version_is_left_out_of_a_comparison(root, tmp_path, monkeypatch):
    import recsys_nb.command.pipeline as pipeline

    old, other, run = (finished(EncoderConfig(data='shop', tied=tied), tmp_path) for tied in (False, False, True))
    write_json(old.path / 'config.json', read_json(old.path / 'config.json') | dict(hard_negatives=5))
    encoder = lambda *args, **kw: None
    encoder.load = encoder
    monkeypatch.setattr('recsys_nb.models.dual_encoder.DualEncoderSBERT', encoder)
    monkeypatch.setattr('recsys_nb.evaluation.retrieval.evaluate_retrieval', lambda data, models, base: list(models))
    data = load_prepared('shop', root)
    assert pipeline.evaluate_model(data, run) == ['trained, untied', 'trained, tied']
    shutil.rmtree(other.path)
    assert pipeline.evaluate_model(data, run) == ['trained, tied']


def test_a_run_is_not_tested_on_what_it_learned_from(root, capsys):
    run = finished(EncoderConfig(data='shop'), root)
    try:
        write_json(run.path / 'data.json', dict(name='shop', train='another split'))
        assert recsys('--root', root, 'evaluate', '--data', 'shop', '--run', run.name) == 1
        assert 'prepared again' in capsys.readouterr().err
    finally:
        shutil.rmtree(run.path)


def test_a_shop_too_small_to_train_on_is_indexed_all_the_same(tmp_path):
    from recsys_nb.command.pipeline import run_pipeline
    from recsys_nb.data.prepare import prepare

    store = make_sample_store(tmp_path / 'raw', n_products=30, n_reviews=240)
    with gzip.open(store.reviews, 'rt') as f:
        (tmp_path / 'few.jsonl').write_text(''.join(list(f)[:22]))
    result = run_pipeline(
        prepare([tmp_path / 'few.jsonl'], [store.meta], 'corner', root=tmp_path), tmp_path, queries=['a keyboard']
    )
    assert (
        'larger than the data' in result.notes[0]
        and 'at least 20' in result.notes[1]
        and len(result.sample_answers['a keyboard'])
    )


def test_without_a_question_the_products_suggest_some(root):
    from recsys_nb.command.pipeline import _ask

    answers = _ask(root / 'outputs' / 'index' / 'shop', None, 2)
    assert len(answers) == 3 and all(map(len, answers.values()))


bad = [
    ('prepare --reviews {tmp}/none.jsonl --meta {meta} --name x', 'none.jsonl'),
    ('prepare --reviews {tmp}/empty.jsonl --meta {meta} --name x', 'empty.jsonl'),
    ('prepare --reviews {tmp}/photo.jsonl --meta {meta} --name x', 'photo.jsonl'),
    ('prepare --name x', 'expected at least one file of product metadata'),
    ('prepare --reviews {tmp}/photo.jsonl --meta {meta} --name x --max-bad many', 'max_bad'),
    ('prepare --meta {meta} --name ../x', 'name'),
    ('prepare --meta {meta} --name a\\b', 'folder name'),
    ('prepare --meta {meta} --name x --categories=', "'--categories': it is empty"),
    ('prepare --meta {meta} --name x --map title=a --map title=b', 'each field once'),
    ('prepare --meta {meta} --name x --map title=headline', "no file has a column 'headline'"),
    ('run --meta {meta} --name late --time soon', 'such as 90s'),
    ('run --meta {meta} --name late --preset tpu', 'tpu'),
    ('export 1999-01-01T00-00-00', '1999-01-01T00-00-00'),
    ('evaluate --data shop --run 1999-01-01T00-00-00', '1999-01-01T00-00-00'),
    ('evaluate --data shoe', 'shop'),
    ('evaluate', '--data'),
    ('train-encoder --data shop --epochs 0', 'epochs'),
    ('train-encoder --data shop --lr nan', 'lr'),
    ('train-encoder --data shop --preset tpu', 'tpu'),
    ('train-encoder --data shop --set freeze=1', 'frozen'),
    ('train-encoder --data shop --set keep_base', 'NAME=VALUE'),
    ('train-encoder --data shop --set frozen=many', 'true or false'),
    ('train-encoder --data shop --set informative=maybe', 'true or false'),
    ('train-encoder --data shop --set keep_base=2', 'less than 1'),
    ('train-encoder --data shop --set dim=0', "dim='0'"),
    ('train-encoder --data shop --set time=long', 'such as 90s'),
    ('train-encoder --data shop --set data=other', 'data: given twice'),
    ('train-encoder --data shop --set base=', 'no such folder'),
    ('train-score --data shop --set base=https://huggingface.co/a/b', 'no such folder'),
    ('train-encoder --data shop --seed 20261127201633', 'to 4294967295'),
    ('train-score --data shop --set temperature=1', 'head_lr'),
    ('train-score --data shop --set star_share=2', '0 to 1'),
    ('train-score --data shop --resume yesterday', 'yesterday'),
    ('recommend keyboard --k -1', '--k'),
    ('recommend keyboard --index nothing', 'nothing'),
    ('recommend keyboard --max-price cheap', '--max-price'),
    ('recommend keyboard --diversity 2', '2'),
    ('recommend --queries {tmp}/none.tsv --out {tmp}/x.run', 'none.tsv'),
    ('recommend keyboard --queries {tmp}/q.tsv --out {tmp}/x.run', '--queries does not go with --preferences'),
    ('recommend --queries {tmp}/q.tsv --requests {tmp}/r.jsonl', '--requests does not go with --queries'),
    ('recommend keyboard --json --out {tmp}/x.jsonl', '--json does not go with --out'),
    ('recommend keyboard --out {tmp}/x.doc', '.parquet'),
    ('recommend keyboard --diversity 0.5 --out {tmp}/x.run', '--out NAME.run does not go with --diversity'),
    ('recommend --requests {tmp}/varied.jsonl --out {tmp}/x.run', '--out NAME.run does not go with --diversity'),
    ('recommend keyboard --index=', "'--index': it is empty"),
    ('recommend keyboard --dislike=', "'--dislike': it is empty"),
    ('recommend keyboard --out {tmp}', 'expected a name ending'),
    ('train-encoder --data shop --resume=', "'--resume': it is empty"),
    ('serve --no-demo --url http://127.0.0.1:1', 'on no Qdrant server'),
    ('prepare --meta {meta} --name x --memory 0GB', 'not enough memory'),
    ('recommend', 'what you are looking for'),
    ('recommend --requests {tmp}/empty.jsonl', 'empty'),
    ('recommend --requests {tmp}/photo.jsonl', 'photo.jsonl'),
    ('recommend --requests {tmp}/wrong.jsonl', 'wrong.jsonl: line 2: max_price'),
    ('recommend keyboard --min-price 9 --max-price 3', 'above'),
    ('recommend --requests {tmp}/contrary.jsonl', 'contrary.jsonl: line 1: min_price is above max_price'),
    ('recommend --like nobody', 'nobody'),
    ('evaluate --data shop --index shop', '--index'),
    ('evaluate --index shop --run latest', '--run'),
    ('evaluate --index shop', '--qrels'),
    ('prepare --meta {meta} --name x --spark-master spark://host:7077', '--engine spark'),
    ('train-encoder --data shop --resume latest --epochs 3', '--resume does not go with --epochs'),
    ('train-score --data shop --resume latest --set lr=1e-3', '--resume does not go with --set'),
    ('index --data shop --base somewhere', '--run base'),
    ('index --data shop --shard 1/2 --time 10m', '--shard does not go with --time'),
    ('index --data shop --run base --shard 1/2 --url http://127.0.0.1:1', '--shard does not go with --url'),
    ('serve --no-demo --frames https://shop.example', '--no-demo does not go with --frames'),
    ('serve --cors shop.example', "origins='shop.example': expected a list of origins"),
    ('serve --root-path api', 'expected a path such as /api'),
    ('recommend keyboard --root', 'expected a path'),
    ('serve --port 99999999', '--port'),
    ('no-such-command', 'no-such-command'),
    ('index --data shop --run latest', 'no finished encoder run'),
    ('index --data shop --run base --known some', "expected 'all' or 'train'"),
]


@pytest.mark.parametrize(
    'words,names', bad, ids=[b[0].replace('{tmp}/', '').replace('--meta {meta} ', '') for b in bad]
)
def test_refusals_are_one_line_and_change_nothing(root, tmp_path, capsys, words, names):
    (tmp_path / 'empty.jsonl').touch()
    (tmp_path / 'photo.jsonl').write_bytes(bytes(range(256)) * 50)
    (tmp_path / 'contrary.jsonl').write_text('{"text": "a mouse", "min_price": 9, "max_price": 3}\n')
    (tmp_path / 'wrong.jsonl').write_text('{"text": "a mouse"}\n{"text": "a mouse", "max_price": "cheap"}\n')
    (tmp_path / 'varied.jsonl').write_text('{"text": "a mouse", "diversity": 0.5}\n')
    before = snapshot(root)
    assert recsys('--root', root, *words.format(tmp=tmp_path, meta=root / 'raw' / 'meta.jsonl.gz').split()) not in (
        0,
        None,
    )
    said = capsys.readouterr()
    assert names in said.err and len(said.err.strip().splitlines()) == 1 and not said.out
    assert snapshot(root) == before


def test_an_index_built_with_another_model_is_refused(root, capsys):
    manifest = next((root / 'outputs' / 'index' / 'shop').glob('manifest.json'))
    old = manifest.read_text()
    try:
        manifest.write_text(json.dumps(json.loads(old) | dict(fingerprint='0' * 16)))
        assert recsys('--root', root, 'recommend', 'keyboard', '--index', 'shop') == 1
        assert 'another model' in capsys.readouterr().err
    finally:
        manifest.write_text(old)


def test_an_unwritable_folder_is_refused(root, tmp_path, capsys):
    (tmp_path / 'file').write_text('not a folder')
    assert (
        recsys('--root', tmp_path / 'file', 'prepare', '--reviews', root / 'raw' / 'reviews.jsonl.gz', '--name', 'x')
        == 1
    )
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_names_of_a_proxy_reach_the_service(monkeypatch):
    got = {}
    monkeypatch.setattr('recsys_nb.serve.running.serve', lambda root, **kw: got.update(kw))
    assert recsys('serve', '--hosts', 'shop.example', '--hosts', 'www.shop.example', '--port', 8000) == 0
    assert got['hosts'] == ['shop.example', 'www.shop.example'] and (got['host'], got['port']) == ('127.0.0.1', 8000)
    got.clear()
    assert recsys('serve') == 0 and got['demo'] and not {'hosts', 'origins', 'url'} & set(got)
    assert recsys('serve', '--no-demo', '--url', 'http://db:6333') == 0 and (got['demo'], got['url']) == (
        False,
        'http://db:6333',
    )


@pytest.mark.parametrize(
    'command',
    'demo download prepare train-encoder train-score export evaluate index update recommend serve run plot'.split(),
)
def test_every_command_has_help_with_an_example(command, capsys):
    assert recsys(command, '--help') == 0
    assert 'Example' in capsys.readouterr().out


def test_the_installed_command_answers_at_once_without_torch():
    code = (
        "import sys; from recsys_nb.command.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as e: sys.exit(int(e.code or 0) or 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0 and 'recommend' in done.stdout


@pytest.fixture
def asked(tmp_path):
    "Two people's requests, in both forms."
    (tmp_path / 'q.tsv').write_text('q1\tmechanical keyboard\nq2\twebcam for calls\n')
    rows = dict(id='a', text='mechanical keyboard', k=2), dict(id='b', text=['webcam', 'for calls'], max_price=30)
    (tmp_path / 'r.jsonl').write_text('\n'.join(map(json.dumps, rows)) + '\n')
    return tmp_path


def printed(root, capsys, *words):
    "The JSON objects that a command prints."
    capsys.readouterr()
    assert recsys('--root', root, *words, '--json') == 0
    return [json.loads(l) for l in capsys.readouterr().out.splitlines()]


def ids_of(found):
    return [r['product_id'] for r in found['recommendations']]


@pytest.mark.parametrize(
    'option',
    [
        '--max-price 60',
        '--min-price 20',
        '--brand BRAND',
        '--category Keyboards',
        '--like ID',
        '--dislike ID',
        '--exclude ID',
        '--history ID',
        '--diversity 0.5',
    ],
)
def test_no_option_is_ignored_however_one_asks(root, asked, capsys, option):
    "What an option does to one person's answer, it does to many people's."
    (without,) = printed(root, capsys, 'recommend', 'mechanical keyboard', '--k', 5)
    first = without['recommendations'][0]
    swap = dict(ID=first['product_id'], BRAND=first['brand'] or 'Brindlo')
    words = [swap.get(w, w) for w in option.split()]
    (alone,) = printed(root, capsys, 'recommend', 'mechanical keyboard', '--k', 5, *words)
    for name, file, k in (('--queries', 'q.tsv', 5), ('--requests', 'r.jsonl', 2)):
        many = printed(root, capsys, 'recommend', name, asked / file, '--k', 5, *words)
        assert ids_of(many[0]) == ids_of(alone)[:k]
    if option.split()[0] in ('--exclude', '--dislike', '--like'):
        assert ids_of(alone) != ids_of(without)


def test_a_request_says_itself_what_differs(root, asked, capsys):
    found = printed(root, capsys, 'recommend', '--requests', asked / 'r.jsonl', '--k', 4, '--max-price', 90)
    assert [o['id'] for o in found] == ['a', 'b'] and len(found[0]['recommendations']) == 2
    assert all(r['price'] <= 90 for r in found[0]['recommendations']) and all(
        r['price'] <= 30 for r in found[1]['recommendations']
    )
    (asked / 'r.jsonl').write_text(
        '{"text": "mechanical keyboard", "k": 5}\n'
    )  # which the API takes where nothing is said
    assert [
        len(o['recommendations']) for o in printed(root, capsys, 'recommend', '--requests', asked / 'r.jsonl', '--k', 8)
    ] == [5]
    (asked / 'r.jsonl').write_text('{"id": null, "text": "a mouse"}\n' * 2)
    assert [o['id'] for o in printed(root, capsys, 'recommend', '--requests', asked / 'r.jsonl')] == ['1', '2']


@pytest.mark.parametrize(
    'form, ending', list(product(['--queries', '--requests', 'words'], ['.run', '.jsonl', '.csv', '.parquet']))
)
def test_answers_in_the_form_that_the_ending_says(root, asked, form, ending):
    forms = {
        '--queries': (['--queries', asked / 'q.tsv'], ['q1', 'q2']),
        '--requests': (['--requests', asked / 'r.jsonl'], ['a', 'b']),
    }
    who, ids = forms.get(form, (['a keyboard'], ['1']))
    path = asked / f'answers{ending}'
    assert recsys('--root', root, 'recommend', *who, '--k', 2, '--out', path) == 0
    if ending == '.jsonl':
        found = [json.loads(l)['id'] for l in path.read_text().splitlines()]
    elif ending == '.run':
        found = [l.split()[0] for l in path.read_text().splitlines()]
    else:
        table = pd.read_csv(path) if ending == '.csv' else pd.read_parquet(path)
        assert {'place', 'title', 'price', 'why'} <= set(table)
        found = table.id.astype(str).tolist()
    assert list(dict.fromkeys(found)) == ids


def test_root_is_forgotten_when_the_command_is_done(root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    before = dict(os.environ)
    assert recsys('recommend', 'a keyboard', '--root', root) == 0
    assert dict(os.environ) == before
    assert recsys('recommend', 'a keyboard') == 1 and 'no index here' in capsys.readouterr().err


start = 'from recsys_nb.command.cli import main; main()'
title = 'Tastatur “leise” – 静音 keyboard 🎹 für 5€'


@pytest.fixture(scope='module')
def strange(tmp_path_factory):
    "A shop of one product, whose name has letters of everywhere."
    root = tmp_path_factory.mktemp('strange')
    (root / 'meta.jsonl').write_text(json.dumps(dict(parent_asin='B1', title=title, price=5)) + '\n', encoding='utf-8')
    assert recsys('prepare', '--root', root, '--meta', root / 'meta.jsonl', '--name', 'one') == 0
    assert recsys('index', '--root', root, '--data', 'one', '--run', 'base') == 0
    return root


@pytest.mark.parametrize('encoding, words', [('utf-8', []), ('cp1252', ['--json']), ('ascii', [])])
def test_a_pipe_of_any_encoding_gets_everything(strange, encoding, words):
    settings = os.environ | dict(PYTHONIOENCODING=encoding, NO_COLOR='1', COLUMNS='30', PYTHONUTF8='0')
    command = [sys.executable, '-c', start, '--root', strange, 'recommend', 'Größe 静音 keyboard', '--k', '1', *words]
    done = subprocess.run(command, capture_output=True, env=settings)
    assert done.returncode == 0, done.stderr
    out = done.stdout.decode(encoding)
    if words:
        assert json.loads(out)['recommendations'][0]['title'] == title
    else:
        assert '\x1b' not in out
        kept = title.encode(encoding, 'backslashreplace').decode(encoding)
        shown = re.sub(r'[\s│|]', '', out)
        assert all(w in shown for w in kept.split()), out


def test_who_reads_only_the_beginning_has_made_no_mistake(root):
    command = f'{sys.executable} -c "{start}" --root {root} recommend keyboard --json | true; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(['bash', '-c', command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, '')


def test_an_interruption_is_told(monkeypatch, capsys):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr('recsys_nb.core.machine.doctor', interrupted)
    assert recsys('doctor') == 130 and capsys.readouterr().err == 'recsys: interrupted\n'


def test_words_that_are_no_text_are_told(capsys):
    assert recsys('recommend', os.fsdecode(b'caf\xe9')) == 1
    assert ': not in UTF-8' in capsys.readouterr().err


@pytest.mark.parametrize('where, code, said', [('> /dev/full', 1, 'recsys: No space left on device'), ('>&-', 0, '')])
def test_an_output_that_is_full_or_closed_is_told_in_a_line(where, code, said):
    done = subprocess.run(
        ['bash', '-c', f'{sys.executable} -c "{start}" --help {where}'], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr.strip()) == (code, said)


def works(pid):
    "Whether a process lives that was started as a worker."
    try:
        return b'spawn_main' in Path(f'/proc/{pid}/cmdline').read_bytes()
    except OSError:
        return False


def test_several_workers_answer_from_one_index_and_go_together(root):
    "Real processes on the index of this module, asked at once."
    with open_port('127.0.0.1', 0) as s:
        port = s.getsockname()[1]
    command = [
        sys.executable,
        '-c',
        'from recsys_nb.command.cli import main; main()',
        'serve',
        '--root',
        root,
        '--no-demo',
        '--workers',
        '2',
        '--port',
        str(port),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as p:
        try:
            address = re.search(r'http://[\d.:]+', p.stdout.readline())[0]
            started = [next(line for line in p.stderr if 'Started server process' in line) for _ in range(2)]
            team = [c for c in Path(f'/proc/{p.pid}/task/{p.pid}/children').read_text().split() if works(c)]

            def ask(_):
                return httpx.post(f'{address}/recommend', json=dict(text='a quiet keyboard', k=3), timeout=60).json()[
                    'recommendations'
                ]

            with ThreadPoolExecutor(8) as pool:
                answers = list(pool.map(ask, range(40)))
            assert answers[0] and all(a == answers[0] for a in answers)
        finally:
            p.send_signal(signal.SIGTERM)
        out, err = p.communicate(timeout=60)
    assert p.returncode == 0 and 'Traceback' not in err, err
    told = [json.loads(line) for line in err.splitlines()]
    assert sum(o.get('path') == '/recommend' and o['status'] == 200 for o in told) == 40
    assert len(team) == len(set(started)) == 2 and not any(map(works, team))


def test_a_table_is_no_wider_than_a_terminal(monkeypatch, capsys):
    told = 'A quiet keyboard for the office, and for home'
    frame = pd.DataFrame(dict(product=[told], price=[9.5], why=['Hardly a sound']))
    for name, value in dict(TTY_COMPATIBLE='1', TERM='xterm', COLUMNS='44').items():
        monkeypatch.setenv(name, value)
    _print_frame(frame, 'a keyboard')
    assert max(len(re.sub('\x1b[^m]*m', '', line)) for line in capsys.readouterr().out.splitlines()) <= 44


def test_a_time_is_refused_where_parts_are_encoded(root, capsys):
    parts = root / 'outputs' / 'index' / '.shop.encoded'
    parts.mkdir()
    try:
        assert recsys('--root', root, 'index', '--data', 'shop', '--run', 'base', '--time', '5m') == 1
        assert '--time: all is indexed' in capsys.readouterr().err
    finally:
        parts.rmdir()


def test_a_seed_is_for_the_split_and_for_both_trainings(root, tmp_path, monkeypatch):
    import recsys_nb.command.cli as cli, recsys_nb.command.pipeline as pipeline

    given = []
    monkeypatch.setattr(pipeline, 'run_pipeline', lambda data, *args, seed, **kw: given.extend([data, seed]))
    monkeypatch.setattr(cli, '_tell_result', lambda result: None)
    meta = root / 'raw' / 'meta.jsonl.gz'
    assert recsys('--root', tmp_path, 'run', '--meta', meta, '--name', 'shop', '--seed', 5) == 0
    assert given[0].report['settings']['seed'] == given[1] == 5


@pytest.mark.parametrize(
    'words, said',
    [
        (['index', '--data', 'shop', '--run', 'base', '--time', 'soon'], "time='soon': expected a time such as 90s"),
        (['train-encoder', '--data', 'shop', '--set', 'epochs=2', '--epochs', 3], 'epochs: given twice, as 3 and as 2'),
        (['train-score', '--data', 'shop', '--set', 'lr=1e-3', '--set', 'lr=1e-4'], 'lr: given twice'),
    ],
)
def test_what_cannot_be_meant_is_refused(root, capsys, words, said):
    assert recsys('--root', root, *words) == 1
    assert said in capsys.readouterr().err


def test_the_demo_has_one_process(root, capsys):
    assert recsys('--root', root, 'serve', '--workers', 2) == 1
    assert '--workers: only with --no-demo' in capsys.readouterr().err
