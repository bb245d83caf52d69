"Stopped, killed, resumed, spread over ranks: the same run"
import json, os, re, shutil, signal, subprocess, sys, tarfile, time
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
import numpy as np
import pytest
import torch
from commands import Command, ctx
from meloformer.data.corpus import Corpus
from meloformer.writing.generate import compose
from meloformer.writing.constraints import TokenRequest
from meloformer.tokens.hid import HID
from meloformer.net.model import SIZES, Config, MeloFormer
from meloformer.training.optim import LEARNING_RATES, lr_at, make_optimizer
from meloformer.data.packing import Packs, Window, assemble, reader
from meloformer.tokens.attributes import attribute_tokens, attributes, parse_attributes
from meloformer.tokens.infill import Example, bar_starts
from meloformer.training.ranks import Ranks, default_precision
from meloformer.net.checkpoint import checkpoints, find_checkpoint, load_newest, load_state
from meloformer.music.score import NOTE, Score, Track
from meloformer.training.config import read_config
from meloformer.training.log import Stopped
from meloformer.training.train import batcher, train, train_step, windows_at

ARGS = '--model_size tiny --max_seq_len 256 --batch_size 2 --gradient_accumulation_steps 2 --steps 16 --save_every 6 --val_every 8 --val_windows 2 --log_every 1 --num_workers 1 --sample_bars 1 --infill_prob .5 --track_dropout .2'.split()

def start(data, out, *more): return Command('train', '--data', data, '--out', out, *ARGS, '--dropout', '.1', *more, merged=True)
def weights(run): return sha256((checkpoints(run)[-1]/'model.safetensors').read_bytes()).hexdigest() # of a mebibyte itself pytest would show each byte that differs, for hours

@pytest.fixture(scope='module')
def whole(corpus_folder, tmp_path_factory):
    "A run that nobody disturbed"
    out = tmp_path_factory.mktemp('runs')/'whole'
    p = start(corpus_folder, out)
    said,_ = p.communicate(timeout=1200)
    assert p.returncode == 0, said
    return out

@pytest.mark.parametrize('sig,at', [(signal.SIGTERM, 9), (signal.SIGINT, 3), (signal.SIGKILL, 8)])
def test_stopped_and_resumed(corpus_folder, whole, tmp_path, sig, at):
    p = start(corpus_folder, tmp_path/'run')
    for line in p.stdout:
        if line.startswith(f'step {at}/'): p.send_signal(sig); break
    p.communicate(timeout=1200)
    assert p.returncode == {signal.SIGTERM: 0, signal.SIGINT: 130, signal.SIGKILL: -signal.SIGKILL}[sig]
    had = checkpoints(tmp_path/'run')
    assert had and not list((tmp_path/'run').glob('*.part'))
    workers = [] if sig==signal.SIGINT else ['--num_workers', '0']
    assert f"going on from step {int(had[-1].name[5:])}" in start(corpus_folder, tmp_path/'run', *workers).communicate()[0]
    assert weights(tmp_path/'run') == weights(whole)
    rows = lambda run: [(o['step'], o.get('loss'), o.get('val_bits')) for o in map(json.loads, (run/'log.jsonl').read_text().splitlines())]
    assert rows(tmp_path/'run') == rows(whole)

def test_monitor(whole, capsys):
    from meloformer.apps.cli import run
    assert run('monitor', [str(whole), '--as_json', '--price', '2']) == 0
    s = json.loads(capsys.readouterr().out)
    assert (s['state'], s['step'], s['steps'], s['phase'], s['skipped'], s['seconds_left']) == ('done', 16, 16, 3, 0, 0)
    assert len(list((whole/'samples').glob('*.mid')))==len(list((whole/'samples').glob('*.png')))==2
    assert len(s['losses'])==16 and len(s['validation'])==2 and s['tokens_per_second']>0 and 0<=s['waits_percent']<100 and s['seconds']>0
    assert run('monitor', [str(whole), '--line']) == 0 and 'done, step 16/16 (100%)' in capsys.readouterr().out
    assert run('monitor', [str(whole)]) == 0 and '█'*60 in capsys.readouterr().out

def test_the_best_is_remembered(corpus_folder, tmp_path, monkeypatch):
    "Also by a run that was stopped; and a damaged note of it does no harm"
    import meloformer.training.train as tr
    bits = iter([5., 6.])
    monkeypatch.setattr(tr, 'validate', lambda *_: dict(nats=1., bits=next(bits), bits_from={}))
    monkeypatch.setattr(tr.Trainer, 'report', lambda self, *_: self.state['step']==2 and signal.raise_signal(signal.SIGTERM))
    run = tmp_path/'run'
    go = lambda: tr.train(data=corpus_folder, out=run, **FEW, steps=4, val_every=2, save_every=2)
    assert go()['step'] == 2 and go()['step'] == 4
    assert find_checkpoint(run) == run/'step_000002'
    (run/'best').write_text('')
    assert find_checkpoint(run) == run/'step_000004'

SLOW = [*ARGS[:ARGS.index('--gradient_accumulation_steps')], '--gradient_accumulation_steps', '20', '--steps', '2', '--at_once', '--save_every', '1', '--val_every', '100', '--val_windows', '1', '--num_workers', '0', '--sample_bars', '0', '--log_every', '1']

@pytest.mark.parametrize('ranks', [[], ['--processes', '2', '--shard']])
def test_stopped_within_a_step(corpus_folder, tmp_path, ranks):
    "SIGTERM in the midst of twenty micro-batches: it is said, the step is done again, and nothing is lost"
    go = lambda out: Command('train', '--data', corpus_folder, '--out', tmp_path/out, *SLOW, *ranks, merged=True)
    p = go('run')
    for line in p.stdout:
        if line.startswith('step 1/'): break
    while not checkpoints(tmp_path/'run'): time.sleep(.02)
    time.sleep(.2)
    p.send_signal(signal.SIGTERM)
    said,_ = p.communicate()
    assert p.returncode == 0 and 'SIGTERM: stopping after this micro-batch, and saving; a second signal stops at once (the same command goes on from step 1)' in said, said
    assert 'stopped at step 1; the same command goes on from here' in said and 'step 2/' not in said
    assert 'going on from step 1\n' in go('run').communicate()[0] and go('whole').wait() == 0
    assert weights(tmp_path/'run') == weights(tmp_path/'whole')

def test_a_second_signal(corpus_folder, tmp_path):
    "It stops at once, and what was saved before is left"
    p = Command('train', '--data', corpus_folder, '--out', tmp_path/'run', *SLOW, '--batch_size', 64, '--gradient_accumulation_steps', 2, merged=True)
    for line in p.stdout:
        if line.startswith('step 1/'): break
    while not checkpoints(tmp_path/'run'): time.sleep(.02)
    time.sleep(.3) # it is noted that a checkpoint was saved, and a micro-batch of seconds has begun
    p.send_signal(signal.SIGTERM)
    time.sleep(1.2)
    p.send_signal(signal.SIGTERM)
    said,_ = p.communicate()
    assert p.returncode == 130 and 'the same command goes on from step 1' in said.splitlines()[-1], said
    assert [o.name for o in checkpoints(tmp_path/'run')] == ['step_000001'] and not list((tmp_path/'run').glob('*.part'))

def test_stopped_while_it_validates(corpus_folder, tmp_path, monkeypatch):
    "What was to be measured is measured by the run that goes on"
    import meloformer.training.train as tr
    old,go = tr.validate,lambda out: tr.train(data=corpus_folder, out=tmp_path/out, **FEW|dict(val_windows=3), steps=4, val_every=2, save_every=3)
    rows = lambda run: [(o['step'], o.get('loss'), o.get('val_bits')) for o in map(json.loads, (tmp_path/run/'log.jsonl').read_text().splitlines())]
    monkeypatch.setattr(tr, 'validate', lambda *a: (signal.raise_signal(signal.SIGTERM), old(*a))[1])
    assert go('run')['step'] == 2 and [o[0] for o in rows('run')] == [1, 2]
    monkeypatch.undo()
    assert go('run')['step'] == go('whole')['step'] == 4 and rows('run') == rows('whole')
    assert weights(tmp_path/'run') == weights(tmp_path/'whole')

def test_a_damaged_checkpoint(corpus_folder, tmp_path, capsys):
    "One flipped byte in the newest: the run goes on from the one before, to the same weights; writing refuses it in words"
    from meloformer.apps.cli import run
    args = ['train', '--data', str(corpus_folder), '--out', str(tmp_path/'run'), *SLOW, '--gradient_accumulation_steps', '1', '--keep', '3']
    assert run(args[0], args[1:]) == 0
    whole = weights(tmp_path/'run')
    for name in ('model.safetensors', 'train.pt', 'manifest.json', 'hid.json'):
        newest = tmp_path/'run/step_000002'
        f = newest/name
        b = bytearray(f.read_bytes())
        b[len(b)//2] ^= 255
        f.write_bytes(b)
        capsys.readouterr()
        if name != 'train.pt': assert run('generate', [str(newest), '--bars', '1', '--out', str(tmp_path/'a.mid')]) == 1 and 'is damaged' in capsys.readouterr().err
        assert run(args[0], args[1:]) == 0
        said = capsys.readouterr().out
        assert f'{name}: is damaged; kept as damaged_' in said and 'the run goes back to step_000001' in said and 'going on from step 1\n' in said, said
        assert weights(tmp_path/'run') == whole
    assert len(list((tmp_path/'run').glob('damaged_*_step_000002'))) == 4

def test_one_rank_mends(corpus_folder, tmp_path):
    "The others look when it has: two that rename a damaged checkpoint would be in each other's way"
    from meloformer.training.train import Trainer
    train(data=corpus_folder, out=tmp_path, **FEW, steps=2, save_every=1)
    with open(tmp_path/'step_000002/train.pt', 'r+b') as f: f.truncate(100)
    ranks,met = Ranks('cpu'),[]
    ranks.rank = 1
    ranks.barrier = lambda: met.append([o.name for o in tmp_path.glob('damaged_*')]) or load_newest(tmp_path) # what the first does meanwhile
    assert Trainer(read_config(data=corpus_folder, out=tmp_path, **FEW, steps=2), ranks).state['step']==1
    assert met==[[]] and len([*tmp_path.glob('damaged_*')])==1

def test_a_step_that_is_stopped_changes_nothing(corpus_folder):
    "Weights are what they were, and no gradients are left"
    w = Window(256)
    m = MeloFormer(Config(width=64, layers=1, heads=1, kv_heads=1))
    packs = Packs(Corpus(corpus_folder), w)
    before = {k: v.clone() for k,v in m.state_dict().items()}
    batches,asked = [batcher(m, w)([packs[i]]) for i in range(3)],[]
    with pytest.raises(Stopped): train_step(m, make_optimizer(m, 1e-3), batches, Ranks('cpu'), stop=lambda: asked.append(0) or len(asked)==2)
    assert all(torch.equal(v, before[k]) for k,v in m.state_dict().items()) and all(p.grad is None for p in m.parameters())

def test_a_log_that_ends_in_the_middle(corpus_folder, tmp_path):
    "Killed while a line was written, the run goes on"
    go = lambda steps: train(data=corpus_folder, out=tmp_path, **FEW, steps=steps)
    go(1)
    with open(tmp_path/'log.jsonl', 'a') as f: f.write('{"step": 2, "lo')
    assert go(2)['step'] == 2 and [json.loads(o)['step'] for o in (tmp_path/'log.jsonl').read_text().splitlines()][-1] == 2

def test_one_number_of_steps(corpus_folder, tmp_path, capsys):
    "What is said of a run agrees with itself"
    from meloformer.training.train import Trainer
    t = Trainer(read_config(data=corpus_folder, out=tmp_path/'long', **FEW|dict(batch_size=8, num_workers=1), epochs=1), Ranks('cpu'))
    t._introduce()
    assert windows_at(t.phases, t.steps-1) < len(t.packs) <= windows_at(t.phases, t.steps)
    said = capsys.readouterr().out
    assert 'first phases shortened' in said and len(set(re.findall(r'(\d+) steps', said))) == 1, said
    train(data=corpus_folder, out=tmp_path/'run', **FEW, steps=2)
    capsys.readouterr()
    train(data=corpus_folder, out=tmp_path/'run', **FEW, steps=1)
    said = capsys.readouterr().out
    assert 'the run is at step 2 already; give' in said and 'going on' not in said

def test_no_validation(midi_folder, tmp_path, capsys):
    "A run without validation music says so, and still writes its samples; so does its monitor"
    from meloformer.apps.cli import run
    from meloformer.data.corpus import build
    build(midi_folder, tmp_path/'data', val_share=0, progress=False)
    train(data=tmp_path/'data', out=tmp_path/'run', **FEW|dict(sample_bars=1), steps=1)
    assert 'no validation: the corpus has no pieces for it' in capsys.readouterr().out and list((tmp_path/'run/samples').glob('*.mid'))
    for flags in (['--once'], ['--once','--line']): # what is missing; and in full also what to do
        assert run('monitor', [str(tmp_path/'run'), *flags]) == 0
        said = capsys.readouterr().out
        assert 'no validation' in said and ('--val_share' in said or '--line' in flags)

def test_precision_stays(corpus_folder, tmp_path, capsys):
    "A run that is not told goes on in its own precision; one of before in that of before"
    import meloformer.training.train as tr
    go = lambda steps, **kw: (train(data=corpus_folder, out=tmp_path, **FEW, steps=steps, **kw), capsys.readouterr().out.splitlines()[0])[1]
    best = default_precision(torch.device('cpu'))
    other = {'bf16': 'fp32', 'fp32': 'bf16'}[best]
    assert go(1, precision=other).endswith(other) and go(2).endswith(other) and go(3, precision=best).endswith(best) and go(4).endswith(best)
    state,weights = load_newest(tmp_path)
    assert state.pop('precision') == best
    f = checkpoints(tmp_path)[-1]
    torch.save(state, f/'train.pt')
    tr.write_manifest(f)
    assert go(5).endswith('fp32')

def test_phases_read_the_plain_order(corpus_folder):
    "A switch of batch and workers at any step loses nothing and repeats nothing"
    packs = Packs(Corpus(corpus_folder), Window(256), seed=3)
    plain = [packs[i]['tokens'] for i in range(24)]
    for switch in (1, 2, 5, 7):
        got,cursor = [],0
        for steps,bs,nw in ((switch, 1, 0), (3, 2, 1), (3, 3, 2)):
            it = reader(packs, cursor, bs, nw)
            for _ in range(steps): got += list(next(it)['tokens'].numpy())
            cursor += steps*bs
        assert all(np.array_equal(a, b) for a,b in zip(got, plain, strict=False)) and len(got)==cursor

RANKS = '''
import sys, json, torch
import torch.distributed as dist
from meloformer.data.corpus import Corpus
from meloformer.net.model import SIZES, Config, MeloFormer
from meloformer.training.optim import make_optimizer
from meloformer.data.packing import Packs, Window, reader
from meloformer.training.ranks import Ranks, load_optimizer, load_weights, whole_optimizer, whole_weights
from meloformer.training.train import batcher, train_step
data,shard,kept = sys.argv[1:]
torch.set_num_threads(1); torch.set_default_dtype(torch.float64); torch.manual_seed(0)
ranks,window = Ranks('cpu'),Window(256)
packs = Packs(Corpus(data), window)
raw = MeloFormer(Config(width=64, layers=2, heads=1, kv_heads=1))
model = ranks.wrap(raw, shard=='shard')
opt,losses = make_optimizer(raw, 1e-2),[]
batches = reader(packs, 0, 4//ranks.world, rank=ranks.rank, world=ranks.world, make=batcher(raw, window))
for i in range(6):
    if i==3: # taken apart and put together again
        w,o = whole_weights(raw),whole_optimizer(raw, opt)
        if ranks.is_main: torch.save(dict(weights=w, optimizer=o), kept)
        ranks.barrier()
        s = torch.load(kept, weights_only=True)
        load_weights(raw, s['weights'])
        load_optimizer(raw, opt, s['optimizer'])
    losses.append(train_step(model, opt, [next(batches) for _ in range(2)], ranks)[0])
if ranks.is_main: print(json.dumps(losses))
if ranks.world>1: dist.destroy_process_group()
'''

def torchrun(*args, ranks=2, **kw): return [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', str(ranks), *map(str, args)]
def done(command):
    res = subprocess.run([str(o) for o in command], capture_output=True, text=True, timeout=1200)
    assert res.returncode == 0, res.stderr
    return res.stdout

def test_two_ranks_are_one(corpus_folder, tmp_path):
    "The losses of six steps, with accumulation, windows of unequal fill and a reload, in fp64; with whole weights and with sharded ones"
    f = tmp_path/'ranks.py'
    f.write_text(RANKS)
    losses = lambda out: np.array(json.loads(out.splitlines()[-1]))
    one = losses(done([sys.executable, f, corpus_folder, 'whole', tmp_path/'one.pt']))
    assert one[-1] < one[0]
    for kind in ('whole','shard'): assert abs(losses(done(torchrun(f, corpus_folder, kind, tmp_path/f'{kind}.pt')))-one).max() < 1e-10
    a,b,c = (torch.load(tmp_path/f'{o}.pt', weights_only=True) for o in ('one','whole','shard'))
    for o in (b,c):
        assert list(o['weights'])==list(a['weights']) and o['optimizer']['param_groups']==a['optimizer']['param_groups']
        for k,v in a['weights'].items(): torch.testing.assert_close(o['weights'][k], v, rtol=0, atol=1e-8)
        for k,v in a['optimizer']['state'].items(): torch.testing.assert_close(o['optimizer']['state'][k], v, rtol=1e-6, atol=1e-10)

script = Path(__file__).resolve().parent.parent/'scripts/train.py'
def losses(run): return {o['step']: o['loss'] for o in map(json.loads, (run/'log.jsonl').read_text().splitlines()) if 'loss' in o}

def test_any_number_of_ranks(corpus_folder, tmp_path):
    "A run on two ranks, sharded, goes on with one, and has the losses of a run on one"
    args = ['--data', corpus_folder, *ARGS, '--optimizer', 'adamw', '--tokens_per_step', 700, '--precision', 'fp32'] # as exact as can be
    said = done(torchrun(script, *args, '--out', tmp_path/'run', '--shard', '--steps', 6))
    assert 'on 2 x cpu, sharded' in said and said.count('step 6/6') == 1
    done([sys.executable, script, *args, '--out', tmp_path/'one', '--steps', 6])
    a,b = losses(tmp_path/'run'),losses(tmp_path/'one')
    assert list(a)==list(b)==[1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose(list(a.values()), list(b.values()), rtol=1e-4)
    shutil.rmtree(tmp_path/'one')
    shutil.copytree(tmp_path/'run', tmp_path/'one')
    done(torchrun(script, *args, '--out', tmp_path/'run', '--steps', 8))
    done([sys.executable, script, *args, '--out', tmp_path/'one', '--steps', 8])
    np.testing.assert_allclose(list(losses(tmp_path/'run').values()), list(losses(tmp_path/'one').values()), rtol=1e-4)

def test_a_killed_rank(corpus_folder, tmp_path):
    "`torchrun --max_restarts` goes on from the last checkpoint, to the same weights"
    args = [script, '--data', corpus_folder, *ARGS, '--save_every', '2', '--gradient_accumulation_steps', '1']
    done(torchrun(*args, '--out', tmp_path/'whole'))
    p = subprocess.Popen(torchrun('--max_restarts', 2, *args, '--out', tmp_path/'run'), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while len(checkpoints(tmp_path/'run')) < 2: time.sleep(.02); assert p.poll() is None
    pid = json.loads((tmp_path/'run/run.json').read_text())['pid']
    os.kill(pid, signal.SIGKILL)
    err = p.communicate(timeout=1200)[1]
    assert p.returncode == 0, err
    assert json.loads((tmp_path/'run/run.json').read_text())['pid'] != pid
    assert weights(tmp_path/'run') == weights(tmp_path/'whole')

FEW = dict(model_size='tiny', max_seq_len=256, batch_size=1, gradient_accumulation_steps=1, num_workers=0, sample_bars=0, val_windows=1)

def _endless(data, out):
    "What is killed: a run that saves after each step"
    torch.set_num_threads(1)
    train(data=data, out=out, **FEW, steps=10_000, save_every=1, val_every=10_000, log_every=1)

def test_killed_anywhere(corpus_folder, tmp_path):
    "8 kills at random moments leave 8 times a checkpoint that can be gone on from"
    rng,run,had = np.random.default_rng(0),tmp_path/'run',0
    for i in range(8):
        p = ctx.Process(target=_endless, args=(corpus_folder, run))
        p.start()
        while not checkpoints(run) or load_state(checkpoints(run)[-1])['step']==had: time.sleep(.05); assert p.is_alive()
        time.sleep(rng.random()*.5)
        p.kill()
        p.join()
        s = load_state(checkpoints(run)[-1])
        MeloFormer.load(find_checkpoint(run))
        assert s['step'] > had and s['cursor'] == s['step']
        had = s['step']

def test_other_data(corpus_folder, midi_folder, tmp_path):
    "A run refuses data that have changed, unless it is told that they have"
    from meloformer.data.corpus import build
    (tmp_path/'files.txt').write_text('\n'.join(map(str, sorted(midi_folder.glob('*.mid'))[60:80])))
    build(tmp_path/'files.txt', tmp_path/'data', val_share=.1, progress=False)
    go = lambda data, steps, **kw: train(data=data, out=tmp_path/'run', **FEW, steps=steps, **kw)
    assert go(corpus_folder, 2)['cursor'] == 2
    with pytest.raises(ValueError, match='--new_data'): go(tmp_path/'data', 4)
    assert go(tmp_path/'data', 3, new_data=True)['cursor'] == 1
    assert go(tmp_path/'data', 5, new_data=True)['cursor'] == 3

def test_init_from(corpus_folder, tmp_path):
    "A run begins with the weights of another, and goes on from its own"
    first = train(data=corpus_folder, out=tmp_path/'first', **FEW, steps=2, lr=1e-3)
    again = dict(data=corpus_folder, out=tmp_path/'own', **FEW, init_from=tmp_path/'first', lr=1e-9, weight_decay=0., save_every=1)
    train(**again, steps=1)
    a,b = (MeloFormer.load(find_checkpoint(tmp_path/o)).state_dict() for o in ('first','own'))
    assert all(o.stat().st_mode&0o777 == (tmp_path/'first/log.jsonl').stat().st_mode&0o777 for o in find_checkpoint(tmp_path/'first').iterdir()) # as the umask has it
    assert first['step'] == 2 and all(torch.allclose(a[k], b[k], atol=1e-6) for k in a) and not torch.equal(a['summary'], torch.zeros_like(a['summary']))
    train(data=corpus_folder, out=tmp_path/'first', **FEW, steps=4, lr=1e-3) # what it began with may change
    assert train(**again, steps=2)['step'] == 2
    b = MeloFormer.load(checkpoints(tmp_path/'own')[-1]).state_dict()
    assert all(torch.allclose(a[k], b[k], atol=1e-6) for k in a)

def test_a_checkpoint_of_long_ago(corpus_folder, tmp_path, monkeypatch):
    "A run of version 0.1 is loaded, writes what it wrote, and goes on"
    with tarfile.open(Path(__file__).parent/'golden/run-0.1.tar.xz') as f: f.extractall(tmp_path, filter='data')
    monkeypatch.setitem(SIZES, 'golden', Config(width=64, layers=1, heads=1, kv_heads=1))
    monkeypatch.setitem(LEARNING_RATES, 'golden', 1e-3)
    run = tmp_path/'run'
    model,hid = MeloFormer.load(find_checkpoint(run)),HID.load(find_checkpoint(run))
    assert ' '.join(hid.describe(list(compose(model, hid, TokenRequest(bars=2, temperature=0, max_bar_tokens=20))))) == (tmp_path/'wrote.txt').read_text()
    state = train(data=corpus_folder, out=run, **FEW|dict(model_size='golden'), optimizer='adamw', steps=8, new_data=True)
    assert state['step'] == 8 and state['skipped'] == 0

def test_the_first_command_line(monkeypatch, corpus_folder):
    "The flags of the first MeloFormer are understood as they stand"
    import meloformer.training.train
    from meloformer.apps.cli import run
    seen = []
    monkeypatch.setattr(meloformer.training.train, 'Trainer', lambda a, ranks: SimpleNamespace(run=lambda: seen.append(a)))
    flags = '--model_size small --batch_size 6 --gradient_accumulation_steps 8 --max_seq_len 8192 --num_workers 8 --epochs 3 --data'
    assert run('train', [*flags.split(), str(corpus_folder)]) == 0
    a = seen[0]
    assert (a.model_size, a.batch_size, a.gradient_accumulation_steps, a.max_seq_len, a.num_workers, a.epochs) == ('small', 6, 8, 8192, 8, 3)

def test_config_file(monkeypatch, corpus_folder, tmp_path, capsys):
    "Settings come from a file, flags have the last word, and the rest is as always; a slip is one line that names the file"
    import meloformer.training.train
    from meloformer.apps.cli import run
    seen,f = [],tmp_path/'run.toml'
    monkeypatch.setattr(meloformer.training.train, 'Trainer', lambda a, ranks: SimpleNamespace(run=lambda: seen.append(a)))
    f.write_text(f'data = "{corpus_folder}"\nsteps = 5\nmodel_size = "tiny"\ninfill_prob = 0.25\n')
    assert run('train', ['--config', str(f), '--steps', '7']) == 0
    a = seen[0]
    assert (a.steps, a.model_size, a.infill_prob, a.batch_size) == (7, 'tiny', .25, 6)
    assert run('train', ['--data', 'x', '--questions=.3']) == 1 and '--questions is called --infill_prob now' in capsys.readouterr().err
    f.write_text('questions = 0.3')
    assert run('train', ['--config', str(f)]) == 1 and 'questions is called infill_prob now' in capsys.readouterr().err
    f.write_text('layers = 3')
    assert run('train', ['--config', str(f)]) == 1
    assert 'run.toml' in (err := capsys.readouterr().err) and 'layers' in err and len(err.splitlines()) == 1

def test_what_differs_is_named(corpus_folder, tmp_path):
    go = lambda **kw: train(data=corpus_folder, out=tmp_path, **FEW|kw, steps=1)
    go()
    assert read_config(tmp_path/'config.toml').model_size == 'tiny'
    with pytest.raises(ValueError, match='trained with two_pass = False, now it is True; give'): go(two_pass=True)
    with pytest.raises(ValueError, match='trained with transpose = 5, now it is 3; give'): go(transpose=3)
    with pytest.raises(ValueError, match='trained with model_size = tiny, now it is small; give'): go(model_size='small')
    with pytest.raises(ValueError, match='trained with max_seq_len = 256, now it is 512; give'): go(max_seq_len=512)

def test_accumulation_is_a_bigger_batch(corpus_folder):
    packs,w,ranks = Packs(Corpus(corpus_folder), Window(256)),Window(256),Ranks('cpu')
    samples,res = [packs[i] for i in range(4)],[]
    for groups in ([[0,1,2,3]], [[0],[1],[2],[3]], [[0,1],[2,3]]):
        torch.manual_seed(0)
        m = MeloFormer(Config(width=64, layers=1, heads=1, kv_heads=1)).double()
        res.append(train_step(m, make_optimizer(m, 1e-3), [batcher(m, w)([samples[i] for i in g]) for g in groups], ranks)[:3])
    for r in res[1:]: np.testing.assert_allclose(r, res[0], rtol=1e-10)

def song(bars=24):
    "A melody, chords and drums that vary from bar to bar"
    rng,rows = np.random.default_rng(7),[]
    for b in range(bars):
        root,o = [0, 9, 5, 7][b%4],1920*b
        rows += [(o, 1920, 48+root+k, 70, 1) for k in (0, 4, 7)]
        rows += [(o+480*i, 480, 60+int(rng.choice([0, 2, 4, 5, 7, 9, 11, 12])), 90, 0) for i in range(4)]
        rows += [(o+480*i, 120, 36+2*(i%2), 100, 2) for i in range(4)]
    return Score(480, np.array(rows, NOTE), [Track(73), Track(0), Track(is_drum=True)])

def test_overfits_one_song_and_plays_it_back():
    "To below 0.1 nats a token; then, from its first bar, note for note"
    hid,window = HID(),Window(1280)
    tokens = hid.encode(song())
    torch.manual_seed(0)
    model = MeloFormer(Config(width=128, layers=3, heads=2, kv_heads=1))
    batch = batcher(model, window)([assemble(hid, [Example(tokens.astype(np.int64))], window)])
    opt,ranks = make_optimizer(model, 0.),Ranks('cpu')
    for i in range(150):
        for g in opt.param_groups: g['lr'] = lr_at(i, 150, 4e-3, warmup=10)
        loss,*_ = train_step(model, opt, [batch], ranks)
    assert loss < .1
    model.eval()
    start = tokens[:bar_starts(hid, tokens)[1]]
    back = hid.decode(np.array(list(compose(model, hid, TokenRequest(bars=24, prompt=start, temperature=0)))))
    assert back == song().quantized()

def small_tune(rng, notes, root):
    "Four bars of a scale, so many notes a bar"
    rows = [(1920*b+1920//notes*i, 1920//notes, 60+root+int(rng.choice([0, 2, 4, 5, 7, 9, 11], p=[.3, .05, .2, .1, .25, .05, .05])), 80, 0) for b in range(4) for i in range(notes)]
    return Score(480, np.array(rows, NOTE), [Track(0)])

def test_attributes_are_learnt_and_asked_for():
    "Sparse and dense pieces in two keys, told in training what they are; then asked for"
    hid,window,rng = HID(),Window(1024),np.random.default_rng(0)
    tunes = [hid.encode(small_tune(rng, int(rng.choice([4, 16])), int(rng.choice([0, 6])))).astype(np.int64) for _ in range(120)]
    told = [Example(np.insert(t, 1, attribute_tokens(hid, attributes(hid, t)))) for t in tunes]
    torch.manual_seed(0)
    model = MeloFormer(Config(width=64, layers=2, heads=1, kv_heads=1))
    make,opt,ranks = batcher(model, window),make_optimizer(model, 0.),Ranks('cpu')
    for i in range(150):
        for g in opt.param_groups: g['lr'] = lr_at(i, 150, 4e-3, warmup=10)
        train_step(model, opt, [make([assemble(hid, [told[j] for j in rng.choice(120, 5, replace=False)], window)])], ranks)
    model.eval()
    for text,n,root in (('key C major, density 4, players 1', 4, 0), ('key F# major, density 16, players 1', 16, 6)):
        ask = TokenRequest(bars=4, meter=(4,4), max_bar_tokens=60, attributes=attribute_tokens(hid, parse_attributes(text)))
        notes = [hid.decode(np.array(list(compose(model, hid, ask, seed)))).notes for seed in range(4)]
        assert n/2 < np.mean([len(o)/4 for o in notes]) < 2*n
        assert np.isin((np.concatenate([o['pitch'] for o in notes])-root)%12, [0, 2, 4, 5, 7, 9, 11]).mean() > .9

def test_a_model_knows_whether_it_may_be_asked(corpus_folder, tmp_path, capsys):
    from meloformer.apps.cli import run
    train(data=corpus_folder, out=tmp_path/'told', **FEW, attributes=.8, steps=2)
    train(data=corpus_folder, out=tmp_path/'plain', **FEW, steps=2)
    line = ['--bars', '2', '--attributes', 'key A minor, density 12', '--out', str(tmp_path/'a.mid')]
    assert run('generate', [str(tmp_path/'told'), *line])==0 and (tmp_path/'a.mid').exists()
    assert run('generate', [str(tmp_path/'plain'), *line])==1 and 'was not told' in capsys.readouterr().err
    with pytest.raises(ValueError, match='attributes'): train(data=corpus_folder, out=tmp_path/'told', **FEW, steps=4)
