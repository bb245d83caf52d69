"""For benchmarks/kernels.py: the lowered attention, run in Triton's interpreter on a CPU, beside dense attention in float64

python benchmarks/kernels_run.py FILE

FILE holds what was lowered: per line a mask (and 1 or 2 for one of its two passes), the names of what its graph takes, and the sources of
forward and backward. Printed is the largest error of the output and of each gradient, relative to the largest value."""
import contextlib, importlib.util, json, os, re, sys, tempfile
if __name__ == '__main__': os.environ['TRITON_INTERPRET'] = '1' # before Triton is imported
import torch
from meloformer.net.attention import DensePlan, FlexPlan, attend
from meloformer.net.masks import FIELDS, Ids, preset, toy_ids, two_passes

HEADS = dict(heads=2, kv_heads=1, width=16)

def rule_of(name):
    "A preset, or the first or second of its two passes"
    mask,_,n = name.partition(' ')
    return two_passes(preset(mask))[int(n)-1] if n else preset(mask)

def small():
    "Two samples: one piece, of which whole blocks are read, and two pieces with padding"
    a,b = (toy_ids(384, 128, documents=d, bar_tokens=12, padding=40*(d-1), programs=4, seed=d) for d in (1, 2))
    return Ids(*(torch.cat([getattr(a, n), getattr(b, n)]) for n in FIELDS), a.n_summaries)

def module(source):
    "A source as a module, from a file of its own: Triton reads its functions there"
    with tempfile.NamedTemporaryFile('w', suffix='.py', delete=False) as f: f.write(source)
    spec = importlib.util.spec_from_file_location(f'm{len(sys.modules)}', f.name)
    m = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(m)
    os.unlink(f.name)
    return m

class Kernel:
    "What a generated wrapper calls: one kernel, interpreted"
    def __init__(self, name, source):
        self.fixed = "'FixedGrid'" in source
        self.f = getattr(module(re.sub(r'@triton_heuristics\.\w+\(.*?\n\)\n@triton\.jit', '@triton.jit', source.replace('\\\\', '\\'), count=1, flags=re.S)), name)
    def run(self, *args, stream):
        if self.fixed: return self.f[args[-3:]](*args[:-3])
        blocks = {n: 1024 if n == 'XBLOCK' else 64 for n in self.f.arg_names if n.endswith('BLOCK')}
        if 'r0_numel' in self.f.arg_names: blocks['XBLOCK'] = 32
        size = dict(zip((n for n in self.f.arg_names if n not in blocks), args))['xnumel']
        self.f[(-(-size//blocks['XBLOCK']),)](*args, **blocks)

def on_cpu(source):
    "The `call` of a lowered graph, for CPU tensors"
    return module(source.replace('empty_strided_cuda(', 'empty_strided_cpu(')).call

def errors(name, names, sources):
    "Of output and gradients, relative to the largest value of each"
    torch.manual_seed(0)
    ids,rule = small(),rule_of(name)
    q,k,v = x = [torch.randn(2, HEADS[h], ids.shape[1], HEADS['width']) for h in ('heads','kv_heads','kv_heads')]
    known = dict(L=dict(q=q, k=k, v=v, plan=FlexPlan(rule, ids)))
    forward,backward = map(on_cpu, sources)
    out,*saved = forward([eval(n, known) for n in names])
    up = torch.randn(out.shape)
    got = [out,*backward([*saved, up])]
    got = [out,*(g for g in got[1:] if g is not None)]
    y = [t.double().requires_grad_() for t in x]
    ref = attend(*y, DensePlan(rule, ids))
    want = [ref,*torch.autograd.grad(ref, y, up.double())]
    return [float(f'{float((a.double()-b).abs().max()/b.abs().max()):.1e}') for a,b in zip(got, [o.detach() for o in want], strict=True)]

if __name__ == '__main__':
    from torch._inductor.async_compile import AsyncCompile # here, because kernels.py pretends to have a GPU before it is loaded
    from torch._inductor.runtime import triton_helpers
    AsyncCompile.triton,AsyncCompile.wait = (lambda self, name, source, device_str: Kernel(name, source)),(lambda self, scope: None)
    triton_helpers.set_driver_to_gpu = lambda: None
    torch._C._cuda_getCurrentRawStream = lambda i: 0
    torch.cuda._DeviceGuard,torch.cuda.set_device = lambda i: contextlib.nullcontext(),lambda i: None
    for line in open(sys.argv[1]):
        name,names,sources = json.loads(line)
        print(json.dumps({name: errors(name, names, sources)}), flush=True)
