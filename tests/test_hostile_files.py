"Whatever a file holds, it is read, or refused in one line that names it."

import json, tempfile
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from conftest import examples
from recsys_nb.command.cli import _asked, _requests
from recsys_nb.core.files import RecsysError
from recsys_nb.data.reading import Columns, as_lines
from recsys_nb.evaluation.trec import read_qrels, read_queries

names = st.sampled_from(
    'parent_asin asin user_id rating text title timestamp price images product_id Score \ufeffasin'.split()
    + ['', 'a,b', 'x"y']
)
scalar = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(['P1', 'nan', '4,0', '["a"]', "{'a': 1", '\x00', '\r', '"', '\ud800']),
)
value = st.recursive(scalar, lambda s: st.lists(s, max_size=3) | st.dictionaries(names, s, max_size=3), max_leaves=5)
rows = st.lists(st.dictionaries(names, value, max_size=4), max_size=4)


@st.composite
def tables(draw):
    "Cells and what parts them, sometimes torn, quoted by halves, or of another length than the head."
    by, end = draw(st.sampled_from(',;\t|')), draw(st.sampled_from(['\n', '\r\n', '\r']))
    cell = st.one_of(
        names, st.text(max_size=8), st.sampled_from(['5', '4.0', '1370000000', '"a', 'a"', '"a""b"', '[1', '{"a": 1}'])
    )
    return end.join(by.join(r) for r in draw(st.lists(st.lists(cell, max_size=5), max_size=5)))


texts = st.one_of(
    tables(),
    st.text(max_size=60),
    rows.map(json.dumps),
    rows.map(lambda r: json.dumps(r, indent=1)),
    rows.map(repr),
    rows.map(lambda r: '\n'.join(map(json.dumps, r))),
    rows.map(lambda r: '\n'.join(map(repr, r))),
    rows.map(lambda r: json.dumps(dict(reviews=r))),
    st.sampled_from(
        [
            '[' * 3000,
            'asin,text\nP1,' + '[' * 100_000,
            '[{"asin": ' + '1' * 5000 + '}]',
            '{"a":' * 3000,
            "{'a': " * 300,
            '[{"asin": "P1"}',
            '{"asin"',
            '{\n"asin": "P1"',
            'sep=;',
            '[{}]x',
            '[[]]',
        ]
    ),
)
contents = st.one_of(
    st.binary(max_size=60),
    st.tuples(texts, st.sampled_from(['utf-8', 'utf-8-sig', 'utf-16', 'utf-16-be', 'cp1252', 'utf-32'])).map(
        lambda o: o[0].encode(o[1], 'replace')
    ),
    st.tuples(
        st.sampled_from(
            [
                b'\x1f\x8b',
                b'PK\x03\x04',
                b'PAR1',
                b'BZh',
                b'\xfd7zXZ\x00',
                b'\x28\xb5\x2f\xfd',
                b'7z\xbc\xaf',
                b'\xff\xfe',
                b'\xef\xbb\xbf',
            ]
        ),
        st.binary(max_size=40),
    ).map(b''.join),
)


def one_line(e, path):
    assert path.name in str(e) and '\n' not in str(e) and len(str(e)) < 1000, str(e)


@given(
    contents,
    st.sampled_from(['r.jsonl', 'r.csv', 'r.json.gz', 'r.parquet', 'meta.tsv']),
    st.sampled_from(['reviews', 'meta']),
    st.booleans(),
)
@examples(150)
def test_any_file_becomes_lines_or_is_refused(content, name, kind, always):
    with tempfile.TemporaryDirectory() as tmp:
        path = Path(tmp) / name
        path.write_bytes(content)
        try:
            found = as_lines(path, Path(tmp), Columns(kind), always)
        except RecsysError as e:
            return one_line(e, path)
        assert found.is_file()  # whose lines that are none are set aside, see test_reading_properties.py


fields = st.sampled_from(
    'id text k history like dislike exclude min_price max_price category brand min_score diversity colour'.split()
)
asked = st.dictionaries(
    fields, value | st.sampled_from([5, 0, -1, 1e400, 'a mouse', ['a', 'b'], 'under $5', '1']), max_size=5
)
request_lines = st.one_of(
    asked.map(json.dumps),
    asked.map(json.dumps),
    st.text(max_size=30),
    st.sampled_from(
        [
            '',
            '{',
            '[]',
            'null',
            '{"text": NaN}',
            '{"text": 1' + '0' * 5000 + '}',
            '[' * 3000,
            '{"id": "a", "text": "x"}',
        ]
    ),
)


@given(
    st.lists(request_lines, max_size=4).map('\n'.join), st.sampled_from([{}, dict(max_price=5.0), dict(brand=['a'])])
)
@examples(200)
def test_any_requests_are_arguments_or_refused(content, shared):
    with tempfile.TemporaryDirectory() as tmp:
        path = Path(tmp) / 'asked.jsonl'
        path.write_bytes(content.encode('utf-8', 'surrogatepass'))
        try:
            found = _requests(_asked(None, None, path), shared, 10)
        except RecsysError as e:
            return one_line(e, path)
        for one in found.values():
            assert one.get('text') or set(one) - {'text', 'k', 'id'}


trec = st.lists(
    st.lists(
        st.one_of(st.text(max_size=5), st.sampled_from(['q1', 'Q0', 'P1', '1', '0', '1.5', 'nan', 'inf', 'run'])),
        max_size=7,
    ).map(lambda c: ' '.join(c))
    | st.text(max_size=20),
    max_size=5,
).map('\n'.join)


@pytest.mark.parametrize('read', [read_queries, read_qrels])
@given(content=trec | trec.map(lambda t: t.replace(' ', '\t')))
@examples(100)
def test_any_trec_file_is_read_or_refused(read, content):
    with tempfile.TemporaryDirectory() as tmp:
        path = Path(tmp) / 'x.tsv'
        path.write_bytes(content.encode('utf-8', 'surrogatepass'))
        try:
            found = read(path)
        except RecsysError as e:
            one_line(e, path)
        else:
            assert isinstance(found, dict) and found
