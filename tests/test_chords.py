"Known chords, played in the textures of real music"
import numpy as np
import pytest
from meloformer.music.chords import *
from meloformer.music.score import Score

def nearest(label):
    "The chord tone nearest to each MIDI pitch, the lower of two"
    tones = np.flatnonzero(np.resize(chord_pitches(label), 132))
    return tones[np.abs(tones[:,None] - np.arange(128)).argmin(0)]

def rendered(score, rng, qualities, passing=.25):
    """The rhythm, register and spacing of a piece, with a random chord in each bar: every note moves to the nearest tone of the
    chord, the lowest on the downbeat to its root; a share `passing` of the notes off the beat lies a step above it. Labels by bar"""
    bars,n = score.bars(),score.notes.copy()
    labels = np.array([LABELS.index(f'{r}:{q}') for r,q in zip(rng.choice(ROOTS, len(bars)), rng.choice(qualities, len(bars)))])
    bar = np.searchsorted(bars['onset'], n['onset'], side='right') - 1
    n['duration'] = np.minimum(n['duration'], bars['onset'][bar] + bars['length'][bar] - n['onset'])
    n['pitch'] = np.array([nearest(l) for l in labels])[bar,n['pitch']]
    off_beat = ~np.isin(n['onset'], beats_of(bars, score.tpq)['onset'])
    n['pitch'][off_beat] += (rng.random(off_beat.sum()) < passing)*rng.integers(1, 3, off_beat.sum(), np.uint8)
    order = np.lexsort((n['pitch'], n['onset']))
    opens = order[np.flatnonzero(np.diff(n['onset'][order], prepend=-1))]
    opens = opens[np.isin(n['onset'][opens], bars['onset'])]
    n['pitch'][opens] -= ((n['pitch'][opens].astype(int) - (labels[bar[opens]]-1)//14)%12).astype(np.uint8)
    return Score(score.tpq, n, score.tracks, score.tempos, score.meters),labels

def found(score, labels):
    """Of the beats in bars where all tones of the chord are played (a chord that lacks its third cannot be told by anyone): how many are
    heard as played, how many with its root and triad, and how many there are"""
    c,bars,n = recognise(score),score.bars(),score.notes
    played = np.zeros((len(bars), 12), bool)
    played[np.searchsorted(bars['onset'], n['onset'], side='right')-1,n['pitch']%12] = True
    whole = ~(CHORD_TONES[labels] & ~played).any(1)
    beats = beats_of(bars, score.tpq)
    heard = c['label'][np.searchsorted(c['onset'], beats['onset'], side='right')-1].astype(int)
    ask,counts = labels[beats['bar']],whole[beats['bar']]
    alike = (heard > 0) & ((heard-1)//14 == (ask-1)//14) & ((CHORD_TONES[ask] & CHORD_TONES[heard]).sum(1) >= 3)
    return np.array([(heard == ask)[counts].sum(), alike[counts].sum(), counts.sum()])

# Measured: .887 and .918; .748 and .851. In an inversion a minor seventh chord is a sixth chord, and without its root a triad
@pytest.mark.parametrize('qualities,exact,triad', [('maj min dim 7', .86, .9), ('maj min dim 7 maj7 min7', .72, .83)])
def test_known_chords_in_real_textures(midi_folder, qualities, exact, triad):
    rng,total = np.random.default_rng(0),np.zeros(3)
    for f in midi_folder.glob('*.mid'): total += found(*rendered(Score.read(f), rng, qualities.split()))
    assert total[2] > 5000
    assert total[0]/total[2] > exact and total[1]/total[2] > triad, total

def test_the_measure_can_fail(midi_folder):
    score,labels = rendered(Score.read(min(midi_folder.glob('*.mid'))), np.random.default_rng(0), ['maj'])
    right,_,asked = found(score, labels)
    assert right > .7*asked
    assert found(score, (labels-1 + 14)%168 + 1)[0] < .1*asked
