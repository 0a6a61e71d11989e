"The service against hostile, malformed and random requests."

import asyncio, gc, gzip, json, re, signal, subprocess, sys, threading, time, warnings
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace, TracebackType
import httpx, numpy as np, pytest, schemathesis
from fastapi.testclient import TestClient
from conftest import examples
from schemathesis.specs.openapi.checks import ignored_auth, positive_data_acceptance

from recsys_nb.core.files import RecsysError
from recsys_nb.index.qdrant import ServerStore, ServerUnavailable, server_url
from recsys_nb.serve.messages import max_body, max_text
from recsys_nb.serve.running import follow, open_port, served_names
from recsys_nb.serve.service import Desk, ServiceSettings, create_app, warm_up
from recsys_nb.serve.shared_encoder import SharedEncoder


class Shop:
    "Three products, one with a hostile title, without a model."

    titles = {
        'K1': 'Norvik quiet keyboard',
        'M1': 'Halden travel mouse',
        'S1': '<script>alert("hi")</script> \ud83d\ude00'.encode('utf-16', 'surrogatepass').decode('utf-16'),
        'A/1': 'A desk lamp',
    }

    class model:
        def encode(texts, side='user', **kw):
            return np.array([[len(t.encode()), 0.0] for t in texts])

    def product(self, id):
        if id not in self.titles:
            raise RecsysError(f'{id}: no such product')
        return dict(
            product_id=id,
            title=self.titles[id],
            price=None,
            score=np.float32(4.5123),
            categories=['A', 'B'],
            points=['Silent'],
            url='https://shop.example/' + id,
        )

    def find(self, text, k=10):
        return [self.product(i) for i, t in self.titles.items() if text.lower() in t.lower()][:k]

    def similar(self, id, k=5):
        class Found(list):
            understood, advice = {}, None

        return Found([self.product(i) for i in self.titles if i != id][:k])

    def recommend(self, text, k=5, like=(), exclude=(), **rest):
        if text:
            self.model.encode(text)
        for i in like:
            self.product(i)

        class Found(list):
            understood, advice = {}, 'nothing is left'

        return Found([self.product(i) for i in self.titles if i not in exclude][:k])


@pytest.fixture(scope='module')
def api():
    return TestClient(create_app(Shop()), base_url='http://localhost', raise_server_exceptions=False)


def is_problem(r, status):
    assert r.status_code == status and r.headers['content-type'] == 'application/problem+json', (
        r.status_code,
        r.text[:300],
    )
    body = r.json()
    assert body['status'] == status and body['detail'] and body['request_id'] == r.headers['x-request-id']
    assert 'Traceback' not in r.text and len(r.content) < 20_000
    return body


schema = schemathesis.openapi.from_asgi('/openapi.json', create_app(Shop(), settings=ServiceSettings(hosts=('*',))))


@schema.parametrize()
@examples(20)
def test_random_requests_never_break_the_service(case):
    "All of schemathesis's checks but one: that `{}` says nothing to go by cannot be told in a schema."
    response = case.call()
    if response.status_code == 413:
        return  # a body over the limit, which no schema can tell
    case.validate_response(response, excluded_checks=[positive_data_acceptance])


JSON = {'content-type': 'application/json'}


@pytest.mark.parametrize(
    'body,says',
    [
        (b'', 'expected a JSON object'),
        (b'{', 'JSON'),
        (b'null', 'expected a JSON object'),
        (b'[]', 'expected a JSON object'),
        (b'\xff\xfe{}', ''),
        (b'{"text": "a\xff"}', ''),
        (b'{"text": NaN}', 'text'),
        (b'{"text": "a", "max_price": NaN}', 'max_price'),
        (b'{"text": "a", "max_price": 1e999}', 'max_price'),
        (b'{"text": "a", "k": 1' + b'0' * 5000 + b'}', ''),
        (b'{"text": "a", "k": "5"}', 'k'),
        (b'{"text": "a", "k": -1}', 'k'),
        (b'{"text": "a", "k": true}', 'k'),
        (b'{"text": "\\ud800"}', 'text'),
        (b'{"\\ud800": 1}', ''),
        (b'{"text": "a", "colour\\u0000\\n": 1}', 'colour'),
        (b'{"text": {"a": 1}}', 'text'),
        (b'{"text": [[["a"]]]}', 'text'),
        (b'{"text": ["a", 3]}', 'text'),
        (b'{"text": ""}', 'what you are looking for'),
        (b'{"exclude": ["K1"]}', 'what you are looking for'),
        (b'{}', 'what you are looking for'),
        (b'{"text": "\\u0000\\u0001"}', 'what you are looking for'),
        (json.dumps(dict(text='a' * (max_text + 1))).encode(), f'{max_text} characters'),
        (json.dumps(dict(text='a', like=['x'] * 1001)).encode(), '1000 items'),
        (json.dumps(dict(text=['a'] * 21)).encode(), '20 items'),
        (b'{"text": "a", "like": ["nobody"]}', 'no such product'),
        (b'{"text": "a", "diversity": 2}', 'diversity'),
        (b'[' * 100_000, ''),
        (b'{"text": ' + b'[' * 50_000 + b']' * 50_000 + b'}', ''),
        (b'{"a":' * 30_000 + b'1' + b'}' * 30_000, ''),
    ],
)
def test_a_request_that_makes_no_sense_is_told_why(api, body, says):
    r = api.post('/recommend', content=body, headers=JSON)
    assert r.status_code in (400, 422), (r.status_code, r.text[:200])
    assert says.lower() in is_problem(r, r.status_code)['detail'].lower(), r.text


def test_filters_alone_are_enough(api):
    assert api.post('/recommend', json=dict(category='A')).status_code == 200


def test_a_body_is_limited_with_and_without_its_length(api):
    def pieces():
        for _ in range(40):
            yield b' ' * (max_body // 20)

    assert 'KiB' in is_problem(api.post('/recommend', content=b' ' * (max_body + 1), headers=JSON), 413)['detail']
    assert 'KiB' in is_problem(api.post('/recommend', content=pieces(), headers=JSON), 413)['detail']


def test_bodies_that_are_too_large_leave_nothing_behind(api):
    "One error that was raised again and again had kept the frames of every such request."

    def refused(n):
        for _ in range(n):
            assert api.post('/recommend', content=b' ' * (max_body + 1), headers=JSON).status_code == 413
        gc.collect()
        return sum(isinstance(o, TracebackType) for o in gc.get_objects())

    assert refused(1) == refused(5)


def test_addresses_methods_and_types(api):
    is_problem(api.get('/nowhere'), 404)
    is_problem(api.delete('/recommend'), 405)
    is_problem(api.get('/products/' + 'x' * 101), 422)
    is_problem(api.get('/products/%00%1b%ff'), 404)
    is_problem(api.get('/products', params=dict(search='mouse', k='many')), 422)
    is_problem(api.get('/products/K1/similar?k=0'), 422)
    assert (
        api.get('/products/A/1').json()['product_id'] == 'A/1'
        and api.get('/products/A%2F1/similar').json()['recommendations']
    )
    is_problem(api.get('/products/A/2'), 404)
    is_problem(api.get('/products//similar'), 422)
    for path in ('/health', '/docs', '/products/K1', '/products?search=mouse'):
        assert api.head(path).status_code == 200
    is_problem(api.get('/recommend'), 405), is_problem(api.post('/health'), 405)
    for plain in ({'content-type': 'text/plain'}, {}):
        assert (
            'send Content-Type: application/json'
            in is_problem(api.post('/recommend', content='{"text": "a"}', headers=plain), 422)['detail']
        )


def test_control_characters_and_markup_are_harmless(api):
    r = api.post('/recommend', json=dict(text='a\x00b\x1b[31m\u202e<img src=x onerror=alert(1)>'))
    assert (
        r.status_code == 200
        and r.headers['content-type'] == 'application/json'
        and r.headers['x-content-type-options'] == 'nosniff'
    )
    assert r.json()['recommendations'][2]['title'].startswith('<script>')
    assert r.json()['recommendations'][0]['price'] is None


def test_a_product_says_what_it_is_and_where(api):
    p = api.get('/products/K1').json()
    assert (p['score'], p['points'], p['url']) == (4.51, ['Silent'], 'https://shop.example/K1')
    assert 'points' not in api.get('/products/K1/similar').json()['recommendations'][0]


def test_a_taken_port_is_told_once():
    with open_port('127.0.0.1', 0) as s:
        with pytest.raises(RecsysError) as e:
            open_port('127.0.0.1', s.getsockname()[1])
    assert str(e.value).count('127.0.0.1') == 1 and 'Address already in use' in str(e.value)


def test_a_host_that_is_none_is_told_in_words():
    with pytest.raises(RecsysError, match='(?i)name') as e:
        open_port('nonsense.invalid', 0)
    assert 'Unknown error' not in str(e.value)


def test_warming_up_is_tried_again():
    class Late(Shop):
        tries = 0

        def find(self, *_):
            self.tries += 1
            if self.tries < 3:
                raise ServerUnavailable('not yet')

    desk, shop = Desk(), Late()
    warm_up(shop, desk, pause=0)
    assert (shop.tries, desk.state) == (3, 'ready')


def test_nothing_is_left_running():
    before = set(threading.enumerate())
    with TestClient(create_app(Shop()), base_url='http://localhost') as api:
        assert api.post('/recommend', json=dict(text='a mouse')).status_code == 200
    left = [
        t.name
        for t in set(threading.enumerate()) - before
        if t.is_alive() and t.name.startswith(('encoder', 'recommend'))
    ]
    assert not left


def test_only_our_names_are_served(api):
    for host in ('evil.example', 'localhost.evil.example', '127.0.0.1.evil.example', ''):
        refused = api.get('/health', headers=dict(host=host))
        assert f'host {host!r}: not served' in is_problem(refused, 400)['detail']
    for host in ('[::1', 'a@localhost', 'localhost/../', 'localhost:80:80'):
        is_problem(api.get('/health', headers=dict(host=host)), 400)
    for host in ('localhost:7860', '127.0.0.1:80', '[::1]:7860', 'LOCALHOST'):
        assert api.get('/health', headers=dict(host=host)).status_code == 200
    shop = TestClient(
        create_app(Shop(), settings=ServiceSettings(hosts=served_names('127.0.0.1', ('Shop.Example',)))),
        base_url='http://shop.example',
    )
    assert [
        shop.get('/health', headers=dict(host=h)).status_code
        for h in ('shop.example', 'localhost:7860', 'evil.example')
    ] == [200, 200, 400]
    wild = TestClient(create_app(Shop(), settings=ServiceSettings(hosts=('*.shop.example',))))
    for host, status in (('a.shop.example', 200), ('shop.example', 400), ('evil.example/.shop.example', 400)):
        assert wild.get('/health', headers=dict(host=host)).status_code == status
    for wrong in ('https://shop.example', 'shop.example:443', 'shop*', 'shop.example/api', ''):
        with pytest.raises(RecsysError, match='without a port'):
            ServiceSettings(hosts=(wrong,))
    r = api.options('/recommend', headers={'origin': 'https://evil.example', 'access-control-request-method': 'POST'})
    assert 'access-control-allow-origin' not in r.headers


def test_request_ids_are_taken_only_when_plain(api):
    assert api.get('/health', headers={'X-Request-ID': 'abc-1.2_3'}).headers['x-request-id'] == 'abc-1.2_3'
    for bad in ('a b', 'x' * 65, '"<>', 'é'.encode()):
        assert len(api.get('/health', headers={'X-Request-ID': bad}).headers['x-request-id']) == 32


def test_a_bug_is_logged_and_not_shown(caplog):
    class Broken(Shop):
        def recommend(self, *a, **kw):
            raise RuntimeError('secret of the house')

    api = TestClient(create_app(Broken()), base_url='http://localhost', raise_server_exceptions=False)
    with caplog.at_level('INFO', 'recsys_nb.serve.service'):
        r = api.post('/recommend', json=dict(text='my private wish'))
    assert 'secret' not in json.dumps(is_problem(r, 500))
    assert 'secret of the house' in caplog.text and 'private wish' not in caplog.text
    assert any(getattr(o, 'request_id', None) == r.headers['x-request-id'] for o in caplog.records)


def test_a_lost_server_is_a_503_whatever_it_says():
    class Lost(Shop):
        def recommend(self, *a, **kw):
            raise ServerUnavailable('gone')

    class Mistaken(Shop):
        def recommend(self, *a, **kw):
            raise RecsysError('no Qdrant server in this sentence is lost')

    class Half(Shop):
        def product(self, id):
            raise ServerUnavailable('gone')

    for path in ('/products/K1', '/products/K1/similar'):
        is_problem(TestClient(create_app(Half()), base_url='http://localhost').get(path), 503)
    for shop, status in ((Lost, 503), (Mistaken, 422)):
        is_problem(
            TestClient(create_app(shop()), base_url='http://localhost').post('/recommend', json=dict(text='a mouse')),
            status,
        )


class Echo(Shop):
    "Recommends one product whose similarity is the length of the text, once it may."

    go = threading.Event()

    def recommend(self, text, **rest):
        self.go.wait(20)

        class Found(list):
            understood, advice = {}, None

        return Found([self.product('K1') | dict(similarity=self.model.encode(text)[0, 0])])


def ask(app, sizes):
    async def main():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url='http://localhost', timeout=30) as c:
            waiting = [asyncio.ensure_future(c.post('/recommend', json=dict(text='x' * n))) for n in sizes]
            await asyncio.sleep(0.3)
            Echo.go.set()
            return await asyncio.gather(*waiting)

    return asyncio.run(main())


def test_many_at_once_get_their_own_answers():
    Echo.go.clear()
    for n, r in zip(range(1, 201), ask(create_app(Echo()), range(1, 201))):
        assert r.status_code == 200 and r.json()['recommendations'][0]['similarity'] == n


def test_beyond_the_limit_a_request_is_told_to_come_back():
    Echo.go.clear()
    got = ask(create_app(Echo(), settings=ServiceSettings(max_waiting=5)), range(1, 11))
    assert [r.status_code for r in got].count(200) == 5
    for r in got:
        if r.status_code != 200:
            is_problem(r, 503), r.headers['retry-after']


def test_the_pages_about_the_api_need_no_network(api):
    page = api.get('/docs')
    assert page.status_code == 200 and '//cdn' not in page.text and 'https://' not in page.text
    assert api.get('/swagger/swagger-ui-bundle.js').status_code == 200
    d = api.get('/openapi.json').json()
    assert d['paths']['/recommend']['post']['responses']['422']['content'].keys() == {'application/problem+json'}
    assert {o['operationId'] for path in d['paths'].values() for o in path.values()} == {
        'recommend',
        'batch',
        'find',
        'similar',
        'product',
        'health',
        'ready',
    }
    assert (
        d['components']['schemas']['Preferences']['examples']
        and 'HTTPValidationError' not in d['components']['schemas']
    )


slow_shop = '''
import sys, time; sys.path.insert(0, 'tests')
from test_service import Shop
from recsys_nb.serve.running import run_app
from recsys_nb.serve.service import create_app
class Slow(Shop):
    def recommend(self, text, **kw):
        if 'slow' in text[0]:
            print('asked', flush=True)
            time.sleep(1)
        return super().recommend(text, **kw)
run_app(create_app(Slow()), port=0)'''


@pytest.mark.parametrize('stop', [signal.SIGTERM, signal.SIGINT])
def test_it_finishes_what_it_was_doing_before_it_goes(stop):
    p = subprocess.Popen(
        [sys.executable, '-c', slow_shop],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    try:
        address = re.search(r'http://[\d.:]+', p.stdout.readline())[0]
        with ThreadPoolExecutor(1) as pool:
            late = pool.submit(httpx.post, f'{address}/recommend', json=dict(text='slow'), timeout=20)
            while p.stdout.readline().strip() not in ('asked', ''):
                pass
            p.send_signal(stop)
            assert late.result().status_code == 200
        out, err = p.communicate(timeout=15)
    finally:
        p.kill()
    lines = [json.loads(l) for l in err.splitlines()]
    assert any(l.get('path') == '/recommend' and l['status'] == 200 and l['request_id'] for l in lines)


def client(settings=ServiceSettings(), shop=Shop, **kw):
    return TestClient(
        create_app(shop(), settings=settings), base_url='http://localhost', raise_server_exceptions=False, **kw
    )


def test_a_batch_answers_each_by_itself(api):
    asked = [dict(id='one', text='a mouse', k=1), dict(like=['nobody']), dict(category=['A', 'B'], brand='X')]
    one, two, three = api.post('/recommend/batch', json=dict(requests=asked)).json()['answers']
    assert one['id'] == 'one' and len(one['recommendations']) == 1 and len(three['recommendations']) == 4
    assert two['status'] == 422 and 'no such product' in two['detail']
    for wrong, says in (
        ([], 'at least 1'),
        ([dict(text='a')] * 51, 'at most 50'),
        ([dict(text='a', k=0)], 'requests.0.k'),
        ([dict(text=['a', 3])], 'requests.0.text.1'),
        ([dict(text='a', category=7)], 'requests.0.category'),
    ):
        assert says in is_problem(api.post('/recommend/batch', json=dict(requests=wrong)), 422)['detail']


def test_histories_reach_the_recommender():
    seen = {}

    class Watching(Shop):
        def recommend(self, text, **rest):
            seen.update(rest)
            return super().recommend(text)

    assert client(shop=Watching).post('/recommend', json=dict(history=['K1', 'M1'])).status_code == 200
    assert seen['history'] == ['K1', 'M1'] and 'id' not in seen


def test_without_the_key_only_the_state_is_told():
    api = client(ServiceSettings(key='a long secret'))
    for path in ('/health', '/ready'):
        assert api.get(path).status_code in (200, 503)
    for path in ('/products/K1', '/metrics', '/docs', '/openapi.json', '/swagger/swagger-ui.css', '/nowhere'):
        r = api.get(path)
        assert is_problem(r, 401) and r.headers['www-authenticate']
    assert is_problem(api.post('/recommend', json=dict(text='a')), 401)
    basic = 'Basic ' + b64encode(b'anybody:a long secret').decode()
    for right in ({'authorization': 'Bearer a long secret'}, {'x-api-key': 'a long secret'}, {'authorization': basic}):
        assert api.get('/products/K1', headers=right).status_code == 200
    wrong = [
        'Bearer ',
        'Bearer a long secre',
        'Bearer a long secret2',
        'a long secret',
        'Basic !!!',
        'Basic ',
        'Bearer é'.encode('latin-1'),
    ]
    for given in wrong:
        assert api.get('/products/K1', headers={'authorization': given}).status_code == 401
    assert api.get('/docs').headers['www-authenticate'].startswith('Basic')
    described = api.get('/openapi.json', headers={'x-api-key': 'a long secret'}).json()
    assert described['paths']['/recommend']['post']['security'] == [{'HTTPBearer': []}, {'APIKeyHeader': []}]
    assert 'security' not in described['paths']['/health']['get']


locked = schemathesis.openapi.from_asgi(
    '/openapi.json',
    create_app(Shop(), settings=ServiceSettings(hosts=('*',), key='a long secret')),
    headers={'x-api-key': 'a long secret'},
)


@locked.parametrize()
@examples(4)
def test_random_requests_with_a_key(case):
    "Without a key is another test: here two headers bring it, and taking one away changes nothing."
    response = case.call(headers={'authorization': 'Bearer a long secret'})
    if response.status_code == 413:
        return  # as above
    case.validate_response(response, excluded_checks=[positive_data_acceptance, ignored_auth])


def test_each_address_has_its_own_pace():
    app = create_app(Shop(), settings=ServiceSettings(rate=3))
    one, other = (TestClient(app, base_url='http://localhost', client=(a, 1)) for a in ('10.0.0.1', '10.0.0.2'))
    while time.time() % 60 > 55:
        time.sleep(1)  # a minute that has just begun
    got = [one.get('/products/K1') for _ in range(5)]
    assert [r.status_code for r in got] == [200, 200, 200, 429, 429]
    is_problem(got[4], 429)
    assert 0 < int(got[4].headers['retry-after']) <= 60
    assert other.get('/products/K1').status_code == 200 and one.get('/health').status_code == 200


def test_no_way_of_asking_the_demo_is_left_out_of_the_pace():
    api = client(ServiceSettings(rate=1))
    while time.time() % 60 > 55:
        time.sleep(1)
    asked = [
        api.post(f'/demo/gradio_api/{way}', json={}).status_code
        for way in ('queue/join', 'call/_respond', 'call/v2/_respond')
    ]
    assert asked == [404, 429, 429]  # there is no demo here


def test_prometheus_reads_what_happened():
    api = client()
    for _ in range(3):
        api.post('/recommend', json=dict(text='a mouse'))
    for path in ('/products/K1', '/products/none', '/nowhere'):
        api.get(path)
    told = api.get('/metrics')
    assert told.headers['content-type'].startswith('text/plain')
    for line in (
        'recsys_requests_total{route="/recommend",status="200"} 3.0',
        'recsys_requests_total{route="/products/{product_id:path}",status="404"} 1.0',
        'recsys_requests_total{route="other",status="404"} 1.0',
    ):
        assert line in told.text.splitlines()


def test_figures_are_told_while_the_qdrant_server_is_away():
    "It is asked in a thread: `/health` is answered while the server is waited for."

    class Index:
        manifest = dict(name='toys', fingerprint='f')

        def __len__(self):
            with pytest.raises(RuntimeError, match='no running event loop'):
                asyncio.get_running_loop()
            raise ServerUnavailable('gone')

    class Away(Shop):
        index = Index()

    api = client(shop=Away)
    api.get('/products/K1')
    told = api.get('/metrics')
    assert told.status_code == 200 and 'route="/products/{product_id:path}"' in told.text


def test_what_a_browser_may_keep(api):
    for path in ('/products/K1', '/products/K1/similar', '/products?search=mouse'):
        assert api.get(path).headers['cache-control'] == 'private, max-age=60'
    assert 'cache-control' not in api.post('/recommend', json=dict(text='a mouse')).headers
    static = '/swagger/swagger-ui.css'
    assert api.get(static, headers={'if-none-match': api.get(static).headers['etag']}).status_code == 304


def test_two_services_count_apart():
    one, two = client(), client()
    one.get('/products/K1')
    assert 'products/{' in one.get('/metrics').text and 'products/{' not in two.get('/metrics').text


def test_long_answers_are_compressed_for_those_who_can_read_it(api):
    asked = dict(text='a mouse', k=4)
    r = api.post('/recommend', json=asked, headers={'accept-encoding': 'gzip'})
    assert r.headers['content-encoding'] == 'gzip' and r.json()['recommendations']
    assert 'content-encoding' not in api.post('/recommend', json=asked, headers={'accept-encoding': 'identity'}).headers


def test_only_named_origins_may_call_from_a_browser():
    api = client(ServiceSettings(origins=('https://shop.example',), key='a long secret'))
    ask = {'access-control-request-method': 'POST', 'access-control-request-headers': 'content-type,authorization'}
    allowed = api.options(
        '/recommend', headers={'origin': 'https://shop.example', **ask}
    )  # a browser asks this without the key
    assert allowed.status_code == 200 and allowed.headers['access-control-allow-origin'] == 'https://shop.example'
    assert (
        'access-control-allow-origin'
        not in api.options('/recommend', headers={'origin': 'https://evil.example', **ask}).headers
    )
    for wrong in ('shop.example', 'https://shop.example/', 'https://a;b', 'https://*.example'):
        with pytest.raises(RecsysError, match='origin'):
            ServiceSettings(origins=(wrong,))


def test_frames_by_a_setting():
    api = client(ServiceSettings(frames=('https://shop.example',)))

    def policy(path):
        return api.get(path).headers['content-security-policy']

    assert policy('/demo/x').endswith("frame-ancestors 'self' https://shop.example")
    assert policy('/docs').endswith("frame-ancestors 'none'") and policy('/health').endswith("frame-ancestors 'none'")


def test_below_a_path_nothing_is_said_beside_the_log():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        client(ServiceSettings(root_path='/api'))


@pytest.mark.parametrize('prefix', ['/api', ''])
def test_below_a_path_whether_or_not_the_proxy_takes_it_away(prefix):
    api = client(ServiceSettings(root_path='/api', key='a long secret'))
    api.headers['x-api-key'] = 'a long secret'
    assert api.get(f'{prefix}/products/K1').status_code == 200
    assert api.post(f'{prefix}/recommend', json=dict(text='a mouse')).status_code == 200
    assert api.get(f'{prefix}/docs').headers['content-security-policy'].startswith("default-src 'self'")
    assert api.get(f'{prefix}/openapi.json').json()['servers'] == [{'url': '/api'}]
    assert api.get(f'{prefix}/swagger/swagger-ui.css').status_code == 200
    del api.headers['x-api-key']
    assert api.get(f'{prefix}/health').status_code == 200 and api.get(f'{prefix}/products/K1').status_code == 401


def test_a_rebuilt_index_is_taken_over_and_no_request_is_lost(tmp_path):
    class First(Shop):
        index = SimpleNamespace(manifest=dict(built_at='1'))

    class Other(Shop):
        titles, index = {'N1': 'New'}, SimpleNamespace(manifest=dict(built_at='3'))

    manifest = tmp_path / 'manifest.json'
    manifest.write_text('{"built_at": "2"}')  # it was built again while the first was opened
    app, stop, tries = create_app(First()), threading.Event(), []

    def load():
        tries.append(1)
        if len(tries) == 1:
            raise RecsysError('half a folder')
        return Other()

    watcher = threading.Thread(target=follow, args=(app.state.live, load, tmp_path, stop, 0.02))
    with TestClient(app, base_url='http://localhost') as api:

        def wait(what):
            for _ in range(500):
                assert api.post('/recommend', json=dict(text='a mouse')).status_code == 200
                if what():
                    return
                time.sleep(0.01)
            raise AssertionError('it never came')

        watcher.start()
        try:
            wait(lambda: len(tries) == 1)
            assert api.get('/products/K1').status_code == 200  # the old one stays
            manifest.unlink()
            time.sleep(0.1)
            manifest.mkdir()  # what cannot be read does not end the watch
            time.sleep(0.1)
            manifest.rmdir()
            manifest.write_text('{"built_at": "3"}')
            wait(lambda: api.get('/products/N1').status_code == 200)
        finally:
            stop.set()
            watcher.join(5)


def test_an_encoder_that_is_closed_while_it_is_asked_answers_all():
    class Model:
        def encode(texts, side='user', **kw):
            return np.array([[len(t)] for t in texts])

    for _ in range(50):
        shared = SharedEncoder(Model)
        with ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(shared.encode, ['x' * n]) for n in range(1, 20)]
            pool.submit(shared.close)
            assert [f.result(5)[0, 0] for f in asked] == list(range(1, 20))


@pytest.mark.parametrize(
    'written, whole',
    [
        ('db', 'http://db:6333'),
        ('db:7000', 'http://db:7000'),
        ('http://db', 'http://db:6333'),
        ('http://db:6333/', 'http://db:6333'),
        ('https://db.example', 'https://db.example:443'),
        ('https://db.example/qdrant/', 'https://db.example:443/qdrant'),
        ('http://[::1]', 'http://[::1]:6333'),
        (' http://db:6333/dashboard#/collections ', 'http://db:6333'),
        ('HTTPS://DB.EXAMPLE/', 'https://db.example:443'),
        ('http://bücher.example', 'http://xn--bcher-kva.example:6333'),
    ],
)
def test_addresses_of_a_qdrant_server(written, whole):
    assert server_url(written) == whole


@pytest.mark.parametrize(
    'wrong',
    [
        'grpc://db:6334',
        'http://db:port',
        'http://db:99999',
        'ftp://db',
        'http://',
        '',
        'http://me:secret@db',
        'http://db:0',
        'http://db?x=1',
        'http:/db:6333',
        'http://db name',
        'http://[zz]',
        'http://[::1',
        'http://a\u2100b',
        'http://１２７.0.0.1',
        'http://%zz',
        'http://db\0',
    ],
)
def test_what_is_no_address_is_told(wrong):
    with pytest.raises(RecsysError, match='expected the HTTP address'):
        server_url(wrong)


@pytest.mark.parametrize(
    'status, headers, told',
    [
        (502, {}, 'says 502'),
        (301, {'location': 'https://db.example/qdrant/'}, 'says 301 .*: https://db.example'),
        (200, {'content-type': 'text/html'}, 'no Qdrant server'),
    ],
)
def test_an_error_names_the_address_that_was_used_and_a_path_is_kept(monkeypatch, status, headers, told):
    monkeypatch.setattr(time, 'sleep', lambda seconds: None)
    asked = []

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(status)
            for header in headers.items():
                self.send_header(*header)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(('127.0.0.1', 0), Proxy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        where = f'http://127.0.0.1:{server.server_port}/qdrant'
        with pytest.raises(RecsysError, match=f'{where}: .*{told}'):
            ServerStore(f'{where}/', 'toys').exists()
        server.shutdown()
    assert asked and all(p.startswith('/qdrant/collections/toys') for p in asked)


@pytest.mark.parametrize(
    'body, headers, says',
    [
        ('{"text": "Ladegerät"}'.encode('latin-1'), JSON, 'UTF-8'),  # as PowerShell sends it
        (gzip.compress(b'{"text": "a mouse"}'), JSON | {'content-encoding': 'gzip'}, 'not compressed'),
        (b'{"text":' + b'[' * 60_000, JSON, 'nested too deeply'),
        (b'{"text": "a mouse"}', {'content-type': 'text/json'}, 'send Content-Type: application/json'),
        (b'{"text": "a mouse"}', {'content-type': 'text/plain; x=json'}, 'send Content-Type: application/json'),
    ],
)
def test_a_body_that_cannot_be_read_is_told_why(api, body, headers, says):
    r = api.post('/recommend', content=body, headers=headers)
    assert says in is_problem(r, r.status_code)['detail'] and r.status_code in (400, 422)


def test_a_key_from_a_file_ends_in_a_newline():
    client = TestClient(create_app(Shop(), settings=ServiceSettings(key='open sesame\n')), base_url='http://localhost')
    assert client.get('/products/K1', headers={'x-api-key': 'open sesame'}).status_code == 200
    with pytest.raises(RecsysError, match='RECSYS_API_KEY'):
        ServiceSettings(key=' ' * 9)


def test_a_key_may_have_letters_of_any_language():
    client = TestClient(create_app(Shop(), settings=ServiceSettings(key='schlüssel')), base_url='http://localhost')
    for name, before in (('authorization', 'Bearer '), ('x-api-key', '')):
        assert client.get('/products/K1', headers={name: f'{before}schlüssel'.encode()}).status_code == 200
        assert client.get('/products/K1', headers={name: f'{before}schlussel'.encode()}).status_code == 401
