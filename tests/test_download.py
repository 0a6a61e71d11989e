"`download` against a local host that breaks off, is busy, lacks files or ranges, changes its file, or sends the wrong bytes."
import gzip, hashlib, re, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from recsys_nb.core.files import RecsysError, only_one
from recsys_nb.data.download import Host, download, fetch, find_category

content = gzip.compress(b''.join(b'{"rating": %d.0, "text": "review %d"}\n' % (i % 5 + 1, i * 7919 % 10007) for i in range(30_000)), mtime=0)

class Server(ThreadingHTTPServer):
    "What it does is set by each test: `pieces` are the bytes after which it hangs up, in turn; `asked` remembers (path, Range)."
    daemon_threads = True
    def __init__(self):
        super().__init__(('127.0.0.1', 0), Handler)
        self.asked, self.body, self.pieces, self.busy, self.ranges, self.etag, self.missing, self.headers, self.length = [], content, [], 0, True, '"v1"', (), {}, None
        threading.Thread(target=self.serve_forever, kwargs=dict(poll_interval=.01), daemon=True).start()
    @property
    def url(self): return f'http://127.0.0.1:{self.server_port}'

class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args): pass
    def do_GET(self):
        s, wanted = self.server, self.headers.get('Range')
        s.asked.append((self.path, wanted))
        if self.path in s.missing: return self.send_error(404)
        if s.busy:
            s.busy -= 1
            self.send_response(503)
            for k, v in s.headers.items(): self.send_header(k, v)
            self.send_header('Content-Length', '0')
            return self.end_headers()
        start = int(re.search(r'\d+', wanted)[0]) if wanted and s.ranges and self.headers.get('If-Range') == s.etag else 0
        if start >= len(s.body): return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header('Content-Length', str(s.length or len(s.body) - start))
        if s.etag: self.send_header('ETag', s.etag)
        if start: self.send_header('Content-Range', f'bytes {start}-{len(s.body) - 1}/{len(s.body)}')
        for k, v in s.headers.items(): self.send_header(k, v)
        self.end_headers()
        self.wfile.write(s.body[start:start + (s.pieces.pop(0) if s.pieces else len(s.body))])

@pytest.fixture
def server():
    s = Server()
    yield s
    s.shutdown()
    s.server_close()

@pytest.fixture
def get(server, tmp_path):
    def get(name='a.jsonl.gz', tries=3, **kw): return fetch(f'{server.url}/{name}', tmp_path/name, tries=tries, wait=.01, **kw)
    return get

def leftovers(folder): return sorted(p.name for p in folder.iterdir() if not p.name.endswith('.lock'))

def test_whole_file_and_nothing_else(get, tmp_path):
    assert get().read_bytes() == content
    assert leftovers(tmp_path) == ['a.jsonl.gz']

def test_a_file_that_is_there_is_not_fetched_again(get, server):
    get(), get()
    assert len(server.asked) == 1

def test_breaking_off_is_resumed_however_often(get, server):
    piece = len(content) // 9 + 1
    server.pieces = [piece] * 9
    assert get(tries=1).read_bytes() == content
    assert [r for _, r in server.asked] == [None] + [f'bytes={i * piece}-' for i in range(1, 9)]

def test_resumed_by_a_later_run(get, server, tmp_path, monkeypatch):
    class Killed(BaseException): pass
    def die(seconds): raise Killed
    server.pieces = [1000]
    with monkeypatch.context() as m, pytest.raises(Killed):
        m.setattr('recsys_nb.data.download.time.sleep', die)
        get()
    assert leftovers(tmp_path) == ['.a.jsonl.gz.part', '.a.jsonl.gz.part.json']
    assert get().read_bytes() == content
    assert server.asked[-1][1] == 'bytes=1000-'
    assert leftovers(tmp_path) == ['a.jsonl.gz']

def test_host_without_ranges_sends_it_whole(get, server):
    server.ranges, server.pieces = False, [1000, 1000]
    assert get().read_bytes() == content
    assert [r for _, r in server.asked] == [None, 'bytes=1000-', 'bytes=1000-']

def test_host_without_version_is_never_resumed(get, server):
    server.etag, server.pieces = None, [1000] * 99
    with pytest.raises(RecsysError, match='host'): get()
    assert {r for _, r in server.asked} == {None}

def test_a_file_that_changed_in_between_is_not_glued_together(get, server):
    server.ranges, server.pieces = False, [1000] * 2
    with pytest.raises(RecsysError): get(tries=1)
    server.body, server.etag, server.pieces, server.ranges = gzip.compress(b'{"rating": 1.0}\n' * 9000 + content, mtime=0), '"v2"', [], True
    assert get().read_bytes() == server.body

def test_killed_before_the_first_byte_of_a_new_version(get, server, monkeypatch):
    class Killed(BaseException): pass
    def die(*args): raise Killed
    server.ranges, server.pieces = False, [1000] * 2
    with pytest.raises(RecsysError): get(tries=1)
    server.body, server.etag, server.pieces, server.ranges = gzip.compress(b'{"rating": 1.0}\n' * 9000 + content, mtime=0), '"v2"', [], True
    with monkeypatch.context() as m, pytest.raises(Killed):
        m.setattr('recsys_nb.data.download._receive', die)
        get()
    assert get().read_bytes() == server.body and server.asked[-1][1] is None

def test_busy_host_is_asked_again(get, server):
    server.busy = 2
    assert get().read_bytes() == content and len(server.asked) == 3

def test_retry_after_is_obeyed(get, server):
    server.busy, server.headers = 1, {'Retry-After': '1'}
    began = time.monotonic()
    get()
    assert time.monotonic() - began >= 1

def test_host_that_stays_busy(get, server, tmp_path):
    server.busy = 99
    with pytest.raises(RecsysError, match='answered 503'): get()
    assert len(server.asked) == 3 and leftovers(tmp_path) == []

def test_missing_file_is_asked_for_once(get, server, tmp_path):
    server.missing = ('/a.jsonl.gz',)
    with pytest.raises(RecsysError, match='answered 404'): get()
    assert len(server.asked) == 1 and leftovers(tmp_path) == []

def test_longer_than_promised_or_shorter(get, server, tmp_path):
    server.length = len(content) + 100
    with pytest.raises(RecsysError): get()
    assert not (tmp_path/'a.jsonl.gz').exists()

def test_damaged_file_is_refused(get, server, tmp_path):
    server.body = content[:5000] + b'????' + content[5004:]
    with pytest.raises(RecsysError, match='damaged'): get()
    assert leftovers(tmp_path) == []

def test_an_error_page_sent_as_200_is_refused(get, server, tmp_path):
    server.body = b'<html>Please log in</html>'
    with pytest.raises(RecsysError, match='damaged'): get()
    assert leftovers(tmp_path) == []

def test_checksum(get, server, tmp_path):
    assert get('good', sha256=hashlib.sha256(content).hexdigest()).exists()
    with pytest.raises(RecsysError, match='SHA-256'): get('bad', sha256='0' * 64)
    server.headers = {'X-Linked-ETag': f'"{"1" * 64}"'} # what Hugging Face tells
    with pytest.raises(RecsysError, match='SHA-256'): get('worse')
    assert leftovers(tmp_path) == ['good']

def test_two_at_once(get, tmp_path):
    with only_one(tmp_path/'a.jsonl.gz', 'file'):
        with pytest.raises(RecsysError, match='another process'): get()

def test_note_that_is_nonsense_is_ignored(get, tmp_path):
    (tmp_path/'.a.jsonl.gz.part').write_bytes(b'rubbish')
    (tmp_path/'.a.jsonl.gz.part.json').write_text('[1, 2')
    assert get().read_bytes() == content

def test_part_longer_than_the_file_begins_anew(get, server, tmp_path):
    (tmp_path/'.a.jsonl.gz.part').write_bytes(content + b'more')
    (tmp_path/'.a.jsonl.gz.part.json').write_text(f'{{"url": "{server.url}/a.jsonl.gz", "version": "\\"v1\\""}}')
    assert get().read_bytes() == content

def test_unwritable_folder(server, tmp_path):
    (tmp_path/'file').write_text('')
    with pytest.raises(RecsysError, match='cannot write'): fetch(f'{server.url}/a', tmp_path/'file'/'a')

def host(server, folder): return Host(folder, f'{server.url}/{folder}/{{}}.jsonl.gz', f'{server.url}/{folder}/meta_{{}}.jsonl.gz')

def test_category_from_the_second_host(server, tmp_path):
    server.missing = ('/lab/Software.jsonl.gz',)
    files = download('software', dest=tmp_path/'raw', hosts=[host(server, 'lab'), host(server, 'hub')], tries=1, wait=.01)
    assert [p for p, _ in server.asked] == ['/lab/meta_Software.jsonl.gz', '/lab/Software.jsonl.gz', '/hub/Software.jsonl.gz']
    assert leftovers(tmp_path/'raw') == ['Software.jsonl.gz', 'meta_Software.jsonl.gz'] and files['reviews'].read_bytes() == content

def test_category_nobody_has(server, tmp_path):
    server.missing = ('/lab/meta_Books.jsonl.gz', '/hub/meta_Books.jsonl.gz')
    with pytest.raises(RecsysError, match='no host gave its meta.*404.*404'): download('Books', root=tmp_path, hosts=[host(server, 'lab'), host(server, 'hub')], wait=.01)
    assert leftovers(tmp_path/'data'/'raw') == []

@pytest.mark.parametrize('said, meant', [('Video Games', 'Video_Games'), ('cds & vinyl', 'CDs_and_Vinyl'), ('ELECTRONICS', 'Electronics')])
def test_names_as_people_write_them(said, meant): assert find_category(said) == meant

@pytest.mark.parametrize('said', ['Electronic', 'vdeo games', 'x', '', '../../etc/passwd', '日本'])
def test_wrong_names_list_what_there_is(said):
    with pytest.raises(RecsysError, match='There are: All_Beauty, .*Unknown'): find_category(said)
