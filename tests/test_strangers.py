"Checkpoints, corpora, rules and settings from strangers: real files, mutated. They work, or one clear sentence says what is wrong; no code is run, nothing outside is read, and no claim of a size is believed"
import gzip, json, os, random, resource, shutil, time
from functools import partial
from pathlib import Path
import numpy as np, pytest, torch
from safetensors.torch import load_file, save_file
from conftest import same_folders, within
from meloformer.budget.plan import _measured
from meloformer.budget.profile import MOST_TRACE, shares
from meloformer.data.corpus import Corpus, build
from meloformer.data.packing import Packs, Window
from meloformer.net.checkpoint import best_of, find_checkpoint, load_state, prune, save_checkpoint
from meloformer.net.masks import preset
from meloformer.net.pretrained import MeloFormer
from meloformer.tokens.hid import HID
from meloformer.training.config import read_config
from meloformer.training.log import read_compiled, write_compiled
from meloformer.training.monitor import status
from meloformer.training.train import read_phases
from test_corpus import song

EVIL = [None, True, -1, 0, 1, 10**6, 10**12, 10**30, 1e308, float('nan'), float('inf'), '', 'x', '../../../etc/passwd', '/etc/passwd', '\0', 'a'*5000, [], [[]], {}, {'a': {}}]

def leaves(d, at=()):
    "Every place in a JSON value"
    yield at
    for k,v in d.items() if isinstance(d, dict) else enumerate(d[:30]) if isinstance(d, list) else (): yield from leaves(v, (*at, k))

def put(d, at, value):
    "The same with another value at a place"
    if not at: return value
    d = d.copy()
    d[at[0]] = put(d[at[0]], at[1:], value)
    return d

def swapped(rng, data):
    "A JSON file with another value, a key less, or nested deeply"
    d = json.loads(data)
    at = rng.choice(list(leaves(d)))
    if rng.random()<.1: return b'['*100_000
    if at and isinstance(at[-1], str) and rng.random()<.15: return json.dumps(put(d, at[:-1], {k: v for k,v in _in(d, at[:-1]).items() if k!=at[-1]})).encode()
    return json.dumps(put(d, at, rng.choice(EVIL))).encode()

def _in(d, at): return _in(d[at[0]], at[1:]) if at else d

def flipped(rng, data):
    "Bytes with wrong bits, cut, grown, or with other numbers at their beginning, where sizes stand"
    b = bytearray(data)
    for _ in range(rng.choice([1, 3, 30])): b[rng.randrange(min(len(b), rng.choice([16, 200, len(b)])))] ^= 1<<rng.randrange(8)
    if rng.random()<.2: b = b[:rng.randrange(len(b))]
    if rng.random()<.1: b += rng.randbytes(1000)
    if rng.random()<.1: b[:8] = rng.choice([b'\xff'*8, bytes(8), (1<<40).to_bytes(8, 'little')])
    return bytes(b)

def fuzz(file, use, mutate, n=40):
    "Mutate a file so many times, and use it each time: what comes of it"
    whole,fate,rng = file.read_bytes(),dict(works=0, said=0),random.Random(0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(n):
        file.write_bytes(mutate(rng, whole))
        start = time.time()
        try: use()
        except (ValueError, OSError) as e:
            fate['said'] += 1
            assert str(e).strip() and '\n' not in str(e).strip(), e
        else: fate['works'] += 1
        assert within(10, start)
    file.write_bytes(whole)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss-before < 300_000, fate # kilobytes

@pytest.fixture
def run(tmp_path, checkpoint):
    "A run of one checkpoint"
    m = MeloFormer.load(checkpoint)
    save_checkpoint(tmp_path/'run', m, HID(), m.state_dict(), dict(step=1, seen=torch.arange(9), best=1.5))
    (tmp_path/'run/best').write_text('step_000001')
    return tmp_path/'run'

@pytest.mark.parametrize('name,mutate', [('model.json', swapped), ('model.json', flipped), ('hid.json', swapped), ('manifest.json', swapped), ('manifest.json', flipped), ('model.safetensors', flipped)])
def test_checkpoint(run, name, mutate):
    own = run/'step_000001'
    if not name.startswith('manifest'): (own/'manifest.json').unlink() # a stranger's manifest would fit
    fuzz(own/name, lambda: MeloFormer.from_pretrained(run), mutate)

def test_state(run):
    (run/'step_000001/manifest.json').unlink()
    fuzz(run/'step_000001/train.pt', lambda: load_state(run/'step_000001'), flipped)

@pytest.mark.parametrize('told', [dict(width=10**9), dict(layers=10**9), dict(vocab_size=10**12), dict(heads=0), dict(width='64'), dict(softcap=0.), dict(softcap=float('nan')), dict(dropout=7.), dict(two_pass='no'), dict(kv_heads=3), dict(mask=['dense'])])
def test_a_model_of_any_size(run, told):
    "Said before there is room for it"
    f,start = run/'step_000001/model.json',time.time()
    (run/'step_000001/manifest.json').unlink()
    f.write_text(json.dumps(json.loads(f.read_text()) | told))
    with pytest.raises(ValueError, match='use another checkpoint|the model knows'): MeloFormer.from_pretrained(run)
    assert within(5, start)

@pytest.mark.parametrize('data', [b'1.5', b'"x"', b'[]', b'null', b'true', b'[1]', b'', b'{}'])
def test_json_that_holds_no_fields(run, corpus_folder, tmp_path, data):
    "A number, a text, a list, nothing: each reader says which file is wrong"
    own,corpus = run/'step_000001',shutil.copytree(corpus_folder, tmp_path/'data')
    (run/'log.jsonl').write_text('')
    readers = {own/'manifest.json': lambda: MeloFormer.from_pretrained(run), own/'hid.json': lambda: MeloFormer.from_pretrained(run),
               own/'model.json': lambda: MeloFormer.from_pretrained(run), run/'run.json': lambda: status(run),
               run/'profile.json': lambda: _measured(run, 1e6, 0), run/'phases.json': lambda: read_phases(run/'phases.json'),
               corpus/'manifest.json': lambda: Corpus(corpus)}
    for f,use in readers.items():
        was = f.read_bytes() if f.exists() else None
        f.write_bytes(data)
        if f.name!='manifest.json' or f.parent!=own or data!=b'{}': # a manifest may name nothing
            with pytest.raises(ValueError, match=str(f.parent)): use()
        f.unlink() if was is None or f.name=='manifest.json' else f.write_bytes(was)

@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
def test_weights_that_are_no_numbers(run, bad):
    own = run/'step_000001'
    w = load_file(own/'model.safetensors')
    w['norm.weight'][3] = bad
    save_file(w, own/'model.safetensors')
    (own/'manifest.json').unlink()
    with pytest.raises(ValueError, match='no numbers'): MeloFormer.from_pretrained(run)

@pytest.mark.parametrize('name', ['../elsewhere', '/etc', 'step_000001/..', '\0', 'x'*5000, '\udcff'])
def test_the_best_is_no_path(run, checkpoint, name):
    shutil.copytree(checkpoint, run.parent/'elsewhere')
    (run/'best').write_text(name, errors='surrogateescape')
    for f in (find_checkpoint, best_of, partial(prune, keep=1)):
        with pytest.raises(ValueError, match='names no checkpoint'): f(run)

def test_a_manifest_names_files_of_its_own(run):
    "Others are not looked at, wherever they lie"
    f = run/'step_000001/manifest.json'
    f.write_text(json.dumps(json.loads(f.read_text())|{'../../elsewhere': dict(bytes=1, sha256='')}))
    MeloFormer.from_pretrained(run)

class Evil:
    "Makes a folder when it is unpickled"
    def __reduce__(self): return os.mkdir,('evil',)

def test_nothing_is_unpickled(run, grows, tmp_path, monkeypatch):
    "Neither the state of a run nor the index of a corpus brings code"
    monkeypatch.chdir(tmp_path)
    (run/'step_000001/manifest.json').unlink()
    torch.save(dict(step=1, evil=Evil()), run/'step_000001/train.pt')
    with pytest.raises(ValueError, match='train.pt: is damaged'): load_state(run/'step_000001')
    data = shutil.copytree(grows/'data', tmp_path/'data')
    np.save(data/'train.npy', np.array([Evil()], object), allow_pickle=True)
    with pytest.raises(ValueError, match='is damaged'): Corpus(data)
    assert not Path('evil').exists()

def pieces(folder):
    "What training reads of a corpus"
    c = Corpus(folder)
    for i in range(min(3, len(c))): c[i]
    list(c.names)
    packs = Packs(c, Window(1024))
    return packs[0]

@pytest.mark.parametrize('name,mutate', [('manifest.json', swapped), ('hid.json', flipped), ('train.npy', flipped), ('train-00000.bin', flipped)])
def test_corpus(corpus_folder, tmp_path, name, mutate):
    data = shutil.copytree(corpus_folder, tmp_path/'data')
    def noise(rng, b): return rng.randbytes(len(b)) if rng.random()<.5 else mutate(rng, b)
    fuzz(data/name, lambda: pieces(data), noise if name.endswith('bin') else mutate)

@pytest.fixture(scope='module')
def grows(tmp_path_factory):
    "A prepared corpus of a few songs, one of them twice, one too short, one broken; and one more song"
    d = tmp_path_factory.mktemp('grows')
    for i in range(3): song(i, bars=12).write(d/f'in/{i}.mid')
    song(0, bars=12, shift=2).write(d/'in/again.mid')
    song(9, bars=1).write(d/'in/short.mid')
    (d/'in/broken.mid').write_bytes(b'MThd')
    song(7, bars=12).write(d/'more/7.mid')
    build(d/'in', d/'data', progress=False)
    return d

def grown(d, tmp_path):
    "What is left where it cannot grow: the corpus as it was, and nothing else"
    work = tmp_path/'work'
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(d/'data', work/'data')
    try: build(d/'more', work/'data', progress=False)
    except ValueError as e:
        assert str(work/'data') in str(e) and same_folders(d/'data', work/'data') and [o.name for o in work.iterdir()]==['data'], e
        raise
    assert Corpus(work/'data').names

def line_swapped(rng, data):
    "Other values in one line, a line less or more, two at once"
    lines = data.splitlines(True)
    i = rng.randrange(len(lines))
    how = rng.randrange(8)
    lines[i:i+1] = [] if how==0 else [lines[i]]*2 if how==1 else [lines[i][:-1]+lines[i-1]] if how==2 else [swapped(rng, lines[i])+b'\n']
    return b''.join(lines)

@pytest.mark.parametrize('name,mutate', [('manifest.json', swapped), ('manifest.json', flipped), ('files.jsonl', line_swapped), ('files.jsonl', flipped), ('files.records', flipped)])
def test_a_corpus_that_grows(grows, tmp_path, name, mutate):
    "It grows, or one sentence says what is wrong, and it is left as it was"
    d = shutil.copytree(grows, tmp_path/'own')
    fuzz(d/'data'/name, lambda: grown(d, tmp_path), mutate, 8)

FOREIGN = {'7': 'line 1', '{}': 'line 1 .*path', '["x"]': 'line 1', '{"path": "a", "reason": "", "set": ""}': 'line 1', '{"path": "a", "reason": "x", "set": "", "code": "y"}': 'code', '{"path": "a", "reason": "x", "set": "", "split": "train"}': 'line 1', '['*5000: 'line 1 is no row', 'x': 'line 1 is no row'}
@pytest.mark.parametrize('row', FOREIGN)
def test_rows_of_somebody_else(grows, tmp_path, row):
    d = shutil.copytree(grows, tmp_path/'own')
    lines = (d/'data/files.jsonl').read_text().splitlines()
    (d/'data/files.jsonl').write_text('\n'.join([row, *lines[1:]]))
    with pytest.raises(ValueError, match=f'files.jsonl: is damaged .*{FOREIGN[row]}.*prepare it again'): grown(d, tmp_path)

def test_sizes_are_known_before_there_is_room(grows, tmp_path):
    "A manifest, a line and records as large as a disk, all of zeros, which take no room on it"
    for name,words in dict(zip(('manifest.json','files.records','files.jsonl'), ('too large', 'not of 6 files', 'longer than a megabyte'))).items():
        d = shutil.copytree(grows, tmp_path/name)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if name=='files.jsonl': (d/'data'/name).write_bytes(b'')
        os.truncate(d/'data'/name, 3<<30)
        with pytest.raises(ValueError, match=words): build(d/'more', d/'data', progress=False)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss-before < 300_000
    assert not list(tmp_path.glob('*/data.part'))

@pytest.mark.parametrize('mutate', [line_swapped, flipped])
def test_names_of_pieces(grows, tmp_path, mutate):
    d = shutil.copytree(grows, tmp_path/'own')
    def names():
        c = Corpus(d/'data')
        assert len(c.names)==len(c) and all(isinstance(o, str) for o in c.names)
    fuzz(d/'data/files.jsonl', names, mutate)

@pytest.mark.parametrize('shape', [(10**12,), (10**7, 10**7), (-1,), ()])
def test_an_index_of_any_size(corpus_folder, tmp_path, shape):
    data = shutil.copytree(corpus_folder, tmp_path/'data')
    from numpy.lib import format
    with open(data/'train.npy', 'wb') as f: format.write_array_header_1_0(f, dict(descr=format.dtype_to_descr(Corpus(corpus_folder).index.dtype), fortran_order=False, shape=shape))
    with pytest.raises(ValueError, match='is damaged'): Corpus(data)

def test_a_manifest_that_says_other_things(corpus_folder, tmp_path):
    data = shutil.copytree(corpus_folder, tmp_path/'data')
    told = json.loads((data/'manifest.json').read_text())
    for bad in ([], 7, {}, {k: v for k,v in told.items() if k!='fingerprint'}, told|dict(sets=3), told|dict(sets={})):
        (data/'manifest.json').write_text(json.dumps(bad))
        with pytest.raises(ValueError, match='is damaged'): Corpus(data)

def test_an_index_that_points_elsewhere(corpus_folder, tmp_path):
    data = shutil.copytree(corpus_folder, tmp_path/'data')
    whole = np.load(data/'train.npy')
    for field,value in (('offset', 2**63), ('offset', 2**64-8), ('length', 2**32-1), ('shard', 7), ('set', 99)):
        rows = whole.copy()
        rows[field][0] = value
        np.save(data/'train.npy', rows)
        with pytest.raises(ValueError, match='is damaged'): Corpus(data)
    np.save(data/'train.npy', np.array([{}], object), allow_pickle=True)
    with pytest.raises(ValueError, match='is damaged'): Corpus(data)

def test_settings(tmp_path):
    f = tmp_path/'c.toml'
    text = dict(data='corpus', steps=3, lr=.1, shard=False, mask='meloformer', trace='20-25', schedule='wsd')
    def toml(rng, _):
        d = text | {rng.choice([*text, 'batch_size', 'phases', 'keep']): rng.choice([v for v in EVIL if v is not None and v!=[[]]])}
        if rng.random()<.1: return b'a = '+b'['*100_000
        return ''.join(f'{k} = {"{}" if isinstance(v, dict) else json.dumps(v).replace("NaN", "nan").replace("Infinity", "inf")}\n' for k,v in d.items()).encode()
    f.write_text('x')
    fuzz(f, lambda: read_config(f), toml)
    for line in ('steps = "3"', 'lr = []', 'shard = 1', 'batch_size = 2.5', 'data = 3'):
        f.write_text(('' if 'data' in line else 'data = "d"\n')+line)
        with pytest.raises(ValueError, match=rf'--config {f}: {line.split()[0]} is'): read_config(f)
    f.write_bytes(b'#'*(2<<20))
    with pytest.raises(ValueError, match='too large'): read_config(f)

def test_tables_and_reports(tmp_path):
    files = dict(phases=(dict(phases=[dict(until=10, batch_size=1, workers=0), dict(until=None, batch_size=2, workers=1)]), read_phases),
        profile=(dict(job=dict(size='tiny'), measured=dict(tokens_per_second=9.), machine='here', predicted=dict(must_be_free=1e9)), lambda f: _measured(f, 1e6, 1.)))
    for name,(told,use) in files.items():
        f = tmp_path/f'{name}.json'
        f.write_text(json.dumps(told))
        use(f)
        fuzz(f, partial(use, f), swapped)
    (tmp_path/'run.json').write_text(json.dumps(dict(steps=9, what='tiny', host='h', pid=1, phases=[1], started=0)))
    (tmp_path/'log.jsonl').write_text('{"step": 1, "loss": 2.0, "seconds": 1, "tokens_per_second": 5}\n7\n')
    fuzz(tmp_path/'run.json', lambda: status(tmp_path), swapped)
    fuzz(tmp_path/'log.jsonl', lambda: status(tmp_path), flipped)

def test_traces(tmp_path):
    "Broken ones, those with other values, and one that is a thousand times as large as its file"
    event = lambda name,cat: dict(name=name, cat=cat, ts=1, dur=9)
    told = dict(traceEvents=[event('step', 'user_annotation'), event('wait for data', 'user_annotation'), event('k', 'kernel'), dict(name='begins', ph='B')])
    text,zipped = tmp_path/'trace.json',tmp_path/'trace.json.gz'
    text.write_text(json.dumps(told))
    zipped.write_bytes(gzip.compress(text.read_bytes()))
    assert shares(text)==shares(zipped)
    fuzz(text, lambda: shares(text), swapped)
    fuzz(zipped, lambda: shares(zipped), flipped)
    with gzip.open(zipped, 'wb', 1) as f:
        for _ in range((MOST_TRACE>>20)+1): f.write(b' '*(1<<20))
    assert zipped.stat().st_size<MOST_TRACE//100
    with pytest.raises(ValueError, match='trace.json.gz: is no trace .* more than 256 MB'): shares(zipped)

def test_rules(tmp_path):
    "Expressions from a model.json are numbers and named pieces, whatever they look like"
    rng = random.Random(0)
    words = ['causal','&','|','~','(',')','near_bars(2)','key_is(bar=7)','-SS32','meloformer','__import__("os").system("touch evil")','lambda: 0','9'*400,'**{}','*[1]','.f','[0]','RR',' same_bar ','\0','\n']
    fate = set()
    for _ in range(500):
        try: fate.add(bool(preset(''.join(rng.choice(words) for _ in range(rng.choice([1, 3, 9, 60]))))))
        except ValueError: fate.add(None)
    assert fate=={True, None} and not Path('evil').exists()
    for text in ('('*1500, '~'*1999+'RR', '&'.join(['RR|SS']*300)):
        start = time.time()
        try: preset(text)
        except ValueError: pass
        assert within(5, start)

def test_compiled_code_of_somebody_else(tmp_path, monkeypatch):
    "What a compiler made is code: it is taken up by those only who had it made"
    write_compiled(tmp_path/'c.bin', b'code', 'here')
    assert read_compiled(tmp_path/'c.bin', 'here')[0]==b'code'
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path/'other'))
    made,said = read_compiled(tmp_path/'c.bin', 'here')
    assert made is None and 'somebody else' in said and (tmp_path/'other/meloformer/key').stat().st_mode&0o77==0
