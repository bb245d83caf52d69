"Captions of a corpus: the same bytes however many processes, stopped or not; and read back by the grammar"
import json
import pytest
from meloformer.apps.cli import run
from meloformer.data.captions import caption_split, content_hash, told_back
from meloformer.data.corpus import Corpus

@pytest.fixture
def corpus(midi_folder, tmp_path):
    few = tmp_path/'few.txt'
    few.write_text('\n'.join(map(str, sorted(midi_folder.glob('*.mid'))[:12])))
    assert run('prepare', [str(few), str(tmp_path/'data'), '--workers', '0', '--val_share', '.2']) == 0
    return tmp_path/'data'

def test_same_bytes(corpus, capsys):
    assert run('caption', [str(corpus), '--workers', '2', '--page', '3']) == 0
    capsys.readouterr()
    f = corpus/'captions-train.jsonl'
    first,rows = f.read_bytes(),[json.loads(o) for o in f.read_text().splitlines()]
    assert [o['hash'] for o in rows] == [content_hash(o) for o in Corpus(corpus)] != []
    f.rename(f.with_suffix('.part'))
    f.with_suffix('.part').write_bytes(first[:2*len(first)//3])
    assert caption_split(corpus).read_bytes() == first and not f.with_suffix('.part').exists()
    assert (corpus/'captions.html').read_text().count('<img') == min(3, len(rows))

def test_read_back(corpus):
    rows = [json.loads(o) for o in caption_split(corpus).read_text().splitlines()]
    texts = [(t, facts) for r in rows for facts,ts in ((r['facts'], r['texts']+r['held_out']), *((f, [t]) for _,_,f,t in r['sections'] if t)) for t in ts]
    assert len(texts) > 10
    for text,facts in texts: assert all(told_back(text, facts).values()), text

def test_told_in_words(tmp_path, capsys):
    assert run('caption', [str(tmp_path/'none')]) == 1 and 'no prepared corpus' in capsys.readouterr().err
    assert run('caption', [str(tmp_path), '--page', '0']) == 1 and '--page' in capsys.readouterr().err
