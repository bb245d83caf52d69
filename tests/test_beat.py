"What is always wrong in a notebook is found, and some of it is nowhere"
import json, os, re, subprocess, sys
import pytest
from conftest import root
from nbdev.config import get_config
from beat import beat, cells, faults, read

def book(tmp_path, *sources):
    f = tmp_path/'00_a.ipynb'
    each = [dict(cell_type='code', id=f'c{i}', metadata={}, outputs=[], execution_count=None, source=s) for i,s in enumerate(sources)]
    f.write_text(json.dumps(dict(cells=each, metadata={}, nbformat=4, nbformat_minor=5)))
    return [list(cells(f))]

def test_faults_are_found(tmp_path):
    long = '#| export\ndef f():\n    "Long"\n'+'\n'.join(f'    x = {i}' for i in range(41))
    fine = '#| export\ndef h(x):\n    "Fine"\n    # as it is\n    return torch.zeros(3, device=x.device)'
    found = faults(book(tmp_path, '#| export\nfrom meloformer.music.score import _cut', '#| export\ndef g(): return torch.zeros(3)', long, fine,
        '#| '+'o'*200, 'x = '+'1'*137, 'x = '+'1'*136))
    assert {k: len(v) for k,v in found.items()} == {'private imports': 1, 'public names without docstring': 1,
        'tensors without device': 1, 'export cells over 40 lines': 1, 'lines of code over 140 characters': 1}

def test_a_comment_alone_is_no_line_of_code(tmp_path):
    fields = '#| export\nclass C:\n    "Long"\n'+'\n'.join(f'    # one\n    x{i}: int = 0' for i in range(38))
    assert not any(faults(book(tmp_path, fields)).values())
    assert faults(book(tmp_path, fields+'\n    y = 0'))['export cells over 40 lines']

def test_beat(tmp_path):
    b = beat(book(tmp_path, '#| export\ndef f():\n    "Says it"\n    a,b = 1,2\n    return a', 'assert f()==1', '#| export\nx = 1'))
    assert b['after an export comes no export, %'] == 100 and b['asserts a symbol'] == 1 and b['export cell, lines: longest'] == 4

def test_nobody_takes_what_is_private():
    assert not faults(read())['private imports']

@pytest.mark.parametrize('part', ['music','tokens','data','net','bridge','writing','training','budget','judging','apps'])
def test_parts_without_fault(part):
    assert not any(faults(read(get_config().nbs_path/part)).values())

def test_lines_fit_the_page():
    "In tutorials and studies, too"
    assert not faults(read(exported=False))['lines of code over 140 characters']

def test_house():
    "One command prints all tables"
    res = subprocess.run([sys.executable, root/'tools/house.py'], cwd=root, capture_output=True, text=True, check=True, env=os.environ|dict(PYTHONPATH=f'{root}:{root/"tools"}'))
    assert re.findall(r'^\| ([A-Z][\w ]+) \| 0.3.0', res.stdout, flags=re.M) == ['The beat of the notebooks','The site','The front page','Controls','Words','Rooms']
    row = dict(re.findall(r'^\| (.+?) \| .*? \| (.+?) \|', res.stdout, flags=re.M))
    assert row['modules that take a private name of another'] == '0' and row['classes that are shown as a function'].startswith('0 of ')
    assert row['neighbours on a page in another order than in the source'].startswith('0 of ')
