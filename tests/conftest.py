"What several tests share"
import fcntl, os, random, signal, sys, time
os.environ.setdefault('MPLBACKEND', 'agg')
os.environ['OMP_NUM_THREADS'] = '1' # also of the processes that are started
from hashlib import sha256
from pathlib import Path
import numpy as np, pytest, torch
from hypothesis import settings

root = Path(__file__).resolve().parent.parent
sys.path += [str(root/'scripts'), str(root/'tools')]
for name,n in (('quick', 100), ('slow', 10_000)): settings.register_profile(name, deadline=None, print_blob=True, max_examples=n)
torch.set_num_threads(1)

if signal.getsignal(signal.SIGINT)==signal.SIG_IGN: signal.signal(signal.SIGINT, signal.default_int_handler) # what runs in the background of a shell is deaf to Ctrl-C, and so would its children be

def slowness():
    "How many times longer than on a quiet laptop a loop takes here and now, and 1 at least: what limits of time are multiplied by"
    start = time.time()
    sum(i*i for i in range(1_000_000))
    return max(1, (time.time()-start)/.08)

def within(seconds, start):
    "Has it taken no longer than so many seconds of a quiet laptop? How slow it is here is only asked where it has"
    took = time.time()-start
    return took < seconds or took < seconds*slowness()

def same_folders(a, b):
    "Do two folders hold the same files, byte for byte?"
    return {o.name: o.read_bytes() for o in a.iterdir()}=={o.name: o.read_bytes() for o in b.iterdir()}

def pytest_addoption(parser): parser.addoption('--slow', action='store_true', help='many more examples; takes half an hour')
def pytest_configure(config): settings.load_profile('slow' if config.getoption('slow') else 'quick')

@pytest.fixture(autouse=True)
def seeds():
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)

@pytest.fixture(scope='session')
def midi_folder(pytestconfig):
    "A quarter of the demo's corpus as MIDI: 113 chorales, 4 movements of quartets; written once, kept in pytest's cache"
    import demo_corpus
    names = [*sorted(demo_corpus.works())[:112], 'bach-bwv269', 'haydn-opus1no1-movement1', 'haydn-opus1no1-movement2', 'mozart-k80-movement3', 'mozart-k156-movement4']
    key = sha256(Path(demo_corpus.__file__).read_bytes()+str(names).encode()).hexdigest()[:8]
    out = pytestconfig.cache.mkdir(f'midi-{key}')
    with open(out.with_suffix('.lock'), 'w') as lock: # tests may run in several processes
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert not demo_corpus.write_corpus(out, names=names)
    return out

@pytest.fixture(scope='session')
def corpus_folder(midi_folder, tmp_path_factory):
    "Sixty of those files as a prepared corpus"
    from meloformer.data.corpus import build
    tmp = tmp_path_factory.mktemp('corpus')
    (tmp/'files.txt').write_text('\n'.join(map(str, sorted(midi_folder.glob('*.mid'))[:60])))
    build(tmp/'files.txt', tmp/'data', val_share=.1, progress=False)
    return tmp/'data'

@pytest.fixture(scope='session')
def checkpoint(tmp_path_factory):
    "A model that knows nothing, on disk"
    from meloformer.net.model import Config, MeloFormer, randomize_weights
    from meloformer.tokens.hid import HID
    path = tmp_path_factory.mktemp('model')/'m'
    torch.manual_seed(0)
    randomize_weights(MeloFormer(Config(width=64, layers=2, heads=1, kv_heads=1)), .02).save(path, HID())
    return path
