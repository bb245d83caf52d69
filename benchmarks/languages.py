"""What a note costs in HID and in other languages: tokens, bits under one small model, bytes under PPMd

python benchmarks/languages.py MIDI_FOLDER game [--variants "hid always …"] [--budget 1000000]

Every language spells the same notes, those of the grid (24 positions a beat unless it says otherwise), with velocities, meters and tempos.
`Speller` is slow and obvious: HID itself and the languages it was chosen among differ by its switches. The languages of MidiTok spell the
same quantised scores. The model is the same for all (a plain transformer, rotary positions, 1,024 tokens of context) and so is the budget,
counted in tokens; bits a note are those of a twentieth of the files, held out. PPMd (order 8) compresses all files, one after the other;
it needs the package pyppmd and is left out where that is missing. Each result is kept as soon as there is one: a run that was stopped goes on."""
import json, math, time
from collections import namedtuple
from itertools import groupby
from pathlib import Path
import numpy as np
import torch
import torch.nn.functional as F
from fastcore.script import call_parse
from torch import nn
from tqdm.auto import tqdm
from report import report
from meloformer.music.chords import recognise
from meloformer.data.corpus import find_midi
from meloformer.music.grid import DRUMS, TICKS, Grid, bar_ticks
from meloformer.music.grid import instrument_order, until_next_onset
from meloformer.tokens.hid import HID, _bar_chords
from meloformer.net.model import rotate
from meloformer.music.score import MidiError, Score, Track
try: import pyppmd
except ImportError: pyppmd = None

Row = namedtuple('Row', 'bar program instance position pitch velocity length is_default start')

def rows_of(grid):
    "Notes of a grid with lengths in positions and starts from the beginning, in canonical order"
    n,ticks = grid.notes,bar_ticks(grid.bars, grid.positions_per_beat)
    follow = np.maximum(1, (until_next_onset(n, grid.bars, grid.positions_per_beat)+TICKS//2)//TICKS) if len(n) else n['length']
    start = (np.append(0, np.cumsum(ticks))[n['bar']]+TICKS*n['position'].astype(int))//TICKS
    length = np.where(n['program']==DRUMS, 0, np.where(n['length']==0, follow, n['length']))
    return [Row(*o) for o in zip(*(n[k].tolist() for k in ('bar','program','instance','position','pitch','velocity')), length.tolist(), (n['length']==0).tolist(), start.tolist())]

class Speller:
    """A piece as words. `lengths` is 'default' (said when they are not the default: HID), 'always', 'state' (said when they change) or
    'off' (note-off events); `carry` keeps velocities and default lengths across bar lines; `tracks` writes one instrument after the other"""
    def __init__(self, lengths='default', carry=False, tracks=False, chords=True): self.lengths,self.carry,self.tracks,self.chords = lengths,carry,tracks,chords

    def head(self, grid, chords, i):
        b,res = grid.bars,[('Chord', c if self.chords else 0) if p==0 else ('Change', p, c) for p,c in chords.get(i, [(0,0)]) if self.chords or p==0]
        res = [w for o in res for w in ([('Position', o[1]), ('Chord', o[2])] if o[0]=='Change' else [o])]
        if i==0 or b[i][['numerator','denominator']]!=b[i-1][['numerator','denominator']]: res += [('Numerator', int(b[i]['numerator'])), ('Denominator', int(b[i]['denominator']))]
        if i==0 or b[i]['tempo']!=b[i-1]['tempo']: res.append(('Tempo', int(b[i]['tempo'])))
        return res

    def group(self, notes, memory):
        "The onsets of one instrument in one bar"
        res,v = [],memory.get('velocity') if self.carry else None
        said = None
        for p,ns in groupby(notes, key=lambda o: o.position):
            if p: res.append(('Position', p))
            if self.lengths=='default': said = None
            if self.lengths=='always': said = -1
            for o in sorted(ns, key=lambda o: (not o.is_default if self.lengths=='default' else 0, o.length, o.pitch)):
                l = None if self.lengths=='off' or o.program==DRUMS or (self.lengths=='default' and o.is_default) else o.length
                if l is not None and l!=said: res.append(('Length', l)); said = l
                if o.velocity!=v: res.append(('Velocity', o.velocity)); v = o.velocity
                res.append(('Pitch', o.pitch))
        memory['velocity'] = v
        return res

    def group_off(self, notes, offs, memory):
        "Onsets and ends of one instrument in one bar; ends come first"
        events = sorted([(o.position, 1, o.pitch, o.velocity) for o in notes]+[(p, 0, x, None) for p,x in offs], key=lambda e: e[:3])
        res,v = [],memory.get('velocity') if self.carry else None
        for p,es in groupby(events, key=lambda e: e[0]):
            if p: res.append(('Position', p))
            for _,on,x,vel in es:
                if on and vel!=v: res.append(('Velocity', vel)); v = vel
                res.append(('Pitch' if on else 'Off', x))
        memory['velocity'] = v
        return res

    def ends(self, grid, rows):
        "(bar, program, instance) -> (position, pitch) of the notes that end there"
        edges,res = np.cumsum(np.append(0, bar_ticks(grid.bars, grid.positions_per_beat)))//TICKS,{}
        for o in rows:
            if o.program==DRUMS: continue
            t = o.start+o.length
            b = int(np.searchsorted(edges, t, 'right'))-1
            if b < len(grid.bars): res.setdefault((b, o.program, o.instance), []).append((int(t-edges[b]), o.pitch))
        return res

    def carried(self, rows):
        "Default lengths that look for the next onset in later bars, too"
        nxt,res = {},[]
        for o in reversed(sorted(rows, key=lambda o: o.start)):
            key = (o.program, o.instance)
            at,after = nxt.get(key, (None, None))
            if at!=o.start: after,at = at,o.start
            nxt[key] = (at, after)
            res.append(o._replace(is_default=o.program==DRUMS or (after is not None and o.start+o.length==after)))
        return sorted(res, key=lambda o: (o.bar, instrument_order(o.program, o.instance), o.position, not o.is_default, o.length, o.pitch))

    def __call__(self, grid, chords):
        "Words and the bar of each"
        rows,by_bar,memory = rows_of(grid),{},{}
        for b,p,c in chords.tolist(): by_bar.setdefault(b, []).append((p, c))
        if self.carry: rows = self.carried(rows)
        offs = self.ends(grid, rows) if self.lengths=='off' else {}
        groups = {k: list(g) for k,g in groupby(rows, key=lambda o: (o.bar, o.program, o.instance))}
        keys = sorted(set(groups)|set(offs), key=lambda k: (k[0], instrument_order(*k[1:3])))
        heads = [self.head(grid, by_bar, i) for i in range(len(grid.bars))]
        def content(k):
            m = memory.setdefault(k[1:], {})
            return self.group_off(groups.get(k, []), offs.get(k, []), m) if self.lengths=='off' else self.group(groups[k], m)
        def name(k): return [('Program', k[1])]+([('Instance', k[2])] if k[2] else [])
        out = [(('BOS',), 0)]
        if self.tracks:
            for i,h in enumerate(heads): out += [(w, i) for w in h]
            have = set(keys)
            for who in sorted({k[1:] for k in keys}, key=lambda k: instrument_order(*k[:2])):
                out += [(w, 0) for w in name((0, *who))]
                for i in range(len(heads)): out += [(w, i) for w in [('Bar',)]+(content((i, *who)) if (i, *who) in have else [])]
        else:
            per = {i: list(g) for i,g in groupby(keys, key=lambda k: k[0])}
            for i,h in enumerate(heads): out += [(w, i) for w in h+[w for k in per.get(i, []) for w in name(k)+content(k)]]
        return out+[(('EOS',), len(heads)-1)]

def miditok_words(kind, ppb):
    "A function from a grid to the words of one of MidiTok's languages"
    import miditok
    # every meter that a grid may hold
    cfg = dict(beat_res={(0, 16): ppb}, num_velocities=32, pitch_range=(0, 127), use_tempos=True, num_tempos=111, tempo_range=(20, 480), log_tempos=True, use_time_signatures=True,
               time_signature_range={d: list(range(1, 65)) for d in (1, 2, 4, 8, 16, 32, 64)}, use_pitchdrum_tokens=False, use_programs=True)
    if kind=='remi': cfg |= dict(one_token_stream_for_programs=False)
    if kind=='remi+': cfg |= dict(one_token_stream_for_programs=True, program_changes=True)
    if kind=='mmm': cfg |= dict(base_tokenizer='REMI')
    tok = getattr(miditok, 'MMM' if kind=='mmm' else 'REMI')(miditok.TokenizerConfig(**cfg))
    def f(grid, chords):
        seqs = tok(grid.score().to_symusic())
        out = []
        for s in (seqs if isinstance(seqs, list) else [seqs]):
            bar = -1
            for t in s.tokens:
                if t.startswith('Track_Start'): bar = -1
                if t.startswith('Bar') and t!='Bar_End': bar += 1
                out.append((t, max(bar, 0)))
            out.append(('End', max(bar, 0)))
        return out
    return f

EXACT = dict(legato=0) # lengths as they are on the grid; by itself HID counts lengths that are nearly the default as the default
VARIANTS = dict(hid=dict(), exact=EXACT, legato2=dict(legato=2), always=EXACT|dict(lengths='always'), state=EXACT|dict(lengths='state'), off=EXACT|dict(lengths='off'), carry=EXACT|dict(carry=True),
                no_chords=EXACT|dict(chords=False), merged=EXACT|dict(chords=False, merge=True), tracks=EXACT|dict(tracks=True), grid4=EXACT|dict(ppb=4), grid8=EXACT|dict(ppb=8), grid12=EXACT|dict(ppb=12), grid48=EXACT|dict(ppb=48),
                remi=EXACT|dict(miditok='remi'), remi_plus=EXACT|dict(miditok='remi+'), mmm=EXACT|dict(miditok='mmm'))

def merged(score):
    "All tracks of one program as one, as REMI+ has it"
    who = [(t.is_drum, t.program*(not t.is_drum)) for t in score.tracks]
    kinds = sorted(set(who))
    score.notes['track'] = np.array([kinds.index(o) for o in who])[score.notes['track']]
    return Score(score.tpq, score.notes, [Track(p, d) for d,p in kinds], score.tempos, score.meters)

def words_of(paths, ppb=24, legato=None, miditok=None, merge=False, **switches):
    "Words of each file, and notes of each"
    spell = miditok_words(miditok, ppb) if miditok else Speller(**switches)
    hid,pieces,notes = HID(ppb),[],[]
    spell_is_hid = not (switches or miditok)
    for p in tqdm(paths, desc='spell', disable=None):
        try: s = Score.read(p)
        except MidiError: continue
        if merge: s = merged(s)
        g = Grid.from_score(s, ppb, legato)
        if not len(g.notes): continue
        c = recognise(s, g.source)
        chords = _bar_chords(g, c['onset'].astype(int), c['label'].astype(int), s.tpq)
        pieces.append(spell(g, chords))
        if spell_is_hid: assert len(pieces[-1])==len(hid.encode_grid(g, chords)), p
        notes.append(len(g.notes))
    return pieces,notes

class Layer(nn.Module):
    def __init__(self, d, heads):
        super().__init__()
        self.heads,self.qkv,self.out = heads,nn.Linear(d, 3*d, bias=False),nn.Linear(d, d, bias=False)
        self.up,self.down = nn.Linear(d, 4*d, bias=False),nn.Linear(4*d, d, bias=False)

    def forward(self, x, cos, sin):
        B,T,D = x.shape
        q,k,v = self.qkv(F.rms_norm(x, (D,))).view(B, T, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q,k = (rotate(F.rms_norm(o, o.shape[-1:]), cos, sin) for o in (q,k))
        x = x+self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(B, T, D))
        return x+self.down(F.relu(self.up(F.rms_norm(x, (D,)))).square())

class Plain(nn.Module):
    "A transformer that knows nothing of music; with `bars`, rotary positions are the bar and the place in it instead of the place"
    def __init__(self, vocab, bars=False, d=128, heads=2, layers=4):
        super().__init__()
        self.bars,self.d,self.pairs = bars,d,d//heads//2
        self.embed,self.layers = nn.Embedding(vocab, d),nn.ModuleList(Layer(d, heads) for _ in range(layers))
        for n,p in self.named_parameters():
            if n.endswith(('out.weight','down.weight')): nn.init.zeros_(p)
            else: nn.init.normal_(p, std=.02 if n.startswith('embed') else d**-.5)

    def forward(self, t, bar, index):
        at,n = ((bar, index), self.pairs//2) if self.bars else ((torch.arange(t.shape[1])[None],), self.pairs)
        angle = torch.cat([o[..., None]*10000.**(-torch.arange(n)/n) for o in at], -1)
        cos,sin = angle.cos()[:, None],angle.sin()[:, None]
        x = self.embed(t)
        for l in self.layers: x = l(x, cos, sin)
        x = F.linear(F.rms_norm(x, (self.d,)), self.embed.weight)
        return 15*torch.tanh(x/15)

def streams(pieces, notes):
    "Training and validation streams of (token, bar, index in bar), and the vocabulary; every twentieth piece is held out"
    vocab,out,held = {},([], []),0
    for i,p in enumerate(pieces):
        ids,bar = np.array([vocab.setdefault(w, len(vocab)) for w,_ in p]),np.array([b for _,b in p])
        new = np.append(True, bar[1:]!=bar[:-1])
        at = np.arange(len(bar))
        out[i%20==7].append(np.stack([ids, bar, at-np.maximum.accumulate(np.where(new, at, 0))]))
        if i%20==7: held += notes[i]
    return [torch.from_numpy(np.concatenate(o, 1)) for o in out],len(vocab),held

def train(train_stream, val_stream, vocab, held, budget, context, batch, bars, seed=0):
    "Bits a note on what was held out"
    torch.manual_seed(seed)
    model = Plain(-(-vocab//64)*64, bars)
    steps = budget//(context*batch)
    opt = torch.optim.AdamW(model.parameters(), lr=1, betas=(.9, .95), weight_decay=.01)
    g = torch.Generator().manual_seed(seed)
    for i in tqdm(range(steps), desc='train', disable=None):
        for o in opt.param_groups: o['lr'] = 4e-3*min((i+1)/40, 1)*(.1+.9*(1+math.cos(math.pi*i/steps))/2)
        at = torch.randint(train_stream.shape[1]-context-1, (batch,), generator=g)
        x = torch.stack([train_stream[:, a:a+context+1] for a in at.tolist()], 1)
        loss = F.cross_entropy(model(*x[:, :, :-1]).flatten(0, 1), x[0, :, 1:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.)
        opt.step()
        opt.zero_grad()
    nats,n = 0.,val_stream.shape[1]
    with torch.no_grad():
        for a in range(0, n-1, context//2):
            x = val_stream[:, None, a:a+context+1]
            l = F.cross_entropy(model(*x[:, :, :-1])[0], x[0, 0, 1:], reduction='none')
            nats += float(l[0 if a==0 else context//2:].sum())
    return nats/math.log(2)/held

def ppmd_bits(pieces, notes):
    "Bits a note of all files in one stream of 16-bit words"
    vocab = {}
    data = b''.join(np.array([vocab.setdefault(w, len(vocab)) for w,_ in p], '>u2').tobytes() for p in pieces)
    return len(pyppmd.compress(data, max_order=8, mem_size=64<<20))*8/sum(notes)

@call_parse
def main(
    source: str,              # Folder of MIDI files
    name: str,                # What to call it in the results
    variants: str = ' '.join(VARIANTS), # Which of them; +bars after a name gives the model bar positions, @1 another seed
    files: int = 200,         # Take so many, evenly spread
    budget: int = 1_000_000,  # Training tokens
    context: int = 1024,      # Tokens a window
    batch: int = 2            # Windows a step
):
    "Compare languages"
    out,mine = Path(__file__).parent/'results'/'languages.json',f'{name}, {files} files, {budget} training tokens, context {context}'
    have = lambda: json.loads(out.read_text())['sets'] if out.exists() else {}
    paths = find_midi(source)
    paths = [paths[i] for i in np.unique(np.linspace(0, len(paths)-1, files).astype(int))]
    for v in variants.split():
        if v in have().get(mine, {}): continue
        start = time.perf_counter()
        pieces,notes = words_of(paths, **VARIANTS[v.split('@')[0].split('+')[0]])
        (a,b),vocab,held = streams(pieces, notes)
        row = dict(vocabulary=vocab, notes=sum(notes), tokens_per_note=round(sum(map(len, pieces))/sum(notes), 3), ppmd_bits_per_note=round(ppmd_bits(pieces, notes), 3) if pyppmd else None,
                   bits_per_note=round(train(a, b, vocab, held, budget, context, batch, '+bars' in v, int((v.split('@')+['0'])[1])), 3) if budget else None, seconds=round(time.perf_counter()-start))
        sets = have()
        sets.setdefault(mine, {})[v] = row
        report('languages', ('miditok',), command='python benchmarks/languages.py MIDI_FOLDER NAME', sets=sets)
