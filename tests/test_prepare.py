"""The report is right to the row, on files whose every defect is known and on the real ones;
nothing that goes wrong destroys what was there."""

import gzip, hashlib, json, signal, subprocess, sys
from pathlib import Path

import pandas as pd
import pytest
from recsys_nb.core.files import RecsysError, only_one, recover_folder, replace_folder
from recsys_nb.core.machine import cores
from recsys_nb.data.prepare import load_prepared, prepare, report_text
from recsys_nb.data.reading import DuckDB
from recsys_nb.data.sample_store import make_sample_store
from recsys_nb.data.rows import read_batches

day = 86_400_000


def review(user, product, text, at=1, **more):
    return dict(
        dict(
            user_id=user, parent_asin=product, rating=4.0, text=text, title='', timestamp=1_600_000_000_000 + at * day
        ),
        **more,
    )


def page(product, title, **more):
    return dict(
        dict(parent_asin=product, title=title, store='Kee', categories=['Electronics', 'Keyboards'], price=9.5), **more
    )


def write(path, rows):
    data = b''.join((r if isinstance(r, bytes) else json.dumps(r).encode()) + b'\n' for r in rows)
    path.write_bytes(gzip.compress(data) if path.suffix == '.gz' else data)
    return path


def sentence(i):
    return f'This is what person number {i} has to say about the thing'


def store(folder, n=20, products=5, **more):
    write(
        folder / 'meta.jsonl',
        [
            page(f'P{i}', f'Keyboard with {w} keys')
            for i, w in enumerate(['soft', 'loud', 'round', 'square', 'tall'][:products])
        ],
    )
    write(folder / 'reviews.jsonl', [review(f'u{i}', f'P{i % products}', sentence(i), i, **more) for i in range(n)])
    return folder / 'reviews.jsonl', folder / 'meta.jsonl'


def removed(data, what='reviews'):
    return {s['step']: s['removed'] for s in data.report['steps'][what] if s['removed']}


def kept(data):
    return pd.concat([data.train, data.val, data.test])


def quarantine(data):
    return [json.loads(l) for l in gzip.open(data.path / 'quarantine.jsonl.gz', 'rt', encoding='utf-8')]


# -- to the row


def test_every_defect_is_found_where_it_is(tmp_path):
    reviews, meta = store(tmp_path)
    a = write(
        tmp_path / 'a.jsonl.gz',
        [
            review('u0', 'P0', sentence(0), 0),
            b'',
            b'{"asin": "P1"',
            b'[]',
            review('v', '', 'no id', 3, reviewerName='Jo Doe'),
            b'\xff\xfe',
            review('w', 'nowhere', 'unknown product'),
        ],
    )
    b = write(
        tmp_path / 'b.jsonl',
        [
            review('u3', 'P3', 'changed my mind, it is not what I hoped for', 30),
            review('x', 'P1', sentence(1).upper().replace(' ', ', '), 40),
            review('y', 'P1', 'Good', rating=0.0),
            review('z', 'P1', ' <br /> \x00 ', rating='5'),
            review('q', 'P2', 'Good', rating='many', timestamp='1600000000'),
        ],
    )
    data = prepare([reviews, a, b], meta, 'x', tmp_path, max_bad=0.2)
    assert removed(data) == {
        'quarantined': 4,
        'unknown product': 1,
        'invalid rating': 1,
        'too short': 1,
        'exact duplicate': 1,
        'same user and product': 1,
        'near duplicate': 1,
    }
    assert [(Path(q['file']).name, q['line'], q['reason'].split(' (')[0].split(': ')[0]) for q in quarantine(data)] == [
        ('a.jsonl.gz', 3, 'not JSON'),
        ('a.jsonl.gz', 4, 'not a JSON object'),
        ('a.jsonl.gz', 5, 'no product'),
        ('a.jsonl.gz', 6, 'not UTF-8'),
    ]
    t = kept(data).set_index('user_id')
    assert set(t.index) == {f'u{i}' for i in range(20)} | {'q'}
    assert (
        pd.isna(t.loc['q', 'rating']) and t.loc['q', 'timestamp'] == 1_600_000_000_000 and not t.loc['q', 'informative']
    )
    first, last = data.report['steps']['reviews'][0], data.report['steps']['reviews'][-1]
    assert first['before'] == 31 and last['after'] == len(t) == 21


def test_names_of_people_go_no_further(tmp_path):
    reviews, meta = store(tmp_path, reviewerName='Jo Doe', profileName='Jo Doe')
    with open(reviews, 'a') as f:
        f.write('{"reviewerName": "Jo Doe", "text": "no product"}\n{"reviewerName": "Jo D\n')
    data = prepare(reviews, meta, 'x', tmp_path, max_bad=0.2)
    assert len(quarantine(data)) == 2
    for f in data.path.iterdir():
        assert b'Jo D' not in (gzip.decompress(f.read_bytes()) if f.suffix == '.gz' else f.read_bytes())
    assert not any('Jo D' in str(v) for v in kept(data).values.ravel())


def test_older_formats(tmp_path):
    old = [
        dict(
            reviewerID=f'u{i}',
            asin=f'P{i % 2}',
            overall=5.0,
            reviewText=sentence(i),
            summary='S',
            unixReviewTime=1_400_000_000 + i * 86400,
            reviewerName='Jo',
        )
        for i in range(10)
    ]
    lines = [
        (
            b"{'asin': 'P0', 'title': \"Tom's Keyboard &amp; more\", 'categories': [['Electronics', 'Keyboards']], "
            b"'price': 12.5, 'brand': 'Kee', 'imUrl': 'http://x/y.jpg', 'description': 'Fine'}"
        ),
        b"{'asin': 'P1', 'title': 'Mouse', 'related': {'also_viewed': ['P0']}}",
        b"{'asin': 'P2'",
    ]
    data = prepare(write(tmp_path / 'r.json.gz', old), write(tmp_path / 'm.json', lines), 'x', tmp_path, max_bad=0.5)
    p = data.products.set_index('product_id')
    assert (
        p.title.tolist() == ["Tom's Keyboard & more", 'Mouse']
        and list(p.categories['P0']) == ['Electronics', 'Keyboards']
        and list(p.images['P0']) == ['http://x/y.jpg']
    )
    assert p.price['P0'] == 12.5 and pd.isna(p.price['P1']) and p.text['P1'] == 'Mouse' and p.brand['P0'] == 'Kee'
    assert [q['line'] for q in quarantine(data)] == [3] and Path(quarantine(data)[0]['file']).name == 'm.json'
    t = kept(data)
    assert (
        set(t.user_id) == {f'u{i}' for i in range(10)}
        and t.timestamp.min() == 1_400_000_000_000
        and set(t.title) == {'S'}
    )


def test_a_product_as_it_is_read(tmp_path):
    reviews, _ = store(tmp_path)
    pages = [
        page(
            'P0',
            '<b>Tall</b>&nbsp;Keyboard',
            main_category='All Electronics',
            features=['a', None, ' b\t'],
            description='one text',
            average_rating=4.5,
            rating_number='12',
            images=[dict(thumb='http://x/t.jpg', large='http://x/l.jpg')],
            details='{"a": 1}',
        ),
        page('P0', 'Tall'),
        page('P1', None, categories='Keyboards', price={'a': 1}, store=7),
        page('P2', ['x'], categories=None, features={}, images=[]),
    ]
    p = prepare(reviews, write(tmp_path / 'm.jsonl', pages), 'x', tmp_path).products.set_index('product_id')
    assert p.text['P0'] == 'Tall Keyboard\nKee\nAll Electronics > Electronics > Keyboards\na b\none text'
    assert '4.5' not in p.text['P0'] and (p.average_rating['P0'], p.rating_number['P0'], list(p.images['P0'])) == (
        4.5,
        12,
        ['http://x/l.jpg'],
    )
    assert (
        list(p.categories['P1']) == ['Keyboards']
        and p.title['P1'] == ''
        and pd.isna(p.price['P1'])
        and p.brand['P1'] == '7'
    )
    assert list(p.categories['P2']) == list(p.features['P2']) == []


def test_numbers_that_no_column_could_hold(tmp_path):
    reviews, _ = store(tmp_path)
    with open(reviews, 'a') as f:
        f.write(json.dumps(review('huge', 'P0', sentence(99), timestamp=1e25)) + '\n')
    pages = [
        page('P0', 'One', rating_number=1e20, average_rating=1e20),
        page('P1', 'Two', rating_number='12.7'),
        page('P2', 'Three', rating_number=-3),
    ]
    meta = write(tmp_path / 'm.jsonl', pages)
    with pytest.raises(RecsysError, match='rating_number: 3 of 3 values cannot be read'):
        prepare(reviews, meta, 'x', tmp_path)
    p = prepare(reviews, meta, 'x', tmp_path, allow_unreadable=['rating_number']).products.set_index('product_id')
    assert p.rating_number.fillna(-1).to_dict() == {'P0': -1, 'P1': -1, 'P2': -1}


def test_pictures_that_a_page_can_show(tmp_path):
    reviews, _ = store(tmp_path)
    inside, long = 'data:image/png;base64,', 'data:image/png;base64,'.ljust(20_001, 'A')
    pages = [
        page(
            'P0',
            'One',
            images=[
                {'large': a} for a in ('https://x/1.jpg', inside, long[:-1], long, 'data:text/html,x', 'javascript:x')
            ],
        ),
        page('P1', 'Two', images=inside),
    ]
    p = prepare(reviews, write(tmp_path / 'm.jsonl', pages), 'x', tmp_path).products.set_index('product_id')
    assert list(p.images['P0']) == ['https://x/1.jpg', inside, long[:-1]] and list(p.images['P1']) == [inside]


def test_the_sample_store_is_accounted_for(tmp_path):
    s = make_sample_store(tmp_path / 's', n_products=80, n_reviews=800)
    data, n, m = prepare(s.reviews, s.meta, 'x', tmp_path), s.defects['reviews'], s.defects['meta']
    got = removed(data)
    assert got.pop('near duplicate') + got.pop('repeated on a variant', 0) == n['near_duplicates'] + n['variant_copies']
    assert got == {
        'quarantined': n['unreadable_lines'],
        'unknown product': n['orphan_reviews'],
        'invalid rating': n['zero_ratings'],
        'exact duplicate': n['exact_duplicates'],
        'same user and product': n['second_reviews'],
    }
    assert removed(data, 'products') == {'quarantined': m['unreadable_lines'], 'listed before': m['exact_duplicates']}
    assert data.report['families']['families'] == len(data.products) - m['variant_products']


real = {  # of `amazon_in_electronics` three texts are a dash or "na", which is no text
    'amazon_in_electronics': (
        'reviews.jsonl.gz',
        'meta.jsonl.gz',
        'product',
        {
            'too short': 11,
            'exact duplicate': 728,
            'same user and product': 2,
            'near duplicate': 631,
            'repeated on a variant': 340,
        },
        6926,
        1351,
        1173,
    ),
    'amazon_kitchen_stars': (
        'reviews.jsonl.gz',
        'meta.jsonl.gz',
        'time',
        {'same user and product': 2, 'near duplicate': 23},
        1975,
        1432,
        1399,
    ),
    'amazon_phones_stars': ('reviews.jsonl.gz', 'meta.jsonl.gz', 'product', {'near duplicate': 307}, 1612, 72, 54),
    'gift_cards_2018': (
        'Gift_Cards_5.json.gz',
        'meta_Gift_Cards.json.gz',
        'time',
        {'too short': 2, 'same user and product': 7, 'near duplicate': 157, 'repeated on a variant': 251},
        2555,
        1547,
        None,
    ),
}


@pytest.mark.parametrize('name', real)
def test_real_data(name, shared_data, tmp_path):
    reviews, meta, split, steps, n, products, families = real[name]
    data = prepare(shared_data / name / reviews, shared_data / name / meta, name, tmp_path)
    assert (data.report['split']['by'], removed(data), len(kept(data)), len(data.products)) == (
        split,
        steps,
        n,
        products,
    )
    if families:
        assert data.products.family_id.nunique() == families
    assert all(c['ok'] for c in data.report['checks']) and '| train |' in report_text(data.report)
    if split == 'product':
        with pytest.raises(RecsysError, match='have no timestamp; use --split product'):
            prepare(shared_data / name / reviews, shared_data / name / meta, name, tmp_path, split='time')


# -- settings


def test_same_input_same_files(tmp_path):
    files = store(tmp_path, n=300)
    digest = lambda d: [
        hashlib.sha256((d.path / f'{p}.parquet').read_bytes()).hexdigest() for p in ('products', 'train', 'val', 'test')
    ]
    assert digest(prepare(*files, 'a', tmp_path, memory='300MB')) == digest(prepare(*files, 'b', tmp_path, threads=1))


def test_no_more_threads_than_cores(tmp_path):
    "A billion, which DuckDB would have begun to make, and never ended."
    engine = DuckDB(tmp_path, threads=10**9)
    assert engine.con.con.execute("select current_setting('threads')").fetchall() == [(cores(),)]


def test_split_by_product_follows_the_seed(tmp_path):
    files = store(tmp_path, n=100)
    parts = [
        prepare(*files, f'{i}', tmp_path, split='product', seed=s, fractions=(0.6, 0.2, 0.2))
        for i, s in enumerate((0, 0, 1))
    ]
    users = [set(p.test.user_id) for p in parts]
    assert (
        users[0] == users[1] != users[2]
        and [len(u) for u in users] == [20] * 3
        and parts[0].test.cold.all()
        and not parts[0].train.cold.any()
    )


def test_blair_cut_points(tmp_path):
    _, meta = store(tmp_path)
    times = [1628643414041, 1628643414042, 1658002729836, 1658002729837]
    data = prepare(
        write(tmp_path / 'r.jsonl', [review(f'u{i}', f'P{i}', sentence(i), timestamp=t) for i, t in enumerate(times)]),
        meta,
        'x',
        tmp_path,
        cuts='blair',
    )
    assert [p.timestamp.tolist() for p in (data.train, data.val.sort_values('timestamp'), data.test)] == [
        times[:1],
        times[1:3],
        times[3:],
    ]
    with pytest.raises(RecsysError, match='no review falls into val and test; dates run from 2020-09-13 to 2020-10-02'):
        prepare(tmp_path / 'reviews.jsonl', meta, 'x', tmp_path, cuts='blair')


def test_the_report_says_why_it_is_not_a_split_by_time(tmp_path):
    reviews, meta = store(tmp_path)
    assert 'why' not in prepare(reviews, meta, 'x', tmp_path, split='product').report['split']  # as asked
    undated = write(
        tmp_path / 'undated.jsonl', [review(f'u{i}', f'P{i % 5}', sentence(i), timestamp=None) for i in range(20)]
    )
    at_once = write(tmp_path / 'at_once.jsonl', [review(f'u{i}', f'P{i % 5}', sentence(i), 0) for i in range(20)])
    few = write(tmp_path / 'few.jsonl', [review(f'u{i}', f'P{i}', sentence(i), i) for i in range(5)])
    crowded = write(
        tmp_path / 'crowded.jsonl',
        [review(f'u{i}', f'P{i % 5}', sentence(i), i if i < 9 else 17 if i < 19 else 18) for i in range(20)],
    )
    for file, why in {
        undated: '20 of 20 reviews have no timestamp',
        at_once: 'there are too few different times',
        few: 'there are too few different times',
        crowded: 'no review falls into val; dates run from 2020-09-13 to 2020-10-01',
    }.items():
        data = prepare(file, meta, 'x', tmp_path)
        assert data.report['split']['by'] == 'product' and why in data.report['split']['why']
        assert (
            f'seed 0 (not by time: {why}' in (data.path / 'report.md').read_text(encoding='utf-8')
            and why in data._repr_markdown_()
        )
    with pytest.raises(RecsysError, match=f'split by time: {why}'):
        prepare(file, meta, 'x', tmp_path, split='time')


def test_category_length_and_core(tmp_path):
    reviews, _ = store(tmp_path)
    meta = write(
        tmp_path / 'm.jsonl',
        [
            page(f'P{i}', f'Thing {w}', categories=['Electronics', 'Webcams' if i < 2 else 'Mice'])
            for i, w in enumerate('abcde')
        ],
    )
    data = prepare(reviews, meta, 'x', tmp_path, categories=['webcams'])
    assert (
        set(data.products.product_id) == {'P0', 'P1'}
        and removed(data) == {'other category': 12}
        and removed(data, 'products') == {'other category': 3}
    )
    assert removed(prepare(reviews, meta, 'x', tmp_path, min_chars=45)) == {'too short': 10}
    with pytest.raises(RecsysError, match='no product is in Boats; the most frequent are Electronics, Mice, Webcams'):
        prepare(reviews, meta, 'x', tmp_path, categories=['Boats'])
    with pytest.raises(RecsysError, match='no review is left of 20; 20 were removed because: fewer letters'):
        prepare(reviews, meta, 'x', tmp_path, min_chars=150)
    with open(reviews, 'a') as f:
        f.write(
            ''.join(
                json.dumps(review('u0', f'P{i}', f'More words of mine about product number {i}', 1)) + '\n'
                for i in (1, 2)
            )
        )
    core = prepare(reviews, meta, 'x', tmp_path, kcore=2)
    assert set(core.train.user_id) <= {'u0'}
    assert len(core.test) == len(prepare(reviews, meta, 'x', tmp_path).test)


def test_the_longest_reviews_can_be_asked_for(tmp_path):
    _, meta = store(tmp_path)
    long = [
        review(f'u{i}', f'P{i}', (f'{i}abcdefghi ' * 20)[:n]) for i, n in enumerate((220, 220, 220, 160))
    ]  # of the last one, 146 letters
    data = prepare(
        write(tmp_path / 'long.jsonl', long),
        meta,
        'x',
        tmp_path,
        split='product',
        min_chars=150,
        fractions=(0.34, 0.33, 0.33),
    )
    assert removed(data) == {'too short': 1} and set(kept(data).user_id) == {'u0', 'u1', 'u2'}


def test_a_catalogue_without_reviews(tmp_path):
    _, meta = store(tmp_path)
    data = prepare([], meta, 'x', tmp_path)
    assert len(data.products) == 5 and [len(data.train), len(data.val), len(data.test)] == [0, 0, 0]
    assert list(data.train.columns) == [
        'review_id',
        'product_id',
        'family_id',
        'user_id',
        'timestamp',
        'title',
        'text',
        'rating',
        'informative',
        'cold',
    ]
    assert 'x' in repr(data) and '# x' in data._repr_markdown_()
    with pytest.raises(RecsysError, match='split by time: there are no reviews'):
        prepare([], meta, 'x', tmp_path, split='time')


def test_a_folder_with_both_kinds(tmp_path):
    reviews, meta = store(tmp_path)
    (tmp_path / 'raw').mkdir()
    reviews.rename(tmp_path / 'raw' / 'Toys.jsonl')
    meta.rename(tmp_path / 'raw' / 'meta_Toys.jsonl')
    assert len(kept(prepare(tmp_path / 'raw', str(tmp_path / 'raw' / 'meta*'), 'x', tmp_path))) == 20


def test_a_line_above_16_mb_is_set_aside(tmp_path):
    reviews, meta = store(tmp_path)
    with open(reviews, 'a') as f:
        f.write(
            json.dumps(review('long', 'P0', 'x' * 40_000_000))
            + '\n'
            + json.dumps(review('last', 'P0', sentence(99)))
            + '\n'
        )
    data = prepare(reviews, meta, 'x', tmp_path)
    assert 'last' in set(kept(data).user_id) and [(q['line'], q['reason']) for q in quarantine(data)] == [
        (21, 'longer than 16 MB')
    ]


def test_patterns_and_hidden_files(tmp_path):
    s = make_sample_store(tmp_path / 's', n_products=30, n_reviews=180)
    (tmp_path / 's' / '.more.jsonl.gz.part.json').write_text('{}')
    for paths in (tmp_path / 's', str(tmp_path / 's' / '*.jsonl.gz')):
        files = prepare(paths, paths, 'x', tmp_path, max_bad=0.1).report['files']
        assert [[Path(f['file']).name for f in v] for v in files.values()] == [['reviews.jsonl.gz'], ['meta.jsonl.gz']]
    with pytest.raises(RecsysError, match='meta.jsonl.gz: given as reviews and as metadata'):
        prepare([s.reviews, s.meta], s.meta, 'x', tmp_path)


def test_a_year_begins_on_its_first_day(tmp_path):
    _, meta = store(tmp_path)
    dates = [1577836799999, 1577836800000, 1609459199999, 1609459200000]  # around 2020
    data = prepare(
        write(tmp_path / 'r.jsonl', [review(f'u{i}', 'P0', sentence(i), timestamp=t) for i, t in enumerate(dates)]),
        meta,
        'x',
        tmp_path,
        cuts=dates[1:3],
        categories='Keyboards',
    )
    assert data.report['distributions']['years'] == {'2019': 1, '2020': 2, '2021': 1}


def test_quantiles_are_those_of_pandas(tmp_path):
    data = prepare(*store(tmp_path, n=120), 'x', tmp_path)
    lengths, found = kept(data).text.str.len(), data.report['distributions']['text_length']
    shares = {'min': 0, '25%': 0.25, '50%': 0.5, '75%': 0.75, '95%': 0.95, 'max': 1}
    assert found == dict(n=120, mean=round(lengths.mean(), 2)) | {
        k: round(lengths.quantile(q), 2) for k, q in shares.items()
    }


def test_an_example_is_shown_of_what_was_removed(tmp_path):
    _, meta = store(tmp_path)
    rows = [
        *(review('b', 'P1', 'Good', 2) for _ in range(2)),
        *(review(f'u{i}', 'P2', sentence(i), i) for i in range(9)),
    ]
    data = prepare(write(tmp_path / 'r.jsonl', rows), meta, 'x', tmp_path)
    steps = {s['step']: s.get('example') for s in data.report['steps']['reviews']}
    assert steps['exact duplicate'] == dict(product_id='P1', rating=4, title='', text='Good')
    assert '- **exact duplicate**: “Good” (P1, 4 stars)\n' in report_text(data.report)


# -- interactions


def test_everything_somebody_had_is_an_interaction(tmp_path):
    reviews, meta = store(tmp_path)
    more = [
        review('a', 'P0', '', 30),
        review('a', 'P0', '', 30),
        review('a', 'P0', '', 40, rating=None),  # had again
        review('b', 'P1', sentence(0), 31),  # copies another's text
        review('', 'P1', 'nobody knows who says this about it', 32),
        review('c', 'nowhere', 'of no product', 33),
        review('d', 'P1', 'stars that there are not', 34, rating=9.0),
    ]
    data = prepare([reviews, write(tmp_path / 'more.jsonl', more)], meta, 'x', tmp_path)
    t = data.interactions
    assert list(t.columns) == ['user_id', 'product_id', 'family_id', 'timestamp', 'rating', 'part']
    assert len(t) == data.count('interactions') == 20 + 3 and set(t.user_id) == {f'u{i}' for i in range(20)} | {
        'a',
        'b',
    }
    assert t[t.user_id == 'a'].rating.fillna(0).tolist() == [4, 0]
    assert removed(data, 'interactions') == {
        'unknown product': 1,
        'invalid rating': 1,
        'unknown user': 1,
        'same moment': 1,
    }
    assert data.report['steps']['interactions'][-1]['after'] == len(t) == data.report['interactions']['had']
    assert '23 interactions of 22 users with 5 products' in report_text(data.report)
    ends = t.groupby('part').timestamp.agg(['min', 'max'])
    assert ends['max']['train'] < ends['min']['val'] and ends['max']['val'] < ends['min']['test']
    for part in ('train', 'val', 'test'):  # a review and its interaction are in the same part
        said = getattr(data, part).query('user_id != ""').merge(t, on=['user_id', 'product_id', 'timestamp'])
        assert (
            set(said.part) == {part} and data.report['split']['parts'][part]['interactions'] == (t.part == part).sum()
        )


def test_interactions_follow_their_family(tmp_path):
    reviews, meta = store(tmp_path, n=60)
    silent = write(tmp_path / 'silent.jsonl', [review(f'v{i}', f'P{i % 5}', '', i) for i in range(30)])
    data = prepare([reviews, silent], meta, 'x', tmp_path, split='product', fractions=(0.6, 0.2, 0.2))
    part = {f: p for p in ('train', 'val', 'test') for f in getattr(data, p).family_id}
    assert len(data.interactions) == 90 and (data.interactions.family_id.map(part) == data.interactions.part).all()


@pytest.mark.parametrize('split', ['auto', 'time', 'product', 'review'])
def test_interactions_alone(tmp_path, split):
    _, meta = store(tmp_path)
    rows = [review(f'u{i % 40}', f'P{i % 5}', '', i, title=None) for i in range(200)]
    data = prepare(write(tmp_path / 'r.jsonl', rows), meta, 'x', tmp_path, split=split, fractions=(0.6, 0.2, 0.2))
    assert [len(data.train), len(data.val), len(data.test), len(data.interactions)] == [0, 0, 0, 200]
    assert set(data.interactions.part) == {'train', 'val', 'test'}
    assert data.report['split']['by'] == (
        'time' if split == 'auto' else split
    ) and 'No review has words' in report_text(data.report)


def test_real_histories(shared_data, tmp_path):
    folder = shared_data / 'amazon_office_histories'
    data = prepare(folder / 'reviews.jsonl.gz', folder / 'meta.jsonl.gz', 'office', tmp_path)
    assert data.count('train') == data.count('val') == data.count('test') == 0 < data.count('interactions')
    assert data.report['split']['by'] == 'time' and len(data.interactions) == sum(
        map(len, read_batches(data, 'interactions', [], 1000))
    )
    lines = data.report['steps']['interactions']
    assert lines[0]['before'] == lines[-1]['after'] + sum(s['removed'] for s in lines)


# -- held out within families


def test_split_by_review(tmp_path):
    _, meta = store(tmp_path)
    rows = [
        review(f'u{i % 150}', f'P{i % 5}', sentence(i), i) for i in range(300)
    ]  # each says something of a product twice
    rows += [review(f'u{i}', f'P{i % 5}', '', 400 + i) for i in range(50)]
    files = write(tmp_path / 'r.jsonl', rows), meta
    data = prepare(*files, 'x', tmp_path, split='review')
    t, n = kept(data), {p: len(getattr(data, p)) for p in ('train', 'val', 'test')}
    assert len(t) == 150 and min(n.values()) > 5 and n['train'] > 100
    assert set(data.test.family_id) | set(data.val.family_id) <= set(data.train.family_id) and not t.cold.any()
    assert (
        len(data.interactions) == 350 and data.interactions.groupby(['user_id', 'product_id']).part.nunique().max() == 1
    )
    part = {(u, q): p for p in n for u, q in getattr(data, p)[['user_id', 'product_id']].values}
    assert [
        part[tuple(k)] for k in data.interactions[['user_id', 'product_id']].values
    ] == data.interactions.part.tolist()
    assert 'every product family is in training' in [c['check'] for c in data.report['checks']]
    assert 'by review within families, seed 0' in report_text(data.report)
    again, other = (prepare(*files, 'y', tmp_path, split='review', seed=s).test for s in (0, 1))
    assert again.equals(data.test) and set(other.review_id) != set(again.review_id)


def test_what_is_had_again_stays_one_row_each(tmp_path):
    "Sixty things without words, each had twice by one person: no row is doubled, and the steps add up."
    meta = write(tmp_path / 'm.jsonl', [page(f'P{i:02}', f'Thing {i}') for i in range(60)])
    rows = [review(f'u{i}', f'P{i:02}', '', day) for i in range(60) for day in (i, i + 100)]
    data = prepare(write(tmp_path / 'r.jsonl', rows), meta, 'x', tmp_path, split='review')
    t = data.interactions
    assert len(t) == len(t.drop_duplicates(['user_id', 'product_id', 'timestamp'])) == 120
    assert t.groupby(['user_id', 'product_id']).part.nunique().max() == 1
    steps = data.report['steps']['reviews']
    assert steps[0]['before'] == sum(s['removed'] for s in steps) == 120 and steps[-1]['after'] == 0


def test_a_core_of_a_split_by_review(tmp_path):
    _, meta = store(tmp_path)
    rows = [review(f'u{i}', f'P{i % 4}', sentence(i), i) for i in range(80)] + [
        review(f'u{i}', f'P{4 if i < 9 else (i + 1) % 4}', sentence(i + 100), i) for i in range(80)
    ]
    data = prepare(
        write(tmp_path / 'r.jsonl', rows), meta, 'x', tmp_path, split='review', kcore=9, fractions=(0.5, 0.25, 0.25)
    )
    assert len(data.train) == 0 < len(data.test) and data.test.cold.all()


def test_updates_are_files_of_metadata(tmp_path):
    reviews, meta = store(tmp_path)
    newer = write(tmp_path / 'newer.jsonl', [page('P0', 'Keyboard with new keys')])
    for said in (str(newer), f'{tmp_path}/./newer.jsonl'):
        data = prepare(reviews, [meta, newer], 'x', tmp_path, updates=[said])
        assert data.products.title[0] == 'Keyboard with new keys'
    with pytest.raises(RecsysError, match='updates: other.jsonl is none of the files of metadata'):
        prepare(reviews, [meta, newer], 'x', tmp_path, updates='other.jsonl')


def test_a_catalogue_alone_has_nothing_to_hold_out(tmp_path):
    data = prepare([], store(tmp_path)[1], 'x', tmp_path, split='review')
    assert len(data.products) == 5 and len(data.test) == len(data.interactions) == 0


def test_a_family_of_one_review_trains(tmp_path):
    files = store(tmp_path, n=5)
    data = prepare(*files, 'x', tmp_path, split='review')
    assert [len(data.train), len(data.val), len(data.test)] == [5, 0, 0]


def test_copies_stay_out_of_a_split_by_review(shared_data, tmp_path):
    folder = shared_data / 'amazon_phones_stars'
    data = prepare(folder / 'reviews.jsonl.gz', folder / 'meta.jsonl.gz', 'x', tmp_path, split='review')
    assert data.report['split']['by'] == 'review' and all(c['ok'] for c in data.report['checks'])
    assert len(data.test) > 100 and set(data.test.family_id) <= set(data.train.family_id)


# -- what goes wrong


def test_an_older_folder_is_told_to_be_prepared_again(tmp_path):
    data = prepare(*store(tmp_path), 'x', tmp_path)
    data.file('interactions').unlink()
    with pytest.raises(RecsysError, match='interactions.parquet: missing; run `recsys prepare` again'):
        data.interactions
    with pytest.raises(RecsysError, match='interactions.parquet: missing'):
        next(read_batches(data, 'interactions', []))


def test_a_reader_between_the_renames_of_a_writer(tmp_path, monkeypatch):
    rename, path = Path.rename, tmp_path / 'x'

    def then_read(self, target):
        rename(self, target)
        if self == path and not read:
            read.append(recover_folder(path))

    read = []
    monkeypatch.setattr(Path, 'rename', then_read)
    for text in ('old', 'new'):
        with replace_folder(path) as p:
            (p / 'a').write_text(text)
    assert read and (path / 'a').read_text() == 'new' and [p.name for p in tmp_path.iterdir()] == ['x']


def test_the_work_of_another_data_set_stays(tmp_path):
    files, home = store(tmp_path), tmp_path / 'data' / 'preprocessed'
    for left in ('.x.v2.1a2b3c4d.part', '.x.1a2b3c4d.part'):
        (home / left).mkdir(parents=True)
    prepare(*files, 'x', tmp_path)
    assert [p.name for p in home.glob('.*.part')] == ['.x.v2.1a2b3c4d.part']


def test_clear_messages(tmp_path):
    reviews, meta = store(tmp_path)
    (tmp_path / 'empty.jsonl').write_text('')
    (tmp_path / 'page.html').write_text('Service\nis not\navailable\n')
    (tmp_path / 'cut.jsonl.gz').write_bytes(gzip.compress(reviews.read_bytes())[:200])
    (tmp_path / 'cut.json.gz').write_bytes(gzip.compress(b"{'asin': 'P0'}\n" * 9)[:-9])
    good = prepare(reviews, meta, 'x', tmp_path).report
    for message, change in {
        'nothing.jsonl: no such file': dict(reviews='nothing.jsonl'),
        'empty.jsonl: empty': dict(reviews=tmp_path / 'empty.jsonl'),
        'meta: expected at least one file': dict(meta=[]),
        'page.html: 3 of 3 lines cannot be used, more than --max-bad 5%; the first is line 1: not JSON': dict(
            reviews=tmp_path / 'page.html'
        ),
        'cut.jsonl.gz: damaged, or not whole': dict(reviews=tmp_path / 'cut.jsonl.gz'),
        'cut.json.gz: damaged, or not whole': dict(meta=tmp_path / 'cut.json.gz'),
        "name='../x'": dict(name='../x'),
        "split='random'": dict(split='random'),
        "engine='pandas'": dict(engine='pandas'),
        'memory=much': dict(memory='much'),
        'memory=1.2.3GB': dict(memory='1.2.3GB'),
        'threads=-1: expected': dict(threads=-1),
        'fractions=': dict(fractions=(1, 0, 0)),
        'cuts=': dict(cuts='yesterday'),
        'max_bad=2': dict(max_bad=2),
        'kcore=-1': dict(kcore=-1),
        'min_chars=-1': dict(min_chars=-1),
        'min_char: no such setting; there are: categories, split': dict(min_char=3),
        'min_chars=151: expected a number from 0 to 150': dict(min_chars=151),
    }.items():
        with pytest.raises(RecsysError) as e:
            prepare(**(dict(reviews=reviews, meta=meta, name='x', root=tmp_path) | change))
        assert message in str(e.value) and '\n' not in str(e.value)
    assert load_prepared('x', tmp_path).report == good
    assert sorted(p.name for p in (tmp_path / 'data' / 'preprocessed').iterdir()) == ['x']


def test_the_second_of_two_stops(tmp_path):
    files = store(tmp_path)
    with only_one(tmp_path / 'data' / 'preprocessed' / 'x', 'data set'):
        with pytest.raises(RecsysError, match="data set 'x' is being written by another process"):
            prepare(*files, 'x', tmp_path)
        prepare(*files, 'y', tmp_path)


def test_killed_in_the_middle(tmp_path):
    files = store(tmp_path)
    before = prepare(*files, 'x', tmp_path).report
    code = """
import sys, time
import recsys_nb.data.prepare as preparing
def stop(*a):
    print("there", flush=True)
    time.sleep(60)
preparing._report = stop
preparing.prepare(*sys.argv[1:3], "x", sys.argv[3])"""
    p = subprocess.Popen(
        [sys.executable, '-c', code, *map(str, files), str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert p.stdout.readline() == 'there\n'
    p.send_signal(signal.SIGKILL)
    p.wait()
    home = tmp_path / 'data' / 'preprocessed'
    assert load_prepared('x', tmp_path).report == before and len(list(home.glob('.x.*.part'))) == 1
    prepare(*files, 'x', tmp_path, split='product')
    assert load_prepared('x', tmp_path).report['split']['by'] == 'product' and not list(home.glob('.x.*.part'))


def test_a_core_knows_no_person_without_a_name(tmp_path):
    meta = write(
        tmp_path / 'm.jsonl', [dict(parent_asin=f'P{i}', title=f'A thing of sort {"abc"[i]}') for i in range(3)]
    )
    rows = [
        review(f'u{i % 10}' if i < 60 else '', f'P{i % 3}', sentence(i), timestamp=10**12 + i * 86_400_000)
        for i in range(90)
    ]
    data = prepare(write(tmp_path / 'r.jsonl', rows), meta, 'x', tmp_path, split='review', kcore=2)
    assert set(data.train.user_id) and '' not in set(data.train.user_id)


@pytest.mark.parametrize('split', ['product', 'review'])
def test_cuts_belong_to_time(tmp_path, split):
    with pytest.raises(RecsysError, match=f'cuts: a split by {split} has none'):
        prepare([], [], 'x', tmp_path, split=split, cuts='blair')
