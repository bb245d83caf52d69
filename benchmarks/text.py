"""Twenty sentences as music, and the facts in them found again by readers that know nothing of this package

python benchmarks/text.py [--model RUN] [--seed 0]

Each sentence goes through `meloformer text` in a process of its own, with one thread and without a network. What was asked for stands here by hand, not read by the grammar. symusic reads tempo (within 10 %, or within the range of the
word), meter and players (all that were asked for sound, and no others) of each section, and where the last bar ends; music21's key finder (its default, the weights of Aarden and Essen) hears the notes of the section: `key` is exact, `key_near` counts the relative key
and those a fifth away, too."""
import os, re, resource, subprocess, sys, tempfile, time
from pathlib import Path
import music21, symusic
from fastcore.script import call_parse
from report import report

QUARTET,ROCK,JAZZ = [40, 41, 42],[30, 26, 33, 128],[0, 32, 128]
SENTENCES = [ # (text, sections as (bars, tempo or its range, meter, key, programs))
    ('a calm waltz in D minor for flute and harp, 16 bars', [(16, None, '3/4', 'd', [73, 46])]),
    ('92 bpm, 3/4, G major, violin and cello, 12 bars', [(12, 92, '3/4', 'G', [40, 42])]),
    ('an adagio in A minor for string quartet, 8 bars', [(8, (55, 76), None, 'a', QUARTET)]),
    ('rock band in E minor at 140, 8 bars', [(8, 140, None, 'e', ROCK)]),
    ('a jazz trio in Bb major, 120 bpm, in 4/4, 12 bars', [(12, 120, '4/4', 'B-', JAZZ)]),
    ('solo piano in five, C minor, eight bars', [(8, None, '5/4', 'c', [0])]),
    ('a lively jig for fiddle and acoustic guitar in D, 16 bars', [(16, (112, 152), '6/8', 'D', [110, 24])]),
    ('thirty seconds of music box in F major, 3/4 at 90', [(15, 90, '3/4', 'F', [10])]),
    ('very slow, solo cello, F# minor, 8 bars', [(8, (40, 60), None, 'f#', [42])]),
    ('brass quintet, march tempo 112, E flat major, 4/4, 8 bars', [(8, 112, '4/4', 'E-', [56, 60, 57, 58])]),
    ('piano over Am F C G, 100 bpm, 8 bars', [(8, 100, None, None, [0])]),
    ('a polka for tuba and two clarinets in C major, 16 bars', [(16, None, '2/4', 'C', [58, 71])]),
    ('ninety-six bpm, six-eight time, harp in E minor, 12 bars', [(12, 96, '6/8', 'e', [46])]),
    ('pop band without drums, G major, 110 bpm, 8 bars', [(8, 110, None, 'G', [0, 26, 33])]),
    ('organ and choir, largo, D minor, 8 bars', [(8, (40, 60), None, 'd', [16, 52])]),
    ('an AABA song for flute, guitar and bass in A major, 16 bars, 4/4, 120 bpm', [(16, 120, '4/4', 'A', [73, 24, 32])]),
    ('drums and synth bass, 128 bpm, common time, 8 bars', [(8, 128, '4/4', None, [38, 128])]),
    ('a minuet in Bb for oboe and bassoon, 12 bars, moderato', [(12, (96, 120), '3/4', 'B-', [68, 70])]),
    ('a waltz in D minor for flute and harp, 8 bars at 100; then piano and drums in 4/4 at 140, F major', [(8, 100, '3/4', 'd', [73, 46]), (8, 140, '4/4', 'F', [0, 128])]),
    ('in A minor, 4/4: [1-4] violin at 80 bpm [5-12] violin, cello and piano at 120 bpm', [(4, 80, '4/4', 'a', [40]), (8, 120, '4/4', 'a', [40, 42, 0])])]

def last_before(rows, tick): return [o for o in rows if o.time<=tick][-1]

def key_of(notes, tpq):
    "Tonic and mode that music21 hears"
    s = music21.stream.Stream()
    for o in notes: s.insert(o.start/tpq, music21.note.Note(o.pitch, quarterLength=max(o.duration/tpq, .01)))
    return s.analyze('key')

def near(key, want):
    "Is it the key, its relative, or a fifth away?"
    far = (key.tonic.pitchClass-want.tonic.pitchClass)%12
    return far in ((0, 5, 7) if key.mode==want.mode else ((9,) if want.mode=='major' else (3,)))

def found(path, sections):
    "For each fact whether it holds in all sections that ask for it; what was found"
    s,res,seen,at = symusic.Score(path),{},[],0
    def note(k, holds): res[k] = res.get(k, True) and holds
    for bars,tempo,meter,key,programs in sections:
        m = last_before(s.time_signatures, at)
        end = at+bars*4*s.tpq*m.numerator//m.denominator
        inside = {}
        for t in s.tracks: inside.setdefault(128 if t.is_drum else t.program, []).extend(o for o in t.notes if at<=o.start<end)
        bpm,who = last_before(s.tempos, at).qpm,{k for k,v in inside.items() if v}
        if tempo: note('tempo', abs(bpm/tempo-1)<=.1 if isinstance(tempo, int) else tempo[0]*.98<=bpm<=tempo[1]*1.02)
        if meter: note('meter', f'{m.numerator}/{m.denominator}'==meter)
        note('players', who==set(programs))
        heard = key_of([o for k,v in inside.items() if k!=128 for o in v], s.tpq) if key else None
        if key:
            want = music21.key.Key(key)
            note('key', (heard.tonic.pitchClass, heard.mode)==(want.tonic.pitchClass, want.mode))
            note('key_near', near(heard, want))
        seen.append(dict(tempo=round(bpm, 1), meter=f'{m.numerator}/{m.denominator}', key=str(heard) if heard else None, players=sorted(who)))
        at = end
    note('bars', at-4*s.tpq*m.numerator//m.denominator <= max(o.start for t in s.tracks for o in t.notes) < at)
    return res,seen

def run_command(text, path, model, seed):
    "Seconds that the command took, seconds of a processor, and what it said"
    args = [sys.executable, '-m', 'meloformer.apps.cli', 'text', text, '--out', str(path), '--seed', str(seed), *(['--model', model] if model else [])]
    busy = lambda: sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    start,before = time.perf_counter(),busy()
    res = subprocess.run(args, env=os.environ | dict(OMP_NUM_THREADS='1', HF_HUB_OFFLINE='1', CUDA_VISIBLE_DEVICES=''), capture_output=True, text=True)
    if res.returncode: raise SystemExit(f'{text!r}: {res.stderr}')
    return time.perf_counter()-start,busy()-before,res.stdout

@call_parse
def main(
    model: str = None, # A run (default: the model that comes along)
    seed: int = 0
):
    "Write, read, count"
    rows = []
    with tempfile.TemporaryDirectory() as tmp:
        for i,(text,sections) in enumerate(SENTENCES):
            seconds,cpu,said = run_command(text, path := Path(tmp)/f'{i}.mid', model, seed)
            facts,seen = found(path, sections)
            rows.append(dict(text=text, facts=facts, found=seen, seconds=round(seconds, 1), cpu_seconds=round(cpu, 1), said=said.splitlines()[0]))
            print(f'{i+1:2} {seconds:5.1f} s, {cpu:4.1f} of a core', text, {k: v for k,v in facts.items() if not v} or 'all', flush=True)
    of = lambda k: [r['facts'][k] for r in rows if k in r['facts']]
    summary = {k: [sum(of(k)), len(of(k))] for k in ('tempo','meter','players','bars','key','key_near')}
    summary['all'] = [sum(all(v for k,v in r['facts'].items() if k!='key_near') for r in rows), len(rows)]
    report('text', packages=('music21',), command='python benchmarks/text.py', model=model or 'weights', summary=summary, slowest=dict(seconds=max(r['seconds'] for r in rows), cpu_seconds=max(r['cpu_seconds'] for r in rows)),
        failures={r['text']: [k for k,v in r['facts'].items() if not v] for r in rows if not all(r['facts'].values())}, rows=rows)
