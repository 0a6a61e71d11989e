"""An update of data and index gives what a rebuild gives, twice changes nothing, and may be killed;
an index is encoded in parts; sizes are fitted to the time there is."""

import json, os, random, shutil
from contextlib import nullcontext

import numpy as np, pandas as pd, pytest

import recsys_nb.core.machine as machine, recsys_nb.index.build as build, recsys_nb.index.update as update
from recsys_nb.command import pipeline
from recsys_nb.command.pipeline import IndexPlan, index_data, plan_index, update_all
from recsys_nb.core.files import RecsysError
from recsys_nb.core.machine import Preset
from recsys_nb.data.prepare import load_prepared, prepare
from recsys_nb.data.sample_store import make_sample_store
from recsys_nb.evaluation.metrics import kind_names
from recsys_nb.evaluation.queries import fitting_queries
from recsys_nb.index.products import ProductIndex
from recsys_nb.models.dual_encoder import DualEncoderSBERT
from recsys_nb.training.datasets import smaller
from test_training import make_tiny


@pytest.fixture(scope='module')
def built(tmp_path_factory):
    "A prepared store with an index by a tiny encoder: (root, model)."
    root, counted = tmp_path_factory.mktemp('built'), build._average_lengths
    build._average_lengths = lambda *args: dict(avg_len=50.0, review_avg_len=50.0)  # a rebuild would count it anew
    store = make_sample_store(root / 'raw', n_products=40, n_reviews=240)
    data = prepare([store.reviews], [store.meta], 'shop', root=root)
    model = DualEncoderSBERT(make_tiny(root))
    build.build_index(data, model, root=root).close()
    yield root, model
    build._average_lengths = counted


@pytest.fixture
def shop(built, tmp_path):
    "A copy of it, in a folder whose name SQL and globs could stumble over."
    root, model = built
    home = tmp_path / "o'brien's [shop]"
    for part in ('data', 'outputs'):
        shutil.copytree(root / part, home / part, copy_function=update._copy)
    return home, model


def lines(path, rows):
    path.write_text('\n'.join(map(json.dumps, rows)))
    return [path]


def changes(root, seed=0):
    "New and changed products, new reviews, and what is gone: the arguments of an update."
    rng, p = random.Random(seed), load_prepared('shop', root).products
    ids = rng.sample(list(p.product_id), 12)
    meta = [dict(parent_asin=i, title=f'A changed lamp {i}', price=5.5) for i in ids[:3]] + [
        dict(parent_asin=f'NEW{i}', title=f'A green chair, number {i}', price=30) for i in range(3)
    ]
    said = 'I have sat on worse things than this, and my cat agrees with me about that. It is sturdy and warm, number'
    reviews = [
        dict(
            parent_asin=i,
            user_id=f'u{n}',
            rating=5,
            timestamp=1_950_000_000_000 + n,
            title='Fine',
            text=f'{said} {n} {i}',
        )
        for n, i in enumerate([*ids[3:9], 'NEW1'])
    ]
    return lines(root / 'reviews.jsonl', reviews), lines(root / 'meta.jsonl', meta), ids[9:]


def held(index, ids):
    "All that an index knows of these products."
    found = index.store.retrieve(ids, ['meaning', 'reviews', 'sentences', 'histories'])
    return {i: ({k: v for k, v in p.items()}, {k: v for k, v in vectors.items()}) for i, (p, vectors) in found.items()}


@pytest.mark.skipif(not hasattr(os, 'SEEK_DATA'), reason='this system has no holes')
def test_a_copy_has_the_holes_of_the_file(tmp_path):
    source, target = tmp_path / 'source', tmp_path / 'target'
    for size, written in (0, []), (1, [0]), (9_000_000, []), (40_000_000, [5_000_000, 39_999_990]), (20_000_003, [0]):
        with open(source, 'wb') as f:
            for at in written:
                f.seek(at)
                f.write(random.Random(at).randbytes(min(70_000, size - at)))
            f.truncate(size)
        update._copy(source, target)
        assert target.read_bytes() == source.read_bytes()
        assert target.stat().st_blocks <= source.stat().st_blocks + 8


def test_an_updated_index_takes_no_more_room(shop):
    root, model = shop

    def room():
        return sum(f.stat().st_blocks * 512 for f in build.index_folder(root, 'shop').rglob('*') if f.is_file())

    reviews, meta, gone = changes(root)
    before = room()
    update.update_index(update.update_data('shop', reviews, meta, gone, root), build.index_folder(root, 'shop'))
    assert room() < 2 * before


def test_an_update_is_a_rebuild(shop):
    root, model = shop
    reviews, meta, gone = changes(root)
    before = load_prepared('shop', root)
    trained, cuts = set(before.train.review_id), before.report['split']['cuts']
    data, done = update_all('shop', reviews, meta, gone, root)
    assert (
        data.report['split']['cuts'] == cuts
        and set(data.train.review_id) <= trained
        and len(data.train) > 0.8 * len(trained)
    )
    assert done['removed'] == 3 and 6 <= done['encoded'] <= done['written']
    build.build_index(data, model, 'anew', root=root).close()
    ids = [*data.products.product_id, *gone]
    with (
        ProductIndex.open(build.index_folder(root, 'shop')) as a,
        ProductIndex.open(build.index_folder(root, 'anew')) as b,
    ):
        one, other = held(a, ids), held(b, ids)
        assert one.keys() == other.keys() == set(data.products.product_id)
        for i in one:
            assert one[i][0] == other[i][0]
            assert one[i][1].keys() == other[i][1].keys()
            for name, v in one[i][1].items():
                if name == 'histories':
                    assert dict(zip(*v)) == pytest.approx(dict(zip(*other[i][1][name])), rel=1e-4)
                else:
                    assert np.allclose(v, other[i][1][name], atol=2e-3)
        b.weights = a.weights
        for query in ('a green chair', 'sturdy and warm', 'keyboard'):
            v = model.encode([query])[0]
            assert [h.product_id for h in a.search(v, query)] == [h.product_id for h in b.search(v, query)]
    assert pd.read_parquet(build.index_folder(root, 'shop') / 'products.parquet').equals(
        pd.read_parquet(build.index_folder(root, 'anew') / 'products.parquet')
    )


def test_what_others_had_stays_as_it_is(shop):
    root, _ = shop
    table = pd.read_parquet(load_prepared('shop', root).file('interactions'))
    user = table.user_id.value_counts().index[0]
    had = table[table.user_id == user]
    new = dict(
        parent_asin=had.product_id.iloc[0], user_id=user, rating=5, timestamp=1_950_000_000_000, title='', text='Ok'
    )
    data, done = update_all('shop', lines(root / 'reviews.jsonl', [new]), root=root)
    family = data.products.family_id[data.products.product_id.isin(had.product_id)]
    assert 2 <= done['written'] <= data.products.family_id.isin(family).sum() < len(data.products) / 2
    assert done['encoded'] == 0


def test_twice_is_once_and_yesterdays_file_is_kept(shop):
    root, _ = shop
    reviews, meta, gone = changes(root)
    update_all('shop', reviews, meta, gone, root)
    folder = build.index_folder(root, 'shop')
    built = (folder / 'manifest.json').read_text()
    assert update_all('shop', reviews, meta, gone, root)[1] == dict(written=0, encoded=0, removed=0)
    assert (folder / 'manifest.json').read_text() == built
    lines(
        meta[0],
        [
            dict(parent_asin='NEW0', title='A green chair, number 0', price=20),
            dict(parent_asin=gone[0], title='Back again', price=1),
        ],
    )
    data, done = update_all('shop', meta=meta, root=root)  # the file of yesterday has been written over
    price = data.products.set_index('product_id').price
    assert price['NEW0'] == 20 and price['NEW1'] == 30 and price[gone[0]] == 1 and gone[1] not in price
    assert done['encoded'] == 1 and done['written'] >= 2


def test_a_file_of_no_use_is_told(shop):
    root, _ = shop
    with pytest.warns(UserWarning, match='wrong.jsonl: no line of it can be used'):
        update.update_data('shop', lines(root / 'wrong.jsonl', [dict(asin='', stars=5)]), root=root)


def test_interrupted_it_leaves_the_old_index_and_goes_through_again(shop, monkeypatch):
    root, _ = shop
    arguments = ((), (), changes(root)[2])
    folder = build.index_folder(root, 'shop')
    built = (folder / 'manifest.json').read_text()

    def killed(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(update, 'shown_columns', killed)
    with pytest.raises(KeyboardInterrupt):
        update_all('shop', *arguments, root)
    assert (folder / 'manifest.json').read_text() == built and not list(folder.parent.glob('.*.part'))
    monkeypatch.undo()
    assert update_all('shop', *arguments, root)[1]['removed'] == 3
    assert update_all('shop', *arguments, root)[1]['removed'] == 0


def test_an_older_index_is_written_whole(shop):
    root, _ = shop
    folder = build.index_folder(root, 'shop')
    (folder / 'contents.parquet').unlink()
    data = load_prepared('shop', root)
    assert update.update_index(data, folder)['written'] == len(data.products)


def test_a_raw_file_that_is_gone_is_named(shop):
    root, _ = shop
    report = root / 'data' / 'preprocessed' / 'shop' / 'report.json'
    report.write_text(report.read_text().replace('reviews.jsonl.gz', 'moved.jsonl.gz'))
    with pytest.raises(RecsysError, match='moved.jsonl.gz: missing'):
        update_all('shop', *changes(root), root)


def test_reviews_are_known_as_far_as_time_allows(shop):
    root, _ = shop
    data = load_prepared('shop', root)
    plans = [plan_index(data, time, 'cpu', rates=(10.0, 10.0)) for time in ('none', '1h', '10s', '5s', '0.1s')]
    assert [(p.reviews, p.families) for p in plans[:2]] == [(4, None)] * 2 and plans[-1].families == 0
    few = plans[2].families
    assert 0 < few < data.products.family_id.nunique() and f'up to 2 reviews of the {few} that have the most' in str(
        plans[2]
    )
    assert [p.seconds for p in plans] == sorted((p.seconds for p in plans), reverse=True)
    assert [p.tokens for p in plans] == [None, None, None, None, 64] and 'without reviews' in str(plans[-1])
    assert plan_index(data, 'none', 'cpu', rates=(10.0, 10.0), known='train').seconds < plans[0].seconds
    n = data.count('products')
    quick, slow, slower = (plan_index(data, '10s', 'cpu', rates=(n / took, 10.0)) for took in (1, 30, 100))
    assert (
        quick.families == few > slow.families > slower.families > 0
    )  # 15, 50 seconds for 64 tokens leave 5 s, and 3.3
    assert (quick.tokens, slow.tokens) == (None, 64)


def test_a_plan_is_measured_with_what_is_going_to_encode(shop, monkeypatch):
    root, model = shop
    data, seen = load_prepared('shop', root), []
    monkeypatch.setattr(data, 'count', lambda part: 10_000)
    monkeypatch.setattr(pipeline, '_encoding_rates', lambda data, model, preset: seen.append(model) or (10.0, 10.0))
    monkeypatch.setattr(pipeline, 'run_for', lambda data, kind, run, root: model)
    plan_index(data, 'none', 'cpu', run='latest', root=root)
    assert seen == [model]


def test_an_index_knows_the_reviews_of_those_that_have_most_and_reads_as_much_of_a_product_as_it_is_told(shop):
    root, model = shop
    data = load_prepared('shop', root)
    owners = pd.concat([data.train, data.val, data.test]).family_id.value_counts()
    index = build.build_index(data, model, 'few', root, families=3, tokens=8)
    found = index.store.retrieve(list(data.products.product_id), ['meaning'])
    heard = {p['family_id'] for p, _ in found.values() if p.get('reviews')}
    assert len(heard) == 3 and owners[list(heard)].min() >= owners.drop(list(heard)).max()
    first = data.products.iloc[0]
    short = model.encode([first.text], side='product', max_tokens=8)[0]
    assert np.allclose(found[first.product_id][1]['meaning'], short, atol=1e-6)
    assert not np.allclose(short, model.encode([first.text], side='product')[0], atol=1e-3)
    index.close()


def test_a_killed_build_goes_on_with_the_plan_that_it_began_with(shop, monkeypatch):
    "A rate is never measured twice the same, and another plan would be another index."
    root, _ = shop
    data, known = load_prepared('shop', root), []

    def killed(data, model, families, **settings):
        known.append(families)
        raise KeyboardInterrupt

    monkeypatch.setattr(build, 'build_index', killed)
    (root / 'outputs' / 'index' / '.shop.building').mkdir()
    for plan in (
        IndexPlan(40, None, 3, 2, 4, limit=9.0),
        IndexPlan(40, None, 5, 2, 4, limit=9.0),
        IndexPlan(40, None, 7, 2, 4, limit=60.0),
    ):
        with pytest.raises(KeyboardInterrupt):
            index_data(data, 'base', root=root, plan=plan)
    (root / 'outputs' / 'index' / '.shop.plan.json').write_text('{"products": 4')  # torn by a power cut
    with pytest.raises(KeyboardInterrupt):
        index_data(data, 'base', root=root, plan=plan)
    assert known == [3, 3, 7, 7]


def test_a_smaller_data_set_is_whole_in_itself(shop):
    root, _ = shop
    data = load_prepared('shop', root)
    some = smaller(data, 6, 20)
    assert len(some.test) == len(some.val) == 6 and len(some.products) == 20
    for part in (some.train, some.val, some.test):
        assert set(part.product_id) <= set(some.products.product_id)
    assert 0 < len(some.train) <= 60 and not {'train', 'products'} & set(vars(data))


def test_three_parts_and_a_plain_index(shop, monkeypatch):
    "Encoded in parts, a killed one among them, an index is to the last bit what it is without."
    root, model = shop
    data, batches = load_prepared('shop', root), build._batches
    monkeypatch.setattr(build, '_batches', lambda products, size: batches(products, 7))
    build.build_index(data, model, 'plain', root=root).close()
    encode, calls, last = DualEncoderSBERT.encode, [], [0]

    def counting(self, texts, side='user', **how):
        calls.append((side, texts))
        if len(calls) == last[0]:
            raise KeyboardInterrupt
        return encode(self, texts, side=side, **how)

    def parts(*numbers):
        return [build.encode_shard(data, model, f'{i}/3', 'joined', root=root) for i in numbers]

    def encoded(side=('product', 'user')):
        return [t for s, texts in calls for t in texts if s in side]

    monkeypatch.setattr(DualEncoderSBERT, 'encode', counting)
    sizes = parts(1, 2, 3)
    assert sum(sizes) == len(data.products) and max(sizes) < 20
    assert sorted(encoded('product')) == sorted(data.products.text)
    n, last[0] = len(calls), len(calls) // 2
    shutil.rmtree(root / 'outputs' / 'index' / '.joined.encoded')
    calls.clear()
    with pytest.raises(KeyboardInterrupt):
        parts(1, 2, 3)
    parts(3, 2, 1)
    assert len(calls) == n + 1  # the one that was killed, again
    calls.clear()
    build.build_index(data, model, 'joined', root=root).close()
    queries = {q for kind in fitting_queries(data)[0].values() for q in kind['query']}
    assert not encoded('product') and set(encoded()) <= queries | set(kind_names(data.products))
    assert not (root / 'outputs' / 'index' / '.joined.encoded').exists()
    with (
        ProductIndex.open(build.index_folder(root, 'plain')) as a,
        ProductIndex.open(build.index_folder(root, 'joined')) as b,
    ):
        one, other = (held(index, list(data.products.product_id)) for index in (a, b))
        assert one.keys() == other.keys() and {
            k: v for k, v in a.manifest.items() if k not in ('name', 'built_at')
        } == {k: v for k, v in b.manifest.items() if k not in ('name', 'built_at')}
        for i in one:
            assert one[i][0] == other[i][0] and one[i][1].keys() == other[i][1].keys()
            for kind in ('meaning', 'reviews', 'sentences'):
                if kind in one[i][1]:
                    assert one[i][1][kind].tobytes() == other[i][1][kind].tobytes()


def test_parts_in_int8_and_in_float32_are_not_joined(shop, monkeypatch):
    root, model = shop
    data = load_prepared('shop', root)
    build.encode_shard(data, model, '1/2', 'mixed', root=root)
    monkeypatch.setattr(build, 'find_preset', lambda name: Preset('cpu', False, runtime='fast'))
    for joined in (build.encode_shard, build.build_index):
        with pytest.raises(RecsysError, match='mixed.encoded.*encoded with another preset'):
            joined(data, model, name='mixed', root=root, preset='cpu:fast')


@pytest.mark.parametrize('built_on, here', [('cpu:bfloat16', True), ('mps', False)])
def test_what_is_new_is_encoded_as_the_rest_was(shop, monkeypatch, built_on, here):
    root, _ = shop
    monkeypatch.setattr(machine, '_have', lambda: ['cpu'])
    with ProductIndex.open(build.index_folder(root, 'shop')) as index:
        index.note(preset=built_on)
    encode, presets = DualEncoderSBERT.encode, []

    def counting(self, texts, side='user', preset=None, **how):
        presets.append(preset)
        return encode(self, texts, side=side, **how)

    monkeypatch.setattr(DualEncoderSBERT, 'encode', counting)
    reviews, meta, gone = changes(root)
    with nullcontext() if here else pytest.warns(UserWarning, match='mps.*machine has none.*on the cpu'):
        update_all('shop', reviews, meta, gone, root)
    assert set(presets) == {Preset('cpu', True) if here else None}


@pytest.mark.parametrize('shard', ['3', '0/3', '4/3', 'a/b', '1/0', '-1/3'])
def test_a_part_that_is_none_is_told(built, shard):
    root, model = built
    with pytest.raises(RecsysError, match='expected which part of how many, as 3/8'):
        build.encode_shard(load_prepared('shop', root), model, shard, root=root)


def test_one_product_is_removed_by_its_id(shop):
    root, model = shop
    before = load_prepared('shop', root).products.product_id
    update_all('shop', removed=before[0], root=root)
    assert set(before) - set(load_prepared('shop', root).products.product_id) == {before[0]}


def test_an_index_that_hears_few_families_goes_on_to(shop):
    root, model = shop
    data = load_prepared('shop', root)
    build.build_index(data, model, root=root, families=3).close()
    quiet = next(i for i, p in heard(root, model).items() if not p)
    new = [
        dict(
            user_id='new',
            parent_asin=quiet,
            rating=5.0,
            title='Fine',
            text='It does what a person wants of such a thing every day',
            timestamp=1700000000000,
        )
    ]
    update_all('shop', reviews=lines(root / 'new.jsonl', new), root=root)
    found = heard(root, model)
    build.build_index(load_prepared('shop', root), model, root=root, families=3).close()
    assert found == heard(root, model) and sum(map(bool, found.values())) <= 3 * 4


def heard(root, model):
    "Product -> ids of the reviews that an index keeps of it."
    with ProductIndex.open(root / 'outputs' / 'index' / 'shop') as index:
        return {
            p['product_id']: sorted(r['review_id'] for r in p['reviews'])
            for page in index.store.scroll()
            for p, _ in page
        }
