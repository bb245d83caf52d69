"What was asked for is found in the result, and the result opens everywhere"
from collections import Counter
from dataclasses import replace
from itertools import pairwise
import numpy as np
import pytest
import symusic
import torch
from meloformer.music.chords import CHORD_TONES, LABELS, parse_chord, parse_progression, recognise
from meloformer.net.cache import Cache
from meloformer.writing.generate import generate_in_windows, merge_infill, infill_request, compose, compose_form, compose_many, faults, full_logits, fit_window, parse_form, make_prompt, split_windows, make_request, with_bar_requests, generate_score, context_order
from meloformer.writing.constraints import Constraints, TokenRequest, TokenIds, parse_instruments, piece_ids
from meloformer.music.grid import DRUMS, TEMPOS, tidy
from meloformer.tokens.grammar import random_piece
from meloformer.tokens.hid import HID
from meloformer.net.masks import PRESETS
from meloformer.net.model import Config, MeloFormer, randomize_weights
from meloformer.tokens.edit import InFile, read_song
from meloformer.tokens.infill import Bars, Example, from_infill
from meloformer.writing.request import GenerationRequest, run_takes
from meloformer.writing.rules import Now, chords_in_scale, parse_rules, pitches_now
from meloformer.net.checkpoint import find_checkpoint
from meloformer.music.score import METER, NOTE, TEMPO, Score, Track, columns, instrument_name
from test_edit import absolute, full_of_life

HID24 = HID()
def model(mask='meloformer'):
    torch.manual_seed(0)
    return randomize_weights(MeloFormer(Config(width=64, layers=2, heads=1, kv_heads=1, mask=mask)), .02)

def write(request, seed=0, mask='meloformer'): return np.array(list(compose(model(mask), HID24, request, seed)))

def stepped(m, tokens, numbers=None, cache=None, start=0):
    "Logits token by token from `start` on, and the cache at the end"
    cache,track,got = cache or Cache(m),TokenIds(HID24, numbers),[]
    read = lambda t,row: m.step(cache, torch.tensor([t]), torch.tensor([row], dtype=torch.int32))[0]
    for i,t in enumerate(tokens.tolist()):
        closing = track.summary_row
        new = track.add(t)
        if i < start: continue
        if new:
            read(0, closing)
            cache.close_bar(0, track.bar)
        got.append(read(t, track.row))
    return torch.stack(got),cache

@pytest.mark.parametrize('mask', PRESETS)
def test_cached_is_recomputed(mask):
    m,tokens = model(mask),write(TokenRequest(bars=12, max_bar_tokens=60), mask=mask)
    torch.testing.assert_close(stepped(m, tokens)[0], full_logits(m, HID24, tokens), rtol=0, atol=1e-4)

@pytest.mark.parametrize('mask', PRESETS)
def test_cached_is_recomputed_out_of_order(mask):
    "The middle of a piece longer than the rule reaches, after all the rest"
    m,tokens = model(mask),write(TokenRequest(bars=44, max_bar_tokens=12), mask=mask)
    request = infill_request(HID24, tokens, bars=(36, 39), max_bar_tokens=20)
    t = np.array(list(compose(m, HID24, request)))
    numbers = request.bar_numbers
    whole = full_logits(m, HID24, t, numbers)
    n = len(request.prompt)
    cache = Cache(m)
    ids = piece_ids(HID24, request.prompt, request.numbers)
    torch.testing.assert_close(m.prefill(cache, torch.from_numpy(request.prompt.astype(np.int64))[None], ids, 36), whole[n-1], rtol=0, atol=1e-4)
    torch.testing.assert_close(stepped(m, t, numbers, cache, n)[0], whole[n:], rtol=0, atol=1e-4)

def test_cached_is_recomputed_over_300_bars():
    m,tokens = model(),write(TokenRequest(bars=305, max_bar_tokens=8, meter=(2,4), tempo=120))
    got,cache = stepped(m, tokens)
    assert sum(k.summary for k in cache.kept[0]) == 304
    torch.testing.assert_close(got, full_logits(m, HID24, tokens), rtol=0, atol=1e-4)

def cells(tokens):
    "Notes by bar and player, chords by bar, and the bars"
    grid,c = HID24.decode_grid(tokens)
    n = grid.notes
    notes = {k: n[(n['bar']==k[0]) & (n['program']==k[1]) & (n['instance']==k[2])].tolist() for k in set(map(tuple, n[['bar','program','instance']].tolist()))}
    return notes,[c[c['bar']==b][['position','label']].tolist() for b in range(len(grid.bars))],grid.bars.tolist()

@pytest.mark.parametrize('seed', range(8))
def test_what_is_not_asked_for_stays(seed):
    "Any piece of the grammar, any question: bars, players, new players, harmony"
    rng = np.random.default_rng(seed)
    tokens = random_piece(HID24, rng, bars=8, most=400)
    before,chords,bars = cells(tokens)
    n = len(bars)
    a,b = sorted(rng.choice(n+1, 2, replace=False).tolist())
    who = sorted({p for _,p,_ in before})
    rewrite = [] if seed%4==0 or not who else [who[0]]
    add,harmony = [[], [40, 40], [], [DRUMS]][seed%4],seed%4==2
    request = infill_request(HID24, tokens, (a, b), rewrite, add, harmony, max_bar_tokens=40)
    after,now,bars2 = cells(merge_infill(HID24, request, np.array(list(compose(model(), HID24, request, seed)))))
    assert bars == bars2
    assert [o for o in range(n) if chords[o]!=now[o]] == [] or harmony or not (rewrite or add)
    assert all(chords[o]==now[o] for o in range(n) if not a<=o<b)
    players = {(p,i) for _,p,i in before}
    new = {o[1:] for o in after}-players
    assert {p for p,_ in new} <= set(add) and len(new) <= len(add)
    for bar,p,i in {o for o in before.keys() | after.keys() if before.get(o)!=after.get(o)}:
        assert a<=bar<b and (p in rewrite or (p,i) in new or not (rewrite or add or harmony)), (bar, p, i)

def test_added_players_play():
    tokens = write(TokenRequest(bars=6, max_bar_tokens=60, programs=parse_instruments('piano, violin')))
    request = infill_request(HID24, tokens, (2, 5), add=parse_instruments('violin, drums'), max_bar_tokens=40)
    after = cells(merge_infill(HID24, request, np.array(list(compose(model(), HID24, request)))))[0]
    assert {(2, 40, 1), (2, DRUMS, 0)} <= after.keys()

def longest_rest(tokens):
    "Bars on end in which one of the players is silent"
    notes,_,bars = cells(tokens)
    plays = {o[1:]: {b for b,*who in notes if tuple(who)==o[1:]} for o in notes}
    return max(b-a-1 for own in plays.values() for a,b in pairwise(sorted({-1, len(bars)}|own)))

@pytest.mark.parametrize('rest', (0, 1, 3))
def test_nobody_rests_too_long(rest):
    request = TokenRequest(bars=9, programs=parse_instruments('violin, violin, bass, drums'), max_rest_bars=rest, max_bar_tokens=80)
    assert longest_rest(write(request)) <= rest < longest_rest(write(replace(request, max_rest_bars=None)))

def test_added_players_do_not_rest():
    tokens = write(TokenRequest(bars=6, max_bar_tokens=60, programs=parse_instruments('piano')))
    request = infill_request(HID24, tokens, add=parse_instruments('violin, drums'), max_bar_tokens=40, max_rest_bars=0)
    after = cells(merge_infill(HID24, request, np.array(list(compose(model(), HID24, request)))))[0]
    assert {(b, p, 0) for b in range(6) for p in (40, DRUMS)} <= after.keys()

def test_harmony_is_found():
    tokens = write(TokenRequest(bars=6, max_bar_tokens=60, programs=parse_instruments('piano')))
    for request in (infill_request(HID24, tokens, harmony=True), infill_request(HID24, tokens, harmony=True, rules=parse_rules('C major'))):
        c = HID24.decode_grid(merge_infill(HID24, request, np.array(list(compose(model(), HID24, request)))))[1]['label']
        assert (c>0).all() and (not request.rules[1:] or chords_in_scale('C major').may[c].all())

def song(pitches, semitones=0):
    "A flute's tune in 4/4, quarter notes, the last of each seven twice as long"
    d = (np.resize([1, 1, 1, 1, 1, 1, 2], len(pitches))*480).astype(int)
    n = columns(NOTE, onset=np.append(0, d.cumsum()[:-1]), duration=d, pitch=np.array(pitches)+semitones, velocity=80, track=0)
    return Score(480, n, [Track(73, False, '')], columns(TEMPO, onset=0, bpm=120), columns(METER, onset=0, numerator=4, denominator=4))

STAR = [60,60,67,67, 69,69,67, 65,65,64,64, 62,62,60]

def test_a_melody_gets_its_customary_chords():
    "Twinkle, twinkle, as it is played everywhere; sung three semitones higher, the chords are three semitones higher; asked for four bars, four bars are said"
    said = lambda **kw: make_request(HID24, harmonize=True, **kw).remarks
    assert said(prompt=song(STAR)) == ['chords: C | F C | F C | G7 C (key C major)']
    assert said(prompt=song(STAR, 3)) == ['chords: Eb | Ab Eb | Ab Eb | Bb7 Eb (key Eb major)']
    assert said(prompt=song(STAR*2), fill='5-6') == ['chords: C | F C (key C major)']

def test_players_are_added_over_the_chords_that_were_found():
    request = replace(make_request(HID24, prompt=song(STAR), harmonize=True, add='piano'), max_bar_tokens=40)
    new = generate_score(model(), HID24, request, 1)
    assert new.chords == [(0, 'C'), (1920, 'F'), (2880, 'C'), (3840, 'F'), (4800, 'C'), (5760, 'G7'), (6720, 'C')]
    assert {t.program for t in new.tracks} == {0, 73}

def test_typed_chords_and_key_win_over_found_ones():
    request = make_request(HID24, prompt=song(STAR), harmonize=True, chords='Am Dm')
    assert request.remarks == [] and [o.chords for o in request.bar_requests] == [[(0, parse_chord(c))] for c in ('Am','Dm')*2]
    assert '(key A minor)' in make_request(HID24, prompt=song(STAR), harmonize=True, key='Am').remarks[0]

def test_chords_around_a_gap_tell_its_key():
    "One note held throughout, and a piano that plays around the gap: in C major the gap gets chords of C major, in C minor of C minor"
    triads = dict(C=(48,52,55), F=(53,57,60), G=(55,59,62), Cm=(48,51,55), Fm=(53,56,60))
    def asked(around, **kw):
        piano = [(1920*b, 1900, p, 70, 1) for b,c in zip((0,1,2,3,6,7), around.split()) for p in triads[c]]
        n = np.array([(480*i, 460, 67, 80, 0) for i in range(32)]+piano).T
        notes = columns(NOTE, **dict(zip(('onset','duration','pitch','velocity','track'), n)))
        s = Score(480, notes, [Track(73), Track(0)], columns(TEMPO, onset=0, bpm=120), columns(METER, onset=0, numerator=4, denominator=4))
        return make_request(HID24, prompt=s, fill='5-6', harmonize=True, **kw).remarks[0]
    for kw in ({}, dict(rewrite='piano')):
        assert '(key C major)' in asked('C F G C G C', **kw) and '(key C minor)' in asked('Cm Fm G Cm G Cm', **kw)

def test_a_bass_that_joins_lies_low():
    "A third of what it could play lies above E3; a bass of the song that was there goes on as high as it was"
    tokens = write(TokenRequest(bars=8, programs=parse_instruments('piano'), max_rest_bars=0, max_bar_tokens=40))
    request = replace(make_request(HID24, prompt=HID24.decode(tokens), add='fretless bass'), max_bar_tokens=60)
    high = lambda score: np.mean([p>52 for p,t in score.notes[['pitch','track']].tolist() if score.tracks[t].program==35])
    free = replace(request, rules=[o for o in request.rules if '0 to 52' not in getattr(o, 'says', '')])
    assert len(free.rules)==len(request.rules)-1
    assert high(generate_score(model(), HID24, request, 1)) < .15 < high(generate_score(model(), HID24, free, 1))
    with_bass = HID24.decode(write(TokenRequest(bars=4, programs=parse_instruments('piano, fretless bass'), max_rest_bars=0, max_bar_tokens=40)))
    held = lambda s: any('0 to 52' in getattr(o, 'says', '') for o in make_request(HID24, prompt=s, fill='2-3').rules)
    assert not held(with_bass)
    of_bass = np.array([t.program==35 for t in with_bass.tracks])[with_bass.notes['track']]
    with_bass.notes['pitch'][of_bass] = with_bass.notes['pitch'][of_bass].clip(max=52)
    assert held(with_bass)

def test_no_melody_to_harmonise():
    with pytest.raises(ValueError, match='bars 1 to 4 have no melody to harmonise; leave a tuned instrument out of --rewrite, or give --chords'): make_request(HID24, prompt=song(STAR), harmonize=True, rewrite='flute')

@pytest.mark.parametrize('seed', range(4))
def test_asked_and_found(seed):
    request = TokenRequest(bars=9, chords=parse_progression('Am F | C:2 G | Dm7b5'), programs=parse_instruments('violin, violin, cello, drums'),
              meter=[(4,4), (3,4), (5,8), (6,4)][seed], tempo=70+20*seed, max_bar_tokens=80)
    tokens = write(request, seed)
    HID24.check(tokens)
    grid,c = HID24.decode_grid(tokens)
    score = grid.score()
    assert len(grid.bars) == 9
    assert set(map(tuple, grid.bars[['numerator','denominator']].tolist())) == {request.meter}
    assert TEMPOS[grid.bars['tempo']].tolist() == [TEMPOS[abs(TEMPOS-request.tempo).argmin()]]*9
    assert Counter(DRUMS if t.is_drum else t.program for t in score.tracks) == Counter(request.programs)
    for bar in range(9):
        typed = [l for l,_ in request.chords[bar%3]]
        assert c['label'][c['bar']==bar].tolist() == typed

def test_chords_that_share_a_bar_hold_the_meter():
    grid,c = HID24.decode_grid(write(TokenRequest(bars=6, chords=parse_progression('C G | Am F G'), max_bar_tokens=40), 3))
    assert set(map(tuple, grid.bars[['numerator','denominator']].tolist())) == {(4,4)}
    assert [c['position'][c['bar']==b].tolist() for b in (0, 1)] == [[0, 48], [0, 24, 72]]

def test_chords_beyond_the_fourth_beat():
    "In the first bar chord changes stand before the meter, and may lie where a bar of 4/4 has no place"
    request = TokenRequest(bars=3, chords=parse_progression('C:5 G | Am'), meter=(7,4), max_bar_tokens=30)
    grid,c = HID24.decode_grid(write(request))
    assert set(map(tuple, grid.bars[['numerator','denominator']].tolist())) == {(7,4)}
    assert c['position'].tolist() == [0, 120, 0, 0, 120]

def test_a_prompt_stays():
    first = HID24.decode(write(TokenRequest(bars=5, max_bar_tokens=80)))
    p = make_prompt(HID24, first, 3)
    tokens = write(TokenRequest(bars=6, prompt=p, max_bar_tokens=80), seed=5)
    old,new = (HID24.decode_grid(HID24.encode(s) if isinstance(s, Score) else s)[0].notes for s in (first, tokens))
    assert np.array_equal(old[old['bar']<3], new[new['bar']<3]) and len(p) < len(tokens)

def player_of(score): return [DRUMS if t.is_drum else t.program for t in score.tracks]

@pytest.mark.parametrize('names', ['violin, violin, cello', 'drums', 'flute, piano, bass, drums'])
def test_a_song_goes_on_with_its_own_players(names):
    "Nobody else joins, whoever played at the end rests two bars at most, and meter and tempo are those of the song"
    song = HID24.decode(write(TokenRequest(bars=4, programs=parse_instruments(names), meter=(3,4), tempo=90, max_rest_bars=0, max_bar_tokens=80)))
    for seed in range(3):
        request = replace(make_request(HID24, 16, song), max_bar_tokens=80)
        tokens = write(request, seed)
        after = HID24.decode(tokens)
        assert Counter(player_of(after)) == Counter(player_of(song))
        assert longest_rest(tokens) <= 2
        assert after.meters.tolist() == [(0, 3, 4)] and after.tempos['bpm'].tolist() == [TEMPOS[abs(TEMPOS-90).argmin()]]

def test_players_named_after_a_prompt():
    "The others stop at once, new ones join"
    song = HID24.decode(write(TokenRequest(bars=4, programs=parse_instruments('violin, cello'), max_bar_tokens=80)))
    notes = cells(write(replace(make_request(HID24, 10, song, instruments='cello, flute'), max_bar_tokens=80)))[0]
    assert {p for b,p,_ in notes if b<4} == {40, 42} and {p for b,p,_ in notes if b>=4} == {42, 73}

def test_a_piece_from_nothing_is_for_few():
    "A model that knows nothing would hire anybody"
    for seed in range(3):
        who = player_of(HID24.decode(write(replace(make_request(HID24, 60), max_bar_tokens=200), seed)))
        assert len(set(who)) == len(who) <= 8
    assert len(player_of(HID24.decode(write(TokenRequest(bars=60, max_bar_tokens=200))))) > 8

@pytest.fixture(scope='module')
def long_piece():
    "Two hundred bars for three, everybody in each"
    return write(TokenRequest(bars=200, programs=parse_instruments('piano, violin, bass'), meter=(2,4), tempo=100, max_rest_bars=0, max_bar_tokens=20))

def struck(tokens):
    "By bar and player, without lengths: a pitch that is struck again ends before"
    return {k: sorted((o[3], o[5], o[6]) for o in v) for k,v in cells(tokens)[0].items()}

ABOUT = dict(fill=(dict(bars=(90, 94)), {0, 40, 32}), rewrite=(dict(rewrite=[40]), {40}), add=(dict(bars=(60, 120), add=[73]), {73}))

@pytest.mark.parametrize('verb', ABOUT)
def test_a_long_piece_is_read_in_part(verb, long_piece):
    "No more than a window at a time, the near bars in any case; nothing else is touched, nothing is silent"
    asked,who = ABOUT[verb]
    request = infill_request(HID24, long_piece, max_bar_tokens=20, max_rest_bars=0, **asked)
    parts = split_windows(request, 512)
    assert [o.number for p in parts for o in p] == [o.number for o in request.bar_requests]
    for p in parts:
        now = fit_window(HID24, request, Example(request.prompt, request.numbers), p, 512)
        around = {p[0].number-1, p[-1].number+1} & set(range(200))
        assert len(now.prompt) <= 448 and len(now.prompt) > 200 and around <= set(now.numbers.tolist())
    before,after = struck(long_piece),struck(generate_in_windows(model(), HID24, request, [1], 512)[0])
    changed = {k for k in before.keys() | after.keys() if before.get(k)!=after.get(k)}
    assert changed and {p for _,p,_ in changed} <= who and {b for b,*_ in changed} <= {o.number for o in request.bar_requests}
    assert {(o.number, p, 0) for o in request.bar_requests for p in who if len(who)==1} <= after.keys()
    assert {b for b,*_ in after} == set(range(200))

def test_a_long_piece_goes_on(long_piece):
    request = replace(make_request(HID24, 240, HID24.decode(long_piece)), max_bar_tokens=20)
    assert len(split_windows(with_bar_requests(HID24, request), 512)) > 2
    before,after = struck(long_piece),struck(generate_in_windows(model(), HID24, request, [1], 512)[0])
    assert before == {k: v for k,v in after.items() if k[0]<200} and {b for b,*_ in after} == set(range(240))
    assert {p for _,p,_ in after} == {0, 40, 32}

def test_what_is_worth_reading():
    "Near bars, those a repetition away, the opening"
    have = np.delete(np.arange(200), range(100, 104))
    order = have[context_order(have, range(100, 104))]
    assert set(order[:24]) == {*range(88, 100), *range(104, 116)}
    assert set(order[24:36]) == {100+i-d for i in range(4) for d in (16, 24, 32)}
    assert set(order[36:40]) == {0, 1, 2, 3}

def test_faults_are_found(long_piece):
    "A silent bar, a bar that copies its neighbour, a player who is gone"
    grid,chords = HID24.decode_grid(long_piece)
    n,request = grid.notes,infill_request(HID24, long_piece, bars=(90, 92))
    def wrong(notes): return [(b+1, w) for b,w in faults(HID24, long_piece, Example(HID24.encode_grid(replace(grid, notes=tidy(notes, grid.bars, 24)), chords)[:-1], np.arange(200)), request.bar_requests)]
    assert wrong(n) == []
    assert (91, 'is silent') in wrong(n[n['bar']!=90])
    copy = n[n['bar']==89]
    copy['bar'] = 90
    assert (91, 'is bar 90 once more') in wrong(np.concatenate([n[n['bar']!=90], copy]))
    assert wrong(n[(n['program']!=40) | (n['bar']<90) | (n['bar']>91)]) == [(91, 'and on: Violin is left out')]

def test_an_answer_with_faults_is_drawn_again(long_piece, monkeypatch):
    "At most so often as was asked for; that with the fewest stays, and what is wrong with it is told"
    request,found = infill_request(HID24, long_piece, bars=(90, 92), max_bar_tokens=20),[]
    def count(hid, before, after, bar_requests):
        found.append(from_infill(hid, after))
        return [(90, 'is silent')]*[3, 1, 2][len(found)-1]
    monkeypatch.setattr('meloformer.writing.generate.faults', count)
    for attempts,best,left in ((1, 0, 3), (3, 1, 1)):
        found.clear()
        report = []
        after = struck(generate_in_windows(model(), HID24, request, [1], 8192, attempts, [report])[0])
        assert len(found) == attempts and len(report) == left
        assert after == struck(found[best]) and (attempts==1 or after != struck(found[0]))

def test_who_played_in_a_gap_plays_again():
    tokens = write(TokenRequest(bars=8, programs=parse_instruments('piano, violin, drums'), max_rest_bars=0, max_bar_tokens=40))
    for seed in range(3):
        request = infill_request(HID24, tokens, bars=(2, 6), max_bar_tokens=40)
        after = cells(merge_infill(HID24, request, np.array(list(compose(model(), HID24, request, seed)))))[0]
        assert {p for b,p,_ in after if b==2} == {0, 40, DRUMS}

def test_notes_that_an_instrument_has():
    "Unless another range is asked for, or any"
    def pitches(words): return HID24.decode_grid(write(replace(make_request(HID24, bars=4, instruments='fretless bass, flute', rules=parse_rules(pitch_range=words)), max_bar_tokens=60)))[0].notes
    for words,low,high in ((None, 23, 67), ('fretless bass C5-C6', 72, 84)):
        n = pitches(words)
        bass = n['pitch'][n['program']==35]
        assert len(bass) and bass.min()>=low and bass.max()<=high and n['pitch'][n['program']==73].min()>=60
    assert pitches('any')['pitch'].max()>100

def test_a_range_that_is_asked_for_holds_in_a_key():
    "A key does not bring back the range of the instrument"
    for words,low,high in (('any', 0, 127), ('flute C3-C4', 48, 60)):
        ok = pitches_now(GenerationRequest(key='C major', pitch_range=words).parse(HID24).rules, Now(73))[0]
        assert (np.flatnonzero(ok)[[0, -1]]==(low, high)).all()

def first_notes(tokens, programs):
    "Of each chord the pitch class that begins it, of these players; chords as (bar, position, label)"
    grid,chords = HID24.decode_grid(tokens)
    n = grid.notes[np.isin(grid.notes['program'], programs)]
    at = np.searchsorted(chords['bar']*1000+chords['position'], n['bar']*1000+n['position'], 'right')-1
    return [(chords[k].tolist(), int(n['pitch'][at==k][0])%12) for k in np.unique(at)]

@pytest.mark.parametrize('who,bass', (('piano, fretless bass', 35), ('violin, cello', 42)))
def test_the_bass_of_a_slash_chord_is_played(who, bass):
    "By the bass, or the lowest player, as its first note of the chord, half a bar long, too"
    request = replace(make_request(HID24, bars=4, chords='C/E:2 Am:2 | F/C', instruments=who, meter='4/4', max_rest_bars=0), max_bar_tokens=60)
    found = [((b%2, p), h) for (b,p,_),h in first_notes(write(request), [bass]) if (b%2, p)!=(0, 48)]
    assert len(found)>=3 and all(h=={(0, 0): 4, (1, 0): 0}[at] for at,h in found)

def test_the_bass_of_a_slash_chord_in_forms_and_songs():
    "Where a section is varied, in a gap, and after a prompt"
    m,request = model(),replace(make_request(HID24, bars=8, chords='C/E Am F/A G', instruments='piano, bass', meter='4/4', max_rest_bars=0), max_bar_tokens=40)
    tokens = compose_form(m, HID24, request, parse_form("AA'"), 1)
    song = HID24.decode(tokens)
    gap,on = (replace(make_request(HID24, prompt=song, chords='Dm G7/B', **kw), max_bar_tokens=40) for kw in (dict(fill='3-6'), dict(bars=12)))
    for t,first,typed in ((tokens, 0, (4, None, 9, None)), (HID24.encode(generate_score(m, HID24, gap, 1)), 2, (None, 11)), (HID24.encode(generate_score(m, HID24, on, 1)), 8, (None, 11))):
        n = HID24.decode_grid(t)[0].notes
        n = n[n['program']==32]
        new = {b: n['pitch'][n['bar']==b][0]%12 for b in range(first, 8 if first==0 else 6 if first==2 else 12) if (n['bar']==b).any()}
        assert new and all(typed[(b-first)%len(typed)] in (None, h) for b,h in new.items()) and any(typed[(b-first)%len(typed)]==h for b,h in new.items())

def test_a_bass_that_nobody_plays_is_said_to_be_ignored():
    words = dict(chords='C/E Am C/E D/F#', bars=4)
    said = ['bass E of C/E: no bass plays, it is ignored','bass F# of D/F#: no bass plays, it is ignored']
    assert make_request(HID24, instruments='piano, drums', **words).remarks==said
    assert make_request(HID24, instruments='piano, bass', **words).remarks==make_request(HID24, **words).remarks==[]

def test_takes_side_by_side_are_those_alone(long_piece):
    "Also where they are written window by window, and some are drawn again"
    request = infill_request(HID24, long_piece, bars=(88, 94), max_bar_tokens=20, max_rest_bars=0)
    reports = [[], [], []]
    takes = generate_in_windows(model(), HID24, request, [1, 2, 3], 512, 2, reports)
    for seed,t,left in zip((1, 2, 3), takes, reports):
        report = []
        assert np.array_equal(t, generate_in_windows(model(), HID24, request, [seed], 512, 2, [report])[0]) and left == report
    assert not np.array_equal(takes[0], takes[1])

def test_seeds():
    a,b,c = (write(TokenRequest(bars=3, max_bar_tokens=60), s) for s in (1, 1, 2))
    assert np.array_equal(a, b) and not np.array_equal(a, c)

def test_opens_everywhere(tmp_path):
    import miditoolkit, pretty_midi
    s = HID24.decode(write(TokenRequest(bars=6, programs=parse_instruments('piano, bass, drums'), max_bar_tokens=60)))
    f = tmp_path/'piece.mid'
    s.write(f)
    assert sum(len(t.notes) for t in symusic.Score(f).tracks) == len(s.notes)
    assert len(pretty_midi.PrettyMIDI(str(f)).instruments) == len(miditoolkit.MidiFile(str(f)).instruments) == 3

def test_side_by_side():
    "Pieces that begin and end at different times are those that are written alone"
    tokens = write(TokenRequest(bars=6, max_bar_tokens=60))
    requests = [TokenRequest(bars=2, max_bar_tokens=60), TokenRequest(bars=5, max_bar_tokens=60, temperature=.7), TokenRequest(bars=8, max_bar_tokens=60, prompt=make_prompt(HID24, HID24.decode(tokens), 3)), infill_request(HID24, tokens, (2, 4), max_bar_tokens=60)]
    m = model()
    for i,(a,t) in enumerate(zip(requests, compose_many(m, HID24, requests, range(4)))): assert np.array_equal(t, list(compose(m, HID24, a, i)))

RULES = dict(scale=('C major', lambda n: np.isin(n['pitch'][n['program']!=DRUMS]%12, [0, 2, 4, 5, 7, 9, 11]).all()),
    pitch_range=('piano C3-C5, bass 28-50', lambda n: np.isin(n['pitch'][n['program']==0], range(48, 73)).all() and np.isin(n['pitch'][n['program']==32], range(28, 51)).all()),
    polyphony=('1', lambda n: max(Counter(map(tuple, n[n['program']!=DRUMS][['bar','program','position']].tolist())).values())==1),
    density=('drums 3-5, piano -4', lambda n: all(3<=c<=5 for c in a_bar(n, DRUMS)) and all(c<=4 for c in a_bar(n, 0))),
    chord_tones=('beats', lambda n: all(p in ((9, 0, 4), (5, 9, 0))[b%2] for b,p in zip(n['bar'].tolist(), (n['pitch']%12).tolist()))))

def a_bar(n, program): return Counter(n['bar'][n['program']==program].tolist()).values()

@pytest.mark.parametrize('name', RULES)
def test_rules_are_kept(name):
    words,kept = RULES[name]
    for seed in range(3):
        request = make_request(HID24, bars=4, chords='Am F', instruments='piano, bass, drums', meter='4/4', rules=parse_rules(**{name: words}))
        request.max_bar_tokens = 90
        n = HID24.decode_grid(write(request, seed))[0].notes
        if name=='chord_tones': n = n[(n['position']%24==0) & (n['program']!=DRUMS)]
        assert len(n) and kept(n)

def test_rules_leave_the_rest_alone():
    "Bars that are filled in keep to them; the bars around are as they were"
    tokens = write(TokenRequest(bars=6, max_bar_tokens=60, programs=parse_instruments('piano, violin')))
    before = cells(tokens)[0]
    request = infill_request(HID24, tokens, (2, 4), max_bar_tokens=60, rules=parse_rules('D dorian'))
    after = cells(merge_infill(HID24, request, np.array(list(compose(model(), HID24, request)))))[0]
    assert {k: v for k,v in before.items() if k[0] not in (2, 3)} == {k: v for k,v in after.items() if k[0] not in (2, 3)}
    assert all(o[5]%12 in (2, 4, 5, 7, 9, 11, 0) for k,v in after.items() if k[0] in (2, 3) for o in v)

def test_forms_and_loops():
    m,request = model(),TokenRequest(bars=8, max_bar_tokens=40, meter=(3,4), max_rest_bars=0, programs=parse_instruments('piano, bass'), chords=parse_progression('C G'))
    notes = cells(compose_form(m, HID24, request, parse_form('ABAA'), 3))[0]
    section = lambda i: sorted((b-2*i, p, k, o[3], o[5]) for (b,p,k),v in notes.items() if 2*i<=b<2*i+2 for o in v)
    assert section(0)==section(2)==section(3)!=section(1)
    s = generate_score(m, HID24, replace(request, max_rest_bars=0), 3, loop=True)
    assert (s.notes['onset']+s.notes['duration']).max() <= 8*3*s.tpq and len(s.bars())==8

VERBS = dict(fill=(dict(fill='5-8'), {1, 2}), rewrite=(dict(fill='3-9', rewrite='violin'), {1}), everywhere=(dict(rewrite='piano'), {2}), add=(dict(fill='5-12', add='flute'), {3}),
    harmonize=(dict(harmonize=True), set()), chords=(dict(fill='5-8', chords='F#m D'), {1, 2}), on=(dict(bars=26), {1, 2}))

@pytest.mark.parametrize('verb', VERBS)
def test_all_other_events_are_those_of_the_file(verb, tmp_path):
    "Ticks, velocities, tempos, pedals, bends, lyrics, names, channels: as mido reads the file before and after; in 3/4, 576 ticks a bar"
    words,tracks = VERBS[verb]
    (tmp_path/'a.mid').write_bytes(full_of_life())
    request = replace(make_request(HID24, prompt=tmp_path/'a.mid', **words), max_bar_tokens=40)
    generate_score(model(), HID24, request, 1).write(tmp_path/'b.mid')
    before,after = (absolute((tmp_path/f).read_bytes()) for f in ('a.mid','b.mid'))
    span = [(o.number*576, (o.number+1)*576) for o in with_bar_requests(HID24, request).bar_requests]
    def inside(k): return k[0] in tracks and span[0][0]-12<=k[1]<span[-1][1]
    lost,come = before-after,after-before
    ends = {k for k in lost if 'note_off' in k[2]}
    assert all('note_' in k[2] and inside(k) for k in lost.keys()-ends) and sum(v for k,v in lost.items() if k in ends)==sum(v for k,v in lost.items() if 'note_on' in k[2])
    news = {k for k in come if 'note_' not in k[2]}
    assert all(inside(k) for k in come if 'note_on' in k[2])
    kinds = Counter(k[2].split()[0].split('(')[-1].strip("',") for k in news)
    assert kinds == dict(add={'track_name': 1, 'program_change': 1}, harmonize={'marker': kinds['marker']}, chords={'marker': kinds['marker']}).get(verb, {})
    assert verb not in ('harmonize', 'chords') or kinds['marker'] > 1
    notes = sum(v for k,v in come.items() if 'note_on' in k[2])
    assert notes > 3 or verb=='harmonize' and not notes and not lost

def test_a_key_is_heard(checkpoint):
    "Another key than was asked for is drawn again, and what remains is said; sections, drums and modes are let through"
    m = MeloFormer.from_pretrained(checkpoint)
    def wrong(n=8, **asked): return [t.faults for t in run_takes(m, m.hid, GenerationRequest(key='D minor', bars=4, top_k=5, takes=n, **asked))]
    once,often = wrong(instruments='flute', attempts=1),wrong(instruments='flute')
    assert sum(map(bool, often))<sum(map(bool, once)) and all(o[0][1].endswith('is heard, and not D minor') for o in once if o)
    assert wrong(instruments='drums')==[[]]*8
    for asked in (dict(key='D dorian'), dict(prompt=song(STAR), fill='2')):
        r = GenerationRequest(**dict(key='D minor', bars=None if 'prompt' in asked else 4, top_k=5, instruments=None if 'prompt' in asked else 'flute') | asked)
        assert not any('is heard' in w for t in run_takes(m, m.hid, r) for _,w in t.faults)

def test_a_key_begins_with_the_section():
    "What sounded before is no debt of the new key"
    tokens = write(TokenRequest(bars=3, max_bar_tokens=60, programs=parse_instruments('piano')))
    g = Constraints(HID24, make_request(HID24, prompt=HID24.decode(tokens), bars=6))
    for t in g.prompt: g.add(t)
    assert not g.heard.any() and g.skip==3

@pytest.mark.parametrize('verb', ['fill','add','on'])
def test_a_file_as_bytes(verb, tmp_path):
    "Sent, and not named: the same answer; and what was answered is asked about again with all that the file holds"
    (tmp_path/'a.mid').write_bytes(full_of_life())
    words = VERBS[verb][0]
    one,two = (generate_score(model(), HID24, replace(make_request(HID24, prompt=o, **words), max_bar_tokens=40), 1) for o in (tmp_path/'a.mid', InFile.opened(full_of_life())))
    assert one.to_bytes()==two.to_bytes()
    again = generate_score(model(), HID24, replace(make_request(HID24, prompt=one, fill='2'), max_bar_tokens=40), 1)
    other = lambda data: {k: v for k,v in absolute(data).items() if 'note_' not in k[2]}
    assert other(one.to_bytes())==other(again.to_bytes())
    with pytest.raises(ValueError, match='sent: '): InFile.opened(b'MThd', 'sent')

@pytest.mark.parametrize('verb', VERBS)
def test_tracks_without_notes(verb):
    "They lie before, between and behind those that play, of the same programs and of others: in the answer all is as if they were not there"
    song = Score.from_bytes(full_of_life())
    empty = [o for t in song.tracks for o in (replace(t), t)]+[Track(40), Track(0, True)]
    notes = song.notes.copy()
    notes['track'] = notes['track']*2+1
    write = lambda s: generate_score(model(), HID24, replace(make_request(HID24, prompt=s, **VERBS[verb][0]), max_bar_tokens=40), 1).notes
    assert write(replace(song, notes=notes, tracks=empty)).tolist()==write(song).tolist()

def test_a_piece_in_which_nobody_plays():
    "Who is to play is said, or one is asked for it"
    rests = Score(480, np.zeros(0, NOTE), [Track(40)], length=4*1920)
    for words,way in ((dict(fill='2'), '--add'), (dict(rewrite='violin'), '--add'), (dict(bars=6), '--instruments')):
        with pytest.raises(ValueError, match=f'nobody plays in the piece; name who .* with {way}'): make_request(HID24, prompt=rests, **words)
    for words in (dict(fill='2', add='flute'), dict(bars=5, instruments='flute')):
        s = generate_score(model(), HID24, replace(make_request(HID24, prompt=rests, **words), max_bar_tokens=40), 1)
        assert len(s.notes) and {t.program for t in s.tracks}=={73}

def test_a_song_that_is_cut_goes_on(tmp_path):
    "What stood behind the cut is gone, meter and tempo go on"
    (tmp_path/'a.mid').write_bytes(full_of_life())
    s = generate_score(model(), HID24, replace(make_request(HID24, 8, tmp_path/'a.mid', 4), max_bar_tokens=40), 1)
    s.write(tmp_path/'b.mid')
    old,new = Score.read(tmp_path/'a.mid'),Score.read(tmp_path/'b.mid')
    early = lambda s: Counter(s.notes[s.notes['onset']<4*576-12].tolist())
    assert early(old)==early(new) and len(new.bars())==8 and new.meters.tolist()==[(0, 3, 4)] and new.tempos.tolist()==old.tempos.tolist()[:1]
    assert np.array_equal(new.notes, s.notes)

def share_in_chords(score, span):
    "Of the notes that begin in these bars (but drums), the share that belongs to the chord that the song has there"
    grid,chords = HID24.decode_grid(HID24.encode(score))
    n = grid.notes[(grid.notes['program']!=DRUMS) & np.isin(grid.notes['bar'], span)]
    at = np.searchsorted(chords['bar']*1000+chords['position'], n['bar']*1000+n['position'], 'right')-1
    return CHORD_TONES[chords['label'][at], n['pitch']%12].mean()

def test_the_songs_harmony_is_kept(midi_folder):
    "The model that comes along fills bars of chorales over the chords that they had, nearly as close to them as the chorales"
    ckpt = find_checkpoint(None)
    net,shares = MeloFormer.load(ckpt),[]
    for f in sorted(midi_folder.glob('bach*.mid'))[:3]:
        old = Score.read(f)
        for words in (dict(fill='5-8'), dict(fill='5-8', rewrite=player_name(old))):
            request = make_request(HID24, prompt=f, **words)
            new = generate_score(net, HID24, request, 1)
            assert [o.chords for o in request.bar_requests] == [Bars(HID24, HID24.encode(old)).labels(HID24, b) for b in range(4, 8)]
            new.chords = [(o, LABELS[l]) for o,l in recognise(old)[['onset','label']].tolist()]
            shares.append((share_in_chords(new, range(4, 8)), share_in_chords(old, range(4, 8))))
    new,old = np.mean(shares, 0)
    assert new > .8 and old > .8, (new, old)

def player_name(score): return instrument_name(score.tracks[0].program, score.tracks[0].is_drum)

def test_chords_among_the_markers_are_the_songs(tmp_path):
    "Read where the file names them; rehearsal letters are none"
    s = HID24.decode(write(TokenRequest(bars=8, programs=parse_instruments('piano'), max_rest_bars=0, chords=parse_progression('Am F C G'), max_bar_tokens=40)))
    for chords,known in ((s.chords, True), ([(0, 'A'), (3000, 'B')], False), ([], False)):
        s.chords = chords
        s.write(tmp_path/'a.mid')
        song = read_song(tmp_path/'a.mid')
        assert song.score.chords == (s.chords if known else [])
    request = make_request(HID24, prompt=tmp_path/'a.mid', fill='2-3')
    assert request.bar_requests[0].chords == Bars(HID24, HID24.encode(Score.read(tmp_path/'a.mid'))).labels(HID24, 1)

def test_words_are_understood_as_the_song_has_them(tmp_path):
    "A bass is the one that plays, a track may be called by its name, and whoever asks for another hears who plays"
    s = HID24.decode(write(TokenRequest(bars=4, programs=parse_instruments('fretless bass, violin'), max_rest_bars=0, max_bar_tokens=40)))
    for t in s.tracks: t.name = {35: 'Low end', 40: 'Fiddler'}[t.program]
    for word,program in (('bass', 35), ('Low end', 35), ('fiddler', 40), ('fiddle', 40)):
        assert {p for o in make_request(HID24, prompt=s, fill='2', rewrite=word).bar_requests for p,_ in o.players} == {program}
    with pytest.raises(ValueError, match='does not play; there are Fretless Bass, Violin'): make_request(HID24, prompt=s, rewrite='piano')

def test_sentence(tmp_path, capsys):
    "What a sentence settles is found by a reader that knows nothing of this package, section by section"
    from meloformer.apps.cli import run
    assert run('text', ['a waltz in D minor for flute, 2 bars at 92 bpm; then no flute but piano and drums, 4/4, 140 bpm', '--seed', '3', '--out', str(tmp_path/'a.mid')])==0
    assert capsys.readouterr().out.startswith('understood: bars 1-2: 92 bpm, 3/4, D minor, flute, 2 bars; bars 3-4: 140 bpm, 4/4, D minor, piano and drums, no flute, 2 bars\n')
    s = symusic.Score(tmp_path/'a.mid')
    border = 6*s.tpq
    assert [(o.time, o.numerator, o.denominator) for o in s.time_signatures]==[(0, 3, 4), (border, 4, 4)]
    assert [(o.time, round(o.qpm/w, 1)) for o,w in zip(s.tempos, (92, 140), strict=True)]==[(0, 1), (border, 1)]
    when = {(t.program, t.is_drum): (min(o.start for o in t.notes), max(o.start for o in t.notes)) for t in s.tracks}
    assert when.keys()=={(73, False), (0, False), (0, True)}
    assert when[73, False][1]<border and min(a for k,(a,_) in when.items() if k!=(73, False))>=border
    scale = {(2+o)%12 for o in (0,2,3,5,7,8,10)}
    assert {o.pitch%12 for t in s.tracks if not t.is_drum for o in t.notes} <= scale
