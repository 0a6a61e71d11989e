"""The pages as the site's reader meets them: what `nbdev_proc_nbs` makes of the notebooks, before Quarto.

It runs once, in a copy of the project, and without Quarto, which nbdev asks for but does not use for this step."""

import json, os, re, shutil, subprocess, sys
from functools import cache
from pathlib import Path

import pytest, yaml
from recsys_nb.site import SitePage, plain_signature, quiet_html, readme_of

project = Path(__file__).parents[1]
nbs = project / 'nbs'
pages = [p.relative_to(nbs).as_posix() for p in sorted(nbs.rglob('*.ipynb')) if '.ipynb_checkpoints' not in p.parts]
home = 'https://recsys-nb.github.io/recsys_nb/'
wide = 120


@pytest.fixture(scope='session')
def site(tmp_path_factory):
    "The processed pages, and what was said while they were made."
    root = tmp_path_factory.mktemp('site')
    for name in ('settings.ini', '_quarto.yml', 'setup.py', 'README.md'):
        shutil.copy(project / name, root)
    for name in ('nbs', 'recsys_nb'):
        shutil.copytree(project / name, root / name, symlinks=True, ignore=shutil.ignore_patterns('__pycache__', '.*'))
    stub = root / 'bin' / 'quarto'
    stub.parent.mkdir()
    stub.write_text('#!/bin/sh\n')
    stub.chmod(0o755)
    env = {k: v for k, v in os.environ.items() if not k.startswith('COV_')}
    env |= dict(PATH=f'{stub.parent}:{Path(sys.executable).parent}:{env["PATH"]}', PYTHONPATH=str(root))
    command = Path(sys.executable).parent / 'nbdev_proc_nbs'
    done = subprocess.run([command], cwd=root, env=env, capture_output=True, text=True, timeout=500)
    assert not done.returncode, done.stderr[-3000:]
    return root / '_proc', done.stdout + done.stderr


def joined(text):
    return text if isinstance(text, str) else ''.join(text)


@cache
def cells(path):
    return json.loads(path.read_text(encoding='utf-8'))['cells']


def outputs(path):
    "The outputs of a page as (kind, text)."
    for c in cells(path):
        for o in c.get('outputs', []):
            data = o.get('data', {}).items()
            yield from ((kind, joined(text)) for kind, text in data if isinstance(text, (str, list)))
            if 'text' in o:
                yield 'stream', joined(o['text'])


def front(path):
    return yaml.safe_load(joined(cells(path)[0]['source']).strip().strip('-'))


def prose(path):
    "The Markdown of a processed page: its cells, and the outputs that are Markdown."
    return '\n\n'.join(
        [joined(c['source']) for c in cells(path) if c['cell_type'] == 'markdown']
        + [text for kind, text in outputs(path) if kind == 'text/markdown']
    )


def unlinked(text):
    return re.sub(r'\[(`[^`]+`)\]\([^)]*\)', r'\1', text)


def test_processing_warns_of_nothing(site):
    assert not re.search('warn|error|could not', site[1], re.I), site[1]


def test_every_page_has_its_title_and_introduction(site):
    for name in pages:
        path, source = site[0] / name, json.loads((nbs / name).read_text())['cells']
        assert {'title', 'description', 'output-file'} <= front(path).keys(), name
        intros = [joined(c['source']) for c in source[1:5] if c['cell_type'] == 'markdown']
        assert intros and unlinked(intros[0]).strip() in unlinked(prose(path)), f'{name} lost its introduction'


def anchors(path):
    "What pandoc makes of the headings of a processed page."
    found = set()
    for h in re.findall(r'^#{2,6} (.+)$', prose(path), re.M):
        words = re.sub(r'\[([^]]*)\]\([^)]*\)', r'\1', h)
        plain = re.sub(r'[^\w\s.-]', '', words).strip().lower()
        found.add(re.sub(r'\s+', '-', re.sub(r'^[^a-z]+', '', plain)))
    return found


def test_every_link_and_anchor_holds(site):
    proc = site[0]
    named = {(Path(name).parent / front(proc / name)['output-file']).as_posix(): proc / name for name in pages}
    broken = []
    for name in pages:
        for target in re.findall(r'\]\(([^)\s]+)\)', prose(proc / name)):
            file, _, anchor = target.partition('#')
            if file.startswith(home):
                path = named.get(file.removeprefix(home))
            elif re.match(r'(https?|mailto|data):', file):
                continue
            else:
                path = (proc / name).parent / file if file else proc / name
            if path is None or not path.exists():
                broken.append(f'{name}: {target}')
            elif anchor and path.suffix == '.ipynb' and anchor not in anchors(path):
                broken.append(f'{name}: {target}')
    assert not broken, f'{len(broken)}: {broken[:20]}'


def code_lines(path):
    "The lines of code that a reader sees: cells, and blocks in prose and signatures."
    for c in cells(path):
        src = joined(c['source'])
        if c['cell_type'] == 'code' and 'echo: false' not in src:
            yield from src.splitlines()
    for block in re.findall(r'^```.*?^```', prose(path), re.M | re.S):
        yield from block.splitlines()


@pytest.mark.xfail(strict=False, reason='the wings are being rewritten')
def test_no_line_of_code_is_wider_than_the_column(site):
    found = {name: lines for name in pages if (lines := [l for l in code_lines(site[0] / name) if len(l) > wide])}
    assert not found, f'{sum(map(len, found.values()))} lines: { {n: ls[0][:60] for n, ls in found.items()} }'


def test_signatures_are_plain(site):
    for name in pages:
        for block in re.findall(r'^```python\ndef .*?^```', prose(site[0] / name), re.M | re.S):
            assert not re.search(r'\]\(http|NoneType|recsys_nb\.\w+\.', block), f'{name}: {block}'


active = {'text/html', 'application/javascript', 'application/vnd.jupyter.widget-view+json'}


def test_no_page_asks_for_scripts(site):
    "Outputs in HTML make Quarto load require.js and jQuery from a CDN; formulas need MathML, not MathJax."
    for name in pages:
        page = json.loads((site[0] / name).read_text())
        assert 'widgets' not in page['metadata'], name
        kinds = {kind for kind, _ in outputs(site[0] / name)}
        assert not kinds & active, f'{name}: {kinds}'
        shown = [text for kind, text in outputs(site[0] / name) if kind == 'text/markdown']
        assert not any(re.search(r'<script|//cdn', text) for text in shown), name
    assert yaml.safe_load((project / '_quarto.yml').read_text())['format']['html']['html-math-method'] == 'mathml'


def test_outputs_hold_no_heading_of_the_first_order(site):
    for name in pages:
        for kind, text in outputs(site[0] / name):
            if kind != 'text/markdown' or '```' in text:
                continue
            assert not re.search(r'^# ', text, re.M), f'{name}: {text[:80]}'


def test_the_quarto_settings_travel_with_the_pages(site):
    assert yaml.safe_load((site[0] / '_quarto.yml').read_text())['website']['sidebar']


# The pieces


def test_signatures_keep_their_comments():
    text = '```python\ndef f(\n    x:[`A`](h), # Like `B`\n    y:NoneType=None, # Or none\n):\n```\n\n*[`A`](h)*'
    plain = '```python\ndef f(\n    x:A, # Like B\n    y=None, # Or none\n):\n```\n\n*[`A`](h)*'
    assert plain_signature(text) == plain


def test_a_long_signature_keeps_its_lines():
    text = '```python\ndef f(\n' + ',\n'.join(f'    a_long_argument_{i}:int' for i in range(5)) + '\n):\n```'
    assert plain_signature(text) == text


def test_tables_of_data_frames_are_left_to_quarto():
    assert 'disable-processing' not in quiet_html('<table border="1" class="dataframe">')
    assert quiet_html('<table data-quarto-disable-processing="true">').count('disable-processing') == 1


class Page:
    def __init__(self, cells):
        self.metadata, self.cells = dict(widgets=1), cells


def test_a_page_loses_widgets_and_html():
    page = Page(
        [
            dict(outputs=[dict(data={'text/html': ['<b>', 'x</b>'], 'text/plain': 'x'})]),
            dict(outputs=[dict(data={'text/markdown': '# Toys\n\n10 products'})]),
            dict(cell_type='markdown', source='[`_a`](h), [`b`](h), [[`c`](h)](i)'),
        ]
    )
    SitePage(page).end()
    assert page.cells[2]['source'] == '`_a`, [`b`](h), [`c`](i)'
    assert not page.metadata and '<b>x</b>' in page.cells[0]['outputs'][0]['data']['text/markdown']
    assert page.cells[1]['outputs'][0]['data']['text/markdown'] == '**Toys**\n\n10 products'


def test_the_readme_is_the_home_page():
    assert (project / 'README.md').read_text() == readme_of(nbs / 'index.ipynb')


# The home page


def page_text(path):
    "Prose and outputs of a notebook."
    found = json.loads((nbs / path).read_text())['cells']
    return ''.join(joined(c['source']) + json.dumps(c.get('outputs', [])) for c in found)


def figures(text):
    words = re.sub(r'bfloat16|MiniLM-L6', '', text)
    return [n.lstrip('0') for n in re.findall(r'\d*\.\d+|\b\d{2,}\b', words)]


def test_the_home_page_shows_the_figures_of_its_results():
    results = json.loads((nbs / 'results/home.json').read_text())
    readme = (project / 'README.md').read_text()
    for row in results['rows']:
        assert row['ours'] in readme and row['peers'] in readme, f'make notebooks and make sync: {row["question"]}'
    assert results['machine'] in readme


def test_every_figure_of_the_home_page_has_a_source():
    "A page that shows it, or a command that prints it."
    for row in json.loads((nbs / 'results/home.json').read_text())['rows']:
        if 'page' not in row:
            assert row['command'].startswith('recsys '), row['question']
            continue
        text = page_text(row['page'])
        missing = [n for n in figures(row['ours'] + ' ' + row['peers']) if n not in text]
        assert not missing, f'{row["page"]} does not show {missing}'


def test_the_home_page_leads_to_every_page():
    text = joined([joined(c['source']) for c in json.loads((nbs / 'index.ipynb').read_text())['cells']])
    assert not [p for p in pages if p != 'index.ipynb' and f'({p})' not in text]
