"What all tests share."

import os
from pathlib import Path

os.environ.setdefault('RECSYS_PROGRESS', '0')
os.environ.setdefault('TOKENIZERS_PARALLELISM', 'false')
os.environ.setdefault('HF_HUB_OFFLINE', '1')
os.environ.setdefault('MPLBACKEND', 'agg')
os.environ.pop('RECSYS_HOME', None)
if workers := int(os.environ.get('PYTEST_XDIST_WORKER_COUNT', 0)):  # tests side by side share the cores
    os.environ.setdefault('OMP_NUM_THREADS', str(max(1, (os.cpu_count() or 1) // workers)))

import pytest
from hypothesis import HealthCheck, settings

project = Path(__file__).parents[1]
settings.register_profile('shared machine', deadline=None)  # an example takes as long as others leave it time
settings.load_profile('shared machine')


def examples(n, **more):
    "Settings of a property test: always the same `n` examples, or RECSYS_EXAMPLES times as many, each time others."
    times = float(os.environ.get('RECSYS_EXAMPLES', 1))
    return settings(
        max_examples=int(n * times),
        deadline=None,
        derandomize=times == 1,
        suppress_health_check=list(HealthCheck),
        **more,
    )


def pytest_itemcollected(item):
    "Side by side, the tests of a file stay together, for they share what they stand on; each page goes by itself."
    # With pytest 9.2, xdist 3.8 forgets about it (pytest-dev/pytest-xdist#1386), and half of all is done twice.
    if item.path.name != 'test_notebooks.py':
        item.add_marker(pytest.mark.xdist_group(item.path.stem))


def pytest_make_parametrize_id(val, argname):
    "Bytes are named by their argument: packed ones hold the time, and each worker would name such a test otherwise."
    return argname if isinstance(val, bytes) else None


@pytest.fixture(scope='session')
def shared_data():
    "The folder of real data, or a skip where it is absent."
    path = project.parent / 'shared' / 'data'
    if not path.exists():
        pytest.skip(f'real data are absent: {path.name} is not beside the project')
    return path


@pytest.fixture(scope='session')
def tiny_base(tmp_path_factory):
    "The folder of a small encoder with random weights and the base encoder's tokenizer."
    import torch
    from transformers import AutoTokenizer, BertConfig, BertModel
    from recsys_nb.core.machine import resolve_base

    folder = tmp_path_factory.mktemp('base')
    torch.manual_seed(0)
    c = BertConfig(
        vocab_size=30522,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
    )
    BertModel(c).save_pretrained(folder)
    AutoTokenizer.from_pretrained(resolve_base()).save_pretrained(folder)
    return str(folder)
