"A model is told what bars are to be like: it is taught, it is asked, and who cannot listen says so"
import json, shutil
import numpy as np
import pytest
from hypothesis import given, strategies as st
from meloformer.apps import cli
from meloformer.data.corpus import Corpus
from meloformer.data.packing import Packs, Window
from meloformer.music.score import Score
from meloformer.net.checkpoint import find_checkpoint
from meloformer import MeloFormer
from meloformer.net.model import Config, randomize_weights
from meloformer.tokens.grammar import random_piece
from meloformer.tokens.hid import HID
from meloformer.tokens.outline import FACTS, Countdown, counts_of, fact_slices, outline_of, runs, window_rows
from meloformer.training.outline import structure_of, told_batch
from meloformer.writing.constraints import TokenRequest
from meloformer.writing.generate import compose
from commands import Command
from test_sound import tune

hid = HID(24)

@pytest.fixture(scope='module')
def listens(): return randomize_weights(MeloFormer(Config(width=64, layers=2, heads=1, kv_heads=1, outline=16)), std=.3)

@given(st.integers(0, 10**6))
def test_counting_down_is_the_same_at_once_and_token_by_token(seed):
    "Any piece, any facts of any bars: the rows of training are those of writing, and nothing remains at the end of a bar"
    rng = np.random.default_rng(seed)
    tokens = random_piece(hid, rng, bars=4, most=80)
    s,outline = hid.structure(tokens, [0]),outline_of(hid, tokens)
    outline.told = rng.random(outline.told.shape) < .7
    rows = window_rows(hid, tokens, s, outline.told)
    walk = Countdown(hid, outline)
    for t,bar,row in zip(tokens, s.bar, rows):
        walk.add(int(t), int(bar))
        np.testing.assert_allclose(walk.row(), row, atol=1e-5)
    assert not rows[np.append(np.diff(s.bar)>0, True), :outline.counts.shape[1]].any()

def test_a_window_counts_each_bar_of_each_piece(corpus_folder):
    "Against a slow loop: notes of every run of a packed window with questions and answers"
    packs = Packs(Corpus(corpus_folder), Window(512), infill_prob=.7)
    x = packs[0]
    h,s = packs.corpus.hid,structure_of(x)
    slow = {}
    for t,d,b,program,run in zip(x['tokens'], x['document'], x['bar'], x['program'], runs(s)):
        if h.names[t].startswith('Pitch'): slow.setdefault(int(run), []).append((int(program), int(h.value[t])))
    counts = counts_of(h, x['tokens'], s)
    at = fact_slices()
    assert {int(r): int(n) for r,n in enumerate(counts[:, at['dynamics']].sum(1)) if n}=={r: len(o) for r,o in slow.items()}
    for r,notes in slow.items():
        tuned = [p for program,p in notes if program<128]
        assert counts[r, at['register']].sum()==len(tuned) and counts[r, at['players']][16]==len(notes)-len(tuned)
        assert sorted(p%12 for p in tuned)==np.repeat(np.arange(12), counts[r, :12].astype(int)).tolist()

def test_what_is_told_is_drawn_once(corpus_folder):
    "The position says what is told of a window: some pieces in all, some in part, some bars not at all"
    packs = Packs(Corpus(corpus_folder), Window(512), seed=3)
    a,b = (told_batch(packs, [p])['rows'] for p in (1, 1))
    many = told_batch(packs, range(min(16, len(packs))))['rows'][..., -1-2*len(FACTS):-1-len(FACTS)]
    assert (a==b).all() and {0, len(FACTS)} < set(many.sum(-1).unique().int().tolist())

def test_a_model_is_taught_and_asked(corpus_folder, tmp_path):
    "A run of a few steps is killed and goes on; its other weights are those of before; --like asks it, and writes as many bars"
    MeloFormer(Config(width=64, layers=1, heads=1, kv_heads=1, vocab_size=len(Corpus(corpus_folder).hid))).save(tmp_path/'plain', Corpus(corpus_folder).hid)
    args = [str(tmp_path/'plain'), '--data', str(corpus_folder), '--out', str(tmp_path/'run'), *'--rounds 2 --max_seq_len 256 --hidden 16 --val_windows 1 --precision fp32'.split()]
    p = Command('outline', *args, merged=True)
    assert any(l.startswith('round 1/2') for l in p.stdout) # its first checkpoint
    p.kill()
    p.wait()
    assert cli.run('outline', args)==0
    old,new = (MeloFormer.load(find_checkpoint(tmp_path/o)) for o in ('plain','run'))
    assert new.cfg.outline==16 and all((v==new.state_dict()[k]).all() for k,v in old.state_dict().items())
    tune().write(tmp_path/'like.mid')
    assert cli.run('generate', [str(tmp_path/'run'), '--like', str(tmp_path/'like.mid'), '--out', str(tmp_path/'new.mid')])==0
    assert len(Score.read(tmp_path/'new.mid').bars())==len(Score.read(tmp_path/'like.mid').bars())

def test_what_is_told_is_heard(listens):
    "Another piece to be like, or another fact of it, another piece written; and so in the middle of a song"
    a,b = (outline_of(hid, hid.encode(tune(bpm))) for bpm in (120., 60.))
    b.counts = np.roll(b.counts, 5, 1)
    write = lambda like: list(compose(listens, hid, TokenRequest(3, like=like, max_bar_tokens=60), seed=1))
    plain,*told = [write(o) for o in (None, a, a, b, a.only('rhythm'))]
    assert told[0]==told[1] and len({*map(tuple, [plain, *told])})==4

def test_the_model_that_comes_along_listens():
    "Asked for the rhythm of a piece of four notes a bar, and of sixteen, it writes few and many; typed chords are kept to all the same"
    model = MeloFormer.from_pretrained()
    notes = []
    for beats in (4, 16):
        like = tune()
        like.notes = np.repeat(like.notes[:1], 4*beats)
        like.notes['onset'] = np.arange(4*beats)*4*like.tpq//beats
        like.notes['duration'] = like.tpq//4
        made = model.generate_many(4, like=like, like_facts='rhythm', bars=4, chords='C F G C', instruments='piano')
        assert all([c for _,c in o.chords]==['C','F','G','C'] for o in made)
        notes.append([len(o.notes) for o in made])
    assert 3*sum(notes[0]) < sum(notes[1]) and max(notes[1]) < 80, notes

def test_who_cannot_listen_says_so(tmp_path, capsys, checkpoint):
    def fails(what, *args, model=()):
        assert cli.run('generate', [*model, *args, '--out', str(tmp_path/'x.mid')])==1
        assert what in capsys.readouterr().err and not (tmp_path/'x.mid').exists()
    tune().write(tmp_path/'like.mid')
    fails('meloformer outline RUN', '--like', str(tmp_path/'like.mid'), model=[str(checkpoint)])
    fails('meloformer outline RUN', '--like', str(tmp_path/'none.mid'), model=[str(checkpoint)]) # before it is read
    fails('none.mid', '--like', str(tmp_path/'none.mid'))
    fails('give --like or --form', '--like', str(tmp_path/'like.mid'), '--form', 'AABA')
    fails('give both', '--like_facts', 'rhythm')
    fails("'rythm' is no fact", '--like', str(tmp_path/'like.mid'), '--like_facts', 'rythm')

def test_a_run_says_what_is_wrong(corpus_folder, tmp_path, capsys):
    def fails(what, *args):
        assert cli.run('outline', [*args, '--out', str(tmp_path/'run')])==1
        assert what in capsys.readouterr().err and not (tmp_path/'run').exists()
    fails('--data is missing')
    fails('--rounds is at least 1', '--data', str(corpus_folder), '--rounds', '0')
    fails('holds no checkpoint', str(tmp_path), '--data', str(corpus_folder))
    MeloFormer(Config(width=64, layers=1, heads=1, kv_heads=1, vocab_size=len(HID(4)))).save(tmp_path/'coarse', HID(4))
    fails('--positions_per_beat 4', str(tmp_path/'coarse'), '--data', str(corpus_folder))

def test_checkpoints_of_before(checkpoint, tmp_path):
    "What was written while models could listen to latents is read, unless it did"
    folder = shutil.copytree(checkpoint, tmp_path/'old')
    (folder/'manifest.json').unlink(missing_ok=True)
    told = json.loads((folder/'model.json').read_text())
    del told['outline']
    for width,ok in ((0, True), (8, False)):
        (folder/'model.json').write_text(json.dumps(told|dict(latent_width=width)))
        if ok: assert MeloFormer.load(folder).cfg.outline==0
        else:
            with pytest.raises(ValueError, match='listens to latents'): MeloFormer.load(folder)
