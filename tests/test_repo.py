"The committed package, README and notebooks must agree, and the tools around them must say what is wrong"
import ast, os, re, shutil, subprocess, sys
from pathlib import Path
import pytest
from execnb.nbio import nb2str, read_nb
from nbdev.clean import _nbdev_clean
from nbdev.config import get_config
from nbdev.doclinks import nbglob

cfg = get_config(path=Path(__file__).parent.parent)
root,lib = cfg.config_path,cfg.lib_path.name
nbs = sorted(nbglob(cfg.nbs_path, as_path=True))

def run(*args, cwd=root, **env): return subprocess.run(args, cwd=cwd, env=os.environ | env, capture_output=True, text=True, stdin=subprocess.DEVNULL)
def modules(path): return {str(p.relative_to(path)): p.read_text() for p in path.rglob('*.py')}

@pytest.mark.parametrize('nb', nbs, ids=lambda o: o.stem)
def test_notebook_clean(nb):
    "No execution counts or stray metadata"
    old,new = nb2str(read_nb(nb)),read_nb(nb)
    _nbdev_clean(new)
    assert nb2str(new) == old, f'{nb.name} is not clean: run `make prepare`'
    assert not (found := re.findall(r'/(?:tmp|home|root|work)/[\w./-]+', ''.join(str(c.get('outputs', '')) for c in new.cells))), f'{nb.name}: outputs name a place of one machine: {found[0]}'

@pytest.fixture(scope='module')
def exported(tmp_path_factory):
    "The modules that the notebooks give, in an empty place"
    tmp = tmp_path_factory.mktemp('export')
    shutil.copytree(cfg.nbs_path, tmp/'nbs')
    shutil.copy(cfg.config_file, tmp)
    (tmp/lib).mkdir()
    shutil.copy(root/lib/'__init__.py', tmp/lib)
    res = run(sys.executable, '-c', 'import nbdev; nbdev.nbdev_export()', cwd=tmp)
    assert res.returncode == 0, res.stderr
    return modules(tmp/lib)

def test_every_module_has_a_notebook(exported):
    assert sorted(exported) == sorted(modules(root/lib)), 'run `make prepare`; remove modules whose notebook is gone'

def test_exported(exported):
    for k,v in modules(root/lib).items(): assert exported[k] == v, f'{k} is not what its notebook gives: run `make prepare`'

ORDER = 'music tokens data net bridge writing training budget judging apps'.split()

def imports(path):
    "(part, name) of all that a module takes from the package"
    for o in ast.walk(ast.parse(path.read_text())):
        if isinstance(o, ast.ImportFrom) and o.level: yield from (((o.module or '').split('.')[0] if o.level==2 else path.parent.name, a.name) for a in o.names)

@pytest.mark.parametrize('part', ORDER)
def test_imports_go_downwards(part):
    "A part takes from those before it, and no module takes what another calls private"
    taken = [o for p in (root/lib/part).glob('*.py') for o in imports(p)]
    assert taken and all(ORDER.index(where)<=ORDER.index(part) and not re.match('_(?!_)', name) for where,name in taken)

def test_parts_are_all():
    assert {o.parent.name for o in (root/lib).glob('*/*.py')} == set(ORDER)

def test_coordinates_are_declared_once():
    "No module lists again what `Structure` has"
    from meloformer.tokens.hid import COORDINATES
    for p in (root/lib).glob('*/*.py'):
        lists = [{e.value for e in o.elts if isinstance(e, ast.Constant)} for o in ast.walk(ast.parse(p.read_text())) if isinstance(o, (ast.Tuple,ast.List,ast.Set))]
        assert all(len(o & {*COORDINATES})<4 for o in lists), f'{p} lists coordinates of its own'

def test_front_door():
    "Importing the package is cheap; what most people need is at hand in it"
    code = "import sys, meloformer; assert not {'torch','numpy'}&set(sys.modules); from meloformer import Score, HID, MeloFormer, generate, train; assert all(hasattr(meloformer, o) for o in dir(meloformer)); meloformer.none"
    assert 'has no attribute' in run(sys.executable, '-c', code).stderr.splitlines()[-1]

def test_readme():
    res = run(sys.executable, 'tools/docs.py', '--readme_only', '--check')
    assert res.returncode == 0, res.stderr

def test_readme_links():
    for o in re.findall(r'(?:\]\(|src=")(?!https?:)([^)"#]+)', (root/'README.md').read_text()): assert (root/o).exists(), f'README.md refers to {o}'

def test_helps_are_whole():
    "Each flag of each command says what it is, to the end of the sentence"
    from meloformer.apps.cli import COMMANDS, command, flags_of
    for name in COMMANDS:
        for o in flags_of(command(name), name)._actions:
            said = re.sub(r' \(default: [^()]*\)$', '', o.help or '')
            if o.dest not in ('help','pdb','xtra'): assert said and not re.search(r'(?:,|\b(?:and|or|the|of|to|for|a))$', said), f'{name} --{o.dest}: {o.help}'

def test_the_lab_has_widgets():
    "Without them the tutorials open with a red box"
    assert 'ipywidgets' in cfg.lab_requirements

def test_versions():
    v = cfg.version
    assert f'version: {v}\n' in (root/'CITATION.cff').read_text()
    assert re.search(r'^## (\S+)', (root/'CHANGELOG.md').read_text(), flags=re.M)[1] == v
    assert f'__version__ = "{v}"' in (root/lib/'__init__.py').read_text()

def test_broken_links(tmp_path):
    from docs import broken_links
    url = 'https://example.org/base'
    (tmp_path/'sub').mkdir()
    (tmp_path/'b.html').write_text('<h1 id="here">b</h1><img src="none.png"><a href="/base/a.html">a</a>')
    (tmp_path/'sub/index.html').write_text('<a href="../a.html#gone">a</a><a href="https://elsewhere.org/x">x</a>')
    (tmp_path/'a.html').write_text(f'<a href="b.html#here">b</a><a href="b.html#there">b</a><a href="sub/">s</a><a href="{url}/b.html">b</a><a href="{url}/c.html#x">c</a>')
    assert {(str(p), o) for p,o in broken_links(tmp_path, url)} == {
        ('a.html', 'b.html#there'), ('a.html', url+'/c.html#x'), ('b.html', 'none.png'), ('sub/index.html', '../a.html#gone')}

@pytest.fixture
def bare(tmp_path):
    "What tools/venv.sh needs, in an empty place"
    (tmp_path/'tools').mkdir()
    shutil.copy(root/'tools/venv.sh', tmp_path/'tools')
    for o in ('settings.ini', 'setup.py'): shutil.copy(root/o, tmp_path)
    return tmp_path

def fake_python(path, answers):
    "An interpreter that says `answers` (shell lines)"
    path.write_text(f'#!/bin/sh\n{answers}\n')
    path.chmod(0o755)
    return str(path)

def test_venv_says_what_is_missing(bare):
    old = fake_python(bare/'old', '[ "$1" = -V ] && echo Python 3.8.1; [ "$1" = -V ]')
    res = run('tools/venv.sh', 'demo', cwd=bare, PYTHON=old)
    assert res.returncode == 1 and 'Python 3.10 or newer is needed, and there is Python 3.8.1' in res.stderr
    res = run('tools/venv.sh', 'demo', cwd=bare, PYTHON=str(bare/'none'))
    assert res.returncode == 1 and 'there is no ' in res.stderr
    lean = fake_python(bare/'lean', 'case "$2" in *ensurepip*) exit 1 ;; esac')
    res = run('tools/venv.sh', 'demo', cwd=bare, PYTHON=lean)
    assert res.returncode == 1 and 'python3-venv' in res.stderr
    (bare/'.venv').mkdir()
    res = run('tools/venv.sh', 'dev', cwd=bare, PYTHON=sys.executable)
    assert res.returncode == 1 and 'no Python environment' in res.stderr
    assert not (bare/'.venv/pyvenv.cfg').exists()

def test_make_lists_its_targets():
    if not shutil.which('make'): pytest.skip('there is no make')
    res = run('make', MAKEFLAGS='', MAKELEVEL='')
    assert res.returncode == 0 and all(f'make {o}' in res.stdout for o in ('demo', 'test', 'docs', 'prepare'))

def test_writing_needs_no_compiler(tmp_path):
    "A piece, and one from words over the bridge, are written without importing PyTorch's compiler, which takes as long as PyTorch"
    code = "import sys; from meloformer.apps.cli import main; sys.argv = sys.argv[1:]; main(); assert 'torch._dynamo' not in sys.modules"
    for text in ('--instruments', 'piano'), ('--text', 'a sad thing'):
        out = tmp_path/f'{text[1]}.mid'
        res = run(sys.executable, '-c', code, 'meloformer', 'generate', '--bars', '1', *text, '--out', str(out))
        assert res.returncode == 0 and out.exists(), res.stderr
