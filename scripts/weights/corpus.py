"""From the raw sets to the corpus of the model that comes along: python scripts/weights/corpus.py RAW OUT

RAW holds a folder for each set, with its MIDI files in `midi/` (lead sheets in `mxl/`) and its `index.jsonl`. What is taken is
laid in OUT.midi, a folder a set, as links; bands are written there; then `meloformer prepare` makes OUT. A second call goes on
where the first was stopped. OUT/card.md holds the tables for the card of the model.
"""
import hashlib, json, os, shutil, sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
import numpy as np
from fastcore.script import call_parse
from tqdm import tqdm
from meloformer.music import bands
from meloformer.data.corpus import Corpus, prepare
from meloformer.music.grid import DRUMS
from meloformer.music.midi import printable
from meloformer.music.score import instrument_name

@dataclass(frozen=True)
class Source:
    "A collection of music, and what is done with it"
    folder: str       # Below RAW; empty for what is not there and never taken
    name: str         # For the card
    licence: str
    why: str          # Reason for taking or leaving it
    set: str = ''     # Name in the corpus; empty: left
    prefix: tuple = ('',) # Beginnings of the names of its files, where a folder holds several sources
    licences: tuple = ()  # Beginnings of the licences taken, where each file has its own; empty: all

SOURCES = (
    Source('openscore_quartets', 'OpenScore String Quartets', 'CC0 1.0', 'whole works; free of all conditions', 'quartets'),
    Source('openscore_lieder', 'OpenScore Lieder', 'CC0 1.0', 'voice and piano; free of all conditions', 'lieder'),
    Source('openscore_orchestra', 'OpenScore scores of Hauptstimme', 'CC0 1.0', 'orchestra; free of all conditions', 'orchestra'),
    Source('mutopia', 'Mutopia, public domain and CC BY', 'public domain, CC BY 2.5 to 4.0', 'keyboard, guitar, choir, winds; asks for no more than the names', 'mutopia',
        licences=('Public Domain', 'Creative Commons Attribution 2', 'Creative Commons Attribution 3', 'Creative Commons Attribution 4')),
    Source('mutopia', 'Mutopia, CC BY-SA', 'CC BY-SA', 'left: share-alike asks what is made of it to be under the same licence', licences=('Creative Commons Attribution-ShareAlike',)),
    Source('game_multitrack', 'Freedoom', 'BSD-3-Clause', 'game music with drums and bass, by people who gave it freely', 'game', ('freedoom__',)),
    Source('game_multitrack', 'Blasphemer', 'BSD-3-Clause', 'as Freedoom', 'game', ('blasphemer__',)),
    Source('game_multitrack', 'EasyRPG RTP', 'CC BY 4.0, one CC0', 'game music; asks for no more than the names', 'game', ('easyrpg__',)),
    Source('game_multitrack', 'Simutrans', 'Artistic License 1.0', 'left: what is changed must be freely available again and say so in every file, and no fee may be charged for it; '
        'weights under Apache 2.0 cannot promise that for their users', prefix=('simutrans__',)),
    Source('game_multitrack', 'OpenTTD OpenMSX', 'GPL-2.0', 'left: copyleft', prefix=('openmsx__',)),
    Source('groove_drums', 'Groove MIDI Dataset (Magenta; Gillick et al. 2019)', 'CC BY 4.0', 'human drummers; asks for no more than the name', 'groove'),
    Source('openewld', 'OpenEWLD lead sheets', 'public domain (collection: MIT)', 'tunes and chords of the bands; with the drummers of Groove (CC BY 4.0) and bass and accompaniment by rules of `meloformer.music.bands`: semi-synthetic, in a set for each kind of style', 'bands'),
    Source('', 'Nottingham', 'GPL-3.0', 'left: copyleft'),
    Source('', 'POP909', 'MIT, of commercial songs', 'left: the songs are not the collection\'s to give'),
    Source('', 'Bands made with MMA', 'GPL-2.0', 'left: the grooves are copyleft'))

# ------------------------------------------------------------------------------------------------ laying out

def files_of(raw, s):
    "Files of a source, sorted; says what is missing"
    folder = Path(raw)/s.folder
    inside = folder/('mxl' if s.set=='bands' else 'midi')
    if not inside.is_dir(): sys.exit(f'{printable(inside)}: there is no such folder; unpack the set {s.folder} into {printable(raw)}')
    names = sorted(o.name for o in inside.iterdir() if o.name.startswith(s.prefix))
    if s.licences:
        index = folder/'index.jsonl'
        if not index.is_file(): sys.exit(f'{printable(index)}: is missing; it says under which licence each file is')
        rows = map(json.loads, index.read_text().splitlines())
        own = {Path(r['file']).name for r in rows if r['licence'].startswith(s.licences)}
        names = [o for o in names if o in own]
    if not names: sys.exit(f'{printable(inside)}: holds no files of {s.name}')
    return [inside/o for o in names]

def lay(files, folder):
    "A folder of links to files, and nothing else"
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {f.name: f.resolve() for f in files}
    for o in folder.iterdir():
        if o.name not in wanted: o.unlink()
    for name,f in wanted.items():
        if not (folder/name).exists(): (folder/name).symlink_to(f)

GROUPS = dict(swing='jazz', twobeat='jazz', bossa='jazz', pop='pop', ballad='pop', funk='pop', dance='pop', waltz='waltz', six='waltz') # styles, as sets

takes = [] # of a worker

def begin(drums): takes.extend(o for o in map(bands.read_take, drums) if o.bars)

def band(path, folder, seeds):
    "Arrangements of one lead sheet, each in the set of its style; the reason if there are none"
    try: sheet = bands.read_sheet(path)
    except ValueError as e: return str(e).partition(': ')[2]
    for i in range(seeds):
        try: out = folder/f'bands_{GROUPS[bands.plan(sheet, takes, i).name]}'/f'{path.stem}__{i}.mid'
        except ValueError as e: return str(e)
        if not out.exists(): bands.arrange(sheet, takes, i).write(out)
    return ''

def write_bands(sheets, drums, folder, seeds, workers):
    "All bands; those of another version of the styles are written anew"
    key = hashlib.sha256(Path(bands.__file__).read_bytes()+repr((seeds, [o.name for o in drums])).encode()).hexdigest()
    stamp = folder/'bands.key'
    if not stamp.exists() or stamp.read_text()!=key:
        for o in set(GROUPS.values()): shutil.rmtree(folder/f'bands_{o}', ignore_errors=True)
        stamp.write_text(key)
    work = partial(band, folder=folder, seeds=seeds)
    with ProcessPoolExecutor(workers, initializer=begin, initargs=(drums,)) as pool: why = Counter(tqdm(pool.map(work, sheets, chunksize=8), total=len(sheets), desc='bands', disable=None))
    n = why.pop('', 0)
    print(f'bands: {n} of {len(sheets)} sheets'+''.join(f'; {v} left: {k}' for k,v in why.most_common()))

# ------------------------------------------------------------------------------------------------ tables

BASSES = range(32, 40)

def describe(corpus):
    "A row for each piece: set, tokens, notes, bars, drum notes, bass notes; programs and meters in notes and bars"
    rows,programs,meters = [],Counter(),Counter()
    for i in range(len(corpus)):
        s = corpus.hid.decode(corpus[i])
        p,n = np.unique(np.array([DRUMS if t.is_drum else t.program for t in s.tracks])[s.notes['track']], return_counts=True)
        own = dict(zip(p.tolist(), n.tolist()))
        programs.update(own)
        bars = s.bars()
        meters.update(f"{b['numerator']}/{b['denominator']}" for b in bars)
        rows.append((corpus.set_of[i], len(corpus[i]), len(s.notes), len(bars), own.get(DRUMS, 0), sum(own.get(o, 0) for o in BASSES)))
    return np.array(rows),programs,meters

def by_set(rows, sets):
    "For each set with pieces: pieces, tokens, notes, share of drum and bass notes, share of notes in pieces with both, median and longest length, share drawn"
    res = {}
    for i,name in enumerate(sets):
        r = rows[rows[:,0]==i]
        if not len(r): continue
        notes = r[:,2].sum()
        both = r[(r[:,4]>0) & (r[:,5]>0)]
        res[name] = dict(pieces=len(r), tokens=int(r[:,1].sum()), notes=int(notes), bars=int(r[:,3].sum()), drums=r[:,4].sum()/notes, bass=r[:,5].sum()/notes,
            both=both[:,2].sum()/notes, median=int(np.median(r[:,1])), longest=int(r[:,1].max()))
    root = {k: v['tokens']**.5 for k,v in res.items()}
    for k,v in res.items(): v['drawn'] = root[k]/sum(root.values())
    return res

def drawn_share(sets, key):
    "Share of the notes that are read, if sets are drawn in proportion to the root of their tokens"
    notes = {k: v['drawn']*v['notes']/v['tokens'] for k,v in sets.items()} # notes read of each set, for one token read
    return sum(notes[k]*sets[k][key] for k in sets)/sum(notes.values())

def table(head, rows):
    "Markdown"
    return '\n'.join('| '+' | '.join(map(str, o))+' |' for o in (head, ['---']*len(head), *rows))+'\n'

def card(corpus, taken):
    "The tables of the card"
    rows,programs,meters = describe(corpus)
    sets = by_set(rows, corpus.sets)
    out = ['## Sources\n', table(['source', 'licence', 'set', 'files', 'why'], [(s.name, s.licence, 'bands_*' if s.set=='bands' else s.set or '–', taken.get(s.name, '–'), s.why) for s in SOURCES])]
    out += ['## Sets, training split\n', table(['set', 'pieces', 'tokens', 'notes', 'bars', 'drum notes', 'bass notes', 'notes in pieces with both', 'tokens a piece: median, longest', 'share drawn'],
        [(k, v['pieces'], f"{v['tokens']:,}", f"{v['notes']:,}", f"{v['bars']:,}", *(f'{v[o]:.1%}' for o in ('drums','bass','both')), f"{v['median']:,}, {v['longest']:,}", f"{v['drawn']:.1%}") for k,v in sets.items()])]
    shares = {k: (sum(v['notes']*v[k] for v in sets.values())/sum(v['notes'] for v in sets.values()), drawn_share(sets, k)) for k in ('drums','bass','both')}
    out += ['Sets are drawn in proportion to the root of their tokens. Of the notes '+', '.join(f'{name} {a:.1%} as they lie and {b:.1%} as they are drawn' for name,(a,b) in zip(('drums are','basses','those of pieces with both'), shares.values()))+'.\n']
    total,bars = sum(programs.values()),sum(meters.values())
    out += ['## Programs, share of the notes\n', table(['program', 'share'], [(instrument_name(k%128, k==DRUMS), f'{v/total:.2%}') for k,v in programs.most_common(40)])]
    out += ['## Meters, share of the bars\n', table(['meter', 'share'], [(k, f'{v/bars:.2%}') for k,v in meters.most_common(16)])]
    lengths = np.quantile(rows[:,1], (.05, .25, .5, .75, .95, 1)).astype(int)
    out += ['## Tokens a piece\n', table(['5 %', '25 %', '50 %', '75 %', '95 %', 'longest'], [[f'{o:,}' for o in lengths]])]
    return '\n'.join(out),shares['both'][1]

# ------------------------------------------------------------------------------------------------ all of it

@call_parse
def main(
    raw: str, # Folder that holds the unpacked sets
    out: str, # Folder of the corpus
    seeds: int = 4,  # Arrangements of each lead sheet
    workers: int = 2 # Processes
):
    "Choose, lay out, arrange, prepare, describe"
    raw,out = Path(raw),Path(out)
    midi = out.with_name(out.name+'.midi')
    found = {s.name: files_of(raw, s) for s in SOURCES if s.set}
    for name in dict.fromkeys(s.set for s in SOURCES if s.set and s.set!='bands'):
        lay([f for s in SOURCES if s.set==name for f in found[s.name]], midi/name)
    sheets,drums = (next(found[s.name] for s in SOURCES if s.set==o) for o in ('bands','groove'))
    write_bands(sheets, drums, midi, seeds, workers)
    # all arrangements of one tune lie on one side of the split
    if not out.exists(): prepare(str(midi), str(out), positions_per_beat=24, val_share=.05, workers=workers, together=r'/bands_\w+/(.+)__\d+\.mid$')
    text,share = card(Corpus(out), {k: len(v) for k,v in found.items()})
    (out/'card.md').write_text(text)
    print(text)
    if share < 1/3: sys.exit(f'only {share:.1%} of the notes that are read are of pieces with bass and drums; at least a third is asked for')
