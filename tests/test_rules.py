"A user's own rule: what it declares is so, the cache forgets nothing that it reads, blocks are those of the mask, no edge leaks, and code runs only for those who trust it"
import json, os, pickle, shutil, subprocess, sys
from pathlib import Path
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from meloformer.apps import cli
from meloformer.net.attention import FlexPlan, GatherPlan
from meloformer.net.blocks import MOST_OPERATIONS, folded, occupancy
from meloformer.net.cache import Cache, read_by_bar
from meloformer.net.masks import *
from meloformer.net.model import Config, MeloFormer, leaks, randomize_weights, trusting
from meloformer.training.config import TrainConfig, read_config, write_config
from test_attention import ids_of, packs

law = causal & same_document
def own(f, name, **kw): return Rule(f, name, name, **kw)
def beside(r): return law & (RR & (same_bar | r) | RS | SR & same_bar | SS)

# each kind once as a bare function, which declares nothing, and once from named pieces
KINDS = dict(
    phrase=(own(lambda q,k: k.bar==q.bar//4*4-1, 'phrase'), phrases_back(4, 1) & key_in_phrase(4, 3)),
    bar_7=(own(lambda q,k: k.bar==7, 'bar_7'), key_is(bar=7)),
    odd=(own(lambda q,k: (q.bar%2==1) & (k.bar%2==1), 'odd'), query_in_phrase(2, 1) & key_in_phrase(2, 1)),
    drums=(own(lambda q,k: (q.program==128) & (k.program==128), 'drums'), query_is(program=128) & key_is(program=128)),
    program_2=(own(lambda q,k: (q.program==2) & (k.program==2), 'program_2'), query_is(program=2) & key_is(program=2)),
    third=(own(lambda q,k: k.index==2, 'third'), key_is(index=2)),
    far=(own(lambda q,k: q.bar-k.bar==600, 'far'), bars_back(600)),
    program_0=(own(lambda q,k: (q.program==0) & (k.program==0), 'program_0'), query_is(program=0) & key_is(program=0)),
    last_60=(own(lambda q,k: k.order>q.order-120, 'last_60', order=-1), last_tokens(60)),
    last_40=(own(lambda q,k: q.slot-k.slot<40, 'last_40'), last_slots(40)))

def rows(ids, i): return torch.stack([getattr(ids, f)[0, i] for f in FIELDS])

def stepped(m, x, ids, last=None):
    "Logits of one piece, token by token, and the most entries that were kept"
    cache,S,out,most = Cache(m),ids.n_summaries,[],0
    for t in range(x.shape[1]):
        s,before = int(ids.slot[0, S+t]),int(ids.slot[0, S+t-1])
        if t and s!=before:
            m.step(cache, torch.tensor([0]), rows(ids, before)[None])
            cache.close_bar(0, int(ids.bar[0, S+t:].min()), last)
            cache.gather(0, int(ids.bar[0, S+t]))
        out.append(m.step(cache, x[:, t], rows(ids, S+t)[None])[0])
        most = max(most, sum(k.ids.shape[1] for k in cache.kept[0]))
    return torch.stack(out),most

def a_piece(numbers, seed=0, size=6):
    "Ids of bars with these numbers, of a few tokens and instruments, drums among them"
    rng = np.random.default_rng(seed)
    each = [(b, p, i) for b in numbers for i,p in enumerate(sorted(rng.choice([0, 2, 128], rng.integers(3, size))))]
    bar,program,index = np.array(each).T
    return make_ids(0*bar, bar, program, np.where(index==0, 1, 9), index, 3*index, len(numbers))

def model(mask, two_pass=False): return randomize_weights(MeloFormer(Config(width=64, layers=2, heads=1, kv_heads=1, vocab_size=64, mask=mask, two_pass=two_pass))).double()
def tokens_of(ids): return torch.from_numpy(np.random.default_rng(0).integers(64, size=(1, ids.shape[1]-ids.n_summaries)))

@torch.no_grad()
def same_as_all_at_once(mask, ids, two_pass=False, **kw):
    m,x = model(mask, two_pass),tokens_of(ids)
    got,most = stepped(m, x, ids, **kw)
    torch.testing.assert_close(got, m(x, ids, m.plan(ids))[0], rtol=0, atol=1e-9)
    return most

@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('named', [0, 1])
@pytest.mark.parametrize('two_pass', [False, True])
def test_the_cache_keeps_what_a_rule_reads(kind, named, two_pass):
    numbers = [*range(12), *range(598, 612)] if kind=='far' else range(50)
    ids,rule = a_piece(numbers),beside(KINDS[kind][named])
    most = same_as_all_at_once(rule, ids, two_pass)
    if named and kind!='last_40': assert most < .9*ids.shape[1], 'something is forgotten'

@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('named', [0, 1])
def test_blocks_and_tiles_are_of_the_mask(kind, named):
    ids = a_piece([*range(20), *range(595, 612), 3, 4])
    N = -(-ids.shape[1]//32)*32
    ids = ids.apply(lambda x: torch.nn.functional.pad(x, (0, N-x.shape[1]), value=-1))
    rule = beside(KINDS[kind][named])
    mask = rule.dense(ids)
    m = mask.view(1, N//32, 32, N//32, 32)
    occupied,full = occupancy(rule, ids, 32)
    assert not (m.any(4).any(2) & ~occupied).any() and not (full & ~m.all(4).all(2)).any()
    assert torch.equal(GatherPlan(rule, ids).read.sum(), mask.sum())
    assert torch.equal(KINDS[kind][0].dense(ids) & law.dense(ids), KINDS[kind][1].dense(ids) & law.dense(ids)) or kind=='phrase'

ANY = [causal, earlier, same_bar, same_slot, same_instrument, same_position, SS, SR, RS, RR, *(o[1] for o in KINDS.values()), *(o[0] for o in KINDS.values()),
       near_bars(3), bars_back(-2, 1, 5), phrases_back(3, 0, 2), last_tokens(25), last_slots(3), query_is(bar=(2, 3, 9)), key_is(summary=True, bar=4), query_in_phrase(3, (0, 1)), kinds_see([9], [1, 10]), key_is(kind=11), bars_back(-1, -3)]
RULES = st.recursive(st.sampled_from(ANY), lambda o: st.one_of(st.tuples(o, o).map(lambda p: p[0] & p[1]), st.tuples(o, o).map(lambda p: p[0] | p[1]), o.map(lambda a: ~a)), max_leaves=7).map(lambda r: law & (r | RR & same_bar | SR & same_bar))

def bars_of(draw):
    "Numbers of bars: some cut out, some written before the others"
    some = sorted(draw(st.sets(st.integers(0, 24), min_size=2, max_size=14)))
    a,b = sorted(draw(st.tuples(st.integers(0, len(some)-1), st.integers(0, len(some)-1))))
    return some[:a]+some[b:]+some[a:b]

@given(st.data(), RULES, st.booleans())
@settings(max_examples=60, deadline=None)
def test_random_rules_step_by_step(data, rule, two_pass):
    "Cached is all at once, whatever the rule; and also when it is known where the writing ends"
    numbers = bars_of(data.draw)
    same_as_all_at_once(rule, a_piece(numbers, data.draw(st.integers(0, 99))), two_pass, last=max(numbers))

@given(packs(), RULES)
@settings(max_examples=60, deadline=None)
def test_random_rules_in_blocks(pack, rule):
    "No pair is lost, none is added, in blocks and in tiles; and no edge leads to the future or to another piece"
    ids = ids_of(pack)
    B,N = ids.shape
    mask = rule.dense(ids)
    m = mask.view(B, N//32, 32, N//32, 32)
    occupied,full = occupancy(rule, ids, 32)
    assert not (m.any(4).any(2) & ~occupied).any() and not (full & ~m.all(4).all(2)).any()
    assert torch.equal(GatherPlan(rule, ids).read.sum(), mask.sum())
    assert not (mask & (ids.order[:, None]>ids.order[:, :, None])).any() and not (mask & (ids.document[:, None]!=ids.document[:, :, None])).any()
    if rule.source: assert torch.equal(preset(rule.spec()).dense(ids), mask)

def in_codes(rule, ids):
    "The mask as a GPU finds it, from codes; None where the rule is asked as it stands"
    fold,why = folded(rule)
    if not fold:
        assert why and why in rule.describe() and FlexPlan(rule, ids, 32).codes is None
        return None
    assert fold.operations<=MOST_OPERATIONS and 'as it stands' not in rule.describe()
    B,N = ids.shape
    b,i,j = torch.arange(B)[:, None, None],torch.arange(N)[None, :, None],torch.arange(N)[None, None]
    return FlexPlan(rule, ids, 32).bind(rule).mask_mod(b, 0, i, j).expand(B, N, N)

def folds(r):
    "A rule, and what it is in two passes"
    return r,*two_passes(r)

@given(packs(), st.sampled_from([*PRESETS, 'meloformer-SS', 'meloformer-RS4', 'meloformer-RS32', 'museformer-SS', 'sliding-SR', 'first_meloformer-RS']))
@settings(max_examples=20, deadline=None)
def test_presets_in_codes(pack, name):
    "Every preset, in one pass and in two, takes a few operations on a pair, and they give the same mask"
    ids = ids_of(pack)
    for r in folds(preset(name)): assert torch.equal(in_codes(r, ids), r.dense(ids))

@given(packs(), RULES)
@settings(max_examples=50, deadline=None)
def test_random_rules_in_codes(pack, rule):
    "Whatever the rule: folded it is the same mask, or it says that and why it is not folded"
    ids = ids_of(pack)
    for r in folds(rule):
        got = in_codes(r, ids)
        assert got is None or torch.equal(got, r.dense(ids))

def test_which_rules_fold():
    for kind in ('phrase', 'far', 'last_40'): assert folded(beside(KINDS[kind][1]))[0], folded(beside(KINDS[kind][1]))[1]
    for r in (same_bar, causal & RR, RR | law): assert not folded(r)[0], 'reads the future, or other pieces'

@given(packs(samples=st.just(1)), RULES, st.booleans(), st.data())
@settings(max_examples=25, deadline=None)
def test_random_rules_do_not_leak(pack, rule, two_pass, data):
    ids,at = ids_of(pack),data.draw(st.sampled_from(np.flatnonzero(pack[0][0]>=0).tolist()))
    m,x = model(rule, two_pass),torch.from_numpy(np.random.default_rng(0).integers(64, size=(1, pack.shape[2])))
    doc = ids.document[0, ids.n_summaries:]
    if (doc!=doc[at]).any() or at: assert leaks(m, x, ids, at, 'gather')[0] < 1e-12 if ((doc==doc[at]) & (torch.arange(len(doc))>at)).any() else True

@pytest.mark.parametrize('name', PRESETS)
def test_what_lies_behind_is_forgotten_too(name):
    "Bars 5 and 6 of 300 are written anew: what far later bars hold is not read again"
    numbers = [*range(4), *range(6, 300)]
    ids,m = a_piece(numbers),model(name)
    cache = Cache(m)
    m.prefill(cache, tokens_of(ids), ids, then=4, last=5)
    held = sum(int((k.ids[FIELDS.index('kind')]!=SUMMARY).sum()) for k in cache.kept[0])
    alive = read_by_bar(m.rule, 4, ids.at(torch.arange(ids.n_summaries, ids.shape[1]))[0], 5)
    if name in ('meloformer','museformer','sliding'): assert held < 300 and int(alive.sum()) < 60, 'of 1,210 tokens'

def test_a_bare_function_keeps_everything():
    "Nothing is known of it: no entry is forgotten, and its reach has no end"
    rule,ids = beside(KINDS['phrase'][0]),a_piece(range(30))
    assert read_by_bar(rule, 30, ids.at(torch.arange(ids.n_summaries, ids.shape[1]))[0], 31).all() and reach(rule)==(None, None)
    assert reach(beside(KINDS['phrase'][1]))==(7, 0)

def test_what_may_read_the_future_is_no_mask():
    "Also where only one side of an | is lawful, and for what a ~ makes of one"
    for mask in ('RR', 'causal & same_document & RR | SS', '~(causal & same_document)', 'causal & RR', 'same_document & RR'):
        with pytest.raises(ValueError, match='may let a token read'): MeloFormer(Config(64, 1, 1, 1, mask=mask))

def test_false_declarations_are_refused():
    for f,kw,words in ((lambda q,k: k.order<=q.order, dict(order=-1), 'order=-1'), (lambda q,k: k.order>q.order-9, dict(order=1), 'order=1'), (lambda q,k: k.bar==7, dict(back=6), 'back=6'),
                       (lambda q,k: q.bar-k.bar==600, dict(back=512), 'back=512'), (lambda q,k: q.bar==k.bar, dict(lawful=True), 'future'), (lambda q,k: k.bar==q.bar+2, dict(ahead=1), 'ahead=1')):
        with pytest.raises(ValueError, match=words): own(f, 'mine', **kw)

FILE = '''
from pathlib import Path
from meloformer.net.masks import *
Path(__file__).name
open('ran', 'a').write('x')
drums = Rule(lambda q, k: (q.program==128) & (k.program==128), 'both are drums', 'drums')
phrase = causal & same_document & (RR & (same_bar | drums) | RS | SR & same_bar | SS)
'''

def python(*args, cwd): return subprocess.run([sys.executable, *args], cwd=cwd, capture_output=True, text=True, env=os.environ | dict(PYTHONPATH=os.pathsep.join([str(Path(cli.__file__).parents[2]), str(cwd)])))

@pytest.fixture(scope='module')
def made(tmp_path_factory):
    "A checkpoint whose mask is code, made by another process"
    d = tmp_path_factory.mktemp('made')
    (d/'my_rules.py').write_text(FILE)
    make = "from meloformer.net.model import *; from meloformer.tokens.hid import HID; MeloFormer(Config(64, 1, 1, 1, mask='my_rules.py:phrase')).save('m', HID())"
    res = python('-c', make, cwd=d)
    assert res.returncode==0, res.stderr
    return d

@pytest.fixture
def strange(made, tmp_path, monkeypatch):
    "A folder of our own with that checkpoint, and nothing else"
    shutil.copytree(made/'m', tmp_path/'m')
    monkeypatch.chdir(tmp_path)
    return tmp_path

def test_a_stranger_s_code_is_not_run(strange, capsys):
    mask = json.loads((strange/'m/model.json').read_text())['mask']
    assert mask.startswith('my_rules.py:phrase#') and (strange/'m/mask.py').read_text()==FILE
    command = ['generate', 'm', '--bars', '1', '--out', 'x.mid']
    assert cli.run(command[0], command[1:])==1
    assert capsys.readouterr().err=='meloformer generate: m: its mask is code, which is not run unless you trust it; read m/mask.py, then give --trust (trust=True in Python)\n'
    with pytest.raises(ValueError, match='not run unless'): MeloFormer.load('m')
    assert not (strange/'ran').exists()
    (strange/'m/mask.py').write_text(FILE+'#')
    with pytest.raises(ValueError, match='is not the code that the model was trained with'): MeloFormer.load('m', trust=True)
    assert not (strange/'ran').exists()
    (strange/'m/mask.py').write_text(FILE)
    assert cli.run(command[0], [*command[1:], '--trust'])==0 and (strange/'ran').exists() and (strange/'x.mid').exists()
    (strange/'m/model.json').write_text((strange/'m/model.json').read_text().replace(mask, 'm/mask.py:phrase'))
    (strange/'ran').unlink()
    with trusting(), pytest.raises(ValueError, match='names a file of this machine'): MeloFormer.load('m')
    assert not (strange/'ran').exists()

def test_rules_in_python_and_in_spawned_processes(strange):
    "The owner's file is trust enough; a rule of an imported module is known by its file; one of pieces by itself; both survive a spawn; a bare lambda is refused with the remedy"
    (strange/'my_rules.py').write_text(FILE)
    (strange/'go.py').write_text('''
import multiprocessing
from meloformer.net.masks import *
from meloformer.net.model import MeloFormer
from meloformer.training.config import TrainConfig
def name(r): return r.spec().split('#')[0]
if __name__=='__main__':
    preset('my_rules.py:phrase')
    MeloFormer.load('m')
    import my_rules
    pieces = causal & same_document & RR & bars_back(0, 4)
    with multiprocessing.get_context('spawn').Pool(1) as pool: print(pool.map(name, [pieces, my_rules.phrase]))
    print(TrainConfig('x', mask=pieces).mask, TrainConfig('x', mask=my_rules.phrase).mask)
''')
    res = python('go.py', cwd=strange)
    assert res.returncode==0, res.stderr
    said,both = res.stdout.splitlines()
    assert said=="['causal & same_document & RR & bars_back(0, 4)', 'my_rules.py:phrase']" and both==f'causal & same_document & RR & bars_back(0, 4) {strange}/my_rules.py:phrase'
    with pytest.raises(ValueError, match='put it into a file'): TrainConfig('x', mask=beside(KINDS['odd'][0]))
    with pytest.raises(ValueError, match='put it into a file'): pickle.dumps(KINDS['odd'][0])

def test_a_rule_trains_and_writes(corpus_folder, tmp_path):
    "From a rule object to a run that goes on, to music"
    from meloformer.training.train import train
    rule = beside(KINDS['phrase'][1])
    flags = dict(data=str(corpus_folder), out=str(tmp_path/'run'), model_size='tiny', max_seq_len=512, num_workers=0, batch_size=1, gradient_accumulation_steps=1, sample_bars=0, device='cpu', val_windows=1)
    train(mask=rule, steps=1, **flags)
    assert cli.run('train', [f'--mask={rule.spec()}', '--steps=2', *(f'--{k}={v}' for k,v in flags.items())])==0 # typed, it is the same
    write_config(TrainConfig('x', mask=rule), tmp_path/'c.toml') # as processes of one run are told
    assert preset(read_config(tmp_path/'c.toml').mask).spec()==rule.spec()
    assert cli.run('generate', [str(tmp_path/'run'), '--bars', '2', '--out', str(tmp_path/'x.mid')])==0
    assert json.loads((tmp_path/'run/step_000002/model.json').read_text())['mask']==rule.spec()
