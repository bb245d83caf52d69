"Whatever noise walks through the grammar is music, and all that music teaches can be walked"
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
import numpy as np
from hypothesis import HealthCheck, given, settings
from meloformer.tokens.vocabulary import EOS, PITCH
from meloformer.tokens.grammar import GrammarState
from meloformer.tokens.hid import HID
from meloformer.music.score import Score
from test_round_trip import scores

def noise_walk(hid, rng, noise):
    "A piece chosen by random logits; it may end after one bar and must after many tokens"
    walk,tokens = GrammarState(hid),[]
    while not walk.done:
        ok = walk.allowed()
        if len(tokens)>400 and ok[EOS]: t = EOS
        else: t = int(np.where(ok, noise[rng.integers(len(noise))], -np.inf).argmax())
        walk.step(t)
        tokens.append(t)
    return tokens

def many(seed, n, ppb):
    "Draw, check and decode `n` times; tokens and notes"
    hid,rng = HID(ppb),np.random.default_rng(seed)
    noise = rng.gumbel(size=(997, len(hid)))
    noise -= np.log(np.bincount(hid.kind))[hid.kind] # each kind of token has its chance
    noise[:, EOS] += 4
    total = np.zeros(2, int)
    for i in range(n):
        tokens = noise_walk(hid, rng, noise)
        s = hid.decode(tokens)
        if i%4==0: assert s.quantized(ppb) == s, tokens
        total += len(tokens),(hid.kind[tokens]==PITCH).sum()
    return total

def test_random_walks_decode():
    "2,000 of them, 100,000 with --slow, on all grids"
    n = min(settings.default.max_examples, 5000)
    jobs = [(i, n, (24, 24, 4, 12, 24, 8, 48, 24, 4, 12)[i%10]) for i in range(20)]
    with ProcessPoolExecutor(2, get_context('spawn')) as ex: tokens,notes = sum(ex.map(many, *zip(*jobs)))
    assert tokens > 20*n*15 and notes > 20*n*2

def walked(hid, score):
    "Every token of a score is one that may stand where it stands"
    walk = GrammarState(hid)
    for i,t in enumerate(hid.encode(score).tolist()):
        assert walk.allowed()[t], (i, hid[t], walk.name)
        walk.step(t)
    assert walk.done

def test_real_music_can_be_written(midi_folder):
    "Pickups, where the chords of the first full bar come before its meter, among them"
    hid = HID()
    for f in sorted(midi_folder.glob('*.mid'))[::15]: walked(hid, Score.read(f))

@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(scores())
def test_invented_music_can_be_written(score): walked(HID(), score)
