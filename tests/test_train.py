"Stopped, killed, resumed, spread over ranks: the same run"
import json, os, signal, subprocess, sys
from pathlib import Path
import numpy as np
import pytest
import torch
from meloformer.corpus import Corpus
from meloformer.generate import Ask, compose
from meloformer.hid import HID
from meloformer.model import Config, MeloFormer
from meloformer.packing import Packs, Window, assemble, bar_starts, reader
from meloformer.score import NOTE, Score, Track
from meloformer.train import Ranks, batcher, checkpoints, find_checkpoint, lr_at, make_optimizer, train_step

ARGS = '--model_size tiny --max_seq_len 256 --batch_size 2 --gradient_accumulation_steps 2 --steps 16 --save_every 6 --val_every 8 --val_windows 2 --log_every 1 --num_workers 1'.split()

def command(data, out): return [sys.executable, '-m', 'meloformer.cli', 'train', '--data', str(data), '--out', str(out), *ARGS]
def start(data, out): return subprocess.Popen(command(data, out), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ|dict(OMP_NUM_THREADS='1'))
def weights(run): return (checkpoints(run)[-1]/'model.safetensors').read_bytes()

@pytest.fixture(scope='module')
def whole(corpus_folder, tmp_path_factory):
    "A run that nobody disturbed"
    out = tmp_path_factory.mktemp('runs')/'whole'
    p = start(corpus_folder, out)
    said,_ = p.communicate(timeout=300)
    assert p.returncode == 0, said
    return out

@pytest.mark.parametrize('sig,at', [(signal.SIGTERM, 9), (signal.SIGINT, 3), (signal.SIGKILL, 8)])
def test_stopped_and_resumed(corpus_folder, whole, tmp_path, sig, at):
    p = start(corpus_folder, tmp_path/'run')
    for line in p.stdout:
        if line.startswith(f'step {at}/'): p.send_signal(sig); break
    p.communicate(timeout=300)
    assert p.returncode == {signal.SIGTERM: 0, signal.SIGINT: 130, signal.SIGKILL: -signal.SIGKILL}[sig]
    had = checkpoints(tmp_path/'run')
    assert had and not list((tmp_path/'run').glob('*.part'))
    res = subprocess.run(command(corpus_folder, tmp_path/'run'), capture_output=True, text=True, timeout=300, env=os.environ|dict(OMP_NUM_THREADS='1'))
    assert f"going on from step {int(had[-1].name[5:])}" in res.stdout
    assert weights(tmp_path/'run') == weights(whole)
    rows = lambda run: [(o['step'], o.get('loss'), o.get('val_bits')) for o in map(json.loads, (run/'log.jsonl').read_text().splitlines())]
    assert rows(tmp_path/'run') == rows(whole)

def test_monitor(whole, capsys):
    from meloformer.cli import run
    assert run('monitor', [str(whole), '--as_json', '--price', '2']) == 0
    s = json.loads(capsys.readouterr().out)
    assert (s['state'], s['step'], s['steps'], s['phase'], s['skipped'], s['seconds_left']) == ('done', 16, 16, 3, 0, 0)
    assert len(s['losses'])==16 and len(s['validation'])==2 and s['tokens_per_second']>0 and 0<=s['waits_percent']<100 and s['seconds']>0
    assert run('monitor', [str(whole), '--line']) == 0 and 'done, step 16/16 (100%)' in capsys.readouterr().out
    assert run('monitor', [str(whole)]) == 0 and '█'*60 in capsys.readouterr().out

def test_the_best_is_remembered(corpus_folder, tmp_path, monkeypatch):
    "Also by a run that was stopped; and a damaged note of it does no harm"
    import meloformer.train as tr
    bits = iter([5., 6.])
    monkeypatch.setattr(tr, 'validate', lambda *_: dict(nats=1., bits=next(bits)))
    monkeypatch.setattr(tr, '_report', lambda *o: o[5]['step']==2 and signal.raise_signal(signal.SIGTERM))
    run = tmp_path/'run'
    go = lambda: tr.train(data=corpus_folder, out=run, model_size='tiny', max_seq_len=256, batch_size=1, gradient_accumulation_steps=1, num_workers=0, steps=4, val_every=2, save_every=2)
    assert go()['step'] == 2 and go()['step'] == 4
    assert find_checkpoint(run) == run/'step_000002'
    (run/'best').write_text('')
    assert find_checkpoint(run) == run/'step_000004'

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
from torch.nn.parallel import DistributedDataParallel as DDP
from meloformer.corpus import Corpus
from meloformer.model import Config, MeloFormer
from meloformer.packing import Packs, Window, reader
from meloformer.train import Ranks, batcher, make_optimizer, train_step
torch.set_num_threads(1); torch.set_default_dtype(torch.float64); torch.manual_seed(0)
ranks,window = Ranks('cpu'),Window(256)
packs = Packs(Corpus(sys.argv[1]), window)
raw = MeloFormer(Config(width=64, layers=2, heads=1, kv_heads=1))
model,opt,losses = DDP(raw) if ranks.world>1 else raw,make_optimizer(raw, 1e-2),[]
batches = reader(packs, 0, 4//ranks.world, rank=ranks.rank, world=ranks.world, make=batcher(raw, window))
for _ in range(6): losses.append(train_step(model, opt, [next(batches) for _ in range(2)], ranks)[0])
if ranks.first: print(json.dumps(losses))
if ranks.world>1: dist.destroy_process_group()
'''

def test_two_ranks_are_one(corpus_folder, tmp_path):
    "The losses of six steps, with accumulation and windows of unequal fill, in fp64"
    f = tmp_path/'ranks.py'
    f.write_text(RANKS)
    env = os.environ|dict(OMP_NUM_THREADS='1')
    one = subprocess.run([sys.executable, f, str(corpus_folder)], capture_output=True, text=True, env=env, timeout=200)
    two = subprocess.run([sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node', '2', '--master_port', '29731', f, str(corpus_folder)],
                         capture_output=True, text=True, env=env, timeout=200)
    a,b = (np.array(json.loads(o.stdout.splitlines()[-1])) for o in (one, two))
    assert abs(a-b).max() < 1e-10 and a[-1] < a[0]

def test_torchrun_and_the_script(corpus_folder, tmp_path):
    "`torchrun scripts/train.py` with two ranks leaves one run"
    root = Path(__file__).resolve().parent.parent
    res = subprocess.run([sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node', '2', '--master_port', '29733', root/'scripts/train.py', '--data', str(corpus_folder),
        '--out', str(tmp_path/'run'), *ARGS, '--steps', '4'], capture_output=True, text=True, timeout=300, env=os.environ|dict(OMP_NUM_THREADS='1'))
    assert res.returncode == 0, res.stderr
    assert 'on 2 x cpu' in res.stdout and res.stdout.count('step 4/4') == 1
    assert [o.name for o in checkpoints(tmp_path/'run')] == ['step_000004']

def test_the_first_command_line(monkeypatch, corpus_folder):
    "The flags of the first MeloFormer are understood as they stand"
    import meloformer.train
    from meloformer.cli import run
    seen = []
    monkeypatch.setattr(meloformer.train, 'run_training', lambda a, ranks: seen.append(a))
    flags = '--model_size small --batch_size 6 --gradient_accumulation_steps 8 --max_seq_len 8192 --num_workers 8 --epochs 3 --data'
    assert run('train', [*flags.split(), str(corpus_folder)]) == 0
    a = seen[0]
    assert (a.model_size, a.batch_size, a.gradient_accumulation_steps, a.max_seq_len, a.num_workers, a.epochs) == ('small', 6, 8, 8192, 8, 3)

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
    batch = batcher(model, window)([assemble(hid, [tokens.astype(np.int64)], window)])
    opt,ranks = make_optimizer(model, 0.),Ranks('cpu')
    for i in range(150):
        for g in opt.param_groups: g['lr'] = lr_at(i, 150, 4e-3, warmup=10)
        loss,*_ = train_step(model, opt, [batch], ranks)
    assert loss < .1
    model.eval()
    start = tokens[:bar_starts(hid, tokens)[1]]
    back = hid.decode(np.array(list(compose(model, hid, Ask(bars=24, prompt=start, temperature=0)))))
    assert back == song().quantized()
