"""What a mask costs inside the attention kernels of an H100, without a card: compile them for it and count their instructions

python benchmarks/kernels.py [--masks "meloformer sliding"]

Each preset is lowered once as it is written ("plain") and once in codes (`meloformer.net.blocks.folded`). FlexAttention's Triton source is
compiled for sm_90 and disassembled, and the loops over keys are counted. Logic operations are comparisons of integers
and operations on bits and predicates (`LOGIC`). This says what the compiler made, not how long it takes. Rows of the form "compared"
are of an earlier version, which asked codes by a comparison for each test, with four warps.

Then a small case, two samples with one and two pieces, masked and full blocks and padding, is lowered in float32 for each preset, and
for both passes of those with summaries, and run in Triton's interpreter (`kernels_run.py`, about a minute each on a quiet core); output
and gradients have to be those of dense attention in float64.

It needs a C++ compiler, and Triton from the package index (about 200 MB), which is put beside the built stub into build/kernels; .venv is
left as it is. Where either cannot be had, one sentence says so and nothing is measured. Rows measured before are kept."""
import ctypes, importlib.util, json, os, re, shutil, subprocess, sys, tempfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
import torch
from fastcore.script import call_parse
from report import earlier, head, report
from kernels_run import HEADS, rule_of, small
from meloformer.net.attention import FlexPlan, attend
from meloformer.net.blocks import folded
from meloformer.net.masks import preset, toy_ids, two_passes

TRITON = 'triton==3.7.1' # the one that PyTorch 2.13 is made for
root = Path(__file__).parent.parent
home = root/'build/kernels'
stub = home/f'stub-{torch.__version__}.so'
lowered = home/'small.jsonl'
LOGIC = 'ISETP LOP3 PLOP3'.split()
SUMMARISED,PASSES = ('meloformer','museformer'),('', ' 1', ' 2') # presets of which both passes are run; names of a rule and of its passes

# The parent's half: an environment

def must(what, *command):
    "Run a command; if it fails, leave with one sentence"
    r = subprocess.run([str(o) for o in command], capture_output=True, text=True)
    if r.returncode: sys.exit(f'kernels: skipped, {what}: {(r.stderr.strip().splitlines() or ["no reason given"])[-1]}')

def build():
    "Triton and the stub, in build/kernels"
    compiler = os.environ.get('CXX') or shutil.which('c++')
    if not compiler: sys.exit('kernels: skipped, there is no C++ compiler; install one, or name it in CXX')
    home.mkdir(parents=True, exist_ok=True)
    if not (home/'triton').exists(): must('Triton could not be installed', sys.executable, '-m', 'pip', 'install', '-q', '--no-deps', '--target', home, TRITON)
    at = Path(torch.__file__).parent
    if not stub.exists(): must('the stub could not be built', compiler, '-std=c++20', '-O1', '-shared', '-fPIC', f'-I{at}/include', Path(__file__).with_name('kernels_stub.cpp'),
        f'-L{at}/lib', '-ltorch_cpu', '-lc10', f'-Wl,-rpath,{at}/lib', '-o', stub)

# The child's half, where the stub is preloaded

H100 = SimpleNamespace(name='NVIDIA H100 80GB HBM3', major=9, minor=0, multi_processor_count=132, total_memory=80*2**30, regs_per_multiprocessor=65536,
    max_threads_per_multi_processor=2048, max_threads_per_block=1024, warp_size=32, shared_memory_per_block=49152, shared_memory_per_block_optin=232448,
    shared_memory_per_multiprocessor=233472, L2_cache_size=50*2**20, gcnArchName='', is_integrated=0)

class Driver:
    "What Triton asks of a driver when it only compiles"
    utils = SimpleNamespace(get_device_properties=lambda i: dict(max_shared_mem=232448, multiprocessor_count=132, max_num_regs=65536, warpSize=32))
    def get_current_target(self): return target()
    def get_current_device(self): return 0
    def get_device_interface(self): return torch.cuda
    def get_active_torch_device(self): return torch.device('cuda', 0)

def target():
    from triton.backends.compiler import GPUTarget
    return GPUTarget('cuda', 90, 32)

class Enough(Exception): "All is lowered"

def pretend(sources):
    "Let PyTorch lower for an H100, keep what it writes in `sources`, and stop before anything is loaded"
    ctypes.CDLL(stub).set_guard()
    said = dict(is_available=True, device_count=1, current_device=0, get_device_properties=H100, get_device_capability=(9, 0), get_device_name=H100.name,
        is_bf16_supported=True, is_initialized=True, is_tf32_supported=True, synchronize=None, set_device=None, _exchange_device=0, _maybe_exchange_device=0,
        get_rng_state=torch.zeros(16, dtype=torch.uint8), set_rng_state=None, manual_seed=None, manual_seed_all=None, _lazy_init=None, memory_allocated=0)
    for n,v in said.items(): setattr(torch.cuda, n, lambda *a, _v=v, **k: _v)
    torch.accelerator.is_available,torch.accelerator.device_count,torch.version.cuda = (lambda: False),(lambda: 0),'13.0'
    import torch._functorch.config as functorch, torch._inductor.config as inductor, torch._subclasses.fake_tensor as fake
    from torch._inductor.fx_passes import fuse_attention, misc_patterns, pad_mm
    from torch._inductor.graph import GraphLowering
    from torch._inductor.runtime import triton_helpers
    from triton.runtime import driver
    fake.init_gpu_context = lambda d: None
    fuse_attention._sfdp_init = pad_mm._pad_mm_init = misc_patterns._misc_patterns_init = lambda *a, **k: None # made from real tensors
    functorch.force_non_lazy_backward_lowering,inductor.compile_threads,inductor.joint_graph_constant_folding = True,1,False
    functorch.enable_autograd_cache,inductor.fx_graph_cache = False,False # every rule is lowered anew
    driver.set_active(Driver())
    triton_helpers.set_driver_to_gpu = lambda: None
    def enough(args): raise Enough
    def keep(self):
        sources.append(self.codegen()[0].value)
        self.cache_key,self.cache_path,self.cache_linemap = 'none',__file__,[]
        return SimpleNamespace(__file__=__file__, _runtime=None, call=enough)
    GraphLowering._compile_to_module = keep

def lower(rule, coded, ids=None, heads=4, kv_heads=2, width=64, dtype=torch.bfloat16):
    "Lower a rule's attention, forward and backward, on invented music; gives the names of what the graph takes"
    from torch._inductor.compile_fx import compile_fx
    from torch._subclasses import FakeTensorMode
    torch._dynamo.reset()
    ids,names = toy_ids(7936, 256, bar_tokens=120, programs=8) if ids is None else ids,[]
    plan = FlexPlan(rule, ids)
    if not coded: plan.form = plan.codes = None
    def backend(graph, inputs):
        names.extend(n._dynamo_source.name for n in graph.graph.nodes if n.op == 'placeholder')
        return compile_fx(graph, inputs)
    with FakeTensorMode():
        plan = plan.apply(lambda t: torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device='cuda'))
        q,k,v = (torch.empty(len(ids.document), h, ids.shape[1], width, device='cuda', dtype=dtype, requires_grad=True) for h in (heads,kv_heads,kv_heads))
        try: torch.compile(lambda q, k, v, plan: attend(q, k, v, plan.bind(rule)), dynamic=False, fullgraph=True, backend=backend)(q, k, v, plan)
        except Enough: pass
    return names

def kernels(source):
    "The attention kernels in a lowered source, as (kernel, its code)"
    for name,code in re.findall(r"async_compile\.triton\('(\w*tem\w*)', '''(.*?)''', device_str", source, re.S):
        with tempfile.NamedTemporaryFile('w', suffix='.py') as f:
            f.write(code.replace('\\\\', '\\'))
            f.flush()
            spec = importlib.util.spec_from_file_location('kernel', f.name)
            m = sys.modules['kernel'] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(m)
            yield getattr(m, name),code

def sass(kernel):
    "Its instructions for sm_90: address and text"
    import triton
    from triton.compiler import ASTSource
    meta,c,names = kernel.triton_meta,kernel.configs[0],kernel.fn.arg_names
    const = meta['constants'] | {a: v for a,v in c.kwargs.items() if a in names}
    signature = {a: 'constexpr' if a in const else meta['signature'][a] for a in names}
    done = triton.compile(ASTSource(fn=kernel.fn, signature=signature, constexprs={(names.index(a),): v for a,v in const.items()}, attrs=dict(meta['configs'][0])),
                          target=target(), options=dict(num_warps=c.num_warps, num_stages=c.num_stages))
    with tempfile.NamedTemporaryFile(suffix='.cubin') as f:
        f.write(done.asm['cubin'])
        f.flush()
        tool = Path(triton.__file__).parent/'backends/nvidia/bin/cuobjdump'
        out = subprocess.run([tool, '-sass', f.name], capture_output=True, text=True, check=True).stdout
    return [(int(a, 16), o) for a,o in re.findall(r'/\*([0-9a-f]{4,})\*/\s+(.*?);', out)]

def loops(ins, scores):
    "Its innermost loops that multiply matrices, those with most logic first: operations a score, of which a thread has `scores` in one turn"
    ends = [(int(m[1], 16), a) for a,o in ins if (m := re.search(r'BRA.*?0x([0-9a-f]+)', o)) and int(m[1], 16) < a]
    inner = [(s,e) for s,e in ends if not any((a,b) != (s,e) and s <= a and b <= e and has(ins, a, b) for a,b in ends)]
    found = []
    for s,e in inner:
        n = Counter(re.sub(r'^@!?U?P\w+ ', '', o).split()[0].split('.')[0] for a,o in ins if s <= a <= e)
        if n['HGMMA']: found.append(dict(instructions=round(n.total()/scores, 1), logic=round(sum(n[o] for o in LOGIC)/scores, 1), opcodes=dict(n.most_common(10))))
    return sorted(found, key=lambda o: -o['logic'])

def has(ins, s, e): return any('HGMMA' in o for a,o in ins if s <= a <= e)

def count(sources):
    "Loops and spills of the forward and of the backward kernel"
    res = {}
    for kernel,code in (o for s in sources for o in kernels(s)):
        back = 'BLOCK_M1' in code
        m,n = (int(re.search(rf'BLOCK_{o}{"1" if back else ""} : tl.constexpr = (\d+)', code)[1]) for o in 'MN')
        ins = sass(kernel)
        res['backward' if back else 'forward'] = dict(scores_a_turn=m*n//(32*kernel.configs[0].num_warps), spills=sum('STL' in o.split('.')[0].split() for _,o in ins),
            loops=loops(ins, m*n//(32*kernel.configs[0].num_warps)))
    return res

def inside(jobs):
    "Print a row for each job, a preset and how its mask is asked"
    os.environ.pop('LD_PRELOAD') # the compilers that are called need no stub
    sources = []
    pretend(sources)
    for mask,form in jobs:
        sources.clear()
        lower(preset(mask), form == 'codes')
        print(json.dumps(dict(mask=mask, form=form)|count(sources)), flush=True)
    with lowered.open('w') as f:
        for name in (f'{m}{n}' for m in dict(jobs) for n in PASSES[:3 if m in SUMMARISED else 1]):
            sources.clear()
            names = lower(rule_of(name), True, small(), dtype=torch.float32, **HEADS)
            f.write(json.dumps([name, names, sources])+'\n')

@call_parse
def main(
    masks: str = 'meloformer museformer sliding dense', # Presets of meloformer.net.masks
    one: str = '' # For its own use: lower and count these
):
    "Count"
    if one: return inside([o.split(',') for o in one.split()])
    build()
    sys.path.append(str(home)) # for the version of Triton
    rows = earlier('kernels')
    env = os.environ | dict(LD_PRELOAD=str(stub), PYTHONPATH=os.pathsep.join([str(root), str(home)]), OMP_NUM_THREADS='1')
    jobs = ' '.join(f'{m},{f}' for m in masks.split() for f in ('plain','codes'))
    def tell(**more):
        operations = {r['mask']: [folded(o)[0].operations for o in (preset(r['mask']), *two_passes(preset(r['mask'])))] for r in rows}
        report('kernels', ('triton',), command='python benchmarks/kernels.py', target='sm_90, bfloat16, 8192 positions, head width 64',
            operations=operations, rows=rows, **more)
    with subprocess.Popen([sys.executable, __file__, '--one', jobs], stdout=subprocess.PIPE, text=True, env=env) as p:
        for line in p.stdout:
            new = json.loads(line)|dict(commit=head())
            rows = [r for r in rows if (r['mask'],r['form']) != (new['mask'],new['form'])]+[new]
            tell()
    if p.returncode: sys.exit('kernels: the attention could not be lowered or compiled; see above')
    env.pop('LD_PRELOAD')
    ran = subprocess.run([sys.executable, Path(__file__).with_name('kernels_run.py'), lowered], stdout=subprocess.PIPE, text=True, env=env)
    if ran.returncode: sys.exit('kernels: the lowered attention could not be run; see above')
    interpreted = {k: v for line in ran.stdout.splitlines() for k,v in json.loads(line).items()}
    tell(interpreted=interpreted)
    if wrong := [k for k,v in interpreted.items() if max(v) > 1e-5]: sys.exit(f'kernels: what was run is not the attention of {", ".join(wrong)}')
