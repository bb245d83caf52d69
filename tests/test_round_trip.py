"Encoding loses nothing that the grid can hold: invented scores, and real ones"
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from meloformer.apps.cli import run
from meloformer.music.grid import Grid
from meloformer.tokens.hid import HID
from meloformer.music.score import METER, NOTE, TEMPO, Score, Track

EXAMPLES = settings.default.max_examples # 100; 10,000 with --slow
HIDS = {p: HID(p) for p in (4, 8, 12, 24, 48)}
METERS = [(1,4), (2,4), (3,4), (4,4), (5,4), (7,8), (6,8), (12,8), (3,2), (4,2), (13,4), (9,1), (33,64), (1,64), (255,16)]

@st.composite
def scores(draw):
    "Up to 60 instruments; meters, tempos, pickups, drums, overlaps, long and empty bars"
    tpq = draw(st.sampled_from([24, 96, 120, 384, 480, 960]))
    tick = st.integers(0, tpq*40)
    tracks = draw(st.lists(st.builds(Track, st.sampled_from([0, 0, 33, 40, 40, 127]), st.booleans()), min_size=1, max_size=60))
    note = st.tuples(tick, st.one_of(st.integers(0, 2*tpq), st.integers(0, 300*tpq)), st.integers(0, 127) | st.integers(60, 63),
                     st.integers(1, 127), st.integers(0, len(tracks)-1))
    notes = np.array(draw(st.lists(note, min_size=1, max_size=60)), NOTE)
    at = [0]+draw(st.lists(tick, max_size=4))
    meters = [(o, *draw(st.sampled_from(METERS))) for o in at]
    tempos = [(o, draw(st.floats(5, 900))) for o in draw(st.lists(tick, max_size=5))]
    return Score(tpq, notes, tracks, np.array(tempos, TEMPO), np.array(meters, METER))

@settings(suppress_health_check=list(HealthCheck))
@given(scores(), st.sampled_from(sorted(HIDS)))
def test_invented(score, ppb):
    hid,grid = HIDS[ppb],Grid.from_score(score, ppb)
    q,tokens = score.quantized(ppb),hid.encode(score)
    hid.check(tokens)
    back = hid.decode(tokens)
    assert back == q == q.quantized(ppb)
    assert np.array_equal(hid.encode(back), tokens)
    assert grid.report['notes'] == len(score.notes) == len(q.notes)+grid.report['merged']
    assert not (grid.notes['length'][grid.notes['program']==128]).any()

@settings(max_examples=EXAMPLES//6, suppress_health_check=list(HealthCheck))
@given(scores())
def test_midi_and_back(score):
    "What is written as MIDI and read again is the same on the grid"
    q = score.quantized()
    assert Score.from_bytes(q.to_bytes()) == q

@settings(max_examples=EXAMPLES//3, suppress_health_check=list(HealthCheck))
@given(st.lists(scores(), min_size=1, max_size=3))
def test_structure(pieces):
    "Running values against one token after the other"
    hid = HIDS[24]
    tokens = np.concatenate([hid.encode(s) for s in pieces])
    bar,prog,pos,idx,doc,opened,prev,rows = 0,129,0,-1,-1,False,None,[]
    for t in tokens.tolist():
        k,v = int(hid.kind[t]),int(hid.value[t])
        idx += 1
        if t==1: bar,prog,pos,idx,doc,opened = 0,129,0,0,doc+1,False
        elif k==1 and prev!=6:
            if opened: bar,idx = bar+1,0
            opened,prog,pos = True,129,0
        elif k==4: prog,pos = v,0
        elif k==6: pos = v
        elif t==2: prog,pos = 129,0
        prev = k
        rows.append((k, bar, prog, pos, idx, doc))
    s = hid.structure(tokens)
    assert np.array_equal(np.stack([s.kind, s.bar, s.program, s.position, s.index, s.document], 1), rows)

@pytest.mark.parametrize('ppb', [4, 24])
def test_real_music(midi_folder, ppb, capsys):
    "`meloformer check` on chorales and quartets"
    assert run('check', [str(midi_folder), '--positions_per_beat', str(ppb)]) == 0
    assert ' same' in capsys.readouterr().out
