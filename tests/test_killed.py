"""Whatever writes may be killed at any moment: the same command again gives what it would have given,
nothing is left over, and who reads meanwhile does not notice."""

import json, multiprocessing, shutil, signal, time

import httpx, numpy as np, pandas as pd, pytest

from recsys_nb.core.files import read_json
from recsys_nb.data.prepare import load_prepared
from recsys_nb.data.sample_store import make_sample_store
from recsys_nb.index.build import index_folder
from recsys_nb.index.products import ProductIndex
from recsys_nb.index.update import _copy
from recsys_nb.serve.running import open_port
from killable import child
from test_training import make_tiny
from test_update import changes, held

context = multiprocessing.get_context('forkserver')
context.set_forkserver_preload(['recsys_nb.command.cli', 'recsys_nb.command.pipeline', 'recsys_nb.index.update'])


def start(root, words, last=0):
    "A command at work, and the number of its steps; killed at one of them."
    steps = context.Value('i', 0)
    p = context.Process(target=child, args=(['--root', str(root), *map(str, words)], steps, last))
    p.start()
    return p, steps


def run(root, words, last=0, seconds=None):
    "The exit code of a command, and how many steps it took; killed at one of them, or after some time."
    p, steps = start(root, words, last)
    p.join(seconds)
    if seconds:
        p.kill()
    p.join()
    return p.exitcode, steps.value


def files(root):
    "All files but those whose names are drawn by chance, or say when."
    found = (
        p for part in ('data', 'outputs') for p in (root / part).rglob('*') if p.is_file() and 'shard' not in p.parts
    )
    return {'/'.join(part for part in p.relative_to(root).parts if not part.startswith('20')) for p in found}


def prepared(root, name):
    data = load_prepared(name, root)
    report = {k: v for k, v in data.report.items() if k != 'files'}
    return [getattr(data, part) for part in ('products', 'train', 'val', 'test', 'interactions')], json.dumps(
        report, default=str
    )


def same_data(root, other, name):
    (tables, report), (others, other_report) = prepared(root, name), prepared(other, name)
    for a, b in zip(tables, others):
        pd.testing.assert_frame_equal(a, b)
    assert report.replace(str(root), '') == other_report.replace(str(other), '')


def same_index(root, other):
    a, b = (index_folder(r, 'shop') for r in (root, other))
    one, two = (read_json(f / 'manifest.json') | dict(built_at='') for f in (a, b))
    assert one == two
    for table in ('contents', 'products'):
        pd.testing.assert_frame_equal(*(pd.read_parquet(f / f'{table}.parquet') for f in (a, b)))
    with ProductIndex.open(a) as x, ProductIndex.open(b) as y:
        ids = sorted(load_prepared('shop', root).products.product_id)
        mine, yours = held(x, ids), held(y, ids)
        assert len(x) == len(y) == len(mine) and mine.keys() == yours.keys()
        for i in ids:
            assert mine[i][0] == yours[i][0] and mine[i][1].keys() == yours[i][1].keys()
            for kind in ('meaning', 'reviews', 'sentences'):
                if kind in mine[i][1]:
                    np.testing.assert_array_equal(mine[i][1][kind], yours[i][1][kind])
        for query in ('a green chair', 'sturdy and warm'):
            assert [h.product_id for h in x.search(text=query)] == [h.product_id for h in y.search(text=query)]


@pytest.fixture(scope='module')
def shop(tmp_path_factory):
    "A raw store, prepared and indexed by commands."
    root = tmp_path_factory.mktemp('shop')
    make_sample_store(root / 'raw', n_products=40, n_reviews=240)
    tiny = make_tiny(root)
    assert run(root, prepare_words(root, 'shop'))[0] == 0
    assert run(root, ['index', '--data', 'shop', '--run', 'base', '--base', tiny])[0] == 0
    return root


def prepare_words(root, name):
    raw = root / 'raw'
    return ['prepare', '--reviews', raw / 'reviews.jsonl.gz', '--meta', raw / 'meta.jsonl.gz', '--name', name]


def copied(shop, to):
    "A copy, in which the prepared data name the copied files."
    shutil.copytree(shop, to, copy_function=_copy)
    report = to / 'data' / 'preprocessed' / 'shop' / 'report.json'
    report.write_text(report.read_text().replace(str(shop), str(to)))
    return to


def killed(shop, tmp_path, words, same):
    "Run a command whole, and killed at its first step, its last but one and at half time; all have to end alike."
    whole = copied(shop, tmp_path / 'whole')
    begun = time.monotonic()
    code, steps = run(whole, words(whole))
    half = (time.monotonic() - begun) / 2
    assert code == 0
    assert not [f for f in files(whole) if any(part.startswith('.') for part in f.split('/'))]
    died = 0
    for i, moment in enumerate([dict(last=1), dict(last=steps - 1), dict(seconds=half)]):
        root = copied(shop, tmp_path / str(i))
        code, _ = run(root, words(root), **moment)
        assert code in (0, -signal.SIGKILL)
        died += code != 0
        assert run(root, words(root))[0] == 0
        assert files(root) == files(whole), moment
        same(root, whole)
        shutil.rmtree(root)
    assert died >= 2


def test_prepare(shop, tmp_path):
    words = lambda root: [*prepare_words(root, 'shop'), '--split', 'product']
    killed(shop, tmp_path, words, lambda a, b: same_data(a, b, 'shop'))


def update_words(root, shop):
    reviews, meta, gone = changes(shop)
    return [
        'update',
        '--name',
        'shop',
        '--reviews',
        reviews[0],
        '--meta',
        meta[0],
        *(w for i in gone for w in ('--remove', i)),
    ]


def test_update(shop, tmp_path):
    def same(root, whole):
        same_data(root, whole, 'shop')
        same_index(root, whole)

    killed(shop, tmp_path, lambda root: update_words(root, shop), same)


def test_an_update_while_it_is_served(shop, tmp_path):
    "Other processes serve and update; no request fails, and the answers come to know what is new."
    root = copied(shop, tmp_path / 'served')
    with open_port('127.0.0.1', 0) as s:
        port = s.getsockname()[1]
    server, _kept = start(root, ['serve', '--no-demo', '--port', port])
    asked = []
    try:
        with httpx.Client(base_url=f'http://127.0.0.1:{port}', timeout=60) as api:
            for _ in range(600):
                assert server.is_alive()
                try:
                    api.get('/health')
                    break
                except httpx.TransportError:
                    time.sleep(0.1)

            def ask():
                found = api.post('/recommend', json=dict(text='a green chair', k=40))
                assert found.status_code == 200, found.text
                asked.append({r['product_id'] for r in found.json()['recommendations']})
                return asked[-1]

            before = ask()
            update, _also = start(root, update_words(root, shop))
            while update.is_alive():
                ask()
            assert update.exitcode == 0
            until, new = time.time() + 120, {'NEW0', 'NEW1', 'NEW2'}  # one family, of which one is shown
            while not ask() & new:
                assert server.is_alive() and time.time() < until
            data = load_prepared('shop', root)
            assert not before & new and len(asked) > 5
            assert ask() <= set(data.products.product_id) and api.get('/products/NEW1').json()['price'] == 30
            assert not ask() & set(changes(shop)[2])
    finally:
        server.terminate()
        server.join()
