"Plots of data and of runs where something is missing: no stars, no dates, no prices, no reviews, one epoch."

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
import pandas as pd
import pytest

from recsys_nb.analysis import visualize_data as plots
from recsys_nb.core.files import RecsysError
from recsys_nb.core.runs import add_metrics, new_run
from recsys_nb.training.settings import EncoderConfig
from recsys_nb.analysis.plot_metrics import plot_metric, plot_run, plot_runs


class Data:
    "Frames with the columns of a prepared data set."

    name = 'toy'

    def __init__(self, n=30, **changes):
        ids = [f'p{i % 7}' for i in range(n)]
        r = pd.DataFrame(
            dict(
                review_id=range(n),
                product_id=ids,
                family_id=ids,
                user_id='u',
                timestamp=[1_600_000_000_000 + i * 5 * 86_400_000 for i in range(n)],
                title='t',
                text=['good ' * (i + 1) for i in range(n)],
                rating=[float(i % 5 + 1) for i in range(n)],
                informative=True,
                cold=False,
            )
        ).assign(**{k: v for k, v in changes.items() if k != 'price'})
        cut = int(0.8 * n)
        self.train, self.val, self.test = r[:cut], r[cut:cut], r[cut:]
        products = [f'p{i}' for i in range(9)]
        self.products = pd.DataFrame(
            dict(
                product_id=products,
                family_id=products,
                title='a',
                brand=None,
                categories=[[], ['Toys', 'Balls'], ['Toys']] * 3,
                features=[[]] * 9,
                description='',
                text='a b c',
                price=changes.get('price', 5.0),
                average_rating=None,
                rating_number=None,
                images=[[]] * 9,
            )
        )
        self.report = dict(
            steps=dict(reviews=[dict(step='exact duplicate', before=n + 2, removed=2, after=n)] if n else [])
        )


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close('all')


@pytest.mark.parametrize(
    'data',
    [
        Data(),
        Data(rating=None),
        Data(timestamp=None),
        Data(text=''),
        Data(price=None),
        Data(0),
        Data(1),
        Data(timestamp=1_600_000_000_000),
    ],
    ids='all no-stars no-dates no-text no-prices no-reviews one-review one-day'.split(),
)
def test_draws_whatever_is_there(data):
    drawn = [getattr(plots, name)(data) for name in plots.__all__]
    assert len(drawn) == 7 and all(ax.get_title(loc='left') for ax in drawn)
    for ax in drawn:
        ax.figure.canvas.draw()


def test_says_what_is_missing():
    assert plots.plot_ratings(Data(rating=None)).texts[0].get_text() == 'these reviews carry no stars'
    assert plots.plot_activity(Data(timestamp=None)).texts[0].get_text() == 'these reviews carry no dates'


def test_numbers_are_right():
    shares = plots._missing_shares(Data())
    assert (
        shares['products', 'categories'] == pytest.approx(1 / 3)
        and shares['reviews', 'text'] == 0
        and shares['products', 'brand'] == 1
    )
    assert '2 of 32 lines (6.2%)' in plots.plot_removed(Data()).get_title(loc='left')


def test_a_month_is_told_with_its_year():
    ax = plots.plot_activity(Data(60))  # 300 days from September 2020
    ax.figure.canvas.draw()
    labels = [t.get_text() for t in ax.get_xticklabels()]
    assert len(labels) > 2 and all(l[-5:] in ('\n2020', '\n2021') for l in labels)


def test_prices_below_one_are_told():
    ax = plots.plot_prices(Data(price=[0.05, 0.1, 0.2, 0.5, 1, 2, 3, 4, 5]))
    ax.figure.canvas.draw()
    assert {'0.1', '1'} <= {t.get_text() for t in ax.get_xticklabels()} and '0' not in {
        t.get_text() for t in ax.get_xticklabels()
    }


def test_what_is_not_there_is_not_drawn():
    before = pd.DataFrame(dict(epoch=[0.0], val_loss=[1.0]))  # no epoch has been trained
    assert plot_metric({'a': before}, 'seconds').get_title(loc='left') == 'Seconds of training'


def test_a_ring_is_where_weights_are_chosen_and_chance_is_named(tmp_path):
    run = new_run(EncoderConfig(data='toy'), tmp_path)
    for epoch, v in enumerate((0.1, 0.3, 0.2)):
        add_metrics(run, {'epoch': epoch, 'val_recall@1': v, 'val_ndcg@10': v, 'val_candidates': 50})
    drawn = {a.get_title(loc='left').split()[0]: a for a in plot_runs(run).axes}
    rings = {k: [l.get_xydata().tolist() for l in a.lines if l.get_markersize() == 11] for k, a in drawn.items()}
    assert (
        rings['NDCG@10'] == [[[1, 0.3]]]
        and not rings['Recall@1']
        and 'weights are kept' in drawn['NDCG@10'].get_xlabel()
    )
    assert [t.get_text() for t in drawn['Recall@1'].texts] == ['0.3', 'by chance: 0.02']


def test_run_with_one_epoch_and_one_with_nothing(tmp_path):
    run = new_run(EncoderConfig(data='toy'), tmp_path)
    with pytest.raises(RecsysError, match='no epoch is done yet'):
        plot_run(run)
    assert not (run.path / 'curves.png').exists()
    add_metrics(run, {'epoch': 0, 'val_ndcg@10': 0.1, 'note': 'text', 'val_new_thing': 3})
    assert plot_run(run.name, root=tmp_path).read_bytes()[:4] == b'\x89PNG'
    assert (
        len([a for a in plot_runs(run).axes if a.get_title(loc='left')]) == 3
    )  # NDCG, the new thing, the learning rate


def test_run_that_does_not_exist(tmp_path):
    with pytest.raises(RecsysError, match='no such training run'):
        plot_run('yesterday', root=tmp_path)
