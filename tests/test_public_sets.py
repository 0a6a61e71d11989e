"Public data sets: fetched from a server of our own, converted from made-up miniatures, and prepared."

import gzip, json, threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pandas as pd
import pytest

from recsys_nb.benchmarks import growth, public_sets as sets
from recsys_nb.benchmarks.measuring import in_own_process
from recsys_nb.core.files import RecsysError
from recsys_nb.data.prepare import prepare


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def host(tmp_path):
    "A folder whose files a local server gives."
    folder = tmp_path / 'host'
    folder.mkdir()
    server = ThreadingHTTPServer(('127.0.0.1', 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f'http://127.0.0.1:{server.server_port}'
    server.shutdown()
    server.server_close()


def lines(path):
    return [json.loads(line) for line in gzip.open(path, 'rt', encoding='utf-8')]


def moved(monkeypatch, name, address):
    "The public set, with its files on our own server."
    there = sets.public_sets[name]
    files = {file: f'{address}/{file}' for file in there.files}
    monkeypatch.setitem(sets.public_sets, name, sets.PublicSet(files, there.read, there.maker))


phones = 'Product Name,Brand Name,Price,Rating,Reviews,Review Votes\n' + ''.join(
    f'"Phone {i % 5}",Samsung,{100 + i % 5},{1 + i % 5},"Review {i}: the battery lasts {i} hours",{i % 3}\n'
    for i in range(60)
)


def test_a_set_is_fetched_converted_and_prepared(host, monkeypatch, tmp_path):
    folder, address = host
    (folder / 'phones.csv').write_text(phones)
    moved(monkeypatch, 'amazon_phones_stars', address)
    dest = sets.fetch_public_set('amazon_phones_stars', tmp_path / 'phones')
    assert len(lines(dest / 'reviews.jsonl.gz')) == 60 and len(lines(dest / 'meta.jsonl.gz')) == 5
    data = prepare([dest / 'reviews.jsonl.gz'], [dest / 'meta.jsonl.gz'], 'phones', root=tmp_path)
    assert data.report and len(pd.read_parquet(tmp_path / 'data/preprocessed/phones/products.parquet')) == 5


def test_a_file_that_changed_is_refused(host, monkeypatch, tmp_path):
    folder, address = host
    (folder / 'phones.csv').write_text(phones)
    moved(monkeypatch, 'amazon_phones_stars', address)
    dest = sets.fetch_public_set('amazon_phones_stars', tmp_path / 'phones')
    (folder / 'phones.csv').write_text(phones + 'more')
    sets.fetch_public_set('amazon_phones_stars', dest)  # what is here stays
    (dest / 'source' / 'phones.csv').unlink()
    with pytest.raises(RecsysError, match='SHA-256'):
        sets.fetch_public_set('amazon_phones_stars', dest)


def test_a_damaged_file_here_is_refused(host, monkeypatch, tmp_path):
    folder, address = host
    (folder / 'phones.csv').write_text(phones)
    moved(monkeypatch, 'amazon_phones_stars', address)
    dest = sets.fetch_public_set('amazon_phones_stars', tmp_path / 'phones')
    (dest / 'source' / 'phones.csv').write_text('half')
    with pytest.raises(RecsysError, match='sources.json'):
        sets.fetch_public_set('amazon_phones_stars', dest)


def test_histories_come_from_three_files(host, monkeypatch, tmp_path):
    folder, address = host
    table = 'user_id,history_item_id,item_id\nA1,"[3, 5]",7\nA1,[3],5\nA2,[7],3\n'
    for name in ('valid.csv', 'test.csv'):
        (folder / name).write_text(table)
    (folder / 'items.json').write_text(json.dumps({str(i): dict(title=f'Ink {i}', description='') for i in (3, 5, 7)}))
    moved(monkeypatch, 'amazon_office_histories', address)
    dest = sets.fetch_public_set('amazon_office_histories', tmp_path / 'office')
    had = [(r['user_id'], r['asin']) for r in lines(dest / 'reviews.jsonl.gz')]
    assert had == [('A1', 'O00003'), ('A1', 'O00005'), ('A1', 'O00007'), ('A2', 'O00007'), ('A2', 'O00003')]
    assert [t['next'] for t in lines(dest / 'test_histories.jsonl.gz')] == ['O00007', 'O00005', 'O00003']
    assert all(m['description'] == [] for m in lines(dest / 'meta.jsonl.gz'))


def test_amazons_own_lines_stay_as_they_are(host, monkeypatch, tmp_path):
    folder, address = host
    for name in sets.public_sets['gift_cards_2018'].files:
        (folder / name).write_bytes(gzip.compress(b'{"asin": "B1"}\n'))
    moved(monkeypatch, 'gift_cards_2018', address)
    dest = sets.fetch_public_set('gift_cards_2018', tmp_path / 'cards')
    assert (dest / 'Gift_Cards_5.json.gz').read_bytes() == (folder / 'Gift_Cards_5.json.gz').read_bytes()


def test_an_unknown_set_is_told(tmp_path):
    with pytest.raises(RecsysError, match='amazon_phones_stars'):
        sets.fetch_public_set('phones', tmp_path)


row = dict(
    product_id='B1',
    product_name='Wayo Cable',
    category='Home&Kitchen|Mixers,Grinders&Co',
    discounted_price='₹399',
    rating='|',
    rating_count='',
    about_product='Fast',
    user_id='A,B,C',
    review_title='Good,Fine',
    review_content='One, two.,Three',
)


def test_reviews_that_come_apart_differently_are_kept_as_far_as_all_go(tmp_path):
    pd.DataFrame([row]).to_csv(tmp_path / 'sales.csv', index=False)
    reviews, products = sets.read_sales(tmp_path / 'sales.csv')
    assert [(r['title'], r['text']) for r in reviews] == [('Good', 'One, two.'), ('Fine', 'Three')]
    assert products[0]['average_rating'] is None
    assert products[0]['categories'] == ['Home & Kitchen', 'Mixers, Grinders & Co']


def test_a_workbook_is_read_where_its_column_is(tmp_path):
    pytest.importorskip('openpyxl')
    with pd.ExcelWriter(tmp_path / 'sales.xlsx') as book:
        pd.DataFrame(dict(x=[1])).to_excel(book, sheet_name='Dashboard', index=False)
        pd.DataFrame([row]).to_excel(book, sheet_name='Raw', index=False)
    assert len(sets.read_sales(tmp_path / 'sales.xlsx')[0]) == 2


def test_entities_and_bare_ampersands_of_reviews(tmp_path):
    fields = dict(
        asin='B2',
        product_name='Black & Decker 4&#45;Cup: Kitchen &amp; Housewares',
        product_type='kitchen &amp; housewares',
        helpful='',
        rating='2.0',
        title='Bad "thing"',
        date='July 3, 2006',
        reviewer='J. "W"',
        review_text='Line one\n\nline <two>',
    )
    block = '<review>\n' + ''.join(f'<{k}>\n{v}\n</{k}>\n' for k, v in fields.items()) + '</review>\n'
    (tmp_path / 'negative.review').write_text(block * 2)
    reviews, products = sets.read_sentiment(tmp_path)
    assert len(reviews) == 2
    assert (products[0]['title'], products[0]['main_category']) == ('Black & Decker 4-Cup', 'Kitchen')
    assert reviews[0]['text'] == 'Line one\n\nline <two>' and reviews[0]['helpful_vote'] == 0


def test_every_set_says_who_made_it_and_pins_a_commit():
    for name, one in sets.public_sets.items():
        assert one.maker and all(a.startswith('https://') for a in one.files.values()), name


def test_whoever_gives_no_name_is_a_person_of_their_own(tmp_path):
    one = (
        '<review>\n'
        '<product_name>\nA pan: kitchen\n</product_name>\n'
        '<date>\nMay 1, 2005\n</date>\n'
        '<asin>\nB1\n</asin>\n'
        '<product_type>\nkitchen\n</product_type>\n'
        '<review_text>\nFine\n</review_text>\n'
        '<title>\nGood\n</title>\n'
        '<rating>\n5.0\n</rating>\n'
        '</review>\n'
    )
    (tmp_path / 'x.review').write_text(one * 3)
    reviews, products = sets.read_sentiment(tmp_path)
    assert len({r['user_id'] for r in reviews}) == 3 and len(products) == 1


def test_generated_products_may_begin_anywhere():
    ids, words = np.arange(801, 820), np.array([f'word{i}' for i in range(1000)])
    written = list(growth._product_lines(ids, 1000, words, np.random.default_rng(0)))
    assert len(written) == 19 and all(map(json.loads, written))


def test_a_process_of_many_words_is_read_to_its_end():
    assert in_own_process('print("x"*200_000); print(1)') == 1
