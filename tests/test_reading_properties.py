"Whatever a line holds, reading does not fail, and every line is accounted for."

import json, re, tempfile
from pathlib import Path

import pytest
from hypothesis import assume, given, strategies as st
from conftest import examples
from recsys_nb.core.files import RecsysError
from recsys_nb.data.values import shape_products, shape_reviews
from recsys_nb.data.prepare import prepare
from recsys_nb.data.reading import DuckDB, meta_fields, meta_lists, review_fields, _computing, unusable_lines

scalar = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=30),
    st.sampled_from(['', ' ', 'B000000001', 'NaN', '1e999', '$1,299.00', '[', '{}', '\x00', '\ud800']),
)
junk = st.recursive(
    scalar, lambda s: st.lists(s, max_size=3) | st.dictionaries(st.text(max_size=5), s, max_size=3), max_leaves=6
)
unreadable = 'timestamp rating price average_rating rating_number images'.split()
fields = list(dict.fromkeys([*review_fields, *meta_fields, *meta_lists, 'reviewerName', 'details']))
huge = st.sampled_from([1e20, -1e20, '1e20', '9' * 30, 1e99, 2**63, 1.5e19, '1e16', -1, 12.7])
numbers = st.fixed_dictionaries(
    dict(parent_asin=st.just('P1')),
    optional={f: huge for f in 'rating overall timestamp unixReviewTime average_rating rating_number price'.split()},
)
objects = st.dictionaries(st.sampled_from(fields), junk, max_size=8)
likely = st.builds(
    lambda o, u, p, t, r: {**o, 'user_id': u, 'parent_asin': p, 'text': t, 'rating': r},
    objects,
    st.sampled_from(['u1', 'u2', '']),
    st.sampled_from(['P1', 'P2', 'P3']),
    st.one_of(st.sampled_from(['Good', 'It does what it should do, every single day of the year']), st.text()),
    st.sampled_from([0, 1, 5.0, '3', None, 'x']),
)
lines = st.one_of(
    (objects | likely | numbers | junk).map(lambda o: json.dumps(o).encode()),
    st.binary(max_size=40),
    st.text(max_size=40).map(lambda s: s.encode(errors='replace')),
    st.sampled_from(
        [
            b'',
            b' \t',
            b'{}',
            b'null',
            b'{"asin": "P1"}{"asin": "P2"}',
            b'{"asin": "P1", "asin": "P2"}',
            b"{'asin': 'P1'}",
            b'\xef\xbb\xbf{}',
            b'{"asin": 1e999}',
            b'[' * 2000,
            b'{"asin": "P1", "rating": ' + b'9' * 400 + b'}',
        ]
    ),
)
files = st.lists(lines.map(lambda b: b.replace(b'\n', b' ')), max_size=12)
few = examples(25)


def is_line(b):
    return bool(b.strip())  # for bytes these are the blanks of JSON, \v and \f


@pytest.fixture(scope='module')
def reader():
    """An engine, a file, and what reads that file in both shapes:
    the queries are written once, for that takes longer than to run them."""
    engine = DuckDB(Path(tempfile.mkdtemp()), threads=1)
    path = engine.work / 'lines.jsonl'
    path.write_text('')
    kinds = (shape_reviews, review_fields, ()), (shape_products, meta_fields, meta_lists)
    shaped = []
    for shape, texts, lists in kinds:
        expr = shape(engine.read([path], texts, lists))
        with _computing():
            engine.con.to_pyarrow(expr.limit(0))  # which makes the readers known to DuckDB
            shaped.append(engine.con.create_view(f'shaped_{len(shaped)}', expr).get_name())
    return engine, path, shaped


@given(files)
@few
def test_each_line_is_a_row_or_set_aside(reader, content):
    engine, path, shaped = reader
    path.write_bytes(
        b'\n' + b''.join(c + b'\n' for c in content) + b'.\n'
    )  # a first line that is no file's signature, a last one that is surely broken
    found = list(unusable_lines(engine, path, path))
    assert found[-1]['line'] == len(content) + 2
    assert all(is_line((content + [b'.'])[q['line'] - 2]) and q['reason'] for q in found)
    for view in shaped:
        rows = engine.con.raw_sql(f'SELECT * FROM {view}').to_arrow_table().to_pylist()
        assert len(rows) == sum(map(is_line, content)) + 1
        assert len(found) == sum(r['product_id'] is None for r in rows)
        for r in rows:
            assert all(isinstance(r[c], str) for c in ('title', 'text')) and '\x00' not in r['title'] + r['text']
            for c in {'rating', 'price', 'average_rating'} & set(r):
                assert r[c] is None or abs(r[c]) < 1e308
            for c in {'rating_number', 'timestamp'} & set(r):
                assert r[c] is None or isinstance(r[c], int) and 0 <= r[c] < 5e12


def begins_an_array(lines):
    "Whether they are read as one array of objects, not line by line."
    return next(filter(None, map(bytes.strip, lines)), b'').startswith(b'[')


@given(st.lists(files, min_size=1, max_size=3))
@examples(5)
def test_rows_in_are_rows_out_quarantined_or_removed(reviews):
    assume(not any(map(begins_an_array, reviews)))
    with tempfile.TemporaryDirectory() as tmp:
        tmp = Path(tmp)
        for i, content in enumerate(reviews):
            (tmp / f'{i}.jsonl').write_bytes(
                b'\n' + b''.join(c + b'\n' for c in content) + b'{"asin": "P1", "text": "Something that is left"}\n'
            )
        (tmp / 'meta').write_text('{"asin": "P1", "title": "One"}\n{"asin": "P2"}\n')
        try:
            data = prepare(str(tmp / '*.jsonl'), tmp / 'meta', 'x', tmp, max_bad=1, allow_unreadable=unreadable)
        except RecsysError as e:  # a whole file that begins as something else than lines of JSON
            assert re.search(
                r'\d\.jsonl: (seems to be .*; expected JSON|damaged, or not whole: no JSON after \d+ objects)', str(e)
            )
            return
        steps = data.report['steps']['reviews']
        assert steps[0]['before'] == sum(is_line(b) for c in reviews for b in c) + len(reviews)
        assert steps[0]['before'] == sum(s['removed'] for s in steps) + len(data.train) + len(data.val) + len(data.test)
        assert all(a['after'] == b['before'] for a, b in zip(steps, steps[1:]))
