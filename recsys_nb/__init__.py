"A recommendation engine that you can read. What a newcomer needs stands here, and is loaded when it is first used."
__version__ = "0.1.0"
from importlib import import_module

_homes = {
    'RecsysError': 'core.files', 'prepare': 'data.prepare', 'load_prepared': 'data.prepare',
    'make_sample_store': 'data.sample_store', 'download': 'data.download',
    'DualEncoderSBERT': 'models.dual_encoder', 'ReviewMetadataScoreModel': 'models.score_model',
    'EncoderConfig': 'training.settings', 'ScoreConfig': 'training.settings',
    'train_encoder': 'training.encoder', 'train_score': 'training.score',
    'evaluate_retrieval': 'evaluation.retrieval', 'build_index': 'index.build', 'Recommender': 'recommend.recommender'}

def __getattr__(name):
    if name not in _homes: raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(import_module(f'{__name__}.{_homes[name]}'), name)

def __dir__(): return [*globals(), *_homes]
