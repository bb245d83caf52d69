"""Accuracy and speed of `meloformer.music.chords.recognise` against human-corrected chords, beside chorder and music21

    python benchmarks/chords.py DIR_OF_POP909_CL [--few 40] [--bands DIR_OF_BANDS]

The folder holds the MIDI files of POP909-CL (arXiv 2510.06528): track 0 is the music, track 1 the annotation as block chords.
The weights were tuned on the songs with even numbers; `held_out` are the others, and the other packages are compared on `few` of
these, evenly spread, since they take their time (0 leaves them out; one that is not installed is left out with a word). All sides
are reduced to N and 12 roots x (maj, min, dim, 7, maj7, min7, sus4). A bar's label is that of its longest chord, the first one of
a tie; time is counted in eighth notes. Bars and times without an annotated chord are left out; major/minor also leaves out dim
and sus. chorder: pip install --no-deps chorder.

`bands` holds lead sheets that MMA set for a band with drums. The chord symbols are lost, but MMA's chord tracks play all tones of a
chord: in a bar where these are exactly one chord that has no other reading (no sus, no sixth or minor seventh), it is the reference.
It is asked of all the music, and of the music without the chord tracks.
"""
import re, sys, time
from itertools import groupby
from pathlib import Path

import numpy as np
from fastcore.script import call_parse
from report import report
from meloformer.music.chords import *
from meloformer.music.score import *

COMMON = 'maj min dim 7 maj7 min7 sus4'.split()
# How the others are reduced. A sus2 is the sus4 on its fifth.
REDUCED = dict(aug='maj', dim7='dim', hdim7='dim', **{'6':'maj', 'min6':'min', '5':'maj'})
ANNOTATED = {q: tones for q,tones in QUALITIES.items() if q not in ('6','min6','5')}
ANNOTATED_MORE = {(0,3,7,11): 'min', (0,4,8,10): '7'}

def reduced(root, quality):
    "Index in the 85 common labels"
    if quality == 'sus2': root,quality = root+7,'sus4'
    return 1 + root%12*len(COMMON) + COMMON.index(REDUCED.get(quality, quality))

TO_COMMON = np.array([0] + [reduced(r, q) for r in range(12) for q in QUALITIES])
QUALITY = np.arange(84)%7
IS_MINOR = np.isin(QUALITY, [1,2,5])                                  # dim counts as minor in a prediction
MAJMIN = np.append(0, 1 + np.arange(84)//7*2 + IS_MINOR)
HAS_MODE = np.append(False, ~np.isin(QUALITY, [2,6]))                 # dim and sus references say nothing of major or minor

def chord_of(pitches):
    "Common label of an annotated block chord; the bass decides between readings, sus2 comes last; None if it is no chord"
    low,classes = int(min(pitches))%12,{int(p)%12 for p in pitches}
    names = {t:q for q,t in ANNOTATED.items()} | ANNOTATED_MORE
    found = [(r != low, q == 'sus2', r, q) for r in classes if (q := names.get(tuple(sorted((p-r)%12 for p in classes))))]
    return reduced(*min(found)[2:]) if found else None

def annotation(score, n):
    "Common label of each of `n` eighth notes; -1 where what is annotated cannot be named"
    notes,frame = score.notes[score.notes['track'] == 1],score.tpq/2
    res = np.zeros(n, int)
    for t,g in groupby(notes, key=lambda o: o['onset']):
        g = list(g)
        c = chord_of([o['pitch'] for o in g])
        res[round(t/frame):round((int(t)+max(int(o['duration']) for o in g))/frame)] = -1 if c is None else c
    return res

def read(folder):
    "Song number, music and annotation of all songs that have both"
    for f in sorted(Path(folder).rglob('*.mid')):
        s = Score.read(f)
        if len(s.tracks) != 2: continue
        music = Score(s.tpq, s.notes[s.notes['track'] == 0], s.tracks[:1], s.tempos, s.meters)
        last = music.bars()[-1]
        yield int(f.stem), music, annotation(s, round((last['onset']+last['length'])/(s.tpq/2)))

def frames(chords, tpq, n):
    "Common label of each of `n` eighth notes"
    return TO_COMMON[chords['label'][np.searchsorted(chords['onset'], np.arange(n)*tpq/2, side='right')-1]]

def majority(labels, bar):
    "Longest label of every bar, the first of a tie; `bar` is the bar of each frame"
    count = np.bincount(bar*86 + labels+1, minlength=(bar[-1]+1)*86)[bar*86 + labels+1]
    first = np.flatnonzero(count == np.maximum.reduceat(count, np.flatnonzero(np.diff(bar, prepend=-1)))[bar])
    return labels[first[np.flatnonzero(np.diff(bar[first], prepend=-1))]]

def hits(pred, ref):
    "Right and asked: 85 labels, major/minor, root"
    chord = ref > 0
    mode = chord & HAS_MODE[ref]
    return np.array([[(pred==ref)[chord].sum(), chord.sum()], [(MAJMIN[pred]==MAJMIN[ref])[mode].sum(), mode.sum()],
                     [((pred > 0) & ((pred-1)//7==(ref-1)//7))[chord].sum(), chord.sum()]])

def ours(score, n):
    "`recognise`, as common labels of `n` eighth notes"
    return frames(recognise(score), score.tpq, n)

# chorder's names; an augmented chord counts as major, both sevenths with a diminished fifth as dim, as ours do
CHORDER = {'M':'maj', 'm':'min', 'o':'dim', '+':'aug', '7':'7', 'M7':'maj7', 'm7':'min7', 'o7':'dim7', '/o7':'hdim7', 'sus2':'sus2', 'sus4':'sus4'}

def held(labels, n):
    "Labels of the beats, None where there is none and the last one goes on, as labels of `n` eighth notes"
    res,now = [],0
    for l in labels: res.append(now := now if l is None else l)
    return np.resize(np.repeat(res + [now]*n, 2), n)

def chorder():
    "The chorder package. It decides each quarter note; one that it leaves open continues the chord before, as in its own `enchord`"
    from chorder import Dechorder
    def predict(score, n):
        chords = Dechorder.dechord(score.to_miditoolkit())
        return held([reduced(c.root_pc, CHORDER[c.quality]) if c.is_complete() else None for c in chords], n)
    return predict

# music21's kinds of chords, which it calls otherwise than we do
MUSIC21 = {'major':'maj', 'minor':'min', 'diminished':'dim', 'augmented':'aug', 'dominant-seventh':'7', 'major-seventh':'maj7', 'minor-seventh':'min7',
    'minor-major-seventh':'min', 'augmented-seventh':'7', 'augmented-major-seventh':'maj7', 'seventh-flat-five':'7', 'diminished-seventh':'dim7',
    'half-diminished-seventh':'hdim7', 'major-sixth':'6', 'minor-sixth':'min6', 'dominant-ninth':'7', 'major-ninth':'maj7', 'minor-ninth':'min7',
    'dominant-11th':'7', 'major-11th':'maj7', 'minor-11th':'min7', 'dominant-13th':'7', 'major-13th':'maj7', 'minor-13th':'min7',
    'suspended-second':'sus2', 'suspended-fourth':'sus4', 'power':'5'}

def music21():
    """music21's naming of what sounds in each quarter note, for a quarter of it at least. What it cannot name continues the chord before.
    It names sets of notes and does not listen to a song: this is what a user gets who asks it for the chord of every beat."""
    from music21 import chord, harmony
    def name(pitches):
        figure,kind = harmony.chordSymbolFigureFromChord(chord.Chord(pitches), True)
        m = re.match('([A-G])([#-]*)', figure)
        if kind not in MUSIC21 or not m: return None
        return reduced('C D EF G A B'.index(m[1]) + m[2].count('#') - m[2].count('-'), MUSIC21[kind])
    def predict(score, n):
        at = np.arange(-(-n//2))*score.tpq
        on,off,pitch = score.notes['onset'],score.notes['onset']+score.notes['duration'],score.notes['pitch']
        sounds = [np.minimum(off, t+score.tpq) - np.maximum(on, t) >= score.tpq/4 for t in at]
        return held([name(p) if len(p := np.unique(pitch[o]).tolist()) > 1 else None for o in sounds], n)
    return predict

def evaluate(songs, predict=ours):
    "Shares by bar and by time, number of annotated bars"
    total = np.zeros((2, 3, 2), int)
    for _,score,ref in songs:
        bars = score.bars()
        pred,bar = predict(score, len(ref)),np.searchsorted(bars['onset'], np.arange(len(ref))*score.tpq/2, side='right')-1
        total += [hits(majority(pred, bar), majority(ref, bar)), hits(pred, ref)]
    share = total[...,0]/total[...,1]
    names = 'labels_85 majmin root'.split()
    return {f'{by}_{k}': round(float(v), 4) for by,row in zip(('bar','time'), share) for k,v in zip(names, row)} | dict(bars=int(total[0,0,1]))

def speed(songs, repeats=5):
    "Bars a second of `recognise`, notes to labels, the median of some runs"
    n,took = sum(len(s.bars()) for _,s,_ in songs),[]
    for _ in range(repeats):
        t = time.perf_counter()
        for _,s,_ in songs: recognise(s)
        took.append(time.perf_counter()-t)
    return round(n/np.median(took))

def beside(songs):
    "All packages that there are, on the same songs: accuracy and bars a second"
    res,bars = dict(recognise=evaluate(songs) | dict(bars_per_second=speed(songs))),sum(len(s.bars()) for _,s,_ in songs)
    for system in (chorder, music21):
        try: predict = system()
        except ImportError as e:
            print(f'{system.__name__} is left out: {e}')
            continue
        t = time.perf_counter()
        res[system.__name__] = evaluate(songs, predict)
        res[system.__name__]['bars_per_second'] = round(bars/(time.perf_counter()-t), 1)
    return res

def sets_alike(quality):
    "May the notes of such a chord be read on another root?"
    return sum((CHORD_TONES == chord_pitches(f'C:{quality}')).all(1)) > 1
ONE_ROOT = {tuple(t) for q,t in QUALITIES.items() if len(t) > 2 and not sets_alike(q)}

def band_songs(folder):
    "Name, music without the chord tracks, all the music, and the chords of all bands; -1 in bars whose chord tracks do not tell a chord"
    for f in sorted(Path(folder).rglob('*.mid')):
        s = Score.read(f)
        plays = np.array([t.name.startswith('Chord') for t in s.tracks])[s.notes['track']]
        if not plays.any(): continue
        bars = s.bars()
        ref = np.full(round((int(bars[-1]['onset'])+int(bars[-1]['length']))/(s.tpq/2)), -1)
        rest = Score(s.tpq, s.notes[~plays], s.tracks, s.tempos, s.meters)
        of = np.searchsorted(bars['onset'], s.notes['onset'][plays] + s.tpq//16, side='right')-1 # human timing: a little early is on time
        for i in np.unique(of):
            p = s.notes['pitch'][plays][of == i]
            found = [(r, t) for r in {int(o)%12 for o in p} if (t := tuple(sorted({(int(o)-r)%12 for o in p}))) in ONE_ROOT]
            half = s.tpq/2
            if found: ref[round(bars['onset'][i]/half):round((bars['onset'][i]+bars['length'][i])/half)] = chord_of(p)
        yield f.stem, rest, s, ref

def table(rows):
    keys = list(next(iter(rows.values())))
    print(' '*15 + ' '.join(f'{k:>15}' for k in keys))
    for name,row in rows.items(): print(f'{name:<15}' + ' '.join(f'{row[k]:>15}' for k in keys))

@call_parse
def main(
    folder: str,      # Folder of POP909-CL
    few: int = 40,    # Held-out songs on which other packages are compared; 0 leaves them out
    bands: str = ''   # Folder of bands that MMA arranged
):
    "Compare with human-corrected chords"
    songs = list(read(folder))
    if not songs: sys.exit(f'no songs with an annotation in {folder}')
    tuned,held_out = ([o for o in songs if o[0]%2 == r] for r in (0,1))
    res = dict(held_out=evaluate(held_out), tuned_on=evaluate(tuned))
    if bands:
        arranged = list(band_songs(bands))
        res['bands'],res['no_chord_track'] = evaluate([(n, s, r) for n,_,s,r in arranged]),evaluate([(n, s, r) for n,s,_,r in arranged])
        print(f"bands: {len(arranged)} pieces, {sum(len(o.bars()) for *_,o,_ in arranged)} bars, of which {res['bands']['bars']} tell their chord")
    table(res)
    if few:
        some = [held_out[i] for i in np.unique(np.linspace(0, len(held_out)-1, few).astype(int))]
        res['same_songs'] = dict(songs=len(some), **(rows := beside(some)))
        table(rows)
    report('chords', command='python benchmarks/chords.py DIR_OF_POP909_CL' + ' --bands DIR_OF_BANDS'*bool(bands), songs=len(songs),
           bars_per_second=speed(songs), **res)
