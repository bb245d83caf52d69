"""Write the Bach chorales and string quartets that come with music21 as a folder of MIDI files

music21 is under the BSD licence. Its corpus is handed out with the permission of the encoders; the music itself is long
out of copyright, but some encodings forbid commercial use (see corpus/license.txt in the package). Good for a demo
and for tests; look at each encoding before you publish a model trained on it.
"""
import os, re, signal, sys, warnings
from concurrent.futures import ProcessPoolExecutor, as_completed
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from zlib import crc32
import numpy as np
from fastcore.script import call_parse
from tqdm import tqdm
from meloformer.music.score import METER, NOTE, TEMPO, Score, Track, columns

WORKS = 'bach/bwv*.mxl haydn/opus*/*.mxl mozart/k80/*.mxl mozart/k15?/*.mxl mozart/k458/*.mxl beethoven/opus18*.mxl beethoven/opus18*/*.mxl'.split()
# a piece for piano, and encodings with bars that are longer than their meter
NOT_WORKS = set('bach-bwv846 bach-bwv119.9 bach-bwv324 haydn-opus1no1-movement3 haydn-opus1no1-movement4 haydn-opus1no1-movement5 '
                'haydn-opus74no1-movement3 mozart-k458-movement4 beethoven-opus18no1-movement1'.split())
TPQ = 480

# General MIDI programs for soprano, alto, tenor and bass
STRINGS,WINDS,BRASS,CHOIR = (40,40,41,42),(73,68,71,70),(56,60,57,58),(52,52,52,52)
VOICES = ('soprano', 'alto', 'tenor', 'bass')
INSTRUMENTS = {r'cello': 42, r'viola': 41, r'violin': 40, r'continuo': 43, r'organ': 19, r'da caccia': 69, r'oboe': 68,
               r'recorder': 74, r'flute': 73, r'horn': 60, r'trumpet|cornet': 56, r'timpani': 47}

def works():
    "Name and path of every work, in a fixed order"
    spec = find_spec('music21')
    if not spec: sys.exit("The demo corpus comes with music21, which is not installed: pip install -e '.[demo]'")
    root = Path(spec.origin).parent/'corpus'
    res = {'-'.join(p.relative_to(root).with_suffix('').parts): p for o in WORKS for p in sorted(root.glob(o))}
    return {k: v for k,v in res.items() if k not in NOT_WORKS}

def programs(names, work):
    "A General MIDI program for each part: chorales by voice, in an ensemble chosen by the work's name"
    names = [o.lower() for o in names]
    voice = [next((i for i,v in enumerate(VOICES) if o.startswith(v)), None) for o in names]
    choir = any(v is None for v in voice) # singers, where instruments play along
    ensemble = CHOIR if choir else (STRINGS, STRINGS, WINDS, BRASS)[crc32(work.encode())%4]
    def _program(name, v):
        if v is not None: return ensemble[v]
        for k,p in INSTRUMENTS.items():
            if re.search(k, name): return p
        raise ValueError(f'has a part named {name!r}, for which no instrument is known')
    return [_program(o, v) for o,v in zip(names, voice)]

def meter(quarters):
    "Numerator and denominator, 4 at least, of a bar so many quarter notes long"
    f = Fraction(quarters)/4
    den = max(4, f.denominator)
    if den not in (4, 8, 16, 32, 64): raise ValueError(f'has a bar of {float(quarters):.3f} quarter notes')
    return int(f*den), den

def bars(part):
    "Start, length and full length by the time signature of every measure, in quarter notes, and that time signature"
    ms = list(part.getElementsByClass('Measure'))
    starts = [Fraction(m.offset).limit_denominator(96) for m in ms]
    lengths = [b-a for a,b in zip(starts, starts[1:])] + [Fraction(ms[-1].highestTime).limit_denominator(96)]
    sig,full = (4, 4),Fraction(4)
    for m,start,length in zip(ms, starts, lengths):
        if ts := m.timeSignature: sig,full = (ts.numerator, ts.denominator),Fraction(ts.barDuration.quarterLength)
        yield start, length, full, sig

def meters(part):
    "Meter changes that make every bar a true one: a pickup is a short first bar, what a repeat sign cuts in two is one bar"
    res,left = [],0 # `left`: what the bar that was begun still lacks
    todo = [o for o in bars(part) if o[1]]
    for i,(start,length,full,sig) in enumerate(todo):
        if length > full: raise ValueError(f'has a bar of {float(length):.3f} quarter notes in {sig[0]}/{sig[1]}')
        after = todo[i+1] if i+1 < len(todo) else None
        if left: left = 0
        elif after and length < full and i and length+after[1]==full and after[3]==sig:
            left = after[1]
            res.append((start, *sig))
        else: res.append((start, *(sig if length==full or not after else meter(length))))
    return columns(METER, onset=ticks([o for o,_,_ in res]), numerator=[o for _,o,_ in res], denominator=[o for _,_,o in res])

def ticks(quarters): return np.array([round(o*TPQ) for o in quarters], dtype=int)

def part_notes(part):
    "Onset, end, pitch and velocity of every note of a part, in ticks; tied notes are one"
    res,tied,velocity = [],{},80
    for el in part.flatten().getElementsByClass(['Dynamic', 'NotRest']):
        if 'Dynamic' in el.classes: velocity = int(np.clip(127*el.volumeScalar, 20, 120))
        if not getattr(el, 'pitches', None) or el.duration.isGrace: continue
        onset,end = ticks([el.offset, el.offset+el.duration.quarterLength]).tolist()
        for n in getattr(el, 'notes', [el]):
            pitch,tie = n.pitch.midi,n.tie.type if n.tie else ''
            before = tied.pop(pitch, None)
            if before and tie in ('stop', 'continue') and before[1]==onset: before[1],note = end,before
            else: res.append(note := [onset, end, pitch, velocity])
            if tie in ('start', 'continue'): tied[pitch] = note
    return [o for o in res if o[1] > o[0] and 0 <= o[2] <= 127]

def tempos(stream, default):
    "Metronome marks; `default` quarter notes a minute until the first"
    marks = [(o.getOffsetInHierarchy(stream), o.getQuarterBPM()) for o in stream.recurse().getElementsByClass('MetronomeMark')]
    marks = sorted({o: bpm for o,bpm in marks if bpm}.items())
    if not marks or marks[0][0] > 0: marks = [(0, default), *marks]
    return columns(TEMPO, onset=ticks([o for o,_ in marks]), bpm=[float(o) for _,o in marks])

def to_score(stream, work):
    "A music21 score as ours"
    parts = [p for p in stream.parts if p.recurse().notes]
    if len(parts) < 2: raise ValueError('has fewer than two voices')
    names = [re.sub(r'\s+', ' ', p.partName or '') for p in parts]
    rows = [[(onset, end-onset, pitch, vel, i) for onset,end,pitch,vel in part_notes(p)] for i,p in enumerate(parts)]
    notes = np.array([o for r in rows for o in r], dtype=NOTE)
    tracks = [Track(program=p, name=n) for p,n in zip(programs(names, work), names)]
    return Score(TPQ, notes, tracks, tempos(stream, 90 if work.startswith('bach') else 112), meters(parts[0]))

def convert(work, src, dest):
    "Write one work; the reason where that fails"
    from music21 import converter
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore') # a few bars of the encodings are too full
            stream = converter.parse(src, forceSource=True, storePickle=False)
        to_score(stream, work).write(dest)
    except OSError: raise
    except Exception as e: return f'{type(e).__name__}: {e}'

def write_corpus(out, n_works=None, n_workers=2, names=None):
    "Write the works that `out` lacks, the first ones or those of some names; a dict of those that failed, with the reason"
    out = Path(out)
    todo = {k: (v, out/f'{k}.mid') for k,v in list(works().items())[:n_works] if not names or k in names}
    todo = {k: v for k,v in todo.items() if not v[1].exists()}
    todo = dict(sorted(todo.items(), key=lambda o: -o[1][0].stat().st_size)) # the long ones first: no process idles at the end
    failed = {}
    if not todo: return failed
    out.mkdir(parents=True, exist_ok=True)
    ex = ProcessPoolExecutor(n_workers, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN))
    try:
        jobs = {ex.submit(convert, k, *v): k for k,v in todo.items()}
        for j in tqdm(as_completed(jobs), 'works', len(jobs), disable=None, unit='file', leave=False):
            if reason := j.result(): failed[jobs[j]] = reason
    finally: ex.shutdown(cancel_futures=True)
    return failed

@call_parse
def main(
    out: str = 'demo/midi', # Folder for the MIDI files
    n_works: int = None,    # Only the first so many works (default: all)
    n_workers: int = min(4, os.cpu_count()) # Processes
):
    "Write the Bach chorales and string quartets that come with music21 as MIDI files; those already there are kept"
    out = Path(out)
    before = len(list(out.glob('*.mid')))
    try: failed = write_corpus(out, n_works, n_workers)
    except KeyboardInterrupt:
        print(f'Stopped. The {len(list(out.glob("*.mid")))} files in {out} are whole; run this again to go on.', file=sys.stderr)
        sys.exit(130)
    except OSError as e: sys.exit(f'{e.filename or out}: {e.strerror}')
    n = len(list(out.glob('*.mid')))
    for k,v in failed.items(): print(f'left out {k}: {v}', file=sys.stderr)
    print(f'{out}: {n} works, {before} of them from before, {len(failed)} left out')
    if not n: sys.exit('No work could be written.')
