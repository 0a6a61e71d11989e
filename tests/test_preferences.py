"What is understood of what people say, as a table of phrases and for any text at all."
import numpy as np, pandas as pd, pytest
from hypothesis import given, settings, strategies as st

from recsys_nb.core.files import RecsysError
from recsys_nb.index.reasons import Sentences, embed_sentences, pick_sentences, save_sentences, sentences_of, speaks_for
from recsys_nb.recommend.preferences import understand
from recsys_nb.index.products import resumable_folder

brands = frozenset(['samsung', 'apple', 'acme'])
phrases = [
    # prices
    ('under $50', dict(max_price=50, currency='$')), ('headphones $20-$40', dict(text='headphones', min_price=20, max_price=40)),
    ('between 20 and 40 euros', dict(min_price=20, max_price=40, currency='euros')), ('a mouse for $30 or less', dict(text='a mouse', max_price=30)),
    ('keyboard cheaper than 80 bucks', dict(text='keyboard', max_price=80)), ('monitor under 300', dict(text='monitor', max_price=300)),
    ('phone up to ₹20,000 with a good camera', dict(max_price=20000, currency='₹')), ('at least $100 and at most $200 watch', dict(text='watch', min_price=100, max_price=200)),
    ('gift under 25€', dict(text='gift', max_price=25, currency='€')), ('tv under 2k dollars', dict(text='tv', max_price=2000)), ('between $1,000 and $2,000', dict(min_price=1000, max_price=2000)),
    ('tv between 1 and 2k dollars', dict(min_price=1000, max_price=2000)), ('budget of 2000', dict(max_price=2000)), ('my budget is $500', dict(max_price=500)), ('usb hub, <$30', dict(text='usb hub', max_price=30)),
    ('charger about $20', dict(text='charger', min_price=15, max_price=25)), ('$20+ gift', dict(text='gift', min_price=20)), ('a lamp for 29,99 € or less', dict(text='a lamp', max_price=29.99)),
    ('lamp, no more than 40 dollars', dict(text='lamp', max_price=40)), ('50 dollars max', dict(max_price=50)), ('lamp priced below 99.99', dict(text='lamp', max_price=99.99)), ('under 1.000 euros', dict(max_price=1000)), ('a not too expensive pan', dict(text='a pan')), ('tv under 1.299,00 €', dict(text='tv', max_price=1299)), ('tv under $1,299.00', dict(max_price=1299)), ('under 1,000', dict(max_price=1000)), ('up to 40,50 €', dict(max_price=40.5)),
    ('from 40 to 20 dollars', dict(min_price=20, max_price=40)),
    ('under fifty dollars', dict(max_price=50)), ('less than a hundred dollars', dict(max_price=100)), ('under twenty five euros', dict(max_price=25)),
    # numbers that are no prices
    *((s, dict(text=s, max_price=None, min_price=None)) for s in ['laptop bag under 15 inches', 'speaker over 100 watts', 'cable from 1 to 2 meters', 'hub with 7 ports', 'less than 1kg', 'up to 100 people', 'under 50 dB', '2-3 meter cable', '1080p 60 Hz', 'at least 8 GB', '5 star hotel kettle', 'max 2 kg']),
    ('I paid less than $20 for it', dict(max_price=None)), ('I bought this for under $50', dict(max_price=None)),
    ('lightweight laptop under 3 pounds', dict(text='lightweight laptop under 3 pounds', max_price=None)), ('a backpack that weighs less than 3 pounds', dict(max_price=None)), ('a desk light under 30 pounds', dict(max_price=30)), ('lightweight laptop, budget of 500 pounds', dict(max_price=500)),
    # two numbers that are no range
    *((s, dict(text=s, min_price=None, max_price=None)) for s in ['iphone 12 - $400', 'Xbox 360 and $20 gift card', 'Xbox 360 and 20 dollars']),
    *((s, dict(min_price=20, max_price=40)) for s in ['$20-40', '20-40 euros', '20 - 40 euros', '$20 and $40', '20€ to 40']),
    # negations turn a limit round
    *((s, dict(text='', min_price=None, max_price=50, dislike=[])) for s in ["I don't want to spend more than $50", 'nothing over $50', "shouldn't cost more than 50 dollars", "can't spend over $50", 'not over 50', 'nothing over 50']),
    *((s, dict(text='', min_price=50, max_price=None, dislike=[])) for s in ['no less than $50', 'not less than $50', "I don't want anything under $50"]),
    ('keyboard that must not cost more than $50, no RGB', dict(text='keyboard', max_price=50, dislike=['RGB'])), ('I do not want a phone over $50', dict(text='a phone', min_price=None, max_price=50, dislike=[])), ('no RGB, over $50', dict(min_price=50, max_price=None, dislike=['RGB'])), ('I want more than $50', dict(min_price=50)),
    # stars
    ('at least 4 stars', dict(min_score=4)), ('4+ stars', dict(min_score=4)), ('rated 4.5 or higher', dict(min_score=4.5)), ('four stars or more', dict(min_score=4)), ('4 stars and up kettle', dict(min_score=4)),
    ('with a rating of at least 4.5', dict(min_score=4.5)), ('min 4 stars max $50', dict(min_score=4, max_price=50)), ('more than 4 stars, $100 max', dict(min_score=4, max_price=100)), ('4.5+ rating', dict(min_score=4.5)), ('at least 4 out of 5', dict(min_score=4)),
    ('at least 9 stars', dict(min_score=None)), ('over $4', dict(min_score=None, min_price=4)),
    # what is not wanted
    ('headset with no microphone', dict(text='headset', dislike=['microphone'])), ("I don't want anything heavy", dict(text='', dislike=['heavy'])), ('phone but not samsung', dict(text='phone', not_brand=['samsung'])),
    ('a phone, nothing from Apple', dict(not_brand=['Apple'])), ('mic without hiss or hum', dict(text='mic', dislike=['hiss', 'hum'])), ('a kettle, not too loud', dict(text='a kettle', dislike=['loud'])),
    ("can't live without coffee", dict(text="can't live without coffee", dislike=[])), ('I cannot work without music', dict(dislike=[])), ('not too expensive pan', dict(text='pan', dislike=['expensive'])), ('not too loud or bright', dict(dislike=['loud', 'bright'])),
    ('non-stick pan', dict(text='non-stick pan', dislike=[])), ('no', dict(text='no')), ('not only for games', dict(text='not only for games', dislike=[])), ('no problem if it is old', dict(dislike=[]))]

@pytest.mark.parametrize('said, expected', phrases, ids=[p for p, _ in phrases])
def test_phrases(said, expected):
    u = understand(said, brands)
    for k, v in expected.items(): assert getattr(u, k) == v, (k, getattr(u, k))

words = st.sampled_from(['quiet', 'keyboard', 'under', '$50', '50', 'between', 'and', 'not', 'no', 'at least', '4', 'stars', ',', '.', 'for', 'euros', '<b>', "'; DROP TABLE", '-', '1,000', 'k', '+', '٣', '½', '²'])

@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=300), st.lists(words, max_size=25).map(' '.join)))
def test_any_text_is_understood_somehow(text):
    u = understand(text, brands)
    assert u.min_price is None or 0 <= u.min_price < 1e15
    assert u.min_score is None or 1 <= u.min_score <= 5
    assert not set(u.text) & set('\x00\x1b\u202e\n')
    u.to_dict()
    again = understand(u.text, brands)
    assert len(again.text) <= len(u.text)

@settings(max_examples=100, deadline=None)
@given(st.integers(1, 10**6), st.sampled_from(['$', '€', '£', '₹']))
def test_every_amount(n, sign):
    assert understand(f'a lamp under {sign}{n:,}').max_price == n
    assert understand(f'a lamp under {n}{sign}, please').max_price == n

def test_long_texts_are_reviews_and_give_no_orders():
    u = understand('I bought this kettle. ' * 12 + 'It was under $50 and not loud.')
    assert u.max_price is None and not u.dislike

@pytest.mark.parametrize('bad, message', [('x'*1_000_000, 'at most 20,000'), (None, 'expected text'), (3, 'expected text')])
def test_what_is_no_text(bad, message):
    with pytest.raises(RecsysError, match=message): understand(bad)

def test_hostile_texts_are_quick():
    import time
    for s in ('no '*6000, 'between 1 and '*1400, '$'*20_000, '1,'*10_000, 'not a '*3000, '1'*20_000, 'under '*30 + '5', '1-'*40, 'at least '*39, ';'*3999 + 'x', '11,'*6666, 'and,'*5000 + 'x', ';'*990 + 'x', '11,'*330):
        start = time.perf_counter(); understand(s[:20_000], brands)
        assert time.perf_counter() - start < .5, s[:20]

@settings(max_examples=100, deadline=None)
@given(st.text(max_size=500))
def test_sentences_are_parts_of_the_text(text):
    for s in sentences_of(text): assert 5 <= len(s.split()) <= 40 and len(s) <= 300

def test_sentences_on_disk(tmp_path):
    rng = np.random.default_rng(0)
    reviews = pd.DataFrame(dict(family_id=[f'f{i%7}' for i in range(140)], review_id=[str(i) for i in range(140)], rating=rng.integers(1, 6, 140), text=[f'This is review number {i} with ünïcode – ✓ signs.' for i in range(140)]))
    picked = pick_sentences(reviews, per_family=5)
    assert picked.family_id.value_counts().max() == 5
    best = reviews[reviews.family_id == 'f3'].rating.max()
    assert picked[picked.family_id == 'f3'].text.iloc[0] in set(reviews[(reviews.family_id == 'f3') & (reviews.rating == best)].text), 'the best rated review speaks first'
    assert reviews.set_index('text').rating[picked.text].min() >= 4, 'who was not content does not speak'
    vectors = rng.normal(size=(len(picked), 16)).astype(np.float32); vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    where, calls = dict(zip(picked.text, vectors)), []
    def encode(texts):
        calls.append(len(texts))
        if len(calls) == 3: raise KeyboardInterrupt
        return np.stack([where[t] for t in texts])
    for _ in range(2): # killed once
        try:
            with resumable_folder(tmp_path/'idx', 'key') as part:
                save_sentences(part.path, picked); embed_sentences(part, picked, encode, 16, batch=10)
        except KeyboardInterrupt: pass
    assert sum(calls) == len(picked) + 10, 'only the killed batch is done again'
    s = Sentences(tmp_path/'idx')
    for f in picked.family_id.unique():
        q = rng.normal(size=16).astype(np.float32); q /= np.linalg.norm(q)
        own = picked[picked.family_id == f]
        exact = np.array([where[t] @ q for t in own.text])
        text, fit = s.best(f, q)
        assert abs(fit - exact.max()) < .02 and where[text] @ q > exact.max() - .02

def test_no_sentences_at_all(tmp_path):
    picked = pick_sentences(pd.DataFrame(dict(family_id=[], review_id=[], text=[])))
    with resumable_folder(tmp_path/'idx', 'key') as part: save_sentences(part.path, picked); embed_sentences(part, picked, None, 16)
    assert Sentences(tmp_path/'idx').best('f', np.ones(16)) == (None, 0.) and len(Sentences(tmp_path/'idx')) == 0

@pytest.mark.parametrize('sentence, speaks', [
    ('The keys make hardly any noise.', True), ('This keyboard is so quiet and good.', True), ('It is not too loud for an office.', True), ("It doesn't slip on my desk.", True),
    ('I have had the keyboard for half a year.', False), ('I have had this board for ten days.', False), ('Got this keyboard on a whim.', False),
    ('I have had this headphones for three weeks', False), ('So, about this keyboard that I bought', False), ('I love it very much and recommend it', False),
    ('The cable is far too short.', False), ('Nice sound, but the battery died.', False), ('It does not work with my laptop.', False), ('The hinge broke within a month.', False)])
def test_a_reason_says_something_and_nothing_bad(sentence, speaks): assert speaks_for(sentence) == speaks

@pytest.mark.parametrize('sentence, four, five', [
    ('The old lady with her bad hips gets up without help again.', False, True), ('I can read while my wife sleeps beside me.', True, True), ('The cable is far too short.', False, False),
    ('No chance of using it while somebody sleeps, because of the clicking.', False, False), ('Forget putting it in a bag, it is huge.', False, False), ('You plug it in and forget about recharging.', True, True)])
def test_five_stars_may_speak_of_what_was_bad(sentence, four, five): assert (speaks_for(sentence, 4), speaks_for(sentence), speaks_for(sentence, 5)) == (four, four, five)

def test_families_that_nobody_praised_have_no_sentence():
    reviews = pd.DataFrame(dict(family_id=['a', 'a', 'b', 'c'], review_id=list('1234'), text=['The keys feel light and quick.', 'The wheel scrolls without a sound.', 'The lamp lights the whole desk.', 'The bag holds two laptops.'], rating=[3., 4., 2., np.nan]))
    assert list(pick_sentences(reviews).text) == ['The wheel scrolls without a sound.', 'The bag holds two laptops.']
