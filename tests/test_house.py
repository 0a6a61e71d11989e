"The house: imports go one way, pages are found, exported cells stay small, nothing of one machine is left in a page."
import ast, json, re
from pathlib import Path

import pytest, yaml

project = Path(__file__).parents[1]
nbs = project/'nbs'
notebooks = sorted(p for p in nbs.rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)
ids = [p.relative_to(nbs).as_posix() for p in notebooks]
cells = lambda p: json.loads(p.read_text(encoding='utf-8'))['cells']
source = lambda c: ''.join(c['source'])

def module_of(path):
    for c in cells(path):
        if m := re.search(r'^#\|\s*default_exp\s+(\S+)', source(c), re.M): return m.group(1)

modules = {module_of(p): p for p in notebooks if module_of(p)}
def place(path):
    "Where a page stands: by its decade; analysis before the command, tutorials last."
    if path.parent.name == 'analysis': return '79'
    return path.stem.split('_')[0] if path.parent == nbs else '99'

def imported(path):
    "The project's modules that a notebook's exported cells import."
    for c in cells(path):
        if c['cell_type'] != 'code' or not re.match(r'#\|\s*exports?\b', source(c)): continue
        for node in ast.walk(ast.parse(source(c))):
            if not isinstance(node, ast.ImportFrom): continue
            name = node.module or ''
            if node.level: yield name
            elif name.startswith('recsys_nb.'): yield name.removeprefix('recsys_nb.')

@pytest.mark.parametrize('module', list(modules))
def test_imports_go_from_higher_to_lower_numbers(module):
    for other in imported(modules[module]):
        assert other in modules, f'{module} imports {other}, which no notebook exports'
        assert place(modules[other]) < place(modules[module]) or other == module or 'analysis' in module, f'{module} imports {other}, a later page'

private = 'work', 'tmp', 'root', 'home' # folders of one machine

@pytest.mark.parametrize('path', notebooks, ids=ids)
def test_page(path):
    cs = cells(path)
    assert set(json.loads(path.read_text())['metadata']) == {'kernelspec'}, 'a widget that is long gone, or another leftover of execution'
    first = next(source(c) for c in cs if c['cell_type'] == 'markdown')
    assert first.startswith('# '), 'a page opens with its title'
    for c in cs:
        src = source(c)
        assert isinstance(c['source'], list) or not src, 'cell sources are lists of lines'
        if re.match(r'#\|\s*export', src): assert len([l for l in src.splitlines() if l.strip()]) <= 40, f'an exported cell over 40 lines: {src[:80]}'
        shown = src + json.dumps(c.get('outputs', []))
        assert not re.search(rf'(^|[^\w.~-])/({"|".join(private)})/\w|site.packages', shown), f'a path of one machine in {src[:80]!r}'
        for o in c.get('outputs', []): assert o['output_type'] != 'error', f'an error in the output of {src[:80]!r}'
        assert 'jupyter.widget' not in shown, f'a progress bar that nothing moves any more, in the output of {src[:80]!r}'

def markdown(path): return path.read_text() if path.suffix == '.md' else '\n'.join(source(c) for c in cells(path) if c['cell_type'] == 'markdown')

def anchors(path):
    "What pandoc makes of a page's headings."
    plain = (re.sub(r'[^\w\s.-]', '', re.sub(r'\[([^]]*)\]\([^)]*\)', r'\1', h)).strip().lower() for h in re.findall(r'^#+ (.+)$', markdown(path), re.M))
    return {re.sub(r'\s+', '-', re.sub(r'^[^a-z]+', '', h)) for h in plain}

@pytest.mark.parametrize('path', [*notebooks, project/'README.md'], ids=[*ids, 'README.md'])
def test_links_inside_the_site_lead_somewhere(path):
    for target in re.findall(r'\]\(([^)\s]+)\)', markdown(path)):
        if re.match(r'(https?|mailto):', target): continue
        name, _, anchor = target.partition('#')
        file = path.parent/name.replace('.html', '.ipynb') if name else path
        assert file.exists(), f'{path.name} links to {target}'
        if anchor and file.suffix in ('.ipynb', '.md'): assert anchor in anchors(file), f'{path.name} links to {target}; {file.name} has {sorted(anchors(file))}'

def sidebar(items):
    for i in items:
        if isinstance(i, str): yield i
        elif 'contents' in i: yield from sidebar(i['contents'])
        elif 'href' in i: yield i['href']

def test_the_sidebar_holds_every_page():
    pages = set(sidebar(yaml.safe_load((project/'_quarto.yml').read_text())['website']['sidebar']['contents']))
    assert pages == set(ids)

def test_the_quarto_settings_are_linked():
    assert (nbs/'_quarto.yml').is_symlink() and (nbs/'_quarto.yml').resolve() == project/'_quarto.yml'
