"Metrics against definitions, enumeration and another library; formats against hostile files; the report on real data."

import itertools, json, tracemalloc
from pathlib import Path
from types import SimpleNamespace

import ir_measures, numpy as np, pandas as pd, pytest
from hypothesis import given, strategies as st
from conftest import examples
from ir_measures import nDCG, R, RR

from recsys_nb.evaluation import retrieval
from recsys_nb.evaluation.fusion import (
    Heard,
    Trials,
    Weights,
    bm25_scorer,
    fit_weights,
    popularity_scorer,
    tfidf_scorer,
    trials,
)
from recsys_nb.evaluation.histories import HistoryModel, history_table, read_histories
from recsys_nb.evaluation.queries import fitting_queries, keyword_task
from recsys_nb.core.files import RecsysError
from recsys_nb.data.prepare import load_prepared, prepare
from recsys_nb.data.sample_store import make_sample_store
from recsys_nb.evaluation.certainty import bootstrap_interval
from recsys_nb.evaluation.metrics import Catalogue, chance, rank, ranking_metrics, review_queries, top_k
from recsys_nb.evaluation.trec import evaluate_run, read_qrels, read_queries, write_run
from recsys_nb.evaluation.retrieval import evaluate_retrieval

shared = Path(__file__).parents[2] / 'shared' / 'data'
fast = examples(60)
nobody = pd.DataFrame(columns=['family_id', 'product_id', 'review_id', 'title', 'text'])  # wrote anything


@st.composite
def cases(draw):
    "Scores with many ties, relevant sets and families of a small catalogue"
    n, q = draw(st.integers(1, 12)), draw(st.integers(1, 5))
    scores = np.array(
        draw(st.lists(st.lists(st.integers(0, 3), min_size=n, max_size=n), min_size=q, max_size=q)), np.float32
    )
    relevant = draw(st.lists(st.sets(st.integers(0, n - 1), min_size=1), min_size=q, max_size=q))
    families = np.unique(draw(st.lists(st.integers(0, 4), min_size=n, max_size=n)), return_inverse=True)[1]
    return scores, relevant, families


def by_definition(scores, relevant, families):
    "The metrics of one query, slowly and obviously"
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    wanted, seen, places = {families[i] for i in relevant}, set(), []
    for place, i in enumerate(order, 1):
        if families[i] in wanted - seen:
            places.append(place)
        seen.add(families[i])
    gain = lambda ps: sum(1 / np.log2(p + 1) for p in ps if p <= 10)
    return dict(
        [
            ('ndcg@10', gain(places) / gain(range(1, len(wanted) + 1))),
            ('mrr@10', 1 / places[0] if places[0] <= 10 else 0),
        ]
        + [(f'recall@{k}', sum(p <= k for p in places) / len(wanted)) for k in (1, 3)]
    )


@fast
@given(cases())
def test_metrics_agree_with_their_definition(case):
    scores, relevant, families = case
    got = ranking_metrics(top_k(scores, scores.shape[1]), relevant, ks=(1, 3), families=families)
    for i, row in got.iterrows():
        assert row.to_dict() == pytest.approx(by_definition(scores[i].tolist(), relevant[i], families))
    assert got.to_numpy().min() >= 0 and got.to_numpy().max() <= 1 + 1e-12


@fast
@given(cases(), st.data())
def test_a_hit_that_moves_up_never_lowers_a_metric(case, data):
    scores, relevant, _ = case
    ranked = top_k(scores, scores.shape[1])
    before = ranking_metrics(ranked, relevant, ks=(1, 3))
    for row, wanted in zip(ranked, relevant):
        place = data.draw(st.integers(0, len(row) - 1))
        if place and row[place] in wanted:
            row[[place - 1, place]] = row[[place, place - 1]]
    assert (ranking_metrics(ranked, relevant, ks=(1, 3)) >= before - 1e-12).all().all()


@fast
@given(cases(), st.randoms())
def test_the_order_of_rows_in_the_table_does_not_matter(case, random):
    scores, _, families = case
    shop = pd.DataFrame(
        dict(product_id=[f'P{i:02}' for i in range(len(families))], family_id=[f'F{f}' for f in families], text='x')
    )
    shop['score'] = scores[0]
    order = list(range(len(shop)))
    random.shuffle(order)

    def best(frame):
        cat, known = Catalogue(frame), frame.set_index('product_id').score
        return cat.ids[top_k(known[cat.ids].to_numpy()[None], 5)[0]].tolist()

    assert best(shop) == best(shop.iloc[order])


@fast
@given(st.integers(1, 5), st.data())
def test_chance_is_the_mean_over_all_orders(n, data):
    families = np.unique(data.draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)), return_inverse=True)[1]
    wanted = data.draw(st.sets(st.integers(0, n - 1), min_size=1))
    every = np.array(list(itertools.permutations(range(n))))
    mean = ranking_metrics(every, [wanted] * len(every), ks=(1, 2), families=families).mean().to_dict()
    assert chance([wanted], families, ks=(1, 2)) == pytest.approx(mean)


@fast
@given(cases(), st.integers(1, 200))
def test_chunks_change_nothing(case, memory):
    scores, _, _ = case
    ask = lambda queries: scores[queries]
    assert (rank(ask, np.arange(len(scores)), scores.shape[1], k=4, memory=memory) == top_k(scores, 4)).all()


def test_a_large_catalogue_is_ranked_in_bounded_memory():
    products, queries = (
        np.random.default_rng(0).random((20_000, 8), dtype=np.float32),
        np.random.default_rng(1).random((2_000, 8), dtype=np.float32),
    )
    tracemalloc.start()
    ranked = rank(lambda q: q @ products.T, queries, len(products), k=10, memory=8e6)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert ranked.shape == (2_000, 10) and peak < 40e6  # all scores at once would be 160e6
    assert (ranked[:5] == np.argsort(-(queries[:5] @ products.T), kind='stable')[:, :10]).all()


judged = st.dictionaries(
    st.sampled_from(['q1', 'q2', 'q3']),
    st.dictionaries(st.sampled_from('abcdefghijklmnop'), st.integers(0, 3), min_size=1, max_size=10),
    min_size=1,
)
found = st.dictionaries(
    st.sampled_from(['q1', 'q2', 'q3', 'q4']),
    st.lists(
        st.tuples(st.sampled_from('abcdefghijklmnop'), st.floats(-5, 5, width=16)),
        unique_by=lambda o: o[0],
        max_size=16,
    ),
    min_size=1,
)


@fast
@given(judged, found)
def test_runs_score_as_in_ir_measures(tmp_path_factory, qrels, run):
    run = {q: sorted(o, key=lambda p: -p[1]) for q, o in run.items() if o}
    if not set(run) & set(qrels):
        return
    path = tmp_path_factory.mktemp('run') / 'a.run'
    write_run(path, run)
    theirs = ir_measures.calc_aggregate(
        [nDCG @ 10, R @ 1, R @ 10, R @ 100, RR @ 10], qrels, list(ir_measures.read_trec_run(str(path)))
    )
    ours = evaluate_run(run, qrels)
    names = {'ndcg@10': nDCG @ 10, 'recall@1': R @ 1, 'recall@10': R @ 10, 'recall@100': R @ 100, 'mrr@10': RR @ 10}
    assert {k: ours['metrics'][k] for k in names} == pytest.approx({k: theirs[m] for k, m in names.items()}, abs=1e-6)
    assert ours['n_queries'] == len(qrels)


@pytest.mark.parametrize(
    'read, text, said',
    [
        (read_qrels, '', 'it is empty'),
        (read_qrels, 'q1 0 a 1\nq1 0 a 2\n', 'line 2: q1 a was graded 1 before'),
        (read_qrels, 'q1 0 a\n', 'line 1: expected query 0 product grade'),
        (read_qrels, 'query-id corpus-id score x\n', 'line 1: grade: expected a whole number'),
        (read_queries, 'q1 no tab\n', 'line 1: expected id<TAB>text'),
        (read_queries, 'q1\ta\n\nq1\tb\n', 'line 3: query q1 was there before'),
        (read_queries, b'q1\t\xff\xfe', 'not UTF-8'),
    ],
)
def test_bad_files_are_named_with_their_line(tmp_path, read, text, said):
    (tmp_path / 'f').write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(RecsysError, match='f: ') as e:
        read(tmp_path / 'f')
    assert said in str(e.value) and '\n' not in str(e.value)


def test_missing_files_and_strangers(tmp_path):
    for read in (read_qrels, read_queries):
        with pytest.raises(RecsysError, match='no such file'):
            read(tmp_path / 'nothing')
    with pytest.raises(RecsysError, match='none of its queries'):
        evaluate_run({'q9': [('a', 1.0)]}, {'q1': {'a': 1}})


@fast
@given(st.text(max_size=200))
def test_readers_raise_nothing_but_clear_errors(tmp_path_factory, text):
    path = tmp_path_factory.mktemp('any') / 'f'
    path.write_text(text, encoding='utf-8', errors='surrogatepass')
    for read in (read_qrels, read_queries):
        try:
            read(path)
        except RecsysError:
            pass


@pytest.mark.parametrize(
    'line',
    [
        '{"history": [["B1"]], "next": "B2"}',
        '{"history": [{"id": "B1"}], "next": "B2"}',
        '{"history": [1, 2], "next": "B2"}',
        '{"history": ["B1", null], "next": "B2"}',
        '{"history": "B1", "next": "B2"}',
        '{"history": ["B1"]}',
        '{"history": ["B1"], "next": 2}',
    ],
)
def test_histories_hold_ids_and_nothing_else(tmp_path, line):
    (tmp_path / 'h.jsonl').write_text('{"history": ["B1"], "next": "B2"}\n' + line)
    with pytest.raises(RecsysError, match='h.jsonl: line 2: expected an object such as'):
        read_histories(tmp_path / 'h.jsonl')


def test_people_without_a_name_are_different_people(tmp_path):
    line = '{"id": null, "history": ["B1"], "next": "B2"}\n'
    (tmp_path / 'h.jsonl').write_text(2 * line)
    asked = read_histories(tmp_path / 'h.jsonl')
    assert asked.user_id.tolist() == ['1', '2']
    after = pd.DataFrame([('B1', 'B2', 1.0, 1.0)], columns=['before', 'product_id', 'weight', 'damping'])
    model = HistoryModel(['B1', 'B2'], after, pd.DataFrame(dict(product_id=[], again=[])))
    both, one = history_table(model, asked), history_table(model, asked[:1])
    assert set(both['HR@10']) == set(both['HR@10_low']) == set(both['HR@10_high']) == {1.0}
    assert set(one['HR@10']) == {1.0} and one['HR@10_low'].isna().all(), 'one person tells nothing of others'


def test_bootstrap_is_the_plain_one():
    values, groups = np.random.default_rng(0).random(60), np.repeat(np.arange(20), 3)
    rng, means = np.random.default_rng(1), []
    for _ in range(4000):
        chosen = rng.integers(0, 20, 20)
        means.append(np.concatenate([values[groups == g] for g in chosen]).mean())
    assert bootstrap_interval(values, groups) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=0.006)
    assert np.transpose(bootstrap_interval(np.c_[values, 1 - values], groups))[0] == pytest.approx(
        bootstrap_interval(values, groups)
    )


@fast
@given(st.lists(st.text(max_size=30), min_size=1, max_size=6), st.lists(st.text(max_size=30), min_size=1, max_size=4))
def test_word_methods_take_any_text(documents, queries):
    for scorer in (
        bm25_scorer(documents),
        tfidf_scorer(documents),
        popularity_scorer(
            Catalogue(pd.DataFrame(dict(product_id=range(len(documents)), family_id='f', text=documents))),
            pd.DataFrame(dict(product_id=[0])),
        ),
    ):
        scores = scorer(queries)
        assert scores.shape == (len(queries), len(documents)) and np.isfinite(scores).all()


@pytest.fixture(scope='module')
def electronics(tmp_path_factory):
    from recsys_nb.data.prepare import prepare

    folder = shared / 'amazon_in_electronics'
    if not folder.exists():
        pytest.skip(f'needs the real reviews in {folder}')
    return prepare(
        [folder / 'reviews.jsonl.gz'],
        [folder / 'meta.jsonl.gz'],
        'in_electronics',
        root=tmp_path_factory.mktemp('root'),
    )


class Hashed:
    "An encoder that needs no weights: hashed words"

    def encode(self, texts, side='user'):
        from sklearn.feature_extraction.text import HashingVectorizer

        return HashingVectorizer(n_features=512, alternate_sign=False, stop_words='english').transform(texts).toarray()


class Blind:
    def encode(self, texts, side='user'):
        return np.full((len(texts), 4), 0.5)


def test_the_report_on_real_reviews(electronics):
    report = evaluate_retrieval(electronics, dict(hashed=Hashed()), base=Blind())
    head = report.headline().set_index('system')
    assert (
        0.09 < head.at['BM25', 'ndcg@10'] < 0.22
        and head.at['BM25', 'ndcg@10_low'] < head.at['BM25', 'ndcg@10'] < head.at['BM25', 'ndcg@10_high']
    )
    assert head.at['base encoder', 'ndcg@10'] < 0.02 and head.at['chance', 'recall@10'] < 0.02
    assert (head.n_candidates == len(electronics.products)).all()
    assert report.verdicts['reviews', 'hashed'] == str(report).splitlines()[-1]
    assert report.verdicts['reviews', 'hashed'].startswith('VERDICT: WIN')
    assert ('histories', 'all three') in report.verdicts
    alone = {'all signals', 'metadata alone', 'kind', 'reviews', 'review words'}
    assert alone | {'without words', 'without kind', 'without review words'} <= set(head.index)
    assert 'kind' in report.weights['hashed'].level
    assert ('reviews, cold', 'all signals') in report.verdicts and 'words' in report.weights['hashed'].level
    assert {'metrics', 'n_queries'} <= set(json.loads(json.dumps(report.to_dict())))
    assert head.filter(like='@').le(1).where(head.filter(like='@').notna(), True).all().all()


def test_products_without_reviews_gain_nothing_by_that():
    signals = dict(meaning=[[0.9, 0.9]], words=[[1.0, 1.0]], reviews=[[0.8, np.nan]], review_words=[[2.0, np.nan]])
    cat, data = (
        Catalogue(pd.DataFrame(dict(product_id=range(2), family_id=['f', 'g'], text='a red pen'))),
        SimpleNamespace(train=pd.DataFrame(dict(product_id=[0]))),
    )
    signals, weights = (
        {s: np.array(v) for s, v in signals.items()},
        dict.fromkeys(['metadata alone', 'x'], Weights(nearer=-0.1)),
    )
    found = dict(retrieval._systems_of(data, cat, dict(x=lambda texts: signals), weights)(['pen']))
    for left_out in 'meaning', 'words':
        assert found[f'without {left_out}'][0, 1] == pytest.approx(found[f'without {left_out}'][0, 0])


def test_a_kind_is_the_name_of_the_own_category_and_brings_nothing_by_itself():
    vectors = {'pens': [1.0, 0.0], 'usb cables': [0.0, 1.0], 'pen': [0.8, 0.6]}

    class Named:
        def encode(self, texts, side='user'):
            return np.array([vectors.get(t, [0.6, -0.8]) for t in texts])

    n = 120
    shop = pd.DataFrame(dict(product_id=[f'p{i:03}' for i in range(n)], text='thing'))
    shop = shop.assign(family_id=shop.product_id, categories=[['All', 'Pens'], ['USBCables'], []] * (n // 3))
    cat = Catalogue(shop)
    ask = retrieval.Asker(Named(), cat, lambda texts: np.zeros((len(texts), n))).about(Heard(cat, nobody))
    kind = ask(['pen'])['kind'][0]
    assert np.allclose(kind[:2], [0.8, 0.6]) and np.isnan(kind[2::3]).all()
    late = dict(meaning=np.arange(n)[None, :] / n, kind=np.arange(n)[None, ::-1] / n)
    queries = pd.DataFrame(dict(query=['pen'], relevant=[{'p119'}]))
    assert trials(lambda texts: late, queries, cat.family_ids).signals['meaning'].min() * n >= 19.9
    plain = Catalogue(shop.drop(columns='categories'))
    blind = retrieval.Asker(Named(), plain, lambda texts: np.zeros((len(texts), n))).about(Heard(plain, nobody))
    assert 'kind' not in blind(['pen'])


def test_the_weight_of_kinds_is_fitted():
    "Where only the kind knows what is meant it counts, and where it misleads it does not."

    def asked(right):
        values = dict(meaning=np.array([0.5, 0.49]), kind=np.array([0.2, 0.22]))
        return Trials(pd.DataFrame(dict(query=['tv'], relevant=[{right}])), [values], [['a', 'b']])

    helps, misleads = (fit_weights(dict(keywords=asked(right))).of('kind', 0) for right in 'ba')
    assert 0.02 * helps > 0.01 > 0.02 * misleads


def test_a_single_product_family_is_no_evidence(tmp_path):
    shop = pd.DataFrame(
        dict(
            product_id=['a', 'b', 'c'],
            family_id=['x', 'x', 'z'],
            title=['red pen', 'blue pen', 'lamp'],
            text=['red pen', 'blue pen', 'lamp'],
            features=[[]] * 3,
            brand=None,
            categories=None,
        )
    )
    reviews = pd.DataFrame(
        dict(
            review_id=['1', '2'],
            product_id=['a', 'b'],
            family_id='x',
            user_id='',
            timestamp=None,
            title='',
            text=['a pen', 'the pen'],
            informative=True,
            cold=True,
        )
    )
    report = evaluate_retrieval(
        SimpleNamespace(products=shop, train=reviews[:0], val=reviews[:0], test=reviews),
        dict(hashed=Hashed()),
        base=Blind(),
    )
    assert report.verdicts['reviews', 'hashed'].startswith('VERDICT: MARGINAL') and 'too few queries' in str(report)
    json.loads(json.dumps(report.to_dict(), allow_nan=False))


def test_keywords_are_answered_by_what_they_name(electronics):
    task = keyword_task(electronics.products)
    p = electronics.products.sort_values('product_id').drop_duplicates('family_id').set_index('family_id')
    assert len(task) > 200 and set(task.kind) == {'category', 'attribute'}
    for row in task[task.kind == 'attribute'][:50].itertuples():
        phrase = ' '.join(row.query.split()[:2])
        assert len(row.relevant) >= 2 and all(
            phrase in f"{p.title[i]}. {'. '.join(p.features[i])}".lower() for i in row.relevant
        )
    fit, test = (keyword_task(electronics.products, part) for part in ('fit', 'test'))
    assert not set(fit['query']) & set(test['query']) and len(fit) + len(test) == len(task)


def test_a_shop_with_one_kind_of_thing_has_no_keywords():
    n = 12
    shop = pd.DataFrame(
        dict(product_id=[f'p{i:02}' for i in range(n)], title=[f'vase {i}' for i in range(n)], brand=None)
    )
    shop = shop.assign(family_id=shop.product_id, features=[[]] * n, categories=[['All Beauty']] * n)
    train = shop[['product_id', 'family_id', 'title']].assign(text='it stands well', informative=True, rating=4.0)
    train['review_id'] = train.product_id
    kinds, _ = fitting_queries(SimpleNamespace(products=shop, train=train, val=pd.concat([train] * 2)))
    assert list(kinds) == ['warm', 'sentences']  # of twelve families, two each


@pytest.mark.parametrize('cold', [True, False])
def test_weights_are_fitted_on_what_training_has_not_seen(electronics, cold):
    train = electronics.train
    val = electronics.val if cold else train.sample(400, random_state=1)
    data = SimpleNamespace(
        products=electronics.products, train=train.drop(val.index, errors='ignore') if not cold else train, val=val
    )
    kinds, shown = fitting_queries(data)
    assert list(kinds) == ['warm'] + ['cold'] * cold + ['sentences', 'keywords', 'names']
    assert (
        min(map(len, kinds.values())) > 80 and set(shown.review_id) <= set(val.review_id) and len(shown) < len(val) / 2
    )
    known = {*data.train.family_id, *shown.family_id}
    for kind in {'warm', 'cold'} & kinds.keys():
        assert all((min(r) in known) is (kind == 'warm') for r in kinds[kind].relevant), kind
    assert set(kinds['warm']['query']) <= set(review_queries(val[~val.review_id.isin(shown.review_id)]))


def test_of_a_table_on_disk_only_what_is_asked_is_read(tmp_path):
    store = make_sample_store(tmp_path / 'raw', n_products=60, n_reviews=600)
    prepare([store.reviews], [store.meta], 'shop', root=tmp_path)
    disk, memory = (load_prepared('shop', tmp_path) for _ in range(2))
    kinds, shown = fitting_queries(disk)
    assert not {'train', 'val', 'products'} & set(vars(disk))
    for part in ('train', 'val', 'products'):
        getattr(memory, part)
    others, also_shown = fitting_queries(memory)
    assert (
        shown.equals(also_shown)
        and kinds.keys() == others.keys()
        and all(kinds[k].equals(others[k]) for k in others)
        and len(kinds['warm']) > 20
    )


def test_the_fitted_mixture_is_no_worse_than_its_parts(electronics):
    cat, val = Catalogue(electronics.products), electronics.val
    relevant = [{f} for f in cat.families[cat.positions(val.product_id)]]
    queries = pd.DataFrame(dict(query=val.text.tolist(), relevant=relevant))
    rare, words = tfidf_scorer(cat.texts), bm25_scorer(cat.texts)
    asked = trials(lambda some: dict(meaning=rare(some), words=words(some)), queries, cat.families)
    fitted = fit_weights(dict(reviews=asked))
    others = [Weights(level=dict(words=level), spoken={}) for level in (-40.0, 0.0, 40.0)]
    assert asked.scores(fitted).mean() >= max(asked.scores(w).mean() for w in others) - 0.002


def test_only_whole_grades_and_names_are_written_and_read(tmp_path):
    (tmp_path / 'q').write_text('q 0 d 99999999999999999999')
    assert read_qrels(tmp_path / 'q')['q']['d'] == 10**20 - 1
    (tmp_path / 'q').write_text('q 0 d 1' + 400 * '0')
    with pytest.raises(RecsysError, match='expected a whole number'):
        read_qrels(tmp_path / 'q')
    for score in float('nan'), -float('inf'):
        with pytest.raises(RecsysError, match='run: '):
            write_run(tmp_path / 'r', {'q': [('d', score)]})


def test_data_in_memory_have_no_histories_whatever_lies_in_this_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path('interactions.parquet').touch()
    data = SimpleNamespace(products=pd.DataFrame(dict(product_id=['a'])))
    with pytest.raises(RecsysError, match='no interactions'):
        HistoryModel.counted(data, None)


def test_a_history_without_vectors_is_ranked_by_what_needs_none():
    model = HistoryModel(
        list('xyz'),
        pd.DataFrame(dict(before=['x'], product_id=['y'], weight=1.0, damping=1.0)),
        pd.DataFrame(dict(product_id=['x'], again=0.5)),
    )
    found = dict(model.scores([[0], []]))
    assert list(found) == ['what others had afterwards', 'without meaning']
    assert {v.shape for v in found.values()} == {(2, 3)}


def test_a_query_of_two_categories_is_answered_by_both():
    p = pd.DataFrame(
        dict(
            product_id=list('abcdefghij'),
            family_id=list('abcdefghij'),
            title='A thing',
            features=[[]] * 10,
            brand='',
            categories=[['USBCables']] * 2 + [['USB Cables']] * 2 + [['Lamps']] * 6,
        )
    )
    asked = keyword_task(p).set_index('query')
    assert asked.relevant['usb cables'] == set('abcd')
