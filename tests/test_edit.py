"Editing and encoding commute: tokens and scores are edited on different routes, and arrive at the same piece"
import io, re
from collections import Counter
from functools import partial
import mido
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from meloformer.tokens.edit import *
from meloformer.tokens.grammar import random_piece
from meloformer.tokens.hid import HID
from meloformer.music.grid import grid_bars
from meloformer.music.score import METER, NOTE, Score, Track, columns
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

def test_meters_of_rests_stay():
    "Whoever played last is left out, and the bars that are silent now keep their meters"
    hid = HIDS[4]
    score = Score(480, columns(NOTE, onset=[0, 6*480, 10*480], duration=100, pitch=60, velocity=80, track=[0, 1, 1]), [Track(0), Track(40)],
        meters=columns(METER, onset=[0, 4*480, 7*480, 9*480], numerator=[4, 3, 2, 4], denominator=4))
    left = agree(hid, lambda x: keep(x, 0, hid=hid), score)
    assert [o.tolist()[1:] for o in left.meters]==[(4,4), (3,4), (2,4), (4,4)] and bar_count(left, hid)==4

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
    w = random_piece(hid, np.random.default_rng(seed), bars=5, most=300)
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
    "A piece without notes is one bar of rest, or as many as it is made of"
    hid,none = HIDS[24],Score(480, np.zeros(0, NOTE), [], meters=np.array([(0,3,4)], METER), chords=[(0,'C:maj')])
    one = Score(480, np.array([(0,480,60,80,0)], NOTE), [Track()], chords=[(0,'F:maj')])
    assert bar_count(none) == bar_count(hid.encode(none)) == 1
    for edit in (lambda x: cut(x, 0), lambda x: transpose(x, 90), lambda x: set_chords(x, 'G'), lambda x: set_meter(x, '6/8')):
        assert bar_count(agree(hid, edit, none)) == 1
    for edit in (lambda x: keep(x, 0), lambda x: remove(x, 0)): assert isinstance(agree(hid, edit, none), str)
    assert bar_count(agree(hid, lambda x: repeat(x, n=3), none)) == 3
    late = agree(hid, lambda x, y: concat(x, y, bars=2), none, one)
    assert bar_count(late) == 4 and late.notes['onset'] == 6*192 and late.chords == [(0,'C:maj'), (6*192,'F:maj')]

@settings(max_examples=30, **quiet)
@given(scores(), st.sampled_from(sorted(HIDS)), st.integers(0, 5), st.data())
def test_bars_of_rest_at_the_end(score, ppb, more, data):
    "How many bars a piece has is the same number everywhere: a score that ends with rests, its bars on the grid, its tokens, and what is made of it"
    hid = HIDS[ppb]
    s = score.quantized(ppb)
    last = s.bars()[-1]
    n,s.length = len(s.bars())+more,int(last['onset']+last['length']*(more+1))*(more>0)
    t = hid.encode(s)
    assert len(s.bars())==len(grid_bars(s))-1==bar_count(s, hid)==bar_count(t, hid)==len(hid.decode(t).bars())==n
    edit = data.draw(edits(n, [o.tolist()[1:] for o in s.meters]))
    made = agree(hid, partial(edit, hid=hid), s)
    a,b = edit.keywords.get('a', 0),edit.keywords.get('b', n)
    if isinstance(made, Score): assert bar_count(made, hid)==len(made.bars())=={cut: b-a, remove: n-(b-a), repeat: n+(b-a)*(edit.keywords.get('n', 1)-1)}.get(edit.func, n)

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

def absolute(data):
    "Every event of a file, as another library reads it: (track, tick, message), without the ends of tracks"
    f = mido.MidiFile(file=io.BytesIO(data))
    res = []
    for i,track in enumerate(f.tracks):
        tick = 0
        for m in track:
            tick += m.time
            if m.type!='end_of_track': res.append((i, tick, str(m.copy(time=0))))
    return Counter(res)

def full_of_life():
    "Two tracks with all that a file may hold, in a tempo that no grid knows, and one that changes its program"
    f,M,X = mido.MidiFile(ticks_per_beat=192),mido.Message,mido.MetaMessage
    rng,tracks = np.random.default_rng(0),[]
    head = [(0, X('set_tempo', tempo=428571)), (0, X('time_signature', numerator=3)), (3000, X('set_tempo', tempo=431234)), (0, X('text', text='by hand')), (1200, X('marker', text='Verse')), (0, X('key_signature', key='F#m')), (7, X('sequencer_specific', data=(1, 2, 3)))]
    for channel,program in ((2, 40), (5, 0)):
        own = [(0, X('track_name', name=f'Hand {channel}')), (0, M('program_change', channel=channel, program=program)), (0, M('control_change', channel=channel, control=7, value=99))]
        for k in range(60):
            tick,pitch = k*192+int(rng.integers(0, 9)),50+int(rng.integers(0, 20))
            own += [(tick, M('note_on', channel=channel, note=pitch, velocity=int(rng.integers(1, 128)))), (tick+int(rng.integers(40, 900)), M('note_off', channel=channel, note=pitch, velocity=3))]
            if k%5==0: own += [(tick+1, M('control_change', channel=channel, control=64, value=127)), (tick+90, M('pitchwheel', channel=channel, pitch=k)), (tick+150, M('control_change', channel=channel, control=64, value=0)), (tick+2, X('lyrics', text='la')), (tick, M('sysex', data=(1, 2))), (tick, M('aftertouch', channel=channel, value=5))]
        tracks.append(own)
    for own in (head, *tracks):
        last,t = 0,mido.MidiTrack()
        for tick,m in sorted(own, key=lambda o: o[0]):
            t.append(m.copy(time=tick-last))
            last = tick
        f.tracks.append(t)
    out = io.BytesIO()
    f.save(file=out)
    return out.getvalue()

@pytest.mark.parametrize('fmt', (0, 1))
def test_nothing_else_in_the_file_is_touched(fmt, tmp_path):
    "Some notes go, others come: of all other events each is there once more, as mido reads them"
    data = full_of_life()
    if not fmt:
        f = mido.MidiFile(file=io.BytesIO(data))
        f.tracks,f.type = [mido.merge_tracks(f.tracks)],0
        f.save(tmp_path/'0.mid')
        data = (tmp_path/'0.mid').read_bytes()
    (tmp_path/'a.mid').write_bytes(data)
    song = read_song(tmp_path/'a.mid')
    n = song.score.notes
    gone = (n['onset']>=2304) & (n['onset']<4608) & (n['track']==0)
    new = columns(NEW_NOTE, onset=[2304, 2880, 3000], duration=[100, 200, 300], pitch=[100, 101, 102], velocity=[1, 64, 127], program=[40, 40, 73], instance=0)
    before,after = absolute(data),absolute(merged(song, gone, new))
    lost,come = before-after,after-before
    assert sum('note_on' in m for *_,m in lost) == sum('note_off' in m for *_,m in lost) == gone.sum() and sum(lost.values()) == 2*gone.sum()
    notes = sorted((t, int(re.search(r'note=(\d+)', m)[1])) for _,t,m in come.elements() if 'note_on' in m)
    assert notes == [(2304, 100), (2880, 101), (3000, 102)] and sum('note_' in m for *_,m in come.elements()) == 6
    assert [m for *_,m in come.elements() if 'note_' not in m and 'track_name' not in m] == ['program_change channel=0 program=73 time=0']

def test_a_song_is_cut():
    "What began before the cut rings on, a pedal is released, nothing else is left behind it"
    data = full_of_life()
    song = Song(Score.from_bytes(data), data)
    n = song.score.notes
    after = absolute(merged(song, n['onset']>=3000, np.zeros(0, NEW_NOTE), until=3000))
    before = absolute(data)
    assert Counter({k: v for k,v in before.items() if k[1]<3000 }) == Counter({k: v for k,v in after.items() if k[1]<3000})
    late = [m for (_,t,m),c in after.items() if t>=3000]
    assert late and all('note_off' in m or 'control=64 value=0' in m for m in late)
    sounding = ((n['onset']<3000) & (n['onset']+n['duration']>=3000)).sum()
    assert sum('note_off' in m for m in late) == sounding
