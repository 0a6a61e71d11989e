"`download` from a local host that speaks as Hugging Face does, breaks off, lacks files, or sends too little."

import gzip, hashlib, re, threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import constants, hf_hub_download

import recsys_nb.data.download as downloading
from recsys_nb.core.files import RecsysError, only_one
from recsys_nb.data.download import download

content = b''.join(b'{"rating": %d.0, "text": "review %d"}\n' % (i % 5 + 1, i * 7919 % 10007) for i in range(30_000))


class Server(ThreadingHTTPServer):
    "`pieces` are the bytes after which it hangs up, in turn; `asked` remembers the file and the range of each request."

    daemon_threads = True

    def __init__(self):
        super().__init__(('127.0.0.1', 0), Handler)
        self.asked, self.pieces, self.missing, self.length = [], [], (), len(content)
        threading.Thread(target=self.serve_forever, kwargs=dict(poll_interval=0.01), daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def head(self, start=0):
        name = self.path.rsplit('/', 1)[-1]
        if name in self.server.missing:
            self.send_response(404)
            self.send_header('X-Error-Code', 'EntryNotFound')
            self.send_header('Content-Length', '0')
            return self.end_headers()
        self.send_response(206 if start else 200)
        self.send_header('Content-Length', str(self.server.length - start))
        self.send_header('ETag', f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header('X-Repo-Commit', 'a' * 40)
        if start:
            self.send_header('Content-Range', f'bytes {start}-{self.server.length - 1}/{self.server.length}')
        self.end_headers()
        return name

    def do_HEAD(self):
        self.head()

    def do_GET(self):
        start = int(re.search(r'\d+', self.headers.get('Range', 'bytes=0-'))[0])
        name = self.head(start)
        if not name:
            return
        self.server.asked.append((name, start))
        pieces = self.server.pieces
        self.wfile.write(content[start : start + (pieces.pop(0) if pieces else len(content))])
        self.close_connection = True


@pytest.fixture
def server(monkeypatch):
    s = Server()
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
    here = partial(hf_hub_download, endpoint=f'http://127.0.0.1:{s.server_port}')
    monkeypatch.setattr(downloading, 'hf_hub_download', here)
    yield s
    s.shutdown()
    s.server_close()


def files(folder):
    return sorted(p.name for p in folder.iterdir() if p.is_file() and not p.name.endswith('.lock'))


def test_both_files_and_nothing_else(server, tmp_path):
    found = download('software', root=tmp_path)
    raw = tmp_path / 'data' / 'raw'
    assert found == dict(meta=raw / 'meta_Software.jsonl', reviews=raw / 'Software.jsonl')
    assert found['reviews'].read_bytes() == content
    assert files(raw) == ['Software.jsonl', 'meta_Software.jsonl']


def test_what_is_there_is_not_fetched_again(server, tmp_path):
    (tmp_path / 'Software.jsonl.gz').write_bytes(gzip.compress(content))
    first, again = (download('Software', tmp_path) for _ in range(2))
    assert first == again and first['reviews'].name == 'Software.jsonl.gz'
    assert [name for name, start in server.asked] == ['meta_Software.jsonl']


def test_what_broke_off_is_resumed(server, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, 'DOWNLOAD_CHUNK_SIZE', 1000)  # it is written in pieces of 10 MB
    server.pieces = [5000] * 2
    assert download('Software', tmp_path)['meta'].read_bytes() == content
    first, *later = [start for name, start in server.asked if name == 'meta_Software.jsonl']
    assert first == 0 and max(later) > 0


def test_a_missing_file_and_too_short_a_one(server, tmp_path):
    server.missing = ('Software.jsonl',)
    with pytest.raises(RecsysError, match='review_categories/Software.jsonl: not fetched.*404'):
        download('Software', tmp_path)
    assert files(tmp_path) == ['meta_Software.jsonl']
    server.missing, server.length = (), len(content) + 100
    with pytest.raises(RecsysError, match='not fetched'):
        download('Software', tmp_path)
    assert files(tmp_path) == ['meta_Software.jsonl']


def test_two_at_once(server, tmp_path):
    with only_one(tmp_path / 'meta_Software.jsonl', 'file'):
        with pytest.raises(RecsysError, match='another process'):
            download('Software', tmp_path)


def test_without_a_network(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    with pytest.raises(RecsysError, match='not fetched from Hugging Face') as e:
        download('Software', tmp_path)
    assert '\n' not in str(e.value)


def test_unwritable_folder(server, tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(RecsysError, match='cannot write'):
        download('Software', tmp_path / 'file' / 'a')


names = [('Video Games', 'Video_Games'), ('cds & vinyl', 'CDs_and_Vinyl'), ('ELECTRONICS', 'Electronics')]


@pytest.mark.parametrize('said, meant', names)
def test_names_as_people_write_them(said, meant, tmp_path):
    for name in (f'{meant}.jsonl', f'meta_{meant}.jsonl'):
        (tmp_path / name).touch()
    assert download(said, tmp_path)['reviews'].name == f'{meant}.jsonl'


@pytest.mark.parametrize('said', ['Electronic', 'vdeo games', 'x', '', '../../etc/passwd', '日本'])
def test_wrong_names_list_what_there_is(said, tmp_path):
    with pytest.raises(RecsysError, match='There are: All_Beauty, .*Unknown'):
        download(said, tmp_path)
