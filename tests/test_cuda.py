"On a graphics card: what the processor finds, in both number formats. Skipped where there is none."

from types import SimpleNamespace
import numpy as np, pandas as pd, pytest, torch
from recsys_nb.core.machine import find_preset
from recsys_nb.models.dual_encoder import DualEncoderSBERT
from recsys_nb.models.score_model import ReviewMetadataScoreModel
from recsys_nb.training.encoder import EncoderTask
from recsys_nb.training import loop
from recsys_nb.training.loop import Team, train_step
from recsys_nb.training.settings import EncoderConfig

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')

kinds = 'keyboard', 'headset', 'kettle', 'lamp', 'backpack', 'camera', 'monitor', 'speaker'
words = 'quiet', 'sturdy', 'light', 'wired', 'black', 'cheap', 'small', 'bright', 'heavy', 'fast'


def about(i):
    return f'{words[i % 10]} {kinds[i % 8]} ' + ' '.join(words[j % 10] for j in range(i % 40))


def store():
    "Reviews of eight products, in memory."
    products = pd.DataFrame(
        dict(
            product_id=list(kinds),
            family_id=list(kinds),
            text=[f'{k}, made for work' for k in kinds],
            price=np.linspace(5.0, 80.0, 8),
        )
    )
    reviews = pd.DataFrame(
        dict(
            review_id=[str(i) for i in range(64)],
            product_id=[kinds[i % 8] for i in range(64)],
            title='',
            text=[about(i) for i in range(64)],
            informative=True,
        )
    )
    return SimpleNamespace(name='toy', products=products, train=reviews, val=reviews, test=reviews)


@pytest.fixture(scope='module')
def model():
    return DualEncoderSBERT().eval()


def cosines(a, b):
    return (a * b).sum(1)


def test_a_graphics_card_is_chosen():
    assert find_preset().device == 'cuda'
    assert not find_preset('cuda:float32').bfloat16


@pytest.mark.parametrize('preset, least', [('cuda:float32', 0.9999), ('cuda', 0.998)])
def test_vectors_are_those_of_the_processor(model, preset, least):
    texts = [about(i) for i in range(1500)]
    exact = model.encode(texts[:400], preset='cpu:float32')
    found = model.encode(texts, preset=preset)
    assert found.dtype == np.float32 and np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-4)
    assert cosines(found[:400], exact).min() > least


def test_a_few_texts_are_encoded_exactly(model):
    texts = [about(i) for i in range(64)]
    assert cosines(model.encode(texts, preset='cuda'), model.encode(texts, preset='cpu')).min() > 0.9999


def gradient(preset, piece=None):
    task = EncoderTask(store(), EncoderConfig(batch_size=32, piece=piece))
    task.team = Team.of(find_preset(preset))
    task.load(task.available)
    task.model.to(task.team.device).train()
    torch.manual_seed(0)
    loss = float(task.backward(task.train_batches(1)[0]))
    return loss, torch.cat([p.grad.flatten().cpu() for p in task.model.parameters() if p.grad is not None])


def test_the_gradient_is_that_of_the_processor():
    (loss, exact), (same, found) = gradient('cpu:float32'), gradient('cuda:float32')
    assert abs(loss - same) < 1e-3
    assert torch.nn.functional.cosine_similarity(exact, found, dim=0) > 0.999


def test_a_batch_in_pieces_has_the_same_gradient():
    (loss, whole), (same, pieces) = gradient('cuda:float32'), gradient('cuda:float32', piece=8)
    assert abs(loss - same) < 1e-4
    assert torch.nn.functional.cosine_similarity(whole, pieces, dim=0) > 0.9999


def test_training_in_bfloat16_lowers_the_loss(tmp_path):
    config = EncoderConfig(batch_size=32)
    task = EncoderTask(store(), config)
    task.team = Team.of(find_preset('cuda'))
    task.load(task.available)
    task.model.to('cuda').train()
    optimizer = torch.optim.AdamW(task.parameter_groups(), fused=True)
    losses = [train_step(task, optimizer, b) for epoch in range(1, 6) for b in task.train_batches(epoch)]
    assert np.mean(losses[-2:]) < 0.9 * np.mean(losses[:2])
    task.run = SimpleNamespace(checkpoints=tmp_path)
    loop._save_checkpoint(task, 'last', loop._Position(step=10), optimizer)
    task.model = DualEncoderSBERT()
    assert loop._load_checkpoint(task, 'last').step == 10
    assert next(task.model.parameters()).device.type == 'cpu'


def test_scores_are_those_of_the_processor():
    score, data = ReviewMetadataScoreModel().eval(), store()

    def scores(preset):
        return score.predict(data.test, data.products, preset=find_preset(preset)).score

    exact = scores('cpu:float32')
    for preset, most in (('cuda:float32', 0.01), ('cuda', 0.15)):
        assert (scores(preset) - exact).abs().max() < most
