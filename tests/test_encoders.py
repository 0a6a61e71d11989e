"Encoders that are not BERT: the same vectors as sentence-transformers, with the prompts that belong to each side."

import copy, json
from pathlib import Path
from types import SimpleNamespace

import numpy as np, pytest, torch
import transformers as tf
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from recsys_nb.core.files import RecsysError
from recsys_nb.core.machine import bfloat16_pays
from recsys_nb.models import dual_encoder, encoding
from recsys_nb.models.dual_encoder import Dense, DualEncoderSBERT, Normalize, StaticEmbedding, make_tower
from recsys_nb.training.encoder import settle
from recsys_nb.training.loop import _Position, _load_checkpoint, _save_checkpoint
from test_training import make_tiny

try:
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
except ImportError:
    from sentence_transformers.models import Pooling, Transformer

words = 'a quiet keyboard for the office red kettle query : passage with long cable'.split()
texts = ['quiet keyboard', 'a red kettle with a long cable for the office', 'kettle']
places = dict(max_position_embeddings=40)
small = dict(vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
causal = small | dict(num_key_value_heads=1, head_dim=8) | places

families = dict(
    bert=(tf.BertConfig(**small, **places), 'mean'),
    roberta=(tf.RobertaConfig(**small, **places, pad_token_id=1), 'mean'),
    xlm_roberta=(tf.XLMRobertaConfig(**small, **places, pad_token_id=1), 'cls'),
    mpnet=(tf.MPNetConfig(**small, **places, pad_token_id=1), 'mean'),
    distilbert=(tf.DistilBertConfig(vocab_size=40, dim=16, hidden_dim=32, n_layers=2, n_heads=2, **places), 'cls'),
    albert=(tf.AlbertConfig(**small, **places, embedding_size=8), 'mean'),
    electra=(tf.ElectraConfig(**small, **places, embedding_size=8), 'max'),
    modernbert=(tf.ModernBertConfig(**small, **places, pad_token_id=1), 'mean'),
    qwen2=(tf.Qwen2Config(**{k: v for k, v in causal.items() if k != 'head_dim'}), 'lasttoken'),
    qwen3=(tf.Qwen3Config(**causal), 'lasttoken'),
    llama=(tf.LlamaConfig(**causal), 'mean'),
    t5=(tf.T5Config(vocab_size=40, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2), 'mean'),
)


def word_tokenizer():
    "A number for each word, and an end."
    names = ['[UNK]', '[PAD]', '[CLS]', '[SEP]', *words]
    t = Tokenizer(models.WordLevel({w: i for i, w in enumerate(dict.fromkeys(names))}, unk_token='[UNK]'))
    t.pre_tokenizer = pre_tokenizers.Whitespace()
    t.post_processor = processors.TemplateProcessing(
        single='[CLS] $A [SEP]', special_tokens=[('[CLS]', 2), ('[SEP]', 3)]
    )
    return t


def write_base(folder, family, prompts):
    "A tiny SentenceTransformer with random weights, as it would come from a hub."
    torch.manual_seed(0)
    if family == 'static':
        modules = [StaticEmbedding(word_tokenizer(), embedding_dim=16)]
    else:
        config, pooling = families[family]
        model = tf.T5EncoderModel(config) if family == 't5' else tf.AutoModel.from_config(config)
        model.save_pretrained(folder / 'plain')
        named = dict(unk_token='[UNK]', pad_token='[PAD]', cls_token='[CLS]', sep_token='[SEP]', model_max_length=30)
        tf.PreTrainedTokenizerFast(tokenizer_object=word_tokenizer(), **named).save_pretrained(folder / 'plain')
        first = Transformer(str(folder / 'plain'))
        modules = [first, Pooling(16, pooling_mode=pooling)]
    SentenceTransformer(modules=modules, device='cpu', prompts=prompts).save(
        str(folder / 'base'), create_model_card=False
    )
    return str(folder / 'base')


@pytest.mark.parametrize('family', [*families, 'static'])
def test_same_vectors_as_encode_query_and_encode_document(tmp_path, family):
    base = write_base(tmp_path, family, dict(query='query : ', passage='passage : '))
    peer = SentenceTransformer(base, device='cpu')
    for tied in (True, False):
        model = DualEncoderSBERT(base, tied=tied, max_tokens=24).eval()
        test = dict(
            user=peer.encode_query(texts, normalize_embeddings=True),
            product=peer.encode_document(texts, normalize_embeddings=True),
        )
        for side, expected in test.items():
            np.testing.assert_allclose(model.encode(texts, side), expected, atol=1e-5)
            with torch.no_grad():
                forward = model(model.tokenize(texts, side=side), side)
            np.testing.assert_allclose(forward.numpy(), expected, atol=1e-5)
        assert np.abs(test['user'] - test['product']).max() > 1e-3, 'the prompts made no difference'
    model.save(tmp_path / 'run')
    again = DualEncoderSBERT.load(tmp_path / 'run')
    np.testing.assert_allclose(again.encode(texts, 'product'), test['product'], atol=1e-5)
    assert again.fingerprint == model.fingerprint


@pytest.mark.parametrize('family,most', [('bert', 40), ('roberta', 38), ('xlm_roberta', 38), ('mpnet', 38)])
def test_no_more_tokens_than_the_base_has_places_for(tmp_path, family, most):
    base = write_base(tmp_path, family, {})
    with pytest.warns(UserWarning, match=f'reads at most {most} tokens'):
        model = DualEncoderSBERT(base, max_tokens=128)
    assert model.max_tokens == most
    assert np.isfinite(model.encode([' '.join(words * 9)])).all()


def test_many_texts_of_a_static_base(tmp_path):
    model = DualEncoderSBERT(write_base(tmp_path, 'static', {})).eval()
    many = texts * 40
    np.testing.assert_allclose(model.encode(many)[:3], model.encode(texts), atol=1e-6)


def pooled(folder, pooling, prompts=None, **more):
    "A base with another pooling, or with settings of its own."
    first = SentenceTransformer(write_base(folder, 'bert', {}), device='cpu')[0]
    SentenceTransformer(modules=[first, pooling], device='cpu', prompts=prompts, **more).save(
        str(folder / 'own'), create_model_card=False
    )
    return str(folder / 'own')


@pytest.mark.parametrize(
    'pooling, more',
    [
        (dict(pooling_mode='mean', include_prompt=False), {}),
        (dict(pooling_mode=('mean', 'max', 'cls')), {}),
        (dict(pooling_mode='weightedmean'), {}),
        (dict(pooling_mode='mean'), dict(truncate_dim=8)),
    ],
)
def test_many_texts_of_a_base_that_pools_in_its_own_way(tmp_path, pooling, more):
    base = pooled(tmp_path, Pooling(16, **pooling), dict(query='query : ', passage='passage : '), **more)
    if more:
        (config := Path(base) / 'config_sentence_transformers.json').write_text(
            json.dumps(json.loads(config.read_text()) | more)
        )
    peer, many = SentenceTransformer(base, device='cpu', **more), texts * 30
    model = DualEncoderSBERT(base, max_tokens=24).eval()
    expected = peer.encode_query(many, normalize_embeddings=True)
    np.testing.assert_allclose(
        model.encode(many), expected, atol=5e-3 if bfloat16_pays() else 1e-5
    )  # of many texts, in the machine's format
    assert model.dim == peer.encode('a').shape[0]


def own_base(folder, config, *modules, template='$A [SEP]', **named):
    "A base whose tokenizer has settings of its own."
    named = dict(unk_token='[UNK]', model_max_length=30) | named
    tokenizer = word_tokenizer()
    ends = [('[CLS]', 2), ('[SEP]', 3)]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=ends)
    torch.manual_seed(0)
    tf.AutoModel.from_config(config).save_pretrained(folder / 'plain')
    tf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named).save_pretrained(folder / 'plain')
    whole = SentenceTransformer(
        modules=[Transformer(str(folder / 'plain')), *modules],
        device='cpu',
        prompts=dict(query='query : ', passage='passage : '),
    )
    whole.save(str(folder / 'base'), create_model_card=False)
    return str(folder / 'base')


chat = "{% for m in messages %}{{ m['content'] }} kettle {% endfor %}"


@pytest.mark.parametrize(
    'config, modules, named',
    [
        (families['bert'][0], [Pooling(16), Normalize(), Dense(16, 12)], dict(pad_token='[PAD]')),
        (families['bert'][0], [Pooling(16)], dict(pad_token='[PAD]', truncation_side='left')),
        (families['qwen3'][0], [Pooling(16, 'lasttoken')], dict(pad_token='[PAD]', padding_side='left')),
        pytest.param(
            *(families['qwen3'][0], [Pooling(16, 'lasttoken')], dict(pad_token='[PAD]', chat_template=chat)),
            marks=pytest.mark.skipif(not hasattr(Transformer, 'preprocess'), reason='older versions have no templates'),
        ),
    ],
    ids=['length 1 before a projection', 'cut at its beginning', 'padded at its beginning', 'chat template'],
)
def test_same_vectors_of_a_base_with_a_way_of_its_own(tmp_path, config, modules, named):
    base = own_base(tmp_path, config, *modules, **named)
    peer, model = SentenceTransformer(base, device='cpu'), DualEncoderSBERT(base, max_tokens=24)
    assert model.has_chat_template == ('chat_template' in named)
    peer.max_seq_length = 24
    asked = [*texts, ' '.join(words * 4)]
    for side, ask in dict(user=peer.encode_query, product=peer.encode_document).items():
        np.testing.assert_allclose(model.encode(asked, side), ask(asked, normalize_embeddings=True), atol=1e-5)


def test_a_tokenizer_without_a_token_that_fills_up(tmp_path):
    "GPT-2 has none, and sentence-transformers refuses it; its end of a text does, for nobody looks at it."
    config = tf.GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=40)
    base = own_base(tmp_path, config, Pooling(16, 'lasttoken'), eos_token='[SEP]')
    model, peer = DualEncoderSBERT(base, max_tokens=24), SentenceTransformer(base, device='cpu')
    peer.tokenizer.pad_token = '[SEP]'
    np.testing.assert_allclose(model.encode(texts), peer.encode_query(texts, normalize_embeddings=True), atol=1e-5)
    model.save(tmp_path / 'run')
    saved = SentenceTransformer(str(tmp_path / 'run/user_tower'), device='cpu')
    np.testing.assert_allclose(saved.encode_query(texts), model.encode(texts), atol=1e-5)


def no_tokenizer(folder):
    base = write_base(folder, 'bert', {})
    for file in Path(base).glob('tokenizer*'):
        file.unlink()
    return base


def no_numbers(folder):
    base = write_base(folder, 'bert', {})
    model = SentenceTransformer(base, device='cpu')
    model[0].auto_model.embeddings.word_embeddings.weight.data.fill_(torch.nan)
    model.save(base, create_model_card=False)
    return base


def kinds_of_tokens(folder):
    "An XLNet says of its last token that it is another kind, and looks at it."
    config = tf.XLNetConfig(vocab_size=40, d_model=16, n_layer=2, n_head=2, d_inner=32, initializer_range=0.3)
    names = dict(model_input_names=['input_ids', 'token_type_ids', 'attention_mask'], pad_token='[PAD]')
    return own_base(folder, config, Pooling(16), template='$A:0 [SEP]:0 [CLS]:2', **names)


def padding_is_text(folder):
    "An FNet has no mask, and what fills up a batch becomes part of every text."
    config = tf.FNetConfig(vocab_size=40, hidden_size=16, num_hidden_layers=2, intermediate_size=32, **places)
    return own_base(folder, config, Pooling(16), pad_token='[PAD]', model_input_names=['input_ids'])


@pytest.mark.parametrize(
    'made, told',
    [
        (padding_is_text, 'FNet.* fills up a batch'),
        (no_tokenizer, 'has it its weights and its tokenizer'),
        (no_numbers, 'or NaN'),
        (kinds_of_tokens, 'XLNet.* in a way of its own'),
    ],
)
def test_vectors_that_are_not_those_of_the_base_are_told_before_work_begins(tmp_path, made, told):
    base = made(tmp_path)
    with pytest.raises(RecsysError, match=f'{base}: .*{told}') as e:
        DualEncoderSBERT(base, max_tokens=24)
    assert '\n' not in str(e.value)


@pytest.mark.parametrize('answers', [True, False])
def test_a_hub_that_does_not_answer_is_asked_once(monkeypatch, answers):
    "It was asked again and again for each file: 70 seconds, before a line told that there is no network."
    asked = []

    def model_info(name, timeout):
        asked.append(name)
        if not answers:
            raise ConnectionError('no network')

    def opened(name, device, local_files_only):
        assert local_files_only is not answers
        raise OSError('not found')

    monkeypatch.setattr(dual_encoder, 'model_info', model_info)
    monkeypatch.setattr(dual_encoder, 'SentenceTransformer', opened)
    with pytest.raises(RecsysError, match=r'^nobody/nothing: cannot load this encoder \(OSError: not found\)$'):
        make_tower('nobody/nothing')
    assert asked == ['nobody/nothing']


def test_what_gives_no_vector_for_a_text_is_told(tmp_path):
    base = Path(write_base(tmp_path, 'bert', {}))
    config = base / 'config_sentence_transformers.json'
    config.write_text(json.dumps(json.loads(config.read_text()) | dict(model_type='SparseEncoder')))
    with pytest.raises(RecsysError, match='a SparseEncoder; expected an encoder that gives a vector'):
        make_tower(str(base))
    weights = next(base.rglob('*.safetensors'))
    weights.write_bytes(weights.read_bytes()[:-500])
    with pytest.raises(RecsysError, match=r'cannot load this encoder \(Safetensor.*\)$') as e:
        make_tower(str(base))
    assert '\n' not in str(e.value)


@pytest.mark.parametrize(
    'head, told',
    [(b'GGUF\3', 'is GGUF, expected the safetensors'), (b'version https://git-lfs.github', '`git lfs pull`')],
)
def test_weights_that_are_none_are_named(tmp_path, monkeypatch, head, told):
    base = Path(write_base(tmp_path, 'bert', {}))
    weights = next(base.rglob('*.safetensors'))
    weights.write_bytes(head)
    monkeypatch.chdir(weights.parent)
    for given in (base, weights.name):
        with pytest.raises(RecsysError, match=f'^{given}: cannot load this encoder .*; {weights.name} .*{told}'):
            make_tower(str(given))


def test_prompts_are_part_of_the_fingerprint(tmp_path):
    base = write_base(tmp_path, 'bert', {})
    plain, prompted = DualEncoderSBERT(base, max_tokens=24), DualEncoderSBERT(base, max_tokens=24)
    prompted.towers[0].prompts = dict(query='query : ')
    assert plain.fingerprint != prompted.fingerprint


def test_a_base_that_is_none_is_told(tmp_path):
    with pytest.raises(RecsysError, match='cannot load'):
        make_tower(str(tmp_path))


def test_loading_leaves_the_progress_bars_of_transformers_alone():
    from transformers.utils import logging

    logging.enable_progress_bar()
    make_tower()
    assert logging.is_progress_bar_enabled()


@pytest.mark.parametrize('family', [*families, 'static'])
def test_every_family_learns(tmp_path, family):
    model = DualEncoderSBERT(write_base(tmp_path, family, {}), max_tokens=24).eval()
    settle(model, dropout=False, frozen=True)
    model.train()
    tokens = model.tokenize(texts)
    found = model(tokens, 'user')
    found.square().sum().backward()
    assert torch.equal(model(tokens, 'user'), found)  # no dropout, by whatever name


@pytest.mark.parametrize('family', [*families, 'static'])
def test_every_family_is_kept_in_a_checkpoint(tmp_path, family):
    "T5 has its table of words twice: two names, one tensor."
    model = DualEncoderSBERT(write_base(tmp_path, family, {}), max_tokens=24)
    name = model.fingerprint
    task = SimpleNamespace(model=model, run=SimpleNamespace(checkpoints=tmp_path))
    _save_checkpoint(task, 'last', _Position(epoch=3))
    with torch.no_grad():
        next(model.parameters()).add_(1)
    assert _load_checkpoint(task, 'last').epoch == 3 and model.fingerprint == name


@pytest.mark.parametrize('half', [torch.float16, torch.bfloat16])
def test_a_base_in_half_precision_has_a_fingerprint(tmp_path, half):
    whole = write_base(tmp_path, 'bert', {})
    SentenceTransformer(whole, device='cpu').to(half).save(str(tmp_path / 'half'), create_model_card=False)
    names = {
        DualEncoderSBERT(str(base), max_tokens=24).fingerprint for base in (whole, tmp_path / 'half', tmp_path / 'half')
    }
    assert len(names) == 2


def test_a_weight_that_changes_in_any_way_gives_another_fingerprint(tmp_path):
    base = write_base(tmp_path, 'bert', {})
    model = DualEncoderSBERT(base, max_tokens=32)
    names, first = [model.fingerprint], next(model.parameters())
    assert model.fingerprint == names[0] == DualEncoderSBERT(base, max_tokens=32).fingerprint
    with torch.no_grad():
        first[0, 0] += 1e-3
    names.append(model.fingerprint)
    with torch.no_grad():
        first[:2] = first[:2].flip(0)  # the same sum
    names.append(model.fingerprint)
    first.data[0, 0] += 1.0  # which is not counted
    names.append(model.fingerprint)
    assert len(set(names)) == 4 and copy.deepcopy(model).fingerprint == names[-1]


def test_a_batch_of_training_is_no_longer_than_what_is_read(tmp_path):
    model = DualEncoderSBERT(make_tiny(tmp_path), max_tokens=21)
    shapes = []
    model.tower('user').register_forward_pre_hook(
        lambda module, given: shapes.append(tuple(given[0]['input_ids'].shape))
    )
    for texts in ['word ' * 50, 'a'], ['a b c', 'd']:
        tokens = model.tokenize(texts)
        with torch.no_grad():
            found = model(tokens, 'user').numpy()
        np.testing.assert_allclose(found, model.encode(texts), atol=1e-5)
    assert shapes[0] == (2, 21) and shapes[2] == (2, 16)


def test_reading_that_fails_leaves_a_model_as_it_was(tmp_path, monkeypatch):
    model = DualEncoderSBERT(make_tiny(tmp_path))
    monkeypatch.setattr(encoding, '_quickest_way', lambda *args: 1 / 0)
    for training in (True, False):
        with pytest.raises(ZeroDivisionError):
            model.train(training).encode(['a text'])
        assert model.training is training
