"What people bring: the files, packings, numbers, times, markup and languages of others, each kind by the right value."

import bz2, gzip, json, lzma, os, unicodedata, zipfile

import pandas as pd, pyarrow as pa, pyarrow.parquet as pq, pytest
from hypothesis import given, strategies as st
from conftest import examples

from recsys_nb.core.files import RecsysError
from recsys_nb.data.prepare import prepare
from recsys_nb.data.reading import Columns, as_lines, input_files
from recsys_nb.data.texts import clean, readable, sentences
from recsys_nb.data.values import read_amount, read_count, read_stars, read_time
from recsys_nb.evaluation.fusion import bm25_scorer
from recsys_nb.index.build import build_index
from recsys_nb.models.dual_encoder import DualEncoderSBERT
from recsys_nb.recommend.recommender import Recommender

at = 1370000000000


def sentence(i):
    return f'This is what person number {i} has to say about the thing'


def review(i, **more):
    return (
        dict(
            user_id=f'U{i}',
            parent_asin=f'P{i % 3}',
            rating=4.0,
            title='Good',
            text=sentence(i),
            timestamp=at + i * 86_400_000,
        )
        | more
    )


def page(i, **more):
    return dict(parent_asin=f'P{i}', title=f'A thing of kind {"abc"[i]}', price=9.5, store='Kee') | more


def lines(rows):
    return '\n'.join(json.dumps(r) for r in rows).encode()


reviews, meta = [review(i) for i in range(30)], [page(i) for i in range(3)]


def kept(data):
    return pd.concat([data.train, data.val, data.test]).set_index('review_id')


def prepared(tmp, r=reviews, m=meta, name='r.jsonl', **how):
    (tmp / name).write_bytes(r if isinstance(r, bytes) else lines(r))
    (tmp / 'm.jsonl').write_bytes(lines(m))
    return prepare(tmp / name, tmp / 'm.jsonl', 'x', tmp, **how)


# -- 1 what stands for nothing


@pytest.mark.parametrize(
    'nothing',
    [
        float('nan'),
        'NaN',
        'nan',
        'None',
        'null',
        'N/A',
        '-',
        '',
        None,
        'Anonymous',
        '#VALUE!',
        '(null)',
        '[deleted]',
        'Unspecified',
        'Gast',
        '匿名',
        '.',
        'k.A.',
        'missing',
    ],
)
def test_buyers_without_a_name_are_not_one_person(tmp_path, nothing):
    data = prepared(tmp_path, [review(i, user_id=nothing, parent_asin='P1') for i in range(30)])
    assert len(kept(data)) == 30 and set(kept(data).user_id) == {''}


def test_missing_values_are_missing_whatever_they_are_called(tmp_path):
    data = prepared(
        tmp_path,
        [review(i, title='NaN') for i in range(30)] + [review(40, text='None', title='nan')],
        [
            page(0, store='None', price='None', main_category='NaN', categories=['nan']),
            page(1, parent_asin=float('nan'), asin='P1'),
            page(2),
        ],
    )
    p = data.products.set_index('product_id')
    assert (
        p.brand.isna()['P0']
        and p.price.isna()['P0']
        and not len(p.categories['P0'])
        and 'P1' in p.index
        and p.text['P0'] == 'A thing of kind a'
    )
    assert len(kept(data)) == 30 and set(kept(data).title) == {''}


def test_what_stands_for_nothing_is_none_that_cannot_be_read(tmp_path):
    "Not even where a whole field is so, in blanks or as C, R, Excel and SAS write it."
    nothing = ' ', '-nan', '1.#QNAN', '#DIV/0!', '(blank)', 'N/A '
    odd = [
        dict(parent_asin=f'P{i:02}', title=f'A thing of kind {i}')
        | dict.fromkeys(['price', 'average_rating', 'rating_number', 'images'], n)
        | dict(imUrl=one)
        for i, n in enumerate(nothing)
    ]
    rows = [review(i, parent_asin='P00', rating=nothing[i % 6], user_id=nothing[i % 6]) for i in range(30)]
    data = prepared(tmp_path, rows, odd)
    assert data.report['unreadable'] == [] and set(kept(data).user_id) == {''}
    assert all(list(pictures) == [one] for pictures in data.products.images)


about_first = [review(i, parent_asin='P00') for i in range(30)]


def test_a_brand_is_a_name(tmp_path):
    said = {
        'by\n    \n    Kee': 'Kee',
        'by Kee': 'by Kee',
        'Visit the Kee Store': 'Kee',
        'Brand: Kee': 'Kee',
        'Unknown': None,
        'Not Available': None,
        'Unbranded': None,
        'does not apply': None,
        '[object Object]': None,
        'N/A.': None,
        '#N/A': None,
        '{}': None,
        'Generic': 'Generic',
        'Book Store': 'Book Store',
    }
    data = prepared(
        tmp_path,
        about_first,
        [dict(parent_asin=f'P{i:02}', title=f'A thing of kind {i}', store=s) for i, s in enumerate(said)],
    )
    found = data.products.sort_values('product_id').brand
    assert dict(zip(said, (b if isinstance(b, str) else None for b in found))) == said


# -- 2 half a number

prices = {
    '$1,299.00': 1299,
    '₹1,099': 1099,
    'Rs. 399': 399,
    'INR 2,49,900': 249900,
    '$12.99 - $15.99': 12.99,
    '12,99 €': 12.99,
    'EUR 1.299': 1299,
    '1\xa0299,00 €': 1299,
    '￥1,980': 1980,
    'CDN$ 5.49': 5.49,
    'USD 12.50': 12.5,
    '12.99$': 12.99,
    "CHF 1'299.00": 1299,
    'Free': None,
    'nan': None,
    'Currently unavailable': None,
    '2 for $5': None,
    'Pack of 3: $9.99': 9.99,
    'Was: $24.99 Now: $19.99': 19.99,
    '.a-box-inner{background-color:#fff}#alm{width:50px}': None,
    '$1.5K': 1500,
    '0,99 €': 0.99,
    '$12.999': 12.999,
    '7.': 7,
    'NT$1,280': 1280,
    'R$ 1.299,90': 1299.9,
    '1.299,-': 1299,
    '12,990원': 12990,
    'Price: 12.99': 12.99,
    'AED 1,099.00': 1099,
    'MXN $1,299.00': 1299,
    '1299,9 TL': 1299.9,
    'A$100': 100,
    '100 CHF': 100,
    '1 000 dollars': 1000,
    '1\u202f299,00\xa0€': 1299,
    'under': None,
    'from 12.99': 12.99,
    '12.99 - 15.99': 12.99,
    '9,90 €': 9.9,
    '1.299,00 €': 1299,
    '—': None,
    '': None,
    '.a-box{margin:3px}': None,
    '-5': None,
    'Infinity': None,
    '1e20': None,
    '$.99': 0.99,
    '.5': 0.5,
    '$ .50 - $1.20': 0.5,
    'Rs. 499': 499,
    'Rs.1,499.00': 1499,
    '₹1,29,999.00': 129999,
    '10,00,000': 1000000,
    '$19.99 ($0.83 / Ounce)': 19.99,
    '€ 12,99 / kg': 12.99,
    'List Price: $24.99': 24.99,
    'List price: $30.00 Price: $20.00': 20,
    'M.R.P.: ₹1,999.00 ₹999.00': 999,
    '10–20 €': 10,
    '£5 - £7.50': 5,
    'US $12.99': 12.99,
    'US$ 1,299': 1299,
    'C $45.00': 45,
    'HK$1,280.00': 1280,
    '49.– CHF': 49,
    'CHF 49.-': 49,
    'Fr. 12.50': 12.5,
    '299:-': 299,
    '1 299 kr': 1299,
    'kr. 1.299,00': 1299,
    '₹399/-': 399,
    '12€99': 12.99,
    '$12 99': 12.99,
    '1,299': 1299,
    '1.299': 1.299,
    '12.9999': 12.9999,
    '1,2,3': None,
    '1.2.3': None,
    '12,99,99': None,
    '5 ml': None,
    '5ml': None,
    '12 inches': None,
    '4/5': None,
    '12/05/2013': None,
    '2013-05-31': None,
    '50%': None,
    '20% off': None,
    '$50 (20% off)': 50,
    'Save $5.00': None,
    '$25.00 + $4.99 shipping': 25,
    'You save: $5 Price: $20': 20,
    '2 x $5.00': None,
    '3/$10': None,
    'Pack of 3 for $9.99': 9.99,
    'Set of 2 - £10.00': 10,
    'Rp 150.000': 150000,
    '₫1.290.000': 1290000,
    '25.990.000₫': 25990000,
    '₩12,990': 12990,
    '¥ 1980': 1980,
    '1980円': 1980,
    '１，９８０円': 1980,
    'R 1 299,00': 1299,
    'R129.99': 129.99,
    '₹1.5 lakh': 150000,
    '2k dollars': 2000,
    '$1-2K': 1000,
    'AUD 12.00': 12,
    'S$ 12.90': 12.9,
    'zł 49,99': 49.99,
    '49,99 zł': 49.99,
    '1 299 Kč': 1299,
    '12 990 Ft': 12990,
    '1.299,90 TL': 1299.9,
    'between $10 and $20': 10,
    '$10 to $20': 10,
    'Kindle $9.99': 9.99,
    'Hardcover $20.00 Paperback $12.00': 12,
    'price on request': None,
    '$': None,
    'five dollars': None,
    '$5 each': 5,
    '$1,299,00': None,
    'USD 0.00': None,
    'only 12.50': 12.5,
    'now 12.50 was 15.00': 12.5,
    'Was 15.00 now 12.50': 12.5,
    '٤٩٫٩٩': 49.99,
    '١٢٫٥٠ ر.س': None,
    'SAR ١٢': 12,
    '12,5 €': 12.5,
    '0.99': 0.99,
    '00012': 12,
    "1'299.50": 1299.5,
    '1’299': 1299,
    '1 29 999': None,
    '$12.99 USD': 12.99,
    'USD $12.99': 12.99,
    'EUR 12.99': 12.99,
    '12.99EUR': 12.99,
    'EUR 49 EUR 39': 39,
    '$ 30 $ 25': 25,
    'US 12.99': 12.99,
    'colours 12': None,
    '$ 1,299.00 ': 1299,
    'approx. 30 euros': 30,
    '100$ 120$': 100,
    '99p': None,
    'Price: N/A': None,
    '99¢': 0.99,
    '75 cents': 0.75,
    '12½ €': 12.5,
    '$ 12 . 99': 12.99,
    '1,299.-': 1299,
    '$1,29,999': 129999,
    '$ 1 299': 1299,
    '1 299 - 1 499 kr': 1299,
    # half a number, or one beside it
    '12 € 99': 12.99,
    '12€99 TTC': 12.99,
    'Call us 1-800-555-0199': None,
    '12 dollars and 50 cents': 12.5,
    '1234 567 €': None,
    '12 34 €': None,
    '129:90 kr': None,
    '12:30': None,
    '1万2800円': None,
    '1.5万円': 15000,
    '12만원': 120000,
    '$1.5M': None,
    '₹1.2L': None,
    'Rs 2.5Cr': 25_000_000,
    '$1.5 thousand': 1500,
    '$900 - $1.2K': 900,
    '$499 128GB': 499,
    'iPhone 12 $499': None,
    '$-5.00': None,
    # other amounts beside the price
    '$49.99 or 4 interest-free payments of $12.50': 49.99,
    'R$ 999,00 ou 10x de R$ 99,90': 999,
    '10x de R$ 99,90': None,
    'Preis: 39,99 € Statt: 49,99 € Sie sparen: 10,00 €': 39.99,
    'Prix conseillé : 49,99 € Prix : 39,99 € Économisez : 10,00 €': 39.99,
    'Ahorra 10 €': None,
    '10 € Rabatt': None,
    '12,99 € + Livraison 4,99 €': 12.99,
    'Price: $20.00 Shipping: $5.00 Total: $25.00': 20,
    '$20.00 with $5 coupon': 20,
    'US$12.99 (approx. £10.00)': 12.99,
    '$12.99/$15.99': 12.99,
    '12,99 € (1,30 € / 100 g)': 12.99,
    '£1.30/100g': 1.3,
    'Regular price$49.99Sale price$39.99': 39.99,
    '原价¥199 现价¥99': 99,
    # other places
    'AR$ 12.999': 12999,
    '1299 р.': 1299,
    '129,99 лв.': 129.99,
    'S/ 129.90': 129.9,
    'AUD$99.95': 99.95,
}


@pytest.mark.parametrize('text', prices)
def test_a_price_is_read_whole_or_not_at_all(text):
    assert read_amount(text) == (None if prices[text] is None else pytest.approx(prices[text]))


def test_prices_of_a_shop(tmp_path):
    shop = {'1 299,00 €': 1299, '45,00 €': 45, '12,99 €': 12.99}
    data = prepared(tmp_path, m=[page(i, price=p) for i, p in enumerate(shop)])
    assert data.products.price.tolist() == list(shop.values())


def test_prices_in_digits_of_any_script_and_prices_of_nothing(tmp_path):
    "A column whose prices are mostly 0 stops nothing: 0 is no price, and none that could not be read."
    data = prepared(tmp_path, m=[page(i, price=p) for i, p in enumerate(['１，９８０円', 'SAR ١٢', 0])])
    assert data.products.price.tolist()[:2] == [1980, 12] and data.report['unreadable'] == []
    data = prepared(tmp_path, m=[page(i, price=p) for i, p in enumerate(['0.00', '$0', '9.99'])])
    assert data.products.price.count() == 1 and data.report['unreadable'] == []


numbers = st.text(st.sampled_from("0123456789., '’-/%$€kRs()"), max_size=20) | st.text(max_size=60)


@examples(1500)
@given(numbers)
def test_any_text_is_a_value_or_none(text):
    n, stars, count, when = read_amount(text), read_stars(text), read_count(text), read_time(text)
    assert n is None or 0.01 <= n <= 1e9
    assert stars is None or 0 <= stars <= 999
    assert count is None or 0 <= count < 10**9
    assert when is None or 788918400000 <= when < 4102444800000


@examples(300)
@given(
    st.integers(1, 10**8),
    st.integers(0, 99),
    st.sampled_from([('{:,}.{:02}', ','), ('{:,}.{:02}', '\u202f'), ('{:,}.{:02}', "'")]),
    st.sampled_from('$£₹'),
)
def test_every_way_to_group_gives_the_same_amount(whole, cents, how, sign):
    form, group = how
    head = f'{whole:,}'.replace(',', group)
    assert read_amount(f'{sign}{head}.{cents:02}') == pytest.approx(whole + cents / 100)
    assert read_amount(f"{whole:,}".replace(',', '.') + f',{cents:02} €') == pytest.approx(whole + cents / 100)


# -- 3 present but unreadable


@pytest.mark.parametrize(
    'write',
    [
        lambda t: t // 1000,
        lambda t: t,
        lambda t: t * 1000,
        lambda t: t * 10**6,
        lambda t: str(t * 1000),
        lambda t: pd.Timestamp(t, unit='ms').isoformat(),
        lambda t: str(pd.Timestamp(t, unit='ms')),
        lambda t: pd.Timestamp(t, unit='ms').isoformat() + 'Z',
    ],
)
def test_times_in_every_unit(tmp_path, write):
    data = prepared(tmp_path, [review(i, timestamp=write(at + i * 86_400_000)) for i in range(30)])
    assert data.report['split']['by'] == 'time' and sorted(kept(data).timestamp) == [
        at + i * 86_400_000 for i in range(30)
    ]


at_noon = dict.fromkeys(
    [
        'Fri May 31 12:00:00 2013',
        'Fri May 31 12:00:00 +0000 2013',
        'Fri, 31 May 2013 14:00:00 +0200',
        '/Date(1370001600000)/',
        '{"$date": "2013-05-31T12:00:00Z"}',
        '{"$date":{"$numberLong":"1370001600000"}}',
        '5/31/13 12:00',
        '20130531120000',
        '31 mei 2013 om 12:00',
        '{"_seconds":1370001600,"_nanoseconds":0}',
        '[1370001600000]',
    ],
    1370001600000,
)
that_day = dict.fromkeys(
    [
        'Rezension aus Deutschland vom 31. Mai 2013',
        'Commenté en France le 31 mai 2013',
        'Reseñado en España el 31 de mayo de 2013',
        '31 maggio 2013',
        'Beoordeeld in Nederland op 31 mei 2013',
        'Avaliado no Brasil em 31 de maio de 2013',
        '2013年5月31日に日本でレビュー済み',
        '5/31/13',
        '31-May-13',
        '31.05.13',
        '2013. 5. 31.',
        '31 мая 2013',
        '31 Mayıs 2013',
        '31 maja 2013',
        'den 31 maj 2013',
        '2013-5-31',
        '31st of May 2013',
        '2013년 5월 31일',
        'Türkiye’de 31 Mayıs 2013 tarihinde değerlendirildi',
        'Date: 2013-05-31',
    ],
    1369958400000,
)
no_time = dict.fromkeys(['5/6', 'May 2013', '31 Brumaire 2013', '{"$date": "soon"}', '1.2.3', 'Fri May 31'])


@pytest.mark.parametrize('text, wanted', (at_noon | that_day | no_time).items())
def test_a_time_of_any_program_and_language(text, wanted):
    assert read_time(text) == wanted


@pytest.mark.parametrize(
    'form', ['%d/%m/%Y', '%d/%m/%y %H:%M', '%m/%d/%Y', '%m-%d-%Y', '%d-%m-%Y', '%y.%m.%d %H:%M', '%d.%m.%y']
)
def test_day_and_month_stand_in_one_order_in_a_column(tmp_path, form):
    "Whichever it is, the 2nd of June is no 6th of February where a 31st is in the column."
    days = pd.date_range('2013-05-31', periods=30)
    data = prepared(tmp_path, [review(i, timestamp=day.strftime(form)) for i, day in enumerate(days)])
    assert sorted(pd.to_datetime(kept(data).timestamp, unit='ms')) == list(days)


def test_day_and_month_stand_in_one_order_in_each_file(tmp_path):
    "A file whose dates do not tell, such as the latest part of a table, goes with the others."
    days, files = pd.date_range('2013-05-31', periods=30), []
    for n, (form, some) in enumerate([('%d/%m/%Y', days), ('%d/%m/%y', days[1:12]), ('%m/%d/%Y', days[:9])]):
        rows = [review(100 * n + i, timestamp=day.strftime(form)) for i, day in enumerate(some)]
        files.append(tmp_path / f'{n}.jsonl')
        files[-1].write_bytes(lines(rows))
    (tmp_path / 'm.jsonl').write_bytes(lines(meta))
    data = prepare(files, tmp_path / 'm.jsonl', 'x', tmp_path)
    found = pd.to_datetime(data.interactions.timestamp, unit='ms')
    assert set(found) <= set(days) and len(found) == 50


def test_the_times_of_2014(tmp_path):
    rows = [{k: v for k, v in review(i, reviewTime=f'05 {i + 1}, 2013').items() if k != 'timestamp'} for i in range(30)]
    assert sorted(kept(prepared(tmp_path, rows)).timestamp)[0] == read_time('2013-05-01')


@pytest.mark.parametrize(
    'stars',
    [
        '4.0 out of 5 stars',
        '4,0',
        '4/5',
        '★★★★',
        '★★★★☆',
        '8/10',
        '4 von 5 Sternen',
        '4,0 étoiles sur 5',
        '80%',
        '4/5.0',
        'four stars',
        '****',
        '★ 4.0',
    ],
)
def test_stars_and_counts_as_the_shop_writes_them(tmp_path, stars):
    data = prepared(
        tmp_path,
        [review(i, rating=stars) for i in range(30)],
        [page(i, rating_number='24,269 ratings', average_rating='4.2 out of 5 stars') for i in range(3)],
    )
    assert (
        set(kept(data).rating) == {4.0}
        and set(data.products.rating_number) == {24269}
        and set(data.products.average_rating) == {4.2}
    )


@pytest.mark.parametrize(
    'text, wanted',
    {
        '2,1 Tsd.': 2100,
        '2,1 mil': 2100,
        '1 024件のグローバル評価': 1024,
        '1.2万': 12000,
        '24 269 évaluations': 24269,
        '2,1 χιλ.': None,
        '2.5M': 2_500_000,
        '12 thousand': 12_000,
        '12,34': None,
        '1.5': None,
    }.items(),
)
def test_a_count_is_read_whole_or_not_at_all(text, wanted):
    assert read_count(text) == wanted


def test_pictures_as_one_object_of_lists(tmp_path):
    images = dict(
        hi_res=[None, 'https://img.example/0_SL.jpg'],
        large=['https://img.example/0.jpg', 'https://img.example/0b.jpg'],
        variant=['MAIN', 'PT01'],
    )
    data = prepared(tmp_path, m=[page(i, images=images) for i in range(3)])
    assert all(list(o) == images['large'] for o in data.products.images)


def test_pictures_of_2018(tmp_path):
    "The second edition of its metadata has no `image`."
    first = dict(imageURL=['https://img.example/s.jpg'], imageURLHighRes=['https://img.example/l.jpg'])
    data = prepared(tmp_path, m=[page(0, **first), page(1, **first | dict(imageURLHighRes=[])), page(2, imageURL='')])
    assert [list(o) for o in data.products.images] == [['https://img.example/l.jpg'], ['https://img.example/s.jpg'], []]


one = 'https://img.example/a,b.jpg'
pictures = [
    [one],
    one,
    [dict(thumb='https://img.example/t.jpg', large=one)],
    [dict(hi_res=one, large=None)],
    [dict(url=one)],
    {'0': one},
    ['//img.example/a,b.jpg'],
    f"['{one}']",
    json.dumps([one]),
    f'{one}|https://img.example/b.jpg',
    f'{one}, https://img.example/b.jpg',
    f'{one};https://img.example/b.jpg',
    [dict(small_image_url='https://img.example/s.jpg', large_image_url=one)],
]


def test_pictures_however_they_are_wrapped_up(tmp_path):
    data = prepared(
        tmp_path,
        about_first,
        [dict(parent_asin=f'P{i:02}', title=f'A thing of kind {i}', images=p) for i, p in enumerate(pictures)],
    )
    assert [p[0] if len(p) else None for p in data.products.sort_values('product_id').images] == [one] * len(pictures)


def test_what_cannot_be_read_is_told_with_an_example(tmp_path):
    data = prepared(
        tmp_path, [review(i, **({'timestamp': 'last week'} if i < 5 else {})) for i in range(30)], split='product'
    )
    assert data.report['unreadable'] == [dict(field='timestamp', unreadable=5, of=30, example='last week')]
    assert '| timestamp | 5 | 30 | last week |' in data._repr_markdown_()
    rows = [review(i, rating='so so') for i in range(30)]
    with pytest.raises(
        RecsysError, match="rating: 30 of 30 values cannot be read, such as 'so so'; --allow-unreadable rating"
    ):
        prepared(tmp_path, rows)
    assert kept(prepared(tmp_path, rows, allow_unreadable=['rating'])).rating.isna().all()
    with pytest.raises(RecsysError, match="allow_unreadable='stars': expected timestamp, rating"):
        prepared(tmp_path, allow_unreadable=['stars'])


# -- 4 the shop's own markup


@pytest.mark.parametrize(
    'raw, wanted',
    [
        ('[[VIDEOID:e1a2b3c4d5]] It hums.', 'It hums.'),
        ('Better than [[ASIN:B000000001 the old one]]', 'Better than the old one'),
        ('[[VIDEOID:mo1M5G]]', ''),
        ('The media could not be loaded.\n It hums.', 'It hums.'),
        ('It hums. Read more', 'It hums.'),
        ('I read more books now', 'I read more books now'),
        ('Good &#128077;&#x1F44D;', 'Good 👍👍'),
        ('&amp;#128077; fine', '👍 fine'),
        ('wire\u200bless\ufeff', 'wireless'),
        ('R&D', 'R&D'),
        ('Black &amp; Decker', 'Black & Decker'),
        ('&amp;quot;Great&amp;quot; R&amp;amp;D', '"Great" R&D'),
        ('donâ\x80\x99t', 'don’t'),
        ('\uf8ffüëç fine', '👍 fine'),
        ('FÃ¼r mich', 'Für mich'),
        ('很好用'.encode().decode('latin-1'), '很好用'),
        ('тихо'.encode().decode('mac_roman'), 'тихо'),
        (r'It\u2019s fine \ud83d\udc4d', 'It’s fine 👍'),
        ('l’été\xa0»', 'l’été »'),
        ('Fine_x000D_\nthing', 'Fine thing'),
        ('<![CDATA[It hums.]]>', 'It hums.'),
        ('5.0 out of 5 stars\nLove it', 'Love it'),
        ('5,0 von 5 Sternen Leise', 'Leise'),
        ('5 out of 5 stars from me', '5 out of 5 stars from me'),
        ('This review is from: Kettle (Kitchen)\nIt hums.', 'It hums.'),
        (r'It hums.\nIt is \"quiet\".', 'It hums. It is "quiet".'),
        (r'in C:\new', r'in C:\new'),
        ('It hums.\n12 people found this helpful', 'It hums.'),
        ('Read more\nIt hums.', 'It hums.'),
        ('Like [[ASIN:B000000001 Drive [New]]] here', 'Like Drive [New] here'),
        ('<style>p {color: red}</style><!-- split --><p>It hums</p>', 'It hums'),
        ('It hums<!--[if gte mso 9]><xml>Normal</xml><![endif]-->', 'It hums'),
        (f'<p style="{"color: red; " * 99}">It hums', 'It hums'),
        ('<!DOCTYPE html><body>It hums', 'It hums'),
        ('x <- y, 5 < 6 and 7 > 3', 'x <- y, 5 < 6 and 7 > 3'),
        ('&#xD83D;&#xDE00;&#55357;&#56832;', '😀😀'),
        ('とても静か。\n続きを読む', 'とても静か。'),
        ('It hums.\nReviewed in India on 5 May 2022\nHelpful\nReport', 'It hums.'),
        ('5.0 颗星，最多 5 颗星 很好', '很好'),
        ('donÃ¢â‚¬â„¢t', 'don’t'),
        ('TeÅŸekkÃ¼rler, hÄ±zlÄ±', 'Teşekkürler, hızlı'),
        ('Очень'.encode().decode('latin-1'), 'Очень'),
        ('नमस्ते'.encode().decode('latin-1'), 'नमस्ते'),
    ],
)
def test_the_shops_markup_goes(raw, wanted):
    assert readable(raw) == wanted


def test_markup_goes_before_texts_are_judged(tmp_path):
    rows = [review(i, text=f'[[VIDEOID:{i:020}]]') for i in range(30)] + [
        review(i + 40, text=f'[[VIDEOID:{i}aaaaaaaaaaaaaaaaaaaaaaaa]] {sentence(0)}') for i in range(5)
    ]
    t = kept(prepared(tmp_path, rows))
    assert not t[t.text == ''].informative.any() and (t.text == sentence(0)).sum() == 1


@examples(500)
@given(st.text(max_size=200) | st.text(st.sampled_from('[]VIDEOID:&#128;<b/> \u200d\u200b\n'), max_size=60))
def test_any_text_becomes_one_line(text):
    for s in (clean(text), readable(text)):
        assert (
            s == s.strip()
            and '\n' not in s
            and '\u200b' not in s
            and not any(unicodedata.category(c) == 'Cc' for c in s)
        )
        assert clean(s) == s


# -- 5 packings and tables


def zipped(b, path):
    with zipfile.ZipFile(path, 'w') as z:
        z.writestr('r.jsonl', b)


def zst(b, path):
    with pa.output_stream(str(path), compression='zstd') as f:
        f.write(b)


packers = dict(
    gz=lambda b, p: p.write_bytes(gzip.compress(b)),
    bz2=lambda b, p: p.write_bytes(bz2.compress(b)),
    xz=lambda b, p: p.write_bytes(lzma.compress(b)),
    zst=zst,
    zip=zipped,
)


@pytest.mark.parametrize('packing', packers)
def test_every_packing_is_read_and_a_torn_one_is_named(tmp_path, packing):
    wanted = kept(prepared(tmp_path)).index
    path = tmp_path / f'r.jsonl.{packing}'
    packers[packing](lines(reviews), path)
    assert kept(prepare(path, tmp_path / 'm.jsonl', 'y', tmp_path)).index.tolist() == wanted.tolist()
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(RecsysError, match=f'r.jsonl.{packing}') as e:
        prepare(path, tmp_path / 'm.jsonl', 'y', tmp_path)
    assert '\n' not in str(e.value)


def of_a_mac(b, path):
    with zipfile.ZipFile(path, 'w') as z:
        for name, content in {'out/r.jsonl': b, '__MACOSX/out/._r.jsonl': b'x', 'out/.DS_Store': b'x'}.items():
            z.writestr(name, content)


def after_a_frame_to_skip(b, path):
    zst(b, path)
    path.write_bytes(b'\x50\x2a\x4d\x18\x04\x00\x00\x00abcd' + path.read_bytes())


@pytest.mark.parametrize(
    'name, pack',
    {
        'padded.jsonl.gz': lambda b, p: p.write_bytes(gzip.compress(b) + bytes(512)),  # as tapes and blocks end
        'r.lzma': lambda b, p: p.write_bytes(lzma.compress(b, format=lzma.FORMAT_ALONE)),
        'pzstd.zst': after_a_frame_to_skip,
        'mac.zip': of_a_mac,
        'r.jsonl.lz4': lambda b, p: p.write_bytes(b),  # whose name says what it is not
    }.items(),
)
def test_packings_of_other_tools(tmp_path, name, pack):
    wanted = kept(prepared(tmp_path)).index
    pack(lines(reviews), tmp_path / name)
    assert kept(prepare(tmp_path / name, tmp_path / 'm.jsonl', 'y', tmp_path)).index.tolist() == wanted.tolist()


def frame():
    return pd.DataFrame(reviews)


usual = dict(user_id='UserId', parent_asin='ProductId', rating='Score', title='Summary', text='Text', timestamp='Time')
tables = {
    'r.csv': lambda: frame().to_csv(index=False).encode(),
    'r.tsv': lambda: frame().to_csv(index=False, sep='\t').encode(),
    'bom.csv': lambda: frame().to_csv(index=False).encode('utf-8-sig'),
    'wide.csv': lambda: frame().to_csv(index=False).encode('utf-16'),
    'usual.csv': lambda: frame().rename(columns=usual).to_csv(index=False, sep=';').encode(),
    'wide.jsonl': lambda: lines(reviews).decode().encode('utf-16'),
    'unmarked.csv': lambda: frame().to_csv(index=False).encode('utf-16-le'),
    'unmarked.jsonl': lambda: lines(reviews).decode().encode('utf-16-be'),
    'array.json': lambda: json.dumps(reviews).encode(),
    'pretty.json': lambda: json.dumps(reviews, indent=2).encode(),
    'bom.json': lambda: b'\xef\xbb\xbf\n' + lines(reviews),
    'objects.json': lambda: '\n'.join(json.dumps(r, indent=1) for r in reviews).encode(),
    'loose.json': lambda: (
        '\n\n' + '\n'.join(repr(r | {'vote': float('nan')}).replace("'U", "u'U") for r in reviews)
    ).encode(),
    'quoted.csv': lambda: frame().to_csv(index=False, quoting=1).encode(),
    'quoted.txt': lambda: frame().to_csv(index=False, quoting=1, sep='\t').encode(),
    'excel.csv': lambda: ('sep=;\r\n' + frame().to_csv(index=False, sep=';')).encode(),
    'blank.csv': lambda: b'\n \n' + frame().to_csv(index=False, sep=';').encode(),
    'blank_excel.csv': lambda: b'\r\nsep=|\r\n\r\n' + frame().to_csv(index=False, sep='|').encode(),
    'names.jsonl': lambda: lines([{usual[k]: v for k, v in r.items()} for r in reviews]),
}


@pytest.mark.parametrize('name', tables)
def test_every_layout_gives_the_same_reviews(tmp_path, name):
    columns = 'user_id product_id rating text timestamp'.split()
    wanted = kept(prepared(tmp_path))[columns].sort_values('user_id').values.tolist()
    assert kept(prepared(tmp_path, tables[name](), name=name))[columns].sort_values('user_id').values.tolist() == wanted


def test_parquet_for_both(tmp_path):
    pd.DataFrame(reviews).to_parquet(tmp_path / 'r.parquet')
    pd.DataFrame(
        [m | dict(features=['Flat', 'Quiet'], images=dict(large=['https://img.example/0.jpg'])) for m in meta]
    ).to_parquet(tmp_path / 'm.parquet')
    data = prepare(tmp_path / 'r.parquet', tmp_path / 'm.parquet', 'x', tmp_path)
    assert (
        len(kept(data)) == 30
        and list(data.products.features[0]) == ['Flat', 'Quiet']
        and list(data.products.images[0]) == ['https://img.example/0.jpg']
    )
    (tmp_path / 'r.parquet').write_bytes((tmp_path / 'r.parquet').read_bytes()[:-20])
    with pytest.raises(RecsysError, match='r.parquet: damaged, or no Parquet file'):
        prepare(tmp_path / 'r.parquet', tmp_path / 'm.parquet', 'x', tmp_path)


def test_names_of_their_own_and_ratings_without_names(tmp_path):
    own = frame().rename(columns=dict(text='what_they_say', rating='how_many'))
    with pytest.raises(RecsysError, match="columns='words'"):
        prepared(tmp_path, columns=dict(words='x'))
    for name, content in {'own.csv': own.to_csv(index=False).encode(), 'own.jsonl': lines(reviews)}.items():
        with pytest.raises(RecsysError, match="no file has a column 'stars', which was to be rating"):
            prepared(tmp_path, content, name=name, columns=dict(rating='stars'))
    data = prepared(
        tmp_path,
        own.to_csv(index=False).encode(),
        name='own.csv',
        columns=dict(text='what_they_say', rating='how_many'),
    )
    assert len(kept(data)) == 30 and set(kept(data).rating) == {4.0}
    bare = frame()[['user_id', 'parent_asin', 'rating', 'timestamp']].to_csv(index=False, header=False).encode()
    data = prepared(tmp_path, bare, name='ratings.csv')
    assert len(data.interactions) == 30 and set(data.interactions.rating) == {4.0}


@pytest.mark.parametrize(
    'name, content, says',
    [
        (
            'cars.csv',
            b'brand,model\nKee,K1\n',
            'cars.csv: a table with the columns brand, model; none is known to be the product',
        ),
        ('x.db', b'SQLite format 3\x00', 'x.db: seems to be an SQLite database'),
        ('x.7z', b'7z\xbc\xaf', 'x.7z: seems to be a 7-Zip archive'),
        ('r.jsonl.lz4', b'\x04\x22\x4d\x18\x64\x40', 'r.jsonl.lz4: seems to be packed with lz4'),
        ('twice.jsonl.gz', gzip.compress(gzip.compress(lines(reviews), mtime=0), mtime=0), 'packed twice'),
        ('page.jsonl.gz', gzip.compress(b'<!DOCTYPE html><html>404', mtime=0), 'a web page'),
        ('long.zst', b'\x28\xb5\x2f\xfd\x00\xa8' + bytes(20), 'memory.*where other programs unpack it'),
        ('lfs.jsonl.gz', b'version https://git-lfs.github.com/spec/v1\noid sha256:a\n', 'git lfs pull'),
        ('ratings.dat', b'1::1193::5::978300760\n' * 9, 'a table with :: between its cells'),
        ('finefoods.txt', b'product/productId: P1\nreview/userId: U1\n', 'SNAP'),
        ('x.arrow', b'\xff\xff\xff\xff\x98\x05\x00\x00', 'an Arrow stream'),
        ('x.pkl', b'\x80\x05\x95\xa3', 'a pickle'),
        ('wide.csv', 'user,asin\n'.encode('utf-32'), 'UTF-32'),
        (
            'wrapped.json',
            json.dumps(dict(reviews=reviews, status='ok', total=30)).encode(),
            'one object around the list of rows',
        ),
        ('after.json', json.dumps(dict(status='ok', reviews=reviews)).encode(), 'there is status, reviews'),
        ('frame.json', pd.DataFrame(reviews).to_json().encode(), 'a data frame by columns'),
        (
            'gbk.csv',
            ('user_id,asin,text\n' + 'U1,P1,这个键盘声音很小\n' * 9).encode('gb18030'),
            'another code than UTF-8',
        ),
        (
            'events.csv',
            b'timestamp,visitorid,event,itemid\n' + b'1433221332117,7,view,P1\n' * 9,
            'nor is a user known: name the column with --map user_id=COLUMN',
        ),
        ('sjis.jsonl', ('{"asin": "P1", "text": "とても静か"}\n' * 9).encode('cp932'), 'not UTF-8'),
    ],
)
def test_what_is_no_data_is_told_in_a_line(tmp_path, name, content, says):
    with pytest.raises(RecsysError, match=says) as e:
        prepared(tmp_path, content, name=name)
    assert '\n' not in str(e.value)


@pytest.mark.parametrize(
    'at, to, says', [(6, 1, 'password'), (8, 9, 'compression')]
)  # what large files of Windows have is compression 9
def test_a_zip_that_cannot_be_unpacked_is_told_in_a_line(tmp_path, at, to, says):
    zipped(lines(reviews), tmp_path / 'r.zip')
    b = (tmp_path / 'r.zip').read_bytes()
    changed = bytes(to if i in (at, b.index(b'PK\x01\x02') + at + 2) else c for i, c in enumerate(b))
    with pytest.raises(RecsysError, match=f'r.zip: .* not to be unpacked here .*{says}.*; where other'):
        prepared(tmp_path, changed, name='r.zip')


def test_a_number_of_many_digits_is_refused_in_a_line(tmp_path):
    with pytest.raises(RecsysError, match='digits.json: damaged'):
        prepared(tmp_path, b'[{"asin": "P1", "rating": ' + b'1' * 5000 + b'}]', name='digits.json')


def test_quotes_as_spark_writes_them_and_western_europe_without_utf_8(tmp_path):
    said = [f'{sentence(i)}, "so" to speak: für 5€' for i in range(30)]
    table = frame().assign(text=said)
    spark = table.to_csv(index=False, escapechar='\\', doublequote=False).encode()
    for name, content in {'spark.csv': spark, 'latin.csv': table.to_csv(index=False).encode('cp1252')}.items():
        assert sorted(kept(prepared(tmp_path, content, name=name)).text) == sorted(said)


def test_a_quote_between_tabs_closes_no_cell(tmp_path):
    "Amazon's files of 2015 quote nothing: a text that begins with a quote must not swallow the rows after it."
    head = (
        'marketplace customer_id review_id product_id product_title '
        'star_rating vine review_headline review_body review_date'
    ).split()
    table = '\n'.join(
        '\t'.join(map(str, r))
        for r in [
            head,
            *(
                [
                    'US',
                    f'U{i}',
                    f'R{i}',
                    f'P{i % 3}',
                    'A thing',
                    4,
                    'N',
                    '"Great" they say' if i % 2 else '"Great',
                    f'{sentence(i)}, 5" wide',
                    f'2015-08-{i + 1:02}',
                ]
                for i in range(30)
            ),
        ]
    )
    t = kept(prepared(tmp_path, table.encode(), name='us.tsv'))
    assert (
        len(t) == 30
        and set(t.text) == {f'{sentence(i)}, 5" wide' for i in range(30)}
        and set(t.title) == {'"Great" they say', '"Great'}
    )
    last = frame()['user_id parent_asin rating title timestamp text'.split()].assign(
        text=[f'"{sentence(i)}' for i in range(30)]
    )
    t = kept(prepared(tmp_path, last.to_csv(index=False, sep='\t', quoting=3).encode(), name='last.tsv'))
    assert set(t.text) == {f'"{sentence(i)}' for i in range(30)}
    told = frame().assign(
        title='"Great", it says', text=[f'{sentence(i)}\n"so"\tto speak' for i in range(30)]
    )  # a writer that quotes
    t = kept(prepared(tmp_path, told.to_csv(index=False, sep='\t').encode(), name='quoted.tsv'))
    assert set(t.title) == {'"Great", it says'} and set(t.text) == {f'{sentence(i)} "so" to speak' for i in range(30)}


@pytest.mark.parametrize(
    'name, write',
    {
        'r.csv': lambda t: t.to_csv(index=False).encode(),
        'back.csv': lambda t: t[t.columns[::-1]].to_csv(index=False).encode(),
        'r.jsonl': lambda t: lines(t.to_dict('records')),
        'r.parquet': lambda t: t.to_parquet(),
    }.items(),
)
def test_a_column_that_somebody_named_comes_before_one_of_that_name(tmp_path, name, write):
    t = kept(
        prepared(
            tmp_path, write(frame().assign(text='Good', comment=frame().text)), name=name, columns=dict(text='comment')
        )
    )
    assert set(t.text) == set(frame().text)


def test_usual_names_beside_an_asin(tmp_path):
    "Lines with a product of our name and the rest of their own are read as a table with these columns is."
    own = frame().rename(
        columns=dict(
            parent_asin='asin',
            user_id='customer_id',
            rating='stars',
            text='review_body',
            title='headline',
            timestamp='date',
        )
    )
    for name, content in {'r.jsonl': lines(own.to_dict('records')), 'r.csv': own.to_csv(index=False).encode()}.items():
        t = kept(prepared(tmp_path, content, name=name))
        assert (
            set(t.text) == set(frame().text)
            and set(t.rating) == {4.0}
            and set(t.user_id) == set(frame().user_id)
            and set(t.title) == {'Good'}
        )
    older = [
        dict(
            asin=r['parent_asin'],
            reviewerID=r['user_id'],
            overall=r['rating'],
            reviewText=r['text'],
            score=0.1,
            content='x',
        )
        for r in reviews
    ]
    t = kept(prepared(tmp_path, older, split='product'))
    assert set(t.text) == set(frame().text) and set(t.rating) == {4.0}


def test_names_of_files_stand_for_themselves(tmp_path):
    for name in ('r[1].jsonl', 'r?.jsonl'):
        (tmp_path / 'r1.jsonl').write_bytes(lines([review(50)]))
        assert len(kept(prepared(tmp_path, name=name))) == 30


def test_a_path_of_categories_in_one_text_is_its_levels(tmp_path):
    paths = 'Home|Kitchen|Mugs', 'Home > Kitchen > Mugs', 'Home &gt; Kitchen &gt; Mugs', '["Home", "Kitchen", "Mugs"]'
    table = pd.DataFrame(dict(asin=range(4), title='A mug', category=paths))
    table.to_csv(tmp_path / 'm.csv', index=False)
    data = prepare([], tmp_path / 'm.csv', 'x', tmp_path, categories=['Mugs'])
    assert [list(c) for c in data.products.categories] == [['Home', 'Kitchen', 'Mugs']] * 4


def test_columns_that_nobody_knows_are_named(tmp_path):
    with pytest.warns(UserWarning, match='Bewertung, Kommentar.*--map rating=COLUMN'):
        prepared(
            tmp_path,
            frame()
            .rename(columns=dict(rating='Bewertung', text='Kommentar'))[
                'user_id parent_asin Bewertung Kommentar timestamp'.split()
            ]
            .to_csv(index=False)
            .encode(),
            name='de.csv',
        )


def test_a_row_that_is_not_whole_is_set_aside_with_its_line(tmp_path):
    table = frame().to_csv(index=False) + 'U99,P0,5.0\n'
    data = prepared(tmp_path, table.encode(), name='r.csv')
    with gzip.open(data.path / 'quarantine.jsonl.gz', 'rt') as f:
        found = [json.loads(l) for l in f]
    told = [(32, 'no row of a table: 3 cells, expected 6')]
    assert [(q['line'], q['reason']) for q in found] == told and found[0]['file'].endswith('r.csv')


def test_a_quote_that_is_never_closed_costs_its_own_row_alone(tmp_path):
    rows = ['user_id,asin,text', *(f'U{i},P1,{sentence(i)}' for i in range(3000))]
    rows[10], rows[2000], rows[2990] = 'U9,P1,"Great', 'U1999,P1,"Two\nlines"', 'U2989,P1,"Great'
    (tmp_path / 'r.csv').write_text('\n'.join(rows))
    found = as_lines(tmp_path / 'r.csv', tmp_path, Columns('reviews')).read_text().splitlines()
    assert [(n, line[:20]) for n, line in enumerate(found, 1) if line and line[0] != '{'] == [
        (11, '"no row of a table: '),
        (2992, '"no row of a table: '),
    ]
    assert len(list(filter(None, found))) == 3000 and json.loads(found[2000])['text'] == 'Two\nlines'


def test_a_quote_that_a_later_row_closes_costs_its_own_row_alone(tmp_path):
    rows = ['user_id,asin,text', *(f'U{i},P1,{sentence(i)}' for i in range(9))]
    rows[3], rows[7] = 'U2,P1,"Great', 'U6,P1,"Fine"'
    (tmp_path / 'r.csv').write_text('\n'.join(rows))
    found = as_lines(tmp_path / 'r.csv', tmp_path, Columns('reviews')).read_text().splitlines()
    assert [n for n, line in enumerate(found, 1) if line[:1] == '"'] == [4] and len(list(filter(None, found))) == 9


def test_a_row_of_many_lines_with_a_cell_too_many_makes_no_rows_of_its_lines(tmp_path):
    rows = ['id,title,description', 'B1,Desk lamp, large,"A lamp.\nSoft, warm, bright\nThe end."', 'B2,Red lamp,"Fine"']
    (tmp_path / 'm.csv').write_text('\n'.join(rows))
    bad, good = filter(None, as_lines(tmp_path / 'm.csv', tmp_path, Columns('meta')).read_text().splitlines())
    assert '4 cells, expected 3' in bad and json.loads(good)['parent_asin'] == 'B2'


def read_by_engines(path, kind='reviews', **names):
    "What stands in the copy of a file."
    copy = as_lines(path, path.parent, Columns(kind, names))
    return [json.loads(l) for l in copy.read_text().splitlines() if l]


def test_names_of_columns_whatever_parts_their_words(tmp_path):
    for own in 'productId,userId,starRating,reviewTitle', 'product-id,User ID,Star Rating,review.title':
        (tmp_path / 'r.csv').write_text(f'{own}\nB1,U1,4,Good\n')
        assert read_by_engines(tmp_path / 'r.csv') == [dict(parent_asin='B1', user_id='U1', rating='4', title='Good')]


def test_of_two_columns_of_one_name_the_first_counts(tmp_path):
    (tmp_path / 'r.csv').write_text('asin,text,text\nB1,Mine,Joined\n')
    columns = [pa.array([v]) for v in ('B1', 'Mine', 'Joined')]
    pq.write_table(pa.Table.from_arrays(columns, names=['asin', 'text', 'text']), tmp_path / 'r.parquet')
    for name in ('r.csv', 'r.parquet'):
        assert read_by_engines(tmp_path / name) == [dict(asin='B1', text='Mine')]


def test_parquet_of_other_writers(tmp_path):
    "Texts left as bytes, a column in the folder's name, signs of a pattern in the file's, a quote in a column's."
    folder = tmp_path / 'rating=4'
    folder.mkdir()
    table = pa.table({'asin': ['B1'], 'text': pa.array(['für 5€'.encode()], pa.binary()), 'said "so"': ['Good']})
    pq.write_table(table, folder / 'part [1].parquet')
    found = read_by_engines(folder / 'part [1].parquet', title='said "so"')
    assert found == [dict(rating=4, title='Good', text='für 5€', asin='B1')]


def test_what_lies_beside_the_data_in_a_folder_is_none(tmp_path):
    for name in ('part-0.json', '_delta_log/0.json', '__MACOSX/part-0.json'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('{"asin": "B1"}\n')
    assert input_files(tmp_path, 'meta') == [tmp_path / 'part-0.json']


def test_a_pipe_is_refused_for_it_is_read_twice(tmp_path):
    os.mkfifo(tmp_path / 'r.jsonl')
    with pytest.raises(RecsysError, match='r.jsonl: no such file, or a pipe'):
        input_files(tmp_path / 'r.jsonl', 'reviews')


@pytest.mark.parametrize('name', ['r.csv', 'r.json'])
def test_bytes_that_are_no_utf_8_are_western_wherever_they_stand(tmp_path, name):
    "One late curly quote of Windows in English text; and one row of Windows among many of UTF-8."
    said = ['plain words ' * 6000, 'so “good”', 'très bien', '静かなキーボードです']
    table = pd.DataFrame(dict(asin='B1', text=said))
    rows = table.to_csv(index=False) if name == 'r.csv' else table.to_json(orient='records', force_ascii=False)
    content = rows.encode().replace('“good”'.encode(), '“good”'.encode('cp1252'))
    for b in (content, content.replace(said[0].encode(), b'short')):
        (tmp_path / name).write_bytes(b)
        assert [o['text'] for o in read_by_engines(tmp_path / name)][1:] == said[1:]


def test_lists_in_cells_as_numpy_writes_them(tmp_path):
    lists = [
        "['Flat' 'It\\'s \\\\ big']",
        '[\'Flat\'\n "It\'s"]',
        "[array(['Flat', 'Quiet'], dtype=object)]",
        "['A, B']",
    ]
    pictures = "[{'large': 'https://a.b/1.jpg'}\n {'large': 'https://a.b/2.jpg'}]"
    table = pd.DataFrame(dict(asin='B1', features=lists, images=pictures))
    table.to_csv(tmp_path / 'm.csv', index=False)
    found = read_by_engines(tmp_path / 'm.csv', 'meta')
    told = [['Flat', "It's \\ big"], ['Flat', "It's"], [['Flat', 'Quiet']], ['A, B']]
    assert [o['features'] for o in found] == told
    assert found[0]['images'] == [dict(large='https://a.b/1.jpg'), dict(large='https://a.b/2.jpg')]


@pytest.mark.parametrize(
    'line, says',
    {
        '{"business_id": "B1", "words": 4}': 'there is business_id, words',
        'Reviews of May': 'in no table whose first line names the columns',
    }.items(),
)
def test_a_line_of_no_use_says_what_it_has(tmp_path, line, says):
    with pytest.raises(RecsysError, match=f'r.csv: 1 of 1 lines .*{says}'):
        prepared(tmp_path, line.encode(), name='r.csv')


def test_an_id_is_the_product_where_a_product_is_its_name(tmp_path):
    (tmp_path / 'm.csv').write_text('id,product,price\nB1,Red lamp,1.50\n')
    (line,) = filter(None, as_lines(tmp_path / 'm.csv', tmp_path, Columns('meta')).read_text().splitlines())
    assert json.loads(line)['parent_asin'] == 'B1'


def test_a_line_of_python_that_is_no_object_is_set_aside_as_it_stands(tmp_path):
    loose = '\n'.join(map(repr, [*reviews, review(30) | {1: 'a key that is no text'}, ('P1', None)]))
    data = prepared(tmp_path, loose.encode(), name='r.json')
    assert len(kept(data)) == 31
    with gzip.open(data.path / 'quarantine.jsonl.gz', 'rt') as f:
        assert [(q['line'], q['text']) for q in map(json.loads, f)] == [(32, "('P1', None)")]


# -- 6 languages without blanks

japanese = [
    'とても静かで長い時間使っても疲れない良い鍵盤です',
    '音が小さくて夜でも家族を起こさずに使えました',
    '電池が一週間もつので旅行にも持って行けます',
    '思ったより軽くて鞄に入れても邪魔になりません',
]


def test_160_japanese_sentences_say_something(tmp_path):
    data = prepared(
        tmp_path,
        [
            review(
                i,
                title='',
                text=f'{japanese[i % 4]}。{"一二三四五六七八九十"[i // 4 % 10]}{"春夏秋冬"[i // 40]}に買いました。',
            )
            for i in range(160)
        ],
    )
    assert kept(data).informative.all()


def test_sentences_end_where_their_language_ends_them():
    assert sentences('とても静かです。軽いです！また買います。') == ['とても静かです。', '軽いです！', 'また買います。']
    assert sentences('声音很小，我很喜欢。推荐购买！') == ['声音很小，我很喜欢。', '推荐购买！']
    assert sentences('यह अच्छा है। मुझे पसंद है।') == ['यह अच्छा है।', 'मुझे पसंद है।']
    assert sentences('静かです！！軽くて便利です♪また買います') == ['静かです！！', '軽くて便利です♪', 'また買います']
    assert sentences('ကောင်းပါတယ်။ ထပ်ဝယ်မယ်။') == ['ကောင်းပါတယ်။', 'ထပ်ဝယ်မယ်။']
    assert sentences('ល្អណាស់។ ខ្ញុំចូលចិត្ត។') == ['ល្អណាស់។', 'ខ្ញុំចូលចិត្ត។']
    assert sentences('很好用 推薦給大家使用 下次會再買') == ['很好用 推薦給大家使用', '下次會再買'] and sentences(
        'ຄຸນນະພາບດີ ຂ້ອຍມັກມັນ'
    ) == ['ຄຸນນະພາບດີ', 'ຂ້ອຍມັກມັນ']
    assert sentences('「静かです。」と言われました。') == ['「静かです。」と言われました。']


shelf = [
    '静音キーボード 日本語配列',
    '轻便鼠标 无线',
    'หูฟังไร้สาย เสียงดี',
    '조용한 키보드 무선',
    '無線滑鼠 靜音',
    'सूती कुर्ता लाल',
    'سماعات لاسلكية',
    'ລຳໂພງ ຂະໜາດນ້ອຍ',
    'ကီးဘုတ် အသံတိတ်',
    '電気ケトル 1.7L',
]


@pytest.mark.parametrize(
    'asked, wanted',
    {
        '静かなキーボード': 0,
        'ｷｰﾎﾞｰﾄﾞ': 0,
        '无线鼠标': 1,
        'หูฟังไร้สาย': 2,
        '키보드': 3,
        '靜音滑鼠': 4,
        'लाल कुर्ता': 5,
        'سماعات': 6,
        'ລຳໂພງ': 7,
        'အသံတိတ်': 8,
        'ケトル': 9,
    }.items(),
)
def test_words_are_found_in_every_script(asked, wanted):
    found = bm25_scorer(shelf)([asked])[0]
    assert found.argmax() == wanted and found.max() > 0


glued = [
    'หูฟังไร้สายเสียงดี',
    '무선키보드 저소음',
    'ລຳໂພງຂະໜາດນ້ອຍ',
    'ជើងទម្រទូរស័ព្ទ',
    unicodedata.normalize('NFD', 'Café crème'),
    'ＵＳＢケーブル ２ｍ',
    'နားကြပ်အသံကောင်း',
]


@pytest.mark.parametrize(
    'asked, wanted',
    {'หูฟัง': 0, 'เสียงดี': 0, '키보드': 1, 'ລຳໂພງ': 2, 'ទូរស័ព្ទ': 3, 'café': 4, 'USB': 5, '2m': 5, 'နားကြပ်': 6}.items(),
)
def test_words_are_found_within_what_is_written_in_one(asked, wanted):
    found = bm25_scorer(glued)([asked])[0]
    assert found.argmax() == wanted and found.max() > 0


def test_an_encoder_that_does_not_know_the_language_says_so_and_goes_on(tmp_path, tiny_base):
    names = 'คีย์บอร์ดไร้สายเสียงเงียบ', 'เมาส์ขนาดเล็ก', 'หูฟังบลูทูธกันน้ำ'
    data = prepared(tmp_path, m=[page(i, title=name, store=None) for i, name in enumerate(names)])
    with pytest.warns(UserWarning, match='does not know the language of these products.*--base'):
        build_index(data, DualEncoderSBERT(tiny_base), root=tmp_path)
    assert Recommender.load(tmp_path).recommend('หูฟัง')[0].title == names[2]


@pytest.mark.parametrize(
    'said',
    {
        '这个键盘非常安静，手感也很好，推荐给大家！': '「这个键盘非常安静,手感也很好、推荐给大家!」～',
        'السماعات ممتازة، والصوت واضح جدا؛ أنصح بها': 'السماعات ممتازة, والصوت واضح جدا. أنصح بها؟',
        'बहुत अच्छा हेडफ़ोन है। बैटरी भी अच्छी चलती है।': 'बहुत अच्छा हेडफ़ोन है| बैटरी भी अच्छी चलती है',
        '¿Quién lo diría? ¡Funciona de maravilla!': '«Quién lo diría?» **Funciona de maravilla**',
    }.items(),
)
def test_copies_differ_in_the_marks_of_their_language(tmp_path, said):
    assert len(kept(prepared(tmp_path, [review(i, text=t) for i, t in enumerate(said)]))) == 1


@examples(300)
@given(st.text(max_size=300))
def test_sentences_lose_nothing_but_marks(text):
    for s in sentences(text):
        assert len(s) >= 5 and s == clean(s)


# -- found by reading


def test_a_cell_that_python_knows_and_json_does_not_is_a_text(tmp_path):
    cells = '[...]', '{1, 2}', "[b'x']", '{'
    (tmp_path / 'm.csv').write_text('parent_asin,title\n' + ''.join(f'P{i},"{c}"\n' for i, c in enumerate(cells)))
    assert prepare([], tmp_path / 'm.csv', 'x', tmp_path).products.title.tolist() == list(cells)


def test_names_in_capitals_are_found(tmp_path):
    (tmp_path / 'raw').mkdir()
    (tmp_path / 'raw' / 'REVIEWS.JSONL').write_bytes(lines(reviews))
    (tmp_path / 'raw' / 'META_things.JSONL').write_bytes(lines(meta))
    assert len(kept(prepare(tmp_path / 'raw', tmp_path / 'raw', 'x', tmp_path))) == 30


def test_a_count_with_a_point_for_thousands_is_one_in_a_column_too(tmp_path):
    data = prepared(tmp_path, m=[page(i, rating_number='24.269') for i in range(3)])
    assert set(data.products.rating_number) == {24269}


def test_apostrophes_of_two_kinds_are_no_difference(tmp_path):
    said = "I can't complain about this thing at all, it works", 'I can’t complain about this thing at all, it works'
    assert (
        len(
            kept(
                prepared(tmp_path, [review(i, text=t) for i, t in enumerate(said)] + [review(i) for i in range(2, 30)])
            )
        )
        == 29
    )
