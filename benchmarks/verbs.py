"""The verbs of a composer on real songs

python benchmarks/verbs.py FOLDER [--files 5] [--seeds 3]

FOLDER holds a folder of MIDI files for each set. From each set so many files are taken evenly, and with each seed a song goes on from its eighth bar for eight bars, has four bars in its middle filled in, and has one of its
players rewritten there. Counted: tracks of instruments that the song does not have; bars that sounded and are silent now; new notes in the song's chords beside the notes that stood there; events of the file outside
of what was asked for that did not come back. What is in the results file already is not done again."""
import time
from collections import Counter
from pathlib import Path
import numpy as np
import torch
from fastcore.script import call_parse
from tqdm.auto import tqdm
from meloformer.music.chords import CHORD_TONES
from meloformer.tokens.edit import bar_count, read_song
from meloformer.writing.generate import wish, with_blanks, written
from meloformer.music.grid import DRUMS
from meloformer.tokens.hid import HID
from meloformer.music.midi import events
from meloformer.net.model import MeloFormer
from meloformer.net.checkpoint import find_checkpoint
from report import earlier, report

def strokes(hid, score, song, bars, programs):
    "Notes in some bars, how many of the tuned ones belong to the chords of `song`, how many are tuned, and the bars that sound"
    score.chords = []
    n,chords = hid.decode_grid(hid.encode(score))[0].notes,hid.decode_grid(hid.encode(song))[1]
    n = n[np.isin(n['bar'], bars) & np.isin(n['program'], programs)]
    tuned = n[n['program']!=DRUMS]
    at = np.searchsorted(chords['bar']*1000+chords['position'], tuned['bar']*1000+tuned['position'], 'right')-1
    return int(CHORD_TONES[chords['label'][at], tuned['pitch']%12].sum()),len(tuned),set(n['bar'].tolist())

def elsewhere(data, spans):
    "Events outside of some ticks, but the ends of notes and of tracks"
    return Counter(o for track in events(data) for o in track if not any(a<=o[0]<b for a,b in spans) and o[1][0]>>4!=8 and not (o[1][0]>>4==9 and not o[1][2]) and o[1][:2]!=b'\xff\x2f')

def measure(model, hid, file, verb, seed):
    song = read_song(file)
    s,n = song.score,bar_count(song.score)
    own = {DRUMS if t.is_drum else t.program for t in s.tracks}
    first = n//2
    one = sorted(own)[0]
    words = dict(go_on=dict(bars=16, prompt_bars=8), fill=dict(fill=f'{first+1}-{first+4}'), rewrite=dict(fill=f'{first+1}-{first+4}', rewrite=str(one)))[verb]
    start,left = time.perf_counter(),[]
    ask = wish(hid, prompt=file, **words)
    new = written(model, hid, ask, seed, report=left)
    seconds = time.perf_counter()-start
    bars = [o.number for o in with_blanks(hid, ask).blanks]
    who,now = [one] if verb=='rewrite' else sorted(own),{DRUMS if t.is_drum else t.program for t in new.tracks}
    b = s.bars()
    spans = [(int(b['onset'][bars[0]])-s.tpq//8, 1<<40 if verb=='go_on' or bars[-1]+1>=len(b) else int(b['onset'][bars[-1]+1]))] if bars[0]<len(b) else []
    hit,tuned,sounds = strokes(hid, new, s, bars, who)
    old_hit,old_tuned,sounded = strokes(hid, read_song(file).score, s, bars, who)
    gone = sum((elsewhere(song.data, spans)-elsewhere(new.midi, spans)).values())+sum((elsewhere(new.midi, spans)-elsewhere(song.data, spans)).values())
    silent = len(set(bars)-sounds) if verb=='go_on' else len(sounded-sounds)
    return dict(foreign=len(now-own), bars=len(bars) if verb=='go_on' else len(sounded), silent=silent, in_chords=None if verb=='go_on' else [hit, tuned, old_hit, old_tuned], other_events=gone, left=len(left), seconds=round(seconds, 1))

def summary(rows):
    "Of each verb"
    res = {}
    for verb in dict.fromkeys(r['verb'] for r in rows):
        own = [r for r in rows if r['verb']==verb]
        res[verb] = dict(pieces=len(own)) | {k: sum(r[k] for r in own) for k in ('foreign','silent','bars','other_events','left')} | dict(seconds=float(np.median([r['seconds'] for r in own])))
        if verb!='go_on':
            hit,tuned,old_hit,old_tuned = np.sum([r['in_chords'] for r in own], 0)
            res[verb] |= dict(in_chords=round(float(hit/max(1, tuned)), 3), in_chords_before=round(float(old_hit/max(1, old_tuned)), 3))
    return res

@call_parse
def main(
    folder: str,  # A folder for each set
    files: int = 5, # Of each set
    seeds: int = 3,
    minutes: float = 1e9 # No new row is begun after so many
):
    torch.set_num_threads(1)
    ckpt,end = find_checkpoint(None),time.time()+60*minutes
    model,hid = MeloFormer.load(ckpt),HID.load(ckpt)
    rows,name = earlier('verbs'),lambda r: (r['set'], r['file'], r['verb'], r['seed'])
    sets = {o.name: sorted(o.rglob('*.mid')) for o in sorted(Path(folder).iterdir()) if o.is_dir()}
    songs = [(kind, own[(2*f+1)*len(own)//(2*files)]) for f in range(files) for kind,own in sets.items()]
    for seed,(kind,file),verb in tqdm([(s, o, v) for s in range(1, seeds+1) for o in songs for v in ('go_on','fill','rewrite')], disable=None):
        row = dict(set=kind, file=file.name, verb=verb, seed=seed)
        if name(row) in map(name, rows) or time.time()>end: continue
        if bar_count(read_song(file).score)>=12: rows.append(row|measure(model, hid, file, verb, seed))
    report('verbs', command='python benchmarks/verbs.py FOLDER', model=str(ckpt.name), summary=summary(rows), rows=rows)
