"The player is heard in a browser, alone and in a page; sound files"
import json, shutil, subprocess, time
from pathlib import Path
from tempfile import mkdtemp
from urllib.request import urlopen
import numpy as np, pytest, soundfile
from meloformer.music.score import NOTE, TEMPO, Score, Track, columns
from meloformer.music.sound import Player

browser = next(filter(None, map(shutil.which, ('chromium','chromium-browser','google-chrome','chrome'))), None)
CHROMIUM = [browser, '--headless', '--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync', '--autoplay-policy=no-user-gesture-required', '--remote-debugging-port=0']
in_browser = pytest.mark.skipif(not browser, reason='needs Chromium')

def tune(bpm=120.):
    "A scale of two seconds for violin and drums"
    line = np.concatenate([columns(NOTE, onset=240*np.arange(8), duration=240, pitch=60+np.arange(8), velocity=90, track=0), columns(NOTE, onset=240*np.arange(8), duration=60, pitch=38, velocity=90, track=1)])
    return Score(480, line, [Track(40), Track(0, True)], columns(TEMPO, onset=[0], bpm=bpm))

# before the page's own script: what reaches the loudspeaker is measured, and a request that leaves the page is forbidden and noted
EARS = """<meta http-equiv="Content-Security-Policy" content="default-src 'unsafe-inline' data:"><script>
const levels = [], fetched = [], contexts = [], connect = AudioNode.prototype.connect
AudioContext = class extends AudioContext { constructor() { super(); contexts.push(this) } }
addEventListener('securitypolicyviolation', e => fetched.push(e.blockedURI))
AudioNode.prototype.connect = function(to, ...more) {
  if (to === this.context.destination) {
    const c = this.context, ear = c.createAnalyser(), x = new Float32Array(2048)
    ear.fftSize = 2048
    connect.call(this, ear)
    setInterval(() => { if (c.state != 'running') return; ear.getFloatTimeDomainData(x); levels.push(Math.max(...x.map(Math.abs))) }, 20)
  }
  return connect.call(this, to, ...more)
}
</script>"""
ACT = """<script>
const said = document.createElement('pre'), note = (k, v) => said.textContent += k+'='+v+';', peak = () => levels.splice(0).reduce((a, b) => Math.max(a, b), 0)
said.id = 'said'
document.body.append(said)
const later = (f, ms) => new Promise(done => setTimeout(() => { f(); done() }, ms))
later(() => at('go').click(), 100).then(async () => {
  while (now() < .5) await later(() => {}, 50)  // by the clock of the audio, which a busy machine holds up
  note('playing', peak()); note('contexts', contexts.length); note('button', at('go').textContent); at('go').click()
  await later(() => levels.length = 0, 100)
  await later(() => { note('stopped', peak()); note('again', at('go').textContent); note('fetched', fetched.length) }, 500)
  const page = parent == window ? window : parent
  page.document.title = said.textContent
})
</script></html>"""

def acted(player): return Player(player.page.replace('<style>', EARS+'<style>', 1).replace('</html>', ACT))

def heard(page, tmp_path):
    "What a page has to say of itself in Chromium: it puts that into its title, which the browser lists"
    tmp_path = Path(mkdtemp(dir=tmp_path))
    (tmp_path/'page.html').write_text(page)
    port = tmp_path/'profile/DevToolsActivePort'
    p = subprocess.Popen([*CHROMIUM, f'--user-data-dir={port.parent}', f'file://{tmp_path}/page.html'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        titles,until = [],time.time()+600
        while not any(';' in o for o in titles):
            assert time.time()<until and p.poll() is None, f'the player did nothing: {titles}'
            time.sleep(.1)
            if port.exists() and (n := port.read_text().split('\n')[0]): titles = [o['title'] for o in json.load(urlopen(f'http://127.0.0.1:{n}/json'))]
        return dict(o.split('=') for t in titles for o in t.split(';') if '=' in o)
    finally:
        p.kill()
        p.wait()

@in_browser
@pytest.mark.parametrize('frame', [False, True], ids=['page','frame'])
def test_is_heard(tmp_path, frame):
    "From a file and in a notebook's frame: it sounds, it stops, nothing is fetched, and no other sound card is opened beside"
    p = acted(tune().play())
    said = heard('<!doctype html><title>x</title>'+p._repr_html_() if frame else p.page, tmp_path)
    assert .02 < float(said['playing']) <= 2 and float(said['stopped']) == 0
    assert (said['button'], said['again'], said['fetched'], said['contexts']) == ('Stop', 'Play', '0', '1')

@in_browser
def test_ears_hear_requests_and_silence(tmp_path):
    "The check itself: a page that fetches is found out, and one that plays nothing is silent"
    loud = acted(tune().play()).page.replace('<canvas', '<img src="https://example.org/x.png"><canvas', 1)
    assert int(heard(loud, tmp_path)['fetched']) > 0
    strike = 'synth.send([0x90|p.channel, n.pitch, n.velocity]'
    page = acted(tune().play()).page
    assert page.count(strike) == 1
    mute = page.replace(strike, 'synth.send([0x80|p.channel, n.pitch, 0]')
    assert float(heard(mute, tmp_path)['playing']) == 0

def test_shipped():
    "What the player is made of comes with the package, and its licence with it"
    from importlib.resources import files
    names = {o.name for o in (files('meloformer')/'assets').iterdir()}
    assert {'player.html', 'webaudio-tinysynth.min.js', 'webaudio-tinysynth.LICENSE'} <= names

@pytest.mark.skipif(not shutil.which('fluidsynth'), reason='needs fluidsynth')
def test_fluidsynth(tmp_path):
    s = tune().audio(rate=22050)
    s.save(tmp_path/'a.wav')
    assert s.made_by.startswith('FluidSynth with ') and s.samples.shape[1] == 2
    assert 2 < s.seconds < 12 and np.abs(s.samples).max() > 500 and (soundfile.read(tmp_path/'a.wav', dtype='int16')[0]==s.samples).all()
    slow = tune(60.).audio(rate=22050)
    assert 1.5 < slow.seconds-s.seconds < 2.5
