"Names that are no text, folders that vanish, disks that are full, devices that are not there, and Ctrl-C twice: one sentence, nothing half-written, nothing of somebody else's spoilt"
import io, os, shutil, signal, subprocess, sys, time
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
import pytest
from commands import Command, command
from conftest import slowness, within
from meloformer.apps import watch as watching
from meloformer.apps.cli import run
from meloformer.data.corpus import build
from test_corpus import song

SMALL = '--model_size tiny --max_seq_len 256 --batch_size 1 --gradient_accumulation_steps 1 --num_workers 0 --val_windows 1 --sample_bars 1 --steps 1'.split()
ASK = b'{"bars": 1, "instruments": "flute"}'

@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
    "A few songs, and a corpus of them"
    d = tmp_path_factory.mktemp('prepared')
    for i in range(6): song(i, bars=10).write(d/f'in/{i}.mid')
    build(d/'in', d/'data', val_share=.2, progress=False)
    return d

def waits(path, data=ASK):
    "A file that has been left alone for a while"
    path.write_bytes(data)
    os.utime(path, (1, 1))

def inside(folder): return sorted(o.name for o in folder.rglob('*') if o.name!='.meloformer.lock')

# ------------------------------------------------------------------------------------------------ names

ODD = os.fsdecode(b'b\xffd \xe9') # Latin-1, and no UTF-8

def test_names_that_are_no_text(prepared, checkpoint, tmp_path, monkeypatch):
    "All that is written may be called so, and is read again under that name"
    monkeypatch.chdir(tmp_path)
    shutil.copytree(prepared/'in', ODD+'in')
    for args in (['prepare', ODD+'in', '--out', ODD+'data', '--workers', 0, '--val_share', .2], ['caption', ODD+'data', '--workers', 0, '--page', 1], ['train', '--data', ODD+'data', '--out', ODD+'run', *SMALL],
                 ['train', '--config', ODD+'run/config.toml'], ['monitor', ODD+'run'], ['generate', ODD+'run', '--bars', 1, '--out', ODD+'.mid', '--stems'], ['text', 'flute, 1 bar', '--model', checkpoint, '--out', ODD+'t.mid'],
                 ['evaluate', ODD+'in', '--data', ODD+'data', '--out', ODD+'found', '--bars', 2, '--page']):
        with redirect_stdout(io.StringIO()),redirect_stderr(err := io.StringIO()): status = run(args[0], list(map(str, args[1:]))) # a console escapes them
        assert status==0, ascii(err.getvalue())
    assert all(Path(ODD+o).exists() for o in ('data/captions.html', 'run/config.toml', 'run/samples', '.mid', '.png', 't.mid', 'found/report.html')) and not list(tmp_path.rglob('*.part'))

@pytest.mark.parametrize('name,data,answer', [(ODD+'.json', ASK, '.answer.mid'), (ODD+'; fill=9.mid', b'', '.error.txt'), (ODD+'.json', b'\xff{', '.error.txt'), ('a.json', b'\xef\xbb\xbf'+ASK, '.answer.mid'), ('A.TOML', b'bars = 1', '.answer.mid'),
                                              ('\x1b[31m\n.json', ASK, '.answer.mid'), ('a.json', b' '*(2<<20), '.error.txt'), ('a.json', b'{"takes": 1000000000000}', '.error.txt'), ('n'*245+'.json', ASK, '')])
def test_watched_names(name, data, answer, checkpoint, tmp_path, capsys):
    "Whatever a file is called, however large it is and whatever it asks for: the folder goes on to be watched, and the console is left alone"
    waits(tmp_path/name, data)
    waits(tmp_path/'z.json')
    assert run('watch', [str(tmp_path), str(checkpoint), '--once']) == 0
    assert inside(tmp_path)==sorted([name, 'z.json', 'z.answer.mid', *([Path(name).stem+answer] if answer else [])])
    said = capsys.readouterr().out
    assert len(said.splitlines())==4 and '\x1b' not in said and (answer or 'File name too long' in said)

# ------------------------------------------------------------------------------------------------ places

def test_a_lock_that_leads_elsewhere(checkpoint, tmp_path, capsys):
    "Who can write to a watched folder empties no file outside of it"
    (tmp_path/'in').mkdir()
    (tmp_path/'precious').write_text('precious')
    lock = tmp_path/'in/.meloformer.lock'
    for make in (lambda: lock.symlink_to(tmp_path/'precious'), lock.mkdir):
        make()
        assert run('watch', [str(tmp_path/'in'), str(checkpoint), '--once']) == 1
        err = capsys.readouterr().err
        assert '.meloformer.lock: cannot be written' in err and 'remove it' in err and err.count('\n')==1
        lock.unlink() if lock.is_symlink() else lock.rmdir()
    assert (tmp_path/'precious').read_text()=='precious'

@pytest.mark.parametrize('folder,words', [('/dev/null','no such folder'), ('none','no such folder'), ('n'*300,'n'), ('/proc/self','/proc/self/.meloformer.lock: cannot be written')])
def test_no_folder_to_watch(folder, words, checkpoint, capsys):
    assert run('watch', [folder, str(checkpoint), '--once'])==1
    err = capsys.readouterr().err
    assert words in err and err.count('\n')==1

def test_an_answer_that_cannot_be_written(checkpoint, tmp_path, capsys):
    "A folder in its place, or a full disk: that is said, the others get their answers, and nothing half-written is left"
    waits(tmp_path/'a.json')
    waits(tmp_path/'b.json')
    (tmp_path/'a.answer.mid').mkdir()
    assert run('watch', [str(tmp_path), str(checkpoint), '--once'])==0
    assert 'a.answer.mid: cannot be written (Is a directory)' in capsys.readouterr().out and inside(tmp_path)==['a.answer.mid', 'a.json', 'b.answer.mid', 'b.json']
    (tmp_path/'b.answer.mid').unlink()
    res = command('watch', tmp_path, checkpoint, '--once', most=20)
    assert res.returncode==0 and 'b.answer.mid: cannot be written (File too large)' in res.stdout and inside(tmp_path)==['a.answer.mid', 'a.json', 'b.json'], res.stderr

def test_what_vanishes(checkpoint, tmp_path, capsys, monkeypatch):
    "A file that is gone before it is looked at is passed over; a folder that is gone is said, and not made anew"
    (folder := tmp_path/'in').mkdir()
    waits(folder/'a.json')
    real,ghosts = Path.iterdir,[folder/'ghost.json']
    monkeypatch.setattr(Path, 'iterdir', lambda self: iter([*real(self), *ghosts]))
    monkeypatch.setattr(watching.time, 'sleep', lambda _: shutil.rmtree(folder))
    assert run('watch', [str(folder), str(checkpoint)])==1
    out,err = capsys.readouterr()
    assert 'a.answer.mid: written' in out and f'{folder}: cannot be read any more' in err and err.count('\n')==1
    folder.mkdir()
    waits(folder/'a.json')
    monkeypatch.setattr(watching.MeloFormer, 'generate', lambda *_: (shutil.rmtree(folder), song(0, bars=1))[1])
    assert run('watch', [str(folder), str(checkpoint), '--once'])==0 and 'its folder is gone' in capsys.readouterr().out and not folder.exists()

@pytest.mark.parametrize('device', ['tpu', 'cuda:99', 'meta'])
@pytest.mark.parametrize('command', ['generate', 'text', 'evaluate', 'serve', 'watch'])
def test_a_device_that_is_not_there(command, device, checkpoint, prepared, tmp_path, capsys):
    "It is no fault of the checkpoint"
    args = dict(generate=[checkpoint, '--out', tmp_path/'a.mid'], text=['flute', '--model', checkpoint, '--out', tmp_path/'a.mid'], evaluate=[checkpoint, '--data', prepared/'data', '--pieces', 1, '--out', tmp_path/'e'],
                serve=[checkpoint, '--port', 0], watch=[tmp_path, checkpoint, '--once'])
    assert run(command, [*map(str, args[command]), '--device', device])==1
    err = capsys.readouterr().err
    assert f'--device {device}: there is no such device here; leave it out, or give cpu' in err and err.count('\n')==1 and not inside(tmp_path)[1:]

# ------------------------------------------------------------------------------------------------ Ctrl-C twice

def twice(p, gap):
    os.kill(p.pid, signal.SIGINT)
    time.sleep(gap)
    with suppress(ProcessLookupError): os.kill(p.pid, signal.SIGINT) # it may have ended with the first
    time.sleep(gap)

def test_a_second_ctrl_c_waits_for_nothing(tmp_path):
    "Not for a thread that does not end, nor for what is to be done at the end"
    code = '''import atexit, threading, time
from meloformer.apps import cli
def busy(name, args):
    threading.Thread(target=time.sleep, args=(60,)).start()
    raise KeyboardInterrupt
cli.command = lambda name: busy(name, None)
cli.main()'''
    p = subprocess.Popen([sys.executable, '-c', code, 'generate'], stderr=subprocess.PIPE, text=True)
    said = p.stderr.readline()+p.stderr.readline()
    assert 'meloformer generate: stopped' in said
    time.sleep(.3)
    start = time.time()
    p.send_signal(signal.SIGINT)
    err = p.communicate(timeout=50)[1]
    assert p.returncode==130 and err=='' and within(5, start)

LONG = dict(prepare=['prepare', 'in', 'new', '--workers', 2], caption=['caption', 'data', '--workers', 2], generate=['generate', 'model', '--bars', 5000, '--out', 'new.mid'],
            evaluate=['evaluate', 'model', '--data', 'data', '--bars', 400, '--out', 'new'], watch=['watch', 'box', 'model'])

@pytest.mark.parametrize('name', LONG)
def test_ctrl_c_twice(name, prepared, checkpoint, tmp_path, monkeypatch):
    "Status 130 at once, one sentence, and of what was to be written nothing, or what the same command goes on from"
    monkeypatch.chdir(tmp_path)
    for o in ('in','data'): shutil.copytree(prepared/o, o)
    Path('model').symlink_to(checkpoint)
    Path('box').mkdir()
    waits(Path('box/a.json'), b'{"bars": 5000, "instruments": "flute"}')
    before,p = inside(tmp_path),Command(*LONG[name])
    begun = dict(prepare=lambda: Path('new.part').exists(), caption=lambda: Path('data/captions-train.part').exists(), evaluate=lambda: Path('new').exists(), watch=lambda: 'watches' in p.stdout.readline(), generate=lambda: time.sleep(1) or True)
    end = time.time()+60*slowness()
    while not begun[name](): assert time.time()<end and p.poll() is None; time.sleep(.01)
    twice(p, .01)
    start,(_,err) = time.time(),p.communicate()
    assert p.returncode==130 and 'Traceback' not in err and within(5, start), err
    left = set(inside(tmp_path))-set(before)
    assert not left or name in ('prepare','caption','evaluate') and all(o.endswith('.part') or o=='new' for o in left if not Path('new.part').exists()) and not Path('new/evaluation.json').exists() and not Path('new/manifest.json').exists()
