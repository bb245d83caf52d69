"Masks and attention over whatever a pack may hold: every rule, back end, packing and order of bars, in float64"
import warnings
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch._dynamo.testing import CompileCounter
from torch.nn.attention.flex_attention import create_mask
from meloformer.net.attention import DensePlan, FlexPlan, GatherPlan, TwoPassPlan, attend, plan_passes
from meloformer.net.blocks import occupancy
from meloformer.tokens.vocabulary import NO_PROGRAM
from meloformer.net.masks import PRESETS, make_ids, preset, toy_ids, two_passes
from meloformer.net.model import Config, MeloFormer, randomize_weights

RULES = [*PRESETS, 'meloformer-SS', 'meloformer-RS-SR', 'meloformer-RR', 'museformer-SS']
BACKENDS = {'dense': DensePlan, 'gather': GatherPlan}

@st.composite
def documents(draw):
    "One piece as (bar, program) of each token: bars in order, or a context first and the target after it, which may repeat some of it"
    n = draw(st.integers(1, 40))
    order = list(range(n))
    if draw(st.booleans()):
        a,b = sorted(draw(st.tuples(st.integers(0, n), st.integers(0, n))))
        again = draw(st.sets(st.integers(0, n-1)))
        order = [i for i in order if not a<=i<b or i in again]+order[a:b]
    sizes = draw(st.lists(st.sampled_from([1, 1, 2, 3, 5, 9]), min_size=len(order), max_size=len(order)))
    return [(b, i, i*draw(st.integers(1, 4))//k) for b,k in zip(order, sizes) for i in range(k)]

@st.composite
def packs(draw, samples=st.integers(1, 2)):
    "Samples of several pieces with padding between and behind them; (document, bar, index, program), each of shape (B, T)"
    T,rows = 128*draw(st.integers(1, 2))-64,[]
    for _ in range(draw(samples)):
        cols = []
        for d,doc in enumerate(draw(st.lists(documents(), min_size=1, max_size=4))):
            cols += [(d, *o) for o in doc]+[(-1, 0, 0, NO_PROGRAM)]*draw(st.sampled_from([0, 0, 7]))
        rows.append(np.array((cols+[(-1, 0, 0, NO_PROGRAM)]*T)[:T]))
    return np.stack(rows).transpose(2, 0, 1)

def ids_of(pack, n_summaries=64):
    document,bar,index,program = pack
    kind = np.where(index==0, 1, 9)
    bars = max(int((np.diff(np.stack([d*1000+b, i]), axis=1)!=[[0], [1]]).any(0).sum())+1 for d,b,i in zip(document, bar, index))
    return make_ids(document, bar, program, kind, index, index*3%7, max(n_summaries, -(-bars//64)*64))

def qkv(ids, seed, heads=(2,1), width=8):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(ids.shape[0], h, ids.shape[1], width, generator=g, dtype=torch.float64).requires_grad_() for h in (heads[0], heads[1], heads[1])]

def out_and_gradients(x, plan):
    o = attend(*x, plan)
    return o,*torch.autograd.grad(o, x, torch.sin(torch.arange(o.numel(), dtype=o.dtype)).view_as(o))

@given(packs(), st.sampled_from(RULES))
@settings(max_examples=20, deadline=None)
def test_blocks_are_those_of_the_mask(pack, name):
    ids,rule = ids_of(pack),preset(name)
    B,N = ids.shape
    m = rule.dense(ids).view(B, N//32, 32, N//32, 32)
    occupied,full = occupancy(rule, ids, 32)
    assert torch.equal(occupied, m.any(4).any(2)) and torch.equal(full, m.all(4).all(2))

@given(packs(), st.sampled_from(RULES), st.integers(0, 9))
@settings(max_examples=20, deadline=None)
def test_gather_is_dense(pack, name, seed):
    "Outputs and gradients; rows that read nothing are zeros, and nothing is NaN"
    ids,rule = ids_of(pack),preset(name)
    x = qkv(ids, seed)
    a,b = (out_and_gradients(x, BACKENDS[k](rule, ids)) for k in ('dense','gather'))
    for s,t in zip(a, b): torch.testing.assert_close(s, t, rtol=0, atol=1e-10)
    blind = ~rule.dense(ids).any(-1)
    assert not b[0][blind[:, None].expand(b[0].shape[:3])].any()

@given(packs(), st.sampled_from(RULES), st.integers(0, 9))
@settings(max_examples=10, deadline=None)
def test_two_passes_read_the_same_pairs(pack, name, seed):
    ids,rule = ids_of(pack),preset(name)
    x = qkv(ids, seed)
    p = plan_passes(two_passes(rule), ids)
    torch.testing.assert_close(attend(*x, p.summarize)+attend(*x, p.update), attend(*x, DensePlan(rule, ids)), rtol=0, atol=1e-10)

def small(name, two_pass): return randomize_weights(MeloFormer(Config(width=64, layers=2, heads=1, kv_heads=1, vocab_size=64, mask=name, two_pass=two_pass))).double()

@given(packs(), st.sampled_from(RULES), st.booleans(), st.sampled_from([*BACKENDS]), st.data())
@settings(max_examples=20, deadline=None)
def test_no_edge_carries_the_future(pack, name, two_pass, backend, data):
    "Another token at one place moves no output before it, none of another piece, none of another sample"
    ids,m = ids_of(pack),small(name, two_pass)
    S,T = ids.n_summaries,pack.shape[2]
    live = np.flatnonzero(pack[0][0]>=0)
    at = data.draw(st.sampled_from(live.tolist()))
    tokens = torch.from_numpy(np.random.default_rng(0).integers(64, size=(ids.shape[0], T)))
    other = tokens.clone()
    other[0, at] = (other[0, at]+1)%64
    plan = m.plan(ids, backend)
    with torch.no_grad(): moved = (m(other, ids, plan)-m(tokens, ids, plan)).abs().amax(-1)>1e-12
    doc = ids.document[0, S:]
    assert moved[0, at] and not moved[1:].any()
    assert not moved[0, (torch.arange(T)<at) | (doc!=doc[at])].any()

@given(packs(samples=st.just(1)), st.sampled_from(RULES), st.booleans())
@settings(max_examples=10, deadline=None)
def test_packed_is_alone(pack, name, two_pass):
    "Each piece of a pack gets the outputs that it gets by itself"
    ids,m = ids_of(pack),small(name, two_pass)
    tokens = torch.from_numpy(np.random.default_rng(0).integers(64, size=(1, pack.shape[2])))
    with torch.no_grad():
        whole = m(tokens, ids, m.plan(ids))
        for d in range(pack[0].max()+1):
            i = np.flatnonzero(pack[0][0]==d)
            if not len(i): continue
            alone = ids_of(pack[:, :, i])
            torch.testing.assert_close(m(tokens[:, i], alone, m.plan(alone)), whole[:, i], rtol=0, atol=1e-10)

def test_gather_within_a_compiled_function():
    "The compiler leaves it alone"
    ids = toy_ids(n_tokens=192, n_summaries=64, bar_tokens=7)
    x,plan = qkv(ids, 0),GatherPlan(preset('meloformer'), ids)
    f = lambda q,k,v: attend(2*q, k, v, plan)+1
    counter = CompileCounter()
    torch.testing.assert_close(torch.compile(f, backend=counter)(*x), f(*x), rtol=0, atol=0)
    assert counter.frame_count
    torch._dynamo.reset()

@pytest.mark.parametrize('name', RULES)
def test_flex_asks_the_same_rule(name):
    "What goes into the CUDA kernel, asked of every pair on the CPU"
    ids,rule = toy_ids(n_tokens=192, n_summaries=64, documents=3, bar_tokens=7, padding=20, batch=2),preset(name)
    B,N = ids.shape
    assert torch.equal(create_mask(rule.mask_mod(ids), B, 1, N, N, device='cpu')[:, 0], rule.dense(ids))
    assert torch.equal(FlexPlan(rule, ids).bind(rule).to_dense()[:, 0].bool(), occupancy(rule, ids)[0])

@pytest.mark.parametrize('name, two_pass', [('meloformer', False), ('meloformer-SS', True), ('museformer', True)])
def test_one_graph_serves_all_batches(name, two_pass):
    "The whole model with FlexAttention is one graph, whatever the pieces and bars; a counter stands in for the compiler of the GPU"
    torch._dynamo.reset()
    m,counter = small(name, two_pass).float(),CompileCounter()
    compiled = torch.compile(m, backend=counter, dynamic=False, fullgraph=True)
    for seed in range(3):
        ids = toy_ids(n_tokens=224, n_summaries=32, documents=1+seed, bar_tokens=12+seed, padding=10*seed, seed=seed)
        tokens,plans = torch.randint(0, 64, (1, 224)),[FlexPlan(r, ids) for r in m.rules]
        with torch.no_grad(), warnings.catch_warnings():
            warnings.filterwarnings('ignore', message='flex_attention called without torch.compile')
            got = compiled(tokens, ids, TwoPassPlan(*plans, 32) if two_pass else plans[0])
            ref = m(tokens, ids, m.plan(ids, 'dense'))
        torch.testing.assert_close(got[ids.document[:, 32:]>=0], ref[ids.document[:, 32:]>=0], rtol=0, atol=1e-4)
    assert counter.frame_count==1
    torch._dynamo.reset()
