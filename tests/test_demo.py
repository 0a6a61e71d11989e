"The demo answers before it trains, and lays the answers from before and after side by side."

from types import SimpleNamespace

from recsys_nb.command import pipeline
from recsys_nb.serve import demo


def test_the_demo_answers_before_it_trains(monkeypatch, tmp_path):
    said, asked = [], []

    def no_training(result, data, root, preset, say, settings):
        asked.append(settings)
        assert 'train' not in vars(data)  # which may be larger than the memory
        say('Training …')

    monkeypatch.setattr(pipeline, '_train_all', no_training)
    monkeypatch.setitem(pipeline.demo_sizes, 'full', pipeline.demo_sizes['quick'])
    result = pipeline.run_demo(tmp_path, say=lambda *words: said.append(' '.join(map(str, words))))
    assert asked == [dict(time='40s')]
    trained = said.index('Training …')
    for q in pipeline.demo_preferences:
        assert any(q in line for line in said[:trained])
        table = result.tables[f'"{q}", before and after training']
        assert len(table) == 3 and list(table.before) == list(table.after)  # nothing was trained
    assert len(result.sample_answers) == 3


def test_nothing_typed_is_no_price():
    assert [demo._typed_price(s, 'Lowest') for s in ('', ' ', '0', '0.00', '8', None)] == [
        None,
        None,
        None,
        None,
        8.0,
        None,
    ]


def test_a_title_that_is_cut_says_so():
    found = [dict(product_id='a', title='x' * 70), dict(product_id='b', title='y' * 71)]
    shelf = SimpleNamespace(rec=SimpleNamespace(find=lambda text, n: found))
    assert demo._boxes(shelf, 'keyboard', [])['choices'] == [('x' * 70, 'a'), ('y' * 69 + '…', 'b')]
