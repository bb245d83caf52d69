"What is predicted is what is measured; phases from a file and traces leave a run as it is"
import json, re, signal, time
from dataclasses import replace
import pytest, torch
from commands import Command
from conftest import slowness
from meloformer.apps import cli
from meloformer.budget.cost import PURPOSES, MemoryLaw, Speed, FakePlan, allocated, memory, step_work
from meloformer.net.masks import toy_ids
from meloformer.net.model import Config, MeloFormer, config, count_parameters, losses
from meloformer.training.optim import make_optimizer
from meloformer.budget.profile import Job, confirm, longest, machine, measure, most_windows, toy_batch, required_bytes, predict_memory, shares, tune_phases
from meloformer.net.checkpoint import checkpoints
from meloformer.training.train import read_phases, train

SMALL = Config(width=128, layers=4, heads=2, kv_heads=1, vocab_size=128)

def steps(cfg, length, kind, half=False, model=None, plan=None, n=2):
    "Steps of a model on invented music"
    model = MeloFormer(cfg) if model is None else model
    ids = toy_ids(length-64, 64, bar_tokens=40)
    own,tokens,plan = make_optimizer(model, 1e-4, kind=kind),torch.zeros(1, length-64, dtype=int),plan or model.plan(ids)
    for _ in range(n):
        with torch.autocast('cpu', torch.bfloat16, enabled=half): logits = model(tokens, ids, plan)
        loss = losses(logits, tokens).sum()
        del logits
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.)
        own.step(); own.zero_grad(set_to_none=True)

@pytest.mark.parametrize('kind', ('adamw','muon'))
@pytest.mark.parametrize('changes', ({}, dict(checkpointing=True), dict(two_pass=True), dict(mask='sliding'), dict(dropout=.1)), ids=str)
def test_memory_on_a_processor(kind, changes):
    cfg = replace(SMALL, **changes)
    said = memory(cfg, 2048, optimizer=lambda m: make_optimizer(m, 1e-4, kind=kind)).total
    assert said == pytest.approx(allocated(lambda: steps(cfg, 2048, kind)), rel=.05)

@pytest.mark.parametrize('checkpointing', (False, True))
def test_memory_compiled(checkpointing):
    "A compiler that has never seen our prediction allocates what it says"
    cfg = config('tiny', layers=2, checkpointing=checkpointing)
    said = memory(cfg, 2048, backend='flex', half=True).total
    def run():
        torch._dynamo.reset()
        steps(cfg, 2048, 'adamw', True, torch.compile(MeloFormer(cfg), dynamic=False, fullgraph=True), FakePlan((1, 2048)), 3)
    assert said == pytest.approx(allocated(run), rel=.1)

def test_memory_of_parts():
    m = memory(SMALL, 1024, micro_batches=2)
    assert m.weights==4*count_parameters(SMALL) and m.gradients>=m.weights and m.optimizer>=2*m.weights
    assert m.line[:, PURPOSES.index('logits')].max()>0 and m.activations>m.logits and m.total==sum(getattr(m, k) for k in PURPOSES)==m.line.sum(1).max()
    assert memory(SMALL, 1024).total < m.total < memory(SMALL, 1024, batch_size=2).total

@pytest.mark.parametrize('backend,half,kind,changes', [('flex', True, 'muon', {}), ('flex', True, 'adamw', dict(checkpointing=True)), ('flex', False, 'adamw', dict(two_pass=True)), ('gather', True, 'muon', dict(checkpointing=True, dropout=.1))], ids=str)
def test_two_traces_tell_all_lengths(backend, half, kind, changes):
    "The law says what a trace of each length and batch would, to the byte, and nearly so for short windows"
    cfg,own = replace(SMALL, layers=2, **changes),lambda m: make_optimizer(m, 1e-4, kind=kind)
    law = MemoryLaw(cfg, backend, half, own)
    for N,B,M in ((2048, 1, 1), (2048, 3, 2), (65536, 1, 2)):
        said,m = law(N*B, M),memory(cfg, N, B, backend, half, M, own)
        assert (said.line==m.line).all() and (said.total, said.moved, said.work, said.ends)==(m.total, m.moved, m.work, m.ends)
    for N,B in ((512, 4), (8320, 1)):
        assert .97 < law(N*B).total/memory(cfg, N, B, backend, half, 1, own).total < 1.05

def test_large_predictions_are_quick():
    start = time.process_time()
    m = predict_memory(Job('xlarge', 32768, batch_size=4, optimizer='adamw'))
    assert m.total > 100e9 and time.process_time()-start < 30*slowness()

def test_speed_counts_all():
    s = Speed(10., 5., 2., 4., .5)
    assert s.seconds(10, 10, 10, 8)==1+2+5+2+.5
    job = Job('tiny', 1024, cuda=False)
    w = step_work(job.cfg, toy_batch(job), memory(job.cfg, 1024), 'gather')
    assert all(v>0 for v in w.values())

def test_longest_and_largest():
    job = Job('tiny', 2048, cuda=False, half=False, optimizer='adamw')
    n = longest(job, 8e9)
    assert required_bytes(replace(job, length=n))<=8e9<required_bytes(replace(job, length=n+max(128, n//50//128*128)))
    b = most_windows(job, 8e9)
    assert required_bytes(replace(job, batch_size=b))<=8e9<required_bytes(replace(job, batch_size=b+1+b//50))

def test_confirm_never_answers_what_did_not_run():
    ran = []
    def trial(job, _):
        ran.append(job.batch_size)
        return dict(out_of_memory='') if job.batch_size>5 else dict(reserved=1e9)
    n,rows = confirm(Job(), 'batch_size', 12, 80e9, trials=9, try_=trial)
    assert n==5 and n in ran and len(rows)==len(ran)
    assert confirm(Job(), 'batch_size', 12, 80e9, try_=lambda *_: dict(out_of_memory=''))[0]==0

def test_batches_begin_at_the_length_that_ran(monkeypatch, capsys, tmp_path):
    "The table is tried row by row; the largest batch is sought from what was confirmed, not from what was predicted"
    import meloformer.budget.profile as m
    asked = []
    def confirmed(job, what, n, limit, step): asked.append((job.size, what, n)); return 5*1024,[]
    monkeypatch.setattr(m, 'limits', lambda limit, batches, **kw: [dict(size=s, checkpointing=False, longest=n, batch={512: n//512}) for s,n in (('tiny', 2048), ('xlarge', 0))])
    monkeypatch.setattr(m, 'confirm', confirmed)
    m.profile(max_batch=True, measure=True, device='cpu', length=512, memory=4., out=str(tmp_path))
    assert asked==[('tiny','length',2048), ('tiny','batch_size',10)]
    assert [r['measured_length'] for r in json.loads((tmp_path/'profile.json').read_text())['rows']]==[5120, 0] and '5,120 places' in capsys.readouterr().out

def test_measured_here():
    job = Job('tiny', 512, batch_size=2, micro_batches=3, cuda=False, half=False)
    r = measure(job, 1)
    assert predict_memory(job).total == pytest.approx(r['allocated'], rel=.1)
    assert r['process'] > r['allocated']*.5 and r['tokens_per_second'] == pytest.approx(job.tokens/r['step_s']) and r['first_s']>0
    assert all(r[k+'_s']>0 for k in ('forward','backward','optimizer','make_batch'))

def flags(data, out, **kw): return dict(data=str(data), out=str(out), model_size='tiny', max_seq_len=512, batch_size=2, gradient_accumulation_steps=1, num_workers=1, lr=1e-3, steps=8, val_every=100, val_windows=1, sample_bars=0, save_every=4, log_every=1, device='cpu')|kw
def same(a, b):
    a,b = (MeloFormer.load(checkpoints(o)[-1]).state_dict() for o in (a, b))
    return all(torch.equal(a[k], b[k]) for k in a)

def test_phases_from_a_file_resume_exactly(corpus_folder, tmp_path):
    "Eight steps in one go, or four and four over a switch of phases: the same model"
    f = tmp_path/'phases.json'
    f.write_text(json.dumps(dict(phases=[dict(until=3, batch_size=1, workers=0, micro_batches=2), dict(until=None, batch_size=2, workers=1)])))
    s = train(**flags(corpus_folder, tmp_path/'whole', phases=str(f)))
    assert s['cursor']==16
    p = Command('train', *(o for k,v in flags(corpus_folder, tmp_path/'parts', phases=f).items() for o in (f'--{k}', v)))
    for line in p.stdout:
        if line.startswith('step 4/8'): p.send_signal(signal.SIGTERM)
    assert p.wait()==0
    stopped = int(checkpoints(tmp_path/'parts')[-1].name[5:])
    assert 4<=stopped<8 and train(**flags(corpus_folder, tmp_path/'parts', phases=str(f)))['cursor']==16
    assert same(tmp_path/'whole', tmp_path/'parts')

def test_phases_measured_once(corpus_folder, tmp_path):
    s = train(**flags(corpus_folder, tmp_path/'auto', phases='auto', steps=3))
    f = tmp_path/'auto'/'phases.json'
    told,when = read_phases(f),f.stat().st_mtime_ns
    assert all(p.windows==2 for p in told) and s['cursor']==6 and json.loads(f.read_text())['machine']==machine()['name']
    train(**flags(corpus_folder, tmp_path/'auto', phases='auto', steps=4))
    assert f.stat().st_mtime_ns==when

def test_bad_phases_are_told(corpus_folder, tmp_path, capsys):
    for text,why in (('nonsense', 'holds no phases'), ('{"phases": [{"until": null, "batch_size": 0, "workers": 0}]}', 'one window or more')):
        (tmp_path/'p.json').write_text(text)
        assert cli.run('train', ['--data', str(corpus_folder), '--out', str(tmp_path/'o'), '--phases', str(tmp_path/'p.json'), '--device', 'cpu', '--max-seq-len', '512', '--model-size', 'tiny'])==1
        assert why in capsys.readouterr().err

def test_traces(corpus_folder, tmp_path):
    "A trace on demand and one by signal, of a run that learns the same"
    train(**flags(corpus_folder, tmp_path/'plain', num_workers=0, at_once=True))
    p = Command('train', *(o for k,v in flags(corpus_folder, tmp_path/'traced', num_workers=0, trace='1-2').items() for o in (f'--{k}', v)), '--at_once', merged=True)
    for line in p.stdout:
        if line.startswith('step 3/8'): p.send_signal(signal.SIGUSR1)
    assert p.wait()==0
    traces = sorted((tmp_path/'traced').glob('trace_*.json.gz'))
    assert len(traces)==2 and traces[0].name=='trace_000001.json.gz'
    for t in traces:
        s = shares(t)
        assert 0<s['busy']<=1 and 0<=s['waits']<1 and s['device']=='processor'
    assert same(tmp_path/'plain', tmp_path/'traced')

def test_commands(tmp_path, capsys):
    assert cli.run('profile', ['--model-size', 'tiny', '--length', '1024', '--device', 'cpu', '--memory', '4'])==0
    assert 'fits' in capsys.readouterr().out
    assert cli.run('plan', ['--tokens', '1e8', '--model-size=tiny', '--max-seq-len', '1024', '--card', 'H100', '--prices', 'H100=2.5', '--cores', '0'])==0
    assert 'H100' in capsys.readouterr().out
    for name,args,why in (('profile', ['--length', '100'], 'multiple of 128'), ('profile', ['--measure', '--device', 'cuda'], 'no card'), ('plan', [], '--tokens'), ('plan', ['--tokens', '1', '--card', 'none'], 'is not known')):
        if why=='no card' and torch.cuda.is_available(): continue
        assert cli.run(name, args)==1 and why in capsys.readouterr().err

def test_small_sizes(capsys):
    "What is too small for two digits of a GB is told in MB, in tables and in errors"
    cli.run('profile', ['--model_size', 'tiny', '--length', '512', '--device', 'cpu', '--memory', '.05'])
    said = capsys.readouterr().out
    assert ' MB' in said and not re.search(r'\b0\.00 GB', said) and 'of 50.00 MB: does not fit' in said
    with pytest.raises(ValueError, match='needs more than 4.00 MB'): tune_phases(Job('tiny', 512, cuda=False, half=False), 4e6)
