"Words lead to what bars are like: a bridge is trained, stopped, asked; what comes along hears players, keys, registers, densities, and sections"
import numpy as np
import pytest
import torch
from meloformer.apps import cli
from meloformer.bridge.bridge import Bridge
from meloformer.data.corpus import Corpus
from meloformer.music.score import Score
from meloformer.net.checkpoint import find_checkpoint
from meloformer.net.model import Config
from meloformer import MeloFormer
from meloformer.tokens.outline import fact_slices
from commands import Command
from test_sound import tune

FEW = '--encoder words --rounds 2 --width 64 --layers 1 --val_examples 4'.split()

def test_a_bridge_is_trained_and_asked(corpus_folder, tmp_path, capsys):
    "A run is killed and goes on; its model is the one it was given; it writes what a text asks for, and bars of a song"
    hid = Corpus(corpus_folder).hid
    torch.manual_seed(0)
    MeloFormer(Config(width=64, layers=1, heads=1, kv_heads=1, vocab_size=len(hid), outline=8)).save(tmp_path/'plain', hid)
    args = [str(tmp_path/'plain'), '--data', str(corpus_folder), '--out', str(tmp_path/'run'), *FEW]
    p = Command('train_bridge', *args, merged=True)
    assert any(l.startswith('round 1/2') for l in p.stdout)
    p.kill()
    p.wait()
    assert cli.run('train_bridge', args)==0 and 'round 1/2' not in capsys.readouterr().out
    assert (find_checkpoint(tmp_path/'run')/'model.safetensors').read_bytes()==(tmp_path/'plain'/'model.safetensors').read_bytes()
    out = str(tmp_path/'a.mid')
    assert cli.run('text', ['soft', 'music', '--no_settle', '--bars', '8', '--model', str(tmp_path/'run'), '--out', out])==0
    assert 'left to the model: soft music' in capsys.readouterr().out and len(Score.read(out).bars())<=8
    tune().write(tmp_path/'song.mid')
    assert cli.run('generate', [str(tmp_path/'run'), '--prompt', str(tmp_path/'song.mid'), '--fill', '1', '--text', 'dense', '--out', out])==0

def test_a_run_says_what_is_wrong(corpus_folder, checkpoint, tmp_path, capsys):
    def fails(what, command, *args):
        assert cli.run(command, [*args, '--out', str(tmp_path/'x.mid')])==1
        assert what in capsys.readouterr().err and not (tmp_path/'x.mid').exists()
    data = '--data', str(corpus_folder)
    fails('--data is missing', 'train_bridge')
    fails('--rounds is at least 1', 'train_bridge', *data, '--rounds', '0')
    fails('meloformer outline RUN', 'train_bridge', str(checkpoint), *data, *FEW)
    fails("'parrot'", 'train_bridge', *data, '--encoder', 'parrot')
    fails('multiple of 64', 'train_bridge', *data, '--encoder', 'words', '--width', '100')
    fails('meloformer train_bridge', 'text', 'soft', '--no_settle', '--model', str(checkpoint))
    fails('the text is empty', 'text', ' ', '--no_settle')
    fails('give both', 'generate', '--no_settle')
    fails('--form and the text', 'text', 'calm', '--no_settle', '--form', 'AABA')

def test_a_full_disk(corpus_folder, tmp_path, capsys, monkeypatch):
    "What cannot be kept is said in one sentence, and the checkpoint before is whole"
    hid = Corpus(corpus_folder).hid
    torch.manual_seed(0)
    MeloFormer(Config(width=64, layers=1, heads=1, kv_heads=1, vocab_size=len(hid), outline=8)).save(tmp_path/'plain', hid)
    args = [str(tmp_path/'plain'), '--data', str(corpus_folder), '--out', str(tmp_path/'run'), *FEW]
    save,calls = Bridge.save,[]
    def full(self, folder):
        calls.append(folder)
        if len(calls)>1: raise OSError(28, 'No space left on device')
        save(self, folder)
    monkeypatch.setattr(Bridge, 'save', full)
    assert cli.run('train_bridge', args)==1 and 'free some space' in capsys.readouterr().err
    monkeypatch.undo()
    assert find_checkpoint(tmp_path/'run').name=='step_000001' and MeloFormer.from_pretrained(tmp_path/'run').bridge
    assert cli.run('train_bridge', args)==0 and find_checkpoint(tmp_path/'run').name=='step_000002'

@pytest.fixture(scope='module')
def bridge(): return MeloFormer.from_pretrained().bridge

def columns(bridge, fact, text, bars=8, seeds=4):
    "Counts of a fact, over bars and seeds"
    return sum(bridge.outline([(text, bars)], s).counts[:, fact_slices()[fact]].sum(0) for s in range(seeds))

@pytest.mark.parametrize('who,family', [('flute', 9), ('piano', 0), ('violin and cello', 5), ('drums', 16)])
def test_players_are_heard(bridge, who, family):
    n = columns(bridge, 'players', f'Music for {who}')
    assert n[family]>.5*n.sum()

@pytest.mark.parametrize('key,scale', [('C major', (0,2,4,5,7,9,11)), ('A major', (9,11,1,2,4,6,8)), ('F minor', (5,7,8,10,0,1,3,4))])
def test_keys_are_heard(bridge, key, scale):
    n = columns(bridge, 'harmony', f'A piece in {key} for piano')[:12]
    assert n[list(scale)].sum()>.85*n.sum()

def test_more_and_higher(bridge):
    notes = lambda text: columns(bridge, 'dynamics', text).sum()
    assert 2*notes('Very sparse music for piano') < notes('Flowing music for piano') < notes('Very dense music for piano')
    octave = lambda n: (n*np.arange(8)).sum()/n.sum()
    assert octave(columns(bridge, 'register', 'Piano, low register'))+.5 < octave(columns(bridge, 'register', 'Piano, high register'))

def test_each_section_hears_its_own_words(bridge):
    s = fact_slices()['players']
    n = sum(bridge.outline([('Music for flute', 8), ('Music for drums', 8)], k).counts[:, s].reshape(2, 8, -1).sum(1) for k in range(4))
    assert n[0, 9]>n[0, 16] and n[1, 16]>n[1, 9]

def test_any_number_of_bars(bridge):
    for bars in (1, 3, 256): assert np.isfinite(bridge.outline([('a calm waltz', bars)], steps=2).counts).all()
