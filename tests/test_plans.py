"A model is told what bars are to be like: it trains, it is asked, and who cannot listen says so"
import json
import numpy as np
import pytest
import torch
from meloformer.apps import cli
from meloformer.data.corpus import Corpus
from meloformer.data.packing import Packs, Window, reader
from meloformer.music.score import Score
from meloformer.net.checkpoint import find_checkpoint
from meloformer.net.masks import LATENT
from meloformer.net.model import Config, MeloFormer, randomize_weights
from meloformer.tokens.hid import HID
from meloformer.training.train import batcher
from meloformer.writing.constraints import TokenRequest
from meloformer.writing.generate import compose
from test_sound import tune

WINDOW = Window(512)

@pytest.fixture(scope='module')
def listens(corpus_folder): return randomize_weights(MeloFormer(Config(width=64, layers=2, heads=1, kv_heads=1, vocab_size=len(Corpus(corpus_folder).hid), latent_width=8)), std=.3)

def test_what_is_told_is_drawn_once(corpus_folder):
    "The same windows as without plans; of a told piece about 85 % of the bars have a latent, and which, the position says"
    c = Corpus(corpus_folder)
    told,plain,twin = (Packs(c, WINDOW, seed=3, infill_prob=.5, plans=p) for p in (.5, 0., .5))
    share = []
    for i in reversed(range(min(40, len(told)))):
        a,b,again = told[i],plain[i],twin[i]
        assert 'latent' not in b and all((a[k]==b[k]).all() for k in b) and (a['latent']==again['latent']).all()
        assert not a['latent'][a['document']<0].any()
        share += [a['latent'][a['document']==d].mean() for d in range(a['document'].max()+1)]
    share = np.array(share)
    assert 0 < (share==0).mean() < 1 and .6 < share[share>0].mean() < .98

def test_batches_have_a_slot_for_each_bar(corpus_folder, listens):
    c = Corpus(corpus_folder)
    b = next(reader(Packs(c, WINDOW, plans=1.), 0, 2, make=batcher(listens, WINDOW)))
    assert b.ids.n_latents==128 and b.ids.shape[1]==512+128
    latent = b.ids.kind[0]==LATENT
    some = b.ids.document[0][latent]>=0
    assert some.any() and set(b.ids.bar[0][latent][some].tolist()) <= set(b.ids.bar[0, :b.ids.n_summaries].tolist())
    assert listens(b.tokens, b.ids, b.plan).shape==(2, WINDOW.tokens, listens.cfg.vocab_size)

def test_a_model_learns_to_listen(corpus_folder, tmp_path, capsys):
    "A few steps: the encoder and what reads it both move; the log has bits a note with the truth told; the run goes on, and `--like` asks it"
    args = ['--data', str(corpus_folder), '--out', str(tmp_path/'run'), *'--model_size tiny --max_seq_len 256 --batch_size 2 --gradient_accumulation_steps 1 --at_once --num_workers 0 --val_windows 2 --sample_bars 0 --plans .8 --lr .003'.split()]
    assert cli.run('train', [*args, '--steps', '4', '--val_every', '2', '--save_every', '2']) == 0
    assert 'with latents of its bars' in capsys.readouterr().out
    told = [o['val_planned_bits'] for o in map(json.loads, (tmp_path/'run/log.jsonl').read_text().splitlines()) if 'val_planned_bits' in o]
    assert len(told)==2 and told[0]!=told[1]
    m = MeloFormer.load(find_checkpoint(tmp_path/'run'))
    torch.manual_seed(0)
    assert m.cfg.latent_width and (m.latent.weight.std()>0 and m.encoder.blocks[0].down.weight.abs().max()>0)
    tune().write(tmp_path/'like.mid')
    ask = [str(tmp_path/'run'), '--like', str(tmp_path/'like.mid'), '--out', str(tmp_path/'new.mid')]
    assert cli.run('generate', ask) == 0
    assert len(Score.read(tmp_path/'new.mid').bars()) == len(Score.read(tmp_path/'like.mid').bars())

def test_what_is_told_is_heard(listens):
    "Another piece to be like, another piece written; bars beyond its end are untold; and the same in the middle of a song"
    hid = HID(24) if listens.cfg.vocab_size==len(HID(24)) else HID(4)
    a,b = (hid.encode(tune(bpm)) for bpm in (120., 60.))
    write = lambda like: list(compose(listens, hid, TokenRequest(3, like=like, max_bar_tokens=60), seed=1))
    plain,one,other = write(None),write(a),write(b)
    assert one==write(a) and one!=plain and other!=plain and one!=other

def test_who_cannot_listen_says_so(tmp_path, capsys):
    tune().write(tmp_path/'like.mid')
    assert cli.run('generate', ['--like', str(tmp_path/'like.mid'), '--out', str(tmp_path/'x.mid')]) == 1
    assert 'train with --plans' in capsys.readouterr().err and not (tmp_path/'x.mid').exists()
    assert cli.run('generate', ['--like', str(tmp_path/'none.mid'), '--out', str(tmp_path/'x.mid')]) == 1
    assert 'none.mid' in capsys.readouterr().err
    assert cli.run('generate', ['--like', str(tmp_path/'like.mid'), '--form', 'AABA', '--out', str(tmp_path/'x.mid')]) == 1
    assert 'give --like or --form' in capsys.readouterr().err
