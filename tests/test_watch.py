"A watched folder, with the command in a process of its own: killed while it writes, and started again, it does each thing once and whole"
import os, signal, time
from pathlib import Path
import pytest
from commands import Command
from conftest import slowness
from meloformer.music.score import Score

def old(path, text=None, seconds=60):
    "A file that was written a while ago"
    if text is not None: path.write_text(text)
    at = time.time()-seconds
    os.utime(path, (at, at))

def until(f, seconds=60):
    end = time.time()+seconds*slowness()
    while not f(): assert time.time()<end; time.sleep(.02)

def names(folder): return sorted(o.name for o in folder.iterdir() if not o.name.startswith('.'))

def test_killed_and_started_again(checkpoint, tmp_path):
    for i in range(6): old(tmp_path/f'{i}.json', '{"bars": 4, "instruments": "flute", "chords": "C G", "top_k": 5}', 90-i)
    p = Command('watch', tmp_path, checkpoint)
    until(lambda: len(list(tmp_path.glob('*.answer.mid')))>=2)
    p.kill(); p.wait()
    before = {o.name: o.stat().st_mtime_ns for o in tmp_path.glob('*.answer.mid')}
    assert 2<=len(before)<6
    for name in before: Score.read(tmp_path/name)
    p = Command('watch', tmp_path, checkpoint)
    until(lambda: len(list(tmp_path.glob('*.answer.mid')))==6)
    (tmp_path/'x; fill=1.mid').write_bytes(b'MThd') # damaged, and new
    until(lambda: (tmp_path/'x; fill=1.error.txt').exists())
    assert 'x; fill=1.mid' in (tmp_path/'x; fill=1.error.txt').read_text()
    p.send_signal(signal.SIGINT)
    assert p.wait(60)==130
    assert {k: (tmp_path/k).stat().st_mtime_ns for k in before}==before
    assert names(tmp_path)==sorted([f'{i}.{e}' for i in range(6) for e in ('json','answer.mid')]+['x; fill=1.mid','x; fill=1.error.txt'])

def test_two_of_them(checkpoint, tmp_path):
    p = Command('watch', tmp_path, checkpoint)
    assert 'watches' in p.stdout.readline()
    q = Command('watch', tmp_path, checkpoint)
    assert 'one is enough' in q.communicate()[1] and q.returncode==1
    p.kill(); p.wait()

@pytest.mark.parametrize('name,text,words', [('a.json', '{', 'cannot be read'), ('a.json', '['*100_000, 'cannot be read'), ('a.toml', 'prompt = "/etc/passwd"', "no field 'prompt'"), ('a.toml', 'fill = "2"', 'needs a piece'),
    ('a.json', '{"bars": 0}', '--bars is at least 1'), ('a.json', '{"chords": "C Q"}', 'Q'), ('a; bars=x.mid', 'x', '--bars is a number'), ('a; fill=9.mid', '', 'is empty')])
def test_says_what_is_wrong(checkpoint, tmp_path, name, text, words):
    from meloformer.apps.watch import watch
    old(tmp_path/name, text)
    watch(tmp_path, checkpoint, once=True)
    error, = tmp_path.glob('*.error.txt')
    assert words in error.read_text() and error.read_text().count('\n')==1 and len(names(tmp_path))==2
