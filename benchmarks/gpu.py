"""All that needs a GPU, checked and timed in one call of a few minutes: python benchmarks/gpu.py [--minutes 8]

What is checked: FlexAttention against the dense reference, outputs and gradients, for every preset, and that the compiled model leaks no
future, serves all batches with one graph, and has in bfloat16 the gradients of float32. What is timed: block lists, training steps of
each size and length beside the same model with causal Flash attention, compilation cold and with the code of an earlier run, writing.
What is predicted without a card stands beside it: memory, seconds of a step, and what we want to reach.
Parts run in this order until the minutes are over; each is kept in results/gpu.json when it is done, and a second call does what is
missing. A part that fails says so there, and the exit status is 1. It needs no corpus: packs are invented, 120 tokens a bar for eight
instruments. On a machine without a GPU `--rehearse` runs all that can run there, in small."""
import gc, json, os, subprocess, sys, tempfile, time, traceback
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import median
import torch
from fastcore.script import call_parse
from report import report
from rivals import CausalPlan
from meloformer.net import attention
from meloformer.net.attention import attend, make_plan, no_dense_fallback
from meloformer.budget.hardware import CARDS, ONE_CORE, SHARES, card_speed, find_card
from meloformer.net.blocks import block_lists, occupancy
from meloformer.net.masks import FIELDS, PRESETS, preset, toy_ids
from meloformer.net.cache import Cache
from meloformer.net.model import HEAD_DIM, Config, MeloFormer, config, leaks, losses, randomize_weights
from meloformer.budget.profile import Job, _trial, job_work, machine, predict_memory, predict_seconds
from meloformer.training.log import compiled_for, read_compiled, write_compiled

GOALS = {('small', 8192): 1.5e6, ('base', 8192): 350e3, ('large', 8192): 100e3, ('large', 16384): 80e3} # tokens a second that an H100 should reach
CUDA = torch.cuda.is_available()
DEVICE = 'cuda' if CUDA else 'cpu'

def sync():
    if CUDA: torch.cuda.synchronize()

def seconds(f, n=5, warm=2):
    "Median seconds of `f`"
    for _ in range(warm): f()
    took = []
    for _ in range(n):
        sync(); t = time.perf_counter(); f(); sync()
        took.append(time.perf_counter()-t)
    return median(took)

def toy_batch(length, batch=1, seed=0): return toy_ids(length*31//32, length//32, documents=1+seed%3, bar_tokens=120, programs=8, batch=batch, seed=seed)
def off(a, b): return ((a.detach().double()-b.detach().double()).norm()/b.detach().double().norm()).item()

# ------------------------------------------------------------------------------------------------ checks

def parity(rule, dtype, heads, kv_heads, length=2048):
    "Largest relative error of output and gradients of the compiled kernel"
    ids = toy_ids(length-256, 256, documents=3, bar_tokens=20, padding=100, batch=2)
    g = torch.Generator().manual_seed(0)
    x = [torch.randn(2, h, length, HEAD_DIM, generator=g).to(DEVICE, dtype).requires_grad_() for h in (heads, kv_heads, kv_heads)]
    plan,slow = make_plan(rule, ids, device=DEVICE).to(DEVICE),make_plan(rule, ids, 'dense').to(DEVICE)
    fast = (lambda q,k,v,p: attend(q, k, v, p.bind(rule)))
    if CUDA:
        torch._dynamo.reset()
        fast = torch.compile(fast, dynamic=False, fullgraph=True)
    w = torch.randn(x[0].shape, generator=g).to(DEVICE, dtype)
    def both(f, x):
        o = f(*x)
        return [o, *torch.autograd.grad(o, x, w.to(o.dtype))]
    a,b = both(lambda q,k,v: fast(q, k, v, plan), x),both(lambda q,k,v: attend(q, k, v, slow), [t.detach().double().requires_grad_() for t in x])
    return max(off(s, t) for s,t in zip(a, b))

def check_kernel(small):
    rows = {f'{n} bf16 4:2': parity(preset(n), torch.bfloat16, 4, 2) for n in (list(PRESETS)[:2] if small else PRESETS)}
    rows |= {'meloformer float32 4:4': parity(preset('meloformer'), torch.float32, 4, 4), 'meloformer bf16 12:6': parity(preset('meloformer'), torch.bfloat16, 12, 6)}
    assert all(v<2e-2 for v in rows.values()), rows
    return {k: float(f'{v:.1e}') for k,v in rows.items()}

def check_model(small):
    "No leak, one graph over changing batches, gradients of bfloat16"
    cfg = Config(width=128, layers=3, heads=2, kv_heads=1, vocab_size=64)
    res = {}
    for two_pass in (False, True):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        m = randomize_weights(MeloFormer(Config(**vars(cfg)|dict(two_pass=two_pass)))).to(DEVICE).train()
        f = torch.compile(m, dynamic=False, fullgraph=True) if CUDA else m
        grads = []
        for half in (False, True):
            for seed in range(3):
                ids = toy_batch(1024, 2, seed)
                tokens = torch.randint(64, (2, 992), generator=torch.Generator().manual_seed(seed)).to(DEVICE)
                m.zero_grad()
                with torch.autocast(DEVICE, torch.bfloat16, enabled=half): loss = losses(f(tokens, ids.to(DEVICE), m.plan(ids, device=DEVICE).to(DEVICE)), tokens.roll(-1, 1)).sum()
                loss.backward()
            grads.append(torch.cat([p.grad.flatten() for p in m.parameters()]))
        back,ahead = leaks(m.eval(), tokens[:1], toy_batch(1024).to(DEVICE), 500, 'flex' if CUDA else 'gather')
        name = 'two passes' if two_pass else 'one pass'
        res[name] = dict(bf16_gradient_error=round(off(grads[1], grads[0]), 4), leak=back, reach_ahead=round(ahead, 3), graphs=torch._dynamo.utils.counters['stats']['unique_graphs'])
        assert back<1e-3 and ahead>1e-3 and (not CUDA or (res[name]['graphs']<=4 and res[name]['bf16_gradient_error']<2e-2)), res
    return res

def check_blocks(small):
    "Block lists on the device: equal to those of the processor, and how long they take"
    res = {}
    for length in (4096,) if small else (8192, 16384, 32768):
        here,rule = toy_batch(length, seed=1),preset('meloformer')
        there = here.to(DEVICE)
        a,b = block_lists(*occupancy(rule, here)),block_lists(*occupancy(rule, there))
        assert all(torch.equal(a[k], b[k].cpu()) for k in a)
        res[length] = dict(ms=round(1e3*seconds(lambda: block_lists(*occupancy(rule, there)), 9), 2), on_processor_ms=round(1e3*seconds(lambda: block_lists(*occupancy(rule, here)), 9), 2))
    return res

def kernel_options(small):
    "Milliseconds of attention, forward and backward, with each of the choices that were made by counting instructions (`KERNEL`)"
    res,chosen = {},dict(attention.KERNEL)
    try:
        for name,fwd,bwd in product(('meloformer',) if small else ('meloformer','museformer'), (4, 8), (2, 3)):
            attention.KERNEL.update(fwd_num_warps=fwd, bwd_num_stages=bwd)
            torch._dynamo.reset()
            rule,ids = preset(name),toy_batch(1024 if small else 8192)
            plan = make_plan(rule, ids, device=DEVICE).to(DEVICE)
            q,k,v = (torch.randn(1, h, ids.shape[1], HEAD_DIM, device=DEVICE, dtype=torch.bfloat16, requires_grad=True) for h in (8, 4, 4))
            f = lambda q, k, v, plan: attend(q, k, v, plan.bind(rule)).sum()
            if CUDA: f = torch.compile(f, dynamic=False, fullgraph=True)
            res[f'{name}, {fwd} warps forward, {bwd} stages backward'] = round(1e3*seconds(lambda: torch.autograd.grad(f(q, k, v, plan), (q, k, v)), 9), 3)
    finally: attention.KERNEL.update(chosen)
    return res

# ------------------------------------------------------------------------------------------------ training

def job_of(size, length, batch): return Job(size, length, batch, optimizer='adamw', cuda=CUDA, half=CUDA)

def speeds():
    "Of this machine on paper: low, likely, high"
    card = find_card(machine()['name']) or CARDS['H100']
    return [card_speed(card, o) for o in SHARES] if CUDA else [ONE_CORE]*3

def run(job, steps, causal):
    "A job, ours or with causal Flash attention; one that does not fit is tried with checkpointing"
    for checkpointing in (False, True):
        torch._dynamo.reset()
        try: return replace(job, checkpointing=checkpointing),_trial(replace(job, checkpointing=checkpointing), steps, CausalPlan if causal else None)
        except torch.OutOfMemoryError: pass
        gc.collect() # outside of the except clause, which holds the frames and so the tensors
        torch.cuda.empty_cache()
    return job,None

def train_pair(size, length, batch, small):
    "Ours, and the twin with causal Flash attention; what was predicted of ours, divided by what is"
    res = {}
    for name in ('ours','causal'):
        job,r = run(job_of(size, length, batch), 1 if small else 7, name=='causal')
        gc.collect()
        if CUDA: torch.cuda.empty_cache()
        res[name] = r and dict(tokens_per_second=round(r['tokens_per_second']), ms=round(1e3*r['step_s'], 1), **{f'{k}_ms': round(1e3*r[f'{k}_s'], 1) for k in ('forward','backward','optimizer')}, first_step_s=round(r['first_s'], 1),
            checkpointing=job.checkpointing, **{f'{k}_gb': round(r[k]/1e9, 3) for k in ('allocated','reserved','first_peak') if k in r})
        if name=='ours' and r:
            m,(low,likely,high) = predict_memory(job),(predict_seconds(job, s)/r['step_s'] for s in speeds())
            work,peak = job_work(job),(find_card(machine()['name']) or CARDS['H100']).peak
            res['predicted_over_measured'] = dict(memory=round(m.total/r['allocated'], 3), held=round((m.weights+m.optimizer)/r['held'], 3), seconds=round(likely, 2), seconds_between=[round(high, 2), round(low, 2)])
            if CUDA: res[name] |= dict(of_peak=round((work['linear']+work['attention'])/r['step_s']/peak, 3))
            if (size, length) in GOALS and CUDA: res['goal'] = dict(tokens_per_second=GOALS[size, length], reached=bool(r['tokens_per_second']>=GOALS[size, length]))
    if res['ours'] and res['causal']: res['causal_over_ours'] = round(res['causal']['ms']/res['ours']['ms'], 2)
    return {k: v or 'does not fit' for k,v in res.items()}

def compile_times(small):
    "Seconds of the first step in a fresh process: with an empty cache, and with the compiled code of that process"
    with tempfile.TemporaryDirectory() as d:
        def first(name): return json.loads(subprocess.run([sys.executable, __file__, '--one', f'{d}/compiled.bin'], capture_output=True, text=True, check=True, env=os.environ|dict(TORCHINDUCTOR_CACHE_DIR=f'{d}/{name}', TRITON_CACHE_DIR=f'{d}/{name}t')).stdout.splitlines()[-1])
        return dict(cold=first('a'), warm=first('b'))

def first_step(path):
    "The first step of `small` at 8k; compiled code is taken from `path`, or left there"
    made,_ = read_compiled(path, compiled_for() if CUDA else 'cpu')
    if made: torch.compiler.load_cache_artifacts(made)
    took = _trial(job_of(*(('small', 8192, 1) if CUDA else ('tiny', 512, 1))), 1)['first_s']
    if CUDA and not made: write_compiled(path, torch.compiler.save_cache_artifacts()[0], compiled_for())
    return round(took, 1)

# ------------------------------------------------------------------------------------------------ writing

def decode(small):
    "Tokens a second of the cache, batch 1, at some lengths of what is written already"
    m,res = MeloFormer(config('tiny' if small else 'small')).to(DEVICE).eval(),{}
    for length in (512,) if small else (1024, 8192, 16384):
        ids = toy_ids(length, length//32, bar_tokens=120, programs=8).to(DEVICE)
        cache,row,token = Cache(m),torch.stack([getattr(ids, f)[:, -1] for f in FIELDS], 1),torch.ones(1, dtype=torch.long, device=DEVICE)
        m.prefill(cache, torch.zeros(1, length, dtype=torch.long, device=DEVICE), ids)
        cache.room(cache.used[0]+1)
        @torch.no_grad()
        def one(): return m.logits(m.advance(cache, m.embed_one(cache, token, row), row, cache.width)).argmax()
        f = torch.compile(one, dynamic=False, fullgraph=True) if CUDA else one
        def again():
            cache.at.fill_(cache.used[0]) # the same place each time
            f().item()
        res[length] = round(1/seconds(again, 50, 10))
    return res

# ------------------------------------------------------------------------------------------------

def parts(small):
    "Name -> function, the most important first"
    first = [('tiny', 512, 1)] if small else [('small', 8192, 6), ('large', 8192, 1), ('base', 8192, 2), ('large', 16384, 1)] # those with goals
    rest = [] if small else [('small', 32768, 1), ('large', 32768, 1), ('xlarge', 8192, 1), ('base', 32768, 1), ('small', 16384, 3), ('base', 16384, 1), ('tiny', 8192, 12), ('tiny', 32768, 3), ('xlarge', 16384, 1)]
    train = lambda steps: {f'train {s} {b} x {n}': (lambda small, o=(s, n, b): train_pair(*o, small)) for s,n,b in steps}
    return dict(kernel=check_kernel, model=check_model) | train(first) | dict(compile_s=compile_times, decode_tokens_per_second=decode, blocks=check_blocks, kernel_options=kernel_options) | train(rest)

@call_parse
def main(
    minutes: float = 8.,    # Begin no part after so many
    only: str = '',         # Parts whose name holds this
    rehearse: bool = False, # Without a GPU: run small, and write nothing
    one: str = ''           # For its own use: time the first step
):
    "Check and time everything on the GPU"
    if one: return print(first_step(one))
    if not (CUDA or rehearse): raise SystemExit('there is no GPU here; --rehearse runs what can run without')
    if CUDA: no_dense_fallback()
    out,start,failed = Path(__file__).parent/'results'/'gpu.json',time.perf_counter(),False
    done = json.loads(out.read_text())['parts'] if out.exists() and not rehearse else {}
    for name,f in parts(rehearse).items():
        if only not in name or name in done and 'error' not in done[name]: continue
        if time.perf_counter()-start > 60*minutes: print('no time left for', name); continue
        t = time.perf_counter()
        try: done[name] = f(rehearse)
        except Exception as e: # a part that fails is reported, and the others still run
            failed,done[name] = True,dict(error=''.join(traceback.format_exception_only(e)).strip()[-500:])
            traceback.print_exc()
        print(f'{name}: {done[name]} ({time.perf_counter()-t:.0f} s)', flush=True)
        if not rehearse: report('gpu', command='python benchmarks/gpu.py', parts=done)
    if failed: raise SystemExit(1)
