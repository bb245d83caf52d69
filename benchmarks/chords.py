"""Accuracy and speed of `meloformer.chords.recognise` against human-corrected chords.

    python benchmarks/chords.py DIR_OF_POP909_CL

The folder holds the MIDI files of POP909-CL (arXiv 2510.06528): track 0 is the music, track 1 the annotation as block chords.
The weights were tuned on the songs with even numbers; the first table line is about the others. Both sides are reduced to N and
12 roots x (maj, min, dim, 7, maj7, min7, sus4). A bar's label is that of its longest chord, the first one of a tie; time is
counted in eighth notes. Bars and times without an annotated chord are left out; major/minor also leaves out dim and sus."""
import sys, time
from itertools import groupby
from pathlib import Path

import numpy as np
from report import report
from meloformer.chords import *
from meloformer.score import *

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

def evaluate(songs, recognise=recognise):
    "Shares by bar and by time, number of annotated bars"
    total = np.zeros((2, 3, 2), int)
    for _,score,ref in songs:
        bars = score.bars()
        pred,bar = frames(recognise(score), score.tpq, len(ref)),np.searchsorted(bars['onset'], np.arange(len(ref))*score.tpq/2, side='right')-1
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

def main():
    if len(sys.argv) != 2: sys.exit(__doc__)
    songs = list(read(sys.argv[1]))
    if not songs: sys.exit(f'no songs with an annotation in {sys.argv[1]}')
    tuned,held = ([o for o in songs if o[0]%2 == r] for r in (0,1))
    res = dict(held_out=evaluate(held), tuned_on=evaluate(tuned))
    keys = list(res['held_out'])
    print(' '*10 + ' '.join(f'{k:>14}' for k in keys))
    for name,row in res.items(): print(f'{name:<10}' + ' '.join(f'{row[k]:>14}' for k in keys))
    report('chords', command='python benchmarks/chords.py DIR_OF_POP909_CL', songs=len(songs), bars_per_second=speed(songs), **res)

if __name__ == '__main__': main()
