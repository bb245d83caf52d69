"""Chords for melodies, beside the chords that people wrote

    python benchmarks/harmonise.py OPENEWLD [--nottingham DIR] [--pop909_cl DIR --pop909_aligned DIR]
    python benchmarks/harmonise.py OPENEWLD --count_only

`--count_only` prints the tables of `meloformer.music.harmony`, counted in the lead sheets with even numbers (in the order of their names); those with odd numbers are asked about. The folders hold
MusicXML lead sheets of OpenEWLD, the folk tunes of Nottingham (a melody and a chord track), and POP909-CL with the same songs as pop909_aligned, which knows the melody's track. From each set so
many melodies are taken evenly. Counted, with a 95 % interval from 2,000 draws of melodies: how much of the time that is sung lies in the new chords, beside the same chords shuffled and the chords of people; in how many half bars (bars
where they do not part) root, and major or minor, agree with people, beside shuffled chords and the tonic held throughout. `--gaps` looks for every other four bars, without and with the chords of people all around them."""
import sys
from pathlib import Path
import numpy as np
from fastcore.script import call_parse
from meloformer.music.chords import *
from meloformer.music.bands import read_sheet
from meloformer.music.harmony import *
from meloformer.music.score import *
from report import report

CLASS = {'6':'maj', 'maj7':'maj', '5':'maj', 'sus4':'maj', 'sus2':'maj', 'aug':'maj', 'min7':'min', 'min6':'min', 'dim7':'dim', 'hdim7':'dim'}
def root_class(label): return (label-1)//14,CLASS.get(q := list(QUALITIES)[(label-1)%14], q)

def state(label, tonic, mode):
    "Which of `STATES` a chord is, or the nearest with its root; None"
    r,q = root_class(label)
    own = {root_class(int(l)): i for i,l in enumerate(STATES[mode])}
    near = {'maj': ('maj','7'), '7': ('7','maj'), 'min': ('min',), 'dim': ('dim','min')}[q]
    return next((own[(r-tonic)%12, o] for o in near if ((r-tonic)%12, o) in own), None)

def of_slots(slots, chords):
    "Label of each slot: what sounds in its beginning; 0 before the first"
    on,label = np.array([(-1, 0), *chords]).T
    return label[np.searchsorted(on, slots['onset']+slots['length']//4, 'right')-1]

def read_sheets(folder):
    "(name, melody, chords) of the lead sheets, repeats played"
    res = []
    for f in sorted(Path(folder).rglob('*.mxl')):
        try: s = read_sheet(f)
        except ValueError as e: print(f'left out: {e}', file=sys.stderr)
        else: res.append((f.stem, s, [(t, LABELS.index(c)) for t,c in s.chords]))
    return res

def count(songs):
    "The tables of `harmony`"
    tables = [{k: np.zeros(s) for k,s in dict(moves=(len(o), len(o)), sung=(len(o), 12), first=len(o), last=len(o)).items()} for o in STATES]
    stay = np.zeros((2, 2))
    for _,score,chords in songs:
        tonic,q = root_class(chords[-1][1])
        mode,slots = int(q=='min'),chord_slots(score.bars(), score.tpq)
        t,classes = tables[mode],np.roll(sung_classes(score.notes, slots, score.tpq), -tonic, 1)
        own = [state(l, tonic, mode) if l else None for l in of_slots(slots, chords).tolist()]
        for i,b in enumerate(own):
            if b is None: continue
            t['sung'][b] += classes[i]
            if i and (a := own[i-1]) is not None:
                stay[int(slots['half'][i])] += a!=b,1
                t['moves'][a, b] += a!=b
        known = [o for o in own if o is not None]
        if known: t['first'][known[0]] += 1; t['last'][known[-1]] += 1
    return tables,1-stay[:, 0]/stay[:, 1]

def printed(tables, stay):
    "As the room has them"
    mille = lambda x: ' '.join(map(str, np.round(1000*x/max(1, x.sum())).astype(int)))
    rows = lambda m: "\n".join(map(mille, m))
    each = [f"""dict(
    moves=_table('''{rows(t['moves'])}'''),
    sung=_table('''{rows(t['sung'])}'''),
    first=_table('{mille(t['first'])}')[0], last=_table('{mille(t['last'])}')[0])""" for t in tables]
    return f"def _table(text): return np.array([o.split() for o in text.splitlines()], float)\n\nFLOOR = 5.,25. # per mille; there are few songs in minor\nSTAY = {stay[0]:.3f},{stay[1]:.3f} # Probability that a chord goes on at a bar line, and within a bar\nMAJOR = {each[0]}\n\nMINOR = {each[1]}\nTABLES = [MAJOR, MINOR]"

def read_nottingham(folder, step=12):
    "(name, melody, chords) of each `step`th tune"
    for f in sorted(Path(folder).rglob('*.mid'))[::step]:
        s = Score.read(f)
        if len(s.tracks)!=2: continue
        first = np.diff(np.searchsorted(np.sort(s.notes['track']), [0, 1, 2]))
        together = [len(np.unique(s.notes['onset'][s.notes['track']==i]))/max(1, first[i]) for i in (0, 1)]
        tune = int(np.argmax(together))
        yield f.stem,only(s, tune),blocks(s.notes[s.notes['track']==1-tune])

def only(score, track):
    "The notes of one track"
    return Score(score.tpq, score.notes[score.notes['track']==track], score.tracks, score.tempos, score.meters)

NAMES = {tones: q for q,tones in QUALITIES.items() if q not in ('6','min6')} | {(0,3,7,11): 'min', (0,4,8,10): '7'}
def blocks(notes):
    "(tick, label) of block chords; 0 what cannot be named"
    res = []
    for t in np.unique(notes['onset']):
        p = notes['pitch'][notes['onset']==t].astype(int)
        found = [(r!=p.min()%12, q in ('sus2','sus4'), r, q) for r in set((p%12).tolist()) if (q := NAMES.get(tuple(sorted(set(((p-r)%12).tolist())))))]
        res.append((int(t), LABELS.index(f'{ROOTS[min(found)[2]]}:{min(found)[3]}') if found else 0))
    return res

def read_pop(corrected, aligned, step=4):
    "(name, melody, corrected chords) of those of each `step`th song whose melody is found in both sets, note for note"
    for f in sorted(Path(corrected).rglob('*.mid'))[::step]:
        g = Path(aligned)/'midi'/f.name
        if not g.exists(): continue
        s,a = Score.read(f),Score.read(g)
        if len(s.tracks)!=2 or not any(t.name=='MELODY' for t in a.tracks): continue
        m = a.notes[a.notes['track']==[t.name for t in a.tracks].index('MELODY')]
        where = lambda n,tpq: list(zip(np.round(n['onset']/tpq*4).astype(int).tolist(), n['pitch'].tolist()))
        music = s.notes[s.notes['track']==0]
        tune = set(where(m, a.tpq))
        inside = np.array([o in tune for o in where(music, s.tpq)])
        if inside.sum()>=.95*len(m): yield f.stem,Score(s.tpq, music[inside], s.tracks, s.tempos, s.meters),blocks(s.notes[s.notes['track']==1])

def in_chords(classes, labels):
    "Sung in the chords, and in all; of slots with a chord"
    ok = labels>0
    return (classes*CHORD_TONES[labels])[ok].sum(),classes[ok].sum()

IS_MINOR = np.array([False]+[q in ('min','min7','min6','dim','dim7','hdim7') for _ in range(12) for q in QUALITIES])
def agree(labels, human):
    "Slots with the same root, with the same root and third, and asked"
    ok = human>0
    root = (labels>0) & ((labels-1)//14==(human-1)//14) & ok
    return root.sum(),(root & (IS_MINOR[labels]==IS_MINOR[human])).sum(),ok.sum()

GAP = 4 # bars
def in_gaps(score, bars, slots, own, human, seed, w):
    "In every other four bars: chords that are found as if there were none, and with those of people all around; N elsewhere"
    inside,around = slots['bar']//GAP%2==1,np.zeros_like(human)
    for g in np.unique(slots['bar'][inside]//GAP):
        here = slots['bar']//GAP==g
        rows,_ = harmonise(score.notes, bars, score.tpq, seed, given=np.where(here, 0, human), w=w)
        around[here] = of_slots(slots, rows[['onset','label']].tolist())[here]
    return dict(gap=own*inside, gap_around=around)

def measure(name, score, chords, rng, seed=0, gaps=False, w=HarmonyWeights()):
    "One melody: counts of each way"
    bars = score.bars()
    slots,plain = chord_slots(bars, score.tpq),HarmonyWeights(long=0, strong=1)
    rows,key = harmonise(score.notes, bars, score.tpq, seed, w=w)
    human = of_slots(slots, chords)
    own = of_slots(slots, rows[['onset','label']].tolist())
    home = np.full(len(slots), parse_chord(ROOTS[key%12]+'m'*(key//12)))
    ways = dict(new=own, shuffled=rng.permutation(own), tonic=home, people=human)
    if gaps: ways |= in_gaps(score, bars, slots, own, human, seed, w)
    if seed==0: ways['people_shuffled'] = rng.permutation(human)
    classes = sung_classes(score.notes, slots, score.tpq, plain)
    last = human[human>0][-1] if (human>0).any() else 0
    right = bool(last) and root_class(int(last))[0]==key%12
    asked = lambda k: human*(slots['bar']//GAP%2==1) if k.startswith('gap') else human
    return dict(name=name, key=right, **{k: [*map(float, in_chords(classes, v)), *map(int, agree(v, asked(k)))] for k,v in ways.items()})

def interval(rows, way, hit, of, rng):
    "Share over all melodies, and the 95 % interval of draws of melodies"
    x = np.array([[r[way][hit], r[way][of]] for r in rows])
    draws = x[rng.integers(len(x), size=(2000, len(x)))].sum(1)
    lo,hi = np.percentile(draws[:, 0]/draws[:, 1], [2.5, 97.5])
    return [round(float(v), 3) for v in (x[:, 0].sum()/x[:, 1].sum(), lo, hi)]

def gain(rows, way, other, hit, of, rng):
    "How much more one way has than another, and the 95 % interval of draws of melodies"
    x = np.array([[r[way][hit], r[other][hit], r[way][of]] for r in rows])
    draws = x[rng.integers(len(x), size=(2000, len(x)))].sum(1)
    each = lambda x: (x[..., 0]-x[..., 1])/x[..., 2]
    return [round(float(v), 3) for v in (each(x.sum(0)), *np.percentile(each(draws), [2.5, 97.5]))]

def summary(rows):
    rng = np.random.default_rng(0)
    res = dict(melodies=len({r['name'] for r in rows}), answers=len(rows), slots=sum(r['new'][4] for r in rows), last_root_is_tonic=round(float(np.mean([r['key'] for r in rows])), 3))
    for way in rows[0]:
        if way in ('name','key') or any(way not in r for r in rows): continue
        res[way] = dict(sung_in_chords=interval(rows, way, 0, 1, rng)) | ({} if way=='people' else dict(root=interval(rows, way, 2, 4, rng), majmin=interval(rows, way, 3, 4, rng)))
    if 'gap' in rows[0]: res['gap_gain'] = gain(rows, 'gap_around', 'gap', 3, 4, rng)
    return res

def table(res):
    print('| set, seed | way | sung in the chords | root | major/minor |\n|---|---|---|---|---|')
    for name,s in res.items():
        for way,v in s.items():
            if isinstance(v, dict): print(f'| {name} | {way} |', ' | '.join('{:.3f} ({:.3f}–{:.3f})'.format(*v[k]) if k in v else '' for k in ('sung_in_chords','root','majmin')), '|')

def some(songs, n):
    "`n` of them, evenly spread"
    return [songs[(2*i+1)*len(songs)//(2*n)] for i in range(min(n, len(songs)))]

@call_parse
def main(
    openewld: str,            # Folder of MusicXML lead sheets
    nottingham: str = '',
    pop909_cl: str = '',
    pop909_aligned: str = '',
    melodies: int = 30,       # Of each set
    seeds: int = 2,           # 0 is the best progression, the others are drawn
    gaps: bool = False,       # Find chords of four bars with those of people around them, too
    count_only: bool = False  # Print the tables and measure nothing
):
    "Count, or compare with people"
    songs = read_sheets(openewld)
    if count_only: return print(printed(*count(songs[::2])))
    sets = dict(openewld=songs[1::2])
    if nottingham: sets['nottingham'] = list(read_nottingham(nottingham))
    if pop909_cl: sets['pop909_cl'] = list(read_pop(pop909_cl, pop909_aligned))
    rng,res,kept = np.random.default_rng(0),{},[]
    for name,own in sets.items():
        print(f'{name}: {len(own)} melodies, of which {min(melodies, len(own))} are asked about')
        for seed in range(seeds):
            rows = [measure(*o, rng, seed, gaps) for o in some(own, melodies)]
            res[f'{name}, seed {seed}'] = summary(rows)
            kept += [dict(set=name, seed=seed)|r for r in rows]
    table(res)
    report('harmonise', command='python benchmarks/harmonise.py OPENEWLD --nottingham DIR --pop909_cl DIR --pop909_aligned DIR', summary=res, rows=kept)
