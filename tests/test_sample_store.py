"The sample store: reproducible, in the real files' format, and its counts and its truth hold for what is in the files."

import gzip, hashlib, json
from collections import Counter

import pandas as pd
import pytest

from recsys_nb.data.sample_store import attributes, make_sample_store

review_fields = set(
    'rating title text images asin parent_asin user_id timestamp helpful_vote verified_purchase'.split()
)
meta_fields = set(
    (
        'main_category title average_rating rating_number features description price images videos '
        'store categories details parent_asin bought_together'
    ).split()
)


def lines(path):
    good, torn = [], 0
    for line in gzip.open(path, 'rt', encoding='utf-8'):
        try:
            good.append(json.loads(line))
        except json.JSONDecodeError:
            torn += 1
    return good, torn


@pytest.fixture(scope='module')
def store(tmp_path_factory):
    return make_sample_store(tmp_path_factory.mktemp('store'))


@pytest.fixture(scope='module')
def reviews(store):
    return lines(store.reviews)


@pytest.fixture(scope='module')
def meta(store):
    return lines(store.meta)


def test_fields_are_those_of_2023(reviews, meta):
    assert all(review_fields - {'title'} <= set(r) <= review_fields | {'vine', 'style'} for r in reviews[0])
    assert all(meta_fields - {'title'} <= set(m) <= meta_fields for m in meta[0])


def test_review_defects_are_counted_to_the_row(store, reviews):
    d, (rows, torn) = store.defects['reviews'], reviews
    assert torn == d['unreadable_lines']
    assert sum(r['rating'] == 0 for r in rows) == d['zero_ratings']
    assert sum(r['rating'] is None for r in rows) == d['null_ratings']
    assert sum(isinstance(r['rating'], str) for r in rows) == d['string_ratings']
    assert sum(isinstance(r['timestamp'], str) for r in rows) == d['string_timestamps']
    assert sum('title' not in r for r in rows) == d['missing_titles']
    assert sum('title' in r and r['title'] is None for r in rows) == d['null_titles']
    assert sum('<br />' in r['text'] or '&amp;' in r['text'] for r in rows) == d['html_texts']
    assert sum('\x00' in r['text'] for r in rows) == d['control_characters']
    assert sum('vine' in r for r in rows) == d['unexpected_fields']
    exact = Counter(json.dumps(r) for r in rows)
    assert sum(exact.values()) - len(exact) == d['exact_duplicates']
    pairs = Counter((r['user_id'], r['parent_asin']) for r in map(json.loads, exact))
    assert sum(n - 1 for n in pairs.values()) == d['second_reviews']
    extra = sum(
        d[k] for k in ('exact_duplicates', 'second_reviews', 'near_duplicates', 'orphan_reviews', 'variant_copies')
    )
    assert len(rows) == 3000 + extra


def test_meta_defects_are_counted_to_the_row(store, reviews, meta):
    d, (rows, torn) = store.defects['meta'], meta
    assert torn == d['unreadable_lines']
    pages = {m['parent_asin']: m for m in rows}
    assert len(rows) - len(pages) == d['exact_duplicates'] and len(pages) == 240
    assert sum(m['price'] is None for m in pages.values()) == d['null_prices']
    assert sum(isinstance(m['price'], str) for m in pages.values()) == sum(
        d[k] for k in ('dash_prices', 'dollar_prices', 'from_prices', 'range_prices')
    )
    assert sum(isinstance(m['details'], str) for m in pages.values()) == d['string_details']
    reviewed = {r['parent_asin'] for r in reviews[0]}
    assert len(set(pages) - reviewed) == d['without_reviews']
    assert len(reviewed - set(pages)) == store.defects['reviews']['orphan_reviews']


def test_variants_share_their_reviews_word_for_word(store, reviews):
    t, texts = store.truth, {}
    for r in reviews[0]:
        texts.setdefault(r['parent_asin'], set()).add(r['text'])
    copies = t[t.family != t.product_id]
    assert len(copies) == store.defects['meta']['variant_products']
    assert all(texts[c.product_id] == texts[c.family] for c in copies.itertuples())


def test_reviews_mention_what_their_product_is(store, meta, reviews):
    "A quiet product is never called loud."
    pages, kind = {m['parent_asin']: m for m in meta[0]}, store.truth.set_index('product_id')
    told = store.review_truth
    for mentions, p in zip(told.mentions, told.product_id):
        if p in kind.index:
            assert all(m in set(kind.loc[p, list(attributes)]) for m in mentions)
    assert set(pages) == set(kind.index)


def test_best_prediction_is_known_and_unbiased(store, reviews):
    rows = pd.DataFrame(reviews[0]).rename(columns={'parent_asin': 'product_id'})
    for c in ('rating', 'timestamp'):
        rows[c] = pd.to_numeric(rows[c])
    rows = rows[rows.rating >= 1]
    best = rows.reset_index(drop=True).merge(store.review_truth, 'left', on=['user_id', 'product_id', 'timestamp'])
    assert best.expected.notna().all()
    assert abs(((best.rating - best.expected) ** 2).mean() ** 0.5 - best.variance.mean() ** 0.5) < 0.03
    assert abs((best.rating - best.expected).mean()) < 0.04


def test_new_and_old_products(store):
    "A split by time finds products in its last tenth that training has never seen, and others that it has."
    r = store.review_truth.sort_values('timestamp')
    n = len(r)
    cold = ~r[int(0.9 * n) :].product_id.isin(set(r[: int(0.8 * n)].product_id))
    assert 0.1 < cold.mean() < 0.7


def test_same_seed_same_bytes_other_seed_other_store(tmp_path):
    a, b, c = (make_sample_store(tmp_path / str(i), 30, 200, seed) for i, seed in enumerate((3, 3, 4)))

    def digest(s):
        return hashlib.sha256(
            gzip.decompress(s.reviews.read_bytes()) + gzip.decompress(s.meta.read_bytes())
        ).hexdigest()

    assert digest(a) == digest(b) != digest(c)
    assert b.review_truth.equals(a.review_truth) and b.truth.equals(a.truth)
