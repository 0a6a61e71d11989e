"The same searches on exact numpy, embedded Qdrant, its client's local mode and, with QDRANT_URL set, a real server."

import os, signal, subprocess, sys, time, uuid
from pathlib import Path
from types import SimpleNamespace

import numpy as np, pandas as pd, pytest
from qdrant_client import QdrantClient

from recsys_nb.core.files import RecsysError
from recsys_nb.index import qdrant
from recsys_nb.index.build import IndexSettings, index_folder, index_products
from recsys_nb.index.products import ProductIndex, Query, followed, index_format, with_scores
from recsys_nb.index.qdrant import EdgeStore, ServerStore, ServerUnavailable
from recsys_nb.evaluation.fusion import Keywords
from recsys_nb.index.stores import Candidate, Filters, as_tuple, payload_of
from exact_store import ExactStore, passes

vocabulary = 'quiet loud keyboard mouse office gaming wireless usb compact heavy light battery red blue'.split()


def catalogue(n, seed=0, dim=8):
    "Products with many equal vectors, equal texts and unknown prices, so that ties and gaps abound."
    rng = np.random.default_rng(seed)
    kinds = rng.normal(size=(max(n // 4, 1), dim)).astype(np.float32)
    vectors = kinds[rng.integers(0, len(kinds), n)]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = [
        dict(
            product_id=f'p{i:04d}',
            family_id=f'f{rng.integers(0, n // 2 + 1)}',
            title=f'product {i}',
            text=' '.join(rng.choice(vocabulary, rng.integers(0, 6))),
            price=None if rng.random() < 0.2 else float(rng.integers(1, 20) * 5),
            brand=rng.choice(['Acme', 'ACME ', 'Bolt', None]),
            categories=['Electronics'] + [['Mice'], ['Keyboards', 'Mechanical']][rng.integers(0, 2)],
            features=[],
            images=[],
        )
        for i in range(n)
    ]
    scored = [r['product_id'] for r in rows if rng.random() < 0.7]
    return (
        pd.DataFrame(rows),
        vectors,
        pd.DataFrame(dict(product_id=scored, score=rng.integers(4, 21, len(scored)) / 4)),
    )


def in_memory(name):
    "A store in the client's own imitation of a server."
    return ServerStore('memory', name, QdrantClient(':memory:'))


def stores(tmp_path):
    "Every backend there is."
    yield 'edge', EdgeStore(tmp_path, dim=8)
    memory = in_memory('test')
    memory.create(8)
    yield 'local mode', memory
    if url := os.environ.get('QDRANT_URL'):
        server = ServerStore(url, f'test-{uuid.uuid4().hex[:8]}')
        server.create(8)
        yield 'server', server


def filled(store, products, vectors, scores, seed=None):
    "An index of everything; with a seed, half of the products have one to four reviews."
    p = with_scores(products.assign(_at=range(len(products))), scores)
    kw, rng = Keywords(4.0), np.random.default_rng(seed)
    points = []
    for r in p.to_dict('records'):
        v = dict(meaning=vectors[r['_at']], words=kw.document(r['text']))
        if seed is not None and r['_at'] % 5:  # some have no categories
            v['kind'] = np.eye(8, dtype=np.float32)[[r['_at'] % 3]]
        if seed is not None and rng.random() < 0.5:
            said = vectors[r['_at']] + 0.3 * rng.normal(size=(rng.integers(1, 5), 8))
            v['reviews'] = (said / np.linalg.norm(said, axis=1, keepdims=True)).astype(np.float32)
            v['review_words'] = kw.document(' '.join(rng.choice(vocabulary, 6)))
        points.append((payload_of(r) | dict(reviews=[], n_reviews=len(v.get('reviews', ())), sentences=[]), v))
    store.upsert(points)
    store.finish()
    manifest = dict(
        avg_len=4.0,
        dim=8,
        fingerprint='x',
        n_products=len(p),
        weights=dict(star=0.01, mean=3.0),
        has_reviews=seed is not None,
        has_kinds=seed is not None,
    )
    return ProductIndex(store, manifest)


filters = [
    Filters(),
    Filters(max_price=30),
    Filters(min_price=20, max_price=25),
    Filters(min_score=4),
    Filters(category='mechanical'),
    Filters(category=('Mice', 'Nothing')),
    Filters(brand='acme'),
    Filters(not_brand='acme'),
    Filters(not_family=('f1', 'f2', 'f5')),
    Filters(not_family='f3', max_price=80),
    Filters(family=('f3', 'f4')),
    Filters(category='Nothing'),
]


@pytest.fixture(scope='module')
def backends(tmp_path_factory):
    made = catalogue(300)
    reference = filled(ExactStore(), *made, seed=5)
    others = {name: filled(s, *made, seed=5) for name, s in stores(tmp_path_factory.mktemp('index'))}
    yield reference, others, made
    for index in others.values():
        if isinstance(index.store, ServerStore) and not index.store.lent:
            index.store.client.delete_collection(index.store.collection)
        index.close()


near = 2e-4  # kinds are kept in half precision


def agree(a, b):
    "The same products in the same order, except where two values are equal but for rounding."
    assert len(a) == len(b)
    assert np.allclose([h.value for h in a], [h.value for h in b], atol=near)
    for x, y in zip(a, b):
        if x.product_id == y.product_id:
            assert x.signals.keys() == y.signals.keys() and np.allclose(
                [x.signals[k] for k in x.signals], [y.signals[k] for k in x.signals], atol=near
            )
        if x.product_id != y.product_id:
            assert (
                abs(x.value - y.value) < near
                and abs(x.value - next((h.value for h in b if h.product_id == x.product_id), y.value)) < near
            )


@pytest.mark.parametrize('families', [False, True])
@pytest.mark.parametrize('what', ['dense', 'words', 'hybrid', 'nothing'])
def test_the_same_answers_everywhere(backends, what, families):
    reference, others, (_, vectors, _) = backends
    rng = np.random.default_rng(1)
    for f in filters:
        q = vectors[rng.integers(len(vectors))] + 0.3 * rng.normal(size=8)
        q = (q / np.linalg.norm(q)).astype(np.float32) if what in ('dense', 'hybrid') else None
        text = ' '.join(rng.choice(vocabulary, 3)) if what in ('words', 'hybrid') else None
        expected = reference.search(q, text, k=12, filters=f, families=families, n=300, exact=True)
        for name, index in others.items():
            found = index.search(q, text, k=12, filters=f, families=families, n=300, exact=True)
            if what == 'nothing':
                assert [h.product_id for h in found] == [h.product_id for h in expected], name
            else:
                agree(found, expected)
            assert index.count(f) == reference.count(f), (name, f)


def test_what_the_mask_says():
    mouse = dict(product_id='m1', family_id='m', price=25.0, category_keys=['electronics', 'mice'])
    met = [
        passes(f, mouse)
        for f in (
            Filters(),
            Filters(category=' Mice'),
            Filters(max_price=20),
            Filters(min_score=1),
            Filters(not_family='m'),
        )
    ]
    assert met == [True, True, False, False, False]


def test_filters_mean_what_the_mask_says(backends):
    reference, others, (products, vectors, scores) = backends
    payloads = [payload_of(r) for r in with_scores(products, scores).to_dict('records')]
    for f in filters:
        wanted = {p['product_id'] for p in payloads if passes(f, p)}
        for name, index in others.items():
            assert {h.product_id for h in index.search(vectors[0], k=300, filters=f, exact=True)} == wanted, (name, f)


def test_ties_are_broken_by_id_however_many(tmp_path):
    n = 450  # far more equal products than candidates are asked for
    products, _, _ = catalogue(n)
    for _, store in stores(tmp_path):
        index = filled(
            store,
            products.assign(text='mouse', family_id=products.product_id)[::-1].reset_index(drop=True),
            np.tile(np.eye(8, dtype=np.float32)[0], (n, 1)),
            None,
        )
        for q in ((np.eye(8, dtype=np.float32)[0], None), (None, 'mouse')):
            assert [h.product_id for h in index.search(*q, k=5)] == [f'p{i:04d}' for i in range(5)]
        index.close()


def test_change_and_remove(tmp_path):
    products, vectors, scores = catalogue(40)
    for _, store in stores(tmp_path):
        index = filled(store, products, vectors, scores)
        index.add(products.iloc[:1].assign(price=77.0, title='new'), vectors[:1])
        assert index.store.retrieve(['p0000'])['p0000'][0]['title'] == 'new' and len(index) == 40
        assert index.count(Filters(min_price=77, max_price=77)) == 1
        index.remove(['p0000', 'p0001'])
        assert len(index) == 38 and index.store.retrieve(['p0000']) == {}
        with pytest.raises(RecsysError, match='expected 1 of length 8'):
            index.add(products.iloc[:1], [[1.0, 2.0]])
        assert sum(len(o) for o in index.store.scroll(n=7)) == 38
        index.close()


def test_more_than_there_is(backends):
    reference, others, (_, vectors, _) = backends
    for index in others.values():
        assert len(index.search(vectors[0], 'mouse', k=10_000)) == 300
    with pytest.raises(RecsysError, match='k=-1'):
        reference.search(vectors[0], k=-1)


@pytest.mark.parametrize(
    'bad',
    [dict(min_price=3, max_price=2), dict(max_price=float('nan')), dict(min_score=-1), dict(max_price=float('inf'))],
)
def test_filters_that_make_no_sense(bad):
    with pytest.raises(RecsysError):
        Filters(**bad)


def test_a_query_with_nothing_but_stop_words(backends):
    for index in backends[1].values():
        assert index.search(text='of the and') == index.search(text='of the and')
        assert index.search(text='xyzzy') == []


build = '''
import sys, time, numpy as np
sys.path.insert(0, {tests!r})
from test_product_index import catalogue
from recsys_nb.index.build import index_products
products, vectors, scores = catalogue(4000)
at = dict(zip(products.text.index, range(len(products))))
calls = []
def slow(texts):
    calls.append(len(texts)); time.sleep({pause})
    return np.tile(np.eye(8, dtype=np.float32)[0], (len(texts), 1))
index = index_products({folder!r}, products, slow, fingerprint='x', scores=scores, dim=8)
print(len(index), sum(calls))
'''


def test_a_killed_build_goes_on(tmp_path):
    script = lambda pause: [
        sys.executable,
        '-c',
        build.format(tests=str(Path(__file__).parent), folder=str(tmp_path / 'idx'), pause=pause),
    ]
    first = subprocess.Popen(script(1.0))
    state = tmp_path / '.idx.building' / 'building.json'
    until = time.time() + 300
    while time.time() < until and not (state.exists() and '"products": 1' in state.read_text()):
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert not (tmp_path / 'idx').exists(), 'half an index must not be seen'
    with pytest.raises(RecsysError, match='no index here'):
        ProductIndex.open(tmp_path / 'idx')
    n, encoded = map(int, subprocess.run(script(0), capture_output=True, text=True, check=True).stdout.split())
    assert n == 4000 and encoded <= 3000, 'what was done before the kill is not done again'
    assert not (tmp_path / '.idx.building').exists()


def test_other_data_starts_anew_and_the_old_index_stays_readable(tmp_path):
    products, vectors, _ = catalogue(30)
    old = index_products(tmp_path / 'idx', products, vectors, 'x')
    new = index_products(tmp_path / 'idx', products.iloc[:10], vectors[:10], 'x')
    assert (len(old), len(new)) == (30, 10)
    assert len(old.search(vectors[0], k=30)) == 30, 'a reader keeps what it opened'
    old.close()
    new.close()


def test_what_is_being_changed_is_not_opened(tmp_path):
    products, vectors, _ = catalogue(30)
    with index_products(tmp_path / 'idx', products, vectors, 'x') as index:
        qdrant._lock(index.store.lock, index.folder, alone=True)
        with pytest.raises(RecsysError, match='another program is changing'):
            ProductIndex.open(tmp_path / 'idx')


def test_a_store_killed_while_it_was_made_is_made_whole(tmp_path, monkeypatch):
    "It went on without the fields that filters and counts need, and no finished index could be opened."
    with monkeypatch.context() as m:
        m.setattr(qdrant, '_indexed', dict(wrong='Wrong') | qdrant._indexed)
        with pytest.raises(RecsysError):
            EdgeStore(tmp_path, dim=8)
    store = EdgeStore(tmp_path, dim=8)
    store.upsert([(dict(product_id='a', brand_key='acme'), dict(meaning=np.ones(8)))])
    assert store.facet('brand_key') == {'acme': 1} and {f.name for f in tmp_path.iterdir()} == {'lock', 'shard'}
    store.close()

    made, server = [], in_memory('x')
    monkeypatch.setattr(server.client, 'create_payload_index', lambda _, name, kind: made.append(1 / (name != 'score')))
    with pytest.raises(ZeroDivisionError):
        server.create(8)
    monkeypatch.setattr(server.client, 'create_payload_index', lambda _, name, kind: made.append(name))
    server.create(8)
    assert made[1:] == list(qdrant._indexed)


def test_a_full_disk_is_told(tmp_path, monkeypatch):
    "Qdrant maps files into memory, and where they find no room the process ends with a bus error."
    (tmp_path / 'old').mkdir()
    old = EdgeStore(tmp_path / 'old', dim=8)
    monkeypatch.setattr(qdrant, 'disk_usage', lambda folder: SimpleNamespace(free=3 * 2**20))
    for write in (lambda: EdgeStore(tmp_path, dim=8), lambda: old.delete(['P1'])):
        with pytest.raises(RecsysError, match='3 MB are free on this disk'):
            write()
    assert old.count() == 0
    old.close()


def test_what_others_read_is_not_changed(tmp_path):
    products, vectors, _ = catalogue(30)
    with index_products(tmp_path / 'idx', products, vectors, 'x') as index:
        with ProductIndex.open(tmp_path / 'idx'):
            for change in (
                lambda: index.add(products.iloc[:1].assign(product_id='new'), vectors[:1]),
                lambda: index.remove('p0000'),
            ):
                with pytest.raises(RecsysError, match='stop that first'):
                    change()
        index.add(products.iloc[:1].assign(product_id='new'), vectors[:1])
        index.remove('p0000')
        with ProductIndex.open(tmp_path / 'idx') as other:
            assert len(other) == 30 and other.store.retrieve(['new', 'p0000']).keys() == {'new'}


def test_a_build_killed_while_the_old_index_was_being_removed(tmp_path):
    products, vectors, _ = catalogue(30)
    folder, left = tmp_path / 'idx', tmp_path / '.idx.old'
    index_products(folder, products, vectors, 'x').close()
    for n in (20, 10):  # the next build, and the one after that
        (left / 'shard').mkdir(parents=True)
        (left / 'shard' / 'half removed').write_text('x')
        with index_products(folder, products.iloc[:n], vectors[:n], 'x') as index:
            assert len(index) == n
        assert not left.exists()


@pytest.mark.parametrize(
    'wrong, message',
    [
        (dict(quantize=True), 'quantize: no such setting; there are: url, quantise'),
        (dict(known='some'), "expected 'all' or 'train'"),
        (dict(shards=0), 'shards=0'),
        (dict(replicas=2), 'give its `url`'),
        (dict(per_family=1.5), 'per_family=1.5'),
    ],
)
def test_settings_that_make_no_sense(wrong, message):
    with pytest.raises(RecsysError, match=message):
        IndexSettings(**wrong)


def test_an_index_of_another_version(tmp_path):
    products, vectors, _ = catalogue(10)
    index_products(tmp_path / 'idx', products, vectors, 'x').close()
    file = tmp_path / 'idx' / 'manifest.json'
    file.write_text(file.read_text().replace(f'"format": {index_format}', '"format": 3'))
    with pytest.raises(RecsysError, match='another version.*format 3, not .*build it anew with `recsys index`'):
        ProductIndex.open(tmp_path / 'idx')


@pytest.mark.parametrize('manifest', ['[]', '{}', '7', '{"name": "an app"}', '', '{"name": "idx", "dim'])
def test_a_manifest_of_another_kind_is_told_and_no_hindrance(tmp_path, manifest):
    folder, (products, vectors, _) = tmp_path / 'index' / 'idx', catalogue(10)
    folder.mkdir(parents=True)
    (folder / 'manifest.json').write_text(manifest)
    with pytest.raises(RecsysError, match='no index here|another version'):
        ProductIndex.open(index_folder(tmp_path))
    part = folder.with_name('.idx.building')
    part.mkdir()
    (part / 'building.json').write_text(manifest)
    index_products(folder, products, vectors, 'x').close()
    assert index_folder(tmp_path) == folder and not list(folder.parent.glob('.*.building'))


def encode(texts):
    "Eight numbers that depend on the words, and praise that can be told from complaints."
    out = np.full((len(texts), 8), 0.01, np.float32)
    for i, t in enumerate(texts):
        for w in t.casefold().split():
            out[i, sum(map(ord, w)) % 6] += 1
        out[i, 6] += 9 * ('love' in t or 'works' in t)
        out[i, 7] += 9 * ('hate' in t or 'broke' in t)
    return out / np.linalg.norm(out, axis=1, keepdims=True)


def reviews_of(*rows):
    return pd.DataFrame(rows, columns=['family_id', 'review_id', 'text']).assign(title='')


def test_reviews_are_searched_and_come_to_a_standing_index(tmp_path):
    products, vectors, scores = catalogue(30)
    products['family_id'] = products.product_id
    first = reviews_of(
        ('p0001', 'r1', 'I love how quiet the office keyboard is.'),
        ('p0002', 'r2', 'I hate how the wheel broke after two days.'),
    )
    more = reviews_of(
        ('p0001', 'r3', 'I love the big red battery of this mouse and it works for weeks.'),
        ('p0003', 'r4', 'It works and I love the wireless usb stick.'),
        ('nobody', 'r5', 'It works.'),
    )
    for settings in (IndexSettings(), IndexSettings(url='memory')):
        how = dict(
            fingerprint='x', encode=encode, settings=settings, client=QdrantClient(':memory:') if settings.url else None
        )
        with index_products(tmp_path / 'a', products, vectors, reviews=first, **how) as index:
            assert index.manifest['has_reviews'] and index.manifest['known'] == 'all'
            query = encode(['quiet office keyboard'])[0]
            best = max(index.search(query, k=30), key=lambda h: h.signals.get('reviews', -1))
            assert best.product_id == 'p0001' and sum('reviews' in h.signals for h in index.search(query, k=30)) == 2
            said = index.store.retrieve(['p0001', 'p0002'], ['sentences'])
            assert said['p0001'][0]['sentences'] == ['I love how quiet the office keyboard is.'] and said['p0001'][1][
                'sentences'
            ].shape == (1, 8)
            assert said['p0002'][0]['sentences'] == [] and 'sentences' not in said['p0002'][1], (
                'a complaint is no reason'
            )
            assert [h.product_id for h in index.search(text='wheel', k=1)] == ['p0002'], 'words of reviews are searched'
            assert index.add_reviews(more, encode) == 2
            grown = {
                p['product_id']: (p, v) for part in index.store.scroll(vectors=['meaning', 'reviews']) for p, v in part
            }
            assert index.add_reviews(more, encode) == 0, 'nothing new'
            index.add(products.iloc[1:2].assign(price=1.0), vectors[1:2])
            kept = index.store.retrieve(['p0001'], ['reviews'])['p0001']
            assert kept[0]['price'] == 1 and len(kept[1]['reviews']) == 2 and len(index) == 30, (
                'a changed product keeps its reviews'
            )
        with index_products(tmp_path / 'b', products, vectors, reviews=pd.concat([first, more]), **how) as index:
            at_once = {
                p['product_id']: (p, v) for part in index.store.scroll(vectors=['meaning', 'reviews']) for p, v in part
            }
            for i, (p, v) in at_once.items():
                assert grown[i][0] == p
                for k in v:
                    assert np.allclose(v[k], grown[i][1][k], atol=1e-5), (i, k, 'added later or at once is the same')


def test_families_have_at_most_so_many_reviews(tmp_path):
    products, vectors, _ = catalogue(10)
    many = reviews_of(
        *(('f0', f'r{i:03d}', f'I love this, it works {"very " * (i % 7)}well in room {i}.') for i in range(60))
    )
    with index_products(
        tmp_path / 'a',
        products.assign(family_id='f0'),
        vectors,
        'x',
        reviews=many,
        encode=encode,
        settings=IndexSettings(per_family=3, sentences=2),
    ) as index:
        (p, v), *others = index.store.retrieve(products.product_id.tolist(), ['reviews', 'sentences']).values()
        assert len(v['reviews']) == 3 and len(v['sentences']) == len(p['sentences']) == 2 and len(others) == 9


def test_a_kill_between_the_two_renames_costs_nothing(tmp_path, monkeypatch):
    products, vectors, _ = catalogue(30)
    folder, rename = tmp_path / 'index' / 'idx', Path.rename
    index_products(folder, products.iloc[:10], vectors[:10], 'x').close()

    def killed(self, to):
        if self.name == '.idx.building':
            raise KeyboardInterrupt
        return rename(self, to)

    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr(Path, 'rename', killed)
        index_products(folder, products, vectors, 'x')
    assert not folder.exists() and index_folder(tmp_path) == folder, 'the old one is found again'
    with ProductIndex.open(folder) as index:
        assert len(index) == 10
    with index_products(folder, products, lambda texts: pytest.fail('encoded again'), 'x', dim=8) as index:
        assert len(index) == 30
    assert not (folder / 'building.json').exists() and {p.name for p in folder.parent.iterdir()} <= {'idx', '.idx.lock'}


def test_many_equals_are_not_fetched_all():
    asked = []

    class Equals:
        def candidates(self, looks, exact=False):
            asked.append(looks[0].n)
            assert asked[-1] < 100_000
            return [[Candidate(f'{i:06d}', f'{i:06d}', None, {}) for i in range(q.n)] for q in looks]

    found = ProductIndex(Equals(), dict(avg_len=4.0, dim=8, fingerprint='x')).search(filters=Filters(brand='acme'), k=3)
    assert [h.product_id for h in found] == ['000000', '000001', '000002'] and max(asked) < 10_000


def test_what_is_missing_in_a_row_is_made_up_for():
    p = payload_of(dict(product_id='a', family_id=float('nan'), title=None))
    assert (p['family_id'], p['title']) == ('a', '')


senseless = [
    (dict(price='19,00 €'), "p0003: price='19,00 €'"),
    (dict(price=-3.0), 'price=-3.0'),
    (dict(price=np.inf), 'price=inf'),
    (dict(score='good'), "score='good'"),
    (dict(categories='Keyboards'), "categories='Keyboards': expected a list"),
    (dict(images='https://shop.example/1.jpg'), 'images='),
]


def test_a_row_that_makes_no_sense_is_refused_by_name(tmp_path):
    products, vectors, _ = catalogue(4)
    other = products.iloc[:3]
    index = index_products(tmp_path / 'idx', other, vectors[:3], 'x')
    for wrong, message in senseless:
        row = pd.DataFrame([products.iloc[3].to_dict() | wrong])
        with pytest.raises(RecsysError, match=message) as e:
            index.add(row, vectors[3:])
        assert 'p0003' in str(e.value) and len(index) == 3
    # Building an index asks the same function: one of them is enough.
    with pytest.raises(RecsysError, match=message):
        index_products(tmp_path / 'new', pd.concat([other, row]), vectors, 'x')
    for v in (np.nan, 0):
        with pytest.raises(RecsysError, match='product p0003 is not finite, or zero'):
            index.add(products.iloc[3:], np.full((1, 8), v))
    index.add(products.iloc[3:], 5 * vectors[3:])
    assert np.allclose(index.store.retrieve(['p0003'], ['meaning'])['p0003'][1]['meaning'], vectors[3]), (
        'the store brings a vector to length 1'
    )
    index.close()


def test_a_torn_index_says_what_to_do(tmp_path):
    products, vectors, _ = catalogue(30)
    index_products(tmp_path / 'idx', products, vectors, 'x').close()
    for f in (tmp_path / 'idx' / 'shard').rglob('segment.json'):
        f.write_text('{')
    with pytest.raises(RecsysError, match='build it anew'):
        ProductIndex.open(tmp_path / 'idx')


@pytest.mark.parametrize(
    'products, vectors, message',
    [
        (pd.DataFrame(dict(product_id=[], text=[])), np.zeros((0, 8)), 'none to index'),
        (pd.DataFrame(dict(product_id=['a', 'a'], text=['', ''])), np.zeros((2, 8)), 'there twice'),
        (pd.DataFrame(dict(product_id=['a'], text=['x'])), np.full((1, 8), np.nan), 'not finite'),
        (pd.DataFrame(dict(product_id=['a'], text=['x'])), np.ones((2, 8)), 'expected 1, one for each'),
    ],
)
def test_what_cannot_be_indexed(tmp_path, products, vectors, message):
    with pytest.raises(RecsysError, match=message):
        index_products(tmp_path / 'idx', products, vectors, 'x')
    assert not (tmp_path / 'idx').exists()


def test_a_server_that_is_not_there(monkeypatch):
    monkeypatch.setattr(time, 'sleep', lambda s: None)
    store = ServerStore('http://127.0.0.1:9', 'nothing')
    with pytest.raises(ServerUnavailable, match='does not answer .*refused'):
        store.count()
    with pytest.raises(ServerUnavailable, match='does not answer .*999.1.1.1.*is the address right'):
        ServerStore('http://999.1.1.1', 'nothing').count()


def test_a_server_is_waited_for_as_long_as_it_optimises(monkeypatch):
    "Large collections take longer than the hour that there was; one that was started anew waits for a change."
    monkeypatch.setattr(time, 'sleep', lambda s: None)
    store, left, woken = in_memory('x'), ['yellow'] * 4000 + ['grey', 'yellow', 'green', 'red'], []

    def info(name):
        return SimpleNamespace(status=left.pop(0), optimizer_status='ok' if left else 'no space left')

    monkeypatch.setattr(store.client, 'get_collection', info)
    monkeypatch.setattr(store.client, 'update_collection', lambda name, **how: woken.append(len(left)))
    store.finish()
    assert left == ['red'] and woken == [3]
    with pytest.raises(RecsysError, match='collection x cannot be optimised .no space left.; see the log'):
        store.finish()


def test_a_server_gets_no_more_at_once_than_it_takes(monkeypatch):
    "Qdrant refuses a request above 32 MB; a thousand products with their reviews were 56."
    store, sizes = in_memory('x'), []
    store.create(8)
    for name in ('upsert', 'delete'):

        def counted(collection, points, do=getattr(store.client, name), **how):
            sizes.append(len(points))
            return do(collection, points, **how)

        monkeypatch.setattr(store.client, name, counted)
    ids = [f'P{i}' for i in range(50)]
    store.upsert([(dict(product_id=i), dict(meaning=np.ones(8))) for i in ids])
    assert store.count() == 50 and sum(sizes) == 50 and max(sizes) <= 20
    store.delete(ids)  # which are short
    assert store.count() == 0 and sizes[-1] == 50


@pytest.mark.parametrize(
    'status, kind, message',
    [
        (503, ServerUnavailable, 'says 503'),
        (401, ServerUnavailable, 'QDRANT_API_KEY'),
        (400, RecsysError, 'says 400.*wrong vector'),
        (404, RecsysError, 'says 404'),
    ],
)
def test_what_a_server_refuses_is_no_outage(monkeypatch, status, kind, message):
    import httpx
    from qdrant_client.http.exceptions import UnexpectedResponse

    monkeypatch.setattr(time, 'sleep', lambda s: None)
    store = in_memory('x')

    def refuse(*_, **__):
        raise UnexpectedResponse(status, 'Refused', b'wrong vector', httpx.Headers())

    monkeypatch.setattr(store.client, 'count', refuse)
    with pytest.raises(RecsysError, match=message) as e:
        store.count()
    assert type(e.value) is kind


def test_a_wrong_value_is_no_outage():
    store = in_memory('x')
    store.create(8)
    with pytest.raises(ValueError):
        store.upsert([(dict(product_id='a'), dict(meaning=np.ones(3)))])


@pytest.mark.parametrize('status, more', [(503, {}), (429, {}), (429, {'Retry-After': '1'})])
def test_a_server_that_comes_back(status, more, monkeypatch):
    monkeypatch.setattr(time, 'sleep', lambda s: None)
    from http.server import BaseHTTPRequestHandler, HTTPServer
    from threading import Thread

    asked = []

    class Moody(BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append(self.path)
            self.rfile.read(int(self.headers.get('content-length', 0)))
            body = (
                b'{"result":{"count":7},"status":"ok","time":0.0}' if len(asked) > 1 else b'{"status":{"error":"busy"}}'
            )
            self.send_response(200 if len(asked) > 1 else status)
            for name, value in {'content-type': 'application/json', 'content-length': str(len(body)), **more}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = HTTPServer(('127.0.0.1', 0), Moody)
    Thread(target=server.serve_forever, daemon=True).start()
    store = ServerStore(f'http://127.0.0.1:{server.server_port}', 'x')
    assert store.count() == 7 and len(asked) == 2
    store.close()
    server.shutdown()
    server.server_close()


def test_a_server_build(tmp_path):
    products, vectors, scores = catalogue(50)
    client = QdrantClient(':memory:')
    index = index_products(
        tmp_path / 'idx', products, vectors, 'x', scores=scores, settings=IndexSettings(url='memory'), client=client
    )
    assert len(index) == 50 and index.manifest['url'] == 'memory'
    reference = filled(ExactStore(), products, vectors, scores)
    reference.weights = index.weights
    agree(index.search(vectors[3], k=3, exact=True), reference.search(vectors[3], k=3))
    again = index_products(
        tmp_path / 'idx',
        products.iloc[:20],
        vectors[:20],
        'x',
        scores=scores,
        settings=IndexSettings(url='memory'),
        client=client,
    )
    assert len(again) == 20 and [c.name for c in client.get_collections().collections] == [again.store.collection], (
        'the replaced collection is gone'
    )

    def build(n=20, vectors=vectors[:20], dim=None, **settings):
        return index_products(
            tmp_path / 'idx',
            products.iloc[:n],
            vectors,
            'x',
            dim,
            scores,
            settings=IndexSettings(url='memory', **settings),
            client=client,
        )

    names = {again.store.collection, build().store.collection, build(shards=2).store.collection}
    assert len(names) == 3, 'neither the same data nor other settings go into the collection that is searched'

    def dies(texts):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(30, dies, dim=8)
    again = build()
    assert [c.name for c in client.get_collections().collections] == [again.store.collection], (
        'nothing is left of a build that was given up'
    )
    client.delete_collection(again.store.collection)
    with pytest.raises(RecsysError, match='is gone'):
        ProductIndex.open(tmp_path / 'idx', client=client)


def test_what_others_had_afterwards_is_the_same_everywhere(tmp_path):
    "All stores agree on histories, and a product that is written again keeps what it follows."
    products, vectors, _ = catalogue(30)
    rng = np.random.default_rng(2)
    pairs = pd.DataFrame(
        dict(
            product_id=rng.choice(products.product_id, 60),
            before=rng.choice(products.product_id, 60),
            weight=rng.random(60),
        )
    )
    after, asked = followed(pairs), Query(history=dict.fromkeys(pairs.before[:5], 0.5))
    payloads = [payload_of(r) for r in products.to_dict('records')]

    def answers(store):
        index = ProductIndex(
            store,
            dict(name='t', format=index_format, n_products=30, dim=8, avg_len=4, fingerprint='x', has_histories=True),
            tmp_path,
        )
        index.put(payloads, vectors, {}, after)
        before = index.search_many([asked], 10, exact=True)[0]
        index.put(payloads[:9], vectors[:9], {})
        agree(before, index.search_many([asked], 10, exact=True)[0])
        return before

    expected = answers(ExactStore())
    assert expected and expected[0].because == ['histories']
    for name, store in stores(tmp_path):
        agree(expected, answers(store))


def test_a_new_price_keeps_what_counts_are_divided_by(tmp_path):
    p, vectors, _ = catalogue(4)
    followers = pd.DataFrame(dict(before=['p0000'], product_id=['p0001'], weight=[1.0], damping=[0.5]))
    with index_products(tmp_path / 'i', p, vectors, 'toy', followers=followers) as index:
        before = index.manifest['built_at']
        index.add(p[:1].assign(price=3.0), vectors[:1])
        payload, had = index.store.retrieve(['p0000'], ['histories'])['p0000']
        assert payload['damping'] == 0.5 and payload['price'] == 3
        assert index.manifest['built_at'] != before  # for what serves it


def test_kinds_order_what_others_found_and_follow_a_changed_category(tmp_path):
    "A kind brings nothing by itself; a new category has its own vector, and no category has none."
    names = dict(zip(['mice', 'usb cables', 'pads'], np.eye(8, dtype=np.float32)))

    def encode(texts):
        return [names[t] for t in texts]

    p, vectors, _ = catalogue(12)
    p = p.assign(categories=[['All', c] for c in ['Mice', 'USBCables']] * 6)
    with index_products(tmp_path / 'i', p, vectors, 'toy', encode=encode) as index:
        assert index.manifest['has_kinds']
        with_kinds = index.search_many([Query(names['mice'])], 3, n=3, exact=True)[0]
        assert all(h.signals['kind'] == (h.product_id in set(p.product_id[::2])) for h in with_kinds)
        assert not any('kind' in h.because for h in with_kinds)

        def kind():
            return index.store.retrieve(['p0000'], ['kind'])['p0000'][1].get('kind', np.zeros((1, 8)))[0].tolist()

        assert kind() == names['mice'].tolist()
        index.add(p[:2].assign(price=1.0), vectors[:2])
        assert kind() == names['mice'].tolist()  # nobody has to encode what is known
        for categories, vector in (('USBCables', 'usb cables'), ('Pads', 'pads')):
            index.add(p[:1].assign(categories=[[categories]]), vectors[:1], encode=encode)
            assert kind() == names[vector].tolist()
        index.add(p[:1].assign(categories=[['Unheard of']]), vectors[:1])
        assert kind() == [0] * 8
        index.add(p[:1].assign(categories=[[]]), vectors[:1], encode=encode)
        assert kind() == [0] * 8


def test_an_index_from_before_there_were_kinds_answers_and_takes_updates(tmp_path):
    p, vectors, _ = catalogue(12)
    with index_products(tmp_path / 'i', p, vectors, 'toy') as index:  # nobody could encode names
        assert not index.manifest.pop('has_kinds')
        before = index.search(vectors[3], 'mouse')
        index.add(p, vectors, encode=lambda texts: vectors[: len(texts)])
        assert [h.signals for h in index.search(vectors[3], 'mouse')] == [h.signals for h in before]
        assert 'kind' not in before[0].signals and not index.store.retrieve(['p0000'], ['kind'])['p0000'][1]


def test_scores_name_a_product_once(tmp_path):
    p, _, _ = catalogue(4)
    with pytest.raises(RecsysError, match='scores: p0000 is there twice'):
        with_scores(p, pd.DataFrame(dict(product_id=['p0000'] * 2, score=[1.0, 2.0])))


def test_missing_values_of_pandas_are_no_mistake():
    assert payload_of(dict(product_id='a', title='A', price=pd.NA, brand=pd.NA, images=None)) == payload_of(
        dict(product_id='a', title='A')
    )


def test_several_are_several_whatever_holds_them():
    for some in (['a', 'b'], pd.Index(['a', 'b']), (c for c in 'ab'), dict(a=1, b=2).keys()):
        assert as_tuple(some) == ('a', 'b')
    assert as_tuple('ab') == ('ab',) and as_tuple(None) == ()
