"The beat of the notebooks: why, one symbol, see it, test it. How near they come to it, and what is always wrong"
import ast, json, re, sys
from collections import namedtuple
from pathlib import Path
from statistics import median, quantiles
from execnb.nbio import read_nb
from fastcore.script import call_parse
from nbdev.config import get_config
from nbdev.doclinks import nbglob
from symbols import FUNCTION, directives, is_public, methods, qual_name

MODELS = { # measured in November 2026 by the same rules: fastcore's nbs/*.ipynb, claudette's 00_core
    'export cell, lines: median': (5, 8.5), 'export cell, lines: nine in ten are under': (15, 20), 'export cell, lines: longest': (47, 29),
    'definition cells over 15 lines, %': (10, 24), 'cells with several definitions, %': (7, 10),
    'after an export comes no export, %': (74, 76), 'asserts a symbol': (2.4, None), 'tuple assignments in 100 lines': (1.3, None)}
LONGEST = 40 # lines of an export cell, without those that only hold a comment, such as what a field means
WIDEST = 140 # characters of a line of code, in any cell
FACTORIES = 'zeros ones empty full arange tensor rand randn randint randperm eye linspace'.split() # of torch, that choose a device

Cell = namedtuple('Cell', 'place kind source tree') # kind: markdown, export (with `exports` and `exporti`) or code; place: notebook and cell id
Fault = namedtuple('Fault', 'place what')

def parse(src):
    "The tree of a cell, without its directives and magics"
    return ast.parse(re.sub(r'^(#\||%|!).*', '', src, flags=re.M))

def cells(path):
    "The cells of a notebook"
    for c in read_nb(path).cells:
        if c.cell_type=='raw' or not c.source.strip(): continue
        kind = c.cell_type
        if kind=='code' and not directives(c.source).keys().isdisjoint(('export','exports','exporti')): kind = 'export'
        yield Cell(f'{Path(path).name} #{c.get("id", "")}', kind, c.source, None if kind=='markdown' else parse(c.source))

def lines(src):
    "Lines that are neither blank nor a directive"
    return [o for o in src.splitlines() if o.strip() and not o.startswith('#|')]

def wide(source):
    "Lines of code that run off the page"
    return [o for o in lines(source) if len(o)>WIDEST]

def definitions(tree): return [o for o in tree.body if isinstance(o, (ast.ClassDef,*FUNCTION))]

def is_assert(o):
    "`assert`, or fastcore's `test_…`"
    return isinstance(o, ast.Assert) or (isinstance(o, ast.Call) and isinstance(o.func, ast.Name) and o.func.id.startswith('test_'))

def is_tuple_assignment(o):
    "`a,b = x,y`"
    return isinstance(o, ast.Assign) and isinstance(o.targets[0], ast.Tuple) and isinstance(o.value, ast.Tuple)

def share(xs):
    "How many of a list are true, in percent"
    xs = list(xs)
    return round(100*sum(map(bool, xs))/max(1, len(xs)))

def beat(books):
    "What `MODELS` tells of others, for `books`: a list of lists of `Cell`s"
    code = [c for b in books for c in b if c.tree]
    export = [c for c in code if c.kind=='export']
    sizes = [len(lines(c.source)) for c in export]
    defining = [c for c in export if definitions(c.tree)]
    after = [b[i+1].kind for b in books for i,c in enumerate(b[:-1]) if c.kind=='export' and definitions(c.tree)]
    nodes = [o for c in code for o in ast.walk(c.tree)]
    named = sum(len(definitions(c.tree)) for c in export)
    text = [l for c in code for l in lines(c.source)]
    exported = [l for c in export for l in lines(c.source)]
    parallel = sum(is_tuple_assignment(o) for c in export for o in ast.walk(c.tree))
    return {
        'export cell, lines: median': median(sizes), 'export cell, lines: nine in ten are under': round(quantiles(sizes, n=10)[-1]),
        'export cell, lines: longest': max(sizes),
        'definition cells over 15 lines, %': share(len(lines(c.source))>15 for c in defining),
        'cells with several definitions, %': share(len(definitions(c.tree))>1 for c in defining),
        'after an export comes no export, %': share(k!='export' for k in after),
        'asserts a symbol': round(sum(map(is_assert, nodes))/max(1, named), 1),
        'tuple assignments in 100 lines': round(100*parallel/max(1, len(exported)), 1),
        'lines over 120 characters': sum(len(l)>120 for l in text), 'lines over 160 characters': sum(len(l)>160 for l in text)}

def private_imports(tree, lib):
    "Private names that are taken from another module of the package"
    for o in ast.walk(tree):
        if not isinstance(o, ast.ImportFrom) or not (o.level or (o.module or '').split('.')[0]==lib): continue
        yield from (f'imports {a.name} from {o.module}' for a in o.names if re.match(r'_(?!_)', a.name))

def without_docstring(tree):
    "Public functions, classes and methods that say nothing of themselves"
    for o in definitions(tree):
        if not is_public(o.name): continue
        each = [(qual_name(o), o)]
        if isinstance(o, ast.ClassDef): each += [(f'{o.name}.{m.name}', m) for m in methods(o)]
        yield from (f'{name} has no docstring' for name,m in each if not ast.get_docstring(m))

def without_device(tree):
    "Tensors that are made on whatever device is the default; parameters and buffers of a module go where it goes"
    kept = {id(x) for o in ast.walk(tree) if isinstance(o, ast.Call) and ast.unparse(o.func).endswith(('Parameter', 'register_buffer'))
            for x in ast.walk(o)}
    for o in ast.walk(tree):
        if not isinstance(o, ast.Call) or not isinstance(o.func, ast.Attribute) or id(o) in kept: continue
        if ast.unparse(o.func.value)!='torch' or o.func.attr not in FACTORIES: continue
        if not any(k.arg in ('device', None) for k in o.keywords): yield f'torch.{o.func.attr}(…) without device= in `{ast.unparse(o)[:60]}`'

def faults(books, lib='meloformer'):
    "What is always wrong, by kind; but for lines that are too wide, in exported cells"
    res = {k: [] for k in ('private imports', 'public names without docstring', 'tensors without device',
                           f'export cells over {LONGEST} lines', f'lines of code over {WIDEST} characters')}
    private,silent,anywhere,long,far = res.values()
    for c in (c for b in books for c in b if c.tree):
        far += [Fault(c.place, f'{len(o)} characters: {o.strip()[:60]}') for o in wide(c.source)]
        if c.kind!='export': continue
        hidden = 'exporti' in directives(c.source)
        private += [Fault(c.place, o) for o in private_imports(c.tree, lib)]
        if not hidden: silent += [Fault(c.place, o) for o in without_docstring(c.tree)]
        anywhere += [Fault(c.place, o) for o in without_device(c.tree)]
        n = sum(not o.lstrip().startswith('#') for o in lines(c.source))
        if n>LONGEST: long.append(Fault(c.place, f'{n} lines'))
    return res

def read(
    path: str = None,     # Notebook or folder (default: all)
    exported: bool = True # Only notebooks that become modules?
) -> list: # The cells of each
    "Notebooks, cell by cell"
    books = [list(cells(f)) for f in sorted(nbglob(path, as_path=True))]
    return [b for b in books if not exported or any(c.kind=='export' for c in b)]

@call_parse
def main(
    path: str = None,    # Notebook or folder (default: all)
    as_json: bool = False, # One line for a program?
    strict: bool = False # Fail if something is always wrong?
):
    "Measure the beat of the notebooks, beside those that we learn from"
    books = read(path)
    ours,wrong = beat(books),faults(read(path, False), get_config().lib_path.name)
    if as_json: print(json.dumps(ours | {k: len(v) for k,v in wrong.items()}, ensure_ascii=False))
    else:
        print('| the beat of the notebooks | ours | fastcore | claudette |\n|---|---|---|---|')
        for k,v in ours.items(): print(f'| {k} | {v:g} | '+' | '.join('' if o is None else f'{o:g}' for o in MODELS.get(k, (None, None)))+' |')
        for k,v in wrong.items():
            print(f'\n{k}: {len(v)}')
            for o in v: print(f'  {o.place}: {o.what}')
    if strict and any(wrong.values()): sys.exit(1)
