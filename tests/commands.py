"`meloformer …` in processes of their own, forked from a server that has loaded PyTorch already: it is loaded once, not once a process"
import multiprocessing, os, resource, signal, subprocess, sys, tempfile, threading
from meloformer.apps.cli import COMMANDS

ctx = multiprocessing.get_context('forkserver')
ctx.set_forkserver_preload(['meloformer.apps.cli', *(f'meloformer.{o}' for o in COMMANDS.values())])

def _run(ends, args, env, cwd, most):
    "What the process does; `most`: bytes a file of it may have"
    os.setsid()
    for n,o in enumerate(ends, 1): os.dup2(o.fileno(), n)
    if len(ends)==1: os.dup2(1, 2)
    os.environ.clear()
    os.environ.update(env)
    tempfile.tempdir = None # as the environment says
    os.chdir(cwd)
    for o in (sys.stdout, sys.stderr): o.reconfigure(line_buffering=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if most:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    sys.argv = ['meloformer', *args]
    from meloformer.apps.cli import main
    main()

class Command:
    "A command that runs: as `subprocess.Popen`, in a session of its own"
    def __init__(self, *args, merged=False, most=None, **env):
        ends = [ctx.Pipe(False) for _ in range(2-merged)]
        self.p = ctx.Process(target=_run, args=([w for _,w in ends], list(map(str, args)), os.environ|env, os.getcwd(), most))
        self.p.start()
        for _,w in ends: w.close()
        self.stdout,self.stderr = ([open(os.dup(r.fileno())) for r,_ in ends]+[None])[:2]

    @property
    def pid(self): return self.p.pid
    @property
    def returncode(self): return self.p.exitcode
    def poll(self): return self.p.exitcode
    def kill(self): self.p.kill()
    def send_signal(self, sig): os.kill(self.pid, sig)

    def wait(self, timeout=1200):
        "Its exit status; what takes longer is killed"
        self.p.join(timeout)
        if self.returncode is not None: return self.returncode
        self.kill()
        raise subprocess.TimeoutExpired(self.pid, timeout)

    def communicate(self, timeout=1200):
        "What it says, read to the end: output and errors"
        said = ['', '']
        def read(i, f): said[i] = f.read()
        readers = [threading.Thread(target=read, args=o) for o in enumerate((self.stdout, self.stderr)) if o[1]]
        for o in readers: o.start()
        try: self.wait(timeout)
        finally:
            for o in readers: o.join()
        return said

class Running(Command):
    "A server, until it is left: as soon as it has said where it is"
    def __init__(self, name, *args, **kw): super().__init__(name, *args, '--port', 0, **kw)
    def __enter__(self):
        said = self.stdout.readline().split()
        assert said, self.communicate()
        self.url = said[-1]
        self.port = int(self.url.rpartition(':')[2])
        return self
    def __exit__(self, *_): self.kill(); self.wait()

def command(*args, **kw):
    "The same once it is over, as `subprocess.run` has it"
    p = Command(*args, **kw)
    out,err = p.communicate()
    return subprocess.CompletedProcess(args, p.returncode, out, err)
