"The house, measured: notebooks, site, front page, controls, words and rooms, beside version 0.3.0"
import ast, re, subprocess, sys, time
from collections import Counter, defaultdict
from pathlib import Path
from statistics import median, quantiles
from fastcore.script import call_parse
from nbdev.config import get_config
from nbdev.doclinks import nbglob
from beat import MODELS, beat, faults, read
from docs import Page
from symbols import FUNCTION, comments, fields, is_public

# What version 0.3.0 had, by hand or by the same rules; None where nobody counted
BEFORE = {
    'export cell, lines: median': 17, 'export cell, lines: nine in ten are under': 31, 'export cell, lines: longest': 72,
    'definition cells over 15 lines, %': 60, 'cells with several definitions, %': 48, 'after an export comes no export, %': 59,
    'asserts a symbol': 1.1, 'tuple assignments in 100 lines': 5.3, 'lines over 160 characters': 116,
    'comments of fields that do not reach the pages': '145 of 166', 'classes that are shown as a function': '69 of 69',
    'neighbours on a page in another order than in the source': '136 of 386', 'longest paragraph of README, words': 407,
    'arguments: generate': 27, 'arguments: studio': 25, 'arguments: live': 24, 'arguments: make_request (wish before)': 16, 'arguments: train': 39,
    'functions, lines: median': 6, 'functions, lines: nine in ten are under': 16, 'modules that take a private name of another': '8 pairs',
    'instrument order written out': 6, 'modules that draw when they are imported': 'masks and others'}
OLD = '''drop_players Ask Blank wish written lean think Writer weigh likelihood context_first in_order answered Part heads written_anew heard_again Walk
    random_walk Tracker Guide Kept lay_out Both Average wide shake need most opening frame_of by_chance judge Ledger StandIn Rehearsal Tape served_first
    goes_beyond shown kept'''.split() # names that the field has other words for

def trees(lib):
    "Each module and its tree"
    return {p: ast.parse(p.read_text()) for p in sorted(lib.rglob('*.py')) if p.name not in ('__init__.py','_modidx.py')}

def of(n, total): return f'{n} of {total}'

def _flat(s): return re.sub(r'[\s#]+', '', s) # a long comment is broken into lines

def site(cfg):
    "What the pages tell"
    res = Counter()
    for p in (Page(o, cfg.nbs_path) for o in sorted(nbglob(cfg.nbs_path, as_path=True))):
        if not p.module: continue
        s = p.md(cfg)
        flat = _flat(s)
        for i,each in p.symbols.items():
            said,alone = comments(re.sub(r'^#\|.*', '', p.nb.cells[i].source, flags=re.M))
            for o in (o for o in each if isinstance(o.node, ast.ClassDef)):
                res['classes'] += 1
                res['no class'] += f'class {o.name}' not in s
                for _,note in fields(o.node, said, alone):
                    res['notes'] += bool(note)
                    res['lost'] += bool(note) and _flat(note) not in flat
        defined = [o for o in ast.parse((cfg.lib_path/(p.module.replace('.', '/')+'.py')).read_text()).body if hasattr(o, 'name')]
        once = Counter(o.name for o in defined) # a name that several classes have stands several times
        lines = {o.name: o.lineno for o in defined if once[o.name]==1}
        own = [lines[o] for o in re.findall(r'^### `(\w+)`', s, flags=re.M) if o in lines]
        res['neighbours'] += max(0, len(own)-1)
        res['reversed'] += sum(a>b for a,b in zip(own, own[1:]))
    return {'comments of fields that do not reach the pages': of(res['lost'], res['notes']), 'classes that are shown as a function': of(res['no class'], res['classes']),
        'neighbours on a page in another order than in the source': of(res['reversed'], res['neighbours'])}

def front_page(root):
    "The README"
    s = (root/'README.md').read_text()
    prose,code = re.sub(r'```.*?```', '', s, flags=re.S),re.findall(r'```\w*\n(.*?)```', s, flags=re.S)
    return {'longest paragraph of README, words': max(len(o.split()) for o in prose.split('\n\n') if not o.startswith('|')), 'lines of README': len(s.splitlines()),
        'longest line of code in README, characters': max(len(l) for o in code for l in o.splitlines())}

def controls():
    "How many things the ways to ask for a piece take, and what flags mean"
    from meloformer.apps.cli import COMMANDS, command, flags_of
    from meloformer.apps.studio import answer_page
    from meloformer.writing.generate import make_request
    takes = lambda f: f.__code__.co_argcount+f.__code__.co_kwonlyargcount
    flags = {k: [o for o in flags_of(command(k), k)._actions if o.dest not in ('help','pdb','xtra')] for k in COMMANDS}
    said = defaultdict(set)
    for each in flags.values():
        for o in each: said[o.dest].add(re.sub(r' *\(default.*', '', o.help or ''))
    return {'flags: generate': len(flags['generate']), 'arguments: generate': takes(command('generate')), 'arguments: studio': takes(answer_page),
        'flags: live': len(flags['live']), 'arguments: live': takes(command('live')), 'arguments: make_request (wish before)': takes(make_request), 'flags: train': len(flags['train']), 'arguments: train': takes(command('train')),
        'flags that several commands have, and explain in other words': of(sum(len(o)>1 for o in said.values()), len(said))}

def words(mods):
    "Public names that the field has other words for"
    names = {n for t in mods.values() for o in ast.walk(t) if isinstance(o, (ast.ClassDef,*FUNCTION)) for n in [o.name]}
    left = [o for o in OLD if o in names]
    return {f'old words that are still names, of {len(OLD)}': f'{len(left)}'+f' ({", ".join(left)})'*bool(left)}

def rooms(cfg, mods):
    "Functions and modules"
    sizes = [o.end_lineno-o.lineno+1 for t in mods.values() for o in ast.walk(t) if isinstance(o, FUNCTION)]
    top = [p.stem for p,t in mods.items() if any('matplotlib' in ast.unparse(o) for o in t.body if isinstance(o, (ast.Import,ast.ImportFrom)))]
    def took(code):
        start = time.perf_counter()
        subprocess.run([sys.executable, '-c', code], check=True, cwd=cfg.config_path)
        return time.perf_counter()-start
    return {'functions, lines: median': median(sizes), 'functions, lines: nine in ten are under': round(quantiles(sizes, n=10)[-1]), 'modules': len(mods),
        'modules that take a private name of another': len(faults(read())['private imports']), 'modules that draw when they are imported': ', '.join(top) or 0,
        'instrument order written out': sum(p.read_text().count('%(DRUMS+1)') for p in mods),
        '`import meloformer`, seconds more than Python itself': round(median(took('import meloformer')-took('pass') for _ in range(5)), 2)}

@call_parse
def main():
    "Print what the house is like, as tables"
    cfg = get_config()
    mods = trees(cfg.lib_path)
    tables = {'The beat of the notebooks': beat(read()), 'The site': site(cfg), 'The front page': front_page(cfg.config_path), 'Controls': controls(), 'Words': words(mods), 'Rooms': rooms(cfg, mods)}
    for title,rows in tables.items():
        others = title.startswith('The beat')
        print(f'\n| {title} | 0.3.0 | now |'+' fastcore | claudette |'*others+'\n|---|---|---|'+'---|---|'*others)
        for k,v in rows.items():
            more = [f'{o:g}' if o is not None else '' for o in MODELS.get(k, (None, None))] if others else []
            print('| '+' | '.join([k, str(BEFORE.get(k, '')), f'{v:g}' if isinstance(v, (int,float)) else v, *more])+' |')
