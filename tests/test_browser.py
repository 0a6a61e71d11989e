"The demo and the API's page in a real Chromium; screenshots land in test-results/."

import os, re, shutil, threading, time
from pathlib import Path
import numpy as np, pytest, uvicorn

pytest.importorskip('playwright')
from playwright.sync_api import expect, sync_playwright
from recsys_nb.core.files import RecsysError
from recsys_nb.recommend.preferences import understand
from recsys_nb.recommend.results import Recommendation
from recsys_nb.serve.demo import mount_demo
from recsys_nb.serve.running import open_port
from recsys_nb.serve.service import ServiceSettings, create_app

chromium = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
pytestmark = pytest.mark.skipif(chromium is None, reason='no chromium on this machine (apt-get install chromium)')
results = Path(__file__).parents[1] / 'test-results'
hostile = (
    '<img src=x onerror="window.hacked=1"> {{constructor}} ${window.hacked=2} '
    '`</script><script>window.hacked=3</script> toaster'
)
picture = (
    'data:image/svg+xml,%3Csvg xmlns=%22http://www.w3.org/2000/svg%22%3E'
    '%3Crect width=%2299%22 height=%2299%22 fill=%22teal%22/%3E%3C/svg%3E'
)


class Words:
    "Encodes a text as the words in it."

    words = 'keyboard mouse headphones monitor quiet loud small large office gaming travel studio toaster'.split()

    def encode(self, texts, side='user', **kw):
        v = np.array([[float(w in t.lower()) for w in self.words] for t in texts]) + 1e-3
        return v / np.linalg.norm(v, axis=1, keepdims=True)


class Shop:
    "A small, quick recommender of its own kind: 96 products, one of them hostile."

    def __init__(self):
        self.model, kinds, places = Words(), Words.words[:4], Words.words[8:12]
        self.rows = [
            dict(
                product_id=f'P{i}',
                title=(
                    f'Norvik {("quiet", "loud")[i % 2]} {("small", "large")[i // 2 % 2]} '
                    f'{kinds[i // 4 % 4]} for {places[i // 16 % 4]} No. {i}'
                ),
                family_id=f'P{i}',
                brand=('Norvik', 'Halden')[i % 2],
                categories=['Electronics', kinds[i // 4 % 4].title()],
                price=None if i % 19 == 7 else 5.0 + i * 1.5,
                score=None if i % 7 == 3 else 3 + i % 20 / 10,
                url=f'https://shop.example/P{i}',
                images=[picture] if i % 3 else [],
            )
            for i in range(95)
        ]
        self.rows += [
            self.rows[0]
            | dict(
                product_id='P<95>"',
                title=hostile,
                brand='<b>Evil</b>',
                price=1.0,
                url='javascript:window.hacked=8',
                images=['javascript:window.hacked=4', 'https://images.example/"onload="window.hacked=5'],
            )
        ]
        self.vectors, self.manifest = self.model.encode([r['title'] for r in self.rows]), dict(has_scores=True)
        self.index, self.store, self.brands = self, self, dict(norvik=1, halden=1)

    def __len__(self):
        return len(self.rows)

    def scroll(self):
        yield [(r, {}) for r in self.rows]

    def retrieve(self, ids, vectors=()):
        return {r['product_id']: (r, {}) for r in self.rows if r['product_id'] in ids}

    def product(self, id):
        return self.retrieve([id])[id][0]

    def find(self, text, k=10):
        return [r for r in self.rows if text.lower() in r['title'].lower()][:k]

    def similar(self, id, k=5):
        return self.recommend('', k, like=[id])

    def recommend(
        self,
        text,
        k=5,
        like=(),
        min_price=None,
        max_price=None,
        category=None,
        brand=None,
        min_score=None,
        history=(),
        exclude=(),
        **rest,
    ):
        text = text if isinstance(text, str) else ' '.join(text)
        if 'slow' in text:
            time.sleep(1.5)
        if 'explode' in text:
            raise RuntimeError('secret')
        if 'nonsense' in text:
            raise RecsysError('that makes no sense')
        q = self.model.encode([text])[0] + sum(
            self.vectors[[r['product_id'] for r in self.rows].index(i)] for i in [*like, *history]
        )

        class Found(list):
            understood, advice = understand(text).to_dict(), None

        if max_price is None:
            max_price = Found.understood.get('max_price')
        keep = [
            (float(q @ v), r)
            for r, v in zip(self.rows, self.vectors)
            if r['product_id'] not in [*like, *history, *exclude]
            and (max_price is None or (r['price'] or 1e9) <= max_price)
            and (min_price is None or (r['price'] or 0) >= min_price)
            and (not category or category in r['categories'])
            and (not brand or brand == r['brand'])
            and (min_score is None or (r['score'] or 0) >= min_score)
        ]
        found = Found(
            Recommendation(
                **r,
                similarity=min(1, s),
                because=['metadata'],
                follows=None,
                why_from='review',
                why=f'I bought it for the {text[:20]} & <i>love</i> it.',
            )
            for s, r in sorted(keep, key=lambda o: -o[0])[:k]
        )
        if not found:
            found.advice = 'Nothing is left: the highest price excludes every product.'
        return found


def serving(rec):
    "A service with its demo, until the block ends."
    server = uvicorn.Server(uvicorn.Config(create_app(rec, mount_demo), log_level='error', timeout_graceful_shutdown=1))
    with open_port('127.0.0.1', 0) as s:
        thread = threading.Thread(target=server.run, args=([s],), daemon=True)
        thread.start()
        yield f'http://127.0.0.1:{s.getsockname()[1]}'
        server.should_exit = True
        thread.join(5)


@pytest.fixture(scope='module')
def site():
    yield from serving(Shop())


@pytest.fixture(scope='module')
def browser():
    with sync_playwright() as p:
        b = p.chromium.launch(
            executable_path=chromium,
            args=['--headless', '--no-sandbox', '--disable-gpu', '--disable-background-networking'],
        )
        yield b
        b.close()


@pytest.fixture
def page(browser, site):
    "A page that fails its test where the console shows an error or something is asked of another machine."
    p, complaints = browser.new_page(viewport=dict(width=1280, height=900)), []
    p.set_default_timeout(15_000)
    p.on('console', lambda m: complaints.append(m.text) if m.type in ('error', 'warning') else None)
    p.on('pageerror', lambda e: complaints.append(str(e)))
    p.on(
        'request',
        lambda r: (
            None
            if r.url.startswith((site, 'data:', 'blob:', 'https://images.example/'))
            else complaints.append(f'asked for {r.url}')
        ),
    )
    p.route(
        'https://images.example/**',
        lambda route: route.fulfill(
            status=200, content_type='image/svg+xml', body='<svg xmlns="http://www.w3.org/2000/svg"/>'
        ),
    )
    p.goto(site)
    expect(p.locator('#status')).to_contain_text('of 96 products, found in')
    yield p
    assert p.evaluate('window.hacked') is None
    p.close()
    assert complaints == []


expect.set_options(timeout=20_000)  # beside other tests on two busy cores


def say(page, text):
    page.get_by_label('Your preferences').fill(text)
    page.get_by_label('Your preferences').press('Enter')


def prices(page):
    return [float(t.replace(',', '')) for t in page.locator('.rs-price').all_inner_texts()]


def sideways(page):
    return page.evaluate('document.documentElement.scrollWidth - window.innerWidth')


def shot(page, name):
    results.mkdir(exist_ok=True)
    page.screenshot(path=results / f'{name}.png', full_page=True)


def test_the_first_thing_it_shows_is_an_answer(page):
    asked = page.get_by_label('Your preferences').input_value()
    assert asked.startswith('keyboard under')  # the largest kind of this shop, not of another one
    expect(page.locator('.rs-card')).to_have_count(6)
    assert all('keyboard' in t for t in page.locator('.rs-card h3').all_inner_texts())
    for width, scheme in ((1400, 'light'), (390, 'dark')):
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size(dict(width=width, height=900))
        page.reload()
        expect(page.locator('.rs-card')).to_have_count(6)
        assert sideways(page) <= 0
        shot(page, f'demo_first_{width}_{scheme}')


def test_preferences_give_cards_with_all_that_matters(page):
    say(page, 'a slow mouse')
    expect(page.locator('#status')).to_contain_text('Looking among 96 products …')
    expect(page.locator('#status')).to_contain_text('6 of 96 products')
    say(page, 'a quiet small keyboard for the office')
    expect(page.locator('.rs-card').first).to_contain_text('keyboard')
    cards = page.locator('.rs-card')
    expect(cards).to_have_count(6)
    assert (
        'quiet small keyboard for office' in cards.first.inner_text() and 'More like this' in cards.first.inner_text()
    )
    assert cards.first.locator('[aria-label*="predicted stars"]').count() == 1
    link = cards.first.locator('h3 a')
    assert link.get_attribute('href').startswith('https://shop.example/P') and 'noopener' in link.get_attribute('rel')
    expect(page.locator('#status')).to_contain_text('6 of 96 products')
    assert page.locator('.rs-card img').count() > 0 and page.locator('.rs-why').count() == 6
    shot(page, 'demo')
    for i in (0, 2):
        page.locator('.rs-compare').nth(i).click()
    expect(page.locator('.rs-card:visible')).to_have_count(2)
    shot(page, 'demo_compared')
    page.locator('.rs-compare:visible').first.click()
    expect(page.locator('.rs-card:visible')).to_have_count(6)


def test_a_price_filter_holds(page):
    page.get_by_label('Highest price').fill('$30')
    say(page, 'something for gaming')
    expect(page.locator('.rs-chips')).to_contain_text('max price: 30')
    assert prices(page) and max(prices(page)) <= 30
    page.get_by_label('Lowest price').fill('20,50 €')
    page.get_by_label('Lowest price').press('Enter')
    page.wait_for_function('[...document.querySelectorAll(".rs-price")].every(e => +e.innerText >= 20.5)')
    expect(page.locator('.rs-chips')).to_contain_text('min price: 20.5')
    expect(page.locator('.rs-chips')).to_contain_text('max price: 30')
    assert all(20.5 <= p <= 30 for p in prices(page))


def test_what_cannot_be_answered_is_said_in_words(page):
    for text, says in (('nonsense', 'that makes no sense'), ('explode', 'went wrong on our side')):
        say(page, text)
        expect(page.get_by_role('alert').first).to_contain_text(says)
    assert 'secret' not in page.content()
    page.get_by_label('Highest price').fill('cheap')
    say(page, 'a mouse')
    expect(page.get_by_role('alert').first).to_contain_text('“cheap” is not an amount')
    page.get_by_label('Highest price').fill('0.5')
    say(page, 'a mouse')
    expect(page.locator('.rs-notice')).to_contain_text('Nothing is left')


def test_hostile_text_is_only_text(page):
    say(page, '<img src=x onerror="window.hacked=6"> toaster {{constructor}} ${window.hacked=7}')
    expect(page.locator('.rs-card h3').first).to_contain_text('{{constructor}} ${window.hacked=2}')
    assert '<b>Evil</b>' in page.locator('.rs-card').first.inner_text()
    page.locator('.rs-like').first.click()
    expect(page.get_by_role('checkbox', name=re.compile('onerror'))).to_be_checked()
    shot(page, 'demo_hostile')


def test_a_narrow_window_needs_no_scrolling_sideways(page):
    page.set_viewport_size(dict(width=375, height=800))
    page.reload()
    expect(page.get_by_label('Highest price')).to_be_hidden()  # the filters are folded away
    box, go = (page.locator(f).bounding_box() for f in ('#text', '#go'))
    assert go['y'] >= box['y'] + box['height'] and go['width'] >= box['width'] - 1
    assert sideways(page) <= 0
    say(page, 'headphones for travel ' + 'x' * 200)
    expect(page.locator('.rs-card')).to_have_count(6)
    page.get_by_role('button', name='Narrow it down').click()
    expect(page.get_by_label('Highest price')).to_be_visible()
    assert sideways(page) <= 0
    shot(page, 'demo_narrow')


def test_the_keyboard_is_enough(page):
    page.get_by_label('Your preferences').focus()
    page.keyboard.type('a loud mouse')
    page.keyboard.press('Tab')
    assert page.evaluate('document.activeElement.innerText') == 'Recommend'
    page.keyboard.press('Enter')
    expect(page.locator('.rs-card h3').first).to_contain_text('loud')  # no longer the answer it opened with
    page.keyboard.press('Tab')
    page.keyboard.press('Enter')  # the first example
    expect(page.get_by_label('Your preferences')).to_have_value(re.compile('keyboard under'))
    expect(page.locator('.rs-card h3').first).to_contain_text('quiet')
    like = page.locator('.rs-like').first
    like.focus()
    page.keyboard.press('Enter')
    expect(page.get_by_role('checkbox', checked=True)).to_have_count(1)


def test_liked_products_are_found_by_title(page):
    page.get_by_label('Your preferences').fill('')
    page.get_by_role('textbox', name='Products that you like').press_sequentially('monitor for studio', delay=30)
    page.get_by_role('checkbox', name=re.compile('monitor for studio')).first.check()
    expect(page.locator('.rs-card h3').first).to_contain_text('monitor')
    page.get_by_role('textbox', name='Products that you like').fill('travel')
    expect(page.get_by_role('checkbox', name=re.compile('for travel')).first).to_be_visible()
    expect(page.get_by_role('checkbox', checked=True)).to_have_count(1)  # what was ticked stays


def test_categories_and_brands(page):
    say(page, 'something for the office')
    page.get_by_label('Category').click()
    page.get_by_role('option', name='Headphones').click()
    page.wait_for_function(
        'document.querySelectorAll(".rs-card").length == 6 && '
        '[...document.querySelectorAll(".rs-small")].every(e => e.innerText.includes("Headphones"))'
    )
    page.get_by_label('Brand').click()
    page.get_by_role('option', name='Halden').click()
    page.wait_for_function(
        '[...document.querySelectorAll(".rs-small")].every(e => e.innerText == "Halden · Headphones")'
    )


def test_the_page_of_the_api(page, site):
    page.goto(f'{site}/docs')
    expect(page.get_by_text('/recommend').first).to_be_visible()
    page.get_by_text('Recommend products', exact=True).click()
    page.get_by_role('button', name='Execute').click()
    expect(page.locator('.live-responses-table')).to_contain_text('recommendations')
    shot(page, 'api')


def test_a_link_asks_the_same_again(page, site):
    page.get_by_label('Highest price').fill('60')
    say(page, 'a quiet mouse')
    expect(page.locator('.rs-card h3').first).to_contain_text('mouse')
    page.wait_for_function('document.querySelector("#status a")?.href.includes("max_price=60")')
    address, titles = page.locator('#status a').evaluate('a => a.href'), page.locator('.rs-card h3').all_inner_texts()
    page.goto(address)
    expect(page.locator('.rs-card h3').first).to_contain_text('mouse')
    expect(page.get_by_label('Your preferences')).to_have_value('a quiet mouse')
    expect(page.get_by_label('Highest price')).to_have_value('60')
    assert page.locator('.rs-card h3').all_inner_texts() == titles
    page.goto(f'{site}/demo/?q=%3Cimg%20src=x%20onerror=window.hacked=9%3E%20mouse&min_score=nonsense&k=1e99')
    expect(page.locator('#status')).to_contain_text('of 96 products')


def test_a_chip_can_be_taken_away(page):
    say(page, 'a loud mouse under $20 with at least 3 stars')
    expect(page.locator('.rs-chips li')).to_have_count(2)
    shot(page, 'demo_chips')
    page.get_by_role('button', name='Take away: max price').click()
    expect(page.get_by_label('Your preferences')).to_have_value('a loud mouse')
    expect(page.locator('.rs-chips li')).to_have_count(1)
    expect(page.locator('.rs-chips')).to_contain_text('min score: 3')


def test_what_somebody_owns_does_not_come_again(page):
    say(page, 'a quiet small monitor for travel')
    expect(page.locator('.rs-card h3').first).to_contain_text('monitor')
    title = page.locator('.rs-card h3 a').first.inner_text()
    page.locator('.rs-own').first.click()
    expect(page.get_by_role('checkbox', name=title)).to_be_checked()
    expect(page.locator('.rs-card h3 a').first).not_to_have_text(title)
    assert title not in page.locator('.rs-card h3 a').all_inner_texts()


@pytest.fixture(scope='module')
def below_a_path():
    "A proxy that passes /shop/… on without /shop, as nginx does, and what is behind it."
    import httpx
    from starlette.applications import Starlette
    from starlette.responses import Response
    from starlette.routing import Route

    settings = ServiceSettings(root_path='/shop')
    behind = uvicorn.Server(uvicorn.Config(create_app(Shop(), mount_demo, settings), log_level='error'))
    with open_port('127.0.0.1', 0) as own, open_port('127.0.0.1', 0) as front:
        port, client = own.getsockname()[1], httpx.AsyncClient(timeout=20, verify=False)

        async def forward(request):
            headers = [(k, v) for k, v in request.headers.items() if k not in ('host', 'accept-encoding')]
            host = dict(host=request.headers['host'])
            r = await client.request(
                request.method,
                f'http://127.0.0.1:{port}/{request.path_params["path"]}',
                params=request.query_params,
                content=await request.body(),
                headers=dict(headers) | host,
            )
            kept = {
                k: v
                for k, v in r.headers.items()
                if k not in ('content-length', 'content-encoding', 'transfer-encoding')
            }
            return Response(r.content, r.status_code, kept)

        proxy = Starlette(routes=[Route('/shop/{path:path}', forward, methods=['GET', 'POST', 'HEAD'])])
        proxy = uvicorn.Server(uvicorn.Config(proxy, log_level='error'))
        threads = [threading.Thread(target=s.run, args=([o],), daemon=True) for s, o in ((behind, own), (proxy, front))]
        for t in threads:
            t.start()
        yield f'http://127.0.0.1:{front.getsockname()[1]}/shop'
        behind.should_exit = proxy.should_exit = True
        for t in threads:
            t.join(5)


def test_demo_and_api_below_a_path(browser, below_a_path):
    p = browser.new_page()
    p.set_default_timeout(15_000)
    lost = []
    p.on('response', lambda r: lost.append((r.status, r.url)) if r.status >= 400 else None)
    p.goto(f'{below_a_path}/')
    assert p.url.startswith(f'{below_a_path}/demo/')
    expect(p.locator('.rs-card')).to_have_count(6, timeout=20_000)
    p.goto(f'{below_a_path}/docs')
    p.get_by_text('Recommend products', exact=True).click()
    p.get_by_role('button', name='Execute').click()
    expect(p.locator('.live-responses-table')).to_contain_text('recommendations', timeout=20_000)
    p.close()
    assert not [o for o in lost if 'favicon' not in o[1]]


pictures = os.environ.get('RECSYS_PICTURES')


@pytest.mark.skipif(not pictures, reason='RECSYS_PICTURES names no folder with an index, such as . after `make demo`')
@pytest.mark.parametrize('width, scheme', [(1400, 'light'), (1400, 'dark'), (390, 'light'), (390, 'dark')])
def test_the_picture_of_the_readme_is_made_on_request(browser, width, scheme):
    r"""Writes nbs/images/demo.png, and others beside the tests' results.
    What is there was asked of the real electronics:
    RECSYS_PICTURES=ROOT RECSYS_ASKED='q=an air fryer for a small kitchen&history=B083GKDRKR' \
        python -m pytest tests/test_browser.py -k picture"""
    from contextlib import contextmanager
    from recsys_nb.recommend.recommender import Recommender

    asked = os.environ.get('RECSYS_ASKED', '')
    with Recommender.load(pictures) as rec, contextmanager(serving)(rec) as site:
        p = browser.new_page(viewport=dict(width=width, height=900), color_scheme=scheme)
        p.goto(f'{site}/demo/?{asked}')
        expect(p.locator('#status')).to_contain_text('found in', timeout=20_000)
        p.wait_for_timeout(500)
        assert sideways(p) <= 0
        shot(p, f'real_{width}_{scheme}')
        if (width, scheme) == (1400, 'light'):
            p.screenshot(path=Path(__file__).parents[1] / 'nbs' / 'images' / 'demo.png')
        p.close()
