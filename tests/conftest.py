"What all tests share."
import os
from pathlib import Path

os.environ.setdefault('RECSYS_PROGRESS', '0')
os.environ.setdefault('TOKENIZERS_PARALLELISM', 'false')
os.environ.setdefault('HF_HUB_OFFLINE', '1')
os.environ.setdefault('MPLBACKEND', 'agg')
os.environ.pop('RECSYS_HOME', None)

import pytest

project = Path(__file__).parents[1]

@pytest.fixture(scope='session')
def shared_data():
    "The folder of real data, or a skip where it is absent."
    path = project.parent/'shared'/'data'
    if not path.exists(): pytest.skip(f'real data are absent: {path.name} is not beside the project')
    return path
