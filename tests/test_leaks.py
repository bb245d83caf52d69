"No edge carries the future, on real packed music: every preset, every back end of the CPU, every document"
import numpy as np
import pytest
import torch
from meloformer.data.corpus import Corpus
from meloformer.net.masks import PRESETS
from meloformer.net.model import Config, MeloFormer, batch_ids, losses, randomize_weights
from meloformer.data.packing import IGNORE, Packs, Window, assemble, stack
from meloformer.tokens.infill import Example, restated

WINDOW = Window(512)

@pytest.fixture(scope='module')
def packs(corpus_folder): return Packs(Corpus(corpus_folder), WINDOW)

def model(mask='meloformer'): return randomize_weights(MeloFormer(Config(width=64, layers=3, heads=1, kv_heads=1, mask=mask)))

@torch.no_grad()
def logits(m, batch, backend='gather'):
    ids = batch_ids(batch, WINDOW.n_summaries)
    return m(batch['tokens'], ids, m.plan(ids, backend))

@pytest.mark.parametrize('mask', PRESETS)
@pytest.mark.parametrize('backend', ['gather', 'dense'])
def test_no_token_sees_the_future(packs, mask, backend):
    m,x = model(mask),stack([packs[1]])
    doc,before = x['document'][0],logits(m, x, backend)[0]
    live = int((doc>=0).sum())
    opens = torch.flatten(torch.nonzero(x['index'][0, :live]==0))
    some = np.random.default_rng(0).integers(live-1, size=6)
    for at in sorted({0, 1, live-2, *some.tolist(), *opens[1:6].tolist(), *(opens[1:6]-1).tolist()}):
        y = {k: v.clone() for k,v in x.items()}
        y['tokens'][0, at] = (y['tokens'][0, at]+7)%m.cfg.vocab_size
        d = (logits(m, y, backend)[0]-before).abs().amax(-1)
        after = (torch.arange(len(d))>=at) & (doc==doc[at])
        assert d[~after].max() < 1e-5, (mask, at)
        ahead = d[after][1:]
        assert not len(ahead) or ahead.max() > 1e-6, (mask, at)

@pytest.mark.parametrize('mask', PRESETS)
def test_the_rest_may_be_anything(packs, mask):
    "Not only later tokens: their bars, instruments and positions, the length of the open bar, the other pieces"
    m,hid,pieces = model(mask),packs.corpus.hid,[np.asarray(packs.corpus[i]).astype(np.int64) for i in range(3)]
    window = lambda *docs: stack([assemble(hid, [Example(d) for d in docs], WINDOW)])
    a,b,c = (p[:150] for p in pieces)
    whole = logits(m, window(a, b))[0]
    for t in (1, 2, 40, 77, 120):
        for docs in ((a[:t],), (a[:t], c), (np.concatenate([a[:t], c[t:]]), b)):
            torch.testing.assert_close(logits(m, window(*docs))[0, :t], whole[:t], rtol=0, atol=1e-5)

def one_by_one(packs, position):
    "Each document of a window in a window of its own"
    epoch,i = packs.locate(position)
    for c in packs.plan(epoch)[i]:
        piece = np.asarray(packs.corpus[int(c['piece'])])
        yield stack([assemble(packs.corpus.hid, [Example(restated(packs.corpus.hid, piece, int(c['start']), int(c['stop'])).astype(np.int64))], WINDOW)])

@pytest.mark.parametrize('mask', PRESETS)
def test_a_window_is_its_documents(packs, mask):
    m = model(mask)
    p = next(p for p in range(len(packs)) if packs[p]['document'].max() > 0)
    whole,parts = stack([packs[p]]),list(one_by_one(packs, p))
    total = losses(logits(m, whole), whole['labels']).sum()
    assert sum(int((o['labels']!=IGNORE).sum()) for o in parts) == int((whole['labels']!=IGNORE).sum())
    torch.testing.assert_close(sum(losses(logits(m, o), o['labels']).sum() for o in parts), total, rtol=1e-5, atol=0)

def test_each_sample_has_its_own_mask(packs):
    "The second song of a batch is not masked by the bars of the first"
    m,x = model(),stack([packs[0], packs[2]])
    both = logits(m, x)
    for i in range(2): torch.testing.assert_close(logits(m, {k: v[i:i+1] for k,v in x.items()})[0], both[i], rtol=0, atol=1e-5)
