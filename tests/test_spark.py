"DuckDB and Spark write the same rows and the same report."

import json, os, shutil, sys

import pandas as pd
import pytest

pytest.importorskip('pyspark', reason='pyspark is not installed')
if not (shutil.which('java') or os.environ.get('JAVA_HOME')):
    pytest.skip('Spark needs Java', allow_module_level=True)

from recsys_nb.data.prepare import prepare
from recsys_nb.data.sample_store import make_sample_store


@pytest.fixture(scope='module')
def session():
    "A session made for small tables, as `prepare` would find one of a person's own."
    from pyspark.sql import SparkSession

    os.environ.setdefault('PYSPARK_PYTHON', sys.executable)  # what reads values on Spark is Python of this environment
    settings = {
        'spark.ui.enabled': 'false',
        'spark.sql.shuffle.partitions': '1',
        'spark.sql.codegen.wholeStage': 'false',
        'spark.driver.host': '127.0.0.1',
        'spark.log.level': 'ERROR',
        'spark.sql.session.timeZone': 'Asia/Tokyo',
    }
    builder = SparkSession.builder.master('local[1]')
    for k, v in settings.items():
        builder = builder.config(k, v)
    session = builder.getOrCreate()
    yield session
    session.stop()


@pytest.fixture(scope='module')
def both(session, tmp_path_factory):
    tmp = tmp_path_factory.mktemp('spark data')  # a blank in the path on purpose
    s = make_sample_store(tmp / 's', n_products=60, n_reviews=400)
    with open(tmp / 'more.jsonl', 'w', encoding='utf-8') as f:
        f.write(
            '{"broken\n[1]\n\n'
            + ''.join(
                json.dumps(o) + '\n'
                for o in [
                    dict(
                        asin='P1',
                        overall=5,
                        reviewText='It’s ½ of  what I&#39;d – hoped for, İstanbul ÉCLAIR <b>x</b>\u00a0',
                        summary=['x'],
                        reviewerID=7,
                        unixReviewTime='1400000000',
                    ),
                    dict(
                        parent_asin='P1',
                        rating='NaN',
                        text='नमस्ते यह एक अच्छा उत्पाद है और मुझे यह बहुत पसंद है 👍',
                        user_id='u',
                    ),
                    dict(parent_asin='P1', rating=1e999, text={'a': [1.50, None]}, title=3.0, timestamp=1.6e12),
                ]
            )
        )
    with open(tmp / 'meta.jsonl', 'w') as f:
        f.write(
            json.dumps(
                dict(
                    asin='P1',
                    title='One',
                    categories=[['A', 'B']],
                    price='1.299,00 €',
                    url='https://shop.example/p1?a=1',
                    description=['a', None, 3],
                    features='[not a list',
                    images=[
                        {'large': a}
                        for a in (
                            'http://x/1.jpg',
                            'data:image/png;base64,iV',
                            'data:image/png,' + 'A' * 20_000,
                            'data:text/html,x',
                        )
                    ],
                )
            )
            + '\n'
        )
        for i, price in enumerate(('$ .99', 'Rs. 499', '€.5-€1.20')):
            f.write(
                json.dumps(dict(asin=f'P{i + 2}', title=f'Priced {i}', price=price, store='Visit the Kee Store')) + '\n'
            )
    args = [str(s.reviews), tmp / 'more.jsonl'], [str(s.meta), tmp / 'meta.jsonl']
    return [
        prepare(*args, engine, root=tmp, engine=engine, split='product', max_bad=0.1, memory='2GB', kcore=2)
        for engine in ('duckdb', 'spark')
    ]


@pytest.mark.parametrize('part', ['products', 'train', 'val', 'test'])
def test_same_rows(both, part):
    a, b = (getattr(d, part) for d in both)
    assert len(a)
    pd.testing.assert_frame_equal(a, b)


def test_same_pictures(both):
    "Those on the web, and those in an address of a sane length, such as the sample store's."
    for d in both:
        p = d.products.set_index('product_id')
        assert list(p.images['P1']) == ['http://x/1.jpg', 'data:image/png;base64,iV'] and all(
            i[0].startswith('data:image/svg+xml,') for i in p.images.drop(['P1', 'P2', 'P3', 'P4'])
        )


def test_prices_with_points_for_thousands_and_pages_of_the_shop(both):
    for d in both:
        p = d.products.set_index('product_id')
        assert p.price['P1'] == 1299 and p.url['P1'] == 'https://shop.example/p1?a=1' and p.url.drop('P1').isna().all()
        assert p.price[['P2', 'P3', 'P4']].tolist() == [0.99, 499, 0.5]
        assert set(p.brand[['P2', 'P3', 'P4']]) == {'Kee'}


def test_same_report(both):
    a, b = ({k: v for k, v in d.report.items() if k not in ('name', 'engine')} for d in both)
    assert a == b and [d.report['engine'] for d in both] == ['duckdb', 'spark']
    assert {s['step']: s['removed'] for s in a['steps']['reviews']}['quarantined'] == 4
