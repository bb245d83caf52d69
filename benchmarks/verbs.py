"""The verbs of a composer on real songs

    python benchmarks/verbs.py FOLDER [--files 5] [--seeds 3] [--verbs "fill drums"] [--minutes 60] [--old CHECKOUT]

FOLDER holds a folder of MIDI files for each set. From each set so many files of twelve bars and more are taken evenly, and with each seed a song goes on from its eighth bar for eight bars (`go_on`), has four bars in its middle
filled in (`fill`), and in these bars has one of its players rewritten (`rewrite`), gets a player that it lacks (`add`), or gets new chords for its highest player while all other tuned ones are written anew over them (`harmonize`). Songs with drums in these bars are given without them, too, and get them anew (`drums`).
Counted: tracks of instruments that nobody asked for; bars that sounded, or were to sound, and are silent (who is added may rest for two bars on end); players that are left out; new notes in the chords, beside the notes that stood there; how long what stays of the melody
sounds within new chords, beside the same chords dealt out by chance and the song's own; events of the file outside of what was asked for that did not come back byte by byte, but where tracks end; figures of the new bars beside those that stood there.

--old measures another version on the same files (0.3.0 is commit fb41527). Rows are kept as they come: what is in the results file, of the same weights, is not done again. 95 % intervals are of 2,000 draws of songs."""
import json, os, subprocess, sys, tempfile, time
from collections import Counter
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
import numpy as np
import symusic
import torch
from fastcore.script import call_parse
from tqdm.auto import tqdm
from meloformer.music.channels import Channels
from meloformer.music.chords import CHORD_TONES, LABELS, parse_chord
from meloformer.music.grid import DRUMS, TICKS, bar_positions, grid_bars, place_onsets
from meloformer.music.midi import events
from meloformer.music.score import NOTE, columns, instrument_name
from meloformer.net.checkpoint import find_checkpoint
from meloformer.net.model import MeloFormer
from meloformer.tokens.edit import bar_count, read_song
from meloformer.tokens.hid import HID
from meloformer.writing.figures import BASSES, Piece, chord_sound, figures
from meloformer.writing.generate import generate_score
from meloformer.writing.request import GenerationRequest
from report import earlier, head, keep, report, weights_of

FIGURES = 'same_pitch one_value same_rhythm high_bass outside_range kick_on_1 snare_on_2_and_4 velocities'.split()
name_of = lambda program: instrument_name(program%DRUMS, program==DRUMS)

def grid_of(hid, song): return hid.decode_grid(hid.encode(song.score))

def own_of(song): return sorted({DRUMS if t.is_drum else t.program for t in song.score.tracks})

def question(verb, song, hid):
    "What is typed, which bars are asked for, programs that are written, that may play, and that stay for new chords; None where a song has nothing to ask about"
    own,n,first = own_of(song),bar_count(song.score),bar_count(song.score)//2
    four,there = dict(fill=f'{first+1}-{first+4}'),list(range(first, first+4))
    if verb=='go_on': return dict(bars=16, prompt_bars=8),list(range(8, 16)),own,own,[]
    if verb=='fill': return four,there,own,own,[]
    if verb=='rewrite': return four|dict(rewrite=name_of(own[0])),there,own[:1],own,[]
    if verb=='add':
        new = next(p for p in (33, DRUMS, 48, 73) if p not in own and not (p==33 and set(own)&set(BASSES)))
        return four|dict(add=name_of(new)),there,[new],[*own, new],[]
    notes = grid_of(hid, song)[0].notes
    notes = notes[np.isin(notes['bar'], there)]
    if verb=='drums':
        if set(notes['bar'][notes['program']==DRUMS].tolist())!=set(there) or own==[DRUMS]: return None
        return four|dict(add='drums'),there,[DRUMS],own,[]
    notes = notes[notes['program']!=DRUMS]
    if not len(notes): return None
    tune = max(np.unique(notes['program']).tolist(), key=lambda p: np.median(notes['pitch'][notes['program']==p]))
    others = [p for p in own if p not in (tune, DRUMS)]
    return four|dict(harmonize=True)|({'rewrite': ', '.join(map(name_of, others))} if others else {}),there,others,own,[tune]

OLD = """
import json, sys, time
from meloformer.generate import MeloFormer, HID, find_checkpoint, wish, written
ckpt = find_checkpoint(None)
net,hid,(file, out, seed, words) = MeloFormer.load(ckpt),HID.load(ckpt),json.loads(sys.argv[1])
start = time.process_time()
score = written(net, hid, wish(hid, prompt=file, top_p=.95, **words), seed)
score.write(out)
print(json.dumps([score.chords, score.tpq, time.process_time()-start]))
"""
def written_by(checkout, file, words, seed):
    "What another version makes of it: the song, chords at quarter notes, seconds"
    with tempfile.TemporaryDirectory() as d:
        told = json.dumps([str(Path(file).resolve()), f'{d}/new.mid', seed, words])
        res = subprocess.run([sys.executable, '-c', OLD, told], env=os.environ|dict(PYTHONPATH=str(Path(checkout).resolve())), cwd=d, capture_output=True, text=True)
        if res.returncode: raise ValueError(f'{file}, {words}: {res.stderr.strip().splitlines()[-1]}')
        chords,tpq,seconds = json.loads(res.stdout.splitlines()[-1])
        return read_song(f'{d}/new.mid'),[(t/tpq, c) for t,c in chords],seconds,[]

def written_now(model, hid, file, words, seed):
    "The same of this version, and the faults that it names"
    start,left = time.process_time(),[]
    score = generate_score(model, hid, GenerationRequest(prompt=str(file), **words).parse(hid), seed, report=left)
    with tempfile.TemporaryDirectory() as d:
        score.write(f'{d}/new.mid')
        return read_song(f'{d}/new.mid'),[(t/score.tpq, c) for t,c in score.chords],time.process_time()-start,left

def in_chords(notes, chords):
    "How many tuned notes belong to the chord that sounds when they begin, and how many begin within one"
    n = notes[notes['program']!=DRUMS]
    label = chords['label'][np.searchsorted(chords['bar']*1000+chords['position'], n['bar']*1000+n['position'], 'right')-1]
    return [int(CHORD_TONES[label, n['pitch']%12].sum()),int((label>0).sum())]

def notes_in(grid, bars, programs):
    n = grid.notes
    return n[np.isin(n['bar'], bars) & np.isin(n['program'], programs)]

def heard(grid, bars, programs):
    "Figures of some players in some bars; None where one does not apply"
    bars = [b for b in bars if b<len(grid.bars)]
    n = notes_in(grid, bars, programs)
    if not len(n): return dict.fromkeys(FIGURES)
    n['bar'] -= bars[0]
    return {k: float(v) if np.isfinite(v) else None for k,v in figures(replace(grid, bars=grid.bars[bars], notes=n, source=None), FIGURES).items()}

def sung(grid, chords, bars, programs):
    "How many quarter notes of some players in some bars sound in the chords: with each chord in its place, with each in any, and in all"
    p = Piece(grid)
    which = np.isin(p.bar, bars) & np.isin(grid.notes['program'], programs)
    sound = chord_sound(p.onset[which], (p.onset+p.ticks)[which], p.pitch[which], p.starts[chords['bar']]+TICKS*chords['position'].astype(int), int(p.starts[-1]))
    here = np.isin(chords['bar'], bars)
    fit = sound[here]/p.quarter@CHORD_TONES[chords['label'][here]].T # of each stretch in each chord
    return [round(float(o), 3) for o in (fit.trace(), fit.mean(1).sum(), sound[here].sum()/p.quarter)]

def struck(tracks):
    "Rows (track, index where it begins, index where it ends or -1, tick, program) of a file's notes"
    who,res = Channels(tracks),[]
    for i,track in enumerate(tracks):
        open_ = {}
        for j,(tick,e) in enumerate(track):
            if e[0]>>4 not in (8, 9): continue
            key = e[0]&15,e[1]
            if e[0]>>4==9 and e[2]:
                program,drums = who.note(i, j)
                open_.setdefault(key, []).append(len(res))
                res.append([i, j, -1, tick, DRUMS if drums else program])
            elif open_.get(key): res[open_[key].pop(0)][2] = j
    return np.array(res, int).reshape(-1, 5)

def rest_of(song, hid, bars, programs, cut=None):
    "Events of each track that are not asked for: all but the notes of some players in some bars and, in them, names of chords; where a song goes on from tick `cut`, what lies before it, and the ends of notes that began there"
    tracks,layout = events(song.data),grid_bars(song.score)
    rows = struck(tracks)
    ppb,tpq = hid.positions_per_beat,song.score.tpq
    bar = place_onsets(columns(NOTE, onset=rows[:, 3], duration=1, pitch=0, velocity=1, track=0), layout, bar_positions(layout, ppb), tpq, ppb)[0]
    target = np.isin(rows[:, 4], programs) & np.isin(bar, bars) if cut is None else bar>=bars[0]
    gone = {(i, j) for i,*ends in rows[target, :3].tolist() for j in ends}
    stay = {(i, j) for i,_,j in rows[~target, :3].tolist()}
    edge = layout['onset'][bars[0]] if bars[0]<len(layout) else 1<<40
    end = layout['onset'][bars[-1]+1] if bars[-1]+1<len(layout) else 1<<40
    def asked(i, j, tick, e):
        if (i, j) in gone or e[:2]==b'\xff\x2f': return True # a track ends where its last event is
        if cut is None: return edge<=tick<end and names_chord(e)
        return tick>=cut and (i, j) not in stay
    return [[o for j,o in enumerate(track) if not asked(i, j, *o)] for i,track in enumerate(tracks)]

def names_chord(e):
    "Is it a marker that names a chord?"
    try: return e[:2]==b'\xff\x06' and parse_chord(e[3:].decode('latin1')) is not None
    except ValueError: return False

def too_long(silent, may=2):
    "How many of silent bars come after so many on end"
    return sum(all(b-i in silent for i in range(1, may+1)) for b in silent)

def changed(old, new, added):
    "How many events are not the same in two lists of tracks; tracks of players that are to be added count no more than the notes in them"
    count = lambda a,b: (Counter(a)-Counter(b)).total()+(Counter(b)-Counter(a)).total()
    new = new+[[]]*(len(old)-len(new))
    return sum(count(a, b) or int(a!=b) for a,b in zip(old, new))+(0 if added else sum(map(len, new[len(old):])))

def given(file, verb, folder):
    "The file that a version gets"
    if verb!='drums': return file
    song,res = symusic.Score(str(file)),Path(folder)/file.name
    song.tracks = [t for t in song.tracks if not t.is_drum]
    song.dump_midi(str(res))
    return res

def measure(write, hid, file, verb, seed):
    "A row, or None where the song has nothing to ask about"
    song = read_song(file)
    if (asked := question(verb, song, hid)) is None: return None
    (words,bars,who,may,stays),joins = asked,verb in ('add', 'drums')
    old_grid,old_chords = grid_of(hid, song)
    with tempfile.TemporaryDirectory() as d:
        song = read_song(file := given(file, verb, d))
        new,chords,seconds,left = write(file, words, seed)
    new.score.chords = [(round(t*new.score.tpq), LABELS[parse_chord(c)]) for t,c in chords]
    grid,new_chords = grid_of(hid, new)
    was,now = notes_in(old_grid, bars, who),notes_in(grid, bars, who)
    must = set(bars) if joins or verb=='go_on' else set(was['bar'].tolist())
    players = lambda n: set(map(tuple, n[['program','instance']].tolist()))
    silent = must-set(now['bar'].tolist())
    res = dict(foreign=len(set(own_of(new))-set(may)), bars=len(must), silent=too_long(silent) if joins else len(silent), rests=len(silent), left=len(left), seconds=round(seconds, 1))
    if verb not in ('go_on', 'drums'): res |= dict(played=len(players(was)), left_out=len(players(was)-players(now)),
        in_chords=in_chords(now, new_chords if stays else old_chords)+in_chords(was, old_chords))
    if stays: res |= dict(sung=sung(grid, new_chords, bars, stays), sung_before=sung(old_grid, old_chords, bars, stays))
    cut = int(grid_bars(song.score)['onset'][bars[0]]) if verb=='go_on' else None
    res['other_events'] = changed(rest_of(song, hid, bars, who, cut), rest_of(new, hid, bars, who, cut), joins)+int(song.data[12:14]!=new.data[12:14])
    return res|dict(new=heard(grid, bars, who), before=heard(old_grid, bars, who))

def share(rows, pair):
    "Share over all songs, of what hits and of how many in each row, and the 95 % interval of draws of songs"
    songs = {}
    for r in rows:
        if own := pair(r): songs.setdefault((r['set'], r['file']), []).append(own)
    x = np.array([np.sum(o, 0) for o in songs.values()])
    if not len(x) or not x[:, 1].sum(): return None
    x = x[x[:, 1]>0] # songs that say something
    draws = x[np.random.default_rng(0).integers(len(x), size=(2000, len(x)))].sum(1)
    return [round(float(v), 3) for v in (x[:, 0].sum()/x[:, 1].sum(), *np.percentile(draws[:, 0]/draws[:, 1], [2.5, 97.5]))]

def counted(rows, key, hit, of): return share(rows, lambda r: key in r and (r[key][hit], r[key][of]))

def mean(rows, key, name): return share(rows, lambda r: r[key][name] is not None and (r[key][name], 1))

def summary(rows):
    "Of each version and verb"
    res = {}
    for version,verb in dict.fromkeys((r['version'], r['verb']) for r in rows):
        own = [r for r in rows if (r['version'], r['verb'])==(version, verb)]
        s = dict(answers=len(own), songs=len({(r['set'], r['file']) for r in own}), untouched=sum(not r['other_events'] for r in own), seconds=float(np.median([r['seconds'] for r in own])))
        s |= {k: sum(r.get(k, 0) for r in own) for k in ('foreign','silent','bars','left_out','played','other_events','left')}
        s |= dict(in_chords=counted(own, 'in_chords', 0, 1), in_chords_before=counted(own, 'in_chords', 2, 3), sung=counted(own, 'sung', 0, 2), sung_by_chance=counted(own, 'sung', 1, 2), sung_before=counted(own, 'sung_before', 0, 2))
        pair = lambda rows, k: [mean(rows, o, k) for o in ('new','before')]
        pairs = lambda rows: {k: pair(rows, k) for k in FIGURES}
        many,few = [[r for r in own if (v := r['before']['velocities']) and (v>=8)==wanted] for wanted in (True, False)]
        sets = {o: pairs([r for r in own if r['set']==o]) for o in sorted({r['set'] for r in own})}
        res.setdefault(version, {})[verb] = s|dict(figures=pairs(own)|dict(velocities_of_many=pair(many, 'velocities'), velocities_of_few=pair(few, 'velocities')), sets=sets)
    return res

def evenly(files, n):
    "`n` of the files that have twelve bars, spread evenly"
    long = lambda i: next((f for f in files[i:]+files[:i] if bar_count(read_song(f).score)>=12), None)
    return list(dict.fromkeys(o for k in range(n) if (o := long((2*k+1)*len(files)//(2*n)))))

@call_parse
def main(
    folder: str,    # A folder for each set
    files: int = 5, # Of each set
    seeds: int = 3,
    verbs: str = 'fill harmonize add drums rewrite go_on', # Which of them
    old: str = None, # Checkout of version 0.3.0, to be measured in place of this one
    minutes: float = 1e9 # No new row is begun after so many
):
    "Measure, and keep each row"
    torch.set_num_threads(1)
    end,ckpt = time.time()+60*minutes,find_checkpoint(None)
    hid,model = HID.load(ckpt),None if old else MeloFormer.load(ckpt)
    weights = weights_of(Path(old)/'meloformer/weights' if old else ckpt)
    write = (lambda *o: written_by(old, *o)) if old else (lambda *o: written_now(model, hid, *o))
    version = '0.3.0' if old else 'now'
    rows = [r for r in earlier('verbs') if r.get('version') not in (None, version) or r.get('weights')==weights]
    name = lambda r: tuple(r[k] for k in ('version','set','file','verb','seed'))
    sets = {o.name: own for o in sorted(Path(folder).iterdir()) if (own := sorted(o.rglob('*.mid')))}
    songs = [o for each in zip_longest(*([(kind, f) for f in evenly(own, files)] for kind,own in sets.items())) for o in each if o]
    said = lambda: dict(command='python benchmarks/verbs.py FOLDER', weights_commit=head('meloformer/weights'), summary=summary(rows), rows=rows)
    for seed,(kind,file),verb in tqdm([(s, o, v) for s in range(1, seeds+1) for o in songs for v in verbs.split()], disable=None):
        row = dict(version=version, set=kind, file=file.name, verb=verb, seed=seed)
        if name(row) in map(name, rows) or time.time()>end: continue
        if (got := measure(write, hid, file, verb, seed)) is None: continue
        rows.append(row|dict(weights=weights, commit=head())|got)
        keep('verbs', **said())
    report('verbs', **said())
