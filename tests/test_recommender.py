"Recommendations from a small prepared data set and a toy encoder; with the real encoder in the notebooks."

import hashlib, json
from pathlib import Path
from types import SimpleNamespace

import numpy as np, pandas as pd, pytest
from hypothesis import given, strategies as st
from conftest import examples

import recsys_nb.index.build as index_building
import recsys_nb.recommend.recommender as recommending
from recsys_nb.core.files import RecsysError
from recsys_nb.evaluation.trec import evaluate_run, write_run
from recsys_nb.index.build import build_index, index_products
from recsys_nb.recommend.recommender import Recommender
from recsys_nb.recommend.results import Recommendation, Recommendations


class ToyEncoder:
    "A bag of hashed words: quick, deterministic, and good enough to be wrong in the right way."

    dim, fingerprint = 64, 'toy'

    def encode(self, texts, side='user', **_):
        out = np.full((len(texts), self.dim), 1e-3, np.float32)
        for i, t in enumerate(texts):
            for w in t.casefold().replace(',', ' ').replace('.', ' ').split():
                out[i, int(hashlib.md5(w.encode()).hexdigest(), 16) % self.dim] += 1
        return out / np.linalg.norm(out, axis=1, keepdims=True)

    def warn_of_language(self, texts):
        pass

    def save(self, folder):
        Path(folder).mkdir()


kinds, traits, brands = (
    ['keyboard', 'mouse', 'webcam', 'speaker'],
    ['quiet', 'loud', 'wireless', 'compact', 'red'],
    ['Acme', 'Bolt & Sons', 'Čapek'],
)


def toy_data(n=120, seed=0):
    rng = np.random.default_rng(seed)
    rows = [
        dict(
            product_id=f'p{i:03d}',
            family_id=f'f{i // 2:03d}',
            title=f'{brands[i // 2 % 3]} {kinds[i // 2 % 4]} {traits[i // 2 % 5]} {"black" if i % 2 else "white"}',
            brand=brands[i // 2 % 3],
            price=None if i % 11 == 0 else 5.0 * (1 + i % 30),
            categories=['Computers', f'{kinds[i // 2 % 4].title()}s'],
            features=[f'Made for {traits[i // 2 % 5]} places', 'Two years warranty'],
            description='',
            images=[],
            average_rating=4.0,
            rating_number=10,
        )
        for i in range(n)
    ]
    p = pd.DataFrame(rows).assign(text=lambda d: d.title + ' ' + d.categories.str[-1])
    r = pd.DataFrame(
        [
            dict(
                review_id=f'r{i}',
                product_id=(o := rows[int(rng.integers(n - 20))])['product_id'],
                family_id=o['family_id'],
                user_id='u',
                timestamp=i,
                title='',
                text=(
                    f'I love it, this {o["title"].split()[-3]} works so {o["title"].split()[-2]} in room {i}. '
                    'I use it every day at work.'
                ),
                rating=4.0,
                informative=True,
                cold=False,
            )
            for i in range(200)
        ]
    )
    return SimpleNamespace(name='toys', products=p, train=r[:120], val=r[120:160], test=r[160:])


@pytest.fixture(scope='module')
def rec(tmp_path_factory):
    data, root = toy_data(), tmp_path_factory.mktemp('root')
    scores = pd.DataFrame(
        dict(
            product_id=data.products.product_id,
            score=np.random.default_rng(1).integers(12, 21, len(data.products)) / 4,
            count=5,
        )
    )
    settled, index_building.settled = index_building.settled, lambda model, root: (model, None)
    try:
        build_index(data, ToyEncoder(), root=root, scores=scores).close()
    finally:
        index_building.settled = settled
    with Recommender.load(root, model=ToyEncoder()) as rec:
        yield rec


def test_conditions_hold(rec):
    found = rec.recommend('a quiet keyboard', k=20, min_price=20, max_price=100, category='keyboards', min_score=4)
    assert found and all(20 <= r.price <= 100 and 'Keyboards' in r.categories and r.score >= 4 for r in found)
    assert len({r.family_id for r in found}) == len(found)
    assert [r.value for r in found] == sorted((r.value for r in found), reverse=True)


def test_spoken_limits_are_filters_and_arguments_win(rec):
    assert all(r.price <= 30 for r in rec.recommend('mouse under $30', k=20))
    assert rec.recommend('mouse under $30').understood == dict(max_price=30.0, currency='$', text='mouse')
    assert max(r.price for r in rec.recommend('mouse under $30', k=20, max_price=90)) > 30
    assert rec.recommend('mouse under $30', max_price=90).understood['max_price'] == 90
    assert rec.recommend(['mouse under $50, no cable', 'under $80, no lights']).understood == dict(
        max_price=50.0, currency='$', dislike=['cable', 'lights'], text='mouse'
    )
    assert all(r.brand != 'Acme' for r in rec.recommend('mouse, not acme', k=30))
    dear = rec.recommend('mouse under $30, no cable', k=20, min_price=60)
    assert dear and all(r.price >= 60 for r in dear) and dear.understood == dict(dislike=['cable'], text='mouse'), (
        'a limit that is not applied is not shown'
    )
    assert 'said of the price was not applied' in dear.advice
    with pytest.raises(RecsysError, match='above'):
        rec.recommend('mouse under $30', min_price=60, max_price=50)
    with pytest.raises(RecsysError, match="^'over"):
        rec.answer_all([dict(text=['over $50 and under $20'])])


def test_what_is_liked_and_owned_does_not_come_back(rec):
    found = rec.recommend('keyboard', like=['p008'], exclude=['p010'], dislike=['p000', 'red'], k=100)
    assert not {r.family_id for r in found} & {'f004', 'f005', 'f000'}
    only = rec.recommend(like=['p008'], k=5)
    assert len(only) == 5 and all(r.similarity is not None for r in only)


def test_unknown_ids_are_left_out_and_said_to_be(rec):
    found = rec.recommend('quiet keyboard', like=['p008', 'nope'], exclude=['y' * 500, *map(str, range(9))], k=3)
    assert [r.product_id for r in found] == [r.product_id for r in rec.recommend('quiet keyboard', like=['p008'], k=3)]
    assert "1 not in this index, so left out of `like`: 'nope'." in found.advice and "'0', '1'." in found.advice
    assert '10 not in this index, so left out of `exclude`' in found.advice
    assert (
        len(rec.recommend(like=['p008', 'nope'], k=3))
        == len(rec.recommend(category='keyboards', exclude=['nope'], k=3))
        == 3
    )


def test_no_sentence_is_said_twice(rec):
    said = [r.why for r in rec.recommend('a quiet keyboard', k=60) if r.why_from == 'review']
    assert len(said) == len(set(said)) > 5
    assert all(r.why for r in rec.similar('p008', 3))


def test_every_result_says_what_brought_it(rec):
    found = rec.recommend('a quiet keyboard', k=20)
    assert all(r.because for r in found) and set().union(*(r.because for r in found)) == {'metadata', 'review', 'words'}
    assert found.to_frame().because.map(bool).all() and 'found by' in found._repr_html_()


def test_a_history_says_which_product_of_it_brought_what(tmp_path):
    products = toy_data(40).products
    after = pd.DataFrame(
        dict(product_id=['p020', 'p020', 'p030'], before=['p002', 'p007', 'p007'], weight=[0.2, 0.9, 0.3], damping=1.0)
    )
    with index_products(
        tmp_path / 'toys', products, ToyEncoder().encode(list(products.text)), 'toy', followers=after
    ) as index:
        found = Recommender(index, ToyEncoder()).recommend(history=['p002', 'p007', 'nope'], k=10)
    follows = {r.product_id: r.follows for r in found}
    title = products.set_index('product_id').title
    assert follows['p020'] == follows['p030'] == title['p007'] and 'history' in found[0].because
    assert all(bool(r.follows) == ('history' in r.because) for r in found)
    assert (
        f'because you have {title["p007"]}' in found._repr_html_() and found.to_dict()['recommendations'][0]['follows']
    )


def test_several_programs_read_one_index(rec):
    with Recommender.load(rec.index.folder, model=ToyEncoder()) as other:
        assert [r.product_id for r in other.recommend('quiet mouse')] == [
            r.product_id for r in rec.recommend('quiet mouse')
        ]


def test_requests_of_several_people(rec):
    requests = [
        dict(id='a', text='quiet mouse', k=2),
        dict(id='b', history=['p008', 'p010'], max_price=90),
        dict(text='webcam', like=None, exclude=['p002']),
    ]
    found = rec.answer_all(requests, k=4)
    assert [len(f) for f in found] == [2, 4, 4]
    assert [r.product_id for r in found[0]] == [r.product_id for r in rec.recommend('quiet mouse', k=2)]
    assert not {r.family_id for r in found[1]} & {'f004', 'f005'} and all(r.price <= 90 for r in found[1])
    assert list(rec.rank(dict(x=requests[1]), k=3)['x'])
    for wrong, message in (
        (dict(id='q7', txet='mouse'), "request 'q7': no such field 'txet'; there are id, text"),
        (dict(id='q8', text='x', k=0), "'q8': k=0"),
        (dict(id='q9', history=['nope']), "'q9': .*no product 'nope'"),
        (dict(history=['nope'], text=[]), "^history: there is no product 'nope'"),
    ):
        with pytest.raises(RecsysError, match=message):
            rec.answer_all([*requests, wrong])
    assert rec.answer_all([]) == []
    assert 'No product of this index is left' in rec.recommend('x', exclude=[f'p{i:03}' for i in range(120)]).advice


def test_every_result_says_why(rec):
    found = rec.recommend('a quiet keyboard', k=60)
    assert all(r.why and r.why_from in ('review', 'description') for r in found) and {r.why_from for r in found} == {
        'review',
        'description',
    }


def test_dislikes_move_away(rec):
    place = lambda found, word: np.mean([i for i, r in enumerate(found) if word in r.title.split()])
    assert place(rec.recommend('keyboard', dislike=['red'], k=60), 'red') > place(
        rec.recommend('keyboard', k=60), 'red'
    )


@pytest.mark.parametrize('more', [dict(), dict(diversity=0.5)])
def test_titles_that_name_what_is_not_wanted_come_last_or_not_at_all(rec, more):
    def red(found):
        return ['red' in r.title.split() for r in found]

    assert any(red(rec.recommend('keyboard', k=15, **more))) and not any(
        red(rec.recommend('keyboard, not red', k=3, **more))
    )
    assert not any('Acme' in r.title for r in rec.recommend('keyboard, not acme', k=6, **more)), (
        'what may be a brand is looked for in titles too'
    )
    every = red(rec.recommend('keyboard, not red', k=60))
    assert any(every) and every == sorted(every), 'where there are not enough others'


def test_dislikes_that_are_no_text(rec):
    assert len(rec.recommend('keyboard', dislike=[5], k=2)) == 2


def test_rare_brands_are_there_even_if_they_were_not_counted(rec, monkeypatch):
    monkeypatch.setattr(rec, 'brands', {'acme': 9})
    assert 'no brand' not in (rec.recommend('keyboard', brand='Bolt & Sons', k=60).advice or '')
    assert "There is no brand 'Acne'; did you mean 'acme'?" in rec.recommend('keyboard', brand='Acne').advice


def test_products_that_came_and_went(rec, tmp_path):
    import shutil

    shutil.copytree(rec.index.folder, tmp_path / 'idx')
    with Recommender.load(tmp_path / 'idx', model=ToyEncoder()) as changed:
        gone = changed.find('mouse', 3)[1]['product_id']
        changed.index.remove(gone)
        assert gone not in {p['product_id'] for p in changed.find('mouse', 3)} and len(changed.find('mouse', 3)) == 2


def test_diversity(rec):
    def alike(found):
        v = np.stack(
            [v['meaning'] for _, v in rec.index.store.retrieve([r.product_id for r in found], ['meaning']).values()]
        )
        return float((v @ v.T).mean())

    assert alike(rec.recommend('quiet keyboard', k=8, diversity=0.9)) < alike(rec.recommend('quiet keyboard', k=8))
    assert (
        rec.recommend('quiet keyboard', k=8, diversity=1)[0].product_id
        == rec.recommend('quiet keyboard', k=8)[0].product_id
    )
    for bad in (-0.1, 1.1, float('nan')):
        with pytest.raises(RecsysError, match='diversity'):
            rec.recommend('x', diversity=bad)


def test_advice(rec):
    assert (
        'did you mean \'keyboards\'' in (a := rec.recommend('quiet', category='Keybords', max_price=50).advice)
        and 'without “category: Keybords”' in a
    )
    few = rec.recommend('keyboard', min_price=150, max_price=150, category='keyboards', k=9)
    assert len(few) < 9 and f'Only {len(few)} passed' in few.advice
    variants = rec.recommend('keyboard', category='keyboards', k=99)
    assert f'Only {2 * len(variants)} passed all conditions, variants counted.' in variants.advice
    assert len(rec.recommend('keyboard', category='', brand=['']) or ()) == 5, 'nothing chosen is no condition'
    none = rec.recommend('keyboard', min_price=9000)
    assert none == [] and none.advice.endswith('Products that would pass: 120 without “min price: 9,000”.')
    assert rec.recommend('mouse', k=3).advice is None
    everything = rec.recommend(history=list(rec.titles.index) * 90)
    assert everything == [] and 'is left to show' in everything.advice


@pytest.mark.parametrize('text', ['', '   ', [], [''], '\x00'])
def test_nothing_to_go_by(rec, text):
    assert rec.recommend(text) == [] and rec.recommend(text).advice.startswith('Say what you are looking for')


def test_only_a_limit(rec):
    found = rec.recommend('under $50', k=5)
    assert len(found) == 5 and all(r.price <= 50 and r.similarity is None for r in found) and 'Say what' in found.advice
    assert [r.score for r in found] == sorted((r.score for r in found), reverse=True)


@pytest.mark.parametrize(
    'call, message',
    [
        (dict(text='x', k=0), 'k=0'),
        (dict(text='x', k=-3), 'k=-3'),
        (dict(text='x', min_price=9, max_price=3), 'above'),
        (dict(text='over $50 and under $20'), 'above'),
        (dict(like=['nope']), "no product 'nope'"),
        (dict(text='x' * 1_000_000), 'at most 20,000'),
        (dict(text=3), 'expected text'),
        (dict(text='x', max_price=float('nan')), 'max_price'),
        (dict(text='x under $5', max_price='80'), "max_price='80'"),
        (dict(text='x', k='3'), "k='3'"),
        (dict(text='x', k=2.5), 'k=2.5'),
        (dict(text='x', diversity='0'), 'diversity'),
        (dict(like=['y' * 500], category='keyboards'), 'no product'),
    ],
)
def test_mistakes_are_told_in_a_line(rec, call, message):
    with pytest.raises(RecsysError, match=message) as e:
        rec.recommend(**call)
    assert '\n' not in str(e.value) and len(str(e.value)) < 300


@examples(40)
@given(text=st.text(max_size=200), k=st.integers(1, 500), diversity=st.floats(0, 1))
def test_any_text_gives_a_list(rec, text, k, diversity):
    try:
        found = rec.recommend(text, k=k, diversity=diversity)
    except RecsysError:
        return
    assert len(found) <= min(k, 60) and len({r.product_id for r in found}) == len(found)
    json.dumps(found.to_dict())
    found._repr_html_()
    repr(found)


def test_more_than_the_catalogue(rec):
    assert len(rec.recommend('keyboard', k=10_000)) == 60


def test_titles_cannot_write_html():
    evil = '<script>alert(1)</script>|`x`"\''
    r = Recommendations(
        [Recommendation('1', evil, why=evil, why_from='review', brand=evil, categories=[evil])],
        understood=dict(text=evil),
        advice=evil,
    )
    assert '<script' not in r._repr_html_()
    assert list(r.to_frame().title) == [evil]


def test_rank_writes_a_run(rec, tmp_path):
    found = rec.rank(dict(q1='quiet keyboard', q2='mouse under $30', q3='', q4='of the'), k=7)
    assert [len(found[q]) for q in ('q1', 'q2')] == [7, 7] and set(found) == {'q1', 'q2', 'q3', 'q4'}
    assert found['q1'][0][0] == rec.recommend('quiet keyboard', k=1)[0].product_id
    less = rec.rank(dict(q='keyboard, no red'), k=60)['q']
    assert [i for i, _ in less] != [i for i, _ in rec.rank(dict(q='keyboard'), k=60)['q']], (
        'what is not wanted counts here, too'
    )
    with pytest.raises(RecsysError, match="'over \\$50 and under \\$20': min_price=50 is above"):
        rec.rank(dict(q1='mouse', q2='over $50 and under $20'))
    write_run(tmp_path / 'x.run', found)
    assert {line.split()[0] for line in (tmp_path / 'x.run').read_text().splitlines()} >= {'q1', 'q2'}
    assert evaluate_run(found, dict(q1={found['q1'][0][0]: 1}))['metrics']['ndcg@10'] == 1


def test_looking_around(rec):
    assert rec.product('p000')['title'] == 'Acme keyboard quiet white'
    with pytest.raises(RecsysError, match='no product'):
        rec.product('x')
    assert 'f000' not in {r.family_id for r in rec.similar('p000', 10)}
    assert rec.find('čap spea', 3) and all('Čapek' in p['title'] for p in rec.find('čap spea', 3))
    assert rec.find('') == rec.find('zzz') == []
    assert len(rec.titles) == 120
    assert [len(o) for o in rec.answer_all([dict(text='mouse'), dict(text='webcam under $40')], k=2)] == [2, 2]


def test_many_at_once_are_the_same_as_one_by_one(rec):
    texts = ['quiet mouse', '', 'webcam under $40, not red', ['loud', 'speaker'], 'under $20']
    for one, many in zip([rec.recommend(t, k=4) for t in texts], rec.answer_all([dict(text=t) for t in texts], k=4)):
        assert (
            [r.product_id for r in one] == [r.product_id for r in many]
            and one.understood == many.understood
            and one.advice == many.advice
        )
        assert [r.why for r in one] == [r.why for r in many]


def test_threads_get_the_same_answers(rec):
    from concurrent.futures import ThreadPoolExecutor

    texts = [f'{t} {k}' for t in traits for k in kinds] * 5
    alone = [[r.product_id for r in rec.recommend(t, k=3)] for t in texts]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda t: [r.product_id for r in rec.recommend(t, k=3)], texts)) == alone


def test_weights_are_measured_and_kept(rec):
    assert rec.index.manifest['weights']['fitted']
    assert rec.index.weights.of('words', 2) >= rec.index.weights.of('words', 50)


def test_another_model_is_refused(rec):
    other = ToyEncoder()
    other.fingerprint = 'other'
    with pytest.raises(RecsysError, match='built with another model'):
        Recommender(rec.index, other)


def test_no_index(tmp_path, rec):
    with pytest.raises(RecsysError, match='no index here'):
        Recommender.load(tmp_path)
    with pytest.raises(RecsysError, match='there are: toys'):
        Recommender.load(rec.index.folder.parents[2], index='nope')


def test_a_catalogue_without_reviews_or_stars(tmp_path, monkeypatch):
    monkeypatch.setattr(index_building, 'settled', lambda model, root: (model, None))
    data = toy_data(30)
    empty = data.train.iloc[:0]
    build_index(
        SimpleNamespace(name='bare', products=data.products, train=empty, val=empty, test=empty),
        ToyEncoder(),
        root=tmp_path,
    ).close()
    with Recommender.load(tmp_path, model=ToyEncoder()) as rec:
        found = rec.recommend('quiet keyboard, at least 4 stars', k=3)
        assert (
            len(found) == 3 and all(r.why_from == 'description' for r in found) and 'no predicted stars' in found.advice
        )


def test_what_is_unwanted_stays_behind_what_is_wanted_in_a_varied_answer(rec):
    def red(found):
        return ['red' in r.title for r in found]

    plain, varied = (
        rec.recommend('a red keyboard, not red', category='keyboards', k=30, diversity=d) for d in (0.0, 0.9)
    )
    assert (
        any(red(plain))
        and sorted(red(plain)) == red(plain)
        and sorted(red(varied)) == red(varied)
        and sum(red(varied)) == sum(red(plain))
    )


@pytest.mark.parametrize(
    'unwanted, title',
    [
        ('batteries', 'Battery of AA cells'),
        ('battery', 'Two batteries'),
        ('watches', 'A watch'),
        ('cables', 'USB Cable'),
        ('cases', 'A case'),
        ('boxes', 'Box of nails'),
        ('glass', 'Two glasses'),
        ('movie', 'Movies'),
    ],
)
def test_one_and_many_are_the_same_thing(unwanted, title):
    assert recommending._names_one_of([unwanted])(title) and not recommending._names_one_of([unwanted])('A lamp')


def test_lists_are_as_long_as_asked(rec):
    assert [len(found) for found in rec.rank({'a': 'keyboard, no red', 'b': 'mouse'}, k=3).values()] == [3, 3]


def test_an_unknown_history_is_called_by_its_name(rec):
    with pytest.raises(RecsysError, match='history: there is no product'):
        rec.recommend(history=['gone'])
    with pytest.raises(RecsysError, match='like: there is no product'):
        rec.recommend(like=['gone'])
