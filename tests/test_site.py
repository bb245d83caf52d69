"What the pages of the site tell of the library, and the front page's measure"
import ast, re
from collections import Counter
from pathlib import Path
import pytest
from nbdev.config import get_config
from nbdev.doclinks import nbglob
from docs import Page, nav, players

cfg = get_config(path=Path(__file__).parent.parent)
nbs = cfg.nbs_path
pages = {p.dest.with_suffix('').as_posix(): p for p in (Page(o, nbs) for o in sorted(nbglob(nbs, as_path=True)))}
modules = [k for k,p in pages.items() if p.module]

def shown(s): return re.findall(r'^### `([\w.]+)`', s, flags=re.M)

@pytest.mark.parametrize('name', modules)
def test_page_of_a_module(name):
    "Nothing private is shown, and symbols stand in the order of the source"
    p = pages[name]
    names = shown(p.md(cfg))
    assert not [o for o in names if any(part.startswith('_') for part in o.split('.'))]
    tree = ast.parse((cfg.lib_path/(p.module.replace('.', '/')+'.py')).read_text())
    defined = [o for o in tree.body if hasattr(o, 'name')]
    once = Counter(o.name for o in defined)
    lines = {o.name: o.lineno for o in defined if once[o.name]==1} # a name that several classes have stands several times
    own = [lines[o] for o in names if '.' not in o and o in lines]
    assert own == sorted(own)

def test_fields_and_classes():
    "Comments of fields reach the page, and a class is called one"
    s = pages['training/config'].md(cfg)
    assert 'class TrainConfig' in s and 'Places in a window, summaries included' in s
    s = pages['writing/request'].md(cfg)
    assert 'class GenerationRequest' in s and 'Only its notes, such as "A minor"' in s and 'def generate' in s
    assert 'What is wanted in words' in s and 'a hat or ride' in re.sub(r'[\s#]+', ' ', s) # comments above a field
    assert 'Index of the smallest member' in pages['data/similar'].md(cfg) # and above what is given back

def test_signatures_wrap():
    "No line of a signature runs off the page"
    for name in modules:
        stubs = re.findall(r'```+\{ \.python \.signature \}\n(.*?)\n```', pages[name].md(cfg), flags=re.S)
        for line in (l for o in stubs if re.match('@|def |class ', o) for l in o.splitlines()): assert len(line.partition('#')[0].rstrip()) <= 120, (name, line)

def test_side_bar():
    "Home, the nine parts in their order, tutorials, studies, then pages that stand alone"
    titles = [next(iter(o)) for o in nav(list(pages.values()))]
    assert titles == ['Home','Music','Tokens','Data','Network','Bridge','Writing','Training','Budget','Judging','Apps','Tutorials','Studies','Figures']

def test_front_page():
    "Short, with something to hear, and no line that runs off the edge"
    s = (cfg.config_path/'README.md').read_text()
    assert len(s.splitlines()) <= 120
    prose,code = re.sub(r'```.*?```', '', s, flags=re.S),re.findall(r'```\w*\n(.*?)```', s, flags=re.S)
    assert max(len(o.split()) for o in prose.split('\n\n') if not o.startswith('|')) <= 90
    assert max(len(l) for o in code for l in o.splitlines()) <= 96
    assert players(pages['index'].md(cfg)).count('<iframe class="player"') == 3
