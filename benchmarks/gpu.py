"""All that needs a GPU, checked and timed in one call of a few minutes: python benchmarks/gpu.py [--minutes 8]

What is checked: FlexAttention against the dense reference, outputs and gradients, for every preset, and that the compiled model leaks no
future, serves all batches with one graph, and has in bfloat16 the gradients of float32. What is timed: block lists, training steps of
each size and length beside the same model with causal Flash attention, compilation cold and with the code of an earlier run, writing.
Parts run in this order until the minutes are over; each is kept in results/gpu.json when it is done, and a second call does what is
missing. A part that fails says so there, and the exit status is 1. It needs no corpus: packs are invented, 120 tokens a bar for eight
instruments. On a machine without a GPU `--rehearse` runs all that can run there, in small."""
import json, os, subprocess, sys, tempfile, time, traceback
from pathlib import Path
from statistics import median
import torch
import torch.nn.functional as F
from fastcore.script import call_parse
from report import report
from rivals import CausalPlan
from meloformer.attention import FlexPlan, attend, make_plan, no_dense_fallback
from meloformer.cost import flops
from meloformer.masks import FIELDS, PRESETS, block_lists, occupancy, preset, toy_ids
from meloformer.model import HEAD, Cache, Config, MeloFormer, config, leaks, losses, shake
from meloformer.optim import make_optimizer
from meloformer.ranks import Ranks
from meloformer.runs import compiled_for, read_compiled, write_compiled
from meloformer.train import Batch, train_step

PEAK = {'H100': 989e12, 'H200': 989e12, 'H800': 989e12, 'A100': 312e12, 'L40S': 362e12, '4090': 165e12} # bf16 operations a second, without sparsity
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

def music(length, batch=1, seed=0): return toy_ids(length*31//32, length//32, documents=1+seed%3, bar_tokens=120, programs=8, batch=batch, seed=seed)
def off(a, b): return ((a.detach().double()-b.detach().double()).norm()/b.detach().double().norm()).item()

# ------------------------------------------------------------------------------------------------ checks

def parity(rule, dtype, heads, kv_heads, length=2048):
    "Largest relative error of output and gradients of the compiled kernel"
    ids = toy_ids(length-256, 256, documents=3, bar_tokens=20, padding=100, batch=2)
    g = torch.Generator().manual_seed(0)
    x = [torch.randn(2, h, length, HEAD, generator=g).to(DEVICE, dtype).requires_grad_() for h in (heads, kv_heads, kv_heads)]
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
        m = shake(MeloFormer(Config(**vars(cfg)|dict(two_pass=two_pass)))).to(DEVICE).train()
        f = torch.compile(m, dynamic=False, fullgraph=True) if CUDA else m
        grads = []
        for half in (False, True):
            for seed in range(3):
                ids = music(1024, 2, seed)
                tokens = torch.randint(64, (2, 992), generator=torch.Generator().manual_seed(seed)).to(DEVICE)
                m.zero_grad()
                with torch.autocast(DEVICE, torch.bfloat16, enabled=half): loss = losses(f(tokens, ids.to(DEVICE), m.plan(ids, device=DEVICE).to(DEVICE)), tokens.roll(-1, 1)).sum()
                loss.backward()
            grads.append(torch.cat([p.grad.flatten() for p in m.parameters()]))
        back,ahead = leaks(m.eval(), tokens[:1], music(1024).to(DEVICE), 500, 'flex' if CUDA else 'gather')
        name = 'two passes' if two_pass else 'one pass'
        res[name] = dict(bf16_gradient_error=round(off(grads[1], grads[0]), 4), leak=back, reach_ahead=round(ahead, 3), graphs=torch._dynamo.utils.counters['stats']['unique_graphs'])
        assert back<1e-3 and ahead>1e-3 and (not CUDA or (res[name]['graphs']<=4 and res[name]['bf16_gradient_error']<2e-2)), res
    return res

def check_blocks(small):
    "Block lists on the device: equal to those of the processor, and how long they take"
    res = {}
    for length in (4096,) if small else (8192, 16384, 32768):
        here,rule = music(length, seed=1),preset('meloformer')
        there = here.to(DEVICE)
        a,b = block_lists(*occupancy(rule, here)),block_lists(*occupancy(rule, there))
        assert all(torch.equal(a[k], b[k].cpu()) for k in a)
        res[length] = dict(ms=round(1e3*seconds(lambda: block_lists(*occupancy(rule, there)), 9), 2), on_processor_ms=round(1e3*seconds(lambda: block_lists(*occupancy(rule, here)), 9), 2))
    return res

# ------------------------------------------------------------------------------------------------ training

class Run:
    "Training steps of one size at one length, with our rule or with causal Flash attention"
    def __init__(self, size, length, batch, causal=False, checkpointing=False):
        torch._dynamo.reset()
        self.length,self.batch,self.ranks = length,batch,Ranks(None if CUDA else 'cpu')
        self.model = MeloFormer(config(size, checkpointing=checkpointing)).to(DEVICE)
        self.optimizer = make_optimizer(self.model, 1e-4)
        self.called = torch.compile(self.model, dynamic=False, fullgraph=True) if CUDA else self.model
        self.batches = [self.make(music(length, batch, seed), causal) for seed in range(4)]

    def make(self, ids, causal):
        tokens = torch.randint(1100, (self.batch, ids.shape[1]-ids.n_summaries))
        plan = CausalPlan(self.model.rule, ids) if causal else self.model.plan(ids, device=DEVICE)
        return Batch(tokens, tokens.roll(-1, 1), ids, plan).to(DEVICE) # as a loader has them ready

    def step(self, i=0): train_step(self.called, self.optimizer, [self.batches[i%4]], self.ranks)

    def measure(self, n):
        start = time.perf_counter()
        self.step(); sync()
        compiled,i = time.perf_counter()-start,iter(range(1<<30))
        if CUDA: torch.cuda.reset_peak_memory_stats()
        took = seconds(lambda: self.step(next(i)), n)
        used = flops(self.model.cfg, self.batches[0].ids.to('cpu'), 'flex').step
        peak = next((v for k,v in PEAK.items() if CUDA and k in torch.cuda.get_device_name()), None)
        return dict(tokens_per_second=round(self.batch*self.length/took), ms=round(1e3*took, 1), first_step_s=round(compiled, 1),
                    peak_gb=round(torch.cuda.max_memory_allocated()/1e9, 2) if CUDA else None, mfu=round(used/took/peak, 3) if peak else None)

def train_pair(size, length, batch, small):
    "Ours, and the twin with causal Flash attention; one that does not fit is tried with checkpointing"
    res = {}
    for causal in (False, True):
        for checkpointing in (False, True):
            try:
                res['causal' if causal else 'ours'] = Run(size, length, batch, causal, checkpointing).measure(1 if small else 7)|dict(checkpointing=checkpointing)
                break
            except torch.OutOfMemoryError: torch.cuda.empty_cache()
        else: res['causal' if causal else 'ours'] = 'does not fit'
    a,b = res['ours'],res['causal']
    if isinstance(a, dict) and isinstance(b, dict): res['causal_over_ours'] = round(b['ms']/a['ms'], 2)
    return res

def compile_times(small):
    "Seconds of the first step in a fresh process: with an empty cache, and with the compiled code of that process"
    with tempfile.TemporaryDirectory() as d:
        def first(name): return json.loads(subprocess.run([sys.executable, __file__, '--one', f'{d}/compiled.bin'], capture_output=True, text=True, check=True, env=os.environ|dict(TORCHINDUCTOR_CACHE_DIR=f'{d}/{name}', TRITON_CACHE_DIR=f'{d}/{name}t')).stdout.splitlines()[-1])
        return dict(cold=first('a'), warm=first('b'))

def first_step(path):
    "The first step of `small` at 8k; compiled code is taken from `path`, or left there"
    made,_ = read_compiled(path, compiled_for() if CUDA else 'cpu')
    if made: torch.compiler.load_cache_artifacts(made)
    run = Run('small' if CUDA else 'tiny', 8192 if CUDA else 512, 1)
    start = time.perf_counter()
    run.step(); sync()
    took = time.perf_counter()-start
    if CUDA and not made: write_compiled(path, torch.compiler.save_cache_artifacts()[0], compiled_for())
    return round(took, 1)

# ------------------------------------------------------------------------------------------------ writing

def decode(small):
    "Tokens a second of the cache, batch 1, at some lengths of what is written already"
    m,res = MeloFormer(config('tiny' if small else 'small')).to(DEVICE).eval(),{}
    for length in (512,) if small else (1024, 8192, 16384):
        ids = toy_ids(length, length//32, bar_tokens=120, programs=8).to(DEVICE)
        cache,rows = Cache(m),torch.stack([getattr(ids, f)[0, ids.n_summaries:] for f in FIELDS], 1)
        with torch.no_grad(): m.prefill(cache, torch.zeros(1, length, dtype=torch.long, device=DEVICE), ids)
        res[length] = round(1/seconds(lambda: m.step(cache, 1, rows[-1]), 50, 10))
    return res

# ------------------------------------------------------------------------------------------------

def parts(small):
    "Name -> function, the most important first"
    steps = [('tiny', 512, 1)] if small else [('small', 8192, 6), ('large', 8192, 1), ('large', 16384, 1), ('base', 8192, 2), ('large', 32768, 1), ('small', 32768, 1), ('xlarge', 8192, 1)]
    res = dict(kernel=check_kernel, model=check_model, blocks=check_blocks)
    res |= {f'train {s} {b} x {n}': (lambda small, o=(s, n, b): train_pair(*o, small)) for s,n,b in steps}
    return res|dict(compile_s=compile_times, decode_tokens_per_second=decode)

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
