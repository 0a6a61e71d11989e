"""The house: imports go one way, names have one address, pages are small, nothing of one machine stays in them.

These tests only read files, so they are quick; `test_imports.py` has those that need a fresh process."""

import ast, json, re
from collections import Counter
from functools import cache
from itertools import chain
from pathlib import Path
from statistics import median, quantiles

import pytest, yaml

project = Path(__file__).parents[1]
nbs, library = project / 'nbs', project / 'recsys_nb'
notebooks = sorted(p for p in nbs.rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)
ids = [p.relative_to(nbs).as_posix() for p in notebooks]
wide, cell_lines, nodes_a_line, most_nodes, most_names = 120, 40, 10.2, 95_000, 450


def not_yet(why):
    return pytest.mark.xfail(strict=False, reason=why)


@cache
def cells(path):
    return json.loads(path.read_text(encoding='utf-8'))['cells']


def source(cell):
    return ''.join(cell['source'])


def has(src, directive):
    return re.search(rf'^#\|\s*{directive}\b', src, re.M)


def exported(src):
    return has(src, 'exports?')


@cache
def code(path):
    "The code cells of a page: their number, source and syntax tree, without magics."
    found = []
    for i, c in enumerate(cells(path)):
        if c['cell_type'] != 'code':
            continue
        src = re.sub(r'^\s*[%!].*$', '', source(c), flags=re.M)
        found.append((i, src, ast.parse(src)))
    return found


@cache
def module_of(path):
    for _, src, _ in code(path):
        if m := re.search(r'^#\|\s*default_exp\s+(\S+)', src, re.M):
            return m.group(1)


modules = {module_of(p): p for p in notebooks if module_of(p)}


@cache
def trees():
    "The syntax tree of each exported module."
    return {
        p.relative_to(library).as_posix(): ast.parse(p.read_text(encoding='utf-8'))
        for p in sorted(library.rglob('*.py'))
        if p.name != '_modidx.py'
    }


def place(path):
    "Where a page stands: by its number; analysis just before the command, tutorials and the home page last."
    if path.parent.name == 'analysis':
        return 79
    return int(path.stem[:2]) if path.parent == nbs and path.stem[:2].isdigit() else 100


# Imports


def lazy_homes():
    "Name to module, for the names that `from recsys_nb import …` hands out."
    for node in trees()['__init__.py'].body:
        if isinstance(node, ast.Assign) and node.targets[0].id == '_homes':
            return ast.literal_eval(node.value)


def imported(tree):
    "The project's modules, or packages, that a piece of code names: by an import, or by a string."
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (a.name.removeprefix('recsys_nb.') for a in node.names if a.name.startswith('recsys_nb.'))
        elif isinstance(node, ast.ImportFrom) and (node.module or '') == 'recsys_nb':
            yield from (lazy_homes().get(a.name, a.name) for a in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or '').startswith('recsys_nb.'):
            yield from (f"{node.module.removeprefix('recsys_nb.')}.{a.name}" for a in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from re.findall(r'\brecsys_nb\.(\w+\.\w+)', node.value)


def page_of(name):
    "The page behind the name of a module, or of something inside a module."
    return modules.get(name) or modules.get(name.rpartition('.')[0])


later = {'25_models.export'}  # is being rewritten
marked = [
    pytest.param(p, id=i, marks=[not_yet('a later page')] if p.stem in later else []) for p, i in zip(notebooks, ids)
]


@pytest.mark.parametrize('path', marked)
def test_imports_go_from_higher_to_lower_numbers(path):
    for i, _, tree in code(path):
        for name in imported(tree):
            other = page_of(name)
            fine = other in (None, path) or place(other) < place(path)
            assert fine, f'{path.name}, cell {i}, names {name}, a later page'


def test_every_imported_page_exists():
    for path in notebooks:
        for i, _, tree in code(path):
            for node in ast.walk(tree):
                if not isinstance(node, ast.ImportFrom) or not (node.module or '').startswith('recsys_nb.'):
                    continue
                names = [f"{node.module.removeprefix('recsys_nb.')}.{a.name}" for a in node.names]
                assert all(map(page_of, names)), f'{path.name}, cell {i}: no {node.module}'


def test_no_star_imports():
    starred = [
        f
        for f, t in trees().items()
        for n in ast.walk(t)
        if isinstance(n, ast.ImportFrom) and any(a.name == '*' for a in n.names)
    ]
    assert not starred


def is_private(name):
    return name.startswith('_') and not name.endswith('__')


def private_uses(tree, own=''):
    "Private names of other modules that a piece of code imports, or reaches through a module's name."
    bound = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or '').startswith('recsys_nb')):
            if own and (node.module or '').removeprefix('recsys_nb.') == own:
                continue
            yield from (a.name for a in node.names if is_private(a.name))
            bound |= {a.asname or a.name for a in node.names if a.name.islower()}
        elif isinstance(node, ast.Import):
            bound |= {a.asname for a in node.names if a.name.startswith('recsys_nb') and a.asname}
    modules_here = bound & {m.rpartition('.')[2] for m in modules}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and getattr(node.value, 'id', '') in modules_here and is_private(node.attr):
            yield f'{node.value.id}.{node.attr}'


def test_no_private_name_crosses_modules():
    assert not {f: names for f, t in trees().items() if (names := list(private_uses(t)))}


def test_no_private_name_crosses_pages():
    found = {p.name: [n for _, _, t in code(p) for n in private_uses(t, module_of(p))] for p in notebooks}
    assert not {p: names for p, names in found.items() if names}


def public(tree):
    "What a module hands out: its `__all__`."
    for node in tree.body:
        if not isinstance(node, ast.Assign):
            continue
        if getattr(node.targets[0], 'id', '') == '__all__':
            return ast.literal_eval(node.value)
    return []


def test_every_public_name_has_one_address():
    times = Counter(chain.from_iterable(public(t) for t in trees().values()))
    assert not {n: [f for f, t in trees().items() if n in public(t)] for n, k in times.items() if k > 1}


belong = dict(fastapi='serve', starlette='serve', uvicorn='serve', gradio='serve', typer='command', torch='models')


def test_frameworks_stay_in_their_wings():
    "No line of `data` imports torch; FastAPI, Gradio and Typer are named in one wing each."
    for file, tree in trees().items():
        names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        names |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and not n.level}
        tops = {n.split('.')[0] for n in names if n}
        wing = file.split('/')[0]
        if wing == 'benchmarks':
            continue
        if wing == 'data':
            assert 'torch' not in tops, f'{file} imports torch'
        for top in tops & (belong.keys() - {'torch'}):
            assert wing == belong[top], f'{file} imports {top}'


# Size


def too_wide(line):
    return len(line) > wide and not line.startswith('__all__')  # which nbdev writes


def code_lines(text):
    return [l for l in text.splitlines() if l.strip() and not l.strip().startswith('#')]


def wide_lines(files):
    "Their numbers by file; of what nbdev writes by itself, nothing counts."
    written = re.compile('__all__ = |# (AUTO|%%)')

    def at(text):
        return [i for i, l in enumerate(text.splitlines(), 1) if too_wide(l) and not written.match(l)]

    lines = {f.relative_to(project).as_posix(): at(f.read_text()) for f in files}
    return {f: found for f, found in lines.items() if found}


def test_no_line_of_the_library_is_wide():
    assert not wide_lines([library / f for f in trees()])


def test_no_line_of_the_tests_is_wide():
    assert not wide_lines(sorted(Path(__file__).parent.glob('*.py')))


def figures():
    "Syntax nodes, nodes a line and public names of the library without its benchmarks."
    parts = {f: t for f, t in trees().items() if not f.startswith('benchmarks')}
    nodes = sum(1 for t in parts.values() for _ in ast.walk(t))
    lines = sum(len(code_lines((library / f).read_text())) for f in parts)
    names = sum(len(public(t)) for f, t in parts.items() if f != '__init__.py')
    return nodes, nodes / lines, names


def test_the_library_breathes():
    _, dense, names = figures()
    assert dense <= nodes_a_line and names <= most_names, f'{dense:.2f} nodes a line, {names} public names'


@not_yet('too much is in it')
def test_the_library_is_small():
    nodes, _, _ = figures()
    assert nodes <= most_nodes, f'{nodes} nodes'


def cell_size(src):
    return len([l for l in src.splitlines() if l.strip()])


def test_exported_cells_hold_one_idea():
    sizes = [cell_size(src) for p in notebooks for _, src, _ in code(p) if exported(src)]
    assert median(sizes) <= 10 and quantiles(sizes, n=10)[-1] <= 25, (median(sizes), quantiles(sizes, n=10)[-1])


# Pages

local_path = r'(^|[^\w.~-])/(work|tmp|root|home)/\w|site.packages'  # folders of one machine


@pytest.mark.parametrize('path', sorted([*nbs.glob('results/*'), *nbs.glob('full_runs/*')]), ids=lambda path: path.name)
def test_what_was_measured_names_no_folder_of_a_machine(path):
    assert not re.search(local_path, path.read_text(encoding='utf-8'))


@pytest.mark.parametrize('path', notebooks, ids=ids)
def test_page(path):
    cs = cells(path)
    leftover = set(json.loads(path.read_text())['metadata']) - {'kernelspec'}
    assert not leftover, 'a widget that is long gone, or another leftover of execution'
    for c in cs:
        src = source(c)
        assert isinstance(c['source'], list) or not src, 'cell sources are lists of lines'
        if exported(src):
            assert cell_size(src) <= cell_lines, f'an exported cell over {cell_lines} lines: {src[:80]}'
        shown = src + json.dumps(c.get('outputs', []))
        assert not re.search(local_path, shown), f'a path of one machine in {src[:80]!r}'
        for o in c.get('outputs', []):
            assert o['output_type'] != 'error', f'an error in the output of {src[:80]!r}'
        assert 'jupyter.widget' not in shown, f'a progress bar that nothing moves any more, in {src[:80]!r}'


def title(path):
    return next(source(c) for c in cells(path) if c['cell_type'] == 'markdown')


@pytest.mark.parametrize('path', notebooks, ids=ids)
def test_a_page_opens_with_its_title_alone(path):
    "nbdev's site keeps of the first cell the title and the `>` line, so the introduction is a cell of its own."
    first = cells(path)[0]
    lines = [l for l in source(first).splitlines() if l.strip()]
    assert first['cell_type'] == 'markdown' and lines[0].startswith('# ') and not lines[0].startswith('# #')
    assert len(lines) == 2 and lines[1].startswith('> '), f'{path.name}: more than a title and one `>` line'
    intro = [c for c in cells(path)[1:4] if c['cell_type'] == 'markdown' and not source(c).startswith('#')]
    assert intro, f'{path.name} says nothing before its first code'


def test_only_the_title_is_a_first_heading():
    for path in notebooks:
        if len(tops := re.findall(r'^# .+', re.sub(r'^```.*?^```', '', markdown(path), flags=re.M | re.S), re.M)) != 1:
            raise AssertionError(f'{path.name}: {tops}')


def alike(word, text):
    "Whether a word, or its beginning, begins a word of the text: `fusion_weights` in 'Fitting the fusion'."
    start = word[: max(4, len(word) - 3)]
    return any(w.startswith(start) for w in re.findall(r'[a-z0-9]+', text.lower()))


@pytest.mark.parametrize('name', list(modules))
def test_title_file_and_module_say_the_same_word(name):
    path, name = modules[name], name.replace('__main__', 'command')
    if path.parent == nbs:
        assert path.stem[3:] == name, f'{path.name} exports {name}'
    else:
        assert path.stem == name.rpartition('.')[2], f'{path.name} exports {name}'
    words = name.rpartition('.')[2].split('_')
    assert any(alike(w, title(path).splitlines()[0]) for w in words), f'{name}: {title(path).splitlines()[0]}'


imports = ast.Import, ast.ImportFrom
work = ast.Expr, ast.Assign, ast.FunctionDef, ast.ClassDef, ast.With, ast.For


def mixed(path):
    "Cells that are not exported and hold imports and other code: nbdev's site runs these."
    for i, src, tree in code(path):
        nodes = list(ast.walk(tree))
        if exported(src) or has(src, 'eval: *false') or not any(isinstance(n, imports) for n in nodes):
            continue
        if any(isinstance(n, work) for n in nodes):
            yield i


def test_imports_stand_in_cells_of_their_own():
    assert not {p.name: found for p in notebooks if (found := list(mixed(p)))}


# Links


def markdown(path):
    if path.suffix == '.md':
        return path.read_text()
    return '\n'.join(source(c) for c in cells(path) if c['cell_type'] == 'markdown')


def anchors(path):
    "What pandoc makes of a page's headings."
    headings = re.findall(r'^#+ (.+)$', markdown(path), re.M)
    words = [re.sub(r'\[([^]]*)\]\([^)]*\)', r'\1', h) for h in headings]
    plain = (re.sub(r'[^\w\s.-]', '', w).strip().lower() for w in words)
    return {re.sub(r'\s+', '-', re.sub(r'^[^a-z]+', '', h)) for h in plain}


@pytest.mark.parametrize('path', [*notebooks, project / 'README.md'], ids=[*ids, 'README.md'])
def test_links_inside_the_site_lead_somewhere(path):
    for target in re.findall(r'\]\(([^)\s]+)\)', markdown(path)):
        if re.match(r'(https?|mailto):', target):
            continue
        name, _, anchor = target.partition('#')
        file = path.parent / name.replace('.html', '.ipynb') if name else path
        assert file.exists(), f'{path.name} links to {target}'
        if not anchor or file.suffix not in ('.ipynb', '.md'):
            continue
        assert anchor in anchors(file), f'{path.name} links to {target}; {file.name} has {sorted(anchors(file))}'


def sidebar(items):
    for i in items:
        if isinstance(i, str):
            yield i
        elif 'contents' in i:
            yield from sidebar(i['contents'])
        elif 'href' in i:
            yield i['href']


def test_the_sidebar_holds_every_page_once():
    pages = list(sidebar(yaml.safe_load((project / '_quarto.yml').read_text())['website']['sidebar']['contents']))
    assert sorted(pages) == sorted(ids)


def test_the_quarto_settings_are_linked():
    assert (nbs / '_quarto.yml').is_symlink() and (nbs / '_quarto.yml').resolve() == project / '_quarto.yml'


@pytest.mark.parametrize('name', ['visualize_data', 'plot_metrics'])
def test_pages_of_plots_show_their_plots(name):
    "A kernel without the inline backend runs them without a word, and without a picture."
    page = (nbs / 'analysis' / f'{name}.ipynb').read_text(encoding='utf-8')
    assert page.count('"image/png"') >= 4


def test_the_tests_of_a_file_stay_in_one_worker(request, worker_id):
    "So that what they stand on is made once; pytest 9.2 and xdist 3.8 forget about it without a word."
    if worker_id == 'master':
        pytest.skip('not side by side')
    assert request.node.nodeid.endswith('@test_house')
