"The score model, its evaluation and its training, with a tiny transformer of random weights."

import json, math
from pathlib import Path
from types import SimpleNamespace
import numpy as np, pandas as pd, pytest, torch
from hypothesis import given, strategies as st
from transformers import AutoTokenizer, BertModel, GPT2Config, GPT2Model, PreTrainedTokenizerFast
from conftest import examples
from recsys_nb.core.files import RecsysError
from recsys_nb.core.machine import Preset, installed
from recsys_nb.core.runs import all_runs, read_metrics
from recsys_nb.training.settings import ScoreConfig
from recsys_nb.evaluation.stars import evaluate_scores, model_rows, score_metrics, score_report, tfidf_ridge
from recsys_nb.models import score_model
from recsys_nb.models.product_scores import product_scores, shrink
from recsys_nb.models.score_model import ReviewMetadataScoreModel, mask_star_words, score_and_spread, star_targets
from recsys_nb.training.datasets import like_length_batches
from recsys_nb.training.score import ScoreTask, _affordable, train_score
from test_encoders import word_tokenizer, write_base
from test_training import in_two_processes

cpu = Preset('cpu', False)


@pytest.fixture(scope='module')
def model(tiny_base):
    torch.manual_seed(1)
    m = ReviewMetadataScoreModel(tiny_base, max_tokens=64)
    m.price.fit([5, 50, 500])
    return m.eval()


@examples(100)
@given(
    st.lists(
        st.sampled_from(
            [
                'five',
                'a',
                '4',
                '/',
                '½',
                'Star',
                'ſtars',
                'RATINGS',
                'ratıng',
                ':',
                '5',
                '*',
                '★',
                'out',
                'of',
                ' ',
                'was',
            ]
        ),
        max_size=12,
    )
)
def test_star_words_are_found_by_what_they_need(words):
    for text in ' '.join(words), ''.join(words):
        assert mask_star_words(text) == score_model._star_words.sub('[MASK]', text)


products = pd.DataFrame(
    dict(
        product_id=['A', 'B', 'C'],
        text=['Quiet keyboard', '', None],
        price=[79.0, math.nan, -1.0],
        categories=[['Tech', 'Keyboards'], ['Tech'], None],
        average_rating=[4.5, 1.0, 2.0],
        rating_number=[10, 3, 1],
    )
)
reviews = pd.DataFrame(
    dict(
        review_id=list('abcde'),
        product_id=['A', 'B', 'C', '?', 'A'],
        title=['Great', None, '', 'Hm', ''],
        text=['works well', 'broke ' * 200, '', 'x', None],
    )
)

phrases = {'love it works great': 5.0, 'does the job nothing more': 3.0, 'broke after a week returned it': 1.0}


def learnable(n=90, name='toy'):
    def part(n, seed):
        r = np.random.default_rng(seed)
        t = [list(phrases)[i] for i in r.integers(0, 3, n)]
        return pd.DataFrame(
            dict(
                review_id=[f'{seed}-{i}' for i in range(n)],
                product_id=r.choice(['A', 'B'], n),
                family_id='f',
                title='',
                text=t,
                rating=[phrases[x] for x in t],
            )
        )

    return SimpleNamespace(name=name, train=part(n, 1), val=part(30, 2), test=part(30, 3), products=products)


@pytest.mark.parametrize(
    'text,expected',
    [
        ('Five stars!', '[MASK]!'),
        ('a 4-star phone', 'a [MASK] phone'),
        ('I give it 4.5 stars', 'I give it [MASK]'),
        ('1 star', '[MASK]'),
        ('zero stars from me', '[MASK] from me'),
        ('5/5', '[MASK]'),
        ('8 / 10 for sound', '[MASK] for sound'),
        ('4 out of 5', '[MASK]'),
        ('three and a half stars', '[MASK]'),
        ('★★★★★', '[MASK]'),
        ('⭐⭐', '[MASK]'),
        ('5* product', '[MASK] product'),
        ('Rating: 3', '[MASK]'),
        ('1/2 star', '[MASK]'),
        ('lost a star', 'lost [MASK]'),
        ('it starts well', 'it starts well'),
        ('24/7 support', '24/7 support'),
        ('1920*1080', '1920*1080'),
        ('2 out of 7 arrived', '2 out of 7 arrived'),
        ('', ''),
    ],
)
def test_star_words_are_masked(text, expected):
    assert mask_star_words(text) == expected


@examples(100)
@given(st.text(max_size=80))
def test_masking_twice_changes_nothing(text):
    assert mask_star_words(mask_star_words(text)) == mask_star_words(text)


@examples(100)
@given(st.lists(st.floats(1, 5), min_size=1, max_size=20))
def test_targets_are_distributions_with_the_rating_as_mean(ratings):
    t = star_targets(torch.tensor(ratings))
    assert torch.allclose(t.sum(1), torch.ones(len(ratings)), atol=1e-5)
    assert torch.allclose((t * torch.arange(1.0, 6)).sum(1), torch.tensor(ratings), atol=1e-5)


@examples(100)
@given(st.lists(st.floats(-1e4, 1e4), min_size=5, max_size=5))
def test_scores_are_bounded(logits):
    score, spread = score_and_spread(torch.tensor([logits]))
    assert 1 <= score.item() <= 5.00001 and 0 <= spread.item() <= 2.00001


def test_batching_padding_and_order_do_not_matter(model):
    one = model.predict(reviews, products, batch_size=1, preset=cpu)
    assert one.score.between(1, 5).all() and one.notna().all().all()
    for n in (2, 5):
        np.testing.assert_allclose(
            model.predict(reviews, products, batch_size=n, preset=cpu).score, one.score, atol=1e-5
        )
    back = model.predict(reviews[::-1], products, preset=cpu)
    assert back.review_id.tolist() == list('edcba')
    np.testing.assert_allclose(back.score[::-1], one.score, atol=1e-5)


def test_bfloat16_scores_are_near_and_leave_the_model_as_it_was(model):
    inputs = model.inputs(pd.concat(14 * [reviews]), products)  # more than few
    exact, _ = model.predict_inputs(inputs, 1, preset=Preset('cpu', False))
    near, _ = model.predict_inputs(inputs, 1, preset=Preset('cpu', True))
    again, _ = model.predict_inputs(inputs, 1, preset=Preset('cpu', False))
    assert 0 < np.abs(near - exact).max() < 0.05 and (again == exact).all()


def test_averages_are_never_read(model):
    other = products.assign(average_rating=[1.0, 5.0, 5.0], rating_number=[0, 10**6, 7])
    pd.testing.assert_frame_equal(
        model.predict(reviews, products, preset=cpu), model.predict(reviews, other, preset=cpu)
    )
    pd.testing.assert_frame_equal(
        model.predict(reviews.assign(rating=5), products, preset=cpu),
        model.predict(reviews, products.drop(columns=['average_rating']), preset=cpu),
    )


def test_long_reviews_are_cut_and_no_reviews_are_fine(model):
    assert model.inputs(reviews, products).lengths.max() == 64
    assert model.predict(reviews[:0], products).empty


@pytest.mark.parametrize('way', ['torch float32', 'openvino float32'])
def test_products_without_a_price_have_stars_in_every_runtime(model, way):
    "OpenVINO takes NaN for a number that is at least 0: every one of their scores was NaN."
    if not installed(way.split()[0]):
        pytest.skip('openvino is not installed')
    inputs = model.inputs(reviews, products)
    batch = inputs.batch([0, 1, 2, 3, 4])
    assert not batch['price'].isnan().any()
    with torch.inference_mode():
        found = model._reader(way, samples=None)(batch)
        expected = model(**batch | dict(price=torch.tensor(inputs.price)))
    assert torch.allclose(found, expected, atol=1e-4)


def test_metadata_and_price_matter_to_the_model(model):
    r = reviews[:1]
    same = lambda p: (
        abs(model.predict(r, p, preset=cpu).score[0] - model.predict(r, products, preset=cpu).score[0]) < 1e-6
    )
    assert not same(products.assign(price=5000.0)) and not same(products.assign(text='Loud drum kit'))


def test_saved_and_loaded(model, tmp_path):
    model.save(tmp_path / 'm')
    again = ReviewMetadataScoreModel.load(tmp_path / 'm')
    pd.testing.assert_frame_equal(again.predict(reviews, products), model.predict(reviews, products))
    c = json.loads((tmp_path / 'm' / 'config.json').read_text())
    (tmp_path / 'm' / 'config.json').write_text(json.dumps(c | dict(model='Other')))
    with pytest.raises(RecsysError, match='expected .ReviewMetadataScoreModel'):
        ReviewMetadataScoreModel.load(tmp_path / 'm')
    with pytest.raises(RecsysError):
        ReviewMetadataScoreModel('no/such/folder')


def test_forgetting_is_for_training_only(model):
    b = model.inputs(reviews, products).batch([0, 1])
    model.train()
    torch.manual_seed(0)
    noisy = torch.stack([model(**b).detach() for _ in range(8)])
    model.eval()
    assert noisy.std(0).max() > 0
    with torch.no_grad():
        assert torch.equal(model(**b), model(**b))


def test_product_scores():
    r = pd.DataFrame(dict(product_id=list('AAAABB'), score=[4, 4.5, 5, 4.5, 2, 2.5]))
    s = product_scores(r, products).set_index('product_id')
    assert s.index.tolist() == ['A', 'B', 'C'] and s['count'].tolist() == [4, 2, 0]
    assert (
        s.notna().all().all()
        and (s.low <= s.score).all()
        and (s.score <= s.high).all()
        and s.low.min() >= 1
        and s.high.max() <= 5
    )
    assert s.score['B'] < s.score['C'] < s.score['A'] <= 4.5
    with_own = product_scores(r.assign(rating=[1, 1, 1, 1, None, None]), products).set_index('product_id')
    assert with_own.score['A'] < s.score['A'] - 0.5 and abs(with_own.score['B'] - s.score['B']) < 0.5
    assert product_scores(r.assign(rating=1), products, star_share=0).equals(product_scores(r, products))
    with pytest.raises(RecsysError, match='no predicted reviews'):
        product_scores(r[:0], products)
    one = product_scores(r[:1], products)
    assert np.allclose(one.score, 4)


@examples(100)
@given(st.floats(1, 5), st.integers(1, 50), st.floats(1, 5), st.floats(0.01, 4), st.floats(0, 4))
def test_shrunk_lies_between_mean_and_prior(mean, n, prior, within, between):
    s, e = shrink(mean, n, prior, within, between)
    assert min(mean, prior) - 1e-9 <= s <= max(mean, prior) + 1e-9 and e >= 0


def test_evaluation_rows_and_errors(model):
    toy = learnable()
    rows = model_rows(model, toy.test, toy.products, cpu)
    assert list(rows)[-1] == 'score model' and len(rows) == 5
    np.testing.assert_allclose(rows['metadata only'], rows['metadata only'], atol=1e-6)
    with pytest.raises(RecsysError, match='no stars'):
        evaluate_scores(model, SimpleNamespace(test=toy.test.assign(rating=np.nan)))
    no_stars = SimpleNamespace(test=toy.test, train=toy.train.assign(rating=np.nan))
    with pytest.raises(RecsysError, match='train part: no stars'):
        evaluate_scores(model, no_stars)


@pytest.mark.parametrize('texts', [['👍', '👎'], ['', ''], ['很好用的键盘', '坏了']])
def test_reviews_without_words_are_scored_by_the_mean(texts):
    part = pd.DataFrame(dict(title='', text=texts, rating=[5.0, 2.0]))
    assert tfidf_ridge(SimpleNamespace(train=part, val=part), part).tolist() == [3.5, 3.5]


def test_one_family_leaves_no_interval():
    report = score_report(dict(base=np.full(30, 3.0), model=learnable().test.rating), learnable().test, 'base')
    assert report.table.low.isna().all() and 'MARGINAL' in report.verdict and 'too few' in report.verdict
    assert 'nan' not in report._repr_markdown_() + json.dumps(report.to_dict())


def test_no_more_tokens_than_the_encoder_has_places_for(tiny_base):
    m = ReviewMetadataScoreModel(tiny_base, max_tokens=500).eval()
    assert m.max_tokens == 128 and m.predict(reviews, products, preset=cpu).score.notna().all()


def test_a_roberta_has_fewer_places_than_it_says(tmp_path):
    write_base(tmp_path, 'roberta', {})
    m = ReviewMetadataScoreModel(str(tmp_path / 'plain'), max_tokens=40).eval()
    assert m.max_tokens == 38 and m.predict(reviews, products, preset='cpu:float32').score.notna().all()


def test_a_base_in_half_precision_is_float32(tiny_base, tmp_path):
    BertModel.from_pretrained(tiny_base).half().save_pretrained(tmp_path / 'half')
    AutoTokenizer.from_pretrained(tiny_base).save_pretrained(tmp_path / 'half')
    m = ReviewMetadataScoreModel(str(tmp_path / 'half'), max_tokens=40).eval()
    m.save(tmp_path / 'm')
    for model in (m, ReviewMetadataScoreModel.load(tmp_path / 'm')):
        assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_a_part_to_measure_has_stars_if_there_are_few(tiny_base):
    "Three hundred of nine thousand reviews: two hundred drawn from all would have had six."
    toy = learnable(300)
    without = pd.concat([toy.train.assign(rating=np.nan, review_id=toy.train.review_id + f'-{i}') for i in range(30)])
    toy.test = pd.concat([without, toy.train], ignore_index=True)
    task = SimpleNamespace(data=toy, config=ScoreConfig(), plan=SimpleNamespace(texts=1))
    some = _affordable(task, 'test')
    assert len(some.test) == 200 and some.test.rating.notna().all()


def test_little_time_means_few_validation_reviews(tiny_base):
    toy = learnable(300)
    toy.val = toy.train
    task = ScoreTask(toy, config(tiny_base))
    sizes = []
    for share in (1.0, 0.1):
        task.load(20, share)
        sizes.append(len(task.val.reviews))
    assert sizes == [300, 100]


@pytest.mark.parametrize('family', ['t5', 'gpt2'])
def test_what_does_not_begin_with_cls_is_told(tmp_path, family):
    if family == 't5':
        write_base(tmp_path, family, {})
    else:
        GPT2Model(GPT2Config(vocab_size=40, n_embd=16, n_layer=1, n_head=2)).save_pretrained(tmp_path / 'plain')
        PreTrainedTokenizerFast(tokenizer_object=word_tokenizer(), pad_token='[PAD]').save_pretrained(
            tmp_path / 'plain'
        )
    with pytest.raises(RecsysError, match=f'a {family}; expected an encoder whose texts begin with'):
        ReviewMetadataScoreModel(str(tmp_path / 'plain'))


def test_perfect_scores_are_perfect():
    m = score_metrics([1, 2, 5], [1, 2, 5])
    assert (m['rmse'], m['mae'], m['exact'], m['within_one']) == (0, 0, 1, 1)


def test_batches_cover_everything_and_depend_on_the_epoch():
    n = np.random.default_rng(0).integers(3, 90, 101)
    a, b, c = (like_length_batches(n, 8, s) for s in ([0, 1], [0, 1], [0, 2]))
    assert sorted(sum(a, [])) == list(range(101)) and a == b != c


def config(base, **kw):
    return ScoreConfig(
        **(dict(data='toy', base=base, epochs=8, batch_size=16, lr=3e-3, head_lr=1e-2, max_tokens=32, patience=8) | kw)
    )


def test_training_learns_resumes_and_writes_everything(tiny_base, tmp_path, monkeypatch):
    toy = learnable(200)
    run = train_score(toy, config(tiny_base), root=tmp_path / 'a', preset='cpu', screen=False)
    assert run.state == 'finished'
    e = json.loads((run.path / 'evaluation.json').read_text())
    assert e['metrics']['rmse'] < 0.6 * e['rows']['mean']['rmse'] and 'VERDICT' in e['verdict'] and e['n'] == 30
    for f in (
        'config.json',
        'metrics.csv',
        'train.log',
        'model_card.md',
        'calibration.png',
        'product_scores.parquet',
        'model/model.safetensors',
        'checkpoints/best',
        'checkpoints/last',
    ):
        assert (run.path / f).exists(), f
    real, count = ScoreTask.loss, iter(range(10**6))

    def unlucky(self, examples):
        if next(count) == 32:
            raise KeyboardInterrupt  # in the ninth step, after 24 that were tried
        return real(self, examples)

    monkeypatch.setattr(ScoreTask, 'loss', unlucky)
    with pytest.raises(KeyboardInterrupt):
        train_score(toy, config(tiny_base), root=tmp_path / 'b', preset='cpu', screen=False)
    monkeypatch.setattr(ScoreTask, 'loss', real)
    other = train_score(
        toy,
        config(tiny_base),
        root=tmp_path / 'b',
        preset='cpu',
        resume=next((tmp_path / 'b' / 'outputs' / 'review_meta_score').iterdir()).name,
        screen=False,
    )
    assert [r['val_rmse'] for r in read_metrics(other)] == [r['val_rmse'] for r in read_metrics(run)]
    with pytest.raises(RecsysError, match='nothing to resume'):
        train_score(toy, config(tiny_base), root=tmp_path / 'b', resume=other.name)


def test_two_processes_are_one_run(tiny_base, tmp_path):
    c, here = config(tiny_base, epochs=1), Path(__file__).parent
    one = train_score(learnable(), c, root=tmp_path / 'one', preset='cpu', screen=False)
    (tmp_path / 'train.py').write_text(
        f'import sys; sys.path.append({str(here)!r})\nfrom test_score_model import *\n'
        f'train_score(learnable(), {c!r}, root={str(tmp_path / "two")!r}, preset="cpu")\n'
    )
    in_two_processes(tmp_path / 'train.py')
    (two,) = all_runs('score', tmp_path / 'two')
    assert two.state == 'finished' and len(read_metrics(two)) == 2
    assert float(read_metrics(two)[0]['val_rmse']) == pytest.approx(
        float(read_metrics(one)[0]['val_rmse']), abs=0.02
    )  # noise apart, see `forget`


def test_a_run_goes_on_with_its_own_data_and_alone(tiny_base, tmp_path, monkeypatch):
    import recsys_nb.training.score as module

    toy, c, real = learnable(), config(tiny_base, epochs=1, data='some/folder'), module.evaluate_scores
    again = lambda data=toy, name='latest': train_score(data, c, root=tmp_path, preset='cpu', resume=name, screen=False)

    def second(*args):
        (run,) = all_runs('score', tmp_path)
        with pytest.raises(RecsysError, match='another process'):
            again(name=run.name)
        assert run.state == 'running'
        raise KeyboardInterrupt

    monkeypatch.setattr(module, 'evaluate_scores', second)
    with pytest.raises(KeyboardInterrupt):
        train_score(toy, c, root=tmp_path, preset='cpu', screen=False)
    monkeypatch.setattr(module, 'evaluate_scores', real)
    (run,) = all_runs('score', tmp_path)
    assert (run.state, run.config.data) == ('interrupted', 'toy')
    other = learnable()
    other.train['review_id'] = other.train.review_id + '!'
    with pytest.raises(RecsysError, match='other reviews'):
        again(other)
    with pytest.raises(RecsysError, match='no interrupted score run'):
        again(learnable(name='shop'))
    with pytest.raises(RecsysError, match="data='toy'"):
        again(learnable(name='shop'), run.name)
    assert again().name == run.name and run.state == 'finished'


def test_smoke_run_and_constant_stars(tiny_base, tmp_path):
    toy = learnable()
    for p in (toy.train, toy.val, toy.test):
        p['rating'] = 4.0
    with pytest.warns(UserWarning, match='all training reviews have 4 stars'):
        run = train_score(toy, config(tiny_base), root=tmp_path, preset='cpu', max_steps=1, screen=False)
    assert len(read_metrics(run)) == 2


@pytest.mark.parametrize('stars', [[None], [0, 50, 100]])
def test_unusable_stars_are_an_error_that_leaves_no_run(tiny_base, tmp_path, stars):
    toy = learnable()
    toy.train['rating'] = np.resize(np.array(stars, float), len(toy.train))
    with pytest.raises(RecsysError, match='0 training and .* at least 20'):
        train_score(toy, config(tiny_base), root=tmp_path)
    assert not (tmp_path / 'outputs').exists()
