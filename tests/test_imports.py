"Importing the library is quick, loads only what it says, and changes nothing outside: each in a process of its own."

import json, os, subprocess, sys
from pathlib import Path

project = Path(__file__).parents[1]


def fresh(program, **env):
    "What a new process prints, as JSON."
    env = {k: v for k, v in os.environ.items() if not k.startswith(('COV_', 'OMP_'))} | env
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, cwd=project, env=env)
    assert not done.returncode, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def names(wing):
    return [f'recsys_nb.{wing}.{p.stem}' for p in sorted((project / 'recsys_nb' / wing).glob('[a-z]*.py'))]


loaded = '''
import sys, json, importlib
for name in {names}: importlib.import_module(name)
print(json.dumps(sorted(set(sys.modules) & {watched})))
'''


def loads(names, *watched):
    return fresh(loaded.format(names=names, watched=set(watched)))


def test_the_package_loads_nothing_by_itself():
    assert loads(['recsys_nb'], 'torch', 'pandas', 'numpy', 'duckdb', 'ibis', 'transformers', 'gradio') == []


def test_an_unknown_name_is_an_attribute_error():
    program = 'import recsys_nb, json\ntry: recsys_nb.Recomender\nexcept AttributeError as e: print(json.dumps(str(e)))'
    assert 'Recomender' in fresh(program)


def test_data_loads_no_torch():
    assert loads(names('data'), 'torch', 'transformers', 'fastapi', 'gradio', 'typer') == []


def test_web_frameworks_are_loaded_by_their_wings_only():
    wings = 'core', 'data', 'models', 'evaluation', 'training', 'index', 'recommend'
    assert loads([n for w in wings for n in names(w)], 'fastapi', 'gradio', 'recsys_nb.serve.demo') == []
    assert loads(['recsys_nb.serve.running', 'recsys_nb.serve.cards', 'recsys_nb.command.pipeline'], 'gradio') == []


changes = '''
import json, os, sys, logging, random, signal
import ibis, numpy, pandas, torch, matplotlib
from transformers.utils import logging as hf
from huggingface_hub.utils import are_progress_bars_disabled

def state():
    ibis_options = repr(ibis.options)
    frames = {o: repr(pandas.get_option(o)) for o in ('display.max_colwidth', 'display.max_rows', 'mode.copy_on_write')}
    return dict(environ=dict(os.environ), ibis=ibis_options, pandas=frames, numpy=repr(numpy.get_printoptions()),
                threads=torch.get_num_threads(), dtype=str(torch.get_default_dtype()), grad=torch.is_grad_enabled(),
                matplotlib={k: repr(v) for k, v in matplotlib.rcParams.items() if k not in ('backend',)},
                random=hash(random.getstate()), cwd=os.getcwd(), path=list(sys.path), level=logging.getLogger().level,
                handlers=len(logging.getLogger().handlers), bars=hf.is_progress_bar_enabled(),
                hub=are_progress_bars_disabled(),
                verbosity=hf.get_verbosity(), interrupt=repr(signal.getsignal(signal.SIGINT)))
import sentence_transformers, gradio
before = state()
import importlib
for name in NAMES: importlib.import_module(name)
after = state()
changed = {k: [before[k], after[k]] for k in before if before[k] != after[k]}
if 'environ' in changed: changed['environ'] = sorted(set(after['environ'].items()) ^ set(before['environ'].items()))
import recsys_nb
found = [getattr(recsys_nb, n).__name__ for n in recsys_nb._homes]
print(json.dumps([changed, found], default=str))
'''


def test_importing_changes_nothing_outside_and_every_name_of_the_package_is_there():
    wings = [p.name for p in (project / 'recsys_nb').iterdir() if p.is_dir() and p.name.isalpha()]
    every = [n for w in sorted(wings) for n in names(w)]
    changed, found = fresh(changes.replace('NAMES', repr(every)), MPLBACKEND='agg')
    assert changed == {} and 'Recommender' in found
