"""Run every notebook top to bottom, with each exported cell replaced by the module it was exported to.

So the assertions in the notebooks test the library that people import, and count for its coverage."""
import importlib, json, os, re
from pathlib import Path

import pytest
from execnb.shell import CaptureShell

nbs = Path(__file__).parents[1]/'nbs'
notebooks = sorted(p for p in nbs.rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)
directive = lambda src, name: re.search(rf'^#\|\s*{name}\b(.*)$', src, re.M)

def code_cells(path):
    for i, c in enumerate(json.loads(path.read_text(encoding='utf-8'))['cells']):
        if c['cell_type'] == 'code': yield i, ''.join(c['source'])

@pytest.mark.parametrize('path', notebooks, ids=[p.relative_to(nbs).with_suffix('').as_posix() for p in notebooks])
def test_notebook(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    environ = dict(os.environ)
    shell = CaptureShell()
    try:
        for i, src in code_cells(path):
            if m := directive(src, 'default_exp'):
                shell.user_ns.update({k: v for k, v in vars(importlib.import_module(f'recsys_nb.{m.group(1).strip()}')).items() if not k.startswith('__')})
            if directive(src, 'export') or directive(src, 'default_exp') or directive(src, 'eval: *false'): continue
            shell.run(src)
            if shell.exc: raise AssertionError(f'{path.name}, cell {i}:\n{src}') from shell.exc
    finally:
        import matplotlib.pyplot as plt
        plt.close('all')
        os.environ.clear(); os.environ.update(environ)
