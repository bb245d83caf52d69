"One clear line, a status that is not zero, nothing half-written, nothing lost"
import json, os, random, resource, shutil, signal, subprocess, sys, time
from pathlib import Path
import pytest
from commands import Command, command
from conftest import same_folders
from meloformer.apps.cli import run
from meloformer.data.corpus import Limits, encode_file
from meloformer.tokens.hid import HID
from meloformer.net.model import Config, MeloFormer
from meloformer.music.score import Score
from meloformer.net.checkpoint import checkpoints, save_checkpoint

root = Path(__file__).resolve().parent.parent

SMALL = '--model_size tiny --max_seq_len 256 --batch_size 1 --gradient_accumulation_steps 1 --num_workers 0 --val_windows 1 --sample_bars 0 --steps 2'.split()

@pytest.fixture
def fails(capsys):
    "Run a command that must fail; its one line"
    def _f(*args):
        status = run(args[0], [str(o) for o in args[1:]])
        err = capsys.readouterr().err
        assert status == 1 and err.count('\n') == 1 and err.startswith(f'meloformer {args[0]}: '), err
        return err
    return _f

@pytest.fixture
def ckpt(tmp_path):
    MeloFormer(Config(width=64, layers=1, heads=1, kv_heads=1)).save(tmp_path/'model', HID())
    return tmp_path/'model'

def test_nothing_to_read(fails, tmp_path):
    (tmp_path/'empty').mkdir()
    (tmp_path/'text').mkdir()
    (tmp_path/'text/a.txt').write_text('no music')
    assert 'no such file or folder' in fails('prepare', tmp_path/'none', tmp_path/'out')
    assert 'no MIDI files' in fails('prepare', tmp_path/'empty', tmp_path/'out')
    assert 'no MIDI files' in fails('prepare', tmp_path/'text', tmp_path/'out')
    assert 'no such file' in fails('check', tmp_path/'none')
    (tmp_path/'text/list.txt').write_text('\n')
    (tmp_path/'text/page.pdf').write_bytes(b'\xff\xfe\x00')
    assert 'names no files' in fails('check', tmp_path/'text/list.txt')
    assert 'neither a MIDI file' in fails('prepare', tmp_path/'text/page.pdf', tmp_path/'out')
    assert sorted(o.name for o in tmp_path.iterdir()) == ['empty', 'text']

def test_bad_among_good(midi_folder, tmp_path, capsys, fails):
    src = tmp_path/'src'
    src.mkdir()
    good = sorted(midi_folder.glob('bach*.mid'))[:12]
    for f in good: shutil.copy(f, src)
    whole = good[0].read_bytes()
    (src/'cut.mid').write_bytes(whole[:len(whole)//2])
    (src/'head.mid').write_bytes(whole[:40])
    (src/'zero.mid').write_bytes(b'')
    (src/'page.mid').write_text('<html>')
    (src/'copy.mid').write_bytes(whole)
    (src/'folder.mid').mkdir()
    assert run('prepare', [str(src), str(tmp_path/'out'), '--workers', '0', '--val_share', '0']) == 0
    out = capsys.readouterr().out
    assert '3 unreadable' in out and 'mended, in files: 1 track count, 1 truncated' in out, out
    fate = {Path(o['path']).name: o['reason'] for o in map(json.loads, (tmp_path/'out/files.jsonl').read_text().splitlines())}
    assert {k for k,v in fate.items() if v=='unreadable'} == {'head.mid', 'zero.mid', 'page.mid'} and not fate['cut.mid']
    assert list(fate.values()).count('duplicate') == 1
    for f in good: (src/f.name).unlink()
    for f in ('copy', 'cut'): (src/f'{f}.mid').unlink()
    assert 'no file could be kept: 3 unreadable' in fails('prepare', src, tmp_path/'out2', '--workers', 0)

def test_damaged_bytes(midi_folder, tmp_path):
    "Files with a few wrong bytes are read, or refused in words; nothing else"
    rng,hid,whole,fate = random.Random(0),HID(),sorted(midi_folder.glob('bach*.mid')),set()
    for _ in range(150):
        b = bytearray(rng.choice(whole).read_bytes())
        for _ in range(rng.choice([1, 3])): b[rng.randrange(8, rng.choice([30, len(b)]))] = rng.choice([0, 0x51, 0x58, 0x7f, 0x80, 0x90, 0xff, rng.randrange(256)])
        (tmp_path/'a.mid').write_bytes(b[:rng.choice([len(b)]*9+[len(b)//2])])
        fate.add(encode_file(tmp_path/'a.mid', hid, Limits())['reason'])
    assert {'', 'unreadable'} <= fate

def test_endless(tmp_path, capsys):
    "Two notes that are 268 million quarter notes apart would be as many bars; the first is read"
    body = b'\0\x90\x3c\x40\1\x80\x3c\0\xff\xff\xff\x7f\x90\x40\x40\1\x80\x40\0\0\xff\x2f\0'
    (tmp_path/'a.mid').write_bytes(b'MThd\0\0\0\6\0\0\0\1\0\1MTrk'+len(body).to_bytes(4, 'big')+body)
    assert run('check', [str(tmp_path), '--workers', '0']) == 0
    out = capsys.readouterr().out
    assert '1 files, 1 notes: 1 same' in out and '1 too long' in out, out

def test_workers_write_the_same_bytes(midi_folder, tmp_path):
    few = tmp_path/'few.txt'
    few.write_text('\n'.join(map(str, sorted(midi_folder.glob('*.mid'))[:20])))
    for n in (0, 2): assert run('prepare', [str(few), str(tmp_path/f'{n}'), '--workers', str(n)]) == 0
    assert same_folders(tmp_path/'0', tmp_path/'2')

def test_wrong_words(fails, corpus_folder, tmp_path, ckpt):
    out = ['--out', tmp_path/'run']
    for words,args in (('--data', []), ('no prepared corpus', ['--data', tmp_path]), ('no size is called', ['--data', corpus_folder, '--model_size', 'huge']),
        ('multiple of 128', ['--data', corpus_folder, '--max_seq_len', 1000]), ('no mask is called', ['--data', corpus_folder, '--mask', 'all']),
        ('at least 1', ['--data', corpus_folder, '--batch_size', 0]), ('--lr', ['--data', corpus_folder, '--lr', -1]), ('--lr', ['--data', corpus_folder, '--lr', 'nan']),
        ('--dropout', ['--data', corpus_folder, '--dropout', 2]), ('--device', ['--data', corpus_folder, '--device', 'tpu'])):
        assert words in fails('train', *args, *out)
    for words,args in (('no General MIDI', ['--instruments', 'kazoophone']), ('no meter', ['--meter', '4/5']), ('tempo lies', ['--tempo', 5]),
        ('top_p', ['--top_p', 2]), ('bars', ['--bars', 0]), ('none.mid', ['--prompt', tmp_path/'none.mid']),
        ('top_k', ['--top_k', -1]), ('temperature', ['--temperature', 'nan']), ('seed', ['--seed', -1]), ('ends in one of .mid', ['--out', tmp_path/'p.png']),
        ('ends in one of .mid', ['--out', tmp_path/'p']), ('is a folder', ['--out', tmp_path])):
        assert words in fails('generate', ckpt, '--out', tmp_path/'p.mid', *args)
    for words,args in (('ends in one of .mid', ['--out', tmp_path/'p.ogg']), ('PNG', ['--picture', tmp_path/'p.txt'])): assert words in fails('live', *args)
    for words,args in (('empty', ['']), ('contradict', ['a fast slow waltz in 5/4']), ('--meter 4/4', ['a waltz', '--meter', '4/4']), ('10,000 words', ['la '*10_000]), ('English', ['ein Walzer für Flöte und Harfe']),
        ('overlap', ['[1-8] flute [5-12] strings']), ('outside of the 8 bars', ['[1-8] flute [9-12] strings', '--bars', 8]), ('bars 5 to 8 belong to no section', ['[1-4] flute [9-12] strings']), ('[9-]', ['[9-] flute']),
        ("'kazoo'", ['flute', '--without', 'kazoo']), ('leave --prompt out', ['flute; harp', '--prompt', tmp_path/'none.mid'])):
        assert words in fails('text', *args, '--model', ckpt, '--out', tmp_path/'p.mid')
    assert '4, 8, 12, 24 or 48' in fails('prepare', tmp_path, tmp_path/'x', '--positions_per_beat', 7)
    with pytest.raises(SystemExit) as e: run('train', ['--no_such_flag'])
    assert e.value.code == 2
    assert sorted(o.name for o in tmp_path.iterdir()) == ['model']

@pytest.mark.parametrize('suffix,what', [('.wav','fluidsynth'), ('.mp3','fluidsynth'), ('.musicxml','music21')])
def test_format_that_is_not_installed(suffix, what, fails, ckpt, tmp_path, monkeypatch):
    "Said before a note is written, with the command that installs it"
    monkeypatch.setattr('shutil.which', lambda name: None)
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    said = fails('generate', ckpt, '--out', tmp_path/f'p{suffix}')
    assert f'needs {what}, which is not installed: ' in said and 'install ' in said.partition('installed')[2]
    assert not list(tmp_path.glob('p*'))

def test_window_shorter_than_a_bar(midi_folder, tmp_path, fails):
    "A bar of more than 192 tokens"
    import numpy as np
    from meloformer.music.score import NOTE, Track, columns
    n = 780
    Score(480, columns(NOTE, onset=np.arange(n)*1920//200, duration=40, pitch=40+np.arange(n)*7%40, velocity=1+np.arange(n)*31%120), [Track()]).write(tmp_path/'midi/dense.mid')
    assert run('prepare', [str(tmp_path/'midi'), str(tmp_path/'data'), '--workers', '0', '--val_share', '0', '--min_seconds', '1', '--min_beats', '4', '--min_grid', '-1']) == 0
    assert 'shorter than a bar' in fails('train', '--data', tmp_path/'data', '--out', tmp_path/'run', *SMALL)

@pytest.mark.parametrize('name', ['model.safetensors', 'model.json', 'hid.json'])
def test_damaged_checkpoint(ckpt, tmp_path, fails, name):
    b = (ckpt/name).read_bytes()
    (ckpt/name).write_bytes(b[:len(b)//2])
    assert str(ckpt) in fails('generate', ckpt, '--out', tmp_path/'p.mid', '--bars', 2)
    assert not (tmp_path/'p.mid').exists()

@pytest.mark.parametrize('width,layers', [(128, 1), (64, 2)])
def test_weights_of_another_model(ckpt, tmp_path, fails, width, layers):
    d = json.loads((ckpt/'model.json').read_text()) | dict(width=width, layers=layers)
    (ckpt/'model.json').write_text(json.dumps(d))
    assert 'another model' in fails('generate', ckpt, '--out', tmp_path/'p.mid')

@pytest.mark.parametrize('name', ['manifest.json', 'hid.json', 'train.npy', 'train-00000.bin'])
@pytest.mark.parametrize('share', [None, 0, .5])
def test_damaged_corpus(corpus_folder, tmp_path, fails, name, share):
    "A file of it is gone, empty or cut"
    data = shutil.copytree(corpus_folder, tmp_path/'data')
    b = (data/name).read_bytes()
    (data/name).unlink()
    if share is not None: (data/name).write_bytes(b[:int(len(b)*share)])
    assert str(data) in fails('train', '--data', data, '--out', tmp_path/'run', *SMALL)
    assert not (tmp_path/'run').exists()

@pytest.mark.parametrize('ppb', [4, 48])
def test_another_grid(ckpt, tmp_path, fails, ppb):
    HID(ppb).save(ckpt)
    assert 'the model knows 1152 tokens' in fails('generate', ckpt, '--out', tmp_path/'p.mid')

def test_another_vocabulary(ckpt, tmp_path, fails):
    d = json.loads((ckpt/'hid.json').read_text())
    d['vocab'][70] = 'Chord_H:maj'
    (ckpt/'hid.json').write_text(json.dumps(d))
    assert 'another vocabulary' in fails('generate', ckpt, '--out', tmp_path/'p.mid')

def test_another_config(corpus_folder, tmp_path, fails, capsys):
    go = ['train', '--data', corpus_folder, '--out', tmp_path/'run', *SMALL]
    assert run(go[0], list(map(str, go[1:]))) == 0
    assert 'was trained with' in fails(*go, '--mask', 'dense')
    assert 'was trained with' in fails(*go, '--max_seq_len', 512)
    f = checkpoints(tmp_path/'run')[-1]/'train.pt'
    f.write_bytes(f.read_bytes()[:100])
    assert run(go[0], list(map(str, go[1:]))) == 0
    said = capsys.readouterr().out
    assert str(f) in said and 'the run begins anew' in said and (f.parent.parent/f'damaged_1_{f.parent.name}'/'train.pt').stat().st_size==100

def test_disk_full(corpus_folder, midi_folder, tmp_path, ckpt):
    "Files of this process may not grow beyond a limit: what was there stays, and what was done is not done again"
    def limited(size, *args): return command(*args, most=size)
    res = limited(20_000, 'prepare', midi_folder, tmp_path/'data', '--workers', 0)
    assert res.returncode == 1 and res.stderr.strip().splitlines()[-1].startswith(f'meloformer prepare: {tmp_path/"data.part"}'), res.stderr
    assert not (tmp_path/'data').exists()
    for o in ('data', 'whole'): assert run('prepare', [str(midi_folder), str(tmp_path/o), '--workers', '0']) == 0
    assert same_folders(tmp_path/'data', tmp_path/'whole')
    res = limited(2_000_000, 'train', '--data', corpus_folder, '--out', tmp_path/'run', *SMALL)
    assert res.returncode == 1 and 'could not be written (File too large); free some space' in res.stderr.splitlines()[-1], res.stderr # and nothing of PyTorch's own
    res = limited(20, 'generate', ckpt, '--out', tmp_path/'p.mid', '--bars', 2)
    assert res.returncode == 1 and res.stderr.strip().splitlines()[-1].startswith('meloformer generate: '), res.stderr
    assert not [str(o) for o in tmp_path.rglob('*') if o.suffix=='.part' or o.stem=='p']

def interrupted(when, *args):
    "A command that gets Ctrl-C when its output shows `when`: exit status, output"
    p = Command(*args, merged=True)
    if isinstance(when, str):
        for line in p.stdout:
            if when in line: break
    else:
        while not when.exists(): time.sleep(.05); assert p.poll() is None
    os.killpg(p.pid, signal.SIGINT)
    out,_ = p.communicate(timeout=1200)
    return p.returncode,out

def test_ctrl_c_at_once(corpus_folder, tmp_path):
    "While the libraries are still being loaded"
    p = subprocess.Popen([sys.executable, '-m', 'meloformer.apps.cli', 'train', '--data', str(corpus_folder), '--out', str(tmp_path/'run')], stderr=subprocess.PIPE, text=True)
    time.sleep(1)
    p.send_signal(signal.SIGINT)
    err = p.communicate(timeout=1200)[1]
    assert p.returncode == 130 and 'Traceback' not in err, err

def test_background_of_a_shell():
    "What a shell starts with `&` is deaf to Ctrl-C; the tests are not, nor what they start"
    child = "import signal, sys; sys.exit(signal.getsignal(signal.SIGINT)!=signal.default_int_handler)"
    code = f"import signal, subprocess, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); deaf = subprocess.call([sys.executable, '-c', {child!r}]); import conftest; sys.exit(10*subprocess.call([sys.executable, '-c', {child!r}])+deaf)"
    assert subprocess.run([sys.executable, '-c', code], cwd=root/'tests').returncode == 1

def test_ctrl_c_while_saving(tmp_path, ckpt, monkeypatch):
    "A second Ctrl-C stops the writing, too"
    def interrupt(*_, **__): raise KeyboardInterrupt
    monkeypatch.setattr('meloformer.net.checkpoint.torch.save', interrupt)
    model = MeloFormer.load(ckpt)
    with pytest.raises(KeyboardInterrupt): save_checkpoint(tmp_path/'run', model, HID(), model.state_dict(), dict(step=1))
    assert not list((tmp_path/'run').iterdir())

def test_batch_script():
    "The script says the same as the command"
    res = subprocess.run([sys.executable, root/'scripts/train.py', '--data', 'none'], capture_output=True, text=True)
    assert res.returncode == 1 and res.stderr.startswith('meloformer train: none') and res.stderr.count('\n') == 1, res.stderr

def test_ctrl_c(midi_folder, corpus_folder, tmp_path, ckpt):
    many = tmp_path/'many.txt'
    many.write_text('\n'.join(list(map(str, midi_folder.glob('*.mid')))*20))
    status,out = interrupted(tmp_path/'data.part', 'prepare', many, tmp_path/'data', '--workers', 2)
    assert status == 130 and 'Traceback' not in out and 'the same command goes on from here' in out, out
    status,out = interrupted('step 2/', 'train', '--data', corpus_folder, '--out', tmp_path/'run', *SMALL[:-1], 500, '--log_every', 1)
    assert status == 130 and 'goes on from here' in out and 'Traceback' not in out, out
    assert checkpoints(tmp_path/'run')
    assert [o.name for o in tmp_path.rglob('*.part')] == ['data.part'] and not (tmp_path/'data').exists()
    p = Command('generate', ckpt, '--out', tmp_path/'p.mid', '--bars', 20_000)
    time.sleep(3)
    p.send_signal(signal.SIGINT)
    err = p.communicate(timeout=1200)[1]
    assert p.returncode == 130 and err.strip().startswith('meloformer generate: stopped') and not (tmp_path/'p.mid').exists(), err

@pytest.mark.parametrize('buffered', ('', '1'))
def test_a_reader_that_has_seen_enough(buffered, midi_folder):
    "`meloformer … | head` is no error, whether lines are kept back or not"
    p = subprocess.Popen([sys.executable, '-m', 'meloformer.apps.cli', 'check', str(min(midi_folder.iterdir())), '--workers', '0'], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ|dict(PYTHONUNBUFFERED=buffered))
    p.stdout.close()
    assert p.wait(1200)==0 and p.stderr.read()==b''

# ------------------------------------------------------------------------------------------------ places that are none

LONG = 'n'*300
ODD = ('/dev/zero', '/dev/null', '/dev/full', '', LONG, '曲 🎵\n', 'loop', 'empty', 'file', 'folder.mid', '/proc/self/mem')
ASKED = dict(check=['check', '?', '--workers', '0'], prepare=['prepare', '?', '--out', 'new', '--workers', '0'], generate=['generate', '?', '--bars', '1', '--out', 'new.mid'], prompt=['generate', 'model', '--out', 'new.mid', '--prompt', '?'],
    text=['text', 'flute', '--model', '?', '--out', 'new.mid'], train=['train', '--data', '?', '--out', 'new', *SMALL], config=['train', '--config', '?'], init=['train', '--data', 'data', '--out', 'new', '--init_from', '?', *SMALL], phases=['train', '--data', 'data', '--out', 'new', '--phases', '?', *SMALL],
    mask=['train', '--data', 'data', '--out', 'new', '--mask', '?.py:x', *SMALL], monitor=['monitor', '?'], evaluate=['evaluate', '?', '--data', 'data'], evaluate_data=['evaluate', 'model', '--data', '?'], caption=['caption', '?'])
EMPTY_IS_NONE = 'check prepare generate prompt text init phases config evaluate monitor'.split() # and `check file` reads a list of one name; an empty text is the folder one is in, or as if the flag were not there

@pytest.fixture
def odd_folder(ckpt, corpus_folder, tmp_path, monkeypatch):
    "A folder of odd places; who reads a device to its end gets no more memory, instead of all of this machine"
    monkeypatch.chdir(tmp_path)
    old = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (4<<30, old[1]))
    (tmp_path/'data').symlink_to(corpus_folder)
    (tmp_path/'loop').symlink_to('loop')
    (tmp_path/'file').write_text('x')
    for o in ('empty','folder.mid'): (tmp_path/o).mkdir()
    yield tmp_path
    resource.setrlimit(resource.RLIMIT_DATA, old)

@pytest.mark.parametrize('asked', ASKED)
def test_what_is_read_from_odd_places(asked, odd_folder, fails):
    "Devices without an end, links in circles, names that are too long: one sentence, at once, and nothing is made"
    before = sorted(o.name for o in odd_folder.iterdir())
    for o in ODD:
        if (o or asked not in EMPTY_IS_NONE) and (asked, o)!=('check', 'file'): fails(*(a.replace('?', o) for a in ASKED[asked]))
        assert sorted(o.name for o in odd_folder.iterdir())==before

@pytest.mark.parametrize('out', ['/proc/x', '/dev/null', '/dev/null/x', LONG, 'loop', 'file', 'empty', '/'])
@pytest.mark.parametrize('command', ['prepare', 'train', 'generate'])
def test_what_is_written_to_odd_places(command, out, odd_folder, corpus_folder, midi_folder, fails):
    "The same"
    before = sorted(o.name for o in odd_folder.iterdir())
    how = dict(prepare=['prepare', min(midi_folder.iterdir()), '--workers', 0, '--val_share', 0, '--out', out], train=['train', '--data', corpus_folder, *SMALL, '--out', out], generate=['generate', 'model', '--bars', 1, '--out', out if out=='/' else out+'.mid' if out in ('file','empty','loop') else out+'/x.mid'])
    if (command, out) not in (('generate', 'file'), ('generate', 'empty'), ('generate', 'loop'), ('train', 'empty'), ('train', '/')): # these are free
        fails(*how[command])
        assert sorted(o.name for o in odd_folder.iterdir())==before

def test_a_corpus_behind_a_link(midi_folder, tmp_path, monkeypatch):
    "It is made, and grows, where the link leads; so it does in the folder one is in"
    some = sorted(midi_folder.glob('bach*.mid'))[:4]
    (tmp_path/'disk').mkdir()
    (tmp_path/'data').symlink_to(tmp_path/'disk/data')
    for o in (some[:2], some[2:]): assert run('prepare', [*map(str, o), str(tmp_path/'data'), '--workers', '0'])==0
    assert (tmp_path/'data').is_symlink() and [o.name for o in (tmp_path/'disk').iterdir()]==['data']
    assert run('prepare', [*map(str, some[:2]), str(tmp_path/'here'), '--workers', '0'])==0
    monkeypatch.chdir(tmp_path/'here')
    assert run('prepare', [*map(str, some[2:]), '--out', '.', '--workers', '0'])==0
    assert same_folders(tmp_path/'here', tmp_path/'data')
