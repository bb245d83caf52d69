"""How much of a recording is heard: notes, beats, bars

    python benchmarks/transcribe.py CORPUS KEEP [--unseen SOUNDFONT]
    python benchmarks/transcribe.py CORPUS KEEP --piano [--unseen SOUNDFONT]
    python benchmarks/transcribe.py CORPUS KEEP --fit

CORPUS is a prepared corpus whose MIDI files are still there. The beginning of its validation pieces is played by FluidSynth, of quartets, orchestras and games also something out of the middle, from anywhere in a bar, and
heard; what was heard is kept in the folder KEEP, so that the next time it need not be. Reported for each kind of music, with intervals of 95 % over pieces: F1 of onsets (50 ms, pitch right), of onsets and ends, tempo
right (within 4 %), meter right, F of bar lines (70 ms), and the share of found notes that stand on their position of the bar, with found and with true beats. `--piano` reports that of pianos alone, each heard as all else is and, in the same run, by Transkun. `--fit` prints what `COUNTS` and `WEIGHTS` should be, by excerpts of training pieces: the
first --rendered of them are played and heard, of 450 the notes are blurred in imitation of that, which costs far less."""
import json, random, subprocess, tempfile, time
from collections import Counter, defaultdict
from pathlib import Path
import mir_eval, numpy as np, soundfile
from fastcore.script import call_parse
from tqdm.auto import tqdm
from meloformer.music.hearing import LATE, Posteriorgram, candidates, judged, listen, notes_in, piano_notes
from meloformer.music.beats import FPS, HEARD, Beats, bpm_of, evidence, features, find_beats, on_bars, pulse, quarters_of, readings, salience, snapped, steadied
from meloformer.music.score import Score, columns
from meloformer.music.sound import find_soundfont
from meloformer.tokens.edit import bar_count, cut
from report import report

PLACES = dict(quartets=(0, .4), orchestra=(0, .4), game=(0, .4)) # where excerpts begin, as a share of the piece; others where it begins

def jobs(corpus, split, most, seed=1):
    "(set, file, where) of the excerpts"
    rows = [r for r in map(json.loads, open(Path(corpus)/'files.jsonl')) if r.get('split')==split]
    by,rng = defaultdict(list),random.Random(seed)
    for r in rows: by[r['set']].append(r['path'])
    res = [(k, f, at) for k,fs in sorted(by.items()) if k!='groove' for f in rng.sample(fs, min(most*(1+2*(k=='mutopia')), len(fs))) for at in (PLACES.get(k, (0,)) if split=='val' else (.3,))]
    rng.shuffle(res)
    return res

def excerpt(path, at, seconds):
    "So many seconds of a piece"
    s = Score.read(path)
    bars = s.bars()
    t,a = s.seconds(bars['onset']),int(at*len(bars))
    return cut(s, a, min(int(np.searchsorted(t, t[a]+seconds)), bar_count(s)))

def hear(score, soundfont=None, ear=listen):
    "What is heard of a score, and how many seconds of processor it took for each second"
    with tempfile.TemporaryDirectory() as tmp:
        sound = score.audio(soundfont, 44100)
        sound.samples = sound.samples[:int(44100*(float(score.seconds(score.end))+1))]
        sound.save(Path(tmp)/'a.wav')
        start = time.process_time()
        p = ear(Path(tmp)/'a.wav')
        return p,(time.process_time()-start)/sound.seconds

def facts(score):
    "What there is to be found"
    n,b = score.notes,score.bars()
    drum,program = (np.array([getattr(t, k) for t in score.tracks])[n['track']] for k in ('is_drum','program'))
    ends = score.seconds(np.append(b['onset'], b['onset'][-1]+b['length'][-1]))
    return dict(on=score.seconds(n['onset']), off=score.seconds(n['onset'].astype(int)+n['duration']), pitch=n['pitch'], drum=drum, prog=program, bars=ends, num=b['numerator'], den=b['denominator'],
        ontick=n['onset']/score.tpq, barq=b['onset']/score.tpq, bpm=60*b['length']/score.tpq/np.diff(ends))

def later(d, seconds):
    "An excerpt that begins so much later, wherever that is in its bar"
    k,own = int(seconds*FPS),d['on']>=seconds-.02
    res = d|{o: d[o][own] for o in ('on','off','pitch','drum','prog','ontick')}|{o: d[o][k:] for o in 'PF' if o in d}
    return res|dict(on=np.maximum(res['on']-k/FPS, 0), off=res['off']-k/FPS, bars=res['bars']-k/FPS)

def kept(corpus, keep, split, most, seconds, first=None, soundfont=None):
    "Excerpts as they were heard, from the folder or made anew; those out of the middle of a piece begin anywhere in a bar"
    keep = Path(keep)/split
    keep.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for i,(kind,path,at) in enumerate(tqdm(jobs(corpus, split, most)[:first])):
        f = keep/f'{i:04}_{kind}.npz'
        if not f.exists():
            s = excerpt(path, at, seconds)
            p,cost = hear(s, soundfont)
            np.savez_compressed(f, P=np.stack([p.struck, p.sounds], -1), F=p.flux, cost=cost, name=Path(path).name, **facts(s))
        d,late = dict(np.load(f)),rng.uniform(0, 3)
        yield kind,later(d, late) if at else d

def heard(d): return Posteriorgram(d['P'][..., 0], d['P'][..., 1], d['F'])

def overlap(a, b, reach=.07):
    "F of two ascending lists of seconds"
    i = j = hits = 0
    while i<len(a) and j<len(b):
        if abs(b[j]-a[i])<=reach: hits,i,j = hits+1,i+1,j+1
        elif b[j]<a[i]: j += 1
        else: i += 1
    return 2*hits/max(1, len(a)+len(b))

def lines(d): return d['bars'][:-1][d['bars'][:-1]>-.05]

def truth(d): return float(np.median(d['bpm'])),Counter(zip(d['num'].tolist(), d['den'].tolist())).most_common(1)[0][0]

def melodic(d):
    "Spans and pitches of all but drums, each key once"
    own = np.flatnonzero(~d['drum'])
    _,first = np.unique(np.stack([np.rint(1000*d['on'][own]), d['pitch'][own]]), axis=1, return_index=True)
    own = np.sort(own[first])
    return np.stack([d['on'][own], np.maximum(d['off'][own], d['on'][own]+.01)], 1),d['pitch'][own].astype(float),own

def hz(p): return 440*2**((np.asarray(p, float)-69)/12)

def f1(d, notes, **kw):
    spans,pitch,_ = melodic(d)
    return mir_eval.transcription.precision_recall_f1_overlap(spans, hz(pitch), np.stack([notes['onset'], notes['end']], 1), hz(notes['pitch']), **kw)[2]

def in_place(d, notes, beats):
    "Share of found notes that stand on their position of the bar"
    s,(spans,pitch,own) = snapped(on_bars(notes, beats)),melodic(d)
    at = s.seconds(s.notes['onset'])+min(beats.at[0], s.seconds(0)+beats.at[0])
    pairs = mir_eval.transcription.match_notes(spans, hz(pitch), np.stack([at, at+.1], 1), hz(s.notes['pitch']), onset_tolerance=.1, offset_ratio=None)
    if not pairs: return 0.
    i,j = np.array(pairs).T
    b = s.bars()
    k = np.searchsorted(b['onset'], s.notes['onset'][j], 'right')-1
    found = (s.notes['onset'][j]-b['onset'][k]+np.where(k==0, max(0, int(b['length'].max()-b['length'][0])), 0))/s.tpq
    q = d['ontick'][own][i]
    k,length = np.searchsorted(d['barq'], q+1e-6, 'right')-1,np.diff(d['barq'])
    real = q-d['barq'][k]+np.where(k==0, max(0, length.max()-length[0]), 0)
    return float((np.abs(found-real)<1/23).mean())

def true_beats(d):
    "The beats that the file has: quarters, as far as bars have whole ones"
    quarter = np.interp(np.arange(int(d['barq'][-1])+1), np.append(d['barq'], 2*d['barq'][-1]-d['barq'][-2]), d['bars'])
    number = np.arange(len(quarter))-d['barq'][np.searchsorted(d['barq'], np.arange(len(quarter))+1e-6, 'right')-1]+1
    number = np.maximum(1, number.astype(int))
    return Beats(quarter, number, f'{number.max()}/4')

def measure(d, notes=None):
    "All figures of one excerpt, of `notes` if they were heard in another way"
    start = time.process_time()
    rough = notes_in(heard(d))
    if notes is None: notes = rough
    beats = find_beats(rough, d['F'].astype(float))
    cost = float(d['cost'])+(time.process_time()-start)/float(d['bars'][-1])
    bpm,meter = truth(d)
    named = f'{meter[0]}/{meter[1]}'
    return dict(onset=f1(d, notes, offset_ratio=None), onset_and_end=f1(d, notes), tempo=abs(beats.tempo/bpm-1)<.04, tempo_or_octave=min(abs(beats.tempo*k/bpm-1) for k in (.5, 1, 2))<.04,
        meter=beats.meter in (named, {'2/2': '4/4'}.get(named)), bar_lines=overlap(lines(d), np.maximum(beats.bars, -.05)), in_place=in_place(d, notes, beats),
        in_place_true_beats=in_place(d, notes, true_beats(d)), sure=beats.sure['tempo'], cost=cost)

def summary(rows, rng):
    "Means, and the intervals that hold 95 % of means of pieces drawn again"
    res = dict(excerpts=len(rows))
    for k in rows[0]:
        x = np.array([r[k] for r in rows], float)
        means = rng.choice(x, (1000, len(x))).mean(1)
        res[k] = [round(float(o), 3) for o in (x.mean(), *np.quantile(means, (.025, .975)))]
    return res

def kind_of(kind, d):
    "Piano alone is a kind of its own, and what bands play is one"
    if kind=='mutopia': return 'piano' if d['prog'].max()<8 and not d['drum'].any() else 'mutopia, others'
    return kind.partition('_')[0]

def right(d, key, span):
    "Which candidates are notes of the file, each of these once, the likelier first"
    at,real,used = span[:, 0]/FPS-LATE,defaultdict(list),set()
    spans,pitch,_ = melodic(d)
    for t,p in zip(spans[:, 0], pitch): real[int(p)-21].append(t)
    res = np.zeros(len(key))
    for i in np.argsort(-d['P'][span[:, 0], key, 0].astype(int), kind='stable'):
        near = [t for t in real[key[i]] if abs(t-at[i])<=.05 and (key[i], t) not in used]
        if near:
            used.add((key[i], min(near, key=lambda t: abs(t-at[i]))))
            res[i] = 1
    return res

def fit_notes(pieces, ridge=1e-3):
    "`COUNTS`: a logistic regression in which each piece weighs the same"
    X,y,w = [],[],[]
    for _,d in pieces:
        p = heard(d)
        key,span = candidates(p)
        if (~d['drum']).sum()<20 or not len(key): continue
        X.append(judged(p, key, span)); y.append(right(d, key, span)); w.append(np.full(len(key), 500/len(key)))
    X,y,w = map(np.concatenate, (X, y, w))
    mean,size = X.mean(0),X.std(0)+1e-6
    Z,c = np.c_[(X-mean)/size, np.ones(len(X))],np.zeros(X.shape[1]+1)
    for _ in range(25):
        q = 1/(1+np.exp(-Z@c))
        c -= np.linalg.solve((Z*(w*q*(1-q))[:, None]).T@Z+ridge*len(y)*np.eye(len(c)), Z.T@(w*(q-y))+ridge*len(y)*c)
    return np.append(c[:-1]/size, c[-1]-(c[:-1]/size)@mean)

def imitated(d, rng):
    "Notes and flux as they might be heard of a piece: chords lose notes, overtones join, and nothing is quite in time"
    spans,pitch,_ = melodic(d)
    on,end = spans.T
    stays = rng.random(len(on))>np.clip([.08*(np.abs(on-t)<.03).sum() for t in on], .05, .5)
    on,end,pitch = on[stays]+rng.normal(0, .012, stays.sum()),end[stays]+rng.normal(0, .1, stays.sum()),pitch[stays]
    over = rng.random(len(on))<.2
    on,end = np.append(on, on[over]+rng.normal(0, .01, over.sum())),np.append(end, end[over])
    pitch = np.append(pitch, np.minimum(pitch[over]+rng.choice([7, 12, 19, 24], over.sum()), 108))
    on = np.rint(FPS*np.maximum(on, 0))/FPS
    notes = columns(HEARD, onset=on, end=np.maximum(end, on+.05), pitch=pitch, velocity=np.clip(rng.normal(60, 15, len(on)), 20, 120))
    flux,at = np.zeros((int(FPS*(d['off'].max()+1)), 3)),np.maximum(np.rint(FPS*d['on']).astype(int), 0)
    kit = np.where(np.isin(d['pitch'], (35, 36)), 0, np.where(np.isin(d['pitch'], (38, 40, 41, 43, 45)), 1, 2))
    np.add.at(flux, (at, np.where(d['drum'], kit, np.digitize(d['pitch'], [48, 72]))), 1.)
    flux = 20*np.sqrt(flux@np.array([[1, .5, .2], [.1, 1, .5], [0, .3, 1]]))
    return notes[np.lexsort((pitch, on))],flux+rng.gamma(2, 1, flux.shape)

def imitations(corpus, seconds, first=300, middle=150):
    "Training pieces as they might be heard: some from their beginning, others out of the middle"
    rng = np.random.default_rng(1)
    for i,(_,path,_) in enumerate(tqdm(jobs(corpus, 'train', 50)[:first+middle])):
        d = facts(excerpt(path, 0 if i<first else .3, seconds))
        if i>=first: d = later(d, rng.uniform(0, 3))
        if (~d['drum']).sum()>20: yield d,*imitated(d, rng)

def choices(d, notes, flux):
    "The readings of a piece: features, shape (readings, n), and which of them are right"
    beats = steadied(pulse(salience(notes, flux)))
    e,rs,bpm = evidence(beats, notes, flux),readings(beats),truth(d)[0]
    X = np.stack([features(r, e, bpm_of(beats, r.cells)) for r in rs])
    found = [quarters_of(beats, r, notes).bars for r in rs]
    good = np.array([.4*(abs(bpm_of(beats, r.cells)/bpm-1)<.04)+.6*overlap(lines(d), np.maximum(o, -.05)) for r,o in zip(rs, found)])
    return X,good>=good.max()-.03,good.max()

def fit_beats(pieces, ridge=.3, steps=400):
    "`WEIGHTS`: the likelihood of right readings, by Adam"
    each = [choices(*o) for o in pieces]
    X = np.concatenate([o[0] for o in each])
    mean,size = X.mean(0),X.std(0)+1e-6
    each = [((x-mean)/size, good) for x,good,most in each if most>.6]
    w,m,v = np.zeros((3, X.shape[1]))
    for k in range(1, steps+1):
        g = -3*ridge*w/len(each)
        for z,good in each:
            p = np.exp(z@w-(z@w).max())
            p /= p.sum()
            g = g+(p*good/max((p*good).sum(), 1e-12)-p)@z/len(each)
        m,v = .9*m+.1*g,.99*v+.01*g*g
        w = w+.03*(m/(1-.9**k))/(np.sqrt(v/(1-.99**k))+1e-8)
    return w/size

def fitted(corpus, pieces, seconds):
    "Print what was fitted; for beats what was heard counts three times"
    print('COUNTS =', np.round(fit_notes(pieces), 2).tolist(), flush=True)
    own = [(d, notes_in(heard(d)), d['F'].astype(float)) for _,d in pieces if (~d['drum']).sum()>20]
    print('WEIGHTS =', np.round(fit_beats(3*own+list(imitations(corpus, seconds))), 2).tolist())

def summaries(pieces):
    "Rows of the table"
    by,rng = defaultdict(list),np.random.default_rng(0)
    for kind,d in pieces:
        if (~d['drum']).sum()>20: by[kind_of(kind, d)].append(measure(d))
    rows = {k: summary(v, rng) for k,v in sorted(by.items())}
    rows['all'] = summary(sum(by.values(), []), rng)
    rows['all but piano'] = summary(sum((v for k,v in by.items() if k!='piano'), []), rng)
    return [dict(kind=k, **v) for k,v in rows.items()]

def pianos(corpus, most, seconds, soundfont=None):
    "Rows of pianos alone, heard in two ways; to what Transkun costs is added what the frames cost in which beats are found"
    by,rng = defaultdict(list),np.random.default_rng(0)
    for kind,path,at in jobs(corpus, 'val', most):
        d = facts(s := excerpt(path, at, seconds))
        if kind_of(kind, d)!='piano': continue
        (p,cost),(notes,more) = hear(s, soundfont),hear(s, soundfont, piano_notes)
        d |= dict(P=np.stack([p.struck, p.sounds], -1), F=p.flux)
        by['basic-pitch'].append(measure(d|dict(cost=cost)))
        by['transkun'].append(measure(d|dict(cost=cost+more), notes))
        print({k: (Path(path).name, v[-1]['onset'], v[-1]['cost']) for k,v in by.items()}, flush=True)
    return [dict(kind='piano', heard_by=k, **summary(v, rng)) for k,v in by.items()]

@call_parse
def main(
    corpus: str,
    keep: str,
    seconds: float = 30, # Of an excerpt
    most: int = 3,       # Pieces of a set, of Mutopia three times as many (training: 50)
    unseen: str = None,  # Soundfont that nothing was fitted to: all is played with it, too
    fit: bool = False,
    piano: bool = False, # Pianos alone, heard by Transkun and as all else is?
    rendered: int = 50   # Excerpts that are played for --fit
):
    if fit: return fitted(corpus, list(kept(corpus, keep, 'train', 50, seconds, rendered)), seconds)
    if piano:
        rows = [dict(soundfont=(f or find_soundfont()).name, **o) for f in (None, *([Path(unseen)] if unseen else ())) for o in pianos(corpus, most, seconds, f)]
        return report('transcribe_piano', ('onnxruntime','scipy','mir_eval','transkun'),
                      command='python benchmarks/transcribe.py CORPUS KEEP --piano'+f' --unseen {Path(unseen).name}'*bool(unseen), rows=rows)
    rows = [dict(soundfont=find_soundfont().name, **o) for o in summaries(kept(corpus, keep, 'val', most, seconds))]
    if unseen: rows += [dict(soundfont=Path(unseen).name, **o) for o in summaries(kept(corpus, Path(keep)/'unseen', 'val', most, seconds, soundfont=unseen))]
    report('transcribe', ('onnxruntime','scipy','mir_eval'), command='python benchmarks/transcribe.py CORPUS KEEP'+f' --unseen {Path(unseen).name}'*bool(unseen), rows=rows)
