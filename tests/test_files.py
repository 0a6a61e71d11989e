"Files and folders: whenever a writer is killed, what is found is whole, the next succeeds, and nothing is left over."

import gzip, os, threading

import pytest
from recsys_nb.core.files import RecsysError, lines_of, only_one, recover_folder, replace_folder, swap_folder


def folder(path, text):
    path.mkdir()
    for name in 'abc':
        (path / name).write_text(text)
    return path


def content(path):
    return [f.read_text() for f in sorted(path.iterdir())]


def killed_at(n, what):
    "Run `what` in a process that dies before its `n`-th renaming or removal; whether it died."
    pid = os.fork()
    if pid:
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) in (0, 9)
        return os.waitstatus_to_exitcode(status) == 9
    left = [n]

    def dying(do):
        def step(*a, **k):
            left[0] -= 1
            if not left[0]:
                os._exit(9)
            return do(*a, **k)

        return step

    for name in ('rename', 'unlink', 'rmdir'):
        setattr(os, name, dying(getattr(os, name)))
    try:
        what()
        os._exit(0)
    except BaseException:
        os._exit(1)


@pytest.mark.parametrize('n', range(1, 12))
def test_a_swap_that_is_killed_at_any_step(tmp_path, n):
    path, part = folder(tmp_path / 'x', 'old'), folder(tmp_path / 'part', 'new')
    died = killed_at(n, lambda: swap_folder(part, path))
    assert died == (n < 9)  # three renamings, three files, their folder, and one look for what is aside
    assert content(recover_folder(path)) in (['old'] * 3, ['new'] * 3)
    if part.exists():
        swap_folder(part, path)
    assert content(path) == ['new'] * 3
    with replace_folder(path) as p:
        (p / 'a').write_text('newer')
    assert content(path) == ['newer'] and [p.name for p in tmp_path.iterdir()] == ['x']


def test_half_a_folder_is_never_put_back(tmp_path):
    path, part = folder(tmp_path / 'x', 'old'), folder(tmp_path / 'part', 'new')
    assert killed_at(6, lambda: swap_folder(part, path))  # one of the three old files is gone
    assert any(len(list(p.iterdir())) == 2 for p in tmp_path.iterdir())
    for f in path.iterdir():
        f.unlink()
    path.rmdir()  # by hand
    assert not recover_folder(path).exists()


def test_a_lock_leaves_nothing_and_clears_what_a_killed_writer_left(tmp_path):
    (tmp_path / '.x.1a2b3c4d.part').mkdir()
    (tmp_path / '.x.v2.1a2b3c4d.part').write_text('of another')
    with only_one(tmp_path / 'x', 'x'):
        assert sorted(p.name for p in tmp_path.iterdir()) == ['.x.lock', '.x.v2.1a2b3c4d.part']
    assert [p.name for p in tmp_path.iterdir()] == ['.x.v2.1a2b3c4d.part']


def test_a_lock_that_is_removed_still_keeps_others_out(tmp_path):
    "Many take turns on one path, each finding or making the lock file; never two at once."
    inside, most, held = [], [], []

    def take_turns():
        for _ in range(60):
            try:
                with only_one(tmp_path / 'x', 'x'):
                    inside.append(1)
                    most.append(len(inside))
                    inside.pop()
                    held.append(1)
            except RecsysError:
                pass

    threads = [threading.Thread(target=take_turns) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert set(most) == {1} and len(held) > 8 and not list(tmp_path.iterdir())


def test_a_damaged_archive_is_told_wherever_the_damage_is(tmp_path):
    path, whole = (
        tmp_path / 'q.tsv.gz',
        gzip.compress(''.join(f'q{i}\tkeyboard {i**2 % 97}\n' for i in range(99)).encode()),
    )
    for place in range(10, len(whole) - 8):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 85]) + whole[place + 1 :])
        with pytest.raises(RecsysError, match='q.tsv.gz: '):
            list(lines_of(path, 'queries'))
