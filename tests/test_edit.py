"Editing and encoding commute: tokens and scores are edited on different routes, and arrive at the same piece"
import re
from functools import partial
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from meloformer.tokens.edit import *
from meloformer.tokens.hid import HID, random_walk
from meloformer.music.score import METER, NOTE, Score, Track
from test_round_trip import scores

HIDS = {p: HID(p) for p in (4, 8, 12, 24, 48)}
PLAYERS = [0, 33, 40, 127, 'drums', 'violin 2', 'Violin 1', 'piano', ['bass', 128]]
SONGS = ['Am F C G', 'Am', 'C | F G', 'N Dm7', 'Dm7:2 G7:1']

@st.composite
def edits(draw, n, meters):
    "An edit of a piece of `n` bars as (name, function of one piece and `hid`)"
    a = draw(st.integers(0, n-1))
    b = draw(st.integers(a+1, n))
    m = draw(st.sampled_from(meters))
    where = dict(a=a, b=b)
    return draw(st.sampled_from([partial(cut, **where), partial(remove, **where), partial(repeat, n=draw(st.integers(1, 3)), **where),
        partial(transpose, semitones=draw(st.integers(-30, 30)), **where), partial(keep, players=draw(st.sampled_from(PLAYERS)), **where),
        partial(drop, players=draw(st.sampled_from(PLAYERS)), **where), partial(set_chords, chords=draw(st.sampled_from(SONGS)), **where),
        partial(set_meter, meter=(2*m[0], 2*m[1]), **where), partial(set_meter, meter=(max(1, m[0]//2), max(1, m[1]//2)), **where),
        partial(set_chords, chords=draw(st.sampled_from(SONGS))), partial(transpose, semitones=draw(st.integers(-3, 3)))]))

REASONS = re.compile(r"bars \d+ to \d+: the piece has|bar \d+: the piece has|no bar would|nobody would|-?\d+ semitones: pitches|\d chords with these|bar \d+ is in|'\d+/\d+' is no meter")

def outcome(edit, *x):
    "What an edit gives, or what it says against it"
    try: return edit(*x)
    except ValueError as e:
        assert REASONS.match(str(e)), e
        return str(e)

def agree(hid, edit, *pieces):
    "The edited piece, checked: both routes, both ways"
    ppb = hid.positions_per_beat
    tokens = [hid.encode(o) for o in pieces]
    scores = [hid.decode(o) for o in tokens]
    t,s = outcome(edit, *tokens),outcome(edit, *scores)
    if isinstance(s, str): return s if t==s else pytest.fail(f'{t} is not {s}')
    hid.check(t)
    assert np.array_equal(hid.encode(s), t)
    back = hid.decode(t)
    assert back == s and back.chords == s.chords
    return s

quiet = dict(deadline=None, suppress_health_check=list(HealthCheck))

@settings(max_examples=60, **quiet)
@given(scores(), st.sampled_from(sorted(HIDS)), st.data())
def test_one_piece(score, ppb, data):
    hid = HIDS[ppb]
    q = score.quantized(ppb)
    edit = data.draw(edits(bar_count(q, hid), [o.tolist()[1:] for o in q.meters]))
    s = agree(hid, partial(edit, hid=hid), score)
    if isinstance(s, Score): agree(hid, lambda x: edit(edit(x, hid=hid), hid=hid), score)

@settings(max_examples=25, **quiet)
@given(scores(), scores(), st.sampled_from(sorted(HIDS)), st.data())
def test_two_pieces(x, y, ppb, data):
    hid = HIDS[ppb]
    at,bars = data.draw(st.integers(0, bar_count(x, hid)+1)),data.draw(st.none() | st.integers(1, 50))
    agree(hid, lambda x, y: splice(x, at, y, hid=hid), x, y)
    agree(hid, lambda x, y: concat(y, x, y, bars=bars, hid=hid), x, y)

@settings(max_examples=20, **quiet)
@given(st.integers(0, 10**6), st.data())
def test_tokens_of_any_spelling(seed, data):
    "What noise writes, with gaps among the players and rests at the end, is edited as what it means"
    hid = HIDS[24]
    w = random_walk(hid, np.random.default_rng(seed), bars=5, most=300)
    s = hid.decode(w)
    assert bar_count(w) == bar_count(s)
    edit = data.draw(edits(bar_count(s), [o.tolist()[1:] for o in s.meters]))
    t,e = outcome(edit, w),outcome(edit, s)
    if isinstance(e, str): assert t == e
    else: assert np.array_equal(hid.encode(e), t)

@settings(max_examples=20, **quiet)
@given(scores(), st.data())
def test_what_edits_undo(score, data):
    hid = HIDS[24]
    s = hid.decode(hid.encode(score))
    n = bar_count(s)
    at = data.draw(st.integers(0, n))
    assert cut(s, 0) == s and cut(s, 0).chords == s.chords
    up = outcome(lambda: transpose(transpose(s, 5), -5))
    assert isinstance(up, str) or up == s
    twice = concat(s, s)
    assert bar_count(twice) == 2*n and len(twice.notes) == 2*len(s.notes)
    assert cut(twice, n) == s or n==1 or len(cut(twice, n).notes) == len(s.notes)
    inserted = splice(s, at, s)
    assert bar_count(inserted) == 2*n and len(inserted.notes) == 2*len(s.notes)
    assert np.array_equal(np.sort(remove(inserted, at, at+n).notes[['onset','pitch']]), np.sort(s.notes[['onset','pitch']]))

@settings(max_examples=30, **quiet)
@given(scores(), st.data())
def test_performances(score, data):
    "Scores off the grid have the bars of their tokens, and all notes of them"
    hid = HIDS[24]
    n = bar_count(score)
    assert n == bar_count(hid.encode(score))
    a = data.draw(st.integers(0, n-1))
    parts = [outcome(cut, score, 0, a),outcome(cut, score, a)]
    assert sum(len(o.notes) for o in parts if isinstance(o, Score)) == len(score.notes)
    for o in parts:
        if isinstance(o, Score): assert o.tpq == score.tpq and (o.notes['onset']>=0).all() and (o.notes['duration']>=0).all()

def test_nothing_to_edit():
    "A piece without notes is one bar of rest"
    hid,none = HIDS[24],Score(480, np.zeros(0, NOTE), [], meters=np.array([(0,3,4)], METER), chords=[(0,'C:maj')])
    one = Score(480, np.array([(0,480,60,80,0)], NOTE), [Track()], chords=[(0,'F:maj')])
    assert bar_count(none) == bar_count(hid.encode(none)) == 1
    for edit in (lambda x: cut(x, 0), lambda x: transpose(x, 90), lambda x: set_chords(x, 'G'), lambda x: set_meter(x, '6/8'), lambda x: repeat(x, n=3)):
        assert bar_count(agree(hid, edit, none)) == 1
    for edit in (lambda x: keep(x, 0), lambda x: remove(x, 0)): assert isinstance(agree(hid, edit, none), str)
    late = agree(hid, lambda x, y: concat(x, y, bars=2), none, one)
    assert bar_count(late) == 3 and late.notes['onset'] == 6*192 and late.chords == [(0,'C:maj'), (6*192,'F:maj')]

def test_cut_to_no_name():
    "Struck again at the next bar line, a note needs no length, even one without a name; struck later, it has the longest there is"
    hid = HIDS[24]
    for at,sounds in ((0, 119), (24, 138)): # positions: 5/4 less one; and 143, of which the sixteenths are 138
        notes = np.array([(1, 10*24, 60, 80, 0)] + [(at, 24, 62, 80, 0)]*(at>0), NOTE)
        low = Score(24, notes, [Track(40)], meters=np.array([(0,5,4)], METER), chords=[(0,'N')])
        again = Score(24, np.array([(at, 24, 60, 80, 0)], NOTE), [Track(40)], meters=np.array([(0,5,4)], METER), chords=[(0,'N')])
        s = agree(hid, lambda x, y: concat(x, y), low, again)
        assert s.notes['duration'][s.notes['onset']==8].tolist() == [8*sounds]

def test_real_music(midi_folder):
    "Cut to bars, put together again, and moved; alone in a bar, the second violin becomes the first"
    hid = HIDS[24]
    for f in sorted(midi_folder.glob('*.mid'))[::40]:
        s = Score.read(f)
        q,tokens = s.quantized(),hid.encode(s)
        whole = hid.decode(concat(*[cut(tokens, k, k+1) for k in range(bar_count(s))], bars=1))
        assert np.array_equal(np.sort(whole.notes[['onset','pitch']]), np.sort(q.notes[['onset','pitch']])), f
        assert whole.tempos.tolist() == q.tempos.tolist() and whole.meters.tolist() == q.meters.tolist()
        n = bar_count(s)
        assert isinstance(agree(hid, lambda x: repeat(transpose(drop(x, 48, 0, n//2), 2, n//2), 0, n//2, 3), s), Score)
