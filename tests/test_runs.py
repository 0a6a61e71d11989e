"""Importing changes nothing; threads are calmed on request;
a run whose process is gone, or whose number another has, was interrupted."""

import os, socket, subprocess, sys
from types import SimpleNamespace

import pytest

from recsys_nb.command import pipeline
from recsys_nb.core.files import RecsysError, write_json
from recsys_nb.core.runs import find_run, new_run
from recsys_nb.training.settings import EncoderConfig

wait = 'OMP_WAIT_POLICY', 'GOMP_SPINCOUNT'


def variables(code, **more):
    "What the two variables are in a fresh process after some code."
    env = {k: v for k, v in os.environ.items() if k not in wait} | more
    code = f'{code}\nimport os\nprint(*(os.environ.get(k) for k in {wait}))'
    return subprocess.run(
        [sys.executable, '-c', code], env=env, capture_output=True, text=True, check=True
    ).stdout.split()


def test_threads_are_calmed_only_on_request():
    load = 'from recsys_nb.core.machine import calm_threads\n'
    assert variables(load) == ['None', 'None']
    assert variables(load + 'calm_threads()') == ['PASSIVE', '20000']
    assert variables(load + 'calm_threads()', OMP_WAIT_POLICY='ACTIVE') == ['ACTIVE', '20000']


def test_a_run_is_running_as_long_as_its_process_is(tmp_path):
    run = new_run(EncoderConfig(data='toy'), tmp_path)
    assert run.state == 'running'
    p = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE)

    def note(at, host=socket.gethostname()):
        write_json(run.path / 'status.json', dict(state='running', pid=p.pid, host=host, at=at))
        return run.state

    late, early = '2100-01-01T00:00:00+00:00', '2020-01-01T00:00:00+00:00'
    assert note(late) == 'running'
    assert note(early) == 'interrupted'  # the number was another process's then
    p.communicate()
    assert note(late) == 'interrupted'
    assert note(late, 'elsewhere') == 'running'  # nobody here can know


def test_the_newest_run_is_an_encoder_or_else_a_score_model(monkeypatch):
    data, runs = SimpleNamespace(name='shop'), dict(score=['s1', 's2'])
    monkeypatch.setattr(pipeline, '_finished', lambda data, kind, root: runs.get(kind, []))
    assert pipeline.run_for(data, None) == 's2'
    runs['encoder'] = ['e1']
    assert pipeline.run_for(data, None) == 'e1' and pipeline.run_for(data, 'score') == 's2'
    runs.clear()
    with pytest.raises(RecsysError, match="no finished encoder run on data set 'shop': train one, or use --run base"):
        pipeline.run_for(data, None)


def test_a_folder_is_a_run_of_its_kind(tmp_path):
    run = new_run(EncoderConfig(), tmp_path)
    assert find_run(run.path, 'encoder').path == run.path
    with pytest.raises(RecsysError, match='no such score run'):
        find_run(run.path, 'score', tmp_path)
