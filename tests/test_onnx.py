"A model as ONNX writes what PyTorch writes, and says what is wrong"
import json
import numpy as np, pytest
from meloformer.apps.cli import run
from meloformer.apps.onnx import OnnxModel, stepped_logits
from meloformer.net.model import MeloFormer
from meloformer.tokens.grammar import GrammarState, random_piece
from meloformer.tokens.vocabulary import CHORDS, EOS
from meloformer.writing.constraints import TokenRequest
from meloformer.writing.generate import compose

@pytest.fixture(scope='module')
def exported(checkpoint, tmp_path_factory):
    out = tmp_path_factory.mktemp('onnx')/'new'
    assert run('export', [str(checkpoint), '--out', str(out)])==0
    return out

@pytest.fixture(scope='module')
def both(checkpoint, exported): return MeloFormer.load(checkpoint),OnnxModel(exported)

def long_piece(hid, n=520, bar_tokens=25):
    "The beginning of a piece drawn from the grammar alone, with short bars"
    rng,walk,res,bar = np.random.default_rng(1),GrammarState(hid),[],0
    while len(res)<n:
        ok = walk.allowed() & (np.arange(len(hid))!=EOS)
        if len(res)-bar>bar_tokens and (opens := ok & (hid.kind==CHORDS)).any(): ok = opens
        kind = rng.choice(np.unique(hid.kind[ok]))
        res.append(int(rng.choice(np.flatnonzero(ok & (hid.kind==kind)))))
        before = walk.bars
        walk.step(res[-1])
        if walk.bars>before: bar = len(res)
    return np.array(res)

def test_logits_over_500_tokens(both):
    "Many bars, so that entries are kept, gathered and dropped"
    hid = both[1].hid
    piece = long_piece(hid)
    a,b = (stepped_logits(m, hid, piece) for m in both)
    assert hid.structure(piece).bar.max()>12 and (a-b).abs().max()<1e-4 and a.std(0).max()>.01

@pytest.mark.parametrize('how', [dict(temperature=0), dict()], ids=['greedy','seed'])
def test_the_same_tokens(both, how):
    a,b = (list(compose(m, both[1].hid, TokenRequest(bars=4, programs=[0, 33], max_bar_tokens=30, **how), seed=7)) for m in both)
    assert a==b and len(a)>20

def test_card_agrees_with_the_file(exported):
    "What JSON says of inputs and outputs is what the file has; the tables walk a piece as the grammar does"
    card,m = json.loads((exported/'step.json').read_text()),OnnxModel(exported)
    for own,told in (m.session.get_inputs(), card['inputs']),(m.session.get_outputs(), card['outputs']): assert [(o.name, o.shape) for o in own]==list(told.items())
    assert [o.name for o in m.session.get_inputs() if 'int32' in o.type]==card['int32']
    state,walk = 'start',GrammarState(m.hid)
    for t in random_piece(m.hid, np.random.default_rng(2)).tolist():
        state, = (to for a,b,to in card['grammar'][state] if a<=t<=b)
        walk.step(t)
        assert state==walk.name

def test_nothing_is_rounded(both, exported):
    "float16 only where it holds every weight: here it does not"
    import onnx
    kinds = {o.data_type for o in onnx.load(exported/'model.onnx').graph.initializer}
    assert onnx.TensorProto.FLOAT16 not in kinds and onnx.TensorProto.FLOAT in kinds

@pytest.mark.parametrize('data,words', [(None, 'write it with meloformer export'), (b'', 'is damaged'), (b'no model', 'is damaged')])
def test_says_what_is_wrong(exported, tmp_path, data, words):
    for o in ('hid.json','model.json'): (tmp_path/o).write_bytes((exported/o).read_bytes())
    if data is not None: (tmp_path/'model.onnx').write_bytes(data)
    with pytest.raises(ValueError, match=words): OnnxModel(tmp_path)

@pytest.mark.parametrize('data', [b'', b'1.5', b'[]', b'{"width": "x"}', b'{"wide": 1}'])
def test_settings_that_are_none(exported, tmp_path, data):
    for o in ('hid.json','model.onnx'): (tmp_path/o).write_bytes((exported/o).read_bytes())
    (tmp_path/'model.json').write_bytes(data)
    with pytest.raises(ValueError, match='model.json: is damaged'): OnnxModel(tmp_path)

def test_refusals(both, capsys, tmp_path):
    with pytest.raises(ValueError, match='leave --summary_bars out'): both[1].generate(bars=1, summary_bars=4)
    assert run('export', [str(tmp_path/'none')])==1 and 'none' in capsys.readouterr().err
