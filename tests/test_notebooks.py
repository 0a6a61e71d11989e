"""Run every notebook top to bottom, with each exported cell replaced by the module it was exported to.

So the assertions in the notebooks test the library that people import, and count for its coverage. A page has
five minutes: it takes at most two on a busy core, and one that hangs must not hold up all others."""

import importlib, json, os, re, signal, sys
from contextlib import contextmanager
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from execnb.shell import CaptureShell

nbs = Path(__file__).parents[1] / 'nbs'
notebooks = [p for p in nbs.rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts]
notebooks.sort(reverse=True)  # tutorials and the pipeline take longest: last, one worker would do them alone


def directive(src, name):
    return re.search(rf'^#\|\s*{name}\b(.*)$', src, re.M)


def code_cells(path):
    for i, c in enumerate(json.loads(path.read_text(encoding='utf-8'))['cells']):
        if c['cell_type'] == 'code':
            yield i, ''.join(c['source'])


def names_of(module):
    return {k: v for k, v in vars(importlib.import_module(module)).items() if not k.startswith('__')}


@contextmanager
def at_most(seconds):
    "Interrupt what takes longer, where the system has alarms."

    def stop(*_):
        raise TimeoutError(f'more than {seconds} seconds')

    if not hasattr(signal, 'SIGALRM'):
        yield
        return
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize('path', notebooks, ids=[p.relative_to(nbs).with_suffix('').as_posix() for p in notebooks])
def test_notebook(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    environ = dict(os.environ)
    shell, shown = CaptureShell(), []
    # What fails to show itself only prints a traceback.
    monkeypatch.setattr(shell, 'showtraceback', lambda *args, **kwargs: shown.append(sys.exc_info()[1]))
    try:
        with at_most(300):
            for i, src in code_cells(path):
                if m := directive(src, 'default_exp'):
                    shell.user_ns.update(names_of(f'recsys_nb.{m.group(1).strip()}'))
                if any(directive(src, d) for d in ('exports?', 'exporti', 'default_exp', 'eval: *false')):
                    continue
                shell.run(src)
                if shell.exc or shown:
                    raise AssertionError(f'{path.name}, cell {i}:\n{src}') from shell.exc or shown[0]
    finally:
        plt.close('all')
        os.environ.clear()
        os.environ.update(environ)
